//! Changing the members of ranges: for a node that is gone for good, is away for too long, or
//! leaves; and so that every node has about as many copies as the others.
//!
//! The meta range's leader looks at the directory again and again and asks each range that has a
//! replica on such a node for the next step; the range's leader takes that step from what it sees.
//! Nothing is remembered between steps, so a crash of either loses nothing.
//!
//! ```text
//!   A B (C gone)  ─► add D as learner ─► D caught up ─► {A B C} → {A B D} in one joint change
//! ```
//!
//! Invariants: a new replica counts for the majority only once it has the data; the old one leaves
//! in the same change; a leader never removes itself; a replica id is never used twice; no copies
//! are moved for evenness while some are missing.

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
use crate::meta::Move;
use crate::request::Response;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};
use std::collections::BTreeMap;

/// Pause between two looks at the directory.
const PLAN_MS: Millis = 300;
/// Ranges that are asked for a step in one look.
const STEPS_MAX: usize = 16;
/// Copies that may be on their way to one node.
const INCOMING_MAX: usize = 2;
/// A learner that lacks no more entries than this has caught up.
const CAUGHT_UP: u64 = 100;

/// What to change in a range.
pub(super) struct Step {
    pub(super) range: RangeId,
    pub(super) add: Option<NodeId>,
    pub(super) remove: Option<NodeId>,
    pub(super) generation: u64,
}

/// The nodes as the planner sees them.
pub(super) struct Load {
    /// Nodes in service that can be reached, with the copies they have or are getting.
    up: BTreeMap<NodeId, usize>,
    /// Copies that are on their way to a node.
    incoming: BTreeMap<NodeId, usize>,
}

impl Load {
    /// The node with the least to do that may take one more copy of `range`.
    pub(super) fn free(&self, range: &RangeDescriptor) -> Option<NodeId> {
        self.up
            .iter()
            .filter(|(node, _)| {
                range.replica_on(**node).is_none()
                    && self.incoming.get(node).is_none_or(|count| *count < INCOMING_MAX)
            })
            .min_by_key(|(node, copies)| (**copies, **node))
            .map(|(node, _)| *node)
    }

    pub(super) fn add(&mut self, node: NodeId) {
        *self.up.entry(node).or_default() += 1;
        *self.incoming.entry(node).or_default() += 1;
    }

    /// The voter whose node has so much more than `than` that a move makes things more even.
    fn fuller(&self, range: &RangeDescriptor, than: usize, leader: NodeId) -> Option<NodeId> {
        range
            .voters()
            .filter(|voter| voter.node != leader)
            .filter_map(|voter| Some((*self.up.get(&voter.node)?, voter.node)))
            .filter(|(copies, _)| *copies > than)
            .max()
            .map(|(_, node)| node)
    }
}

impl Node {
    /// Looks for ranges with replicas on nodes that are to lose them, for copies to spread, and for
    /// nodes whose fate has changed.
    pub(super) fn plan_members(&mut self) {
        if self.now < self.plan_at {
            return;
        }
        self.plan_at = self.now + PLAN_MS;
        self.publish_meta_members();
        self.plan_nodes();
        self.end_moves();
        let mut load = self.load();
        let mut steps: Vec<Step> = Vec::new();
        for range in self.meta.ranges().values() {
            if steps.len() < STEPS_MAX
                && let Some(step) = self.plan_range(range, &mut load)
            {
                steps.push(step);
            }
        }
        if steps.is_empty() {
            steps.extend(self.plan_balance(&load));
        }
        for Step { range, add, remove, generation } in steps {
            let body = RangeRequest::ChangeReplicas { add, remove, generation };
            self.internal_request(Owner::Nobody, range, body);
        }
    }

    /// Is it in service, and does it answer?
    fn is_up(&self, node: NodeId) -> bool {
        self.meta.nodes().get(&node).is_some_and(|record| record.state == NodeState::Up)
            && self.answers(node)
    }

    pub(super) fn answers(&self, node: NodeId) -> bool {
        node == self.config.node
            || self.peers.get(&node).is_some_and(|peer| peer.connected && !peer.down)
    }

    fn loses_replicas(&self, node: NodeId) -> bool {
        self.meta.nodes().get(&node).is_none_or(|record| record.state.loses_replicas())
    }

    fn load(&self) -> Load {
        let up = self.meta.nodes().keys().copied().filter(|node| self.is_up(*node));
        let mut load = Load { up: up.map(|node| (node, 0)).collect(), incoming: BTreeMap::new() };
        for range in self.meta.ranges().values().filter(|range| range.id != META_RANGE) {
            for replica in &range.replicas {
                if let Some(copies) = load.up.get_mut(&replica.node) {
                    *copies += 1;
                }
                if replica.kind == ReplicaKind::Learner {
                    *load.incoming.entry(replica.node).or_default() += 1;
                }
            }
        }
        load
    }

    /// Who was condemned and is back keeps what it has; who has nothing left is gone for good.
    fn plan_nodes(&mut self) {
        let mut changes: Vec<MetaChange> = Vec::new();
        for record in self.meta.nodes().values() {
            let node = record.id;
            let condemned = record.state == NodeState::Condemned;
            if condemned && self.answers(node) {
                changes.push(MetaChange::SetNodeState { node, state: NodeState::Up });
            } else if (condemned || record.state == NodeState::Leaving)
                && self.meta.ranges().values().all(|range| range.replica_on(node).is_none())
            {
                changes.push(MetaChange::Retire { node });
            }
        }
        for change in changes {
            self.service.change(MetaEntry { id: RequestId::default(), change });
        }
    }

    /// Would every range keep its number of copies without this node?
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn may_lose(&self, node: NodeId) -> Result<(), String> {
        if !self.meta.nodes().contains_key(&node) {
            return Err(format!("there is no node {node}"));
        }
        let others = self.meta.nodes().keys().filter(|other| **other != node);
        let others = others.filter(|other| self.is_up(**other)).count();
        for range in self.meta.ranges().values().filter(|range| range.id != META_RANGE) {
            let voters = range.voters().count();
            if range.replica_on(node).is_some() && others < voters {
                return Err(format!(
                    "no spare node: {} has {voters} copies, and without {node} only {others} nodes are in service",
                    range.id
                ));
            }
        }
        Ok(())
    }

    /// May the copies of this node be made elsewhere?
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn may_reprotect(&self, node: NodeId) -> Result<(), String> {
        self.may_lose(node)?;
        if self.answers(node) {
            return Err(format!(
                "{node} answers: nothing is lost (to take it out of service: drain)"
            ));
        }
        for range in self.meta.ranges().values() {
            let left = range.voters().filter(|voter| self.answers(voter.node)).count();
            if range.replica_on(node).is_some() && left < range.quorum() {
                return Err(format!(
                    "{} has no majority: {left} of {} copies are reachable",
                    range.id,
                    range.voters().count()
                ));
            }
        }
        Ok(())
    }

    fn plan_range(&self, range: &RangeDescriptor, load: &mut Load) -> Option<Step> {
        let gone = range.replicas.iter().find(|replica| self.loses_replicas(replica.node));
        // A change that was begun goes on with the same learner.
        let begun = range
            .replicas
            .iter()
            .find(|replica| replica.kind == ReplicaKind::Learner && self.is_up(replica.node));
        let step = |add: Option<NodeId>, remove: Option<NodeId>| {
            Some(Step { range: range.id, add, remove, generation: range.generation })
        };
        if range.id == META_RANGE {
            return self.plan_meta(range, gone.copied(), begun.copied());
        }
        if gone.is_none()
            && let Some(step) = self.grow(range, begun.copied(), load)
        {
            return Some(step);
        }
        match (gone, begun) {
            (Some(gone), _) if gone.kind == ReplicaKind::Learner => step(None, Some(gone.node)),
            (Some(gone), Some(begun)) => step(Some(begun.node), Some(gone.node)),
            (Some(gone), None) => {
                let target = load.free(range)?;
                load.add(target);
                step(Some(target), Some(gone.node))
            }
            // Somebody wants it elsewhere.
            (None, _) if let Some(Move { from, to }) = self.move_step(range) => {
                step(Some(to), Some(from))
            }
            // Two are to merge: the copies of one go where those of the other are.
            (None, _) if let Some(Move { from, to }) = self.together_step(range) => {
                step(Some(to), Some(from))
            }
            // Nobody is gone (any more): the copy goes on if it makes things more even.
            (None, Some(begun)) => {
                let leader = self.meta.registration(range.id)?.node;
                let has = load.up.get(&begun.node).copied().unwrap_or(0);
                match load.fuller(range, has, leader) {
                    Some(fuller) => step(Some(begun.node), Some(fuller)),
                    None => step(None, Some(begun.node)),
                }
            }
            // Nobody needs the copy that was begun on a node that has left service meanwhile.
            (None, None) => {
                let mut replicas = range.replicas.iter();
                let left = replicas.find(|replica| replica.kind == ReplicaKind::Learner)?;
                step(None, Some(left.node))
            }
        }
    }

    /// Every node has a copy of the meta range: it is its directory. It is the last to go.
    fn plan_meta(
        &self,
        range: &RangeDescriptor,
        gone: Option<ReplicaDescriptor>,
        begun: Option<ReplicaDescriptor>,
    ) -> Option<Step> {
        let step = |add: Option<NodeId>, remove: Option<NodeId>| {
            Some(Step { range: range.id, add, remove, generation: range.generation })
        };
        let holds_data = |node: NodeId| {
            let mut data = self.meta.ranges().values().filter(|other| other.id != META_RANGE);
            data.any(|other| other.replica_on(node).is_some())
        };
        let back = |node: NodeId| {
            let state = self.meta.nodes().get(&node).map(|record| record.state);
            state.is_some_and(|state| state != NodeState::Tombstoned)
        };
        // Also one that is being drained: it is a gateway, and must know where ranges are.
        let stays = |node: NodeId| !self.loses_replicas(node) && self.answers(node);
        let mut nodes = self.meta.nodes().keys().copied();
        let without = nodes.find(|node| stays(*node) && range.replica_on(*node).is_none());
        if let Some(gone) = gone.filter(|gone| !(back(gone.node) && holds_data(gone.node))) {
            return match (gone.kind, begun, without) {
                (ReplicaKind::Voter, Some(begun), _) => step(Some(begun.node), Some(gone.node)),
                (ReplicaKind::Voter, None, Some(new)) => step(Some(new), None),
                _ => step(None, Some(gone.node)),
            };
        }
        let nodes = self.meta.nodes().values();
        let wanted = meta_voters(nodes.filter(|node| !node.state.loses_replicas()).count());
        match begun {
            Some(begun) if range.voters().count() < wanted => step(Some(begun.node), None),
            Some(_) | None => step(Some(without?), None),
        }
    }

    /// One copy that would be better off elsewhere, if nothing else is going on.
    fn plan_balance(&self, load: &Load) -> Option<Step> {
        let (fewest, target) = load.up.iter().map(|(node, copies)| (*copies, *node)).min()?;
        let mut nodes = self.meta.nodes().values();
        let all_well =
            nodes.all(|record| record.state == NodeState::Tombstoned || self.is_up(record.id));
        if !all_well || !load.incoming.is_empty() {
            return None;
        }
        let ranges = self.meta.ranges().values().filter(|range| range.id != META_RANGE);
        ranges
            .filter(|range| {
                range.replica_on(target).is_none()
                    && self.meta.merges().of(range.id).is_none()
                    && range.voters().all(|voter| self.answers(voter.node))
            })
            .filter_map(|range| {
                let leader = self.meta.registration(range.id)?.node;
                let from = load.fuller(range, fewest + 1, leader)?;
                Some((load.up[&from], range))
            })
            .max_by_key(|(copies, range)| (*copies, std::cmp::Reverse(range.id)))
            .map(|(_, range)| Step {
                range: range.id,
                add: Some(target),
                remove: None,
                generation: range.generation,
            })
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
            // One that has said nothing yet lacks everything, however little that is.
            progress.iter().any(|(replica, matched, active, _)| {
                *replica == id && *active && *matched > 0 && *matched + CAUGHT_UP >= last
            })
        };
        let learner = add.and_then(|node| descriptor.replica_on(node));
        if learner.is_some_and(|learner| learner.kind == ReplicaKind::Voter) {
            // It counts already: whoever goes in its place would leave one copy too few.
            return self.outcome(asker, done("the new replica is there"));
        }
        if remove == Some(self.config.node)
            && learner.is_none_or(|learner| caught_up(learner.replica))
            && (add.is_none() || learner.is_some())
        {
            // A leader never removes itself: another one goes on from here.
            if let Some(next) = self.successor(range) {
                self.hand_over(range, next);
            }
            return self.outcome(asker, done("this node leads: it gives that away first"));
        }
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
        replica.wake(&mut self.awake);
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

    /// The directory learns the meta range's own members from its log: at once, and again if the
    /// sequencer that would have said so is gone.
    pub(super) fn publish_meta_members(&mut self) {
        let Some(replica) = self.replicas.get(&META_RANGE) else { return };
        let Some(descriptor) = replica.descriptor.clone() else { return };
        let known = self.meta.ranges().get(&META_RANGE);
        if replica.group.is_joint()
            || known.is_some_and(|known| known.generation >= descriptor.generation)
        {
            return;
        }
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
