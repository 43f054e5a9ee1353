//! A calm cluster does what a client asks, through every node.

use bytes::Bytes;
use holdfast_core::effects::{Event, WatchEffect};
use holdfast_core::error::Error;
use holdfast_core::ids::{META_RANGE, NodeId, RangeId};
use holdfast_core::key::Span;
use holdfast_core::request::{
    AdminOp, Compare, CompareResult, CompareTarget, DeleteOp, KeyValue, Op, OpResult, PutOp,
    RangeOp, RangeResult, Request, Response, TxnOp,
};
use holdfast_sim::world::{Happening, Options, World};

/// A world with the answers and news that nobody has asked for yet.
struct Bench {
    world: World,
    news: Vec<WatchEffect>,
}

impl Bench {
    fn new() -> Self {
        let mut options = Options::new(1);
        options.verbose = std::env::var_os("HOLDFAST_SIM_VERBOSE").is_some();
        let mut bench = Self { world: World::new(options), news: Vec::new() };
        bench.settle();
        bench
    }

    fn run(&mut self, millis: u64) {
        let end = self.world.now() + millis;
        while self.world.now() < end {
            assert!(self.world.advance(), "{:?}", self.world.checks.violation());
            while let Some(happening) = self.world.happening() {
                if let Happening::Watch { news, .. } = happening {
                    self.news.push(news);
                }
            }
        }
    }

    /// Until every range has a leaseholder.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.run(100);
            let led: std::collections::BTreeSet<RangeId> = self
                .world
                .nodes()
                .keys()
                .filter_map(|node| self.world.status(*node))
                .flat_map(|status| status.replicas)
                .filter(|replica| replica.leaseholder)
                .map(|replica| replica.range)
                .collect();
            let status = self.world.status(NodeId(1)).or_else(|| self.world.status(NodeId(2)));
            if led.len() == status.expect("one runs").ranges.len() {
                return;
            }
        }
        panic!("no leaders after ten seconds");
    }

    fn try_call(&mut self, node: u64, request: Request) -> Result<Response, Error> {
        let wanted = self.world.request(NodeId(node), 5_000, request).expect("it runs");
        loop {
            assert!(self.world.advance(), "{:?}", self.world.checks.violation());
            while let Some(happening) = self.world.happening() {
                match happening {
                    Happening::Reply { token, result, .. } if token == wanted => return result,
                    Happening::Watch { news, .. } => self.news.push(news),
                    _ => {}
                }
            }
        }
    }

    fn call(&mut self, node: u64, request: Request) -> Response {
        self.try_call(node, request.clone())
            .unwrap_or_else(|error| panic!("{request:?} at {}: {error}", self.world.now()))
    }

    fn kv(&mut self, node: u64, op: Op) -> (i64, OpResult) {
        match self.call(node, Request::Kv(op)) {
            Response::Kv { revision, result } => (revision, result),
            other => panic!("{other:?}"),
        }
    }

    fn put(&mut self, node: u64, key: &str, value: &str) -> i64 {
        self.kv(node, put(key, value, 0)).0
    }

    fn get(&mut self, node: u64, key: &str) -> Vec<KeyValue> {
        self.range(node, RangeOp { key: text(key), ..RangeOp::default() }).kvs
    }

    fn range(&mut self, node: u64, op: RangeOp) -> RangeResult {
        match self.kv(node, Op::Range(op)).1 {
            OpResult::Range(found) => found,
            other => panic!("{other:?}"),
        }
    }

    fn events(&mut self, wanted: u64) -> Vec<Event> {
        self.run(300);
        let mut found = Vec::new();
        for news in self.news.drain(..) {
            match news {
                WatchEffect::Events { token, events, .. } if token == wanted => {
                    found.extend(events);
                }
                _ => {}
            }
        }
        found
    }

    fn leaseholder(&self, range: RangeId) -> Option<NodeId> {
        self.world.nodes().keys().copied().find(|node| {
            self.world.status(*node).is_some_and(|status| {
                status.replicas.iter().any(|own| own.range == range && own.leaseholder)
            })
        })
    }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str, lease: i64) -> Op {
    Op::Put(PutOp { key: text(key), value: text(value), lease, ..PutOp::default() })
}

fn all() -> RangeOp {
    RangeOp {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeOp::default()
    }
}

#[test]
fn puts_and_gets_through_every_node() {
    let mut bench = Bench::new();
    let mut last = 1;
    for (turn, key) in ["k1", "k4", "k8", "k1", "k4"].iter().enumerate() {
        for node in 1..=3 {
            let value = format!("{turn}-{node}");
            let revision = bench.put(node, key, &value);
            assert_eq!(revision, last + 1, "revisions are dense");
            last = revision;
            for reader in 1..=3 {
                let found = bench.get(reader, key);
                assert_eq!(found.len(), 1);
                assert_eq!(found[0].value, text(&value));
                assert_eq!(found[0].mod_revision, revision);
            }
        }
    }
    let found = bench.range(2, all());
    assert_eq!((found.kvs.len(), found.count, found.more), (3, 3, false));
    let limited = bench.range(3, RangeOp { limit: 2, ..all() });
    assert_eq!((limited.kvs.len(), limited.count, limited.more), (2, 3, true));
    let old = bench.range(1, RangeOp { revision: 4, ..all() });
    assert_eq!(old.kvs.iter().map(|kv| kv.value.clone()).collect::<Vec<_>>(), [text("0-3")]);
}

#[test]
fn transactions_compare_and_swap() {
    let mut bench = Bench::new();
    let revision = bench.put(1, "k4", "one");
    let swap = |expected: i64, value: &str| {
        Op::Txn(TxnOp {
            compare: vec![Compare {
                key: text("k4"),
                range_end: Bytes::new(),
                result: CompareResult::Equal,
                target: CompareTarget::Mod(expected),
            }],
            success: vec![
                put("k4", value, 0),
                Op::Range(RangeOp { key: text("k4"), ..RangeOp::default() }),
            ],
            failure: vec![Op::Range(RangeOp { key: text("k4"), ..RangeOp::default() })],
        })
    };
    for node in 1..=3 {
        let (header, result) = bench.kv(node, swap(revision, &format!("by {node}")));
        let OpResult::Txn { succeeded, results } = result else { panic!("{result:?}") };
        assert_eq!(succeeded, node == 1);
        assert_eq!(header, revision + 1);
        let OpResult::Range(found) = &results.last().expect("one result").1 else { panic!() };
        assert_eq!(found.kvs[0].value, text("by 1"));
    }
}

#[test]
fn a_transaction_changes_several_ranges_at_one_revision() {
    let mut bench = Bench::new();
    let first = bench.put(1, "k1", "a");
    let watch = bench.world.watch(NodeId(2), Span::all(), first + 1, false).expect("it runs");
    let compare = |key: &'static str, version| Compare {
        key: text(key),
        range_end: Bytes::new(),
        result: CompareResult::Equal,
        target: CompareTarget::Version(version),
    };
    let read = |key: &'static str| Op::Range(RangeOp { key: text(key), ..RangeOp::default() });
    let swap = |value: &'static str| {
        Op::Txn(TxnOp {
            compare: vec![compare("k1", 1), compare("k8", 0)],
            success: vec![read("k1"), put("k8", value, 0), put("k1", value, 0), read("k8")],
            failure: vec![read("k8"), read("k1")],
        })
    };
    for node in 1..=3 {
        let (header, result) = bench.kv(node, swap("b"));
        let OpResult::Txn { succeeded, results } = result else { panic!("{result:?}") };
        assert_eq!(header, first + 1, "one revision, and none for what changes nothing");
        let values: Vec<Bytes> = results
            .iter()
            .filter_map(|(_, result)| match result {
                OpResult::Range(found) => Some(found.kvs[0].value.clone()),
                _ => None,
            })
            .collect();
        if node == 1 {
            assert!(succeeded);
            assert_eq!(values, [text("a"), text("b")]);
            assert_eq!(results.iter().map(|(at, _)| at - first).collect::<Vec<_>>(), [0, 1, 1, 1]);
        } else {
            assert!(!succeeded);
            assert_eq!(values, [text("b"), text("b")]);
        }
    }
    let everything = DeleteOp { key: text("k"), range_end: text("l"), prev_kv: false };
    let (header, result) = bench.kv(3, Op::Delete(everything));
    assert_eq!(
        (header, result),
        (first + 2, OpResult::Delete { deleted: 2, prev_kvs: Vec::new() })
    );
    let told: Vec<(i64, Bytes, bool)> = bench
        .events(watch)
        .into_iter()
        .map(|event| (event.kv.mod_revision - first, event.kv.key, event.put))
        .collect();
    let (k1, k8) = (text("k1"), text("k8"));
    assert_eq!(
        told,
        [(1, k8.clone(), true), (1, k1.clone(), true), (2, k1, false), (2, k8, false)],
        "in the order of the transaction"
    );
}

#[test]
fn watches_see_every_change_once() {
    let mut bench = Bench::new();
    let first = bench.put(1, "k1", "a");
    let mut tokens = Vec::new();
    for node in 1..=3 {
        tokens.push(bench.world.watch(NodeId(node), Span::all(), first, true).expect("it runs"));
    }
    bench.run(200);
    bench.put(2, "k4", "b");
    bench.put(3, "k1", "c");
    bench.kv(1, Op::Delete(DeleteOp { key: text("k1"), ..DeleteOp::default() }));
    bench.put(3, "k9", "d");
    bench.run(500);
    let news = std::mem::take(&mut bench.news);
    for token in tokens {
        bench.news.clone_from(&news);
        let seen: Vec<(bool, Bytes, i64)> = bench
            .events(token)
            .into_iter()
            .map(|event| (event.put, event.kv.key, event.kv.mod_revision))
            .collect();
        let wanted = [
            (true, text("k1"), first),
            (true, text("k4"), first + 1),
            (true, text("k1"), first + 2),
            (false, text("k1"), first + 3),
            (true, text("k9"), first + 4),
        ];
        assert_eq!(seen, wanted);
    }
}

#[test]
fn leases_end_by_revocation_or_time() {
    let mut bench = Bench::new();
    for (id, node) in [(11, 1), (12, 2), (13, 3)] {
        let granted = bench.call(node, Request::LeaseGrant { id, ttl: 5 });
        assert_eq!(granted, Response::LeaseGrant { id, ttl: 5 });
        bench.kv(node, put(&format!("k{id}"), "leased", id));
        bench.kv(node, put(&format!("k9{id}"), "leased", id));
    }
    let asked = Request::LeaseTimeToLive { id: 11, keys: true };
    let Response::LeaseTimeToLive { ttl, keys, .. } = bench.call(3, asked) else { panic!() };
    assert!((0..=5).contains(&ttl), "{ttl}");
    assert_eq!(keys, [text("k11"), text("k911")]);
    assert!(matches!(bench.call(2, Request::LeaseRevoke { id: 11 }), Response::LeaseRevoke { .. }));
    assert!(bench.get(1, "k11").is_empty());
    assert!(bench.get(3, "k911").is_empty());
    for _ in 0..8 {
        bench.run(1000);
        let kept = bench.call(1, Request::LeaseKeepAlive { id: 12 });
        assert_eq!(kept, Response::LeaseKeepAlive { id: 12, ttl: 5 });
    }
    assert_eq!(bench.get(2, "k12").len(), 1, "it was kept alive");
    assert!(bench.get(2, "k13").is_empty(), "its time was up");
    assert!(bench.get(2, "k913").is_empty(), "its time was up");
    assert_eq!(bench.call(3, Request::LeaseList), Response::LeaseList { ids: vec![12] });
    let missing = bench.try_call(1, Request::Kv(put("k1", "x", 77)));
    assert_eq!(missing, Err(Error::LeaseNotFound));
}

#[test]
fn compaction_hides_history() {
    let mut bench = Bench::new();
    for turn in 0..5 {
        bench.put(1, "k1", &turn.to_string());
    }
    bench.call(2, Request::Compact { revision: 4 });
    let old = bench.try_call(1, Request::Kv(Op::Range(RangeOp { revision: 3, ..all() })));
    assert_eq!(old, Err(Error::Compacted));
    assert_eq!(bench.range(3, RangeOp { revision: 4, ..all() }).kvs.len(), 1);
    assert_eq!(bench.try_call(3, Request::Compact { revision: 4 }), Err(Error::Compacted));
    assert_eq!(bench.try_call(3, Request::Compact { revision: 99 }), Err(Error::FutureRevision));
    let token = bench.world.watch(NodeId(3), Span::all(), 2, false).expect("it runs");
    bench.run(500);
    assert!(bench.news.contains(&WatchEffect::Compacted { token, compact_revision: 4 }));
}

#[test]
fn a_range_splits_on_command() {
    let mut bench = Bench::new();
    for key in ["k1", "k15", "k2"] {
        bench.put(1, key, key);
    }
    let token = bench.world.watch(NodeId(1), Span::all(), 0, false).expect("it runs");
    bench.call(2, Request::Admin(AdminOp::Split { key: text("k15") }));
    bench.settle();
    for node in 1..=3 {
        bench.put(node, "k1", "x");
        bench.put(node, "k15", "y");
        bench.put(node, "k2", "z");
    }
    assert_eq!(bench.range(3, all()).count, 3);
    assert_eq!(bench.events(token).len(), 9);
    let ranges = bench.world.status(NodeId(1)).expect("it runs").ranges.len();
    assert_eq!(ranges, 5);
}

/// Whoever leads the range leads the new one at first, without waiting for an election timeout.
#[test]
fn a_cut_holds_up_nobody_for_long() {
    let mut bench = Bench::new();
    for key in ["k1", "k15", "k2"] {
        bench.put(1, key, key);
    }
    for (node, key) in [(1, "k15"), (2, "k12"), (3, "k17"), (1, "k11")] {
        let before = bench.world.now();
        bench.call(node, Request::Admin(AdminOp::Split { key: text(key) }));
        for key in ["k1", "k2"] {
            bench.put(node, key, "x");
        }
        let took = bench.world.now() - before;
        assert!(took < 300, "{took} ms around the cut at {key}");
    }
}

#[test]
fn leadership_moves_on_command_and_at_shutdown() {
    let mut bench = Bench::new();
    bench.put(1, "k1", "a");
    let range = RangeId(2);
    let from = bench.leaseholder(range).expect("it is led");
    let to = NodeId(from.0 % 3 + 1);
    bench.call(3, Request::Admin(AdminOp::Transfer { range, to }));
    bench.run(200);
    assert_eq!(bench.leaseholder(range), Some(to));
    bench.put(2, "k1", "b");
    let sequencer = bench.leaseholder(META_RANGE).expect("it is led");
    bench.world.shutdown(sequencer);
    let before = bench.world.now();
    let last = bench.put(sequencer.0 % 3 + 1, "k1", "c");
    assert!(bench.world.now() - before < 500, "{} ms", bench.world.now() - before);
    bench.run(500);
    assert!(bench.world.handed_over(sequencer));
    assert_ne!(bench.leaseholder(META_RANGE), Some(sequencer));
    bench.world.crash(sequencer, false);
    bench.settle();
    let next = bench.put(sequencer.0 % 3 + 1, "k8", "d");
    assert_eq!(next, last + 1, "a planned hand-over leaves no gap");
}
