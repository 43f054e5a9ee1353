//! Reads over several ranges: one revision for all of them, then each range's part at it.
//!
//! Invariants: a read is answered as of one revision, which the sequencer gave after it came; a part
//! that was cut, or whose history went, makes the whole start over.

use super::routing::{Owner, Place};
use super::{Asked, Node};
use crate::effects::{ClientToken, Millis};
use crate::error::Error;
use crate::eval;
use crate::ids::{META_RANGE, RangeId, Revision};
use crate::key::Span;
use crate::leaseholder::Asker;
use crate::message::{Outcome, RangeRequest, SequencerItem, SequencerItemKind};
use crate::request::{Op, OpResult, RangeOp, RangeResult, Response, SortOrder, SortTarget};
use crate::state::{StateReads, Version};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// A multi-range read being put together.
#[derive(Debug)]
pub(super) struct Gather {
    pub(super) token: ClientToken,
    pub(super) deadline: Millis,
    op: Op,
    revision: Revision,
    parts: Vec<(Span, RangeOp, Option<RangeResult>)>,
}

impl Gather {
    /// True until the revision of the read is known.
    pub(super) fn waits_for_revision(&self) -> bool {
        self.revision == 0
    }
}

/// Keys of a lease being collected from its ranges.
#[derive(Debug)]
pub(super) struct Collect {
    asker: Asker,
    id: i64,
    ttl: i64,
    granted_ttl: i64,
    waiting: usize,
    keys: Vec<Bytes>,
}

impl Node {
    pub(super) fn start_gather(&mut self, token: ClientToken, deadline: Millis, op: Op) {
        let id = self.router.number();
        self.router.client_waits(token, id);
        self.router
            .gathers
            .insert(id, Gather { token, deadline, op, revision: 0, parts: Vec::new() });
        self.ask_current(Asked::Gather(id));
    }

    pub(super) fn ask_current(&mut self, asked: Asked) {
        let item = SequencerItem {
            range: META_RANGE,
            term: 0,
            generation: 0,
            kind: SequencerItemKind::Read,
        };
        self.session.ask(item, asked);
    }

    /// The revision for a multi-range read is known: ask every range for its part at it.
    pub(super) fn gather_at(&mut self, id: u64, revision: Revision) {
        let compacted = self.session.compacted();
        let Some(gather) = self.router.gathers.get_mut(&id) else { return };
        gather.revision = revision;
        let mut wanted: Vec<RangeOp> = Vec::new();
        collect_reads(&gather.op, &mut wanted);
        let refused = wanted.iter().find_map(|read| match read.revision {
            at if at > revision => Some(Error::FutureRevision),
            at if at > 0 && at < compacted => Some(Error::Compacted),
            _ => None,
        });
        if let Some(error) = refused {
            let token = gather.token;
            self.router.abandon(token);
            return self.fail_client(token, error);
        }
        let deadline = gather.deadline;
        let mut requests = Vec::new();
        for read in wanted {
            let span = Span::from_etcd(&read.key, &read.range_end);
            for range in self.meta.ranges_in(&span) {
                let Some(part) = range.span.intersect(&span) else { continue };
                let mut piece = read.clone();
                piece.key = if part.start.is_empty() {
                    Bytes::from_static(b"\0")
                } else {
                    part.start.clone()
                };
                piece.range_end = part.end.clone().unwrap_or_else(|| Bytes::from_static(b"\0"));
                piece.revision = if read.revision > 0 { read.revision } else { revision };
                piece.serializable = false;
                if read.sort_target == SortTarget::Value {
                    piece.keys_only = false;
                }
                // Without an order, etcd cuts before it sorts, and sorts one key more than it gives.
                piece.limit = if eval::is_cut_first(&read) || read.sort_target == SortTarget::Key {
                    read.limit.saturating_add(i64::from(read.limit > 0))
                } else {
                    0
                };
                piece.sort_target = SortTarget::Key;
                requests.push((part, range.id, piece));
            }
        }
        let mut sequences = Vec::new();
        for (number, (span, _, piece)) in requests.into_iter().enumerate() {
            let place = Place::Key(span.start.clone());
            let body = RangeRequest::Kv(Op::Range(piece.clone()));
            let owner = Owner::Gather(id, number as u32);
            if let Some(gather) = self.router.gathers.get_mut(&id) {
                gather.parts.push((span, piece, None));
            }
            sequences.push(self.enqueue(owner, place, body, deadline));
        }
        for sequence in sequences {
            self.dispatch_remote_or_loop(sequence);
        }
    }

    /// A part has come.
    pub(super) fn gathered(&mut self, id: u64, part: u32, result: Result<Response, Error>) {
        // History was compacted beyond the chosen revision meanwhile: choose a new one. What the
        // client itself asked for is checked against the compaction then.
        if result == Err(Error::Compacted) {
            return self.gather_again(id);
        }
        let Some(gather) = self.router.gathers.get_mut(&id) else { return };
        match result {
            Ok(Response::Kv { result: OpResult::Range(found), .. }) => {
                if let Some(slot) = gather.parts.get_mut(part as usize) {
                    slot.2 = Some(found);
                }
            }
            Ok(_) => {}
            Err(error) => {
                let token = gather.token;
                self.router.abandon(token);
                return self.fail_client(token, error);
            }
        }
        if gather.parts.iter().all(|(_, _, found)| found.is_some())
            && let Some(gather) = self.router.gathers.remove(&id)
        {
            self.router.client_told(gather.token);
            let (token, answer) = (gather.token, join(gather));
            self.effects.replies.push((token, answer));
        }
    }

    /// Starts a multi-range read over, under a new number, so that late parts of this attempt are
    /// not taken for its.
    pub(super) fn gather_again(&mut self, id: u64) {
        let Some(mut gather) = self.router.gathers.remove(&id) else { return };
        gather.parts.clear();
        gather.revision = 0;
        let again = self.router.number();
        self.router.client_waits(gather.token, again);
        self.router.gathers.insert(again, gather);
        self.ask_current(Asked::Gather(again));
    }

    // Keys of a lease.

    pub(super) fn collect_lease_keys(
        &mut self,
        asker: Asker,
        id: i64,
        (ttl, granted_ttl): (i64, i64),
        ranges: &BTreeSet<RangeId>,
    ) {
        let number = self.router.number();
        let waiting = ranges.len();
        let keys = Vec::new();
        self.router.collects.insert(number, Collect { asker, id, ttl, granted_ttl, waiting, keys });
        for range in ranges {
            self.internal_request(
                Owner::LeaseKeys(number),
                *range,
                RangeRequest::LeaseKeys { lease: id },
            );
        }
    }

    pub(super) fn collected(&mut self, number: u64, keys: Vec<Bytes>) {
        let Some(collect) = self.router.collects.get_mut(&number) else { return };
        collect.keys.extend(keys);
        collect.waiting -= 1;
        if collect.waiting == 0
            && let Some(mut done) = self.router.collects.remove(&number)
        {
            done.keys.sort();
            // Of ranges that were merged, the same one may have answered for both.
            done.keys.dedup();
            self.outcome(
                done.asker,
                Outcome::Done(Ok(Response::LeaseTimeToLive {
                    id: done.id,
                    ttl: done.ttl,
                    granted_ttl: done.granted_ttl,
                    keys: done.keys,
                })),
            );
        }
    }
}

/// Every read that an operation may need, as plain range reads without limit and order, unless it
/// is one itself.
pub(super) fn collect_reads(op: &Op, reads: &mut Vec<RangeOp>) {
    match op {
        Op::Range(read) => {
            let mut read = read.clone();
            if read.sort_order != SortOrder::None {
                read.limit = 0;
            }
            reads.push(read);
        }
        Op::Txn(txn) => {
            for compare in &txn.compare {
                reads.push(RangeOp {
                    key: compare.key.clone(),
                    range_end: compare.range_end.clone(),
                    ..RangeOp::default()
                });
            }
            for op in txn.success.iter().chain(&txn.failure) {
                let mut inner = Vec::new();
                collect_reads(op, &mut inner);
                for read in inner {
                    reads.push(RangeOp {
                        key: read.key,
                        range_end: read.range_end,
                        revision: read.revision,
                        ..RangeOp::default()
                    });
                }
            }
        }
        Op::Put(_) | Op::Delete(_) => {}
    }
}

fn join(gather: Gather) -> Result<Response, Error> {
    let revision = gather.revision;
    if let Op::Range(read) = &gather.op {
        let mut kvs = Vec::new();
        let mut count = 0;
        let mut more = false;
        for (_, _, found) in gather.parts {
            let found = found.unwrap_or_default();
            kvs.extend(found.kvs);
            count += found.count;
            more |= found.more;
        }
        if eval::is_cut_first(read) {
            kvs.truncate(usize::try_from(read.limit).unwrap_or(usize::MAX).saturating_add(1));
        }
        let (kvs, cut) = eval::finish_range(read, kvs);
        let result = OpResult::Range(RangeResult { kvs, more: more || cut, count });
        return Ok(Response::Kv { revision, result });
    }
    let state = Gathered { parts: gather.parts };
    eval::read(&gather.op, revision, 0, &state)
}

/// What the parts of a multi-range transaction brought, as a state to evaluate on.
struct Gathered {
    parts: Vec<(Span, RangeOp, Option<RangeResult>)>,
}

impl StateReads for Gathered {
    fn latest(&self, key: &[u8]) -> Option<Version> {
        self.at(key, Revision::MAX)
    }

    fn at(&self, key: &[u8], revision: Revision) -> Option<Version> {
        let span = Span::key(&Bytes::copy_from_slice(key));
        let mut found = None;
        self.scan(&span, revision, true, &mut |_, version| {
            found = Some(version);
            ControlFlow::Break(())
        });
        found
    }

    fn scan(
        &self,
        span: &Span,
        revision: Revision,
        _values: bool,
        visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
        // Parts may repeat keys (a compare and a read of the same key) and revisions.
        let mut rows: BTreeMap<Bytes, Version> = BTreeMap::new();
        for (part, read, found) in &self.parts {
            if !part.overlaps(span) || read.revision != revision {
                continue;
            }
            for kv in found.iter().flat_map(|found| &found.kvs) {
                if span.contains(&kv.key) {
                    rows.insert(
                        kv.key.clone(),
                        Version {
                            mod_revision: kv.mod_revision,
                            sub: 0,
                            create_revision: kv.create_revision,
                            version: kv.version,
                            lease: kv.lease,
                            value: Some(kv.value.clone()),
                        },
                    );
                }
            }
        }
        for (key, version) in rows {
            if visit(key, version).is_break() {
                return;
            }
        }
    }

    fn history(
        &self,
        _span: &Span,
        _from: Revision,
        _to: Revision,
        _visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
    }

    fn lease_keys(&self, _lease: i64, _span: &Span) -> Vec<Bytes> {
        Vec::new()
    }

    fn system_rows(&self, _range: RangeId) -> Vec<(Bytes, Bytes)> {
        Vec::new()
    }
}
