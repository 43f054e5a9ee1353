//! A node that is told to stop hands over what it leads: writes stop for a few rounds to the disk
//! of a majority, not for an election timeout, nor for a tick. One that is killed is replaced as soon as
//! the others see its connections end, whoever of them sees it first and has the longest log.

use bytes::Bytes;
use holdfast_core::effects::Millis;
use holdfast_core::ids::NodeId;
use holdfast_core::request::{Op, PutOp, Request};
use holdfast_sim::convergence;
use holdfast_sim::world::{Happening, Options, World};

/// Rounds of one message there, one fsync and one message back that a write may have to wait for:
/// vote, first entry, registration (or takeover), confirmation, the write.
const ROUNDS: Millis = 6;
/// One of them at its slowest: both messages and the fsync take up to 2 ms.
const ROUND_MS: Millis = 6;

/// A process that is killed is known to be gone after so long: its connections end, and it is dialled
/// again in vain.
const NOTICED_MS: Millis = 10;
/// The best placed replica may have stood before the other one knew; the other one may have the longer log,
/// and stands after 60 ms; and the clock of a node ticks every 10 ms.
const STANDING_MS: Millis = 70;

fn put(key: &'static str) -> Request {
    let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(b"v"));
    Request::Kv(Op::Put(PutOp { key, value, ..PutOp::default() }))
}

/// Steps the world until `done`, or panics.
fn until(
    world: &mut World,
    bound: Millis,
    mut done: impl FnMut(&World, Option<&Happening>) -> bool,
) {
    let end = world.now() + bound;
    loop {
        assert!(world.now() < end, "not within {bound} ms");
        assert!(world.advance());
        let mut happened = false;
        while let Some(happening) = world.happening() {
            happened = true;
            if done(world, Some(&happening)) {
                return;
            }
        }
        if !happened && done(world, None) {
            return;
        }
    }
}

#[test]
fn writes_go_on_almost_at_once() {
    for seed in 0..20 {
        let mut options = Options::new(seed);
        options.verbose = std::env::var_os("HOLDFAST_SIM_VERBOSE").is_some();
        let mut world = World::new(options);
        until(&mut world, 10_000, |world, _| {
            convergence::led(world).is_ok() && convergence::balanced(world).is_ok()
        });
        // The one that leads everything of k0, and the sequencer.
        let victim = NodeId(1);
        let gateway = NodeId(3);
        let ends = world.now() + 2_000;
        let mut stop_at = Some(world.now() + 500);
        let mut last = world.now();
        let mut longest = 0;
        while world.now() < ends {
            if stop_at.is_some_and(|at| world.now() >= at) {
                stop_at = None;
                world.shutdown(victim);
            }
            let token = world.request(gateway, 5_000, put("k0")).expect("the gateway runs");
            until(&mut world, 5_000, |_, happening| match happening {
                Some(Happening::Reply { token: of, result, .. }) if *of == token => {
                    assert!(result.is_ok(), "{result:?}");
                    true
                }
                _ => false,
            });
            longest = longest.max(world.now() - last);
            last = world.now();
        }
        println!("seed {seed}: {longest} ms");
        assert!(longest <= ROUNDS * ROUND_MS, "seed {seed}: no write for {longest} ms");
    }
}

#[test]
fn writes_go_on_soon_after_a_kill() {
    for seed in 0..200 {
        let mut world = World::new(Options::new(seed));
        until(&mut world, 10_000, |world, _| {
            convergence::led(world).is_ok() && convergence::balanced(world).is_ok()
        });
        let (victim, gateway) = (NodeId(1), NodeId(3));
        let (kill_at, ends) = (world.now() + 200, world.now() + 1_200);
        let mut killed = false;
        let mut last = world.now();
        let mut longest = 0;
        // Always some under way, so that one follower has what the other one has not.
        for _ in 0..8 {
            world.request(gateway, 5_000, put("k0")).expect("the gateway runs");
        }
        while world.now() < ends {
            if !killed && world.now() >= kill_at {
                killed = true;
                world.crash(victim, false);
            }
            assert!(world.advance());
            while let Some(happening) = world.happening() {
                let Happening::Reply { result, .. } = happening else { continue };
                assert!(result.is_ok(), "{result:?}");
                longest = longest.max(world.now() - last);
                last = world.now();
                world.request(gateway, 5_000, put("k0")).expect("the gateway runs");
            }
        }
        longest = longest.max(world.now() - last);
        println!("seed {seed}: {longest} ms");
        let bound = NOTICED_MS + STANDING_MS + ROUNDS * ROUND_MS;
        assert!(longest <= bound, "seed {seed}: no write for {longest} ms");
    }
}
