//! Nodes of several versions: what is new is used only when every node knows it.

use bytes::Bytes;
use holdfast_core::descriptor::{Facts, Room};
use holdfast_core::error::Error;
use holdfast_core::ids::{META_RANGE, NodeId, RangeId};
use holdfast_core::level::Level;
use holdfast_core::node::Shaping;
use holdfast_core::request::{AdminOp, Op, PutOp, Request};
use holdfast_sim::world::{Options, World};

const OLDER: NodeId = NodeId(3);
const SHAPING: Shaping = Shaping {
    split_load: 20,
    load_lasts_ms: 1_000,
    load_rests_ms: 5_000,
    quiet_load: 2,
    merge_after_ms: 60_000,
    rank_every_ms: 200,
    ranks_loads_after_ms: 2_000,
};

/// Writes for so many seconds, so that ranges would be cut by load, and then nothing.
fn load(world: &mut World, seconds: u64) {
    for number in 0..seconds * 50 {
        let key = Bytes::from(format!("k1/{:03}", number * 7_919 % 1_000));
        let put = PutOp { value: key.clone(), key, ..PutOp::default() };
        world.ask(NodeId(1), Request::Kv(Op::Put(put))).expect("it serves");
        world.run(20);
    }
}

/// Some of what is sent only when every node knows it, and what is known of n2 after each.
fn newer() -> [(AdminOp, &'static str, Room); 4] {
    let node = NodeId(2);
    let domain = |name: &str| AdminOp::Domain { node, domain: name.to_owned() };
    let policy = AdminOp::SetPolicy { prefix: Bytes::from("k2"), copies: 1, fewer: true };
    [
        (domain("a"), "a", Room::Plenty),
        (AdminOp::Room { node, room: Room::Less }, "a", Room::Less),
        (domain("b"), "b", Room::Less),
        (policy, "b", Room::Less),
    ]
}

#[test]
fn nothing_new_is_in_the_log_before_every_node_knows_it() {
    let mut options = Options { shaping: SHAPING, ..Options::new(1) };
    options.older.insert(OLDER, Level::FIRST);
    let mut world = World::new(options);
    world.run(5_000);
    load(&mut world, 10);
    world.run(5_000);
    let merge = || Request::Admin(AdminOp::Merge { range: RangeId(2) });
    let refused = world.ask(NodeId(1), merge());
    let Err(Error::Refused(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.starts_with("n3 must be connected and run this version"), "{reason}");
    for (op, ..) in newer() {
        let refused = world.ask(NodeId(1), Request::Admin(op));
        assert_eq!(refused, Err(Error::Refused(reason.clone())));
    }
    let status = world.status(NodeId(1)).expect("it runs");
    assert_eq!(status.ranges.len(), 4, "no cuts by load");
    let leader = status.sequencer.expect("it is led");
    let status = world.status(leader).expect("it runs");
    let planned = status.planned.iter().find(|(range, _)| *range == META_RANGE);
    assert!(planned.is_some_and(|(_, why)| why.contains("n3 must be")), "{:?}", status.planned);

    // It comes back as one of this version.
    world.options.older.clear();
    world.crash(OLDER, false);
    world.run(3_000);
    world.restart(OLDER, 10);
    world.run(5_000);
    let status = world.status(NodeId(1)).expect("it runs");
    let leader = status.sequencer.expect("it is led");
    assert_eq!(world.status(leader).expect("it runs").planned, []);
    load(&mut world, 15);
    assert!(world.status(NodeId(1)).expect("it runs").ranges.len() > 4, "cuts by load");
    world.ask(NodeId(1), merge()).expect("nothing speaks against it");
    // What is said of a node's disk leaves what is said of its failure domain, and the reverse.
    for (op, domain, room) in newer() {
        world.ask(NodeId(1), Request::Admin(op)).expect("every node knows it");
        world.run(1_000);
        let status = world.status(NodeId(2)).expect("it runs");
        let facts = Facts { domain: domain.to_owned(), room };
        assert_eq!(status.facts, [(NodeId(2), facts)]);
    }

    // Put back to the older version it would stop, and is talked to no more.
    world.options.older.insert(OLDER, Level::FIRST);
    world.crash(OLDER, false);
    world.run(3_000);
    world.restart(OLDER, 10);
    world.run(5_000);
    load(&mut world, 1);
    assert_eq!(world.status(OLDER).expect("it runs").reachable, [OLDER]);
    world.options.older.clear();
    world.run(5_000);
    assert_eq!(world.status(OLDER).expect("it runs").reachable.len(), 3);
    assert!(world.checks.violation().is_none(), "{:?}", world.checks.violation());
}
