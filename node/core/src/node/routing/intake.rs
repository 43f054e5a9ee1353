//! What clients of this gateway ask: where it goes, and what can be answered here.
//!
//! Invariant: nothing is taken beyond the bound on requests under way.

use super::{Owner, Place, REQUESTS_MAX};
use crate::effects::{ClientToken, Millis};
use crate::error::Error;
use crate::ids::{META_RANGE, RangeId, Revision};
use crate::key::Span;
use crate::level::Level;
use crate::message::{MetaRequest, RangeRequest};
use crate::node::Node;
use crate::node::gather::collect_reads;
use crate::read::{Origin, ReadTask, ReadWork};
use crate::request::{AdminOp, Op, Request};
use crate::state::StateReads;
use std::collections::{BTreeMap, BTreeSet};

impl Node {
    pub(in crate::node) fn client_request(
        &mut self,
        token: ClientToken,
        deadline: Millis,
        request: Request,
        state: &dyn StateReads,
    ) {
        if self.router.pending.len() >= REQUESTS_MAX {
            return self.fail_client(token, Error::TooManyRequests);
        }
        match request {
            Request::Kv(op) => self.client_op(token, deadline, op, state),
            Request::CurrentRevision => {
                let sequence = self.enqueue(
                    Owner::Client(token),
                    Place::Meta,
                    RangeRequest::Meta(MetaRequest::Client(Request::CurrentRevision)),
                    deadline,
                );
                self.dispatch(sequence, state);
            }
            Request::Admin(op) => self.admin_request(token, deadline, op, state),
            request @ (Request::Compact { .. }
            | Request::LeaseGrant { .. }
            | Request::LeaseRevoke { .. }
            | Request::LeaseKeepAlive { .. }
            | Request::LeaseTimeToLive { .. }
            | Request::LeaseList
            | Request::Alarm { .. }) => {
                let body = RangeRequest::Meta(MetaRequest::Client(request));
                let sequence = self.enqueue(Owner::Client(token), Place::Meta, body, deadline);
                self.dispatch(sequence, state);
            }
        }
    }

    fn admin_request(
        &mut self,
        token: ClientToken,
        deadline: Millis,
        op: AdminOp,
        state: &dyn StateReads,
    ) {
        if let Err(reason) = self.check_level(least_level(&op)) {
            return self.fail_client(token, Error::Refused(reason));
        }
        let sequence = match op {
            // The cut is there: only the directory has to know that somebody wants it.
            AdminOp::Split { key } if self.may_pin(&key) => self.enqueue(
                Owner::Client(token),
                Place::Meta,
                RangeRequest::Meta(MetaRequest::Client(Request::Admin(AdminOp::Split { key }))),
                deadline,
            ),
            AdminOp::Split { key } => self.enqueue(
                Owner::SplitId(token, key),
                Place::Meta,
                RangeRequest::Meta(MetaRequest::AllocateRange),
                deadline,
            ),
            AdminOp::Transfer { range, to } => self.enqueue(
                Owner::Client(token),
                if range == META_RANGE { Place::Meta } else { Place::Range(range) },
                RangeRequest::Transfer { to },
                deadline,
            ),
            AdminOp::Check { range } => self.enqueue(
                Owner::Client(token),
                if range == META_RANGE { Place::Meta } else { Place::Range(range) },
                RangeRequest::Check,
                deadline,
            ),
            op @ (AdminOp::Drain { .. }
            | AdminOp::Undrain { .. }
            | AdminOp::Leave { .. }
            | AdminOp::Move { .. }
            | AdminOp::Merge { .. }
            | AdminOp::DrainFor { .. }
            | AdminOp::Facts { .. }
            | AdminOp::Domain { .. }
            | AdminOp::Room { .. }
            | AdminOp::SetPolicy { .. }
            | AdminOp::RemovePolicy { .. }
            | AdminOp::Reprotect { .. }) => self.enqueue(
                Owner::Client(token),
                Place::Meta,
                RangeRequest::Meta(MetaRequest::Client(Request::Admin(op))),
                deadline,
            ),
        };
        self.dispatch(sequence, state);
    }

    /// Does a range begin here, because the cluster has cut by itself?
    fn may_pin(&self, key: &[u8]) -> bool {
        let range = self.meta.range_of(key).filter(|range| range.span.start == key);
        self.meta.level() >= Level::SHAPING
            && range.is_some_and(|range| self.meta.is_automatic(range.id))
    }

    fn client_op(&mut self, token: ClientToken, deadline: Millis, op: Op, state: &dyn StateReads) {
        let spans = op.spans();
        if op.is_serializable() && self.serve_stale(token, &op, &spans) {
            return;
        }
        let mut ranges: BTreeSet<RangeId> = BTreeSet::new();
        for span in &spans {
            if let (Some(key), 1) = (span.single(), spans.len()) {
                ranges.extend(self.meta.range_of(key).map(|range| range.id));
            } else {
                ranges.extend(self.meta.ranges_in(span).iter().map(|range| range.id));
            }
        }
        if ranges.len() > 1 {
            if !op.is_read_only() {
                return self.start_transaction(token, deadline, op);
            }
            return self.start_gather(token, deadline, op);
        }
        // An empty interval touches no range, but its answer has a header all the same.
        let key = spans.first().map(|span| span.start.clone()).unwrap_or_default();
        let sequence =
            self.enqueue(Owner::Client(token), Place::Key(key), RangeRequest::Kv(op), deadline);
        self.dispatch(sequence, state);
    }

    /// A read that may be stale, from what this node has. Its header must be exact all the same:
    /// clients start watches from it. So it is a revision up to which the replica here has
    /// everything. What lies in several ranges is old as the oldest of them, so that is read in
    /// the ordinary way as long as there is a sequencer.
    fn serve_stale(&mut self, token: ClientToken, op: &Op, spans: &[Span]) -> bool {
        let mut ranges: BTreeMap<RangeId, Revision> = BTreeMap::new();
        for span in spans {
            for range in self.meta.ranges_in(span) {
                let part = range.span.intersect(span).unwrap_or_else(|| range.span.clone());
                let Some(replica) = self.replicas.get(&range.id) else { return false };
                if !replica.descriptor.as_ref().is_some_and(|own| own.span.covers(&part)) {
                    return false;
                }
                let complete = if replica.holds_lease() {
                    replica.leaseholder.watermark().max(replica.revision)
                } else {
                    replica.revision
                };
                ranges.insert(range.id, complete.max(1));
            }
        }
        let compacted = self.meta.compacted();
        let Some(revision) = ranges.values().min().copied() else { return false };
        if ranges.len() > 1 && (self.session.sequencer().is_some() || revision < compacted) {
            return false;
        }
        // Who has written through this gateway expects to see it, as long as the leaders can be
        // asked.
        let behind = ranges.iter().any(|(range, complete)| {
            self.router.answered.get(range).is_some_and(|newest| newest > complete)
        });
        if behind && self.session.sequencer().is_some() {
            return false;
        }
        let mut reads = Vec::new();
        collect_reads(op, &mut reads);
        if reads.iter().any(|read| read.revision > revision) {
            return false;
        }
        let unleased = ranges.into_keys().collect();
        self.effects.reads.push(ReadTask {
            origin: Origin::Client(token),
            work: ReadWork::At { op: op.clone(), revision, compacted, unleased },
        });
        true
    }
}

/// What every node must understand before this may be sent.
fn least_level(op: &AdminOp) -> Level {
    match op {
        AdminOp::Domain { .. }
        | AdminOp::Room { .. }
        | AdminOp::Facts { .. }
        | AdminOp::SetPolicy { .. }
        | AdminOp::RemovePolicy { .. } => Level::SHAPING,
        AdminOp::Split { .. }
        | AdminOp::Transfer { .. }
        | AdminOp::Drain { .. }
        | AdminOp::Undrain { .. }
        | AdminOp::Leave { .. }
        | AdminOp::Reprotect { .. }
        | AdminOp::Check { .. }
        | AdminOp::DrainFor { .. }
        | AdminOp::Move { .. }
        | AdminOp::Merge { .. } => Level::FIRST,
    }
}
