//! A majority of all disks is gone for good, in the midst of everything: what one node had is served
//! by it alone, and by three again once others have joined.

use bytes::Bytes;
use holdfast_core::effects::Millis;
use holdfast_core::error::Error;
use holdfast_core::ids::{META_RANGE, NodeId, RangeId};
use holdfast_core::node::recovery::{BUMP_MIN, Consent};
use holdfast_core::request::{AdminOp, Op, OpResult, PutOp, RangeOp, Request, Response, TxnOp};
use holdfast_sim::convergence;
use holdfast_sim::world::{Happening, Options, World};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};

const LEFT: NodeId = NodeId(3);
const CONSENT: Consent = Consent { bump: BUMP_MIN, lost_ranges: false };

/// Keys with their values, and the revision at which they were read.
type Found = (BTreeMap<Bytes, Bytes>, i64);

fn key(number: u64) -> Bytes {
    format!("k{number}").into_bytes().into()
}

fn put(number: u64, value: u64) -> PutOp {
    PutOp { key: key(number), value: value.to_string().into_bytes().into(), ..PutOp::default() }
}

/// Runs for a while; gives the answers that came.
fn run(world: &mut World, millis: Millis) -> Vec<(u64, Result<Response, Error>)> {
    let end = world.now() + millis;
    let mut answers = Vec::new();
    while world.now() < end {
        assert!(world.advance(), "{:?}", world.checks.violation());
        while let Some(happening) = world.happening() {
            if let Happening::Reply { token, result, .. } = happening {
                answers.push((token, result));
            }
        }
    }
    answers
}

fn ask(world: &mut World, node: NodeId, request: Request) -> Result<Response, Error> {
    let token = world.request(node, 5_000, request).expect("it runs");
    loop {
        let answer = run(world, 1).into_iter().find(|(of, _)| *of == token);
        if let Some((_, result)) = answer {
            return result;
        }
    }
}

fn read_all(world: &mut World, node: NodeId) -> Found {
    let all = Bytes::from_static(b"\0");
    let read = RangeOp { key: all.clone(), range_end: all, ..RangeOp::default() };
    match ask(world, node, Request::Kv(Op::Range(read))) {
        Ok(Response::Kv { revision, result: OpResult::Range(found) }) => {
            (found.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect(), revision)
        }
        other => panic!("{other:?}"),
    }
}

/// Waits until something is so.
fn until(world: &mut World, what: &str, holds: impl Fn(&World) -> Result<(), String>) {
    let end = world.now() + 30_000;
    while let Err(why) = holds(world) {
        if world.now() >= end {
            for status in world.nodes().keys().filter_map(|node| world.status(*node)) {
                println!("{status:#?}");
            }
            panic!("no {what}: {why}");
        }
        run(world, 50);
    }
}

/// A load of writes, transactions over several ranges and cuts, in which nodes die and come back;
/// gives the values that were ever written to each key.
fn turmoil(world: &mut World) -> BTreeMap<Bytes, BTreeSet<Bytes>> {
    let mut written: BTreeMap<Bytes, BTreeSet<Bytes>> = BTreeMap::new();
    let steps = world.rng().random_range(50..300);
    for value in 0..steps {
        let (node, number) =
            (NodeId(world.rng().random_range(1..=3)), world.rng().random_range(0..10));
        let puts = if world.rng().random_bool(0.3) {
            vec![number, (number + 5) % 10]
        } else {
            vec![number]
        };
        let mut ops: Vec<PutOp> = puts.iter().map(|number| put(*number, value)).collect();
        for put in &ops {
            written.entry(put.key.clone()).or_default().insert(put.value.clone());
        }
        let op = if ops.len() == 1 {
            Op::Put(ops.remove(0))
        } else {
            let success = ops.into_iter().map(Op::Put).collect();
            Op::Txn(TxnOp { success, ..TxnOp::default() })
        };
        let pause = world.rng().random_range(0..20);
        world.request(node, 5_000, Request::Kv(op));
        match world.rng().random_range(0..40) {
            0 => {
                let cut = Bytes::from(format!("k{number}/5").into_bytes());
                world.request(node, 5_000, Request::Admin(AdminOp::Split { key: cut }));
            }
            1 => {
                let power = world.rng().random();
                world.crash(node, power);
                let after = world.rng().random_range(0..3_000);
                world.restart(node, after);
            }
            _ => {}
        }
        run(world, pause);
    }
    written
}

/// Everything of one seed: a crash of all nodes at any moment, two of them for good.
fn survive(seed: u64) {
    let mut world = World::new(Options::new(seed));
    run(&mut world, 4_000);
    let written = turmoil(&mut world);
    let settled = seed.is_multiple_of(3);
    let mut before = None;
    if settled {
        // Time for node 3 to get everything.
        run(&mut world, 12_000);
        before = Some(read_all(&mut world, LEFT));
        run(&mut world, 2_000);
    }
    let power = world.rng().random();
    world.crash(LEFT, power);
    let known = world.node(LEFT).state.memory().positions().count();
    assert!(known >= 4, "it has copies");
    let mut plan = world.plan_recovery(LEFT, CONSENT).unwrap_or_else(|why| panic!("{seed}: {why}"));
    assert_eq!(plan.report.gone.len(), 2);
    assert!(plan.report.lost.is_empty());
    if seed.is_multiple_of(2) {
        let first = plan.report.kept.clone();
        world.recover_half(LEFT, plan);
        plan = world.plan_recovery(LEFT, CONSENT).expect("as before");
        assert_eq!(plan.report.kept, first, "{seed}: a crash in between changes nothing");
    }
    let (newest, compacted) = (plan.report.revision, plan.report.compacted);
    assert!(compacted >= newest + BUMP_MIN);

    let mut world = world.recovered(LEFT, plan, 2);
    until(&mut world, "leaders", |world| match world.status(LEFT) {
        Some(status) if status.sequencing && status.replicas.iter().all(|own| own.leaseholder) => {
            Ok(())
        }
        other => Err(format!("{seed}: {other:?}")),
    });
    let (found, revision) = read_all(&mut world, LEFT);
    assert!(revision >= compacted, "{seed}: {revision}");
    for (key, value) in &found {
        assert!(written[key].contains(value), "{seed}: {key:?} is {value:?}");
    }
    if let Some((all, _)) = before {
        assert_eq!(found, all, "{seed}: node 3 had everything");
    }
    for number in 0..10 {
        let answer = ask(&mut world, LEFT, Request::Kv(Op::Put(put(number, 7_000))));
        assert!(
            matches!(&answer, Ok(Response::Kv { revision: at, .. }) if *at > revision),
            "{seed}: {answer:?}"
        );
    }

    // Others join, and get copies of everything.
    let joining: Vec<NodeId> = [104, 105].map(NodeId).to_vec();
    for node in &joining {
        world.join(*node, LEFT);
    }
    run(&mut world, 2_000);
    until(&mut world, "copies", |world| {
        convergence::complete(world)?;
        convergence::led(world)?;
        convergence::free(world)
    });
    until(&mut world, "equal copies", convergence::equal);
    // Now the one that was left may go as well.
    world.crash(LEFT, true);
    run(&mut world, 5_000);
    let (found, _) = read_all(&mut world, joining[0]);
    assert_eq!(found.len(), 10);
    assert!(found.values().all(|value| *value == "7000"));
    world.restart(LEFT, 0);
    run(&mut world, 2_000);
    world.crash(LEFT, false);
    let again = world.plan_recovery(LEFT, CONSENT).expect("once more, two others are given up");
    assert!(again.report.compacted > compacted);
}

#[test]
fn what_one_node_had_survives_the_loss_of_the_others() {
    for seed in 0..40 {
        println!("seed {seed}");
        survive(seed);
    }
}

/// `SEEDS=100..400 cargo test -p holdfast-sim --test recover -- --ignored`
#[test]
#[ignore = "as long as one wants"]
fn many_seeds() {
    let range = std::env::var("SEEDS").expect("SEEDS=FROM..TO");
    let (from, to) = range.split_once("..").expect("SEEDS=FROM..TO");
    for seed in from.parse::<u64>().expect("a number")..to.parse::<u64>().expect("a number") {
        println!("seed {seed}");
        survive(seed);
        survive_in_part(seed);
    }
}

#[test]
fn who_has_a_majority_recovers_nothing() {
    let mut world = World::new(Options { nodes: 1, replicas: 1, ..Options::new(1) });
    run(&mut world, 3_000);
    world.crash(NodeId(1), true);
    let why = world.plan_recovery(NodeId(1), CONSENT).expect_err("it is alone already");
    assert!(why.contains("nothing to recover"), "{why}");
    let bump = Consent { bump: 5, ..CONSENT };
    let why = world.plan_recovery(NodeId(1), bump).expect_err("revisions would come twice");
    assert!(why.contains("1000000"), "{why}");
}

/// Five nodes, three copies: some keys have none on the one that is left.
#[test]
fn keys_without_a_copy_are_named_and_empty_only_by_consent() {
    let mut world = World::new(Options { nodes: 5, ..Options::new(7) });
    run(&mut world, 4_000);
    for number in 0..10 {
        ask(&mut world, NodeId(1), Request::Kv(Op::Put(put(number, 1)))).expect("it serves");
    }
    run(&mut world, 2_000);
    let status = world.status(NodeId(1)).expect("it runs");
    let here: Vec<RangeId> = status.replicas.iter().map(|own| own.range).collect();
    let ranges = status.ranges.iter().map(|range| &range.descriptor);
    let has: Vec<Bytes> = (0..10)
        .map(key)
        .filter(|key| {
            let mut held = ranges.clone().filter(|range| range.id != META_RANGE);
            held.any(|range| here.contains(&range.id) && range.span.contains(key))
        })
        .collect();
    assert!(!has.is_empty() && has.len() < 10, "{here:?}");
    world.crash(NodeId(1), true);
    let plan = world.plan_recovery(NodeId(1), CONSENT).expect("it has a part");
    let why = plan.report.objection().expect("the other part is lost");
    assert!(why.contains("no copy of the keys from"), "{why}");
    let plan = world
        .plan_recovery(NodeId(1), Consent { lost_ranges: true, ..CONSENT })
        .expect("it has a part");
    assert_eq!(plan.report.objection(), None);
    let lost = plan.report.lost.iter().flat_map(|lost| &lost.ranges);
    assert!(lost.into_iter().all(|range| !here.contains(range)));
    let mut world = world.recovered(NodeId(1), plan, 0);
    run(&mut world, 4_000);
    let (found, _) = read_all(&mut world, NodeId(1));
    assert_eq!(found.into_keys().collect::<Vec<_>>(), has);
    for number in 0..10 {
        ask(&mut world, NodeId(1), Request::Kv(Op::Put(put(number, 2)))).expect("it serves");
    }
}

/// Five nodes, and one range on three of them, of which two are gone in the midst of everything; their
/// disks come back when it is too late.
fn survive_in_part(seed: u64) {
    let range = RangeId(2);
    let options = Options { nodes: 5, split_keys: Vec::new(), ..Options::new(seed) };
    let mut world = World::new(options);
    run(&mut world, 4_000);
    let mut written: BTreeMap<Bytes, BTreeSet<Bytes>> = BTreeMap::new();
    for value in 0..world.rng().random_range(20..100) {
        let number = world.rng().random_range(0..10);
        let put = put(number, value);
        written.entry(put.key.clone()).or_default().insert(put.value.clone());
        let (node, pause) = (world.rng().random_range(1..=5), world.rng().random_range(0..20));
        world.request(NodeId(node), 5_000, Request::Kv(Op::Put(put)));
        run(&mut world, pause);
    }
    let nodes_of = |world: &World, of: NodeId| -> Vec<NodeId> {
        let status = world.status(of).expect("it runs");
        let mut ranges = status.ranges.into_iter().map(|range| range.descriptor);
        let known = ranges.find(|known| known.id == range).expect("it is known");
        known.voters().map(|voter| voter.node).collect()
    };
    let has = nodes_of(&world, NodeId(1));
    let place = world.rng().random_range(0..3);
    let kept = has[place];
    let gone: Vec<NodeId> = has.iter().copied().filter(|node| *node != kept).collect();
    let asked = (1..=5).map(NodeId).find(|node| !has.contains(node)).expect("two have no copy");
    for node in gone.iter().chain([&kept]) {
        let power = world.rng().random();
        world.crash(*node, power);
    }
    world.recover_ranges(kept, &[range], CONSENT).unwrap_or_else(|why| panic!("{seed}: {why}"));
    let again = world.recover_ranges(kept, &[range], CONSENT).map(|plan| plan.report);
    assert!(again.is_err_and(|why| why.contains("nothing to recover")), "{seed}");
    world.restart(kept, 10);
    until(&mut world, "service", |world| match world.status(kept) {
        Some(status) if status.replicas.iter().any(|own| own.range == range && own.leaseholder) => {
            Ok(())
        }
        other => Err(format!("{seed}: {other:?}")),
    });
    let (found, _) = read_all(&mut world, asked);
    for (key, value) in &found {
        assert!(written[key].contains(value), "{seed}: {key:?} is {value:?}");
    }
    until(&mut world, "three copies", |world| {
        let nodes = nodes_of(world, asked);
        let whole = nodes.len() == 3 && nodes.iter().all(|node| !gone.contains(node));
        if whole { Ok(()) } else { Err(format!("{seed}: {nodes:?}")) }
    });
    for number in 0..10 {
        ask(&mut world, asked, Request::Kv(Op::Put(put(number, 7_000)))).expect("it serves");
    }
    // The old copies come back: they are out of date, and know it soon.
    for node in &gone {
        world.restart(*node, 10);
    }
    run(&mut world, 1_000);
    for number in 0..10 {
        ask(&mut world, gone[0], Request::Kv(Op::Put(put(number, 8_000)))).expect("it serves");
    }
    let (found, _) = read_all(&mut world, gone[1]);
    assert!(found.len() == 10 && found.values().all(|value| *value == "8000"), "{seed}");
    until(&mut world, "end of the old copies", |world| {
        convergence::led(world)?;
        convergence::complete(world)?;
        let old = gone.iter().find(|node| {
            let status = world.status(**node).expect("it runs");
            let runs = status.replicas.iter().any(|own| own.range == range);
            runs && !nodes_of(world, asked).contains(node)
        });
        old.map_or(Ok(()), |node| Err(format!("{seed}: {node} still has one")))
    });
}

#[test]
fn a_range_goes_on_from_its_last_copy() {
    for seed in 0..30 {
        println!("seed {seed}");
        survive_in_part(seed);
    }
}
