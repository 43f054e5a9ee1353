//! A drain with a time to live ends unless it is asked for again, whoever counts the time.

use holdfast_core::descriptor::NodeState;
use holdfast_core::error::Error;
use holdfast_core::ids::{META_RANGE, NodeId};
use holdfast_core::request::{AdminOp, Request, Response};
use holdfast_sim::world::{Options, World};

struct Bench(World);

const NODE: NodeId = NodeId(2);

impl Bench {
    fn new(nodes: u64) -> Self {
        let mut bench = Self(World::new(Options { nodes, ..Options::new(5) }));
        bench.run(5_000);
        bench
    }

    fn run(&mut self, millis: u64) {
        self.0.run(millis);
    }

    fn ask(&mut self, op: AdminOp) -> Result<Response, Error> {
        self.0.ask(NodeId(3), Request::Admin(op))
    }

    fn drain(&mut self, replicas: bool, ttl_ms: u64) {
        self.ask(AdminOp::DrainFor { node: NODE, replicas, ttl_ms }).expect("it can");
    }

    fn state(&self) -> NodeState {
        let status = self.0.status(NodeId(3)).expect("it runs");
        status.nodes.iter().find(|record| record.id == NODE).expect("it is known").state
    }

    fn leads(&self) -> usize {
        let replicas = self.0.status(NODE).expect("it runs").replicas;
        replicas.iter().filter(|replica| replica.leader && replica.range != META_RANGE).count()
    }
}

#[test]
fn a_drain_that_nobody_renews_ends() {
    let mut bench = Bench::new(3);
    assert!(bench.leads() > 0);
    bench.drain(false, 6_000);
    bench.run(5_000);
    assert_eq!((bench.state(), bench.leads()), (NodeState::Draining, 0));
    // Asked again, its time begins anew.
    bench.drain(false, 6_000);
    bench.run(5_000);
    assert_eq!((bench.state(), bench.leads()), (NodeState::Draining, 0));
    bench.run(1_500);
    assert_eq!(bench.state(), NodeState::Up);
    bench.run(4_000);
    assert!(bench.leads() > 0, "leaders come back");
}

#[test]
fn a_new_sequencer_counts_anew_and_a_person_has_the_last_word() {
    let mut bench = Bench::new(3);
    bench.drain(false, 4_000);
    bench.run(2_000);
    bench.0.crash(NodeId(1), true);
    bench.run(3_000);
    assert_eq!(bench.state(), NodeState::Draining);
    // Node 1 becomes the sequencer again, and counts anew, too.
    bench.0.restart(NodeId(1), 10);
    bench.run(10_000);
    assert_eq!(bench.state(), NodeState::Up);
    bench.drain(false, 4_000);
    // Without a time it has no end.
    bench.ask(AdminOp::Drain { node: NODE }).expect("it can");
    bench.run(6_000);
    assert_eq!(bench.state(), NodeState::Draining);
    bench.ask(AdminOp::Undrain { node: NODE }).expect("it can");
    assert_eq!(bench.state(), NodeState::Up);
    for ttl_ms in [0, 999, u64::MAX] {
        let refused = bench.ask(AdminOp::DrainFor { node: NODE, replicas: false, ttl_ms });
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
}

#[test]
fn a_node_that_was_to_leave_keeps_what_it_has_when_nobody_wants_it_to() {
    let mut bench = Bench::new(4);
    // Nobody lets go of a copy while another node is away.
    bench.drain(true, 3_000);
    assert_eq!(bench.state(), NodeState::Leaving);
    bench.0.crash(NodeId(4), false);
    bench.run(6_000);
    bench.0.restart(NodeId(4), 10);
    bench.run(3_000);
    assert_eq!(bench.state(), NodeState::Up);
}
