//! The planner in small worlds: what it says is carried out as ranges would, until it says nothing.

use super::*;
use crate::ids::ReplicaId;
use crate::key::Span;
use std::collections::BTreeSet;

/// A cluster, as the planner is to see it.
#[derive(Clone)]
struct World {
    nodes: BTreeMap<NodeId, NodeSight>,
    ranges: Vec<RangeDescriptor>,
    wanted: Vec<usize>,
    ways: BTreeMap<RangeId, Move>,
}

fn dice(seed: &mut u64, below: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 11) % below
}

fn node(state: NodeState, domain: &str) -> NodeSight {
    let facts = Facts { domain: domain.to_owned(), room: Room::Plenty };
    NodeSight { state, answers: true, facts }
}

fn range(id: u64, nodes: &[u64]) -> RangeDescriptor {
    let voter = |(place, node): (usize, &u64)| ReplicaDescriptor {
        replica: ReplicaId(place as u64 + 1),
        node: NodeId(*node),
        kind: ReplicaKind::Voter,
    };
    RangeDescriptor {
        id: RangeId(id),
        span: Span::all(),
        generation: 1,
        replicas: nodes.iter().enumerate().map(voter).collect(),
        next_replica: nodes.len() as u64 + 1,
    }
}

impl World {
    /// Nodes in these failure domains, from 1; ranges with copies there, that should have so many.
    fn new(domains: &[&str], ranges: &[(&[u64], usize)]) -> Self {
        let ids = (1..).map(NodeId);
        let up = |domain: &&str| node(NodeState::Up, domain);
        Self {
            nodes: ids.zip(domains.iter().map(up)).collect(),
            ranges: (2..).zip(ranges).map(|(id, (nodes, _))| range(id, nodes)).collect(),
            wanted: ranges.iter().map(|(_, wanted)| *wanted).collect(),
            ways: BTreeMap::new(),
        }
    }

    fn random(seed: &mut u64) -> Self {
        let count = 1 + dice(seed, 8);
        let names = ["", "a", "b", "c"];
        let kinds = 1 + dice(seed, 4);
        let domains: Vec<&str> = (0..count).map(|_| names[dice(seed, kinds) as usize]).collect();
        let mut world = Self::new(&domains, &[]);
        for id in 2..2 + dice(seed, 12) {
            let mut nodes: Vec<u64> = (1..=count).collect();
            for place in (1..nodes.len()).rev() {
                nodes.swap(place, dice(seed, place as u64 + 1) as usize);
            }
            let fits = |copies: &u64| *copies <= count;
            let odd: Vec<u64> = [1, 3, 5, 7].into_iter().filter(fits).collect();
            nodes.truncate(odd[dice(seed, odd.len() as u64) as usize] as usize);
            world.ranges.push(range(id, &nodes));
            world.wanted.push(odd[dice(seed, odd.len() as u64) as usize] as usize);
        }
        // Most nodes have a copy of the meta range, anybody counts, and anybody of those leads.
        let mut nodes: Vec<u64> = (1..=count).collect();
        nodes.rotate_left(dice(seed, count) as usize);
        nodes.truncate((1 + dice(seed, count + count / 2).min(count - 1)) as usize);
        let votes = 1 + dice(seed, nodes.len() as u64) as usize;
        world.add_meta(&nodes, votes.min(crate::bootstrap::META_VOTERS_MAX));
        world
    }

    /// The meta range with copies on these nodes, of which the first ones vote.
    fn add_meta(&mut self, nodes: &[u64], votes: usize) {
        let mut meta = range(META_RANGE.0, nodes);
        for replica in meta.replicas.iter_mut().skip(votes) {
            replica.kind = ReplicaKind::Learner;
        }
        self.ranges.push(meta);
        self.wanted.push(0);
    }

    fn survey(&self) -> Survey<'_> {
        let sight = |(descriptor, wanted)| {
            let range: &RangeDescriptor = descriptor;
            let leads = |node: &NodeId| self.nodes.get(node).is_some_and(|own| own.answers);
            RangeSight {
                descriptor,
                leader: range.voters().map(|voter| voter.node).find(leads),
                wanted,
                way: self.ways.get(&range.id).copied(),
                merging: false,
            }
        };
        Survey {
            nodes: self.nodes.clone(),
            ranges: self.ranges.iter().zip(self.wanted.iter().copied()).map(sight).collect(),
            copies_max: 0,
            spread: true,
            swaps: true,
        }
    }

    /// As the leader of the range does it.
    fn carry_out(&mut self, step: &Step) {
        let range = self.ranges.iter_mut().find(|range| range.id == step.range).expect("known");
        assert_eq!(range.generation, step.generation);
        range.generation += 1;
        let before = range.clone();
        let place = step.add.and_then(|add| range.replicas.iter().position(|own| own.node == add));
        match (step.add, place) {
            (Some(add), None) => {
                let replica = ReplicaId(range.next_replica);
                range.next_replica += 1;
                let kind = ReplicaKind::Learner;
                range.replicas.push(ReplicaDescriptor { replica, node: add, kind });
            }
            (Some(_), Some(place)) => {
                assert_eq!(range.replicas[place].kind, ReplicaKind::Learner, "{step}");
                range.replicas[place].kind = ReplicaKind::Voter;
                match range.replicas.iter_mut().find(|own| Some(own.node) == step.remove) {
                    Some(gone) if step.swap => gone.kind = ReplicaKind::Learner,
                    _ => range.replicas.retain(|own| Some(own.node) != step.remove),
                }
            }
            (None, _) => range.replicas.retain(|own| Some(own.node) != step.remove),
        }
        let range = range.clone();
        let answer = range.voters().filter(|voter| self.nodes[&voter.node].answers).count();
        assert!(answer >= range.quorum(), "no majority after {step}: {range:?}");
        let nodes: BTreeSet<NodeId> = range.replicas.iter().map(|own| own.node).collect();
        assert_eq!(nodes.len(), range.replicas.len(), "two copies on a node after {step}");
        if step.swap {
            self.check_swap(&before, &range, step);
        }
    }

    /// Everybody is there, as many count as before, one of them another, and the leader stays.
    fn check_swap(&self, before: &RangeDescriptor, after: &RangeDescriptor, step: &Step) {
        let voters = |range: &RangeDescriptor| {
            range.voters().map(|voter| voter.node).collect::<BTreeSet<_>>()
        };
        let (old, new) = (voters(before), voters(after));
        assert_eq!((before.id, old.len()), (META_RANGE, new.len()), "{step}");
        assert_eq!(old.difference(&new).count(), 1, "{step}");
        assert_eq!(before.replicas.len(), after.replicas.len(), "a copy is lost by {step}");
        assert!(old.union(&new).all(|node| self.nodes[node].is_up()), "{step}");
        assert_ne!(before.voters().next().map(|leader| leader.node), step.remove, "{step}");
    }

    /// Until nothing more is planned. Nothing that was is ever again.
    fn settle(&mut self) -> Vec<String> {
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut said = Vec::new();
        loop {
            let mut places: Vec<String> = Vec::new();
            for range in &self.ranges {
                let mut nodes: Vec<_> =
                    range.replicas.iter().map(|own| (own.node, own.kind)).collect();
                nodes.sort_unstable();
                places.push(format!("{nodes:?}"));
            }
            assert!(seen.insert(places.join(";")), "to and fro: {said:#?}");
            let steps = plan(&self.survey()).steps;
            if steps.is_empty() {
                return said;
            }
            for step in steps {
                said.push(step.to_string());
                self.carry_out(&step);
            }
            assert!(said.len() < 2_000, "no end: {said:#?}");
        }
    }

    fn nodes_of(&self, place: usize) -> Vec<u64> {
        let mut nodes: Vec<u64> = self.ranges[place].voters().map(|voter| voter.node.0).collect();
        nodes.sort_unstable();
        nodes
    }

    /// As it should be once nothing more is planned.
    fn check(&self) {
        for (range, wanted) in self.ranges.iter().zip(&self.wanted) {
            if range.id == META_RANGE {
                self.check_meta(range);
                continue;
            }
            assert_eq!(range.voters().count(), range.replicas.len(), "begun: {range:?}");
            let usable = |(node, sight): &(&NodeId, &NodeSight)| {
                sight.is_up()
                    && sight.facts.room != Room::Little
                    && range.replica_on(**node).is_none()
            };
            let free: Vec<&NodeSight> =
                self.nodes.iter().filter(usable).map(|(_, sight)| sight).collect();
            let has = range.voters().count();
            assert!(has == *wanted || has < *wanted && free.is_empty(), "{wanted}: {range:?}");
            if self.nodes.values().any(|own| own.state != NodeState::Tombstoned && !own.is_up()) {
                continue;
            }
            let crowd = |domain: &str| {
                let nodes = range.voters().map(|voter| &self.nodes[&voter.node]);
                nodes.filter(|own| !domain.is_empty() && own.facts.domain == domain).count()
            };
            for own in range.voters().map(|voter| &self.nodes[&voter.node]) {
                let crowded = crowd(&own.facts.domain);
                let better = free.iter().any(|free| crowd(&free.facts.domain) + 1 < crowded);
                assert!(!better, "{crowded} copies in {}: {range:?}", own.facts.domain);
            }
        }
    }
}

impl World {
    /// Every node that stays has a copy; voters share a failure domain only if none could be elsewhere.
    fn check_meta(&self, meta: &RangeDescriptor) {
        let stay = |own: &NodeSight| own.stays() && own.answers;
        for (node, _) in self.nodes.iter().filter(|(_, own)| stay(own)) {
            assert!(meta.replica_on(*node).is_some(), "{node} has no directory: {meta:?}");
        }
        if self.nodes.values().any(|own| own.state != NodeState::Tombstoned && !own.is_up()) {
            return;
        }
        let domain = |node: NodeId| match self.nodes[&node].facts.domain.as_str() {
            "" => node.to_string(),
            domain => domain.to_owned(),
        };
        let mut crowds: BTreeMap<String, usize> = BTreeMap::new();
        for voter in meta.voters() {
            *crowds.entry(domain(voter.node)).or_default() += 1;
        }
        let most = crowds.values().max().copied().unwrap_or(0);
        let others = meta.replicas.iter().filter(|own| own.kind == ReplicaKind::Learner);
        for other in others.filter(|own| self.nodes[&own.node].facts.room != Room::Little) {
            let there = crowds.get(&domain(other.node)).copied().unwrap_or(0);
            assert!(there + 1 >= most, "{} could vote: {meta:?}, {crowds:?}", other.node);
        }
    }
}

/// Whatever the cluster looks like, and whatever happens to it, the plan ends, and all is well.
#[test]
fn every_plan_ends_well() {
    for first in 1..=3_000_u64 {
        let mut seed = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut world = World::random(&mut seed);
        world.settle();
        world.check();
        let victim = NodeId(1 + dice(&mut seed, world.nodes.len() as u64));
        let others = world.nodes.len() - 1;
        let spare = others > 0 && world.wanted.iter().all(|wanted| *wanted <= others);
        let sight = world.nodes.get_mut(&victim).expect("known");
        match dice(&mut seed, 6) {
            0 if spare => sight.state = NodeState::Leaving,
            1 if spare && world.wanted.iter().all(|wanted| *wanted > 1) => {
                sight.state = NodeState::Condemned;
                sight.answers = false;
            }
            2 => sight.state = NodeState::Draining,
            3 => sight.facts.room = Room::Little,
            4 => sight.facts.domain = "d".to_owned(),
            _ => {
                let next = NodeId(world.nodes.len() as u64 + 1);
                world.nodes.insert(next, node(NodeState::Up, "a"));
            }
        }
        world.settle();
        world.check();
        let lost = &world.nodes[&victim];
        if lost.state.loses_replicas() {
            let has = world.ranges.iter().any(|range| range.replica_on(victim).is_some());
            assert!(!has, "seed {first}: {victim} has copies still");
        }
    }
}

#[test]
fn copies_go_up_and_down_to_what_is_wanted() {
    let mut world = World::new(&["", "", "", "", ""], &[(&[1, 2, 3], 5), (&[1, 2, 3, 4, 5], 3)]);
    world.settle();
    assert_eq!(world.nodes_of(0), [1, 2, 3, 4, 5]);
    assert_eq!(world.nodes_of(1).len(), 3);
    world.wanted = vec![1, 1];
    world.settle();
    assert_eq!((world.nodes_of(0).len(), world.nodes_of(1).len()), (1, 1));
}

#[test]
fn failure_domains_come_first_and_then_room() {
    // Node 3 is lost: its place is taken in its own failure domain, though node 4 has fewer copies.
    let mut world = World::new(&["a", "b", "c", "a", "c"], &[(&[1, 2, 3], 3), (&[1, 2, 5], 3)]);
    world.nodes.get_mut(&NodeId(3)).expect("known").state = NodeState::Leaving;
    world.settle();
    assert_eq!(world.nodes_of(0), [1, 2, 5]);
    // No room there: two in one failure domain are better than two in all.
    let mut world = World::new(&["a", "b", "c", "a", "c"], &[(&[1, 2, 3], 3)]);
    world.nodes.get_mut(&NodeId(3)).expect("known").state = NodeState::Leaving;
    world.nodes.get_mut(&NodeId(5)).expect("known").facts.room = Room::Little;
    world.settle();
    assert_eq!(world.nodes_of(0), [1, 2, 4]);
    // Less room is still room, if nobody has more.
    let mut world = World::new(&["", "", "", "", ""], &[(&[1, 2], 3)]);
    world.nodes.get_mut(&NodeId(3)).expect("known").facts.room = Room::Less;
    world.settle();
    assert_eq!(world.nodes_of(0), [1, 2, 4]);
}

#[test]
fn two_copies_in_one_failure_domain_part_when_another_one_comes() {
    let mut world = World::new(&["a", "a", "b"], &[(&[1, 2, 3], 3)]);
    assert_eq!(world.settle(), Vec::<String>::new());
    world.nodes.insert(NodeId(4), node(NodeState::Up, "c"));
    let said = world.settle();
    assert_eq!(world.nodes_of(0), [1, 3, 4]);
    assert!(said[0].contains("failure domain a has more of its copies than"), "{said:?}");
}

#[test]
fn voters_of_the_meta_range_part_when_another_failure_domain_can_have_one() {
    let voters = |world: &World| world.nodes_of(world.ranges.len() - 1);
    // As it is formed before it knows: the loss of a would be the loss of all.
    let domains = ["a", "a", "a", "b", "b", "b", "c", "c", "c"];
    let mut world = World::new(&domains, &[]);
    world.add_meta(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 5);
    let said = world.settle();
    assert_eq!(
        said,
        [
            "r1: n7 votes in place of n3: failure domain a has more of its voters than failure domain c"
        ]
    );
    assert_eq!(voters(&world), [1, 2, 4, 5, 7]);
    // One zone has all of three.
    let mut world = World::new(&["a", "a", "a", "b"], &[]);
    world.add_meta(&[1, 2, 3, 4], 3);
    assert_eq!(world.settle().len(), 1);
    assert_eq!(voters(&world), [1, 2, 4], "the leader stays");
    // Two of three are as bad there as here.
    let mut world = World::new(&["a", "a", "b", "b"], &[]);
    world.add_meta(&[1, 2, 3, 4], 3);
    assert_eq!(world.settle(), Vec::<String>::new());
}

#[test]
fn voters_of_the_meta_range_stay_unless_all_is_well() {
    let well = || {
        let mut world = World::new(&["a", "a", "a", "b", "b", "c", "d"], &[]);
        world.add_meta(&[1, 2, 3, 4, 5, 6, 7], 5);
        world
    };
    let steps = |world: &World| plan(&world.survey()).steps;
    let step = &steps(&well())[0];
    assert_eq!((step.add, step.remove, step.swap), (Some(NodeId(6)), Some(NodeId(3)), true));
    for node in [2, 3, 5, 6, 7] {
        let mut world = well();
        world.nodes.get_mut(&NodeId(node)).expect("known").answers = false;
        assert_eq!(steps(&world), [], "n{node} does not answer");
        let mut world = well();
        world.nodes.get_mut(&NodeId(node)).expect("known").state = NodeState::Draining;
        assert_eq!(steps(&world), [], "n{node} is being drained");
    }
    let mut world = well();
    world.nodes.get_mut(&NodeId(6)).expect("known").facts.room = Room::Little;
    assert_eq!(steps(&world)[0].add, Some(NodeId(7)), "n6 has no room");
    let world = well();
    let older = Survey { swaps: false, ..world.survey() };
    assert_eq!(plan(&older).steps, [], "not every node knows of it");
    let calm = Survey { spread: false, ..world.survey() };
    assert_eq!(plan(&calm).steps, [], "it is not time for that");
    let mut nobody = world.survey();
    nobody.ranges[0].leader = None;
    assert_eq!(plan(&nobody).steps, [], "nobody is known to lead");
    // Copies that are missing come first.
    let mut world = well();
    world.ranges.push(range(2, &[1, 2]));
    world.wanted.push(3);
    assert!(steps(&world).iter().all(|step| !step.swap));
}

#[test]
fn nothing_moves_for_evenness_while_a_node_is_away() {
    let mut world = World::new(&["", "", "", ""], &[(&[1, 2, 3], 3), (&[1, 2, 3], 3)]);
    world.nodes.get_mut(&NodeId(3)).expect("known").answers = false;
    assert_eq!(world.settle(), Vec::<String>::new());
    world.nodes.get_mut(&NodeId(3)).expect("known").answers = true;
    assert!(!world.settle().is_empty());
}

#[test]
fn what_cannot_be_done_is_said() {
    let mut world = World::new(&["", "", "", "", ""], &[(&[1, 2], 3)]);
    world.nodes.get_mut(&NodeId(3)).expect("known").answers = false;
    world.nodes.get_mut(&NodeId(4)).expect("known").state = NodeState::Draining;
    world.nodes.get_mut(&NodeId(5)).expect("known").facts.room = Room::Little;
    let held = plan(&world.survey()).held;
    assert_eq!(held.len(), 1);
    assert_eq!(
        held[0].1.to_string(),
        "it lacks a copy, and no node can take one: n3 does not answer, n4 is Draining, the disk of n5 is nearly full"
    );
    // Of two copies one is to go, and the other does not answer.
    let mut world = World::new(&["", ""], &[(&[1, 2], 1)]);
    world.nodes.get_mut(&NodeId(2)).expect("known").state = NodeState::Leaving;
    world.nodes.get_mut(&NodeId(1)).expect("known").answers = false;
    let plan = plan(&world.survey());
    assert_eq!((plan.steps.len(), plan.held.len()), (0, 1));
}

#[test]
fn an_only_copy_moves_by_way_of_two() {
    let mut world = World::new(&["", "", ""], &[(&[1], 1), (&[2], 1)]);
    let way = Move { from: NodeId(1), to: NodeId(3) };
    world.ways.insert(RangeId(2), way);
    let mut counts = Vec::new();
    while let Some(step) = plan(&world.survey()).steps.first().cloned() {
        world.carry_out(&step);
        counts.push(world.nodes_of(0));
        if world.nodes_of(0) == [3] {
            world.ways.clear();
        }
    }
    assert_eq!(counts, [vec![1], vec![1, 3], vec![3]]);
}

#[test]
fn a_copy_stays_where_somebody_wants_it_only_if_nothing_gets_worse() {
    let world = World::new(&["a", "b", "c", "a"], &[(&[1, 2, 3], 3), (&[4, 2, 3], 3)]);
    let survey = world.survey();
    let stays = |from: u64, to: u64| {
        would_stay(&survey, &survey.ranges[0], Move { from: NodeId(from), to: NodeId(to) })
    };
    assert!(stays(2, 4).unwrap_err().contains("failure domain a would have 2 copies"));
    assert!(stays(1, 4).unwrap_err().contains("evens that out"));
    let world = World::new(&["a", "b", "c", "a"], &[(&[1, 2, 3], 3)]);
    let survey = world.survey();
    let way = Move { from: NodeId(1), to: NodeId(4) };
    assert_eq!(would_stay(&survey, &survey.ranges[0], way), Ok(()));
}
