//! Moves the memtable into the state file.
//!
//! Invariant: one commit holds all changes of the memtable and the positions they reach, so the
//! file is at all times the state at some applied position of each range.

use crate::error::{Result, StorageError};
use crate::state::codec::{
    Facts, HEAD_LEN, Position, decode_head, encode_head, history_key, lease_key, system_key,
};
use crate::state::memtable::Memtable;
use crate::state::prune;
use crate::state::rows::{Link, count_bytes, write_log};
use crate::state::tables::{APPLIED, DiskView, HEADS, HISTORY, LEASES, SYSTEM};
use crate::state::{Inner, State};
use holdfast_core::ids::RangeId;
use holdfast_core::state::Applied;
use redb::WriteTransaction;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl State {
    /// Makes everything applied so far durable; returns the positions that became so since the last
    /// call. Blocks for the time of the write; call it from a background thread.
    pub fn flush(&self) -> Result<Vec<(RangeId, Applied)>> {
        {
            let _writer = self.shared.writer.lock();
            self.check_usable()?;
            self.flush_locked()?;
        }
        Ok(std::mem::take(&mut *self.shared.news.lock()).into_iter().collect())
    }

    /// Flushes; the caller holds the writer lock.
    pub(super) fn flush_locked(&self) -> Result<()> {
        let sealed = {
            let mut inner = self.shared.inner.write();
            if inner.active.is_empty() {
                return Ok(());
            }
            let sealed = Arc::new(std::mem::take(&mut inner.active));
            inner.flushing = Some(sealed.clone());
            sealed
        };
        self.change(|transaction| write(transaction, &sealed), |inner| inner.flushing = None)?;
        self.shared.news.lock().extend(&sealed.applied);
        Ok(())
    }

    /// Runs one durable transaction, then shows readers its outcome together with what `publish`
    /// does. The caller holds the writer lock.
    pub(super) fn change<T>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
        publish: impl FnOnce(&mut Inner),
    ) -> Result<T> {
        let run = || -> Result<T, redb::Error> {
            let mut transaction = self.shared.database.begin_write()?;
            // Keeps the free-page map in the file, so that opening after a crash needs no walk.
            transaction.set_quick_repair(true);
            let outcome = write(&transaction)?;
            transaction.commit()?;
            Ok(outcome)
        };
        let result =
            run().map_err(StorageError::state::<redb::Error>("write to")).and_then(|outcome| {
                let disk = Arc::new(DiskView::open(&self.shared.database)?);
                let mut inner = self.shared.inner.write();
                inner.disk = disk;
                publish(&mut inner);
                Ok(outcome)
            });
        if result.is_err() {
            self.shared.poisoned.store(true, Ordering::Release);
        }
        result
    }
}

fn write(transaction: &WriteTransaction, sealed: &Memtable) -> Result<(), redb::Error> {
    write_changes(transaction, sealed)?;
    let mut leases = transaction.open_table(LEASES)?;
    for ((lease, key), attached) in &sealed.leases {
        let row = lease_key(*lease, key);
        if *attached {
            leases.insert(row.as_slice(), ())?;
        } else {
            leases.remove(row.as_slice())?;
        }
    }
    let mut system = transaction.open_table(SYSTEM)?;
    for ((range, key), value) in &sealed.system {
        let row = system_key(*range, key);
        match value {
            Some(value) => system.insert(row.as_slice(), value.as_ref())?,
            None => system.remove(row.as_slice())?,
        };
    }
    let mut applied = transaction.open_table(APPLIED)?;
    for (range, position) in &sealed.applied {
        applied.insert(range.0, (position.index, position.term))?;
    }
    Ok(())
}

fn write_changes(transaction: &WriteTransaction, sealed: &Memtable) -> Result<(), redb::Error> {
    let mut links = Vec::with_capacity(sealed.order.len());
    let mut new_bytes = 0;
    {
        let mut heads = transaction.open_table(HEADS)?;
        let mut history = transaction.open_table(HISTORY)?;
        for (key, chain) in &sealed.keys {
            let row = encode_head(key, &Facts::of(chain.newest()));
            let before = heads.insert(key.as_ref(), &row)?;
            if before.is_none() {
                new_bytes += (key.len() + HEAD_LEN) as i64;
            }
            let mut previous = before.map(|row| decode_head(key, row.value()).position);
            for version in chain.iter() {
                let position = Position::of(version);
                // The first version needs no mark: nothing is below it.
                if previous.is_some() && position.is_marked() {
                    history.insert(history_key(key, position).as_slice(), ())?;
                }
                links.push(Link { position, previous, key, version });
                previous = Some(position);
            }
        }
    }
    count_bytes(transaction, new_bytes)?;
    links.sort_unstable_by_key(|link| link.position);
    if let Some(oldest) = links.first() {
        prune::revisit(transaction, oldest.position)?;
    }
    write_log(transaction, &links)
}
