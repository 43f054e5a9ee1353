//! What an operation must answer and change, written down a second time and as plainly as possible.
//!
//! Invariant: shares no code with the core's evaluation.

use crate::history::History;
use bytes::Bytes;
use holdfast_core::ids::Revision;
use holdfast_core::key::Span;
use holdfast_core::request::{
    Compare, CompareResult, CompareTarget, DeleteOp, KeyValue, Op, OpResult, PutOp, RangeOp,
    RangeResult, SortOrder, TxnOp,
};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The outcome of an operation.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub result: OpResult,
    /// What it changes, in order: `None` is a deletion.
    pub changes: Vec<(Bytes, Option<KeyValue>)>,
}

/// Evaluates `op` on the state at `base`; its changes get `revision`.
pub fn evaluate(op: &Op, base: Revision, revision: Revision, history: &History) -> Outcome {
    let mut view = View { history, base, revision, changed: BTreeMap::new(), changes: Vec::new() };
    let (_, result) = view.run(op);
    Outcome { result, changes: view.changes }
}

struct View<'a> {
    history: &'a History,
    base: Revision,
    revision: Revision,
    changed: BTreeMap<Bytes, Option<KeyValue>>,
    changes: Vec<(Bytes, Option<KeyValue>)>,
}

impl View<'_> {
    fn run(&mut self, op: &Op) -> (Revision, OpResult) {
        let result = match op {
            Op::Range(range) => OpResult::Range(self.range(range)),
            Op::Put(put) => self.put(put),
            Op::Delete(delete) => self.delete(delete),
            Op::Txn(txn) => self.txn(txn),
        };
        (if self.changes.is_empty() { self.base } else { self.revision }, result)
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => self.history.at(key, self.base),
        }
    }

    fn scan(&self, span: &Span) -> Vec<KeyValue> {
        let mut found: BTreeMap<Bytes, KeyValue> =
            self.history.scan(span, self.base).into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        for (key, changed) in self.changed.iter().filter(|(key, _)| span.contains(key)) {
            match changed {
                Some(kv) => found.insert(key.clone(), kv.clone()),
                None => found.remove(key),
            };
        }
        found.into_values().collect()
    }

    fn range(&self, range: &RangeOp) -> RangeResult {
        let span = Span::from_etcd(&range.key, &range.range_end);
        let mut kvs = if span.is_empty() {
            Vec::new()
        } else if range.revision > 0 {
            self.history.scan(&span, range.revision)
        } else {
            self.scan(&span)
        };
        let count = kvs.len() as i64;
        if range.count_only {
            return RangeResult { kvs: Vec::new(), more: false, count };
        }
        if range.sort_order == SortOrder::Descend {
            kvs.reverse();
        }
        let more = range.limit > 0 && count > range.limit;
        if more {
            kvs.truncate(range.limit as usize);
        }
        if range.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                // As etcd 3.7 does.
                kv.lease = 0;
            }
        }
        RangeResult { kvs, more, count }
    }

    fn put(&mut self, put: &PutOp) -> OpResult {
        let before = self.get(&put.key);
        let after = KeyValue {
            key: put.key.clone(),
            create_revision: before.as_ref().map_or(self.revision, |kv| kv.create_revision),
            mod_revision: self.revision,
            version: before.as_ref().map_or(1, |kv| kv.version + 1),
            value: put.value.clone(),
            lease: put.lease,
        };
        self.changed.insert(put.key.clone(), Some(after.clone()));
        self.changes.push((put.key.clone(), Some(after)));
        OpResult::Put { prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &DeleteOp) -> OpResult {
        let span = Span::from_etcd(&delete.key, &delete.range_end);
        let found = if span.is_empty() { Vec::new() } else { self.scan(&span) };
        for kv in &found {
            self.changed.insert(kv.key.clone(), None);
            self.changes.push((kv.key.clone(), None));
        }
        let deleted = found.len() as i64;
        OpResult::Delete { deleted, prev_kvs: if delete.prev_kv { found } else { Vec::new() } }
    }

    fn txn(&mut self, txn: &TxnOp) -> OpResult {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        OpResult::Txn { succeeded, results: branch.iter().map(|op| self.run(op)).collect() }
    }

    /// Compares of one key; the workload makes no others.
    fn holds(&self, compare: &Compare) -> bool {
        let kv = self.get(&compare.key);
        let (version, create, modified, lease) = kv
            .as_ref()
            .map_or((0, 0, 0, 0), |kv| (kv.version, kv.create_revision, kv.mod_revision, kv.lease));
        let ordering = match &compare.target {
            CompareTarget::Version(given) => version.cmp(given),
            CompareTarget::Create(given) => create.cmp(given),
            CompareTarget::Mod(given) => modified.cmp(given),
            CompareTarget::Lease(given) => lease.cmp(given),
            CompareTarget::Value(given) => match kv {
                Some(kv) => kv.value.cmp(given),
                None => return false,
            },
        };
        match compare.result {
            CompareResult::Equal => ordering == Ordering::Equal,
            CompareResult::NotEqual => ordering != Ordering::Equal,
            CompareResult::Greater => ordering == Ordering::Greater,
            CompareResult::Less => ordering == Ordering::Less,
        }
    }
}
