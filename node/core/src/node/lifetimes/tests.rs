//! One node with one range besides the meta range, and what its peers say to it.

use super::*;
use crate::bootstrap::{Plan, START};
use crate::descriptor::{NodeRecord, NodeState};
use crate::effects::{Effects, Input, LogReads};
use crate::group::{decode_raft, encode_raft};
use crate::ids::{Index, LeaseId, Revision};
use crate::message::Message;
use crate::node::Config;
use crate::state::{StateReads, Version};
use bytes::Bytes;
use raft::eraftpb::{Entry, HardState, Message as Raft, MessageType};
use std::ops::ControlFlow;
use std::sync::Arc;

const RANGE: RangeId = RangeId(2);
const ME: NodeId = NodeId(2);
const MINE: ReplicaId = ReplicaId(2);
const TERM: u64 = 6;
const LAST: Index = 9;

/// Empty entries of [`TERM`] from the start to [`LAST`].
struct Log;

impl LogReads for Log {
    fn entries(&self, _: RangeId, low: Index, high: Index, _: u64) -> Vec<Entry> {
        let entry = |index| Entry { index, term: TERM, ..Entry::default() };
        (low..high.min(LAST + 1)).map(entry).collect()
    }
}

/// No keys, and the system rows of each range.
#[derive(Default)]
struct Rows(BTreeMap<RangeId, Vec<(Bytes, Bytes)>>);

impl StateReads for Rows {
    fn latest(&self, _: &[u8]) -> Option<Version> {
        None
    }

    fn at(&self, _: &[u8], _: Revision) -> Option<Version> {
        None
    }

    fn scan(
        &self,
        _: &Span,
        _: Revision,
        _: bool,
        _: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
    }

    fn history(
        &self,
        _: &Span,
        _: Revision,
        _: Revision,
        _: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
    }

    fn lease_keys(&self, _: LeaseId, _: &Span) -> Vec<Bytes> {
        Vec::new()
    }

    fn system_rows(&self, range: RangeId) -> Vec<(Bytes, Bytes)> {
        self.0.get(&range).cloned().unwrap_or_default()
    }
}

fn rows() -> Rows {
    let record = |id: u64| NodeRecord {
        id: NodeId(id),
        name: format!("node-{id}"),
        peer_address: String::new(),
        client_address: String::new(),
        http_address: String::new(),
        state: NodeState::Up,
    };
    let nodes = (1..=3).map(record).collect();
    let plan = Plan { cluster: 1, nodes, replicas: 3, split_keys: Vec::new() };
    let batches = plan.initial_state(ME).1;
    let rows = |batch: crate::state::ApplyBatch| {
        let rows = batch.system.into_iter().filter_map(|row| Some((row.key, row.value?)));
        (batch.range, rows.collect())
    };
    Rows(batches.into_iter().map(rows).collect())
}

fn boot(range: RangeId, last_index: Index, commit: Index) -> ReplicaBoot {
    let hard_state = HardState { term: TERM, commit, ..HardState::default() };
    let applied = START;
    ReplicaBoot { range, hard_state, truncated: START, last_index, applied, ..Default::default() }
}

struct Bench {
    node: Node,
    rows: Rows,
}

impl Bench {
    /// The meta range as it starts, and the range as told.
    fn new(rows: Rows, range: ReplicaBoot) -> Self {
        let boots = vec![boot(META_RANGE, START.index, START.index), range];
        let node = Node::new(Config::new(ME, 1), 0, Arc::new(Log), &rows, boots);
        Self { node: node.expect("the rows are readable"), rows }
    }

    fn step(&mut self, input: Input) -> Effects {
        self.node.step(1, input, &self.rows);
        self.node.effects(1, &self.rows)
    }

    fn hear(&mut self, from: u64, message: Message) -> Effects {
        self.step(Input::Message { from: NodeId(from), message })
    }

    /// A raft message from the replica of this number, on the node of that number.
    fn raft(&mut self, kind: MessageType, message: Raft) -> Effects {
        let from = message.from;
        let mut message = Raft { to: MINE.0, ..message };
        message.set_msg_type(kind);
        let data = encode_raft(&message);
        self.hear(from, Message::Raft { range: RANGE, from: ReplicaId(from), to: MINE, data })
    }

    fn runs(&self) -> bool {
        self.node.replicas.contains_key(&RANGE)
    }
}

/// What a node says in the range, once everything is on disk.
fn said(bench: &mut Bench, effects: Effects) -> Vec<Raft> {
    let mut messages = effects.send;
    for persist in effects.persist {
        messages.extend(bench.step(Input::Persisted { sequence: persist.sequence }).send);
    }
    let raft = |message: Message| match message {
        Message::Raft { range: RANGE, data, .. } => Some(decode_raft(&data).expect("readable")),
        _ => None,
    };
    messages.into_iter().filter_map(|(_, message)| raft(message)).collect()
}

fn removed(effects: &Effects) -> Option<(ReplicaId, bool)> {
    let mut writes = effects.persist.iter().flat_map(|persist| &persist.writes);
    writes.find_map(|write| Some((write.removed?, write.destroy)))
}

fn destroyed(effects: &Effects) -> bool {
    effects.snapshots.iter().any(|effect| {
        matches!(effect, SnapshotEffect::Destroy { range, clear } if *range == RANGE
            && *clear == [Span { start: Bytes::new(), end: None }])
    })
}

/// A range was cut off another, which later went past the cut by a raft snapshot: nothing brings
/// the state back to which the log belongs. The log was acknowledged, so it counts in elections.
#[test]
fn a_log_without_its_state_still_counts() {
    for (last, index, granted) in [(LAST, LAST - 1, false), (LAST, LAST, true)] {
        let mut rows = rows();
        rows.0.remove(&RANGE);
        let boot = ReplicaBoot { applied: Default::default(), ..boot(RANGE, last, START.index) };
        let mut bench = Bench::new(rows, boot);
        let vote = Raft { from: 3, term: TERM + 1, index, log_term: TERM, ..Raft::default() };
        let effects = bench.raft(MessageType::MsgRequestVote, vote);
        let answers = said(&mut bench, effects);
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(answers[0].get_msg_type(), MessageType::MsgRequestVoteResponse);
        assert_eq!(answers[0].reject, !granted);
    }
}

#[test]
fn a_log_without_its_state_asks_for_one() {
    let mut rows = rows();
    rows.0.remove(&RANGE);
    let boot = ReplicaBoot { applied: Default::default(), ..boot(RANGE, LAST, START.index) };
    let mut bench = Bench::new(rows, boot);
    let heartbeat = Raft { from: 1, term: TERM, commit: LAST, ..Raft::default() };
    let effects = bench.raft(MessageType::MsgHeartbeat, heartbeat);
    let answers = said(&mut bench, effects);
    let wanted = answers.iter().find(|answer| answer.request_snapshot > 0);
    assert_eq!(wanted.map(|answer| (answer.to, answer.request_snapshot)), Some((1, LAST)));
    assert!(bench.runs());
}

/// A leader that has not applied the removal speaks to the removed replica as to one of its own.
#[test]
fn a_removed_replica_ends_in_order_and_does_not_come_back() {
    let mut bench = Bench::new(rows(), boot(RANGE, LAST, LAST));
    let effects = bench.step(Input::Tick);
    assert_eq!(effects.apply.last().map(|batch| batch.applied.index), Some(LAST));
    let tombstone = || Message::Tombstone { range: RANGE, replica: MINE };
    for from in [1, 3] {
        let effects = bench.hear(from, tombstone());
        assert!(removed(&effects).is_none(), "its state is not durable");
        assert!(bench.runs());
    }
    let effects = bench.step(Input::StateDurable { applied: vec![(RANGE, LAST)] });
    assert_eq!(removed(&effects), Some((MINE, true)));
    assert!(!destroyed(&effects), "its log still says that it is there");
    assert!(!bench.runs());
    let sequence = effects.persist[0].sequence;
    let heartbeat = || Raft { from: 1, term: TERM, commit: LAST, ..Raft::default() };
    let early = bench.raft(MessageType::MsgHeartbeat, heartbeat());
    assert!(said(&mut bench, early).is_empty() && !bench.runs());
    assert!(destroyed(&bench.step(Input::Persisted { sequence })));
    let late = bench.raft(MessageType::MsgHeartbeat, heartbeat());
    assert!(said(&mut bench, late).is_empty() && !bench.runs());

    // The power went before the state could, and the directory is older than the removal.
    let boot = ReplicaBoot { range: RANGE, applied: START, removed: MINE, ..Default::default() };
    let mut bench = Bench::new(rows(), boot);
    assert!(destroyed(&bench.step(Input::Tick)));
    let late = bench.raft(MessageType::MsgHeartbeat, heartbeat());
    assert!(said(&mut bench, late).is_empty() && !bench.runs());
}
