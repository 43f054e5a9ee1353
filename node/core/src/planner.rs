//! Where copies should go next: a pure plan from what the directory says and what nodes say of
//! themselves.
//!
//! ```text
//!   Survey (nodes, ranges) ─► for each range the next step ─► if there is none at all: one that spreads
//!                              gone · moved · too few · too many        domains first, then numbers;
//!                                                                       voters of the meta range before all
//! ```
//!
//! Nothing is remembered between two plans, so whoever plans next goes on where the last one stopped.
//! Candidates are compared by scores, structs whose field order is the priority.
//!
//! Invariants: a pure function; a step never leaves a range without a majority that answers, and never
//! undoes the step before it; a new copy goes to a failure domain with more copies than another only if
//! no node there has room; nothing is spread while anything is missing or on its way.

use crate::descriptor::{Facts, NodeState, RangeDescriptor, ReplicaDescriptor, ReplicaKind, Room};
use crate::ids::{META_RANGE, NodeId, RangeId};
use crate::meta::Move;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

mod directory;

/// Steps in one plan.
const STEPS_MAX: usize = 32;
/// Copies that may be on their way to one node: so many that while some change members others flow.
const INCOMING_MAX: usize = 4;

/// A node as the planner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSight {
    /// What the cluster thinks of it.
    pub state: NodeState,
    /// It can be reached now.
    pub answers: bool,
    /// What it says of itself.
    pub facts: Facts,
}

impl NodeSight {
    /// In service, and there.
    fn is_up(&self) -> bool {
        self.state == NodeState::Up && self.answers
    }

    fn stays(&self) -> bool {
        !self.state.loses_replicas()
    }
}

/// A range as the planner sees it.
#[derive(Clone, Copy, Debug)]
pub struct RangeSight<'a> {
    /// The newest descriptor that is known.
    pub descriptor: &'a RangeDescriptor,
    /// Who leads it.
    pub leader: Option<NodeId>,
    /// Copies that it should have.
    pub wanted: usize,
    /// Where somebody wants a copy to go, or a merge needs one.
    pub way: Option<Move>,
    /// It takes part in a merge: its copies stay where that wants them.
    pub merging: bool,
}

/// The number of copies without one that is only on its way in or out.
pub fn odd(voters: usize) -> usize {
    if voters.is_multiple_of(2) { voters.saturating_sub(1) } else { voters }
}

/// All that is looked at.
#[derive(Clone, Debug, Default)]
pub struct Survey<'a> {
    /// Every node that was ever in the cluster.
    pub nodes: BTreeMap<NodeId, NodeSight>,
    /// Every range, the meta range too.
    pub ranges: Vec<RangeSight<'a>>,
    /// Most copies that any range is to have: so much the meta range has to survive, too.
    pub copies_max: usize,
    /// Also look for copies that would be better off elsewhere, which costs more than all the rest.
    pub spread: bool,
    /// Every node knows that voters of the meta range may become learners.
    pub swaps: bool,
}

/// What to ask a range for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The range.
    pub range: RangeId,
    /// A copy is made on this node; once it is complete it counts.
    pub add: Option<NodeId>,
    /// The copy on this node goes, in the same change if one is added.
    pub remove: Option<NodeId>,
    /// Both have a copy, and keep it: the one to add counts from now on, and the one to remove no more.
    pub swap: bool,
    /// Of the descriptor that this was decided on.
    pub generation: u64,
    /// For people.
    pub why: Why,
}

impl Step {
    fn of(range: &RangeDescriptor, add: Option<NodeId>, remove: Option<NodeId>, why: Why) -> Self {
        Self { range: range.id, add, remove, swap: false, generation: range.generation, why }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, add, remove, why, .. } = self;
        match (add, remove) {
            (Some(add), Some(remove)) if self.swap => {
                write!(f, "{range}: {add} votes in place of {remove}: {why}")
            }
            (Some(add), Some(remove)) => write!(f, "{range}: from {remove} to {add}: {why}"),
            (Some(add), None) => write!(f, "{range}: one more copy, on {add}: {why}"),
            (None, Some(remove)) => write!(f, "{range}: not on {remove} any more: {why}"),
            (None, None) => write!(f, "{range}: {why}"),
        }
    }
}

/// Why a copy comes or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A node is to lose its copies.
    Leaves(NodeId, Option<NodeState>),
    /// Somebody asked for it.
    Asked,
    /// The range has fewer copies than it should have.
    TooFew {
        /// So many.
        has: usize,
        /// Not so many.
        wanted: usize,
    },
    /// It has more.
    TooMany {
        /// So many.
        has: usize,
        /// Not so many.
        wanted: usize,
    },
    /// Failure domains have fewer copies of it in common then.
    Domains {
        /// Of this one it goes.
        from: String,
        /// To that one.
        to: String,
    },
    /// Failure domains have fewer voters of the meta range in common then.
    Voters {
        /// In this one there is one less.
        from: String,
        /// In that one there is one more.
        to: String,
    },
    /// The numbers of copies on nodes become more even.
    Even {
        /// Copies where it goes.
        from: usize,
        /// Copies where it comes.
        to: usize,
    },
    /// A copy was begun that nothing needs any more.
    Unneeded,
    /// Every node has a copy of the directory.
    Directory,
    /// No node can take the copy that is needed.
    NoRoom {
        /// Each node without a copy, and what is the matter with it.
        because: Vec<String>,
    },
    /// A copy that has to go cannot, or too few would answer.
    Majority(NodeId),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaves(node, Some(state)) => write!(f, "{node} is {state:?}"),
            Self::Leaves(node, None) => write!(f, "{node} is no node of the cluster"),
            Self::Asked => write!(f, "as was asked for"),
            Self::TooFew { has, wanted } => write!(f, "it has {has} copies, not {wanted}"),
            Self::TooMany { has, wanted } => write!(f, "it has {has} copies, not only {wanted}"),
            Self::Domains { from, to } => {
                write!(f, "{from} has more of its copies than {to}")
            }
            Self::Voters { from, to } => write!(f, "{from} has more of its voters than {to}"),
            Self::Even { from, to } => write!(f, "{from} copies there and {to} here"),
            Self::Unneeded => write!(f, "nothing needs the copy that was begun"),
            Self::Directory => write!(f, "every node has a copy of the directory"),
            Self::NoRoom { because } if because.is_empty() => {
                write!(f, "it lacks a copy, and every node has one")
            }
            Self::NoRoom { because } => {
                write!(f, "it lacks a copy, and no node can take one: {}", because.join(", "))
            }
            Self::Majority(node) => {
                write!(f, "its copy on {node} is to go, and has to stay until others answer")
            }
        }
    }
}

/// A plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be asked for now, at most [`STEPS_MAX`].
    pub steps: Vec<Step>,
    /// Ranges that need something which cannot be done now, with the reason.
    pub held: Vec<(RangeId, Why)>,
}

/// How good a node is for one more copy of a range; the smallest is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    /// Copies of the range in its failure domain.
    crowd: usize,
    /// Most room first.
    room: Room,
    /// Copies of all ranges on it.
    copies: usize,
    /// Ranges that it leads.
    leaders: usize,
    node: NodeId,
}

/// Which copy to give up; the greatest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Victim {
    /// It does not answer.
    silent: bool,
    /// Copies of the range in its failure domain.
    crowd: usize,
    /// Least room first.
    room: Room,
    /// Copies of all ranges on it.
    copies: usize,
    /// One that does not lead first.
    follows: bool,
    node: NodeId,
}

/// How much better it would be if a copy were elsewhere; the smallest is the best. As long as every
/// move is better, there is an end: sums of squares, of these numbers in this order, get smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Gain {
    /// Other copies of the range in the failure domain there, less those here.
    crowd: isize,
    /// Copies of all ranges on the node there after it, less those here before it.
    copies: isize,
}

impl Gain {
    fn is_better(self) -> bool {
        self.crowd < 0 || self.crowd == 0 && self.copies < 0
    }
}

/// A node with what is counted of it.
struct Place<'a> {
    sight: &'a NodeSight,
    domain: usize,
    copies: usize,
    incoming: usize,
    leaders: usize,
}

struct Board<'a> {
    places: BTreeMap<NodeId, Place<'a>>,
    survey: &'a Survey<'a>,
    held: Vec<(RangeId, Why)>,
}

/// What to do next.
pub fn plan(survey: &Survey<'_>) -> Plan {
    let mut board = Board::new(survey);
    let mut steps = Vec::new();
    for range in &survey.ranges {
        if steps.len() == STEPS_MAX {
            break;
        }
        let step = if range.descriptor.id == META_RANGE {
            board.plan_meta(range)
        } else {
            board.plan_range(range)
        };
        steps.extend(step);
    }
    if steps.is_empty() && survey.spread {
        steps.extend(board.spread());
    }
    Plan { steps, held: board.held }
}

/// Would the cluster move a copy back that goes from one node to another?
///
/// # Errors
/// The reason why.
pub fn would_stay(
    survey: &Survey<'_>,
    range: &RangeSight<'_>,
    Move { from, to }: Move,
) -> Result<(), String> {
    let board = Board::new(survey);
    let (Some(old), Some(new)) = (board.places.get(&from), board.places.get(&to)) else {
        return Ok(());
    };
    let without = |place: &Place<'_>| board.crowd(range.descriptor, place.domain, Some(from));
    // As it is afterwards, without the copy that moves: each would have one more.
    let (at_old, at_new) = (without(old), without(new));
    if at_new > at_old {
        return Err(format!(
            "{} would have {} copies of it and {} {at_old}: the cluster spreads them over failure domains and would move one back",
            board.name(to),
            at_new + 1,
            board.name(from),
        ));
    }
    let (at_from, at_to) = (old.copies.saturating_sub(1), new.copies + 1);
    if at_new == at_old && at_to > at_from + 1 {
        return Err(format!(
            "{to} would have {at_to} copies and {from} {at_from}: the cluster evens that out and would move one back"
        ));
    }
    Ok(())
}

impl<'a> Board<'a> {
    fn new(survey: &'a Survey<'a>) -> Self {
        let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (number, (node, sight)) in survey.nodes.iter().enumerate() {
            // Who says nothing shares its failures with nobody.
            let name = sight.facts.domain.as_str();
            let domain =
                if name.is_empty() { number } else { *domains.entry(name).or_insert(number) };
            let place = Place { sight, domain, copies: 0, incoming: 0, leaders: 0 };
            places.insert(*node, place);
        }
        for range in survey.ranges.iter().filter(|range| range.descriptor.id != META_RANGE) {
            for replica in &range.descriptor.replicas {
                if let Some(place) = places.get_mut(&replica.node) {
                    place.copies += 1;
                    place.incoming += usize::from(replica.kind == ReplicaKind::Learner);
                }
            }
            if let Some(place) = range.leader.and_then(|leader| places.get_mut(&leader)) {
                place.leaders += 1;
            }
        }
        Self { places, survey, held: Vec::new() }
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.places.get(&node).is_some_and(|place| place.sight.is_up())
    }

    fn answers(&self, node: NodeId) -> bool {
        self.places.get(&node).is_some_and(|place| place.sight.answers)
    }

    fn loses(&self, node: NodeId) -> bool {
        self.places.get(&node).is_none_or(|place| !place.sight.stays())
    }

    /// A failure domain, for people.
    fn name(&self, node: NodeId) -> String {
        match self.places.get(&node).map(|place| place.sight.facts.domain.as_str()) {
            None | Some("") => node.to_string(),
            Some(domain) => format!("failure domain {domain}"),
        }
    }

    /// Copies of a range in a failure domain, but for the one on `without`.
    fn crowd(&self, range: &RangeDescriptor, domain: usize, without: Option<NodeId>) -> usize {
        range
            .replicas
            .iter()
            .filter(|replica| {
                Some(replica.node) != without
                    && self.places.get(&replica.node).is_some_and(|place| place.domain == domain)
            })
            .count()
    }

    /// Would a majority answer if this copy counted no more?
    fn may_go(&self, range: &RangeDescriptor, node: NodeId) -> bool {
        let left = || range.voters().filter(|voter| voter.node != node);
        let answer = left().filter(|voter| self.answers(voter.node)).count();
        answer > left().count() / 2
    }

    fn target(&self, range: &RangeDescriptor, node: NodeId, gone: Option<NodeId>) -> Target {
        let place = &self.places[&node];
        Target {
            crowd: self.crowd(range, place.domain, gone),
            room: place.sight.facts.room,
            copies: place.copies,
            leaders: place.leaders,
            node,
        }
    }

    /// The node for one more copy of a range, in the place of the one on `gone`, if there is one.
    /// The best failure domain is waited for if its nodes only have too much to do; the range is held if
    /// no node can take one.
    fn place_for(&mut self, range: &RangeDescriptor, gone: Option<NodeId>) -> Option<NodeId> {
        let may = |(node, place): (&NodeId, &Place<'_>)| {
            let fits = place.sight.is_up()
                && place.sight.facts.room != Room::Little
                && range.replica_on(*node).is_none();
            fits.then_some((*node, place.incoming))
        };
        let candidates: Vec<(Target, usize)> = self
            .places
            .iter()
            .filter_map(may)
            .map(|(node, incoming)| (self.target(range, node, gone), incoming))
            .collect();
        let Some(crowd) = candidates.iter().map(|(target, _)| target.crowd).min() else {
            self.held.push((range.id, Why::NoRoom { because: self.excuses(range) }));
            return None;
        };
        let best = candidates
            .iter()
            .filter(|(target, incoming)| target.crowd == crowd && *incoming < INCOMING_MAX)
            .map(|(target, _)| *target)
            .min();
        if let Some(place) = best.and_then(|target| self.places.get_mut(&target.node)) {
            place.copies += 1;
            place.incoming += 1;
        }
        best.map(|target| target.node)
    }

    /// Why each node that has no copy of a range cannot take one.
    fn excuses(&self, range: &RangeDescriptor) -> Vec<String> {
        self.places
            .iter()
            .filter(|(node, place)| {
                place.sight.state != NodeState::Tombstoned && range.replica_on(**node).is_none()
            })
            .map(|(node, place)| match place.sight.state {
                NodeState::Up if !place.sight.answers => format!("{node} does not answer"),
                NodeState::Up => format!("the disk of {node} is nearly full"),
                state => format!("{node} is {state:?}"),
            })
            .collect()
    }

    fn victim(&self, range: &RangeSight<'_>, node: NodeId) -> Option<Victim> {
        let place = self.places.get(&node)?;
        Some(Victim {
            silent: !place.sight.answers,
            crowd: self.crowd(range.descriptor, place.domain, None),
            room: place.sight.facts.room,
            copies: place.copies,
            follows: range.leader != Some(node),
            node,
        })
    }

    /// How much better a copy would be on another node, where it may have been begun.
    fn gain(&self, range: &RangeDescriptor, from: NodeId, to: NodeId) -> Option<Gain> {
        let (old, new) = (self.places.get(&from)?, self.places.get(&to)?);
        let others = |domain: usize| {
            let mut replicas = range.replicas.iter().map(|replica| replica.node);
            let others = replicas.by_ref().filter(|node| *node != from && *node != to);
            others
                .filter(|node| self.places.get(node).is_some_and(|own| own.domain == domain))
                .count() as isize
        };
        let begun = isize::from(range.replica_on(to).is_some());
        Some(Gain {
            crowd: others(new.domain) - others(old.domain),
            copies: new.copies as isize - begun + 1 - old.copies as isize,
        })
    }

    /// The voter that is best replaced by a copy on `to`. Who leads is not, but for an only copy.
    fn replaced_by(&self, range: &RangeSight<'_>, to: NodeId) -> Option<(Gain, NodeId)> {
        let voters = range.descriptor.voters();
        let only = range.descriptor.voters().count() == 1;
        voters
            .filter(|voter| only || range.leader.is_some_and(|leader| leader != voter.node))
            .filter(|voter| self.is_up(voter.node))
            .filter_map(|voter| Some((self.gain(range.descriptor, voter.node, to)?, voter.node)))
            .filter(|(gain, _)| gain.is_better())
            .min_by_key(|(gain, node)| (*gain, std::cmp::Reverse(*node)))
    }

    fn why(&self, gain: Gain, from: NodeId, to: NodeId) -> Why {
        if gain.crowd < 0 {
            return Why::Domains { from: self.name(from), to: self.name(to) };
        }
        let copies = |node: NodeId| self.places.get(&node).map_or(0, |place| place.copies);
        Why::Even { from: copies(from), to: copies(to) }
    }

    fn plan_range(&mut self, range: &RangeSight<'_>) -> Option<Step> {
        let descriptor = range.descriptor;
        let step = |add: Option<NodeId>, remove: Option<NodeId>, why: Why| {
            Some(Step::of(descriptor, add, remove, why))
        };
        let (has, wanted) = (descriptor.voters().count(), range.wanted);
        let learner = |replica: &&ReplicaDescriptor| replica.kind == ReplicaKind::Learner;
        let mut gone = descriptor.replicas.iter().filter(|replica| self.loses(replica.node));
        // One that does not count goes first.
        let gone = gone.clone().find(learner).or_else(|| gone.next()).copied();
        if let Some(gone) = gone {
            let state = self.places.get(&gone.node).map(|place| place.sight.state);
            let why = Why::Leaves(gone.node, state);
            if gone.kind == ReplicaKind::Learner {
                return step(None, Some(gone.node), why);
            }
            if has > wanted {
                return self.give_up(descriptor, gone.node, why);
            }
            let begun = self.begun(descriptor);
            let add = begun.or_else(|| self.place_for(descriptor, Some(gone.node)))?;
            // An only copy cannot be replaced in one change: for a moment there are two.
            return step(Some(add), (has > 1).then_some(gone.node), why);
        }
        if let Some(Move { from, to }) = range.way {
            let arrived = descriptor.voters().any(|voter| voter.node == to);
            if !arrived {
                return step(Some(to), (has > 1).then_some(from), Why::Asked);
            }
            if has > wanted {
                return self.give_up(descriptor, from, Why::Asked);
            }
        }
        if let Some(begun) = self.begun(descriptor) {
            if has < wanted {
                return step(Some(begun), None, Why::TooFew { has, wanted });
            }
            if has == wanted {
                range.leader?;
            }
            return match self.replaced_by(range, begun).filter(|_| has == wanted && !range.merging)
            {
                Some((gain, from)) => {
                    let why = self.why(gain, from, begun);
                    step(Some(begun), (has > 1).then_some(from), why)
                }
                None => step(None, Some(begun), Why::Unneeded),
            };
        }
        // Begun on a node that has left service meanwhile.
        if let Some(left) = descriptor.replicas.iter().find(learner) {
            return step(None, Some(left.node), Why::Unneeded);
        }
        if has < wanted {
            let add = self.place_for(descriptor, None)?;
            return step(Some(add), None, Why::TooFew { has, wanted });
        }
        if has > wanted {
            let voters = descriptor.voters();
            let victims = voters.filter(|voter| wanted == 1 || range.leader != Some(voter.node));
            // Somebody who may lead stays: a node that is being drained gives leaders away.
            let leads =
                |gone| descriptor.voters().any(|own| own.node != gone && self.is_up(own.node));
            let victims = victims.filter(|voter| !self.is_up(voter.node) || leads(voter.node));
            let victim = victims.filter_map(|voter| self.victim(range, voter.node)).max()?;
            return self.give_up(descriptor, victim.node, Why::TooMany { has, wanted });
        }
        None
    }

    /// A copy goes, or is held as long as too few would answer without it.
    fn give_up(&mut self, range: &RangeDescriptor, node: NodeId, why: Why) -> Option<Step> {
        if self.may_go(range, node) {
            return Some(Step::of(range, None, Some(node), why));
        }
        self.held.push((range.id, Why::Majority(node)));
        None
    }

    /// A change that was begun goes on with the same learner.
    fn begun(&self, range: &RangeDescriptor) -> Option<NodeId> {
        range
            .replicas
            .iter()
            .filter(|replica| replica.kind == ReplicaKind::Learner)
            .map(|replica| replica.node)
            .find(|node| self.is_up(*node))
    }

    /// One copy that would be better off elsewhere, if nothing else is going on.
    fn spread(&self) -> Option<Step> {
        let mut places = self.places.values();
        let all_well =
            places.all(|own| own.sight.state == NodeState::Tombstoned || own.sight.is_up());
        if !all_well || self.places.values().any(|own| own.incoming > 0) {
            return None;
        }
        // It makes no copies, and nothing is served without that range.
        if let Some(swap) = self.spread_voters() {
            return Some(swap);
        }
        let up: Vec<(NodeId, &Place<'_>)> = self
            .places
            .iter()
            .filter(|(_, own)| own.sight.is_up())
            .map(|(node, own)| (*node, own))
            .collect();
        let domains: BTreeSet<usize> = up.iter().map(|(_, own)| own.domain).collect();
        let copies = || up.iter().map(|(_, own)| own.copies);
        let uneven = copies().max()? > copies().min()? + 1;
        if !uneven && domains.len() == up.len() {
            return None;
        }
        let mut best: Option<((Gain, Target, RangeId), NodeId, &RangeDescriptor)> = None;
        for range in self.survey.ranges.iter().filter(|own| own.descriptor.id != META_RANGE) {
            let descriptor = range.descriptor;
            let mut voters = descriptor.voters();
            if range.way.is_some()
                || range.merging
                || range.leader.is_none()
                || voters.any(|voter| !self.answers(voter.node))
            {
                continue;
            }
            for (to, place) in &up {
                if place.sight.facts.room == Room::Little || descriptor.replica_on(*to).is_some() {
                    continue;
                }
                let Some((gain, from)) = self.replaced_by(range, *to) else { continue };
                let target = self.target(descriptor, *to, Some(from));
                let score = (gain, target, descriptor.id);
                if best.as_ref().is_none_or(|(known, ..)| score < *known) {
                    best = Some((score, from, descriptor));
                }
            }
        }
        let ((gain, target, _), from, descriptor) = best?;
        let why = self.why(gain, from, target.node);
        Some(Step::of(descriptor, Some(target.node), None, why))
    }
}

#[cfg(test)]
mod tests;
