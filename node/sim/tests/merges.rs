//! Neighbouring ranges become one on command: with everything that they held, whatever fails
//! meanwhile; and whoever asks for nonsense is told why not.

use bytes::Bytes;
use holdfast_core::error::Error;
use holdfast_core::ids::{META_RANGE, NodeId, RangeId};
use holdfast_core::request::{AdminOp, Op, OpResult, PutOp, RangeOp, Request, Response};
use holdfast_core::status::Status;
use holdfast_sim::world::{Options, World};

struct Bench(World);

const LEFT: RangeId = RangeId(2);
const RIGHT: RangeId = RangeId(3);

impl Bench {
    /// Three ranges of three copies: up to k3, to k6, and the rest.
    fn new(nodes: u64, seed: u64) -> Self {
        let mut bench = Self(World::new(Options { nodes, ..Options::new(seed) }));
        bench.run(5_000);
        bench
    }

    fn run(&mut self, millis: u64) {
        self.0.run(millis);
    }

    fn ask(&mut self, request: Request) -> Result<Response, Error> {
        self.0.ask(NodeId(1), request)
    }

    fn put(&mut self, key: &str, lease: i64) {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let put = PutOp { value: key.clone(), key, lease, ..PutOp::default() };
        self.ask(Request::Kv(Op::Put(put))).expect("it serves");
    }

    fn keys(&mut self) -> Vec<String> {
        let all = Bytes::from_static(b"\0");
        let read = RangeOp { key: all.clone(), range_end: all, ..RangeOp::default() };
        match self.ask(Request::Kv(Op::Range(read))) {
            Ok(Response::Kv { result: OpResult::Range(found), .. }) => {
                found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn merge(&mut self, range: RangeId) -> Result<Response, Error> {
        self.ask(Request::Admin(AdminOp::Merge { range }))
    }

    fn status(&self, node: u64) -> Status {
        self.0.status(NodeId(node)).expect("it runs")
    }

    fn ranges(&self) -> Vec<u64> {
        self.status(1).ranges.iter().map(|range| range.descriptor.id.0).collect()
    }

    fn until_merged(&mut self, ranges: &[u64]) {
        for _ in 0..200 {
            if self.ranges() == ranges {
                return;
            }
            self.run(50);
        }
        panic!("{:?}", self.ranges());
    }
}

#[test]
fn neighbours_become_one_with_all_that_they_held() {
    let mut bench = Bench::new(3, 1);
    bench.ask(Request::LeaseGrant { id: 7, ttl: 60 }).expect("free");
    for key in ["k1", "k3", "k5", "k8"] {
        bench.put(key, 0);
    }
    bench.put("k4", 7);
    let begun = bench.0.now();
    bench.merge(LEFT).expect("nothing speaks against it");
    // What comes meanwhile waits for it.
    bench.put("k3a", 0);
    bench.until_merged(&[1, 2, 4]);
    println!("merged after {} ms", bench.0.now() - begun);
    assert_eq!(bench.keys(), ["k1", "k3", "k3a", "k4", "k5", "k8"]);
    bench.put("k2", 0);
    bench.put("k4a", 0);
    // The lease's key is found where it is now.
    bench.ask(Request::LeaseRevoke { id: 7 }).expect("it stands");
    assert_eq!(bench.keys(), ["k1", "k2", "k3", "k3a", "k4a", "k5", "k8"]);
    bench.run(3_000);
    for node in 1..=3 {
        let status = bench.status(node);
        assert_eq!(status.counters.merges, 1);
        assert_eq!(status.replicas.len(), 3, "the replica of the one that is gone is gone, too");
    }
    // And again, and cut again.
    bench.merge(LEFT).expect("nothing speaks against it");
    bench.until_merged(&[1, 2]);
    let key = Bytes::from_static(b"k4");
    bench.ask(Request::Admin(AdminOp::Split { key })).expect("nothing speaks against it");
    bench.put("k9", 0);
    assert_eq!(bench.keys().len(), 8);
    bench.run(3_000);
    assert_eq!(bench.ranges(), [1, 2, 5]);
}

#[test]
fn copies_come_together_first() {
    let mut bench = Bench::new(5, 2);
    for key in ["k1", "k3", "k5", "k8"] {
        bench.put(key, 0);
    }
    bench.merge(RIGHT).expect("nothing speaks against it");
    bench.until_merged(&[1, 2, 3]);
    assert_eq!(bench.keys(), ["k1", "k3", "k5", "k8"]);
}

#[test]
fn a_merge_survives_its_leaders() {
    for (seed, power) in [(3, true), (4, false), (5, true), (6, false)] {
        for after in [0, 20, 60, 100, 130, 160] {
            let mut bench = Bench::new(3, seed);
            for key in ["k1", "k3", "k5", "k8"] {
                bench.put(key, 0);
            }
            bench.merge(LEFT).expect("nothing speaks against it");
            bench.run(after);
            bench.0.crash(NodeId(1), power);
            bench.0.restart(NodeId(1), 3_000);
            bench.run(15_000);
            bench.put("k3a", 0);
            assert_eq!(bench.keys(), ["k1", "k3", "k3a", "k5", "k8"]);
            for node in 1..=3 {
                let status = bench.status(node);
                assert!(status.replicas.iter().all(|own| !own.frozen), "{:?}", status.replicas);
                assert_eq!(status.replicas.len(), status.ranges.len());
            }
        }
    }
}

#[test]
fn a_merge_that_cannot_be_is_called_off() {
    let mut bench = Bench::new(3, 7);
    bench.put("k4", 0);
    bench.merge(LEFT).expect("nothing speaks against it");
    // Without this node, no copy of the right range can be known to have everything.
    bench.0.crash(NodeId(3), false);
    bench.run(10_000);
    bench.put("k1", 0);
    bench.put("k5", 0);
    assert_eq!(bench.keys(), ["k1", "k4", "k5"]);
    assert_eq!(bench.ranges(), [1, 2, 3, 4]);
    bench.0.restart(NodeId(3), 10);
    bench.run(10_000);
    bench.merge(LEFT).expect("nothing speaks against it any more");
    bench.until_merged(&[1, 2, 4]);
    assert_eq!(bench.keys(), ["k1", "k4", "k5"]);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let mut bench = Bench::new(3, 8);
    let cases = [
        (META_RANGE, "directory"),
        (RangeId(77), "no range r77"),
        (RangeId(4), "last range: name its left neighbour"),
    ];
    for (range, part) in cases {
        match bench.merge(range) {
            Err(Error::Refused(why)) => assert!(why.contains(part), "{part}: {why}"),
            other => panic!("{part}: {other:?}"),
        }
    }
    bench.merge(LEFT).expect("nothing speaks against it");
    bench.until_merged(&[1, 2, 4]);
    match bench.merge(RIGHT) {
        Err(Error::Refused(why)) => assert!(why.contains("r3 is a part of r2"), "{why}"),
        other => panic!("{other:?}"),
    }
    bench.0.crash(NodeId(3), false);
    bench.run(2_000);
    match bench.merge(LEFT) {
        Err(Error::Refused(why)) => assert!(why.contains("n3 does not answer"), "{why}"),
        other => panic!("{other:?}"),
    }
}
