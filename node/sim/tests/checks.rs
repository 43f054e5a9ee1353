//! Consistency checks in a calm cluster: on command, by themselves, and with a row that is lost.

use bytes::Bytes;
use holdfast_core::check::{CheckReport, Verdict};
use holdfast_core::error::Error;
use holdfast_core::ids::{META_RANGE, NodeId, RangeId};
use holdfast_core::request::{AdminOp, AlarmKind, Op, PutOp, Request, Response};
use holdfast_core::status::Status;
use holdfast_sim::world::{Happening, Options, World};

struct Bench(World);

impl Bench {
    fn new(check_every_ms: u64) -> Self {
        let mut bench = Self(World::new(Options { check_every_ms, ..Options::new(1) }));
        bench.run(5_000);
        bench
    }

    fn run(&mut self, millis: u64) {
        let end = self.0.now() + millis;
        while self.0.now() < end {
            // A difference is a violation of the simulation's own check, too: go on after it.
            if !self.0.advance() {
                let why = self.0.checks.violation().unwrap_or_default();
                assert!(why.starts_with("checks truthful"), "{why}");
                self.0.checks.forget_violation();
            }
            while self.0.happening().is_some() {}
        }
    }

    fn ask(&mut self, request: Request) -> Result<Response, Error> {
        let wanted = self.0.request(NodeId(1), 20_000, request).expect("it runs");
        loop {
            if !self.0.advance() {
                self.0.checks.forget_violation();
            }
            while let Some(happening) = self.0.happening() {
                match happening {
                    Happening::Reply { token, result, .. } if token == wanted => return result,
                    _ => {}
                }
            }
        }
    }

    fn put(&mut self, key: &'static str, value: &'static str) -> i64 {
        let (key, value) =
            (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()));
        match self.ask(Request::Kv(Op::Put(PutOp { key, value, ..PutOp::default() }))) {
            Ok(Response::Kv { revision, .. }) => revision,
            other => panic!("{other:?}"),
        }
    }

    fn check(&mut self, range: RangeId) -> CheckReport {
        match self.ask(Request::Admin(AdminOp::Check { range })) {
            Ok(Response::Check { report }) => *report,
            other => panic!("{other:?}"),
        }
    }

    fn status(&self, node: u64) -> Status {
        self.0.status(NodeId(node)).expect("it runs")
    }
}

const RANGE: RangeId = RangeId(2);

#[test]
fn equal_replicas_are_found_equal_whatever_is_compacted() {
    let mut bench = Bench::new(0);
    let mut last = 0;
    for turn in 0..5 {
        last = bench.put("k1", "a");
        let report = bench.check(RANGE);
        assert_eq!((report.verdict, report.revision), (Verdict::Equal, last), "turn {turn}");
        assert_eq!(report.replicas.len(), 3);
    }
    bench.put("k9", "elsewhere");
    bench.ask(Request::Compact { revision: last + 1 }).expect("not compacted yet");
    let report = bench.check(RANGE);
    // The range has nothing newer, and knows that it is complete up to the compaction.
    assert_eq!((report.verdict, report.revision), (Verdict::Equal, last + 1));
    assert_eq!(bench.check(META_RANGE).verdict, Verdict::Equal);
    let before = bench.status(1).revision;
    assert_eq!(bench.put("k1", "b"), before + 1, "a check takes no revision");
}

#[test]
fn a_replica_that_is_away_is_not_waited_for() {
    let mut bench = Bench::new(0);
    bench.put("k1", "a");
    let leader = |bench: &Bench| {
        let held = |node: &u64| {
            let status = bench.status(*node);
            status.replicas.iter().any(|own| own.range == RANGE && own.leaseholder)
        };
        [1, 2, 3].into_iter().find(held).expect("it is led")
    };
    let away = NodeId([3, 2].into_iter().find(|node| *node != leader(&bench)).expect("two"));
    bench.0.crash(away, false);
    bench.run(3_000);
    let begun = bench.0.now();
    let report = bench.check(RANGE);
    assert_eq!(report.verdict, Verdict::Incomplete);
    assert!(bench.0.now() < begun + 1_000, "{} ms", bench.0.now() - begun);
    bench.0.restart(away, 10);
    bench.run(5_000);
    assert_eq!(bench.check(RANGE).verdict, Verdict::Equal);
}

#[test]
fn a_lost_row_is_an_alarm_until_it_is_mended() {
    let mut bench = Bench::new(0);
    let revision = bench.put("k1", "a");
    bench.put("k1", "b");
    bench.run(2_000);
    let bad = NodeId(3);
    bench.0.lose(bad, Bytes::from_static(b"k1"), revision);
    let report = bench.check(RANGE);
    let Verdict::Diverged(differ) = &report.verdict else { panic!("{report:?}") };
    assert_eq!(differ.iter().map(|own| own.node).collect::<Vec<_>>(), [bad]);
    bench.run(1_000);
    for node in 1..=3 {
        let status = bench.status(node);
        assert_eq!(status.alarms, [(bad, AlarmKind::Corrupt)]);
        assert_eq!(status.divergences.len(), 1);
        assert_eq!(status.divergences[0].range, RANGE);
        assert_eq!(&status.divergences[0].replicas, differ);
    }
    // It goes on serving, and the next check says the same.
    bench.put("k1", "c");
    assert!(matches!(bench.check(RANGE).verdict, Verdict::Diverged(_)));
    // Compaction hides the row that one replica lacks: they are equal again.
    let last = bench.put("k2", "d");
    bench.ask(Request::Compact { revision: last }).expect("not compacted yet");
    assert_eq!(bench.check(RANGE).verdict, Verdict::Equal);
    bench.run(1_000);
    for node in 1..=3 {
        assert!(bench.status(node).alarms.is_empty());
        assert!(bench.status(node).divergences.is_empty());
    }
}

#[test]
fn ranges_are_checked_by_themselves() {
    let mut bench = Bench::new(3_000);
    let revision = bench.put("k1", "a");
    bench.run(10_000);
    let checks: u64 = (1..=3).map(|node| bench.status(node).counters.checks).sum();
    // Four ranges, three or four times each.
    assert!((8..=24).contains(&checks), "{checks}");
    bench.0.lose(NodeId(2), Bytes::from_static(b"k1"), revision);
    bench.run(5_000);
    assert_eq!(bench.status(1).alarms, [(NodeId(2), AlarmKind::Corrupt)]);
}
