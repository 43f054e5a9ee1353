//! Requests that did not arrive where they belong: tried again, divided anew, or given up.
//!
//! Invariants: what may have been carried out is not started over under another id; a request ends at
//! its deadline at the latest.

use super::{Owner, Pending, Place};
use crate::effects::Millis;
use crate::error::{Error, Misrouted};
use crate::ids::{META_RANGE, NodeId, RangeId};
use crate::message::{InternalReply, RangeRequest};
use crate::node::Node;
use crate::request::Op;
use std::collections::BTreeSet;

/// Pause before a request that nobody took is tried again.
pub(super) const RETRY_MS: Millis = 10;
/// Immediate attempts on fresh hints, before pauses begin.
const EAGER_ATTEMPTS: u32 = 3;

impl Node {
    pub(super) fn try_again(&mut self, sequence: u64, reason: &Misrouted) {
        self.counters.retried += 1;
        if *reason == Misrouted::RangeMoved && self.is_several_now(sequence) {
            return self.start_over(sequence);
        }
        let now = self.now;
        let me = self.config.node;
        let Some(pending) = self.router.pending.get_mut(&sequence) else { return };
        let range = match &pending.place {
            Place::Key(key) => self.meta.range_of(key).map(|range| range.id),
            Place::Range(range) => Some(*range),
            Place::Meta => None,
        };
        let from = pending.sent_to.take();
        // Whoever says so has not carried it out, and will not.
        pending.out = false;
        let mut eager = false;
        pending.uncertain |= matches!(reason, Misrouted::Abandoned { .. });
        match reason {
            Misrouted::NotLeaseholder { hint } | Misrouted::Abandoned { hint } => {
                if let Some(range) = range {
                    match hint {
                        Some(hint) if Some(*hint) != from && *hint != me => {
                            self.router.hints.insert(range, *hint);
                            eager = pending.attempts <= EAGER_ATTEMPTS;
                        }
                        _ => {
                            self.router.hints.remove(&range);
                        }
                    }
                }
            }
            Misrouted::RangeMoved => eager = pending.attempts <= EAGER_ATTEMPTS,
            Misrouted::NoReplica => {
                if let Some(range) = range {
                    self.router.hints.remove(&range);
                }
            }
            Misrouted::Busy => {}
        }
        pending.retry_at = Some(if eager { now } else { now + RETRY_MS });
        if eager {
            self.dispatch_remote_or_loop(sequence);
        }
    }

    /// Were the keys of a request in one range when it was sent, and are in several now?
    fn is_several_now(&self, sequence: u64) -> bool {
        let Some(pending) = self.router.pending.get(&sequence) else { return false };
        match (&pending.owner, &pending.body) {
            (Owner::Client(_) | Owner::Gather(..), RangeRequest::Kv(op)) => self.is_in_several(op),
            // Its range is another one now, whatever that holds.
            (Owner::Lock(..), _) => true,
            (_, _) => false,
        }
    }

    fn is_in_several(&self, op: &Op) -> bool {
        let spans = op.spans();
        let ranges = spans.iter().flat_map(|span| self.meta.ranges_in(span));
        ranges.map(|range| range.id).collect::<BTreeSet<_>>().len() > 1
    }

    /// A range was cut on the way: the request is divided anew.
    fn start_over(&mut self, sequence: u64) {
        let Some(pending) = self.router.remove(sequence) else { return };
        match (pending.owner, pending.body) {
            (Owner::Client(token), RangeRequest::Kv(op)) if op.is_read_only() => {
                self.start_gather(token, pending.deadline, op);
            }
            // What an earlier attempt did, no transaction with another id can know.
            (owner @ Owner::Client(_), RangeRequest::Kv(_))
                if pending.doubtful || pending.uncertain =>
            {
                self.finish(owner, Err(Error::TimedOut));
            }
            (Owner::Client(token), RangeRequest::Kv(op)) => {
                self.start_transaction(token, pending.deadline, op);
            }
            (Owner::Gather(gather, _), _) => self.gather_again(gather),
            (Owner::Lock(transaction, part), _) => self.lock_moved(transaction, part),
            (_, _) => {}
        }
    }

    /// What is asked of a range that is gone goes to the one that took it in, or has ended.
    pub(super) fn follow_merge(&mut self, sequence: u64) {
        let Some(pending) = self.router.pending.get_mut(&sequence) else { return };
        let Place::Range(range) = &mut pending.place else { return };
        let Some(into) = self.meta.merges().way(*range).last() else { return };
        match &pending.body {
            RangeRequest::RevokeLease { .. } | RangeRequest::LeaseKeys { .. } => *range = into,
            // No lock stood when it was frozen: whatever was decided was carried out, or has no part
            // in it.
            RangeRequest::Resolve { .. } => {
                if let Some(pending) = self.router.remove(sequence) {
                    let (owner, deadline) = (pending.owner, pending.deadline);
                    self.finish_internal(owner, deadline, InternalReply::Ok);
                }
            }
            RangeRequest::Lock { .. } => self.start_over(sequence),
            _ => {
                let error = Error::Refused(format!("{range} is a part of {into} now"));
                if let Some(pending) = self.router.remove(sequence) {
                    self.finish(pending.owner, Err(error));
                }
            }
        }
    }

    /// Requests whose time has come to be tried again, or to fail.
    pub(in crate::node) fn router_tick(&mut self) {
        let now = self.now;
        let no_sequencer = self.is_lost(META_RANGE);
        if no_sequencer {
            self.fail_gathers();
        }
        let mut again = Vec::new();
        let mut expired = Vec::new();
        for (sequence, pending) in &self.router.pending {
            let Pending { owner, place, since, .. } = pending;
            if pending.deadline <= now {
                expired.push(*sequence);
            } else if pending.retry_at.is_some_and(|at| at <= now) {
                if self.gives_up(owner, place, *since) {
                    expired.push(*sequence);
                } else {
                    again.push(*sequence);
                }
            } else if no_sequencer && self.gives_up_revision(owner, *since) {
                expired.push(*sequence);
            }
        }
        for sequence in expired {
            let Some(pending) = self.router.remove(sequence) else { continue };
            let error = self.no_answer(&pending.place);
            match pending.owner {
                // A registration is needed as long as the replica leads.
                Owner::Register(range) => {
                    if let Some(replica) = self.replicas.get_mut(&range)
                        && matches!(replica.lease, crate::replica::Lease::Registering(_))
                    {
                        replica.lease = crate::replica::Lease::None;
                        self.dirty.insert(range);
                    }
                }
                Owner::Revoke(lease, range) => self.revoke_in(lease, range),
                owner => self.finish(owner, Err(error)),
            }
        }
        for sequence in again {
            self.dispatch_remote_or_loop(sequence);
        }
        let late: Vec<u64> = self
            .router
            .gathers
            .iter()
            .filter(|(_, gather)| gather.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some(gather) = self.router.gathers.remove(&id) {
                self.router.tokens.remove(&gather.token);
                let error = self.no_answer(&Place::Meta);
                self.fail_client(gather.token, error);
            }
        }
        self.transactions_tick();
    }

    /// Requests sent to a node that cannot answer any more are sent anew.
    pub(in crate::node) fn resend_from(&mut self, node: NodeId) {
        let now = self.now;
        for pending in self.router.pending.values_mut() {
            if pending.sent_to == Some(node) {
                pending.sent_to = None;
                pending.retry_at = Some(now);
            }
        }
        self.router.hints.retain(|_, hint| *hint != node);
    }

    /// A range is led by `node` now: what was sent to another one, which may never answer, is sent
    /// anew.
    pub(in crate::node) fn range_moved(&mut self, range: RangeId, node: NodeId) {
        self.router.moved(range);
        let now = self.now;
        let mut stale = Vec::new();
        for (sequence, pending) in &self.router.pending {
            if pending.sent_to.is_some_and(|to| to != node)
                && self.range_at(&pending.place) == Some(range)
            {
                stale.push(*sequence);
            }
        }
        for sequence in stale {
            if let Some(pending) = self.router.pending.get_mut(&sequence) {
                pending.sent_to = None;
                pending.retry_at = Some(now);
            }
            self.dispatch_remote_or_loop(sequence);
        }
    }

    /// A range has another leader: what waits to be sent to it may go now.
    pub(in crate::node) fn retry_range(&mut self, range: RangeId) {
        let now = self.now;
        self.retry(|node, pending| {
            pending.retry_at.is_some_and(|at| at > now)
                && node.range_at(&pending.place) == Some(range)
        });
    }

    /// The lease of a range changed hands: what waits for it may go now.
    pub(in crate::node) fn retry_waiting(&mut self) {
        self.retry(|_, pending| pending.retry_at.is_some());
    }

    /// Sends those that wait to be sent and are wanted.
    fn retry(&mut self, wanted: impl Fn(&Self, &Pending) -> bool) {
        let pending = self.router.pending.iter();
        let waiting: Vec<u64> = pending
            .filter(|(_, pending)| pending.sent_to.is_none() && wanted(self, pending))
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in waiting {
            self.dispatch_remote_or_loop(sequence);
        }
    }
}
