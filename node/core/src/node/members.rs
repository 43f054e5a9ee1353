//! Changing the members of ranges: for a node that is gone for good, is away for too long, or
//! leaves; and so that every node has about as many copies as the others.
//!
//! The meta range's leader looks at the directory, has the planner (`planner.rs`) say what comes next,
//! and asks each range concerned for that step (`planning.rs`); the range's leader takes it from what it
//! sees. Nothing is remembered between steps, so a crash of either loses nothing.
//!
//! ```text
//!   A B (C gone)  ─► add D as learner ─► D caught up ─► {A B C} → {A B D} in one joint change
//!   A B C (D learns)  ─► all caught up ─► {A B C} → {A B D}, C learns, in one joint change
//! ```
//!
//! Invariants: a new replica counts for the majority only once it has the data; the old one leaves
//! in the same change; a leader never removes itself; a replica id is never used twice; no copies
//! are moved for evenness while some are missing.

use super::Node;
use crate::command::{MetaChange, MetaEntry};
use crate::descriptor::{NodeState, RangeDescriptor, ReplicaDescriptor, ReplicaKind};
use crate::error::{Error, Misrouted};
use crate::group::Group;
use crate::ids::{META_RANGE, NodeId, RangeId, ReplicaId, RequestId};
use crate::leaseholder::Asker;
use crate::level::Level;
use crate::message::Outcome;
use crate::request::Response;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};

/// A learner that lacks no more entries than this has caught up.
const CAUGHT_UP: u64 = 100;

impl Node {
    /// Is it in service, and does it answer?
    pub(super) fn is_up(&self, node: NodeId) -> bool {
        self.meta.nodes().get(&node).is_some_and(|record| record.state == NodeState::Up)
            && self.answers(node)
    }

    pub(super) fn answers(&self, node: NodeId) -> bool {
        node == self.config.node
            || self.peers.get(&node).is_some_and(|peer| peer.connected && !peer.down)
    }

    /// Who was condemned and is back keeps what it has; who has nothing left is gone for good.
    pub(super) fn plan_nodes(&mut self) {
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
            let copies = self.meta.copies_meant(range);
            if range.replica_on(node).is_some() && others < copies {
                return Err(format!(
                    "no spare node: {} has {copies} copies, and without {node} only {others} nodes are in service",
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
        if replica.is_being_changed() {
            return self.outcome(asker, done("a change is under way"));
        }
        let caught_up = caught_up(&replica.group);
        // An only copy cannot go in the change that makes another one count: for a moment there are two.
        let only = descriptor.voters().count() == 1;
        let remove = remove.filter(|_| !only || add.is_none());
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
            (None, None) => match remove.and_then(|node| descriptor.replica_on(node)) {
                Some(gone) if gone.kind == ReplicaKind::Voter => {
                    let left = || descriptor.voters().filter(|voter| voter.replica != gone.replica);
                    let fine = left().filter(|voter| caught_up(voter.replica)).count();
                    if fine <= left().count() / 2 {
                        // Asleep, nobody would be heard of.
                        replica.wake(&mut self.awake);
                        self.dirty.insert(range);
                        return self.outcome(asker, done("too few would be left"));
                    }
                    Some(remove_replica(&descriptor, gone))
                }
                gone => gone.map(|gone| remove_replica(&descriptor, gone)),
            },
        };
        let Some((new, change)) = next else {
            return self.outcome(asker, done("the new replica is catching up"));
        };
        self.propose_members(asker, range, &new, change);
    }

    /// A learner and a voter of the meta range change places, on its leader: both keep their copy.
    pub(super) fn serve_swap_voters(
        &mut self,
        asker: Asker,
        range: RangeId,
        (add, remove): (NodeId, NodeId),
        generation: u64,
    ) {
        if let Err(reason) = self.check_level(Level::VOTERS) {
            return self.outcome(asker, Outcome::Done(Err(Error::Refused(reason))));
        }
        let Some(replica) = self.replicas.get_mut(&range) else {
            return self.out.misrouted(asker, Misrouted::NoReplica);
        };
        let Some(descriptor) = replica.descriptor.clone() else { return };
        let done =
            |message: &str| Outcome::Done(Ok(Response::Admin { message: message.to_owned() }));
        let of = |node, kind| descriptor.replica_on(node).filter(|own| own.kind == kind);
        let (learner, voter) = (of(add, ReplicaKind::Learner), of(remove, ReplicaKind::Voter));
        let both = learner.zip(voter).filter(|_| descriptor.generation == generation);
        let Some((learner, voter)) = both else {
            let error = Error::Refused(format!("{range} has changed meanwhile"));
            return self.outcome(asker, Outcome::Done(Err(error)));
        };
        if replica.is_being_changed() {
            return self.outcome(asker, done("a change is under way"));
        }
        let mut all = descriptor.voters().chain([learner]).map(|own| own.replica);
        // Nothing presses: nobody is made to count, or not to, while anybody is behind.
        if !all.all(caught_up(&replica.group)) {
            return self.outcome(asker, done("not all have caught up"));
        }
        if remove == self.config.node {
            // A leader counts: another one goes on from here.
            if let Some(next) = self.successor(range) {
                self.hand_over(range, next);
            }
            return self.outcome(asker, done("this node leads: it gives that away first"));
        }
        let (new, change) = swap(&descriptor, learner, voter);
        self.propose_members(asker, range, &new, change);
    }

    fn propose_members(
        &mut self,
        asker: Asker,
        range: RangeId,
        new: &RangeDescriptor,
        change: ConfChangeV2,
    ) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let context = postcard::to_stdvec(new).expect("a descriptor can be encoded");
        let proposed = replica.group.propose_change(context, change);
        replica.wake(&mut self.awake);
        self.dirty.insert(range);
        if proposed {
            let message = "proposed".to_owned();
            self.outcome(asker, Outcome::Done(Ok(Response::Admin { message })));
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
        let Some(descriptor) = replica.descriptor.as_deref().cloned() else { return };
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

/// Whether a replica has all of the log, or nearly, as its leader knows.
fn caught_up(group: &Group) -> impl Fn(ReplicaId) -> bool + use<> {
    let (progress, last) = (group.progress(), group.last_index());
    move |id| {
        // One that has said nothing yet lacks everything, however little that is.
        progress.iter().any(|(replica, matched, active, _)| {
            *replica == id && *active && *matched > 0 && *matched + CAUGHT_UP >= last
        })
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

fn remove_replica(
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

/// Both keep their copies. Who counts now takes the rank of the one that does not any more.
fn swap(
    old: &RangeDescriptor,
    learner: ReplicaDescriptor,
    voter: ReplicaDescriptor,
) -> (RangeDescriptor, ConfChangeV2) {
    let mut new = old.clone();
    new.generation += 1;
    for replica in &mut new.replicas {
        if replica.replica == voter.replica {
            *replica = ReplicaDescriptor { kind: ReplicaKind::Voter, ..learner };
        } else if replica.replica == learner.replica {
            *replica = ReplicaDescriptor { kind: ReplicaKind::Learner, ..voter };
        }
    }
    let changes = vec![
        single(ConfChangeType::AddNode, learner.replica),
        single(ConfChangeType::AddLearnerNode, voter.replica),
    ];
    (new, change_of(changes))
}
