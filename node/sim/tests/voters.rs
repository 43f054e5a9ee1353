//! Voters of the meta range go where failure domains want them, also of a cluster that was formed before
//! its nodes knew theirs, and whatever happens meanwhile.

use bytes::Bytes;
use holdfast_core::ids::{META_RANGE, NodeId};
use holdfast_core::level::Level;
use holdfast_core::request::{AdminOp, Op, PutOp, Request};
use holdfast_sim::convergence;
use holdfast_sim::run::{Plan, run_caught};
use holdfast_sim::world::{Options, World};
use rand::Rng;

/// Runs with faults, in some of which voters are swapped.
const SEEDS: u64 = 10;
/// Swaps that something happens in the middle of.
const STRUCK: u64 = 60;

struct Bench(World);

impl Bench {
    /// As many nodes as failure domains are named here, formed before they are told them.
    fn new(seed: u64, nodes: usize) -> Self {
        let mut bench = Self(World::new(Options { nodes: nodes as u64, ..Options::new(seed) }));
        bench.0.run(5_000);
        bench
    }

    fn tell(&mut self, domains: &[&str]) {
        for (node, domain) in (1..).map(NodeId).zip(domains) {
            let op = AdminOp::Domain { node, domain: (*domain).to_owned() };
            self.0.ask(NodeId(4), Request::Admin(op)).expect("every node knows it");
        }
    }

    fn put(&mut self, gateway: u64, key: &'static str) {
        let key = Bytes::from_static(key.as_bytes());
        let put = PutOp { value: key.clone(), key, ..PutOp::default() };
        self.0.ask(NodeId(gateway), Request::Kv(Op::Put(put))).expect("it serves");
    }

    /// Nodes whose copy of the meta range counts, of all that have one.
    fn voters(&self, gateway: u64) -> (Vec<u64>, usize) {
        let status = self.0.status(NodeId(gateway)).expect("it runs");
        let meta = status.ranges.iter().find(|own| own.descriptor.id == META_RANGE);
        let meta = &meta.expect("it is in the directory").descriptor;
        let mut voters: Vec<u64> = meta.voters().map(|voter| voter.node.0).collect();
        voters.sort_unstable();
        (voters, meta.replicas.len())
    }
}

/// Formed with all three voters in one failure domain, it survives the loss of that one.
#[test]
fn a_cluster_that_is_told_its_failure_domains_survives_the_loss_of_one() {
    let mut bench = Bench::new(1, 7);
    assert_eq!(bench.voters(4), (vec![1, 2, 3, 4, 5], 7));
    let sequencer = bench.0.status(NodeId(4)).expect("it runs").sequencer;
    bench.tell(&["a", "a", "a", "b", "b", "c", "c"]);
    for _ in 0..40 {
        for (gateway, key) in [(1, "k1"), (3, "k4"), (6, "k8")] {
            bench.put(gateway, key);
        }
        bench.0.run(500);
    }
    assert_eq!(bench.voters(4), (vec![1, 2, 4, 5, 6], 7));
    let now = bench.0.status(NodeId(4)).expect("it runs").sequencer;
    assert_eq!(now, sequencer, "who leads is not moved");
    assert_eq!(convergence::complete(&bench.0), Ok(()));
    for node in 1..=3 {
        bench.0.crash(NodeId(node), true);
    }
    bench.0.run(8_000);
    for (gateway, key) in [(4, "k1"), (6, "k4"), (7, "k8")] {
        bench.put(gateway, key);
    }
}

/// One at a time, until each failure domain has one; what it was told before is forgotten.
#[test]
fn voters_follow_what_nodes_are_told() {
    let mut bench = Bench::new(2, 4);
    assert_eq!(bench.voters(4), (vec![1, 2, 3], 4));
    bench.tell(&["a", "a", "b", "c"]);
    bench.0.run(8_000);
    assert_eq!(bench.voters(4), (vec![1, 3, 4], 4));
    // Two share one whoever counts: nothing is better.
    bench.tell(&["a", "b", "b", "a"]);
    bench.0.run(8_000);
    assert_eq!(bench.voters(4), (vec![1, 3, 4], 4));
    bench.tell(&["a", "b", "c", "c"]);
    bench.0.run(8_000);
    let (voters, copies) = bench.voters(4);
    assert_eq!((voters.len(), copies), (3, 4));
    assert!(voters.contains(&1) && voters.contains(&2), "{voters:?}");
    bench.put(2, "k1");
}

/// A voter that is away, or is being drained, is waited for.
#[test]
fn nobody_stops_to_count_while_a_node_is_away() {
    let mut bench = Bench::new(3, 4);
    bench.tell(&["a", "b", "c", "d"]);
    bench.0.crash(NodeId(3), false);
    bench.0.run(3_000);
    let op = |node, domain: &str| {
        Request::Admin(AdminOp::Domain { node: NodeId(node), domain: domain.to_owned() })
    };
    bench.0.ask(NodeId(4), op(2, "a")).expect("every node knows it");
    bench.0.run(10_000);
    assert_eq!(bench.voters(4), (vec![1, 2, 3], 4));
    bench.0.restart(NodeId(3), 10);
    bench.0.run(10_000);
    assert_eq!(bench.voters(4), (vec![1, 3, 4], 4));
}

#[test]
fn voters_stay_before_every_node_knows_that_they_can_be_swapped() {
    let mut options = Options { nodes: 4, ..Options::new(4) };
    options.older.insert(NodeId(3), Level::SHAPING);
    let mut bench = Bench(World::new(options));
    bench.0.run(5_000);
    bench.tell(&["a", "a", "b", "c"]);
    bench.0.run(8_000);
    assert_eq!(bench.voters(4), (vec![1, 2, 3], 4));
    let leader = bench.0.status(NodeId(4)).expect("it runs").sequencer.expect("it is led");
    let planned = bench.0.status(leader).expect("it runs").planned;
    assert!(planned.iter().any(|(_, why)| why.contains("voters stay")), "{planned:?}");
    bench.0.options.older.clear();
    bench.0.crash(NodeId(3), false);
    bench.0.restart(NodeId(3), 10);
    bench.0.run(10_000);
    assert_eq!(bench.voters(4), (vec![1, 3, 4], 4));
}

/// Under load and faults, while nodes are told one failure domain after another.
#[test]
fn voters_are_swapped_safely_under_faults() {
    let mut swapped = 0;
    for seed in 1..=SEEDS {
        let mut plan = Plan { policies_ms: 50, ..Plan::new(seed) };
        plan.options.nodes = if seed % 2 == 0 { 4 } else { 7 };
        println!("seed {seed}, {} nodes", plan.options.nodes);
        let report = run_caught(plan);
        assert_eq!(report.violation, None, "seed {seed}");
        swapped += report.coverage.swapped;
    }
    assert!(swapped >= 3, "only {swapped} in {SEEDS} runs");
}

/// The leader, the one that stops to count, the one that begins to, or all of them crash, are cut off or
/// stand still at any moment of a swap: it happens, or another does, and nothing that was promised is lost.
#[test]
fn a_swap_survives_what_happens_in_the_middle_of_it() {
    let mut bench = Bench::new(6, 4);
    let all = || (1..=4).map(NodeId);
    for round in 0..STRUCK {
        let (voters, _) = bench.voters(4);
        let other = (1..=4).find(|node| !voters.contains(node)).expect("one of four learns");
        let mut domains = ["", "", "", ""];
        for (node, domain) in voters.iter().chain([&other]).zip(["a", "a", "b", "c"]) {
            domains[*node as usize - 1] = domain;
        }
        bench.tell(&domains);
        let swaps = |bench: &Bench| {
            let plans = all().filter_map(|node| bench.0.status(node)).map(|status| status.planned);
            plans.flatten().any(|(_, why)| why.contains("votes in place of"))
        };
        for _ in 0..5_000 {
            if swaps(&bench) {
                break;
            }
            bench.0.run(1);
        }
        assert!(swaps(&bench), "round {round}: no swap is planned");
        let after = bench.0.rng().random_range(0..20);
        bench.0.run(after);
        let leader = bench.0.status(NodeId(other)).and_then(|own| own.sequencer);
        let victim = match round % 4 {
            0 => leader,
            1 => Some(NodeId(other)),
            2 => voters.get(1).copied().map(NodeId),
            _ => None,
        };
        let victims: Vec<NodeId> =
            all().filter(|node| victim.is_none_or(|it| it == *node)).collect();
        for node in victims {
            match bench.0.rng().random_range(0..3) {
                0 => {
                    let after = bench.0.rng().random_range(10..4_000);
                    bench.0.crash(node, round % 2 == 0);
                    bench.0.restart(node, after);
                }
                1 => bench.0.pause(node, 2_000),
                _ => all().filter(|peer| *peer != node).for_each(|peer| bench.0.block(node, peer)),
            }
        }
        bench.0.run(4_000);
        bench.0.heal();
        let whole = |bench: &Bench| convergence::complete(&bench.0).and(convergence::led(&bench.0));
        for _ in 0..300 {
            if whole(&bench).is_ok() {
                break;
            }
            bench.0.run(100);
        }
        assert_eq!(whole(&bench), Ok(()), "round {round}");
        assert!(bench.voters(4).0.contains(&other), "round {round}");
        bench.put(2, "k4");
    }
    assert!(bench.0.checks.violation().is_none(), "{:?}", bench.0.checks.violation());
}
