//! Changing the members of a range: a replacement for a node that is gone for good.
//!
//! The meta range's leader looks at the directory again and again and asks each range that has a
//! replica on a tombstoned node for the next step; the range's leader takes that step from what it
//! sees. Nothing is remembered between steps, so a crash of either loses nothing.
//!
//! ```text
//!   A B (C gone)  ─► add D as learner ─► D caught up ─► {A B C} → {A B D} in one joint change
//! ```
//!
//! Invariants: a new replica counts for the majority only once it has the data; the old one leaves
//! in the same change; a replica id is never used twice.

use super::Node;
use super::routing::Owner;
use crate::bootstrap::meta_voters;
use crate::command::{MetaChange, MetaEntry};
use crate::descriptor::{NodeState, RangeDescriptor, ReplicaDescriptor, ReplicaKind};
use crate::effects::Millis;
use crate::error::{Error, Misrouted};
use crate::ids::{META_RANGE, NodeId, RangeId, ReplicaId, RequestId};
use crate::leaseholder::Asker;
use crate::message::{Outcome, RangeRequest};
use crate::request::Response;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};
use std::collections::BTreeMap;

/// Pause between two looks at the directory.
const PLAN_MS: Millis = 300;
/// Ranges that are asked for a step in one look.
const STEPS_MAX: usize = 16;
/// A learner that lacks no more entries than this has caught up.
const CAUGHT_UP: u64 = 100;

/// What to change in a range.
struct Step {
    range: RangeId,
    add: Option<NodeId>,
    remove: Option<NodeId>,
    generation: u64,
}

impl Node {
    /// Looks for ranges with replicas on nodes that will not come back.
    pub(super) fn plan_members(&mut self) {
        if self.now < self.plan_at {
            return;
        }
        self.plan_at = self.now + PLAN_MS;
        let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
        for range in self.meta.ranges().values() {
            for replica in &range.replicas {
                *load.entry(replica.node).or_default() += 1;
            }
        }
        let mut steps: Vec<Step> = Vec::new();
        for range in self.meta.ranges().values() {
            if steps.len() < STEPS_MAX
                && let Some(step) = self.plan_range(range, &mut load)
            {
                steps.push(step);
            }
        }
        for Step { range, add, remove, generation } in steps {
            let body = RangeRequest::ChangeReplicas { add, remove, generation };
            self.internal_request(Owner::Nobody, range, body);
        }
    }

    fn plan_range(
        &self,
        range: &RangeDescriptor,
        load: &mut BTreeMap<NodeId, usize>,
    ) -> Option<Step> {
        let is_up = |node: NodeId| {
            self.meta.nodes().get(&node).is_some_and(|record| record.state == NodeState::Up)
                && (node == self.config.node
                    || self.peers.get(&node).is_some_and(|peer| peer.connected && !peer.down))
        };
        let gone = range.replicas.iter().find(|replica| {
            self.meta
                .nodes()
                .get(&replica.node)
                .is_none_or(|record| record.state == NodeState::Tombstoned)
        });
        // A change that was begun goes on with the same learner.
        let begun = range
            .replicas
            .iter()
            .find(|replica| replica.kind == ReplicaKind::Learner && is_up(replica.node));
        let step = |add: Option<NodeId>, remove: Option<NodeId>| {
            Some(Step { range: range.id, add, remove, generation: range.generation })
        };
        let free = || {
            self.meta
                .nodes()
                .keys()
                .copied()
                .filter(|node| is_up(*node) && range.replica_on(*node).is_none())
                .min_by_key(|node| (load.get(node).copied().unwrap_or(0), *node))
        };
        match (gone, begun) {
            (Some(gone), _) if gone.kind == ReplicaKind::Learner => step(None, Some(gone.node)),
            (Some(gone), Some(begun)) => step(Some(begun.node), Some(gone.node)),
            (Some(gone), None) => {
                let target = free()?;
                *load.entry(target).or_default() += 1;
                step(Some(target), Some(gone.node))
            }
            // Every node has a copy of the meta range: it is its directory.
            (None, begun) if range.id == META_RANGE => {
                let wanted = meta_voters(
                    self.meta
                        .nodes()
                        .values()
                        .filter(|node| node.state != NodeState::Tombstoned)
                        .count(),
                );
                match begun {
                    Some(begun) if range.voters().count() < wanted => step(Some(begun.node), None),
                    Some(_) | None => step(Some(free()?), None),
                }
            }
            (None, _) => None,
        }
    }

    /// One step of a change of members, on the range's leader.
    pub(super) fn serve_change_replicas(
        &mut self,
        asker: Asker,
        _id: RequestId,
        range: RangeId,
        (add, remove): (Option<NodeId>, Option<NodeId>),
        generation: u64,
    ) {
        let Some(replica) = self.replicas.get_mut(&range) else {
            return self.out.misrouted(asker, Misrouted::NoReplica);
        };
        let Some(descriptor) = replica.descriptor.clone() else { return };
        let done =
            |message: &str| Outcome::Done(Ok(Response::Admin { message: message.to_owned() }));
        if descriptor.generation != generation {
            let error = Error::Refused(format!("{range} has changed meanwhile"));
            return self.outcome(asker, Outcome::Done(Err(error)));
        }
        if replica.group.is_changing() || replica.group.is_joint() || replica.admin.is_some() {
            return self.outcome(asker, done("a change is under way"));
        }
        let progress = replica.group.progress();
        let last = replica.group.last_index();
        let caught_up = |id: ReplicaId| {
            progress.iter().any(|(replica, matched, active, _)| {
                *replica == id && *active && *matched + CAUGHT_UP >= last
            })
        };
        let learner = add.and_then(|node| descriptor.replica_on(node));
        let next = match (learner, add) {
            (None, Some(node)) => Some(add_learner(&descriptor, node)),
            (Some(learner), _) if caught_up(learner.replica) => {
                Some(promote(&descriptor, learner, remove))
            }
            (Some(_), _) => None,
            (None, None) => remove
                .and_then(|node| descriptor.replica_on(node))
                .map(|gone| remove_learner(&descriptor, gone)),
        };
        let Some((new, change)) = next else {
            return self.outcome(asker, done("the new replica is catching up"));
        };
        let context = postcard::to_stdvec(&new).expect("a descriptor can be encoded");
        let proposed = replica.group.propose_change(context, change);
        replica.asleep = false;
        replica.idle_ticks = 0;
        self.dirty.insert(range);
        if proposed {
            self.outcome(asker, done("proposed"));
        } else {
            self.out.misrouted(asker, Misrouted::Busy);
        }
    }

    /// The second half of a joint change, if the leader that began it did not get there.
    pub(super) fn finish_joint(&mut self, range: RangeId) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        if replica.group.is_leader()
            && replica.group.is_joint()
            && !replica.group.is_changing()
            && replica.group.propose_change(Vec::new(), ConfChangeV2::default())
        {
            self.dirty.insert(range);
        }
    }

    /// The directory learns the meta range's own members from its log.
    pub(super) fn publish_meta_members(&mut self, descriptor: RangeDescriptor) {
        let Some(replica) = self.replicas.get(&META_RANGE) else { return };
        let term = replica.group.term();
        let node = self.config.node;
        self.service.change(MetaEntry {
            id: RequestId::default(),
            change: MetaChange::Register {
                descriptor,
                term,
                node,
                parent: None,
                cut_off: Vec::new(),
            },
        });
    }
}

fn single(kind: ConfChangeType, replica: ReplicaId) -> ConfChangeSingle {
    let mut change = ConfChangeSingle::default();
    change.set_change_type(kind);
    change.node_id = replica.0;
    change
}

fn change_of(changes: Vec<ConfChangeSingle>) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    change.set_changes(changes.into());
    change
}

fn add_learner(old: &RangeDescriptor, node: NodeId) -> (RangeDescriptor, ConfChangeV2) {
    let mut new = old.clone();
    let replica = ReplicaId(new.next_replica);
    new.next_replica += 1;
    new.generation += 1;
    new.replicas.push(ReplicaDescriptor { replica, node, kind: ReplicaKind::Learner });
    (new, change_of(vec![single(ConfChangeType::AddLearnerNode, replica)]))
}

fn remove_learner(
    old: &RangeDescriptor,
    gone: ReplicaDescriptor,
) -> (RangeDescriptor, ConfChangeV2) {
    let mut new = old.clone();
    new.generation += 1;
    new.replicas.retain(|replica| replica.replica != gone.replica);
    (new, change_of(vec![single(ConfChangeType::RemoveNode, gone.replica)]))
}

/// The learner becomes a voter; the one that is gone leaves in the same change, and the new one
/// takes its rank.
fn promote(
    old: &RangeDescriptor,
    learner: ReplicaDescriptor,
    remove: Option<NodeId>,
) -> (RangeDescriptor, ConfChangeV2) {
    let mut new = old.clone();
    new.generation += 1;
    let voter = ReplicaDescriptor { kind: ReplicaKind::Voter, ..learner };
    let mut changes = vec![single(ConfChangeType::AddNode, learner.replica)];
    new.replicas.retain(|replica| replica.replica != learner.replica);
    let place = new.replicas.iter().position(|replica| Some(replica.node) == remove);
    match place {
        Some(place) => {
            changes.push(single(ConfChangeType::RemoveNode, new.replicas[place].replica));
            new.replicas[place] = voter;
        }
        None => new.replicas.push(voter),
    }
    (new, change_of(changes))
}
