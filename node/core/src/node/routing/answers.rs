//! How requests end: whoever asked is told.
//!
//! Invariant: only the answer to the last attempt counts, and whoever asked is told once.

use super::{Owner, Place};
use crate::effects::Millis;
use crate::error::Error;
use crate::message::{InternalReply, Outcome, RangeRequest};
use crate::node::Node;
use crate::node::shrinking::Weight;
use crate::request::Response;

impl Node {
    /// A routed request ended, or has to go elsewhere.
    pub(in crate::node) fn routed_outcome(&mut self, token: u64, outcome: Outcome) {
        let Some(sequence) = self.router.request_of(token) else { return };
        match outcome {
            Outcome::Done(result) => {
                if let Some(pending) = self.router.remove(sequence) {
                    if let (RangeRequest::Kv(op), Ok(Response::Kv { revision, .. })) =
                        (&pending.body, &result)
                        && !op.is_read_only()
                        && let Some(range) = self.range_at(&pending.place)
                    {
                        self.router.wrote(range, *revision);
                    }
                    self.finish(pending.owner, result);
                }
            }
            Outcome::Internal(reply) => {
                if let Some(pending) = self.router.remove(sequence) {
                    self.finish_internal(pending.owner, pending.deadline, reply);
                }
            }
            Outcome::Misrouted { reason, descriptors } => {
                for descriptor in &descriptors {
                    self.learn(descriptor);
                }
                self.try_again(sequence, &reason);
            }
        }
    }

    pub(super) fn finish(&mut self, owner: Owner, result: Result<Response, Error>) {
        match owner {
            Owner::Client(token) | Owner::SplitId(token, _) => {
                self.effects.replies.push((token, result));
            }
            Owner::Gather(gather, part) => self.gathered(gather, part, result),
            Owner::Revoke(lease, range) => match result {
                Ok(Response::LeaseRevoke { revision }) => self.revoked_in(lease, range, revision),
                // Only a range that says so has deleted the keys.
                Ok(_) | Err(_) => self.revoke_in(lease, range),
            },
            Owner::LeaseKeys(collect) => self.collected(collect, Vec::new()),
            Owner::Lock(transaction, part) => {
                let error = result.err().unwrap_or(Error::TimedOut);
                self.lock_failed(transaction, part, error);
            }
            Owner::Commit(transaction) => {
                let error = result.err().unwrap_or(Error::TimedOut);
                self.commit_delayed(transaction, error);
            }
            Owner::Resolve(transaction, part) => self.send_resolve(transaction, part),
            Owner::Sweep(txn, range) => self.sweep_range(txn, range),
            Owner::Cut(range, ..) => self.cut_ended(range),
            Owner::CutAt(range, why) => {
                if result.is_ok() {
                    self.cut_done(why);
                }
                self.cut_ended(range);
            }
            Owner::Weigh(range) => self.weighed(range, None),
            Owner::Merging(merge) => self.merging_failed(merge),
            // Whoever needs it asks again.
            Owner::Settle(..) | Owner::Register(_) | Owner::Bound(_) | Owner::Nobody => {}
        }
    }

    pub(super) fn finish_internal(&mut self, owner: Owner, deadline: Millis, reply: InternalReply) {
        match (owner, reply) {
            (Owner::LeaseKeys(collect), InternalReply::Keys(keys)) => {
                self.collected(collect, keys);
            }
            (Owner::Lock(transaction, part), reply) => self.lock_answered(transaction, part, reply),
            (Owner::Bound(key), InternalReply::Range(child)) => self.cut_at_bound(key, child),
            (Owner::Cut(range, key, why), InternalReply::Range(child)) => {
                self.cut_at(range, key, child, why);
            }
            (Owner::Weigh(range), InternalReply::Weight { bytes, quiet_ms }) => {
                self.weighed(range, Some(Weight::new(bytes, quiet_ms)));
            }
            (Owner::Commit(transaction), InternalReply::Decided(verdict)) => {
                self.decided(transaction, verdict);
            }
            (Owner::Resolve(transaction, part), InternalReply::Ok) => {
                self.part_resolved(transaction, part);
            }
            (Owner::Settle(range, txn), InternalReply::Settled(decision)) => {
                self.settled(range, txn, decision);
            }
            (Owner::Sweep(txn, range), InternalReply::Ok) => self.range_swept(txn, range),
            (Owner::SplitId(token, key), InternalReply::Range(child)) => {
                let body = RangeRequest::Split { key: key.clone(), child };
                let sequence = self.enqueue(Owner::Client(token), Place::Key(key), body, deadline);
                self.dispatch_remote_or_loop(sequence);
            }
            (Owner::Merging(merge), reply) => self.merging_answered(merge, reply),
            (Owner::Client(token), InternalReply::Joined { cluster, node, peers }) => {
                let peers: Vec<String> =
                    peers.iter().map(|(id, address)| format!("{}={address}", id.0)).collect();
                let message = format!("{cluster} {} {}", node.0, peers.join(","));
                self.effects.replies.push((token, Ok(Response::Admin { message })));
            }
            (Owner::Client(token), _) => {
                let message = "done".to_owned();
                self.effects.replies.push((token, Ok(Response::Admin { message })));
            }
            (_, _) => {}
        }
    }
}
