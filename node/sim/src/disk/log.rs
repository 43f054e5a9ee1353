//! The raft log of a simulated node.
//!
//! ```text
//! persist() -> queue --written--> readable --synced--> durable
//! ```
//!
//! Invariants: writes become readable in the order in which they were asked for; one write is
//! there whole or not at all; a crash keeps what is durable and a prefix of what is not; a log
//! never has a gap.

use holdfast_core::effects::{LogReads, LogWrite, Persist, ReplicaBoot};
use holdfast_core::ids::{Index, RangeId, ReplicaId, Term};
use holdfast_core::state::Applied;
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// The log of one range.
#[derive(Clone, Debug, Default)]
pub struct RangeLog {
    /// Entries by index.
    pub entries: BTreeMap<Index, Entry>,
    /// Term and vote.
    pub hard_state: HardState,
    /// The position below which the log was cut.
    pub truncated: Applied,
    /// This node's replicas up to this one were removed.
    pub removed: ReplicaId,
}

impl RangeLog {
    /// The last index.
    pub fn last_index(&self) -> Index {
        self.entries.last_key_value().map_or(self.truncated.index, |(index, _)| *index)
    }

    /// True if the entry at this position is (or was, before it was cut) in the log.
    pub fn holds(&self, index: Index, term: Term) -> bool {
        index <= self.truncated.index
            || self.entries.get(&index).is_some_and(|entry| entry.term == term)
    }
}

/// Logs of all ranges at one moment.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    ranges: BTreeMap<RangeId, RangeLog>,
}

impl Logs {
    /// One range's log.
    pub fn range(&self, range: RangeId) -> Option<&RangeLog> {
        self.ranges.get(&range)
    }

    fn write(&mut self, write: &LogWrite) {
        let LogWrite { range, entries, hard_state, truncate, destroy, removed } = write;
        if *destroy {
            let kept = self.ranges.remove(range).map(|log| log.removed).unwrap_or_default();
            self.ranges.entry(*range).or_default().removed = kept;
        }
        let log = self.ranges.entry(*range).or_default();
        log.removed = log.removed.max(removed.unwrap_or_default());
        if let Some(cut) = truncate {
            log.entries = log.entries.split_off(&(cut.index + 1));
            log.truncated = *cut;
        }
        let entries = entries.iter().filter(|entry| entry.index > log.truncated.index);
        for (place, entry) in entries.enumerate() {
            if place == 0 {
                log.entries.split_off(&entry.index);
            }
            assert_eq!(
                entry.index,
                log.last_index() + 1,
                "a write would leave a gap in the log of {range}"
            );
            log.entries.insert(entry.index, entry.clone());
        }
        if let Some(hard_state) = hard_state {
            log.hard_state = hard_state.clone();
        }
    }
}

#[derive(Debug, Default)]
struct Files {
    queue: VecDeque<Persist>,
    readable: Logs,
    durable: Logs,
    /// Readable, not durable.
    unsynced: Vec<Persist>,
    /// A sabotage: says "durable" a few writes too early.
    lies: bool,
}

/// How many writes a disk that lies keeps from being durable.
const LIES: usize = 3;

/// See the module. Clones share the disk.
#[derive(Clone, Debug, Default)]
pub struct LogDisk(Arc<Mutex<Files>>);

impl LogDisk {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().expect("nothing panics while it holds the disk")
    }

    /// A write is asked for.
    pub fn persist(&self, persist: Persist) {
        self.files().queue.push_back(persist);
    }

    /// The oldest write asked for is carried out; gives its number.
    pub fn carry_out(&self) -> Option<u64> {
        let files = &mut *self.files();
        let persist = files.queue.pop_front()?;
        for write in &persist.writes {
            files.readable.write(write);
        }
        let (sequence, sync) = (persist.sequence, persist.sync);
        files.unsynced.push(persist);
        if sync {
            let kept = if files.lies { LIES.min(files.unsynced.len()) } else { 0 };
            let synced = files.unsynced.len() - kept;
            for persist in files.unsynced.drain(..synced) {
                for write in &persist.writes {
                    files.durable.write(write);
                }
            }
        }
        Some(sequence)
    }

    /// From now on, says "durable" too early.
    pub fn lie(&self) {
        self.files().lies = true;
    }

    /// The power goes: of what is not durable, only the first `keep` writes survive.
    pub fn crash(&self, keep: usize) {
        let files = &mut *self.files();
        let lost = std::mem::take(&mut files.unsynced).into_iter().chain(files.queue.drain(..));
        for persist in lost.take(keep) {
            for write in &persist.writes {
                files.durable.write(write);
            }
        }
        files.readable = files.durable.clone();
    }

    /// How many writes a crash could lose now.
    pub fn at_risk(&self) -> usize {
        let files = self.files();
        files.queue.len() + files.unsynced.len()
    }

    /// Looks at what would survive a crash.
    pub fn durable<R>(&self, look: impl FnOnce(&Logs) -> R) -> R {
        look(&self.files().durable)
    }

    /// What a starting node finds; the applied positions come from the state.
    pub fn boots(&self) -> Vec<ReplicaBoot> {
        let files = self.files();
        files
            .readable
            .ranges
            .iter()
            .map(|(range, log)| ReplicaBoot {
                range: *range,
                hard_state: log.hard_state.clone(),
                truncated: log.truncated,
                last_index: log.last_index(),
                applied: Applied::default(),
                removed: log.removed,
            })
            .collect()
    }
}

impl LogReads for LogDisk {
    fn entries(&self, range: RangeId, low: Index, high: Index, max_bytes: u64) -> Vec<Entry> {
        let files = self.files();
        let log = files.readable.range(range);
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            let entry = log.and_then(|log| log.entries.get(&index)).cloned();
            let Some(entry) = entry else {
                drop(files);
                panic!("entry {index} of {range} is not in the log");
            };
            bytes += u64::from(entry.compute_size());
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(sequence: u64, sync: bool, index: Index) -> Persist {
        let entry = Entry { index, term: 1, ..Entry::default() };
        let write = LogWrite { range: RangeId(2), entries: vec![entry], ..LogWrite::default() };
        Persist { sequence, sync, writes: vec![write] }
    }

    #[test]
    fn a_crash_keeps_a_prefix() {
        let disk = LogDisk::default();
        disk.persist(append(1, true, 1));
        disk.carry_out();
        disk.persist(append(2, false, 2));
        disk.carry_out();
        disk.persist(append(3, true, 3));
        assert_eq!(disk.at_risk(), 2);
        disk.crash(1);
        assert_eq!(disk.boots()[0].last_index, 2);
        assert_eq!(disk.entries(RangeId(2), 1, 3, u64::MAX).len(), 2);
    }
}
