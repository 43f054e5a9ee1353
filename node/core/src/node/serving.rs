//! A request for a replica on this node: the leaseholder takes it, or whoever asked is told where
//! else to go.
//!
//! Invariant: only the holder of the range lease serves; what waits for a lease is bounded.

use super::Node;
use crate::error::Misrouted;
use crate::ids::{META_RANGE, RangeId};
use crate::leaseholder::{Asked, Asker, Lock, Work};
use crate::message::{InternalReply, Outcome, RangeRequest, RoutedRequest};
use crate::state::StateReads;

/// Requests that wait at a replica for its lease.
const WAITING_MAX: usize = 10_000;

impl Node {
    /// Something to evaluate, for a range whose lease this node may hold.
    pub(super) fn ask_leaseholder(&mut self, range: RangeId, asked: Asked, state: &dyn StateReads) {
        self.with_leaseholder(range, state, |holder, view, out| holder.ask(asked, view, out));
        self.router.proposing(range);
    }

    /// A request for a replica on this node.
    pub(super) fn serve(&mut self, asker: Asker, request: RoutedRequest, state: &dyn StateReads) {
        let range = request.range;
        if matches!(request.body, RangeRequest::Meta(_))
            && !self.sequencer.is_active()
            && self.sequencer.is_expecting()
            && let Some(replica) = self.replicas.get_mut(&META_RANGE)
            && replica.seldom.waiting.len() < WAITING_MAX
        {
            replica.seldom.waiting.push((asker, request));
            return;
        }
        if let RangeRequest::Meta(meta) = request.body {
            return self.serve_meta(asker, request.id, meta);
        }
        let Some(replica) = self.replicas.get_mut(&range) else {
            return self.out.misrouted(asker, Misrouted::NoReplica);
        };
        if let RangeRequest::Transfer { to } = request.body {
            return self.serve_transfer(asker, range, to);
        }
        if matches!(request.body, RangeRequest::Weigh) {
            return self.serve_weigh(asker, range);
        }
        if let RangeRequest::Freeze { .. }
        | RangeRequest::Thaw { .. }
        | RangeRequest::Merge { .. } = request.body
        {
            return self.serve_merging(asker, request, state);
        }
        let serves =
            if range == META_RANGE { self.sequencer.is_active() } else { replica.holds_lease() };
        if !serves {
            if replica.may_lead_soon() && replica.seldom.waiting.len() < WAITING_MAX {
                replica.seldom.waiting.push((asker, request));
                return;
            }
            let hint = replica.leader_node().filter(|node| *node != self.config.node);
            if replica.asleep {
                replica.wake(&mut self.awake);
            }
            return self.out.misrouted(asker, Misrouted::NotLeaseholder { hint });
        }
        let RoutedRequest { id, settled_below, body, .. } = request;
        let again = matches!(body, RangeRequest::KvAgain(_));
        if range != META_RANGE && self.config.shaping.counts() {
            replica.note_load(&body);
        }
        match body {
            RangeRequest::Kv(op) | RangeRequest::KvAgain(op) => {
                let asked = Asked { asker, id, settled_below, again, work: Work::Op(op) };
                self.ask_leaseholder(range, asked, state);
            }
            RangeRequest::RevokeLease { lease } => {
                let asked =
                    Asked { asker, id, settled_below, again, work: Work::RevokeLease(lease) };
                self.ask_leaseholder(range, asked, state);
            }
            // What the transaction changes may be decided already.
            RangeRequest::LeaseKeys { .. } if replica.intent.is_some() => {
                self.out.misrouted(asker, Misrouted::Busy);
            }
            RangeRequest::LeaseKeys { lease } => {
                let span = replica.descriptor.as_ref().map(|own| own.span.clone());
                let keys = span.map_or_else(Vec::new, |span| state.lease_keys(lease, &span));
                self.outcome(asker, Outcome::Internal(InternalReply::Keys(keys)));
            }
            RangeRequest::Lock { txn, node, reads, wait } => {
                let asked = Asked {
                    asker,
                    id: txn,
                    settled_below,
                    again,
                    work: Work::Lock(Lock { node, reads, wait }),
                };
                self.ask_leaseholder(range, asked, state);
            }
            RangeRequest::Resolve { txn, settled_below, decision } => {
                self.with_leaseholder(range, state, |holder, view, out| {
                    holder.resolve((txn, settled_below), decision, asker, view, out);
                });
                self.router.proposing(range);
            }
            RangeRequest::Split { key, child } => {
                self.serve_split(asker, id, range, (key, child), state);
            }
            RangeRequest::ChangeReplicas { add, remove, generation } => {
                self.serve_change_replicas(asker, id, range, (add, remove), generation);
            }
            RangeRequest::SwapVoters { add, remove, generation } => {
                self.serve_swap_voters(asker, range, (add, remove), generation);
            }
            RangeRequest::Check => self.serve_check(asker, range),
            RangeRequest::Rank { first, generation } => {
                self.serve_rank(asker, id, range, (first, generation), state);
            }
            RangeRequest::Stale(_)
            | RangeRequest::Weigh
            | RangeRequest::Transfer { .. }
            | RangeRequest::Freeze { .. }
            | RangeRequest::Thaw { .. }
            | RangeRequest::Merge { .. }
            | RangeRequest::Meta(_) => {
                self.out.misrouted(asker, Misrouted::NoReplica);
            }
        }
    }
}
