//! Exactly-once: what a range remembers of the requests it has carried out.
//!
//! A gateway numbers its requests and says with each which of them are settled (answered to the
//! client, never to be sent again). The range keeps `sequence -> revision` of the rest.
//! (After RIFL, Lee et al., SOSP 2015.)
//!
//! Invariants: part of the replicated state, changed only by applying commands; bounded by the
//! requests that gateways have under way, and by [`GATEWAYS_MAX`].

use crate::check::Fingerprint;
use crate::ids::{RequestId, Revision};
use crate::state::SystemRow;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Incarnations of gateways remembered. A node restart makes a new one; only a request that is
/// older than this many restarts could be carried out twice.
pub const GATEWAYS_MAX: usize = 256;

/// First byte of the system rows that hold the table. No other row of a range starts with it.
pub const ROW_PREFIX: u8 = b'Q';

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Gateway {
    settled_below: u64,
    last_revision: Revision,
    done: BTreeMap<u64, Revision>,
}

/// What is known about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not carried out here.
    New,
    /// Carried out at this revision.
    Done(Revision),
    /// So old that its gateway has already settled it: nobody waits for an answer.
    Stale,
}

/// The table of one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dedup {
    gateways: BTreeMap<u64, Gateway>,
    changed: BTreeSet<u64>,
}

impl Dedup {
    /// Reads the table from system rows.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn load<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, String> {
        let mut table = Self::default();
        for (key, value) in rows {
            if let Some(id) = key.strip_prefix(&[ROW_PREFIX]) {
                let id: [u8; 8] =
                    id.try_into().map_err(|_| "malformed dedup row key".to_owned())?;
                let gateway = postcard::from_bytes(value)
                    .map_err(|error| format!("malformed dedup row: {error}"))?;
                table.gateways.insert(u64::from_be_bytes(id), gateway);
            }
        }
        Ok(table)
    }

    /// Looks a request up.
    pub fn seen(&self, id: RequestId) -> Seen {
        let Some(gateway) = self.gateways.get(&id.gateway) else {
            return Seen::New;
        };
        if let Some(revision) = gateway.done.get(&id.sequence) {
            Seen::Done(*revision)
        } else if id.sequence < gateway.settled_below {
            Seen::Stale
        } else {
            Seen::New
        }
    }

    /// A command was applied.
    pub fn record(&mut self, id: RequestId, settled_below: u64, revision: Revision) {
        if id == RequestId::default() {
            return;
        }
        let gateway = self.gateways.entry(id.gateway).or_default();
        gateway.last_revision = revision;
        gateway.done.insert(id.sequence, revision);
        if settled_below > gateway.settled_below {
            gateway.settled_below = settled_below;
            gateway.done = gateway.done.split_off(&settled_below);
        }
        self.changed.insert(id.gateway);
        // Here and not with the rows: how many commands are applied at a time differs from replica to
        // replica, and what they remember must not.
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        while self.gateways.len() > GATEWAYS_MAX {
            let oldest = self.gateways.iter().min_by_key(|(_, gateway)| gateway.last_revision);
            let id = *oldest.expect("more than GATEWAYS_MAX of them").0;
            self.gateways.remove(&id);
            self.changed.insert(id);
        }
    }

    /// Takes in the table of a range whose keys this one takes over. What both know, they know from
    /// the range that both were cut off, or of a transaction over both, of which only matters that it
    /// is known.
    pub fn absorb(&mut self, other: &Self) {
        for (id, theirs) in &other.gateways {
            let own = self.gateways.entry(*id).or_default();
            own.settled_below = own.settled_below.max(theirs.settled_below);
            own.last_revision = own.last_revision.max(theirs.last_revision);
            for (sequence, revision) in &theirs.done {
                let known = own.done.entry(*sequence).or_default();
                *known = (*known).max(*revision);
            }
            own.done = own.done.split_off(&own.settled_below);
            self.changed.insert(*id);
        }
        self.forget_oldest();
    }

    /// A hash of the whole table.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fingerprint::default();
        hash.value(&self.gateways);
        hash.finish()
    }

    /// The rows changed since the last call.
    pub fn take_rows(&mut self, rows: &mut Vec<SystemRow>) {
        for id in std::mem::take(&mut self.changed) {
            let mut key = vec![ROW_PREFIX];
            key.extend_from_slice(&id.to_be_bytes());
            let value = self.gateways.get(&id).map(|gateway| {
                postcard::to_stdvec(gateway).expect("a table row can be encoded").into()
            });
            rows.push(SystemRow { key: Bytes::from(key), value });
        }
    }

    /// All rows, for a range that was just cut from this one.
    pub fn all_rows(&self, rows: &mut Vec<SystemRow>) {
        let mut copy = self.clone();
        copy.changed = copy.gateways.keys().copied().collect();
        copy.take_rows(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_remembered_until_settled() {
        let mut table = Dedup::default();
        let id = |sequence| RequestId { gateway: 7, sequence };
        table.record(id(1), 1, 10);
        table.record(id(2), 1, 11);
        assert_eq!(table.seen(id(1)), Seen::Done(10));
        table.record(id(3), 3, 12);
        assert_eq!(table.seen(id(1)), Seen::Stale);
        assert_eq!(table.seen(id(3)), Seen::Done(12));
        assert_eq!(table.seen(id(4)), Seen::New);
        let mut rows = Vec::new();
        table.take_rows(&mut rows);
        let loaded = Dedup::load(
            rows.iter().map(|row| (row.key.as_ref(), row.value.as_deref().expect("kept"))),
        )
        .expect("readable");
        assert_eq!(loaded.seen(id(3)), Seen::Done(12));
        assert_eq!(loaded.seen(id(2)), Seen::Stale);
    }

    /// A request that either of two ranges has carried out is known to what they become.
    #[test]
    fn a_table_takes_in_another() {
        let id = |gateway, sequence| RequestId { gateway, sequence };
        let (mut left, mut right) = (Dedup::default(), Dedup::default());
        left.record(id(7, 5), 4, 10);
        right.record(id(7, 3), 1, 9);
        right.record(id(7, 6), 1, 12);
        right.record(id(8, 1), 1, 13);
        left.take_rows(&mut Vec::new());
        left.absorb(&right);
        assert_eq!(left.seen(id(7, 5)), Seen::Done(10));
        assert_eq!(left.seen(id(7, 6)), Seen::Done(12));
        assert_eq!(left.seen(id(8, 1)), Seen::Done(13));
        assert_eq!(left.seen(id(7, 3)), Seen::Stale, "settled, as the other range has heard");
        let mut rows = Vec::new();
        left.take_rows(&mut rows);
        assert_eq!(rows.len(), 2);
    }
}
