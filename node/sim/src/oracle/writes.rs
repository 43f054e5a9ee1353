//! Answers are right, and every change was asked for exactly once.

use super::evaluate::evaluate;
use super::{OpRecord, Oracle};
use super::{leases, order};
use crate::history::{Change, History, key_value};
use bytes::Bytes;
use holdfast_core::error::Error;
use holdfast_core::ids::{LeaseId, Revision};
use holdfast_core::request::{KeyValue, Op, Request, Response};
use std::collections::{BTreeMap, BTreeSet};

/// Who made a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This operation.
    Op(u64),
    /// The end of a lease.
    Lease(LeaseId),
}

/// Finds out who made each change, and checks every answer on the way.
pub(super) fn attribute(
    oracle: &Oracle,
    history: &History,
) -> Result<BTreeMap<Revision, Owner>, String> {
    let mut owners = BTreeMap::new();
    let mut revision_of: BTreeMap<u64, Revision> = BTreeMap::new();
    for (revision, change) in history.changes() {
        if let Some(id) = written_by(*revision, change)? {
            if oracle.ops.get(id as usize).is_none_or(|record| record.op().is_none()) {
                return Err(format!("revision {revision} was written by nobody: {change:?}"));
            }
            if let Some(other) = revision_of.insert(id, *revision) {
                let record = &oracle.ops[id as usize];
                return Err(format!("carried out twice, at {other} and at {revision}: {record:?}"));
            }
            owners.insert(*revision, Owner::Op(id));
        }
    }
    for record in &oracle.ops {
        let Some(op) = record.op() else { continue };
        match record.answer() {
            Some(Ok(Response::Kv { revision, .. })) => {
                check_answer(oracle, record, op, *revision, history, &mut owners)?;
            }
            Some(Ok(other)) => return Err(format!("{record:?} was answered {other:?}")),
            Some(Err(error)) => {
                check_refusal(oracle, record, op, error, &revision_of)?;
            }
            None => {
                if let Some(revision) = revision_of.get(&record.id) {
                    check_change(record, op, *revision, history)?;
                }
            }
        }
    }
    attribute_rest(oracle, history, &mut owners)?;
    Ok(owners)
}

/// The operation whose id is in the values, if there are values.
fn written_by(revision: Revision, change: &Change) -> Result<Option<u64>, String> {
    let mut ids = BTreeSet::new();
    for value in change.mutations.iter().filter_map(|mutation| mutation.version.value.as_ref()) {
        ids.insert(super::op_of(value).ok_or_else(|| format!("{value:?} at {revision}"))?);
    }
    if ids.len() > 1 {
        return Err(format!("revision {revision} mixes operations {ids:?}"));
    }
    Ok(ids.first().copied())
}

/// What a change did, as the evaluation states it.
fn changes_of(change: &Change) -> Vec<(Bytes, Option<KeyValue>)> {
    change
        .mutations
        .iter()
        .map(|mutation| (mutation.key.clone(), key_value(&mutation.key, &mutation.version)))
        .collect()
}

fn check_change(
    record: &OpRecord,
    op: &Op,
    revision: Revision,
    history: &History,
) -> Result<(), String> {
    let expected = evaluate(op, revision - 1, revision, history);
    let found = history.changes().get(&revision).map(changes_of).unwrap_or_default();
    if expected.changes == found {
        return Ok(());
    }
    Err(format!("at {revision} it changed {found:?} instead of {:?}: {record:?}", expected.changes))
}

fn check_answer(
    oracle: &Oracle,
    record: &OpRecord,
    op: &Op,
    revision: Revision,
    history: &History,
    owners: &mut BTreeMap<Revision, Owner>,
) -> Result<(), String> {
    let Some((_, Ok(Response::Kv { result, .. }))) = &record.returned else { return Ok(()) };
    if !op.is_read_only() {
        let as_write = evaluate(op, revision - 1, revision, history);
        let found = history.changes().get(&revision).map(changes_of).unwrap_or_default();
        if as_write.changes == found && as_write.result == *result && found.is_empty() {
            // Its id was logged, so that no late copy can change anything.
            return unchanged(record, owners);
        }
        if !found.is_empty() && as_write.changes == found && as_write.result == *result {
            let owner = owners.entry(revision).or_insert(Owner::Op(record.id));
            if *owner == Owner::Op(record.id) {
                return Ok(());
            }
        }
    }
    let as_read = evaluate(op, revision, revision, history);
    let mut wanted = as_read.result;
    if as_read.changes.is_empty() && wanted == *result {
        return unchanged(record, owners);
    }
    if !op.is_read_only() {
        wanted = evaluate(op, revision - 1, revision, history).result;
    }
    let change = history.changes().get(&revision);
    let at_all = oracle.ops.len();
    Err(format!(
        "wrong answer: {record:?}\nwanted {wanted:?}\nrevision {revision} is {change:?} by {:?} \
         ({at_all} operations)",
        owners.get(&revision)
    ))
}

/// It was answered as one that changed nothing.
fn unchanged(record: &OpRecord, owners: &BTreeMap<Revision, Owner>) -> Result<(), String> {
    match owners.iter().find(|(_, owner)| **owner == Owner::Op(record.id)) {
        Some((at, _)) => Err(format!("answered as unchanged, but changed at {at}: {record:?}")),
        None => Ok(()),
    }
}

/// A refused operation changed nothing, and there was a reason to refuse it.
fn check_refusal(
    oracle: &Oracle,
    record: &OpRecord,
    op: &Op,
    error: &Error,
    revision_of: &BTreeMap<u64, Revision>,
) -> Result<(), String> {
    if let Some(revision) = revision_of.get(&record.id) {
        return Err(format!("refused and carried out at {revision}: {record:?}"));
    }
    let justified = match (error, op) {
        (Error::Compacted, Op::Range(range)) => {
            oracle.compactions_before(record).any(|compacted| compacted > range.revision)
        }
        // Whether it is in the future is checked with the order of operations.
        (Error::FutureRevision, Op::Range(range)) => range.revision > 0,
        (Error::LeaseNotFound, _) => {
            leases_of(op).into_iter().any(|lease| leases::may_be_missing(oracle, record, lease))
        }
        (Error::TooManyRequests, _) => true,
        _ => false,
    };
    if justified { Ok(()) } else { Err(format!("refused without reason: {record:?}")) }
}

fn leases_of(op: &Op) -> Vec<LeaseId> {
    match op {
        Op::Put(put) => vec![put.lease],
        Op::Txn(txn) => txn.success.iter().chain(&txn.failure).flat_map(leases_of).collect(),
        Op::Range(_) | Op::Delete(_) => Vec::new(),
    }
}

impl Oracle {
    /// Revisions of compactions asked for before an operation ended.
    pub(super) fn compactions_before(&self, record: &OpRecord) -> impl Iterator<Item = Revision> {
        let end = record.returned.as_ref().map_or(u64::MAX, |(moment, _)| moment.order);
        self.compactions().filter(move |(order, _)| *order < end).map(|(_, revision)| revision)
    }

    /// All compactions asked for: when, and up to where.
    pub(super) fn compactions(&self) -> impl Iterator<Item = (u64, Revision)> {
        self.ops.iter().filter_map(|record| match record.request {
            Request::Compact { revision } => Some((record.invoked.order, revision)),
            _ => None,
        })
    }
}

/// Deletions that nobody was told of: each belongs to an operation with open outcome, at most one
/// change each, or to the end of a lease.
fn attribute_rest(
    oracle: &Oracle,
    history: &History,
    owners: &mut BTreeMap<Revision, Owner>,
) -> Result<(), String> {
    let open: Vec<&OpRecord> = oracle
        .ops
        .iter()
        .filter(|record| record.answer().is_none())
        .filter(|record| record.op().is_some_and(|op| !op.is_read_only()))
        .collect();
    let lives = leases::lives(oracle);
    let floors = order::floors(oracle);
    let mut wanted: Vec<(Revision, Vec<usize>)> = Vec::new();
    for (revision, change) in history.changes() {
        if owners.contains_key(revision) {
            continue;
        }
        if let Some(lease) = leases::ended(history, *revision, change)
            && lives.get(&lease).is_some_and(|life| life.may_end(change.at))
        {
            owners.insert(*revision, Owner::Lease(lease));
            continue;
        }
        let found = changes_of(change);
        let candidates: Vec<usize> = open
            .iter()
            .enumerate()
            .filter(|(_, record)| record.invoked.at <= change.at)
            // What was called after this revision had been seen did not make it.
            .filter(|(_, record)| floors[&record.id] < *revision)
            .filter(|(_, record)| {
                let op = record.op().expect("filtered above");
                evaluate(op, revision - 1, *revision, history).changes == found
            })
            .map(|(place, _)| place)
            .collect();
        wanted.push((*revision, candidates));
    }
    let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
    for place in 0..wanted.len() {
        if !matched(place, &wanted, &mut taken, &mut BTreeSet::new()) {
            let revision = wanted[place].0;
            let change = &history.changes()[&revision];
            let lease = leases::ended(history, revision, change);
            return Err(format!(
                "nobody asked for the deletion at {revision}: {change:?} (lease {lease:?}: {:?})",
                lease.and_then(|lease| lives.get(&lease))
            ));
        }
    }
    for (candidate, place) in taken {
        owners.insert(wanted[place].0, Owner::Op(open[candidate].id));
    }
    Ok(())
}

/// Finds a candidate for a change, moving others if need be.
fn matched(
    place: usize,
    wanted: &[(Revision, Vec<usize>)],
    taken: &mut BTreeMap<usize, usize>,
    tried: &mut BTreeSet<usize>,
) -> bool {
    for candidate in &wanted[place].1 {
        if !tried.insert(*candidate) {
            continue;
        }
        let free = match taken.get(candidate).copied() {
            None => true,
            Some(other) => matched(other, wanted, taken, tried),
        };
        if free {
            taken.insert(*candidate, place);
            return true;
        }
    }
    false
}
