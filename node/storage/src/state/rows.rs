//! Adds and removes versions inside a transaction of the state file.
//!
//! Invariant: outside of the keys of an unfinished job, `heads`, `log`, `history` and `leases` change
//! together, so that each version that a row of `heads` or `log` names is there, unless it was
//! pruned.

use crate::state::codec::{
    Facts, HEAD_LEN, LogRow, POSITION_LEN, Position, history_key, history_start, lease_key,
};
use crate::state::tables::{HEADS, HISTORY, LEASES, LOG, META, META_LIVE_BYTES};
use bytes::Bytes;
use holdfast_core::ids::LeaseId;
use holdfast_core::state::Version;
use redb::{ReadableTable, WriteTransaction};
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

/// Writes log rows and adds them to the size in use. `links` are in order.
pub fn write_log(transaction: &WriteTransaction, links: &[Link<'_>]) -> Result<(), redb::Error> {
    let mut log = transaction.open_table(LOG)?;
    let newest = log.last()?.map(|(position, _)| Position::decode(position.value()));
    let mut row = Vec::new();
    let mut bytes = 0;
    let mut replaced = 0;
    let mut encode = |link: &Link<'_>, row: &mut Vec<u8>| {
        let Link { position: _, previous, key, version } = *link;
        let value = version.value.as_deref().unwrap_or_default();
        row.clear();
        LogRow { facts: Facts::of(version), previous, key, value }.encode(row);
        bytes += (row.len() + POSITION_LEN) as i64;
    };
    // Ranges that lag behind others bring a few changes older than some that are written; all
    // others go to the end of the table, which is much cheaper.
    let older = links.partition_point(|link| Some(link.position) <= newest);
    for link in &links[..older] {
        encode(link, &mut row);
        // One is there already if an interrupted install is done again.
        if let Some(row) = log.insert(&link.position.encode(), row.as_slice())? {
            replaced += (row.value().len() + POSITION_LEN) as i64;
        }
    }
    let mut end = log.upper_bound_mut(Bound::<&[u8; POSITION_LEN]>::Unbounded)?;
    for link in &links[older..] {
        encode(link, &mut row);
        end.insert_before(&link.position.encode(), row.as_slice())?;
    }
    end.close()?;
    drop(log);
    count_bytes(transaction, bytes - replaced)
}

/// Removes versions and their history marks; adjusts the size in use.
pub fn remove_versions(
    transaction: &WriteTransaction,
    mut versions: Vec<(Position, Bytes)>,
) -> Result<(), redb::Error> {
    // In order, since neighbours share pages.
    versions.sort_unstable_by_key(|(position, _)| *position);
    let mut log = transaction.open_table(LOG)?;
    let mut history = transaction.open_table(HISTORY)?;
    let mut bytes = 0;
    for (position, key) in versions {
        if let Some(row) = log.remove(&position.encode())? {
            bytes -= (row.value().len() + POSITION_LEN) as i64;
        }
        if position.is_marked() {
            history.remove(history_key(&key, position).as_slice())?;
        }
    }
    drop((log, history));
    count_bytes(transaction, bytes)
}

/// Removes log rows alone. `positions` are in order.
pub fn remove_log(
    transaction: &WriteTransaction,
    positions: &[Position],
) -> Result<(), redb::Error> {
    let mut log = transaction.open_table(LOG)?;
    let mut bytes = 0;
    for position in positions {
        if let Some(row) = log.remove(&position.encode())? {
            bytes -= (row.value().len() + POSITION_LEN) as i64;
        }
    }
    drop(log);
    count_bytes(transaction, bytes)
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
