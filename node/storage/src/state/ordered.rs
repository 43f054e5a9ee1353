//! What a commit writes, in the order of the file.
//!
//! redb writes the pages of a commit one by one, in an order that is as good as random: a system
//! call for each, and work for the file system that large writes in order do not make. What is
//! written is kept here until it is to be durable, sorted, and neighbours are written together.
//!
//! Invariants: what was written is what is read; before a sync begins, all that was written before
//! is in the file; no more than [`KEPT_BYTES`] and one write are kept; what could not be written
//! is kept, and the caller is told.

use parking_lot::{Mutex, MutexGuard};
use redb::{BackendError, StorageBackend};
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are kept before they are written although nobody asked for a sync.
const KEPT_BYTES: usize = 16 << 20;

/// Bytes that are written together, unless one page alone is larger.
const RUN_BYTES: usize = 256 << 10;

/// Writes in order to `below`.
#[derive(Debug)]
pub(super) struct Ordered<B> {
    below: B,
    kept: Mutex<Kept>,
    /// Of `kept`, so that reads need no lock while nothing is kept.
    bytes: AtomicUsize,
}

/// By offset; no two overlap.
#[derive(Debug, Default)]
struct Kept {
    writes: BTreeMap<u64, Box<[u8]>>,
    run: Vec<u8>,
}

impl Kept {
    /// True if something of it lies between two offsets.
    fn overlaps(&self, from: u64, to: u64) -> bool {
        let last = self.writes.range(..to).next_back();
        last.is_some_and(|(offset, data)| offset + data.len() as u64 > from)
    }

    /// Copies what lies next to each other at the front. The offset of the first, and how many.
    fn first_run(&mut self) -> Option<(u64, usize)> {
        let (first, _) = self.writes.first_key_value()?;
        self.run.clear();
        let mut count = 0;
        for (offset, data) in &self.writes {
            let next = first + self.run.len() as u64;
            if *offset != next || (count > 0 && self.run.len() + data.len() > RUN_BYTES) {
                break;
            }
            self.run.extend_from_slice(data);
            count += 1;
        }
        Some((*first, count))
    }
}

impl<B: StorageBackend> Ordered<B> {
    pub(super) fn new(below: B) -> Self {
        Self { below, kept: Mutex::default(), bytes: AtomicUsize::new(0) }
    }

    /// Writes all that is kept. Readers get their turn between two runs.
    fn write_out(&self, kept: &mut MutexGuard<'_, Kept>) -> io::Result<()> {
        while let Some((offset, count)) = kept.first_run() {
            self.below.write(offset, &kept.run)?;
            for _ in 0..count {
                kept.writes.pop_first();
            }
            self.bytes.fetch_sub(kept.run.len(), Ordering::Release);
            MutexGuard::bump(kept);
        }
        kept.run = Vec::new();
        Ok(())
    }

    fn write_all(&self) -> io::Result<()> {
        self.write_out(&mut self.kept.lock())
    }
}

impl<B: StorageBackend> StorageBackend for Ordered<B> {
    fn len(&self) -> io::Result<u64> {
        self.below.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.bytes.load(Ordering::Acquire) > 0 {
            let mut kept = self.kept.lock();
            if kept.overlaps(offset, offset + out.len() as u64) {
                self.write_out(&mut kept)?;
            }
        }
        self.below.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // What is cut off must not come back.
        self.write_all()?;
        self.below.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.write_all()?;
        self.below.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut kept = self.kept.lock();
        let same = kept.writes.get(&offset).is_some_and(|before| before.len() == data.len());
        if !same && kept.overlaps(offset, offset + data.len() as u64) {
            // A page that is none any more, and what is in its place now: the order counts.
            self.write_out(&mut kept)?;
        }
        if kept.writes.insert(offset, data.into()).is_none() {
            self.bytes.fetch_add(data.len(), Ordering::Release);
        }
        if self.bytes.load(Ordering::Relaxed) > KEPT_BYTES {
            self.write_out(&mut kept)?;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        let written = self.write_all();
        written.and(self.below.close())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.below.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests;
