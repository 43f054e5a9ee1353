//! Decisions on transactions over several ranges, as the meta range's log makes them.
//!
//! Invariants: the first decision on a transaction is the last one; a decision that a transaction
//! happens stays until every range of it has carried it out; one that it does not stays until its
//! gateway has settled it, and what is settled is refused (I19 of docs/protocol.md). Bounded by what
//! gateways have under way, and by [`GATEWAYS_MAX`] runs of gateways with transactions that were
//! ended by others.

use crate::command::{Change, Decision};
use crate::dedup::GATEWAYS_MAX;
use crate::ids::{RangeId, RequestId, Revision};
use crate::message::Verdict;
use crate::state::SystemRow;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// First byte of the rows with transactions that happened.
const COMMITTED_ROW: u8 = b'T';
/// First byte of the rows with those that did not, by gateway.
const ABORTED_ROW: u8 = b'X';

/// A transaction that happened and that may not be carried out everywhere yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// When, in the order of everything.
    pub revision: Revision,
    /// What it changes in each range, with placeholders for the revision.
    pub parts: Vec<(RangeId, Change)>,
}

impl Committed {
    /// The decision, as one of its ranges has to carry it out.
    pub fn part(&self, range: RangeId) -> Decision {
        let change = self.parts.iter().find(|(part, _)| *part == range);
        let nothing = Change::Keys(Vec::new());
        Decision::committed(self.revision, change.map_or(&nothing, |(_, change)| change))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Gateway {
    settled_below: u64,
    aborted: BTreeSet<u64>,
    /// Counts the changes of all of these; the least is forgotten first.
    touched: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transactions {
    committed: BTreeMap<RequestId, Committed>,
    gateways: BTreeMap<u64, Gateway>,
}

impl Transactions {
    /// Takes a row of the meta range, if it is one of these.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let malformed = || "malformed transaction row".to_owned();
        let number = |at: usize| -> Result<u64, String> {
            let bytes = key.get(at..at + 8).ok_or_else(malformed)?;
            Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| malformed())?))
        };
        match key.first() {
            Some(&COMMITTED_ROW) => {
                let txn = RequestId { gateway: number(1)?, sequence: number(9)? };
                let record = postcard::from_bytes(value).map_err(|_| malformed())?;
                self.committed.insert(txn, record);
            }
            Some(&ABORTED_ROW) => {
                let record = postcard::from_bytes(value).map_err(|_| malformed())?;
                self.gateways.insert(number(1)?, record);
            }
            _ => {}
        }
        Ok(())
    }

    /// Those that happened and may not be carried out everywhere.
    pub fn committed(&self) -> &BTreeMap<RequestId, Committed> {
        &self.committed
    }

    /// What is decided on a transaction, if anything is.
    pub fn decided(&self, txn: RequestId) -> Option<Verdict> {
        if let Some(record) = self.committed.get(&txn) {
            return Some(Verdict::Committed(record.revision));
        }
        let gateway = self.gateways.get(&txn.gateway)?;
        let over = txn.sequence < gateway.settled_below || gateway.aborted.contains(&txn.sequence);
        over.then_some(Verdict::Aborted)
    }

    /// It happens. Only if nothing is decided on it.
    pub(super) fn commit(&mut self, txn: RequestId, record: Committed, rows: &mut Vec<SystemRow>) {
        rows.push(row(COMMITTED_ROW, &[txn.gateway, txn.sequence], Some(&record)));
        self.committed.insert(txn, record);
    }

    /// It does not happen. Only if nothing is decided on it.
    pub(super) fn abort(&mut self, txn: RequestId, rows: &mut Vec<SystemRow>) {
        let touched = self.next_touch();
        let gateway = self.gateways.entry(txn.gateway).or_default();
        gateway.aborted.insert(txn.sequence);
        gateway.touched = touched;
        rows.push(row(ABORTED_ROW, &[txn.gateway], Some(&*gateway)));
        if self.gateways.len() > GATEWAYS_MAX {
            let oldest = self.gateways.iter().min_by_key(|(_, gateway)| gateway.touched);
            let id = *oldest.expect("more than GATEWAYS_MAX of them").0;
            self.gateways.remove(&id);
            rows.push(row::<Gateway>(ABORTED_ROW, &[id], None));
        }
    }

    /// Every range has carried it out.
    pub(super) fn forget(&mut self, txn: RequestId, rows: &mut Vec<SystemRow>) {
        if self.committed.remove(&txn).is_some() {
            rows.push(row::<Committed>(COMMITTED_ROW, &[txn.gateway, txn.sequence], None));
        }
    }

    /// Only these ranges are left to carry anything out.
    pub(super) fn keep_parts(&mut self, ranges: &BTreeSet<RangeId>, rows: &mut Vec<SystemRow>) {
        self.committed.retain(|txn, record| {
            record.parts.retain(|(range, _)| ranges.contains(range));
            let keep = !record.parts.is_empty();
            let value = keep.then_some(&*record);
            rows.push(row(COMMITTED_ROW, &[txn.gateway, txn.sequence], value));
            keep
        });
    }

    /// A gateway will not ask any more about transactions below this.
    pub(super) fn settled(&mut self, gateway: u64, below: u64, rows: &mut Vec<SystemRow>) {
        let touched = self.next_touch();
        // One without anything to remember needs no row: nothing of it was ended by others.
        if let Some(record) = self.gateways.get_mut(&gateway)
            && record.settled_below < below
        {
            record.settled_below = below;
            record.aborted = record.aborted.split_off(&below);
            record.touched = touched;
            rows.push(row(ABORTED_ROW, &[gateway], Some(&*record)));
        }
    }

    fn next_touch(&self) -> u64 {
        self.gateways.values().map(|gateway| gateway.touched).max().unwrap_or(0) + 1
    }
}

fn row<T: Serialize>(kind: u8, ids: &[u64], value: Option<&T>) -> SystemRow {
    let mut key = vec![kind];
    for id in ids {
        key.extend_from_slice(&id.to_be_bytes());
    }
    let value = value
        .map(|value| Bytes::from(postcard::to_stdvec(value).expect("a meta row can be encoded")));
    SystemRow { key: key.into(), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> RequestId {
        RequestId { gateway: 7, sequence }
    }

    fn happened(revision: Revision) -> Committed {
        Committed { revision, parts: vec![(RangeId(2), Change::Keys(Vec::new()))] }
    }

    #[test]
    fn what_others_ended_stays_ended_when_it_is_settled() {
        let (mut all, mut rows) = (Transactions::default(), Vec::new());
        assert_eq!(all.decided(id(3)), None);
        all.abort(id(3), &mut rows);
        assert_eq!(all.decided(id(3)), Some(Verdict::Aborted));
        assert_eq!(all.decided(id(4)), None);
        all.settled(7, 5, &mut rows);
        for sequence in [3, 4] {
            assert_eq!(all.decided(id(sequence)), Some(Verdict::Aborted), "a late copy");
        }
        assert_eq!(all.decided(id(5)), None);
    }

    #[test]
    fn rows_bring_everything_back() {
        let (mut all, mut rows) = (Transactions::default(), Vec::new());
        all.commit(id(1), happened(10), &mut rows);
        all.commit(id(2), happened(11), &mut rows);
        all.abort(id(3), &mut rows);
        all.forget(id(1), &mut rows);
        let mut disk = BTreeMap::new();
        for SystemRow { key, value } in rows {
            match value {
                Some(value) => disk.insert(key, value),
                None => disk.remove(&key),
            };
        }
        let mut loaded = Transactions::default();
        for (key, value) in &disk {
            loaded.load(key, value).expect("readable");
        }
        assert_eq!(loaded, all);
        assert_eq!(loaded.decided(id(1)), None);
        assert_eq!(loaded.decided(id(2)), Some(Verdict::Committed(11)));
    }

    #[test]
    fn runs_of_gateways_are_forgotten_oldest_first() {
        let (mut all, mut rows) = (Transactions::default(), Vec::new());
        for gateway in 0..=GATEWAYS_MAX as u64 {
            all.abort(RequestId { gateway, sequence: 1 }, &mut rows);
        }
        assert_eq!(all.decided(RequestId { gateway: 0, sequence: 1 }), None);
        let last = RequestId { gateway: GATEWAYS_MAX as u64, sequence: 1 };
        assert_eq!(all.decided(last), Some(Verdict::Aborted));
        assert!(rows.last().is_some_and(|row| row.value.is_none()));
    }
}
