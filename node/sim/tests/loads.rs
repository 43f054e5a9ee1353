//! Ranges with much load are cut, their leaders spread, and what was cut is merged again when the load
//! is over; cuts made by hand stay.

use bytes::Bytes;
use holdfast_core::ids::{META_RANGE, NodeId};
use holdfast_core::node::Shaping;
use holdfast_core::request::{AdminOp, Op, PutOp, Request};
use holdfast_core::status::Status;
use holdfast_sim::convergence;
use holdfast_sim::world::{Happening, Options, World};

const SHAPING: Shaping = Shaping {
    split_load: 50,
    load_lasts_ms: 2_000,
    load_rests_ms: 12_000,
    quiet_load: 7,
    merge_after_ms: 5_000,
    rank_every_ms: 500,
    ranks_loads_after_ms: 15_000,
};

struct Bench {
    world: World,
    asked: u64,
    failed: u64,
}

impl Bench {
    /// Three ranges: up to k3, to k6, and the rest.
    fn new(seed: u64, shaping: Shaping, split_bytes: u64) -> Self {
        let options = Options { shaping, split_bytes, ..Options::new(seed) };
        let mut bench = Self { world: World::new(options), asked: 0, failed: 0 };
        bench.world.run(5_000);
        bench
    }

    /// Writes for so many seconds, 200 a second, each to the key that `key` names for its number.
    fn load(&mut self, seconds: u64, key: impl Fn(u64) -> String) {
        for _ in 0..seconds * 200 {
            let key = Bytes::from(key(self.asked));
            let put = PutOp { value: key.clone(), key, ..PutOp::default() };
            let gateway = NodeId(self.asked % self.world.options.nodes + 1);
            self.world.request(gateway, 5_000, Request::Kv(Op::Put(put))).expect("it runs");
            self.asked += 1;
            self.run(5);
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.world.now() + millis;
        while self.world.now() < end {
            self.world.advance();
            while let Some(happening) = self.world.happening() {
                if let Happening::Reply { result: Err(error), .. } = happening {
                    println!("{error:?}");
                    self.failed += 1;
                }
            }
            assert!(self.world.checks.violation().is_none(), "{:?}", self.world.checks.violation());
        }
    }

    fn status(&self) -> Status {
        self.world.status(NodeId(1)).expect("it runs")
    }

    fn ranges(&self) -> Vec<u64> {
        self.status().ranges.iter().map(|range| range.descriptor.id.0).collect()
    }

    fn until(&mut self, seconds: u64, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..seconds * 20 {
            if holds(self) {
                return;
            }
            self.run(50);
        }
        panic!("{what}: {:?}", self.ranges());
    }

    fn merges(&self) -> u64 {
        let of = |node| self.world.status(NodeId(node)).expect("it runs").counters.merges_begun;
        (1..=3).map(of).sum()
    }
}

/// Keys of the first range, in no order.
fn scattered(number: u64) -> String {
    format!("k1/{:04}", number * 7_919 % 1_000)
}

#[test]
fn a_load_is_divided_while_it_lasts_and_no_longer() {
    let mut bench = Bench::new(1, SHAPING, 0);
    let key = Bytes::from_static(b"k8");
    let by_hand = Request::Admin(AdminOp::Split { key });
    bench.world.ask(NodeId(1), by_hand).expect("nothing speaks against it");
    bench.run(20_000);
    assert_eq!(bench.ranges(), [1, 2, 3, 4, 5], "what people have cut is not merged");

    bench.load(60, scattered);
    let ranges = bench.ranges();
    println!("{ranges:?}");
    assert!((7..=16).contains(&ranges.len()), "{ranges:?}");
    bench.load(30, scattered);
    assert_eq!(bench.failed, 0);
    assert_eq!(bench.merges(), 0, "nothing is merged while the load goes on");
    assert!(bench.ranges().len() <= 16, "and there is an end to cuts: {:?}", bench.ranges());
    bench.until(20, "even leaders", |bench| {
        convergence::even(&bench.world).and_then(|()| convergence::balanced(&bench.world)).is_ok()
    });

    bench.until(300, "merges", |bench| bench.ranges() == [1, 2, 3, 4, 5]);
    bench.until(10, "nothing left of them", |bench| convergence::free(&bench.world).is_ok());
    bench.until(20, "even leaders", |bench| convergence::even(&bench.world).is_ok());
    let asleep = |bench: &Bench| {
        let status = bench.status();
        status.replicas.iter().all(|own| own.asleep || own.range == META_RANGE)
    };
    bench.until(20, "sleep", asleep);
    for _ in 0..200 {
        bench.run(100);
        assert!(asleep(&bench), "a range is not woken up to see that it is small");
    }
}

#[test]
fn a_node_alone_keeps_its_ranges() {
    let options = Options { nodes: 1, shaping: SHAPING, ..Options::new(5) };
    let mut bench = Bench { world: World::new(options), asked: 0, failed: 0 };
    bench.run(5_000);
    bench.load(20, scattered);
    assert_eq!(bench.ranges(), [1, 2, 3, 4]);
    assert_eq!(bench.failed, 0);
}

#[test]
fn a_load_on_one_key_is_not_divided() {
    let mut bench = Bench::new(2, SHAPING, 0);
    bench.load(20, |_| "k1".to_owned());
    bench.load(20, |number| format!("k1/{number:08}"));
    assert_eq!(bench.ranges(), [1, 2, 3, 4], "nor is one that goes from key to key");
    assert_eq!(bench.failed, 0);
}

#[test]
fn what_was_cut_by_size_is_merged_only_when_it_is_small_again() {
    let mut bench = Bench::new(3, Shaping { split_load: 0, quiet_load: 0, ..SHAPING }, 2_000);
    bench.load(30, scattered);
    let cut = bench.ranges();
    assert!(cut.len() > 6, "{cut:?}");
    bench.run(60_000);
    assert_eq!(bench.merges(), 0, "they are too large");
    let delete = holdfast_core::request::DeleteOp {
        key: Bytes::from_static(b"k1"),
        range_end: Bytes::from_static(b"k2"),
        prev_kv: false,
    };
    bench.world.ask(NodeId(1), Request::Kv(Op::Delete(delete))).expect("it serves");
    bench.until(300, "merges", |bench| bench.ranges() == [1, 2, 3, 4]);
}

#[test]
fn nothing_is_merged_while_a_node_is_away() {
    let mut bench = Bench::new(4, SHAPING, 0);
    bench.load(30, scattered);
    let cut = bench.ranges();
    assert!(cut.len() > 4, "{cut:?}");
    bench.world.crash(NodeId(3), false);
    bench.run(60_000);
    assert_eq!(bench.ranges(), cut);
    bench.world.restart(NodeId(3), 10);
    bench.until(300, "merges", |bench| bench.ranges() == [1, 2, 3, 4]);
}

#[test]
fn leaders_are_even_by_load_where_they_are_by_number() {
    let shaping = Shaping { split_load: 100_000, merge_after_ms: 0, ..SHAPING };
    let mut bench = Bench::new(6, shaping, 0);
    for key in ["k2", "k4", "k5", "k7", "k8"] {
        let key = Bytes::from_static(key.as_bytes());
        let by_hand = Request::Admin(AdminOp::Split { key });
        bench.world.ask(NodeId(1), by_hand).expect("nothing speaks against it");
    }
    bench.until(30, "even leaders", |bench| convergence::even(&bench.world).is_ok());
    // Changes of ranks that are under way come to their end.
    bench.world.run(15_000);
    // All load is on the ranges of one node.
    let leader = |bench: &Bench, start: &str| {
        let ranges = bench.status().ranges;
        let range = ranges.iter().find(|range| range.descriptor.span.start == start.as_bytes());
        range.and_then(|range| range.leaseholder)
    };
    let all: Vec<String> = ["", "k2", "k3", "k4", "k5", "k6", "k7", "k8"].map(String::from).into();
    let on = |bench: &Bench, node| {
        let led = |start: &&String| leader(bench, start) == Some(NodeId(node));
        all.iter().filter(led).cloned().collect::<Vec<_>>()
    };
    let most = (1..=3).map(|node| on(&bench, node)).max_by_key(Vec::len).expect("three nodes");
    assert!(most.len() >= 2, "{most:?}");
    bench.load(70, |number| format!("{}/{number}", most[number as usize % most.len()]));
    assert_eq!(bench.failed, 0);
    let leaders: Vec<_> = most.iter().map(|start| leader(&bench, start)).collect();
    let distinct: std::collections::BTreeSet<_> = leaders.iter().collect();
    assert_eq!(distinct.len(), most.len().min(3), "{most:?} are led by {leaders:?}");
    convergence::even(&bench.world).expect("numbers are even, too");
    let changes = |bench: &Bench| -> u64 {
        let of = |node| bench.world.status(NodeId(node)).expect("it runs").counters.ranks_by_load;
        (1..=3).map(of).sum()
    };
    let done = changes(&bench);
    assert!((1..=6).contains(&done), "{done}");
    bench.load(60, |number| format!("{}/{number}", most[number as usize % most.len()]));
    assert_eq!(changes(&bench), done, "it stays so");
    assert_eq!(bench.failed, 0);
}

#[test]
fn a_cut_that_somebody_asks_for_later_stays() {
    let mut bench = Bench::new(7, SHAPING, 0);
    bench.load(40, scattered);
    let status = bench.status();
    let cut = status
        .ranges
        .iter()
        .map(|range| &range.descriptor)
        .find(|range| range.id.0 > 4 && range.span.start.starts_with(b"k1/"));
    let cut = cut.expect("it was cut by load");
    let (range, key) = (cut.id, cut.span.start.clone());
    let split = || Request::Admin(AdminOp::Split { key: key.clone() });
    let answer = bench.world.ask(NodeId(2), split()).expect("it is there, and stays");
    assert!(format!("{answer:?}").contains("starts there already"), "{answer:?}");
    bench.until(300, "merges", |bench| bench.ranges() == [1, 2, 3, 4, range.0]);
    bench.run(30_000);
    assert_eq!(bench.ranges(), [1, 2, 3, 4, range.0]);
    let again = bench.world.ask(NodeId(2), split());
    assert!(again.is_err(), "as for any cut by hand: {again:?}");
}
