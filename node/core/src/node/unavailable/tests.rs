//! One node of three on a clock, with as many of the others as a test wants.

use super::*;
use crate::bootstrap::{Plan, START};
use crate::descriptor::{NodeRecord, NodeState};
use crate::effects::{Input, LogReads, ReplicaBoot};
use crate::ids::Index;
use crate::level::Level;
use crate::message::Message;
use crate::node::Config;
use crate::request::{Op, PutOp, RangeOp, Request, Response};
use crate::state::tests::Rows;
use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};
use std::sync::Arc;

const ME: NodeId = NodeId(2);
const DEADLINE: Millis = 60_000;

struct NoLog;

impl LogReads for NoLog {
    fn entries(&self, _: RangeId, _: Index, _: Index, _: u64) -> Vec<Entry> {
        Vec::new()
    }
}

struct Bench {
    node: Node,
    rows: Rows,
    now: Millis,
    heard: Vec<NodeId>,
    answers: Vec<(ClientToken, Result<Response, Error>)>,
}

impl Bench {
    /// So many nodes, two ranges of three copies each; node 2 hears of some of the others.
    fn new(nodes: u64, heard: &[u64]) -> Self {
        let record = |id: u64| NodeRecord {
            id: NodeId(id),
            name: format!("node-{id}"),
            peer_address: String::new(),
            client_address: String::new(),
            http_address: String::new(),
            state: NodeState::Up,
        };
        let nodes = (1..=nodes).map(record).collect();
        let split_keys = vec![Bytes::from_static(b"m")];
        let plan = Plan { cluster: 1, nodes, replicas: 3, split_keys };
        let (_, batches) = plan.initial_state(ME);
        let boots = batches.iter().map(|batch| ReplicaBoot {
            range: batch.range,
            hard_state: HardState { term: START.term, commit: START.index, ..Default::default() },
            truncated: START,
            last_index: START.index,
            applied: START,
            ..Default::default()
        });
        let boots = boots.collect();
        let rows = batches.into_iter().map(|batch| {
            let rows = batch.system.into_iter().filter_map(|row| Some((row.key, row.value?)));
            (batch.range, rows.collect())
        });
        let rows = Rows(rows.collect());
        let node = Node::new(Config::new(ME, 1), 0, Arc::new(NoLog), &rows, boots);
        let heard = heard.iter().copied().map(NodeId).collect();
        Self { node: node.expect("readable"), rows, now: 0, heard, answers: Vec::new() }
    }

    fn step(&mut self, input: Input) {
        self.node.step(self.now, input, &self.rows);
        let effects = self.node.effects(self.now, &self.rows);
        self.answers.extend(effects.replies);
    }

    fn run_to(&mut self, end: Millis) {
        while self.now < end {
            self.now += 10;
            if self.now.is_multiple_of(100) {
                for from in self.heard.clone() {
                    self.step(Input::PeerConnected { peer: from, level: Level::NEWEST });
                    let message = Message::Heartbeat { incarnation: 7 };
                    self.step(Input::Message { from, message });
                }
            }
            self.step(Input::Tick);
        }
    }

    fn ask(&mut self, token: ClientToken, request: Request) {
        self.step(Input::Request { token, deadline: DEADLINE, request });
    }

    fn put(&mut self, token: ClientToken, key: &'static str) {
        let key = Bytes::from_static(key.as_bytes());
        let put = PutOp { key, value: Bytes::from_static(b"v"), ..PutOp::default() };
        self.ask(token, Request::Kv(Op::Put(put)));
    }

    fn told(&self, token: ClientToken) -> Option<&Error> {
        let answer = self.answers.iter().find(|(of, _)| *of == token)?;
        Some(answer.1.as_ref().expect_err("nobody serves"))
    }
}

#[test]
fn without_a_majority_requests_wait_for_an_election_and_then_fail_at_once() {
    let mut bench = Bench::new(3, &[]);
    bench.put(1, "a");
    // The others are silent for one election timeout before they count as missing, and then for two
    // more.
    bench.run_to(3_000);
    assert_eq!(bench.told(1), None);
    bench.run_to(3_500);
    let missing = vec![NodeId(1), NodeId(3)];
    assert!(
        matches!(bench.told(1), Some(Error::RangeUnavailable { missing: named, .. }) if *named == missing)
    );
    let all = Bytes::from_static(b"\0");
    let read = RangeOp { key: all.clone(), range_end: all, ..RangeOp::default() };
    bench.put(2, "a");
    bench.ask(3, Request::Kv(Op::Range(read)));
    bench.ask(4, Request::LeaseGrant { id: 7, ttl: 60 });
    let soon = bench.now + 30;
    bench.run_to(soon);
    for token in 2..=4 {
        let error = bench.told(token);
        assert!(matches!(error, Some(Error::RangeUnavailable { .. })), "{token}: {error:?}");
    }
}

#[test]
fn only_ranges_without_a_majority_fail_and_they_are_named() {
    // Three of five nodes answer; range 2 is on nodes 1 to 3, range 3 on nodes 2 to 4.
    let mut bench = Bench::new(5, &[1, 5]);
    bench.run_to(5_000);
    bench.put(1, "a");
    bench.put(2, "z");
    let soon = bench.now + 30;
    bench.run_to(soon);
    assert_eq!(bench.told(1), None, "two of its nodes are there: an election may come");
    let error = bench.told(2).expect("it fails at once");
    let (range, span) = (RangeId(3), "[\"m\", ∞)".to_owned());
    let missing = vec![NodeId(3), NodeId(4)];
    assert_eq!(*error, Error::RangeUnavailable { range, span, missing });
    // A node that is back ends the certainty.
    bench.heard.push(NodeId(4));
    let soon = bench.now + 200;
    bench.run_to(soon);
    bench.put(3, "z");
    let soon = bench.now + 1_000;
    bench.run_to(soon);
    assert_eq!(bench.told(3), None);
}
