//! What goes wrong, when: one fault after another, drawn by the world's dice.

use crate::network::Delays;
use crate::world::{DiskDelays, World};
use bytes::Bytes;
use holdfast_core::descriptor::Room;
use holdfast_core::effects::Millis;
use holdfast_core::ids::{META_RANGE, NodeId, RangeId};
use holdfast_core::request::{AdminOp, Request};
use rand::Rng;
use rand::seq::IndexedRandom;

/// How hard a run is.
#[derive(Clone, Copy, Debug)]
pub struct Temper {
    /// Longest pause between two faults.
    pub interval_max: Millis,
    /// Kinds of faults, by weight.
    pub weights: [u32; KINDS],
}

const KINDS: usize = 13;

const NETWORK: Delays = Delays { min: 0, max: 2, slow_one_in: 0, slow_max: 0 };
const DISK: DiskDelays = DiskDelays { sync_max: 2, slow_one_in: 0, slow_max: 0, flush_max: 1000 };

impl Temper {
    /// Everything, at a pace of its own for each seed: some runs are nearly calm, some are wild.
    pub fn draw(world: &mut World) -> Self {
        let interval_max = *[300, 1_000, 3_000, 10_000].choose(world.rng()).expect("not empty");
        let mut weights = [0; KINDS];
        for weight in &mut weights {
            // Some kinds are left out, so that the others are seen alone.
            *weight =
                if world.rng().random_bool(0.3) { 0 } else { world.rng().random_range(1..10) };
        }
        weights[0] = weights[0].max(1);
        Self { interval_max, weights }
    }

    /// No faults at all.
    pub fn calm() -> Self {
        let mut weights = [0; KINDS];
        weights[KINDS - 1] = 1;
        Self { interval_max: 10_000, weights }
    }
}

/// See the module.
pub struct Nemesis {
    temper: Temper,
    timer: u64,
    /// No new faults.
    pub stopped: bool,
}

impl Nemesis {
    /// A nemesis that is called by the timer of this name.
    pub fn new(temper: Temper, timer: u64) -> Self {
        Self { temper, timer, stopped: false }
    }

    /// The next fault.
    pub fn due(&mut self, world: &mut World) {
        if self.stopped {
            return;
        }
        let after = world.rng().random_range(1..=self.temper.interval_max);
        world.timer(after, self.timer);
        let total: u32 = self.temper.weights.iter().sum();
        let mut draw = world.rng().random_range(0..total);
        let mut kind = 0;
        while draw >= self.temper.weights[kind] {
            draw -= self.temper.weights[kind];
            kind += 1;
        }
        Self::strike(kind, world);
    }

    fn strike(kind: usize, world: &mut World) {
        let count = world.nodes().len() as u64;
        let node = NodeId(world.rng().random_range(1..=count));
        let other = NodeId(node.0 % count + 1);
        match kind {
            // A machine loses power, or only its process dies.
            0 => {
                let power = world.rng().random();
                world.crash(node, power);
                let after = world.rng().random_range(10..6_000);
                world.restart(node, after);
            }
            // The power goes everywhere.
            1 => {
                if world.rng().random_bool(0.2) {
                    for place in 1..=count {
                        world.crash(NodeId(place), true);
                        let after = world.rng().random_range(10..2_000);
                        world.restart(NodeId(place), after);
                    }
                }
            }
            2 => world.reset(node, other),
            // One node is cut off: from one or all, in one direction or both.
            3 | 4 => {
                let all = world.rng().random_bool(0.5);
                let directions = world.rng().random_range(0..3);
                for peer in 1..=count {
                    let peer = NodeId(peer);
                    if peer == node || !(all || peer == other) {
                        continue;
                    }
                    if directions != 0 {
                        world.block(node, peer);
                    }
                    if directions != 1 {
                        world.block(peer, node);
                    }
                }
            }
            5 | 6 => world.heal(),
            7 => {
                let time = *[30, 300, 1_500, 5_000].choose(world.rng()).expect("not empty");
                let time = world.rng().random_range(1..=time);
                world.pause(node, time);
            }
            8 => {
                let by = if world.rng().random() {
                    world.rng().random_range(1..300)
                } else {
                    world.rng().random_range(500..20_000)
                };
                world.jump(node, by);
            }
            9 => Self::weather(world),
            10 => Self::disks(world),
            11 => {
                world.shutdown(node);
                world.restart_after_shutdown(node);
            }
            _ => Self::administer(world, node),
        }
    }

    fn weather(world: &mut World) {
        world.network.delays = match world.rng().random_range(0..4) {
            0 => Delays { min: 0, max: 50, slow_one_in: 0, slow_max: 0 },
            1 => Delays { min: 0, max: 2, slow_one_in: 100, slow_max: 1_000 },
            2 => Delays { min: 5, max: 30, slow_one_in: 50, slow_max: 300 },
            _ => NETWORK,
        };
        world.drop_one_in = *[0, 0, 5, 50].choose(world.rng()).expect("not empty");
    }

    fn disks(world: &mut World) {
        world.options.disk = match world.rng().random_range(0..4) {
            0 => DiskDelays { sync_max: 30, ..DISK },
            1 => DiskDelays { slow_one_in: 50, slow_max: 2_000, ..DISK },
            2 => DiskDelays { flush_max: 5_000, ..DISK },
            _ => DISK,
        };
    }

    /// Two neighbours are to become one.
    pub fn merge(world: &mut World) {
        let count = world.nodes().len() as u64;
        let gateway = NodeId(world.rng().random_range(1..=count));
        let known = world.status(gateway).map_or_else(Vec::new, |status| status.ranges);
        let range = known.choose(world.rng()).map_or(META_RANGE, |range| range.descriptor.id);
        world.request(gateway, 2_000, Request::Admin(AdminOp::Merge { range }));
    }

    /// Keys are to have another number of copies, or a node says something new of itself.
    pub fn place(world: &mut World) {
        let count = world.nodes().len() as u64;
        let gateway = NodeId(world.rng().random_range(1..=count));
        let op = if world.rng().random_ratio(1, 6) {
            let node = NodeId(world.rng().random_range(1..=count));
            let domain = *["", "a", "b", "c"].choose(world.rng()).expect("not empty");
            let rooms = [Room::Plenty, Room::Plenty, Room::Less, Room::Little];
            let room = *rooms.choose(world.rng()).expect("not empty");
            if world.rng().random() {
                AdminOp::Domain { node, domain: domain.to_owned() }
            } else {
                AdminOp::Room { node, room }
            }
        } else {
            let prefix =
                *["", "k1", "k3", "k3a", "k5/", "k9", "m"].choose(world.rng()).expect("not empty");
            let prefix = Bytes::from_static(prefix.as_bytes());
            if world.rng().random_ratio(1, 4) {
                AdminOp::RemovePolicy { prefix }
            } else {
                let copies = *[1, 3, 3, 5].choose(world.rng()).expect("not empty");
                AdminOp::SetPolicy { prefix, copies, fewer: world.rng().random() }
            }
        };
        world.request(gateway, 2_000, Request::Admin(op));
    }

    fn administer(world: &mut World, gateway: NodeId) {
        let count = world.nodes().len() as u64;
        let node = NodeId(world.rng().random_range(1..=count));
        let op = match world.rng().random_range(0..12) {
            0 | 1 => {
                let key = *["k1", "k2", "k4", "k5/2", "k7", "k8", "k9"]
                    .choose(world.rng())
                    .expect("not empty");
                AdminOp::Split { key: Bytes::from_static(key.as_bytes()) }
            }
            9 => {
                let replicas = world.rng().random_ratio(1, 4);
                let ttl_ms = world.rng().random_range(1_000..8_000);
                AdminOp::DrainFor { node, replicas, ttl_ms }
            }
            2 => AdminOp::Drain { node },
            3 => AdminOp::Undrain { node },
            4 => AdminOp::Leave { node },
            5 | 6 => {
                let epoch = world.rng().random_range(0..3);
                let operation = format!("operation {}", world.rng().random_range(0..50));
                AdminOp::Reprotect { node, operation, epoch }
            }
            8 => {
                let range = RangeId(world.rng().random_range(2..=5));
                let to = NodeId(world.rng().random_range(1..=count));
                AdminOp::Move { range, from: node, to }
            }
            7 => AdminOp::Check { range: RangeId(world.rng().random_range(1..=4)) },
            _ => {
                // One that has just started may know of none.
                let known = world.status(gateway).map_or(0, |status| status.ranges.len() as u64);
                let ranges = known.max(1);
                AdminOp::Transfer { range: RangeId(world.rng().random_range(1..=ranges)), to: node }
            }
        };
        world.request(gateway, 2_000, Request::Admin(op));
    }

    /// Ends every fault: all nodes run, are connected, and have good disks and clocks.
    pub fn heal(&mut self, world: &mut World) {
        self.stopped = true;
        world.network.delays = NETWORK;
        world.options.disk = DISK;
        world.drop_one_in = 0;
        world.heal();
        world.wake_all();
        let nodes: Vec<NodeId> = world.nodes().keys().copied().collect();
        for node in nodes {
            // A node that gave up leading on the way out does not come back by itself.
            if world.node(node).is_stopping() {
                world.crash(node, false);
            }
            world.restart(node, 10);
        }
    }
}
