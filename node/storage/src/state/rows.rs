//! Adds and removes versions inside a transaction of the state file.
//!
//! Invariants: outside of the keys of an unfinished job, `heads`, `log`, `history` and `leases` change
//! together, so that each version that a row of `heads` or `log` names is there, unless it was
//! pruned. `log` and `parts` always change together.

use crate::state::codec::{
    Facts, HEAD_LEN, LogRow, POSITION_LEN, Position, history_key, history_start, lease_key,
};
use crate::state::parts::{PART_KEY_LEN, Parts, cut, encode_part, part_key};
use crate::state::tables::{HEADS, HISTORY, LEASES, LOG, META, META_LIVE_BYTES, PARTS};
use bytes::Bytes;
use holdfast_core::ids::LeaseId;
use holdfast_core::state::Version;
use redb::{ReadableTable, Table, WriteTransaction};
use std::ops::Bound;

/// A version on its way to the `log` table.
pub struct Link<'a> {
    /// Where it goes.
    pub position: Position,
    /// The key's version before.
    pub previous: Option<Position>,
    /// The key.
    pub key: &'a Bytes,
    /// The version.
    pub version: &'a Version,
}

/// Writes log rows and their parts, and adds them to the size in use. `links` are in order.
pub fn write_log(transaction: &WriteTransaction, links: &[Link<'_>]) -> Result<(), redb::Error> {
    let mut log = transaction.open_table(LOG)?;
    let mut parts = transaction.open_table(PARTS)?;
    let newest = log.last()?.map(|(position, _)| Position::decode(position.value()));
    let mut row = Vec::new();
    let mut bytes = 0;
    // Ranges that lag behind others bring a few changes older than some that are written; all
    // others go to the end of the tables, which is much cheaper.
    let older = links.partition_point(|link| Some(link.position) <= newest);
    for link in &links[..older] {
        let lengths = encode(link, &mut row);
        bytes += (row.len() + POSITION_LEN) as i64;
        // One is there already if an interrupted install is done again, and it may be cut otherwise.
        if let Some(old) = log.insert(&link.position.encode(), row.as_slice())? {
            bytes -= remove_parts(link.position, old.value(), &mut parts)?;
        }
        each_part(link, &lengths, &mut row, |key, row| {
            bytes += (row.len() + PART_KEY_LEN) as i64;
            parts.insert(key, row)?;
            Ok(())
        })?;
    }
    let mut end = log.upper_bound_mut(Bound::<&[u8; POSITION_LEN]>::Unbounded)?;
    let mut parts_end = parts.upper_bound_mut(Bound::<&[u8; PART_KEY_LEN]>::Unbounded)?;
    for link in &links[older..] {
        let lengths = encode(link, &mut row);
        bytes += (row.len() + POSITION_LEN) as i64;
        end.insert_before(&link.position.encode(), row.as_slice())?;
        each_part(link, &lengths, &mut row, |key, row| {
            bytes += (row.len() + PART_KEY_LEN) as i64;
            parts_end.insert_before(key, row)?;
            Ok(())
        })?;
    }
    end.close()?;
    parts_end.close()?;
    drop((log, parts));
    count_bytes(transaction, bytes)
}

/// Replaces `row` by the log row of a version; returns the lengths of the parts of its value.
fn encode(link: &Link<'_>, row: &mut Vec<u8>) -> Vec<usize> {
    let Link { position: _, previous, key, version } = *link;
    let (value, parts) = (version.value.as_deref().unwrap_or_default(), Parts::default());
    let mut log_row = LogRow { facts: Facts::of(version), previous, parts, key, value };
    let lengths = cut(log_row.head_len(), value.len());
    log_row.parts = Parts::of(&lengths);
    log_row.value = &value[log_row.parts.bytes as usize..];
    row.clear();
    log_row.encode(row);
    lengths
}

/// Hands the rows of the parts of a version to `write`, in order.
fn each_part(
    link: &Link<'_>,
    lengths: &[usize],
    row: &mut Vec<u8>,
    mut write: impl FnMut(&[u8; PART_KEY_LEN], &[u8]) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let mut value = link.version.value.as_deref().unwrap_or_default();
    for (number, length) in (0..).zip(lengths) {
        let (part, rest) = value.split_at(*length);
        value = rest;
        let key = part_key(link.position, number);
        encode_part(&key, part, row);
        write(&key, row)?;
    }
    Ok(())
}

/// Removes versions and their history marks; adjusts the size in use.
pub fn remove_versions(
    transaction: &WriteTransaction,
    mut versions: Vec<(Position, Bytes)>,
) -> Result<(), redb::Error> {
    // In order, since neighbours share pages.
    versions.sort_unstable_by_key(|(position, _)| *position);
    let mut log = transaction.open_table(LOG)?;
    let mut parts = transaction.open_table(PARTS)?;
    let mut history = transaction.open_table(HISTORY)?;
    let mut bytes = 0;
    for (position, key) in versions {
        bytes -= remove_row(&mut log, &mut parts, position)?;
        if position.is_marked() {
            history.remove(history_key(&key, position).as_slice())?;
        }
    }
    drop((log, parts, history));
    count_bytes(transaction, bytes)
}

/// Removes log rows with their parts, and nothing else. `positions` are in order.
pub fn remove_log(
    transaction: &WriteTransaction,
    positions: &[Position],
) -> Result<(), redb::Error> {
    let mut log = transaction.open_table(LOG)?;
    let mut parts = transaction.open_table(PARTS)?;
    let mut bytes = 0;
    for position in positions {
        bytes -= remove_row(&mut log, &mut parts, *position)?;
    }
    drop((log, parts));
    count_bytes(transaction, bytes)
}

/// Removes a row of the log, if it is there, and its parts; returns their size.
fn remove_row(
    log: &mut Table<'_, &[u8; POSITION_LEN], &[u8]>,
    parts: &mut Table<'_, &[u8; PART_KEY_LEN], &[u8]>,
    position: Position,
) -> Result<i64, redb::Error> {
    match log.remove(&position.encode())? {
        Some(row) => remove_parts(position, row.value(), parts),
        None => Ok(0),
    }
}

/// Removes the parts of a row of the log that is gone; returns the size of all of them.
fn remove_parts(
    position: Position,
    row: &[u8],
    parts: &mut Table<'_, &[u8; PART_KEY_LEN], &[u8]>,
) -> Result<i64, redb::Error> {
    let mut bytes = row.len() + POSITION_LEN;
    for number in 0..LogRow::parts_of(position, row).count {
        let part = parts.remove(&part_key(position, number))?.unwrap_or_else(|| {
            panic!(
                "the state file is corrupt: part {number} of the value at revision {} ({}) is missing",
                position.revision, position.sub
            )
        });
        bytes += part.value().len() + PART_KEY_LEN;
    }
    Ok(bytes as i64)
}

/// Removes the keys from `from` on and before `to` from all tables but the log. `leases` are the
/// attachments among them.
pub fn remove_keys(
    transaction: &WriteTransaction,
    from: &[u8],
    to: Option<&[u8]>,
    leases: &[(LeaseId, Bytes)],
) -> Result<(), redb::Error> {
    let mut heads = transaction.open_table(HEADS)?;
    let mut bytes = 0;
    let remove = |key: &[u8], _: &[u8; HEAD_LEN]| {
        bytes -= (key.len() + HEAD_LEN) as i64;
        false
    };
    let end = to.map_or(Bound::Unbounded, Bound::Excluded);
    heads.retain_in::<&[u8], _>((Bound::Included(from), end), remove)?;
    let mut history = transaction.open_table(HISTORY)?;
    let (from, to) = (history_start(from), to.map(history_start));
    let end = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    history.retain_in::<&[u8], _>((Bound::Included(from.as_slice()), end), |_, ()| false)?;
    let mut table = transaction.open_table(LEASES)?;
    for (lease, key) in leases {
        table.remove(lease_key(*lease, key).as_slice())?;
    }
    drop((heads, history, table));
    count_bytes(transaction, bytes)
}

/// Adds to the size in use.
pub fn count_bytes(transaction: &WriteTransaction, change: i64) -> Result<(), redb::Error> {
    if change != 0 {
        let mut meta = transaction.open_table(META)?;
        let before = meta.get(META_LIVE_BYTES)?.map_or(0, |row| row.value());
        meta.insert(META_LIVE_BYTES, before.saturating_add_signed(change))?;
    }
    Ok(())
}
