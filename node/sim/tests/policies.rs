//! Placement policies: ranges are cut where they begin and end, copies go up and down to what they say,
//! and an only copy moves.

use bytes::Bytes;
use holdfast_core::error::Error;
use holdfast_core::ids::{NodeId, RangeId};
use holdfast_core::request::{AdminOp, Op, PutOp, RangeOp, Request, Response};
use holdfast_sim::convergence;
use holdfast_sim::world::{Happening, Options, World};

struct Bench(World);

impl Bench {
    /// Five nodes, three ranges.
    fn new(replicas: usize) -> Self {
        let mut bench = Self(World::new(Options { nodes: 5, replicas, ..Options::new(5) }));
        bench.run(5_000);
        bench
    }

    fn run(&mut self, millis: u64) {
        let end = self.0.now() + millis;
        while self.0.now() < end {
            assert!(self.0.advance(), "{:?}", self.0.checks.violation());
            while self.0.happening().is_some() {}
        }
    }

    fn ask(&mut self, request: Request) -> Result<Response, Error> {
        let wanted = self.0.request(NodeId(4), 5_000, request).expect("it runs");
        loop {
            assert!(self.0.advance(), "{:?}", self.0.checks.violation());
            while let Some(happening) = self.0.happening() {
                match happening {
                    Happening::Reply { token, result, .. } if token == wanted => return result,
                    _ => {}
                }
            }
        }
    }

    fn put(&mut self, key: &'static str) {
        let key = Bytes::from_static(key.as_bytes());
        let put = PutOp { value: key.clone(), key, ..PutOp::default() };
        self.ask(Request::Kv(Op::Put(put))).expect("it serves");
    }

    fn set(&mut self, prefix: &'static str, copies: u64, fewer: bool) -> Result<(), Error> {
        let prefix = Bytes::from_static(prefix.as_bytes());
        self.ask(Request::Admin(AdminOp::SetPolicy { prefix, copies, fewer })).map(|_| ())
    }

    /// Start, number of voters and all members of every data range.
    fn ranges(&self) -> Vec<(String, usize, usize)> {
        let status = self.0.status(NodeId(4)).expect("it runs");
        let data = status.ranges.iter().map(|range| &range.descriptor).filter(|own| own.id.0 > 1);
        let mut ranges: Vec<_> = data
            .map(|own| {
                let start = String::from_utf8_lossy(&own.span.start).into_owned();
                (start, own.voters().count(), own.replicas.len())
            })
            .collect();
        ranges.sort();
        ranges
    }

    fn has(&self, wanted: &[(&str, usize)]) {
        let wanted: Vec<_> =
            wanted.iter().map(|(start, copies)| ((*start).to_owned(), *copies, *copies)).collect();
        assert_eq!(self.ranges(), wanted);
        assert_eq!(convergence::complete(&self.0), Ok(()));
    }
}

#[test]
fn copies_follow_policies_up_and_down() {
    let mut bench = Bench::new(3);
    for key in ["k0", "k4", "k5/1", "k5/9", "k6", "k9"] {
        bench.put(key);
    }
    bench.has(&[("", 3), ("k3", 3), ("k6", 3)]);
    bench.set("k5/", 5, false).expect("there are five nodes");
    bench.run(15_000);
    bench.has(&[("", 3), ("k3", 3), ("k5/", 5), ("k50", 3), ("k6", 3)]);
    bench.put("k5/1");
    // What is inside of it, and what is around it.
    bench.set("k5/9", 1, true).expect("it was said");
    bench.set("", 5, false).expect("there are five nodes");
    bench.run(25_000);
    bench.has(&[("", 5), ("k3", 5), ("k5/", 5), ("k5/9", 1), ("k5/:", 5), ("k50", 5), ("k6", 5)]);
    bench.put("k5/9");
    bench.set("", 3, true).expect("it was said");
    let prefix = Bytes::from_static(b"k5/");
    bench.ask(Request::Admin(AdminOp::RemovePolicy { prefix })).expect("it is there");
    bench.run(25_000);
    bench.has(&[("", 3), ("k3", 3), ("k5/", 3), ("k5/9", 1), ("k5/:", 3), ("k50", 3), ("k6", 3)]);
    let all = Bytes::from_static(b"\0");
    let read = RangeOp { key: all.clone(), range_end: all, ..RangeOp::default() };
    let answer = bench.ask(Request::Kv(Op::Range(read))).expect("it serves");
    assert!(format!("{answer:?}").contains("count: 6"), "{answer:?}");
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let mut bench = Bench::new(3);
    for (prefix, copies, part) in
        [("k1", 7, "more than the 5 nodes"), ("k1", 4, "odd"), ("k1", 1, "--allow-fewer")]
    {
        match bench.set(prefix, copies, false) {
            Err(Error::Refused(why)) => assert!(why.contains(part), "{part}: {why}"),
            other => panic!("{part}: {other:?}"),
        }
    }
    bench.set("k1", 5, false).expect("there are five nodes");
    bench.run(10_000);
    match bench.ask(Request::Admin(AdminOp::Leave { node: NodeId(2) })) {
        Err(Error::Refused(why)) => assert!(why.contains("has 5 copies"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_only_copy_moves_also_off_a_node_that_leaves() {
    let mut bench = Bench::new(1);
    bench.put("k4");
    let range = RangeId(3);
    let at = |bench: &Bench| {
        let status = bench.0.status(NodeId(4)).expect("it runs");
        let found = status.ranges.iter().find(|own| own.descriptor.id == range).expect("known");
        found.descriptor.replicas.iter().map(|own| own.node.0).collect::<Vec<_>>()
    };
    assert_eq!(at(&bench), [2]);
    let op = AdminOp::Move { range, from: NodeId(2), to: NodeId(5) };
    bench.ask(Request::Admin(op)).expect("nothing speaks against it");
    bench.put("k4");
    bench.run(8_000);
    assert_eq!(at(&bench), [5]);
    bench.put("k4");
    bench.ask(Request::Admin(AdminOp::Leave { node: NodeId(5) })).expect("others can have it");
    bench.run(10_000);
    assert_ne!(at(&bench), [5]);
    assert_eq!(at(&bench).len(), 1);
    bench.put("k4");
    assert_eq!(bench.ranges().len(), 3);
}

#[test]
fn neighbours_do_not_merge_where_a_policy_begins_or_ends() {
    let mut bench = Bench::new(3);
    bench.set("k3", 3, false).expect("there are five nodes");
    bench.run(8_000);
    bench.has(&[("", 3), ("k3", 3), ("k4", 3), ("k6", 3)]);
    let merge = |bench: &mut Bench, range| {
        bench.ask(Request::Admin(AdminOp::Merge { range: RangeId(range) }))
    };
    // Where it begins, and where it ends.
    for range in [2, 3] {
        match merge(&mut bench, range) {
            Err(Error::Refused(why)) => {
                assert!(why.contains("placement policy of \"k3\""), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    let prefix = Bytes::from_static(b"k3");
    bench.ask(Request::Admin(AdminOp::RemovePolicy { prefix })).expect("it is there");
    merge(&mut bench, 2).expect("nothing is between them any more");
    bench.run(20_000);
    bench.has(&[("", 3), ("k4", 3), ("k6", 3)]);
}

/// A policy that is set while two ranges come together calls their merge off.
#[test]
fn a_policy_calls_off_a_merge_that_has_not_begun() {
    let mut bench = Bench::new(3);
    bench.ask(Request::Admin(AdminOp::Merge { range: RangeId(3) })).expect("they are neighbours");
    bench.set("k6", 5, false).expect("there are five nodes");
    bench.run(20_000);
    let copies: Vec<(String, usize)> =
        bench.ranges().into_iter().map(|(start, voters, _)| (start, voters)).collect();
    let at = |start: &str| copies.iter().find(|own| own.0 == start).map(|own| own.1);
    assert_eq!((at("k6"), at("k7")), (Some(5), Some(3)), "{copies:?}");
    assert_eq!(convergence::complete(&bench.0), Ok(()));
}
