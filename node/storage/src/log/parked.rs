//! Ranges without entries in the log, each as one row of the log's own group.
//!
//! ```text
//! with entries:   group of the range (entries, hard state, cut)      own group: an empty row, or none
//! parked:         no group                                           own group: hard state and cut
//! ```
//!
//! The engine keeps kilobytes of memory for a group, whether there is anything in it or not, and of
//! thousands of ranges nearly all have nothing: a range at rest needs none of its log.
//!
//! Invariants: a range is parked exactly if its row is there and not empty, and then nothing else in
//! the log says anything of it. A row is emptied and never deleted: the engine may bring back what
//! was deleted, as the deletion of a row does not outlive the file that it is in; that of a group does.

use super::{HARD_STATE_KEY, OWN_GROUP, TRUNCATED_KEY};
use crate::error::{Result, StorageError};
use holdfast_core::effects::LogWrite;
use holdfast_core::ids::RangeId;
use holdfast_core::state::Applied;
use raft::eraftpb::HardState;
use raft_engine::env::FileSystem;
use raft_engine::{Command, Engine, LogBatch};
use std::collections::BTreeMap;

/// Own rows: parked ranges, by number.
const PARKED_KEY: &[u8; 7] = b"parked/";
/// Above all [`PARKED_KEY`]s.
const PARKED_END: &[u8] = b"parked0";

/// All there is to know of a range without entries.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parked {
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The end of its log, which was cut there.
    pub truncated: Applied,
}

/// Where the log of a range is, in the middle of a write.
enum Place {
    Parked(Parked),
    /// It has a group, or nothing.
    Group,
    /// It has a group that this write has changed.
    Changed,
}

/// The places of the ranges that one write changes.
pub(super) struct Places<'a, F: FileSystem> {
    engine: &'a Engine<F>,
    known: BTreeMap<RangeId, Place>,
}

impl Parked {
    pub(super) fn encode(&self) -> Vec<u8> {
        let HardState { term, vote, commit, .. } = self.hard_state;
        let Applied { index, term: cut_term } = self.truncated;
        let mut row = postcard::to_allocvec(&(index, cut_term, term, vote, commit))
            .expect("numbers can be encoded");
        // It stays in memory.
        row.shrink_to_fit();
        row
    }

    fn decode(range: RangeId, row: &[u8]) -> Result<Option<Self>> {
        if row.is_empty() {
            return Ok(None);
        }
        let (index, cut_term, term, vote, commit) =
            postcard::from_bytes(row).map_err(|error| StorageError::Corrupt {
                what: format!("the log's row of range {range}"),
                detail: error.to_string(),
            })?;
        Ok(Some(Self {
            hard_state: HardState { term, vote, commit, ..HardState::default() },
            truncated: Applied { index, term: cut_term },
        }))
    }

    /// What is known of a range, if it is parked.
    pub(super) fn of<F: FileSystem>(engine: &Engine<F>, range: RangeId) -> Result<Option<Self>> {
        let row = engine.get(OWN_GROUP, &key(range));
        row.map_or(Ok(None), |row| Self::decode(range, &row))
    }

    /// All parked ranges.
    pub(super) fn all<F: FileSystem>(engine: &Engine<F>) -> Result<Vec<RangeId>> {
        let mut ranges = Vec::new();
        engine
            .scan_raw_messages(OWN_GROUP, Some(PARKED_KEY), Some(PARKED_END), false, |key, row| {
                let range = key.strip_prefix(PARKED_KEY).and_then(|id| id.try_into().ok());
                ranges.extend(
                    range.filter(|_| !row.is_empty()).map(|id| RangeId(u64::from_be_bytes(id))),
                );
                true
            })
            .map_err(StorageError::log("read"))?;
        Ok(ranges)
    }
}

impl<'a, F: FileSystem> Places<'a, F> {
    /// For one write.
    pub(super) fn new(engine: &'a Engine<F>) -> Self {
        Self { engine, known: BTreeMap::new() }
    }

    fn take(&mut self, range: RangeId) -> Result<Place> {
        if let Some(place) = self.known.remove(&range) {
            return Ok(place);
        }
        Ok(match Parked::of(self.engine, range)? {
            Some(parked) => Place::Parked(parked),
            None => Place::Group,
        })
    }

    /// Does the whole of a change, if the range has no entries after it. False: it has some, and
    /// the change is yet to be made, to a range that has a group of its own now.
    pub(super) fn park(&mut self, batch: &mut LogBatch, write: &LogWrite) -> Result<bool> {
        let LogWrite { range, entries, hard_state, truncate, destroy, removed: _ } = write;
        let range = *range;
        let cut = truncate.filter(|cut| cut.index > 0);
        let place = self.take(range)?;
        let left = entries.iter().any(|entry| cut.is_none_or(|cut| entry.index > cut.index));
        let end = match &place {
            _ if left => None,
            _ if *destroy => cut,
            Place::Parked(parked) => cut.or(Some(parked.truncated)),
            Place::Group => {
                let last = |cut: &Applied| self.engine.last_index(range.0).unwrap_or(cut.index);
                cut.filter(|cut| last(cut) <= cut.index)
            }
            // What it has is only known when this write is done.
            Place::Changed => None,
        };
        if let Some(truncated) = end {
            let hard_state = match (hard_state, &place) {
                (Some(new), _) => new.clone(),
                (None, _) if *destroy => HardState::default(),
                (None, Place::Parked(parked)) => parked.hard_state.clone(),
                (None, Place::Group | Place::Changed) => {
                    let known = self.engine.get_message(range.0, HARD_STATE_KEY);
                    known.map_err(StorageError::log("read"))?.unwrap_or_default()
                }
            };
            let parked = Parked { hard_state, truncated };
            if !matches!(place, Place::Parked(_)) {
                batch.add_command(range.0, Command::Clean);
            }
            put(batch, OWN_GROUP, &key(range), parked.encode())?;
            self.known.insert(range, Place::Parked(parked));
            return Ok(true);
        }
        if let Place::Parked(parked) = place {
            put(batch, OWN_GROUP, &key(range), Vec::new())?;
            if !*destroy {
                let row = super::encode_cut(parked.truncated);
                put(batch, range.0, TRUNCATED_KEY, row)?;
                batch
                    .put_message(range.0, HARD_STATE_KEY.to_vec(), &parked.hard_state)
                    .map_err(StorageError::log("encode a write to"))?;
            }
        }
        self.known.insert(range, Place::Changed);
        Ok(false)
    }
}

fn key(range: RangeId) -> [u8; PARKED_KEY.len() + 8] {
    let mut key = [0; PARKED_KEY.len() + 8];
    key[..PARKED_KEY.len()].copy_from_slice(PARKED_KEY);
    key[PARKED_KEY.len()..].copy_from_slice(&range.0.to_be_bytes());
    key
}

fn put(batch: &mut LogBatch, group: u64, key: &[u8], row: Vec<u8>) -> Result<()> {
    batch.put(group, key.to_vec(), row).map_err(StorageError::log("encode a write to"))
}
