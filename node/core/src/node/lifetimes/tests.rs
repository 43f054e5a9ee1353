//! One node with one range besides the meta range, and what its peers say to it.

use super::*;
use crate::bootstrap::{Plan, START};
use crate::descriptor::{NodeRecord, NodeState, ReplicaDescriptor, ReplicaKind};
use crate::effects::{Effects, Input, LogReads};
use crate::group::{decode_raft, encode_raft};
use crate::ids::Index;
use crate::message::Message;
use crate::node::Config;
use crate::replica::DESCRIPTOR_ROW;
use crate::state::Applied;
use crate::state::tests::Rows;
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType, HardState, Message as Raft,
    MessageType,
};
use std::sync::Arc;

const RANGE: RangeId = RangeId(2);
const ME: NodeId = NodeId(2);
const MINE: ReplicaId = ReplicaId(2);
const TERM: u64 = 6;
const LAST: Index = 9;

/// Entries of [`TERM`] from the start to [`LAST`]. The first ones may be a change of members that
/// puts another replica in the place of this one, in two halves; the others are empty.
struct Log {
    change: Option<Bytes>,
}

impl LogReads for Log {
    fn entries(&self, _: RangeId, low: Index, high: Index, _: u64) -> Vec<Entry> {
        let entry = |index| {
            let mut entry = Entry { index, term: TERM, ..Entry::default() };
            if self.change.is_some() && index <= LEAVES {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
            }
            if let Some(descriptor) = &self.change
                && index == ENTERS
            {
                let single = |kind, node_id| {
                    let mut single = ConfChangeSingle { node_id, ..Default::default() };
                    single.set_change_type(kind);
                    single
                };
                let mut change = ConfChangeV2::default();
                change.mut_changes().push(single(ConfChangeType::AddNode, NEW.replica.0));
                change.mut_changes().push(single(ConfChangeType::RemoveNode, MINE.0));
                entry.data = change.write_to_bytes().expect("a change can be encoded").into();
                entry.context = descriptor.clone();
            }
            entry
        };
        (low..high.min(LAST + 1)).map(entry).collect()
    }
}

/// Where the change of members is in the log.
const ENTERS: Index = START.index + 1;
const LEAVES: Index = START.index + 2;
/// Who comes by it.
const NEW: ReplicaDescriptor =
    ReplicaDescriptor { replica: ReplicaId(4), node: NodeId(4), kind: ReplicaKind::Voter };

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
        Self::with_log(rows, range, None)
    }

    fn with_log(rows: Rows, range: ReplicaBoot, change: Option<Bytes>) -> Self {
        let boots = vec![boot(META_RANGE, START.index, START.index), range];
        let node = Node::new(Config::new(ME, 1), 0, Arc::new(Log { change }), &rows, boots);
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

fn tombstone(replica: ReplicaId) -> Message {
    Message::Tombstone { range: RANGE, replica }
}

fn durable(bench: &mut Bench, index: Index) -> Effects {
    bench.step(Input::StateDurable { applied: vec![(RANGE, index)] })
}

/// A range was cut off another, which later went past the cut by a raft snapshot: nothing brings
/// the state back to which the log belongs. The log was acknowledged, so it counts in elections.
#[test]
fn a_log_without_its_state_still_counts() {
    for (last, index, granted) in [(LAST, LAST - 1, false), (LAST, LAST, true)] {
        let mut rows = rows();
        rows.0.remove(&RANGE);
        let boot = ReplicaBoot { applied: Applied::default(), ..boot(RANGE, last, START.index) };
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
    let boot = ReplicaBoot { applied: Applied::default(), ..boot(RANGE, LAST, START.index) };
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
    for from in [1, 3] {
        let effects = bench.hear(from, tombstone(MINE));
        assert!(removed(&effects).is_none(), "its state is not durable");
        assert!(bench.runs());
    }
    assert!(bench.node.logs.size(RANGE) > 0);
    let effects = durable(&mut bench, LAST);
    assert_eq!(removed(&effects), Some((MINE, true)));
    assert_eq!(bench.node.logs.size(RANGE), 0, "what is gone does not count");
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

/// The descriptor after the change in [`Log`].
fn changed() -> Bytes {
    let rows = rows();
    let row = rows.0[&RANGE].iter().find(|(key, _)| key.as_ref() == DESCRIPTOR_ROW);
    let mut new: RangeDescriptor = postcard::from_bytes(&row.expect("it has one").1).unwrap();
    new.generation += 1;
    new.next_replica += 1;
    let mine = new.replicas.iter().position(|replica| replica.replica == MINE).unwrap();
    new.replicas[mine] = NEW;
    postcard::to_stdvec(&new).unwrap().into()
}

/// Until the change has ended, the one that leaves by it counts; and until others know that for
/// good, they may need it to find out.
#[test]
fn a_replica_that_left_goes_on_until_a_majority_says_so() {
    let mut bench = Bench::with_log(rows(), boot(RANGE, LAST, LEAVES), Some(changed()));
    let effects = bench.step(Input::Tick);
    assert_eq!(effects.apply.last().map(|batch| batch.applied.index), Some(LEAVES));
    let own = &bench.node.replicas.get(&RANGE).expect("it is here");
    assert!(!own.group.is_member(MINE) && own.group.is_member(NEW.replica));
    let asked = |bench: &mut Bench| {
        bench.node.ask_removed();
        let mut asked = bench.node.effects(1, &bench.rows).send;
        asked.retain(|(_, message)| matches!(message, Message::AmIRemoved { .. }));
        asked
    };
    let question = Message::AmIRemoved { range: RANGE, replica: MINE };
    assert_eq!(asked(&mut bench), [1, 4, 3].map(|node| (NodeId(node), question.clone())));
    durable(&mut bench, LEAVES);
    assert!(removed(&bench.hear(4, tombstone(MINE))).is_none());
    assert!(removed(&bench.hear(4, tombstone(MINE))).is_none(), "it said so before");
    let vote = Raft { from: 1, term: TERM + 1, index: LAST, log_term: TERM, ..Raft::default() };
    let effects = bench.raft(MessageType::MsgRequestVote, vote);
    assert_eq!(said(&mut bench, effects).len(), 1, "it still votes");
    assert_eq!(removed(&bench.hear(1, tombstone(MINE))), Some((MINE, true)));
}

/// Who left is told when the change has ended, and not before this is durable.
#[test]
fn who_left_is_told_what_cannot_be_undone() {
    let told = |effects: &Effects, node: u64| {
        let farewell = (NodeId(node), tombstone(MINE));
        effects.send.contains(&farewell)
    };
    for (commit, ended) in [(ENTERS, false), (LEAVES, true)] {
        let boot = boot(RANGE, LAST, commit);
        let mut bench = Bench::with_log(rows(), boot, Some(changed()));
        // As seen by a node that stays.
        bench.node.config.node = NodeId(3);
        bench.step(Input::Tick);
        let question = || Message::AmIRemoved { range: RANGE, replica: MINE };
        assert!(!told(&bench.hear(2, question()), 2), "not durable");
        assert_eq!(told(&durable(&mut bench, commit), 2), ended);
        assert!(!told(&durable(&mut bench, commit), 2), "once");
        assert_eq!(told(&bench.hear(2, question()), 2), ended);
        let stays = Message::AmIRemoved { range: RANGE, replica: ReplicaId(1) };
        assert!(bench.hear(1, stays).send.is_empty());
    }
}

/// Ends of the range's log that the node asks for in some seconds, in which all nodes are heard.
fn ended(bench: &mut Bench, seconds: std::ops::Range<u64>) -> Vec<Applied> {
    let mut ends = Vec::new();
    for now in (seconds.start * 1_000..seconds.end * 1_000).step_by(100) {
        for from in [1, 3] {
            let message = Message::Quiesce { range: RangeId(99), term: TERM, index: LAST };
            bench.node.step(now, Input::Message { from: NodeId(from), message }, &bench.rows);
        }
        bench.node.step(now, Input::Tick, &bench.rows);
        let effects = bench.node.effects(now, &bench.rows);
        let writes = effects.persist.iter().flat_map(|persist| &persist.writes);
        let writes = writes.filter(|write| write.range == RANGE);
        ends.extend(writes.filter_map(|write| write.truncate));
    }
    ends
}

#[test]
fn a_range_that_sleeps_keeps_no_entries_once_its_state_is_durable() {
    let heartbeat = Raft { from: 1, term: TERM, commit: LAST, ..Raft::default() };
    let quiesce = |index| Message::Quiesce { range: RANGE, term: TERM, index };
    let bench = |sleeps: bool| {
        let mut bench = Bench::new(rows(), boot(RANGE, LAST, LAST));
        let effects = bench.raft(MessageType::MsgHeartbeat, heartbeat.clone());
        said(&mut bench, effects);
        bench.hear(1, quiesce(if sleeps { LAST } else { LAST - 1 }));
        bench
    };
    let mut sleeper = bench(true);
    assert_eq!(ended(&mut sleeper, 1..3), [], "a crash would lose what is not in the state");
    durable(&mut sleeper, LAST - 1);
    assert_eq!(ended(&mut sleeper, 3..5), []);
    durable(&mut sleeper, LAST);
    assert_eq!(ended(&mut sleeper, 5..7), [Applied { index: LAST, term: TERM }]);
    assert_eq!(ended(&mut sleeper, 7..9), [], "once");
    let mut awake = bench(false);
    durable(&mut awake, LAST);
    assert_eq!(ended(&mut awake, 1..3), [], "others may need it");
}
