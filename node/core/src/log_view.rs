//! The raft log of one replica as the raft library reads it: a cache of the newest entries in
//! front of the log on disk.
//!
//! Invariant: every entry above the persisted index is in the cache; what the cache does not hold
//! can be read from disk.

use crate::effects::LogReads;
use crate::ids::{Index, RangeId, Term};
use crate::state::Applied;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of entries kept in memory for a range, once they are persisted. A follower that is
/// further behind is served from disk.
const CACHE_BYTES_MAX: usize = 4 << 20;

/// See the module.
pub struct LogView {
    range: RangeId,
    reader: Arc<dyn LogReads>,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    truncated: Applied,
    last_index: Index,
    /// Index and term of an entry, the last one when this was set, that need not be looked up; 0: none.
    end: Applied,
    hard_state: HardState,
    conf_state: Arc<ConfState>,
    /// A pinned raft snapshot, handed out when the raft library asks.
    snapshot: Option<Snapshot>,
    /// Replicas that the raft library wanted a snapshot for, and there was none.
    wanted: RefCell<Vec<u64>>,
}

impl LogView {
    /// A view of what was found on disk.
    pub fn new(
        range: RangeId,
        reader: Arc<dyn LogReads>,
        truncated: Applied,
        last_index: Index,
        hard_state: HardState,
        conf_state: impl Into<Arc<ConfState>>,
    ) -> Self {
        Self {
            range,
            reader,
            cache: VecDeque::new(),
            cache_bytes: 0,
            truncated,
            last_index: last_index.max(truncated.index),
            end: Applied::default(),
            hard_state,
            conf_state: conf_state.into(),
            snapshot: None,
            wanted: RefCell::new(Vec::new()),
        }
    }

    /// What is known of the last entry.
    pub fn set_end(&mut self, end: Applied) {
        self.end = end;
    }

    /// New entries, replacing whatever had their index or a later one.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        while self.cache.back().is_some_and(|entry| entry.index >= first.index) {
            let entry = self.cache.pop_back().expect("checked above");
            self.cache_bytes -= entry.data.len();
        }
        if self.cache.back().is_some_and(|entry| entry.index + 1 != first.index) {
            self.cache.clear();
            self.cache_bytes = 0;
        }
        if first.index <= self.end.index {
            self.end = Applied::default();
        }
        for entry in entries {
            self.cache_bytes += entry.data.len();
            self.cache.push_back(entry.clone());
        }
        self.last_index = entries.last().expect("not empty").index;
    }

    /// Drops cached entries that are safe on disk (`persisted`), oldest first, above the bound.
    pub fn shrink(&mut self, persisted: Index) {
        while self.cache_bytes > CACHE_BYTES_MAX
            && self.cache.front().is_some_and(|entry| entry.index <= persisted)
        {
            let entry = self.cache.pop_front().expect("checked above");
            self.cache_bytes -= entry.data.len();
        }
    }

    /// Drops what is safe on disk (`persisted`) but the last entry, whose term is asked for first
    /// when there is work again.
    pub fn rest(&mut self, persisted: Index) {
        while self.cache.len() > 1
            && self.cache.front().is_some_and(|entry| entry.index <= persisted)
        {
            let entry = self.cache.pop_front().expect("checked above");
            self.cache_bytes -= entry.data.len();
        }
        self.cache.shrink_to_fit();
    }

    /// The log below was cut.
    pub fn truncate(&mut self, to: Applied) {
        self.truncated = to;
        self.last_index = self.last_index.max(to.index);
        while self.cache.front().is_some_and(|entry| entry.index <= to.index) {
            let entry = self.cache.pop_front().expect("checked above");
            self.cache_bytes -= entry.data.len();
        }
    }

    /// A raft snapshot replaced everything.
    pub fn reset_to(&mut self, position: Applied, conf_state: ConfState) {
        self.cache.clear();
        self.cache_bytes = 0;
        self.truncated = position;
        self.last_index = position.index;
        self.end = Applied::default();
        self.conf_state = conf_state.into();
    }

    /// The position below which the log was cut.
    pub fn truncated(&self) -> Applied {
        self.truncated
    }

    /// The index of the last entry.
    pub fn last(&self) -> Index {
        self.last_index
    }

    /// The term at an index, if the log still knows it.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.term(index).ok()
    }

    /// Remembers term and vote.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Remembers the members.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state.into();
    }

    /// The members.
    pub fn conf_state(&self) -> &Arc<ConfState> {
        &self.conf_state
    }

    /// Offers a pinned snapshot (or takes it back).
    pub fn set_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.snapshot = snapshot;
    }

    /// True if a snapshot is offered or wanted.
    pub fn has_snapshots(&self) -> bool {
        self.snapshot.is_some() || !self.wanted.borrow().is_empty()
    }

    /// Replicas that want a snapshot since the last call.
    pub fn take_wanted(&self) -> Vec<u64> {
        std::mem::take(&mut self.wanted.borrow_mut())
    }
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state = ConfState::clone(&self.conf_state);
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if low >= high {
            return Ok(Vec::new());
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        match self.cache.front() {
            Some(front) if low >= front.index => {
                let mut bytes = 0;
                let start = (low - front.index) as usize;
                let end = (high - front.index) as usize;
                let mut found = Vec::new();
                for entry in self.cache.range(start..end.min(self.cache.len())) {
                    bytes += u64::from(entry.compute_size());
                    if bytes > max_bytes && !found.is_empty() {
                        break;
                    }
                    found.push(entry.clone());
                }
                Ok(found)
            }
            front => {
                let high = front.map_or(high, |front| high.min(front.index));
                Ok(self.reader.entries(self.range, low, high, max_bytes))
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        if index < self.truncated.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last_index {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        if index == self.end.index {
            return Ok(self.end.term);
        }
        match self.cache.front() {
            Some(front) if index >= front.index => {
                Ok(self.cache[(index - front.index) as usize].term)
            }
            _ => {
                let found = self.reader.entries(self.range, index, index + 1, u64::MAX);
                found
                    .first()
                    .map(|entry| entry.term)
                    .ok_or(raft::Error::Store(StorageError::Unavailable))
            }
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        match &self.snapshot {
            Some(snapshot) if snapshot.get_metadata().index >= request_index => {
                Ok(snapshot.clone())
            }
            _ => {
                let mut wanted = self.wanted.borrow_mut();
                // What is asked for may have to be written first.
                if !wanted.contains(&to) && request_index <= self.last_index {
                    wanted.push(to);
                }
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
