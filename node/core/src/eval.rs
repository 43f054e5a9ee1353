//! Evaluation of key-value operations.
//!
//! One evaluator serves three moments in the life of an operation:
//! - **plan**: at the leaseholder on arrival, on the newest state seen through the [`Overlay`] of
//!   commands that are queued or proposed; gives the [`Mutation`]s, with a placeholder revision;
//! - **read**: at a revision that the sequencer gave, for operations that change nothing;
//! - **replay**: at `revision - 1`, to give the answer of a command that was applied at `revision`.
//!
//! Invariants: evaluation reads only its base and its own earlier changes, so that the same base
//! gives the same result on every replica and at any later time. As in etcd, all compares are
//! evaluated first, then all checks on the chosen path, then the operations in order; a failing
//! check fails the whole transaction with no change.

use crate::error::Error;
use crate::feed::to_kv;
use crate::ids::{LeaseId, Revision};
use crate::key::{Span, successor};
use crate::request::{
    Compare, CompareResult, CompareTarget, DeleteOp, KeyValue, Op, OpResult, PutOp, RangeOp,
    RangeResult, Response, SortOrder, SortTarget, TxnOp,
};
use crate::state::{Mutation, REVISION_MAX, StateReads, Version};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// Placeholder revisions of commands that have no revision yet: this plus the command's number in
/// the pipeline. Larger than any revision that can be granted.
pub const PENDING_BASE: Revision = 1 << 62;

/// A span deletion that finds more keys than this is carried out by every replica for itself when
/// it is applied, instead of listing the keys in the log.
pub const LISTED_DELETES_MAX: usize = 512;

/// Most keys that one deletion inside a transaction may find: they are all listed in one log entry,
/// since what the transaction's other operations see depends on them.
pub const TXN_DELETES_MAX: usize = 100_000;

/// The newest version of each key that a queued or proposed command has changed.
#[derive(Debug, Default)]
pub struct Overlay {
    versions: BTreeMap<Bytes, Version>,
}

impl Overlay {
    /// True if no command is pending.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Adds the changes of a command evaluated just now.
    pub fn insert(&mut self, mutations: &[Mutation]) {
        for mutation in mutations {
            self.versions.insert(mutation.key.clone(), mutation.version.clone());
        }
    }

    /// The command with this placeholder got its revision: `mutations` (final) replace the
    /// placeholders.
    pub fn settle(&mut self, placeholder: Revision, mutations: &[Mutation], revision: Revision) {
        for mutation in mutations {
            if let Some(version) = self.versions.get_mut(&mutation.key) {
                if version.mod_revision == placeholder {
                    version.mod_revision = revision;
                }
                if version.create_revision == placeholder {
                    version.create_revision = revision;
                }
            }
        }
    }

    /// A command was applied: what it changed last is in the state now.
    pub fn remove_applied(&mut self, mutations: &[Mutation]) {
        for mutation in mutations {
            if self
                .versions
                .get(&mutation.key)
                .is_some_and(|version| version.mod_revision == mutation.version.mod_revision)
            {
                self.versions.remove(&mutation.key);
            }
        }
    }

    /// Forgets everything (leadership was lost).
    pub fn clear(&mut self) {
        self.versions.clear();
    }
}

/// What planning a write found.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// It changes something.
    Write(PlannedWrite),
    /// It changes nothing: answer it as a read.
    NoChange,
    /// The outcome depends on a revision that is not granted yet: evaluate again later.
    Park,
    /// It deletes more keys than may be listed in the log: needs an empty pipeline.
    TooManyDeletes,
}

/// The changes of one operation.
#[derive(Debug, PartialEq, Eq)]
pub struct PlannedWrite {
    /// Changes, with the placeholder where the revision belongs.
    pub mutations: Vec<Mutation>,
    /// Leases that must exist.
    pub leases: Vec<LeaseId>,
    /// The answer, if it holds no key-values: header revisions are placeholders.
    pub answer: Option<OpResult>,
}

/// What planning starts from.
#[derive(Clone, Copy, Debug)]
pub struct PlanBase<'a> {
    /// Stands for the operation's revision.
    pub placeholder: Revision,
    /// Every placeholder in `overlay` stands for a revision above this.
    pub known: Revision,
    /// `known` was confirmed by the sequencer after the operation arrived.
    pub confirmed: bool,
    /// History below this is gone.
    pub compacted: Revision,
    /// What pending commands changed.
    pub overlay: &'a Overlay,
    /// A deletion that finds more keys gives [`Plan::TooManyDeletes`].
    pub listed_max: usize,
}

/// Plans a write on the newest state.
pub fn plan(op: &Op, base: PlanBase<'_>, state: &dyn StateReads) -> Result<Plan, Error> {
    let PlanBase { placeholder, known, confirmed, compacted, overlay, listed_max } = base;
    let mut eval = Eval {
        base: Base::Latest { overlay },
        state,
        revision: placeholder,
        known,
        compacted,
        buffer: BTreeMap::new(),
        mutations: Vec::new(),
        leases: Vec::new(),
        planning: true,
        listed_max,
        confirmed,
        incomplete: false,
    };
    match eval.run(op) {
        Ok(_) if eval.mutations.is_empty() => Ok(Plan::NoChange),
        Ok((_, result)) => {
            eval.leases.sort_unstable();
            eval.leases.dedup();
            Ok(Plan::Write(PlannedWrite {
                answer: (!eval.incomplete).then_some(result),
                mutations: eval.mutations,
                leases: eval.leases,
            }))
        }
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::Park) => Ok(Plan::Park),
        Err(Stop::TooManyDeletes) => Ok(Plan::TooManyDeletes),
    }
}

/// Plans a transaction on what its ranges hold while they are locked for it; the answer is complete
/// but for the placeholder [`PENDING_BASE`].
///
/// # Errors
/// As for any operation; or it deletes more keys than may be listed.
pub fn transact(
    op: &Op,
    known: Revision,
    compacted: Revision,
    state: &dyn StateReads,
) -> Result<PlannedWrite, Error> {
    let overlay = Overlay::default();
    let mut eval = Eval {
        base: Base::Latest { overlay: &overlay },
        listed_max: TXN_DELETES_MAX,
        ..Eval::at(known, PENDING_BASE, compacted, state)
    };
    match eval.run(op) {
        Ok((_, result)) => {
            eval.leases.sort_unstable();
            eval.leases.dedup();
            let answer = Some(result);
            Ok(PlannedWrite { mutations: eval.mutations, leases: eval.leases, answer })
        }
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::TooManyDeletes) => Err(Error::TooLarge),
        Err(Stop::Park) => unreachable!("nothing is pending on keys that are locked"),
    }
}

/// Evaluates an operation that changes nothing at `revision`, which is the header revision too.
pub fn read(
    op: &Op,
    revision: Revision,
    compacted: Revision,
    state: &dyn StateReads,
) -> Result<Response, Error> {
    let mut eval = Eval::at(revision, revision, compacted, state);
    match eval.run(op) {
        Ok((_, result)) if eval.mutations.is_empty() => Ok(Response::Kv { revision, result }),
        // The leaseholder planned it as "no change" on this very state. Should that ever be wrong,
        // the client must not be told of an outcome that did not happen.
        Ok(_) | Err(Stop::Park | Stop::TooManyDeletes) => Err(Error::TimedOut),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// Reconstructs the answer of a command applied at `revision`.
///
/// # Errors
/// The command changed nothing because it was refused; or what it changed cannot be told any more,
/// as when the state before it is `compacted`.
pub fn replay(
    op: &Op,
    revision: Revision,
    compacted: Revision,
    state: &dyn StateReads,
) -> Result<Response, Error> {
    if revision <= compacted {
        return Err(Error::TimedOut);
    }
    let mut eval = Eval::at(revision - 1, revision, 0, state);
    let (_, result) = match eval.run(op) {
        Ok(done) => done,
        Err(Stop::Error(error)) => return Err(error),
        Err(Stop::Park | Stop::TooManyDeletes) => return Err(Error::TimedOut),
    };
    // A command that was refused at the time may look well at `revision - 1`.
    let happened = eval.mutations.first().is_none_or(|first| {
        state.at(&first.key, revision).is_some_and(|found| found.mod_revision == revision)
    });
    if happened { Ok(Response::Kv { revision, result }) } else { Err(Error::TimedOut) }
}

/// Puts the granted revision where a planned answer has its placeholder. What came before the
/// first change names the revision before, as in etcd.
pub fn settle_answer(result: &mut OpResult, revision: Revision) {
    let settle = |kv: &mut KeyValue| {
        for of in [&mut kv.mod_revision, &mut kv.create_revision] {
            if *of >= PENDING_BASE {
                *of = revision;
            }
        }
    };
    match result {
        OpResult::Txn { results, .. } => {
            for (header, inner) in results {
                *header = if *header >= PENDING_BASE { revision } else { revision - 1 };
                settle_answer(inner, revision);
            }
        }
        OpResult::Range(found) => found.kvs.iter_mut().for_each(settle),
        OpResult::Put { prev_kv } => prev_kv.iter_mut().for_each(settle),
        OpResult::Delete { prev_kvs, .. } => prev_kvs.iter_mut().for_each(settle),
    }
}

/// The mutations of a symbolic span deletion at `revision` on the newest applied state.
pub fn delete_span(span: &Span, revision: Revision, state: &dyn StateReads) -> Vec<Mutation> {
    let mut mutations = Vec::new();
    state.scan(span, REVISION_MAX, false, &mut |key, version| {
        mutations.push(tombstone(key, &version, revision, mutations.len() as u32));
        ControlFlow::Continue(())
    });
    mutations
}

/// The mutation that deletes a key whose live version is `version`.
pub fn tombstone(key: Bytes, version: &Version, revision: Revision, sub: u32) -> Mutation {
    Mutation {
        key,
        prev_lease: version.lease,
        version: Version {
            mod_revision: revision,
            sub,
            create_revision: version.create_revision,
            version: 0,
            lease: 0,
            value: None,
        },
    }
}

enum Base<'a> {
    /// The newest applied state, seen through pending commands.
    Latest { overlay: &'a Overlay },
    /// The state at a revision.
    At { revision: Revision },
}

enum Stop {
    Error(Error),
    Park,
    TooManyDeletes,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Error(error)
    }
}

/// Which branch each transaction takes, nested ones in order of appearance on the path.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

struct Eval<'a> {
    base: Base<'a>,
    state: &'a dyn StateReads,
    /// The revision that changes get (a placeholder while planning).
    revision: Revision,
    known: Revision,
    compacted: Revision,
    /// What this operation changed so far.
    buffer: BTreeMap<Bytes, Version>,
    mutations: Vec<Mutation>,
    leases: Vec<LeaseId>,
    /// Answers that hold key-values are not made while planning.
    planning: bool,
    /// Most keys that one deletion may find.
    listed_max: usize,
    /// `known` is not older than the operation.
    confirmed: bool,
    /// Set when the answer lacks something because of `planning`.
    incomplete: bool,
}

impl<'a> Eval<'a> {
    fn at(
        base: Revision,
        revision: Revision,
        compacted: Revision,
        state: &'a dyn StateReads,
    ) -> Self {
        Eval {
            base: Base::At { revision: base },
            state,
            revision,
            known: base,
            compacted,
            buffer: BTreeMap::new(),
            mutations: Vec::new(),
            leases: Vec::new(),
            planning: false,
            listed_max: usize::MAX,
            confirmed: true,
            incomplete: false,
        }
    }

    fn run(&mut self, op: &Op) -> Result<(Revision, OpResult), Stop> {
        match op {
            Op::Txn(txn) => {
                let path = self.path(txn)?;
                self.check_txn(txn, &path)?;
                self.execute_txn(txn, &path)
            }
            Op::Range(_) | Op::Put(_) | Op::Delete(_) => {
                self.check(op)?;
                self.execute(op)
            }
        }
    }

    // Compares.

    fn path(&mut self, txn: &TxnOp) -> Result<Path, Stop> {
        let mut succeeded = true;
        for compare in &txn.compare {
            if !self.compare(compare)? {
                succeeded = false;
                break;
            }
        }
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let mut nested = Vec::new();
        for op in branch {
            if let Op::Txn(txn) = op {
                nested.push(self.path(txn)?);
            }
        }
        Ok(Path { succeeded, nested })
    }

    fn compare(&self, compare: &Compare) -> Result<bool, Stop> {
        if compare.range_end.is_empty() {
            return match self.get(&compare.key) {
                Some(version) => self.compare_version(compare, Some(&version)),
                None => self.compare_version(compare, None),
            };
        }
        let span = Span::from_etcd(&compare.key, &compare.range_end);
        let mut any = false;
        let mut outcome = Ok(true);
        self.scan(&span, matches!(compare.target, CompareTarget::Value(_)), &mut |_, version| {
            any = true;
            outcome = self.compare_version(compare, Some(&version));
            if matches!(outcome, Ok(true)) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        if any { outcome } else { self.compare_version(compare, None) }
    }

    /// A missing key compares as zero in everything but the value, which never compares.
    fn compare_version(&self, compare: &Compare, version: Option<&Version>) -> Result<bool, Stop> {
        let ordering = match &compare.target {
            CompareTarget::Version(given) => version.map_or(0, |v| v.version).cmp(given),
            CompareTarget::Create(given) => {
                self.compare_revision(version.map_or(0, |v| v.create_revision), *given)?
            }
            CompareTarget::Mod(given) => {
                self.compare_revision(version.map_or(0, |v| v.mod_revision), *given)?
            }
            CompareTarget::Lease(given) => version.map_or(0, |v| v.lease).cmp(given),
            CompareTarget::Value(given) => match version.and_then(|v| v.value.as_ref()) {
                Some(value) => value.cmp(given),
                None => return Ok(false),
            },
        };
        Ok(match compare.result {
            CompareResult::Equal => ordering == Ordering::Equal,
            CompareResult::NotEqual => ordering != Ordering::Equal,
            CompareResult::Greater => ordering == Ordering::Greater,
            CompareResult::Less => ordering == Ordering::Less,
        })
    }

    /// A placeholder is above everything known; against a number above that, nobody can tell yet.
    fn compare_revision(&self, stored: Revision, given: Revision) -> Result<Ordering, Stop> {
        if stored >= PENDING_BASE && given > self.known {
            return Err(Stop::Park);
        }
        Ok(stored.cmp(&given))
    }

    // Checks.

    fn check_txn(&mut self, txn: &TxnOp, path: &Path) -> Result<(), Stop> {
        let mut nested = path.nested.iter();
        for op in if path.succeeded { &txn.success } else { &txn.failure } {
            match op {
                Op::Txn(inner) => {
                    let path = nested.next().expect("one path per nested transaction");
                    self.check_txn(inner, path)?;
                }
                Op::Range(_) | Op::Put(_) | Op::Delete(_) => self.check(op)?,
            }
        }
        Ok(())
    }

    fn check(&mut self, op: &Op) -> Result<(), Stop> {
        match op {
            Op::Range(range) if range.revision > 0 => {
                if range.revision < self.compacted {
                    return Err(Error::Compacted.into());
                }
                if range.revision > self.known {
                    // `known` may lag behind what the client has seen: ask before refusing.
                    return Err(if self.confirmed {
                        Error::FutureRevision.into()
                    } else {
                        Stop::Park
                    });
                }
                Ok(())
            }
            Op::Put(put) => {
                if (put.ignore_value || put.ignore_lease) && self.get(&put.key).is_none() {
                    return Err(Error::KeyNotFound.into());
                }
                if put.lease != 0 {
                    self.leases.push(put.lease);
                }
                Ok(())
            }
            Op::Range(_) | Op::Delete(_) | Op::Txn(_) => Ok(()),
        }
    }

    // Execution.

    fn execute_txn(&mut self, txn: &TxnOp, path: &Path) -> Result<(Revision, OpResult), Stop> {
        let mut nested = path.nested.iter();
        let mut results = Vec::new();
        for op in if path.succeeded { &txn.success } else { &txn.failure } {
            results.push(match op {
                Op::Txn(inner) => {
                    let path = nested.next().expect("one path per nested transaction");
                    self.execute_txn(inner, path)?
                }
                Op::Range(_) | Op::Put(_) | Op::Delete(_) => self.execute(op)?,
            });
        }
        Ok((self.header(), OpResult::Txn { succeeded: path.succeeded, results }))
    }

    /// The header revision at this point: the new one as soon as something changed.
    fn header(&self) -> Revision {
        if self.mutations.is_empty() { self.known } else { self.revision }
    }

    fn execute(&mut self, op: &Op) -> Result<(Revision, OpResult), Stop> {
        let result = match op {
            Op::Range(_) if self.planning => {
                self.incomplete = true;
                OpResult::Range(RangeResult::default())
            }
            Op::Range(range) => OpResult::Range(self.range(range)),
            Op::Put(put) => self.put(put),
            Op::Delete(delete) => self.delete(delete)?,
            Op::Txn(_) => unreachable!("transactions are executed along their path"),
        };
        Ok((self.header(), result))
    }

    fn put(&mut self, put: &PutOp) -> OpResult {
        let current = self.get(&put.key);
        let value = match (&current, put.ignore_value) {
            (Some(version), true) => version.value.clone().unwrap_or_default(),
            _ => put.value.clone(),
        };
        let prev_lease = current.as_ref().map_or(0, |version| version.lease);
        let lease = if put.ignore_lease { prev_lease } else { put.lease };
        let version = Version {
            mod_revision: self.revision,
            sub: self.mutations.len() as u32,
            create_revision: current.as_ref().map_or(self.revision, |v| v.create_revision),
            version: current.as_ref().map_or(1, |v| v.version + 1),
            lease,
            value: Some(value),
        };
        let prev_kv = match (put.prev_kv, &current) {
            (true, Some(version)) => {
                self.incomplete |= self.planning;
                to_kv(&put.key, version)
            }
            _ => None,
        };
        self.change(put.key.clone(), version, prev_lease);
        OpResult::Put { prev_kv }
    }

    fn delete(&mut self, delete: &DeleteOp) -> Result<OpResult, Stop> {
        let span = Span::from_etcd(&delete.key, &delete.range_end);
        let mut found: Vec<(Bytes, Version)> = Vec::new();
        let listed_max = self.listed_max;
        if let Some(key) = span.single() {
            found.extend(self.get(key).map(|version| (key.clone(), version)));
        } else {
            self.scan(&span, delete.prev_kv && !self.planning, &mut |key, version| {
                found.push((key, version));
                if found.len() > listed_max {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
        }
        if found.len() > listed_max {
            return Err(Stop::TooManyDeletes);
        }
        let deleted = found.len() as i64;
        let mut prev_kvs = Vec::new();
        for (key, version) in found {
            if delete.prev_kv {
                self.incomplete |= self.planning;
                prev_kvs.extend(to_kv(&key, &version));
            }
            let mutation = tombstone(key, &version, self.revision, self.mutations.len() as u32);
            self.change(mutation.key, mutation.version, mutation.prev_lease);
        }
        Ok(OpResult::Delete { deleted, prev_kvs })
    }

    fn change(&mut self, key: Bytes, version: Version, prev_lease: LeaseId) {
        self.buffer.insert(key.clone(), version.clone());
        self.mutations.push(Mutation { key, version, prev_lease });
    }

    fn range(&self, range: &RangeOp) -> RangeResult {
        let span = Span::from_etcd(&range.key, &range.range_end);
        let at = (range.revision > 0).then_some(range.revision);
        range_read(
            range,
            &mut |span, values, visit| match at {
                Some(revision) => self.state.scan(span, revision, values, visit),
                None => self.scan(span, values, visit),
            },
            &span,
            &|key| match at {
                Some(revision) => self.state.at(key, revision).filter(|v| v.value.is_some()),
                None => self.get(key),
            },
        )
    }

    // The base, seen through this operation's own changes.

    fn get(&self, key: &[u8]) -> Option<Version> {
        if let Some(version) = self.buffer.get(key) {
            return version.value.is_some().then(|| version.clone());
        }
        let version = match &self.base {
            Base::Latest { overlay } => match overlay.versions.get(key) {
                Some(version) => Some(version.clone()),
                None => self.state.latest(key),
            },
            Base::At { revision } => self.state.at(key, *revision),
        };
        version.filter(|version| version.value.is_some())
    }

    fn scan(
        &self,
        span: &Span,
        values: bool,
        visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
        if span.is_empty() {
            return;
        }
        let bounds = (
            Bound::Included(span.start.clone()),
            span.end.clone().map_or(Bound::Unbounded, Bound::Excluded),
        );
        let mut above: BTreeMap<&Bytes, &Version> = BTreeMap::new();
        let revision = match &self.base {
            Base::Latest { overlay } => {
                above.extend(overlay.versions.range(bounds.clone()));
                REVISION_MAX
            }
            Base::At { revision } => *revision,
        };
        above.extend(self.buffer.range(bounds));
        let mut above = above.into_iter().peekable();
        let mut stopped = false;
        self.state.scan(span, revision, values, &mut |key, version| {
            while let Some((next, changed)) = above.next_if(|(next, _)| **next < key) {
                if changed.value.is_some() && visit(next.clone(), changed.clone()).is_break() {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let step = match above.next_if(|(next, _)| **next == key) {
                Some((_, changed)) if changed.value.is_none() => ControlFlow::Continue(()),
                Some((_, changed)) => visit(key, changed.clone()),
                None => visit(key, version),
            };
            stopped = step.is_break();
            step
        });
        if !stopped {
            for (key, changed) in above {
                if changed.value.is_some() && visit(key.clone(), changed.clone()).is_break() {
                    return;
                }
            }
        }
    }
}

type Visit<'v> = &'v mut dyn FnMut(Bytes, Version) -> ControlFlow<()>;

/// The rules of etcd's range read over any source of keys.
fn range_read(
    range: &RangeOp,
    scan: &mut dyn FnMut(&Span, bool, Visit<'_>),
    span: &Span,
    get: &dyn Fn(&[u8]) -> Option<Version>,
) -> RangeResult {
    let kv = |key: &Bytes, version: Version| {
        to_kv(key, &version).expect("scans give live versions only")
    };
    if span.is_empty() {
        return RangeResult::default();
    }
    if range.count_only {
        let mut count = 0;
        scan(span, false, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        });
        return RangeResult { count, ..RangeResult::default() };
    }
    let fetch_max =
        if is_cut_first(range) { (range.limit as usize).saturating_add(1) } else { usize::MAX };
    let mut kvs = Vec::new();
    let mut count: i64 = 0;
    if let Some(key) = span.single() {
        kvs.extend(get(key).map(|version| kv(key, version)));
        count = kvs.len() as i64;
    } else {
        let values = !range.keys_only || range.sort_target == SortTarget::Value;
        let mut cut = None;
        scan(span, values, &mut |key, version| {
            count += 1;
            let full = kvs.len() + 1 >= fetch_max;
            if full {
                cut = Some(key.clone());
            }
            kvs.push(kv(&key, version));
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Some(last) = cut {
            let rest = Span { start: successor(&last), end: span.end.clone() };
            if !rest.is_empty() {
                scan(&rest, false, &mut |_, _| {
                    count += 1;
                    ControlFlow::Continue(())
                });
            }
        }
    }
    let (kvs, more) = finish_range(range, kvs);
    RangeResult { kvs, more, count }
}

/// Is the limit taken in the order of the keys, before anything else? etcd sorts what is left then,
/// one key more than it gives.
pub fn is_cut_first(range: &RangeOp) -> bool {
    let filtered = range.min_mod_revision != 0
        || range.max_mod_revision != 0
        || range.min_create_revision != 0
        || range.max_create_revision != 0;
    range.limit > 0 && range.sort_order == SortOrder::None && !filtered
}

/// Filters, sorts and cuts, in etcd's order. Used again when parts of several ranges are joined.
pub fn finish_range(range: &RangeOp, mut kvs: Vec<KeyValue>) -> (Vec<KeyValue>, bool) {
    kvs.retain(|kv| {
        (range.max_mod_revision == 0 || kv.mod_revision <= range.max_mod_revision)
            && (range.min_mod_revision == 0 || kv.mod_revision >= range.min_mod_revision)
            && (range.max_create_revision == 0 || kv.create_revision <= range.max_create_revision)
            && (range.min_create_revision == 0 || kv.create_revision >= range.min_create_revision)
    });
    let order = match (range.sort_order, range.sort_target) {
        (SortOrder::None, SortTarget::Key) => SortOrder::None,
        (SortOrder::None, _) => SortOrder::Ascend,
        (order, _) => order,
    };
    if order != SortOrder::None {
        kvs.sort_by(|a, b| match range.sort_target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        });
        if order == SortOrder::Descend {
            kvs.reverse();
        }
    }
    if range.keys_only {
        // etcd 3.7 leaves the lease out too, unless it has to read the values to sort by them.
        for kv in &mut kvs {
            kv.value = Bytes::new();
            if range.sort_target != SortTarget::Value {
                kv.lease = 0;
            }
        }
    }
    let more = range.limit > 0 && kvs.len() as i64 > range.limit;
    if more {
        kvs.truncate(range.limit as usize);
    }
    (kvs, more)
}
