//! Leaders spread: who leads follows from the ranks in a range's descriptor, and these are changed so
//! that every node is the first in rank of about as many ranges as the others, and, among the ways in
//! which that is so, of ranges that have about as many requests.
//!
//! The meta range's leader looks at the directory now and then and asks one range for a change, or two
//! that change places; the range's leader puts it into the log, and the leadership follows by the
//! ordinary way. Loads are what nodes have reported lately: see [`super::reports`].
//!
//! Invariants: nothing is changed while a node is away, drained or leaving, since that passes by
//! itself; numbers go before loads; every change makes things more even, so there is an end to them;
//! after a change nothing is done by load until the averages have followed it.

use super::Node;
use super::reports::Loads;
use super::routing::Owner;
use crate::command::Entry;
use crate::descriptor::{NodeState, RangeDescriptor, ReplicaKind};
use crate::effects::Millis;
use crate::error::{Error, Misrouted};
use crate::ids::{META_RANGE, NodeId, RangeId, RequestId};
use crate::leaseholder::{Asked, Asker, Work};
use crate::level::Level;
use crate::message::{Outcome, RangeRequest};
use crate::state::StateReads;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Leaders are spread by load only if the busiest node has more requests a second than the average, by
/// so many, ...
const MORE_MIN: u64 = 10;
/// ... by this part of the average, ...
const MORE_PART: u64 = 5;
/// ... and if a change makes the busier one of the two nodes concerned less busy by this part of it.
const GAIN_PART: u64 = 10;
/// Two ranges that change places do so within this time: meanwhile numbers are not even.
const PLACES_MS: Millis = 5_000;

/// A change of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    range: RangeId,
    first: NodeId,
    generation: u64,
}

impl Step {
    fn new(range: &RangeDescriptor, first: NodeId) -> Self {
        Self { range: range.id, first, generation: range.generation }
    }
}

/// How good it is who leads what; less is better, and the fields are in the order of what matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// The squares of the numbers of ranges that nodes are first of, together: the less, the more even.
    uneven: usize,
    /// Requests a second of the busier one of the two nodes that a change concerns.
    busier: u64,
    /// Ranges that change their leader: each costs its clients a moment.
    changes: usize,
}

/// Of how many ranges each of the nodes is the first in rank.
fn firsts<'a>(
    nodes: impl Iterator<Item = NodeId>,
    ranges: impl Iterator<Item = &'a RangeDescriptor>,
) -> BTreeMap<NodeId, usize> {
    let mut firsts: BTreeMap<NodeId, usize> = nodes.map(|node| (node, 0)).collect();
    for range in ranges {
        if let Some(count) = range.voters().next().and_then(|own| firsts.get_mut(&own.node)) {
            *count += 1;
        }
    }
    firsts
}

fn spread(firsts: &BTreeMap<NodeId, usize>) -> usize {
    let most = firsts.values().max().copied().unwrap_or(0);
    most - firsts.values().min().copied().unwrap_or(0)
}

/// The change that makes it most even who is first in rank; `None` if no single one makes it more so.
/// Ranges for which `fixed` holds stay as they are, but count.
fn plan<'a>(
    nodes: impl Iterator<Item = NodeId>,
    ranges: impl Iterator<Item = &'a RangeDescriptor> + Clone,
    fixed: impl Fn(&RangeDescriptor) -> bool,
) -> Option<Step> {
    let firsts = firsts(nodes, ranges.clone());
    if spread(&firsts) < 2 {
        return None;
    }
    let gain = |range: &RangeDescriptor| {
        let first = range.voters().next()?.node;
        let has = *firsts.get(&first)?;
        let others = range.voters().skip(1);
        let counts = others.filter_map(|own| Some((*firsts.get(&own.node)?, own.node)));
        let (fewest, node) = counts.min()?;
        (has >= fewest + 2).then(|| (has - fewest, node))
    };
    let gains = ranges.filter_map(|range| Some((gain(range)?, range)));
    gains
        .filter(|(_, range)| !fixed(range))
        .max_by_key(|((gain, _), range)| (*gain, range.id))
        .map(|((_, first), range)| Step::new(range, first))
}

fn uneven(firsts: &BTreeMap<NodeId, usize>) -> usize {
    firsts.values().map(|count| count * count).sum()
}

/// The change that takes most off the busiest node and leaves numbers as even as they are: one range
/// that goes to another node, or two that change places. Empty if none is worth it: see the constants.
/// Every change makes the busiest node less busy and no other one as busy as it was.
fn plan_by_load<'a>(
    nodes: impl Iterator<Item = NodeId>,
    ranges: impl Iterator<Item = &'a RangeDescriptor> + Clone,
    fixed: impl Fn(&RangeDescriptor) -> bool,
    loads: &Loads,
) -> Vec<Step> {
    let firsts = firsts(nodes, ranges.clone());
    let before = uneven(&firsts);
    let load = |range: &RangeDescriptor| loads.ranges.get(&range.id).copied().unwrap_or(0);
    let rest = |node: &NodeId| loads.rest.get(node).copied().unwrap_or(0);
    let mut totals: BTreeMap<NodeId, u64> = firsts.keys().map(|node| (*node, rest(node))).collect();
    // Ranges to choose from, by the node that is first: those with load, and one without.
    let mut own: BTreeMap<NodeId, Vec<&RangeDescriptor>> = BTreeMap::new();
    for range in ranges.clone() {
        let Some(first) = range.voters().next() else { continue };
        let Some(total) = totals.get_mut(&first.node) else { continue };
        *total += load(range);
        if load(range) > 0 && !fixed(range) {
            own.entry(first.node).or_default().push(range);
        }
    }
    let Some((busiest, most)) = totals.iter().max_by_key(|(node, total)| (**total, **node)) else {
        return Vec::new();
    };
    let (busiest, most) = (*busiest, *most);
    let average = totals.values().sum::<u64>() / totals.len() as u64;
    if most < average + MORE_MIN.max(average / MORE_PART) {
        return Vec::new();
    }
    for range in ranges.filter(|range| load(range) == 0 && !fixed(range)) {
        let Some(first) = range.voters().next().filter(|first| first.node != busiest) else {
            continue;
        };
        let own = own.entry(first.node).or_default();
        let idle = own.last().is_some_and(|last| load(last) == 0);
        if !idle && range.voters().any(|voter| voter.node == busiest) {
            own.push(range);
        }
    }
    let enough = most - (average / GAIN_PART).max(1);
    let leads = |range: &RangeDescriptor, node| range.voters().any(|voter| voter.node == node);
    let mut best: Option<(Score, Vec<Step>)> = None;
    let mut consider = |score: Score, steps: Vec<Step>| {
        let fits = score.uneven <= before && score.busier <= enough;
        if fits && best.as_ref().is_none_or(|(known, _)| score < *known) {
            best = Some((score, steps));
        }
    };
    for given in own.get(&busiest).into_iter().flatten() {
        for (node, total) in totals.iter().filter(|(node, _)| **node != busiest) {
            if !leads(given, *node) {
                continue;
            }
            let give = Step::new(given, *node);
            let mut after = firsts.clone();
            *after.entry(busiest).or_default() -= 1;
            *after.entry(*node).or_default() += 1;
            let busier = (most - load(given)).max(total + load(given));
            consider(Score { uneven: uneven(&after), busier, changes: 1 }, vec![give]);
            for taken in own.get(node).into_iter().flatten() {
                if load(taken) >= load(given) || !leads(taken, busiest) {
                    continue;
                }
                let (gives, takes) = (load(given), load(taken));
                let busier = (most - gives + takes).max(total - takes + gives);
                let score = Score { uneven: before, busier, changes: 2 };
                if score.busier <= enough {
                    consider(score, vec![give, Step::new(taken, busiest)]);
                }
            }
        }
    }
    best.map_or_else(Vec::new, |(_, steps)| steps)
}

impl Node {
    /// Asks for a change of ranks, if one is due and would make leaders more even.
    pub(super) fn ranking_tick(&mut self) {
        let shaping = self.config.shaping;
        let (now, every, settle) = (self.now, shaping.rank_every_ms, shaping.ranks_loads_after_ms);
        if every == 0 || !shaping.counts() || now < self.shaper.rank_at {
            return;
        }
        self.shaper.rank_at = now + every;
        if self.meta.level() < Level::SHAPING {
            return;
        }
        if !self.all_in_service() {
            self.shaper.loads_at = now + settle;
            return;
        }
        let known = self.meta.nodes().values();
        let nodes = known.filter(|record| record.state == NodeState::Up).map(|record| record.id);
        let ranges = self.meta.ranges().values().map(Arc::as_ref);
        let ranges = ranges.filter(|range| range.id != META_RANGE);
        let fixed = |range: &RangeDescriptor| {
            self.meta.merges().of(range.id).is_some()
                || self.meta.moves().contains_key(&range.id)
                || range.replicas.iter().any(|own| own.kind == ReplicaKind::Learner)
        };
        let mut steps = Vec::new();
        let mut within = every;
        if let Some(step) = plan(nodes.clone(), ranges.clone(), fixed) {
            steps.push(step);
        } else if settle == 0 {
            return;
        } else if self.shaper.loads_at == 0 {
            self.shaper.loads_at = now + settle;
        } else if now >= self.shaper.loads_at
            && let Some(loads) = self.loads()
        {
            steps = plan_by_load(nodes, ranges, fixed, &loads);
            self.counters.ranks_by_load += steps.len() as u64;
            within = PLACES_MS;
        }
        if steps.is_empty() {
            return;
        }
        let deadline = now + within;
        self.shaper.loads_at = now + settle;
        self.shaper.rank_at = deadline;
        for Step { range, first, generation } in steps {
            let body = RangeRequest::Rank { first, generation };
            self.internal_request_until(Owner::Nobody, range, body, deadline);
        }
    }

    /// Is every node up, reachable, and to stay?
    pub(super) fn all_in_service(&self) -> bool {
        let mut nodes = self.meta.nodes().values();
        nodes.all(|record| record.state == NodeState::Tombstoned || self.is_up(record.id))
    }

    /// A change of ranks, for a range led here.
    pub(super) fn serve_rank(
        &mut self,
        asker: Asker,
        id: RequestId,
        range: RangeId,
        (first, generation): (NodeId, u64),
        state: &dyn StateReads,
    ) {
        if let Err(reason) = self.check_level(Level::SHAPING) {
            return self.outcome(asker, Outcome::Done(Err(Error::Refused(reason))));
        }
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let Some(own) = &replica.descriptor else { return };
        let first = own.replica_on(first).filter(|first| first.kind == ReplicaKind::Voter);
        let Some(first) = first.filter(|_| own.generation == generation) else {
            let error = Error::Refused(format!("{range} has changed meanwhile"));
            return self.outcome(asker, Outcome::Done(Err(error)));
        };
        if replica.is_being_changed() {
            return self.out.misrouted(asker, Misrouted::Busy);
        }
        let work = Work::Change(Box::new(Entry::Rank { generation, first: first.replica }));
        let asked = Asked { asker, id, settled_below: 0, again: false, work };
        self.ask_leaseholder(range, asked, state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::ReplicaDescriptor;
    use crate::ids::ReplicaId;
    use crate::key::Span;

    fn range(id: u64, nodes: &[u64]) -> RangeDescriptor {
        let replicas = nodes.iter().map(|node| ReplicaDescriptor {
            replica: ReplicaId(*node),
            node: NodeId(*node),
            kind: ReplicaKind::Voter,
        });
        let replicas: Vec<_> = replicas.collect();
        RangeDescriptor {
            id: RangeId(id),
            span: Span::all(),
            generation: 1,
            replicas,
            next_replica: 9,
        }
    }

    fn apply(ranges: &mut [RangeDescriptor], step: Step) {
        let range = ranges.iter_mut().find(|range| range.id == step.range).expect("it is known");
        assert_eq!(range.generation, step.generation);
        range.generation += 1;
        let place = range.replicas.iter().position(|own| own.node == step.first);
        range.replicas[..=place.expect("a copy there")].rotate_right(1);
    }

    fn nodes(count: u64) -> impl Iterator<Item = NodeId> + Clone {
        (1..=count).map(NodeId)
    }

    fn loads(of: impl IntoIterator<Item = (u64, u64)>) -> Loads {
        let ranges = of.into_iter().map(|(range, rate)| (RangeId(range), rate));
        Loads { ranges: ranges.collect(), ..Loads::default() }
    }

    /// Requests a second that each node has to serve.
    fn totals(count: u64, ranges: &[RangeDescriptor], loads: &Loads) -> Vec<u64> {
        let of = |node: NodeId| {
            let own = ranges.iter().filter(|range| range.replicas[0].node == node);
            let own: u64 = own.filter_map(|range| loads.ranges.get(&range.id)).sum();
            own + loads.rest.get(&node).copied().unwrap_or(0)
        };
        nodes(count).map(of).collect()
    }

    /// Spreads by load until there is nothing to do, and gives how many changes there were.
    fn settle_loads(count: u64, ranges: &mut [RangeDescriptor], loads: &Loads) -> usize {
        for changes in 0..10_000 {
            let steps = plan_by_load(nodes(count), ranges.iter(), |_| false, loads);
            if steps.is_empty() {
                return changes;
            }
            let sorted = |ranges: &[RangeDescriptor]| {
                let mut totals = totals(count, ranges, loads);
                totals.sort_unstable_by_key(|total| std::cmp::Reverse(*total));
                totals
            };
            let (before, even) = (sorted(ranges), uneven(&firsts(nodes(count), ranges.iter())));
            assert!(steps.len() <= 2);
            for step in steps {
                apply(ranges, step);
            }
            assert!(sorted(ranges) < before, "the busiest has less, and nobody as much as it had");
            let after = uneven(&firsts(nodes(count), ranges.iter()));
            assert!(after <= even, "numbers are as even as they were");
        }
        panic!("no end to it");
    }

    /// Carries out every step, and gives how many there were and the firsts of each node.
    fn settle(nodes: u64, mut ranges: Vec<RangeDescriptor>) -> (usize, Vec<usize>) {
        for steps in 0..1_000 {
            let Some(step) = plan((1..=nodes).map(NodeId), ranges.iter(), |_| false) else {
                let first =
                    |node| ranges.iter().filter(move |range| range.replicas[0].node == node);
                return (steps, (1..=nodes).map(|node| first(NodeId(node)).count()).collect());
            };
            apply(&mut ranges, step);
        }
        panic!("no end to it");
    }

    #[test]
    fn leaders_become_even_and_stay_so() {
        let all_on_one: Vec<_> = (2..32).map(|id| range(id, &[1, 2, 3])).collect();
        assert_eq!(settle(3, all_on_one), (20, vec![10, 10, 10]));
        let even: Vec<_> = (0..31).map(|n| range(n + 2, &[n % 3 + 1, (n + 1) % 3 + 1])).collect();
        assert_eq!(settle(3, even).0, 0, "one more or less is as even as it gets");
        // A new node has copies, and leads nothing yet.
        let new: Vec<_> = (2..22).map(|id| range(id, &[id % 3 + 1, 4, (id + 1) % 3 + 1])).collect();
        assert_eq!(settle(4, new).1, [5, 5, 5, 5]);
    }

    #[test]
    fn what_cannot_be_changed_is_left_alone() {
        let ranges: Vec<_> = (2..8).map(|id| range(id, &[1])).collect();
        assert_eq!(settle(2, ranges), (0, vec![6, 0]), "no copies elsewhere");
        let ranges = [range(2, &[1, 2]), range(3, &[1, 2])];
        let nodes = || [NodeId(1), NodeId(2)].into_iter();
        let step = plan(nodes(), ranges.iter(), |range| range.id == RangeId(3));
        assert_eq!(step.map(|step| step.range), Some(RangeId(2)));
        assert_eq!(plan(nodes(), ranges.iter(), |_| true), None);
    }
    /// Nine ranges, three on each node; those of the first node do all there is to do.
    #[test]
    fn ranges_with_load_change_places_with_ranges_without() {
        let mut ranges: Vec<_> = (0..9)
            .map(|n| range(n + 2, &[n / 3 + 1, (n / 3 + 1) % 3 + 1, (n / 3 + 2) % 3 + 1]))
            .collect();
        let skewed = loads([(2, 100), (3, 100), (4, 100)]);
        assert_eq!(totals(3, &ranges, &skewed), [300, 0, 0]);
        assert_eq!(settle_loads(3, &mut ranges, &skewed), 2);
        assert_eq!(totals(3, &ranges, &skewed), [100, 100, 100]);
        assert_eq!(settle(3, ranges), (0, vec![3, 3, 3]), "and numbers stay even");
    }

    #[test]
    fn a_range_goes_alone_where_numbers_allow_it() {
        let mut ranges = vec![range(2, &[1, 2]), range(3, &[1, 2]), range(4, &[2, 1])];
        let busy = loads([(2, 100), (3, 100), (4, 20)]);
        let steps = plan_by_load(nodes(2), ranges.iter(), |_| false, &busy);
        assert_eq!(steps.len(), 1, "one change is enough: {steps:?}");
        settle_loads(2, &mut ranges, &busy);
        assert_eq!(totals(2, &ranges, &busy), [100, 120]);
    }

    #[test]
    fn what_would_not_help_clearly_is_not_done() {
        let mut one = vec![range(2, &[1, 2]), range(3, &[2, 1])];
        assert_eq!(settle_loads(2, &mut one, &loads([(2, 1_000)])), 0, "it is on one range");
        let mut near =
            vec![range(2, &[1, 2]), range(3, &[1, 2]), range(4, &[2, 1]), range(5, &[2, 1])];
        let fair = loads([(2, 60), (3, 55), (4, 50), (5, 50)]);
        assert_eq!(settle_loads(2, &mut near, &fair), 0, "within a fifth of the average");
        assert_eq!(settle_loads(2, &mut near, &loads([(2, 4), (3, 4)])), 0, "next to nothing");
        let skewed = loads([(2, 100), (3, 100)]);
        let none = plan_by_load(nodes(2), near.iter(), |range| range.id.0 < 4, &skewed);
        assert_eq!(none, [], "what is fixed stays");
        let away = [range(2, &[1, 3]), range(3, &[1, 3]), range(4, &[2, 3]), range(5, &[2, 3])];
        let none = plan_by_load(nodes(2), away.iter(), |_| false, &skewed);
        assert_eq!(none, [], "no copies elsewhere");
    }

    proptest::proptest! {
        /// Whatever the loads: there is an end to it, and numbers are as even as without.
        #[test]
        fn loads_settle_and_numbers_stay_even(
            count in 1u64..6,
            what in proptest::collection::vec((0u64..6, 1usize..4, 0u64..2_000), 1..40),
            rest in proptest::collection::vec(0u64..500, 6),
        ) {
            let make = |(n, (first, copies, _)): (usize, &(u64, usize, u64))| {
                let nodes = (0..count.min(*copies as u64)).map(|k| (first + k) % count + 1);
                range(n as u64 + 2, &nodes.collect::<Vec<_>>())
            };
            let mut ranges: Vec<_> = what.iter().enumerate().map(make).collect();
            let rates = what.iter().enumerate().map(|(n, (.., rate))| (n as u64 + 2, *rate));
            let mut all = loads(rates);
            all.rest = nodes(count).zip(rest).collect();
            for steps in 0.. {
                proptest::prop_assert!(steps < 1_000, "no end to it");
                if let Some(step) = plan(nodes(count), ranges.iter(), |_| false) {
                    let before = uneven(&firsts(nodes(count), ranges.iter()));
                    apply(&mut ranges, step);
                    proptest::prop_assert!(uneven(&firsts(nodes(count), ranges.iter())) < before);
                } else if settle_loads(count, &mut ranges, &all) == 0 {
                    break;
                }
            }
        }
    }
}
