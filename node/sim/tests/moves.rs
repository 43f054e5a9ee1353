//! Copies of ranges go to other nodes on command, the leader's too, and whoever asks for nonsense is
//! told why not.

use bytes::Bytes;
use holdfast_core::error::Error;
use holdfast_core::ids::{META_RANGE, NodeId, RangeId};
use holdfast_core::request::{AdminOp, Op, PutOp, Request, Response};
use holdfast_sim::world::{Happening, Options, World};

struct Bench(World);

impl Bench {
    /// Four nodes, three ranges of three copies.
    fn new() -> Self {
        let mut bench = Self(World::new(Options { nodes: 4, ..Options::new(3) }));
        bench.run(5_000);
        bench
    }

    fn run(&mut self, millis: u64) {
        self.0.run(millis);
    }

    fn ask(&mut self, request: Request) -> Result<Response, Error> {
        self.0.ask(NodeId(4), request)
    }

    fn put(&mut self, key: &'static str) {
        let key = Bytes::from_static(key.as_bytes());
        let put = PutOp { value: key.clone(), key, ..PutOp::default() };
        self.ask(Request::Kv(Op::Put(put))).expect("it serves");
    }

    fn go(&mut self, range: RangeId, from: u64, to: u64) -> Result<Response, Error> {
        let (from, to) = (NodeId(from), NodeId(to));
        self.ask(Request::Admin(AdminOp::Move { range, from, to }))
    }

    /// Nodes of a range's voters, by rank, and its leader.
    fn range(&self, range: RangeId) -> (Vec<u64>, Option<u64>) {
        let status = self.0.status(NodeId(4)).expect("it runs");
        let known = status.ranges.iter().find(|known| known.descriptor.id == range);
        let known = known.expect("it is in the directory");
        let voters = known.descriptor.voters().map(|voter| voter.node.0).collect();
        (voters, known.leaseholder.map(|node| node.0))
    }
}

#[test]
fn a_copy_moves_from_a_follower_and_from_the_leader() {
    let mut bench = Bench::new();
    let (led, followed) = (RangeId(4), RangeId(2));
    assert_eq!(bench.range(led), (vec![3, 4, 1], Some(3)));
    bench.go(led, 3, 2).expect("nothing speaks against it");
    // Asked again, it is the same.
    bench.go(led, 3, 2).expect("under way");
    bench.put("k8");
    bench.run(8_000);
    assert_eq!(bench.range(led), (vec![2, 4, 1], Some(2)));
    bench.put("k8");
    assert_eq!(bench.range(followed), (vec![1, 2, 3], Some(1)));
    bench.go(followed, 2, 4).expect("nothing speaks against it");
    bench.put("k1");
    bench.run(5_000);
    assert_eq!(bench.range(followed), (vec![1, 4, 3], Some(1)));
    bench.put("k1");
}

#[test]
fn a_move_survives_its_leaders() {
    let mut bench = Bench::new();
    let range = RangeId(2);
    bench.go(range, 3, 4).expect("nothing speaks against it");
    // Node 1 leads the range and the meta range.
    bench.0.crash(NodeId(1), true);
    bench.0.restart(NodeId(1), 3_000);
    bench.run(15_000);
    let (mut voters, _) = bench.range(range);
    voters.sort_unstable();
    assert_eq!(voters, [1, 2, 4]);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let mut bench = Bench::new();
    let cases = [
        (META_RANGE, 1, 2, "directory"),
        (RangeId(77), 1, 4, "no range r77"),
        (RangeId(2), 4, 1, "n4 has no copy of r2"),
        (RangeId(2), 1, 2, "n2 has a copy of r2 already"),
        (RangeId(2), 1, 1, "is on n1 already"),
        (RangeId(2), 1, 9, "no node n9"),
        (RangeId(2), 2, 4, "would move one back"),
    ];
    for (range, from, to, part) in cases {
        match bench.go(range, from, to) {
            Err(Error::Refused(why)) => assert!(why.contains(part), "{part}: {why}"),
            other => panic!("{part}: {other:?}"),
        }
    }
    bench.ask(Request::Admin(AdminOp::Drain { node: NodeId(4) })).expect("it can");
    let refused = bench.go(RangeId(2), 1, 4);
    assert!(
        matches!(&refused, Err(Error::Refused(why)) if why.contains("Draining")),
        "{refused:?}"
    );
    bench.ask(Request::Admin(AdminOp::Undrain { node: NodeId(4) })).expect("it can");
    bench.0.crash(NodeId(4), false);
    bench.run(2_000);
    // Through another gateway.
    let op = AdminOp::Move { range: RangeId(2), from: NodeId(1), to: NodeId(4) };
    let wanted = bench.0.request(NodeId(1), 5_000, Request::Admin(op)).expect("it runs");
    let answer = loop {
        assert!(bench.0.advance());
        match bench.0.happening() {
            Some(Happening::Reply { token, result, .. }) if token == wanted => break result,
            _ => {}
        }
    };
    assert!(
        matches!(&answer, Err(Error::Refused(why)) if why.contains("does not answer")),
        "{answer:?}"
    );
}
