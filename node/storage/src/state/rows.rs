//! Adds and removes versions inside a transaction of the state file.
//!
//! Invariant: `heads`, `log`, `history` and `leases` change together, so that each version that a
//! row of `heads` or `log` names is there, unless it was pruned.

use crate::state::codec::{
    Facts, HEAD_LEN, LogRow, POSITION_LEN, Position, decode_head, encode_head, history_key,
    history_start, lease_key,
};
use crate::state::tables::{HEADS, HISTORY, LEASES, LOG, META, META_LIVE_BYTES};
use bytes::Bytes;
use holdfast_core::key::Span;
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
        log.insert(&link.position.encode(), row.as_slice())?;
    }
    let mut end = log.upper_bound_mut(Bound::<&[u8; POSITION_LEN]>::Unbounded)?;
    for link in &links[older..] {
        encode(link, &mut row);
        end.insert_before(&link.position.encode(), row.as_slice())?;
    }
    end.close()?;
    drop(log);
    count_bytes(transaction, bytes)
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

/// Removes some of what is in `span`, at most about `budget` versions. True if nothing is left.
pub fn remove_span(
    transaction: &WriteTransaction,
    span: &Span,
    budget: usize,
) -> Result<bool, redb::Error> {
    let mut gone = Vec::new();
    let mut versions = Vec::new();
    let mut rest = None;
    {
        let heads = transaction.open_table(HEADS)?;
        let log = transaction.open_table(LOG)?;
        let end = span.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        if span.is_empty() {
            return Ok(true);
        }
        'keys: for row in heads.range::<&[u8]>((Bound::Included(span.start.as_ref()), end))? {
            let (key, row) = row?;
            let key = Bytes::copy_from_slice(key.value());
            let facts = decode_head(&key, row.value());
            let mut next = Some(facts.position);
            while let Some(position) = next {
                let Some(row) = log.get(&position.encode())? else { break };
                let row = LogRow::decode(position, row.value());
                if versions.len() >= budget {
                    // A long history is removed from its new end in several steps.
                    rest = Some((key, facts, row.facts));
                    break 'keys;
                }
                next = row.previous;
                versions.push((position, key.clone()));
            }
            gone.push((key, facts));
        }
    }
    remove_versions(transaction, versions)?;
    let mut heads = transaction.open_table(HEADS)?;
    let mut history = transaction.open_table(HISTORY)?;
    let mut leases = transaction.open_table(LEASES)?;
    let mut bytes = 0;
    for (key, facts) in gone {
        heads.remove(key.as_ref())?;
        bytes -= (key.len() + HEAD_LEN) as i64;
        if facts.lease != 0 {
            leases.remove(lease_key(facts.lease, &key).as_slice())?;
        }
        // Marks of pruned versions, if any are left.
        let (low, high) = (history_start(&key), history_key(&key, Position::MAX));
        history.retain_in(low.as_slice()..=high.as_slice(), |_, ()| false)?;
    }
    let done = rest.is_none();
    if let Some((key, facts, now)) = rest {
        if facts.lease != 0 {
            leases.remove(lease_key(facts.lease, &key).as_slice())?;
        }
        heads.insert(key.as_ref(), &encode_head(&key, &now))?;
    }
    drop((heads, history, leases));
    count_bytes(transaction, bytes)?;
    Ok(done)
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
