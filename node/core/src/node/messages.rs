//! Messages of other nodes, and of this one to itself: each goes to whom it concerns; and raft
//! messages on their way out.
//!
//! Invariants: a raft message is taken only by the replica that it names, from one that may write to
//! it; what cannot be read changes nothing.

use super::Node;
use crate::effects::SnapshotEffect;
use crate::group::{Refusal, decode_raft, encode_raft};
use crate::ids::{NodeId, RangeId, ReplicaId};
use crate::leaseholder::Asker;
use crate::message::Message;
use crate::state::StateReads;
use raft::eraftpb::MessageType;

/// Requests for votes that are kept for ranges to come.
const EARLY_MAX: usize = 64;

/// A request for a vote that came before its range.
pub(super) struct EarlyVote {
    pub(super) from: NodeId,
    pub(super) from_replica: ReplicaId,
    pub(super) to: ReplicaId,
    pub(super) data: Vec<u8>,
}

impl Node {
    pub(super) fn message(&mut self, from: NodeId, message: Message, state: &dyn StateReads) {
        match message {
            Message::Raft { range, from: from_replica, to, data } => {
                self.raft_message(from, range, from_replica, to, &data);
            }
            Message::Heartbeat { incarnation } => self.heartbeat(from, incarnation),
            Message::Request(request) => {
                let asker = if from == self.config.node {
                    Asker::Local(request.token)
                } else {
                    Asker::Remote { node: from, token: request.token }
                };
                self.serve(asker, *request, state);
            }
            Message::Reply { token, outcome } => self.routed_outcome(token, outcome),
            Message::SequencerAsk { session, first, items } => {
                if !self.sequencer.ask(from, session, first, items) {
                    self.send(from, Message::SequencerRefused { session });
                }
            }
            Message::SequencerAnswer { session, first, answers, compacted } => {
                self.sequencer_answered(session, first, &answers, compacted, state);
            }
            Message::SequencerRefused { session } => {
                if self.session.is_current(session) {
                    self.session_retry_at.get_or_insert(self.now + 5);
                }
            }
            Message::SequencerHint { revision } => self.hinted(revision, state),
            Message::WantHints(wanted) => self.sequencer.want_hints(from, wanted),
            Message::Quiesce { range, term, index } => self.quiesce(range, term, index),
            Message::Wake { range } => self.wake(range),
            Message::FeedStart(start) => self.feed_start(from, start),
            Message::FeedStop { feed } => self.feed_stop(feed),
            Message::FeedEvents { feed, events, through } => {
                self.feed_events(feed, events, through);
            }
            Message::FeedEnded { feed, compacted } => self.feed_ended(feed, compacted),
            Message::Tombstone { range, replica } => self.told_removed(from, range, replica),
            Message::AmIRemoved { range, replica } => self.asked_removed(from, range, replica),
            Message::Checked(found) => self.checked(from, found),
            Message::Loads(report) => self.reported(from, report),
        }
    }

    pub(super) fn raft_message(
        &mut self,
        from: NodeId,
        range: RangeId,
        from_replica: ReplicaId,
        to: ReplicaId,
        data: &[u8],
    ) {
        // What cannot be read comes from another version: the sender will notice the silence.
        let Ok(message) = decode_raft(data) else { return };
        if !self.replicas.contains_key(&range) {
            if self.is_left_over(from, range) {
                return self.send(from, Message::Tombstone { range, replica: from_replica });
            }
            self.create_replica(range, to);
        }
        let Some(replica) = self.replicas.get_mut(&range) else {
            let vote = matches!(
                message.get_msg_type(),
                MessageType::MsgRequestPreVote | MessageType::MsgRequestVote
            );
            if vote && self.early.len() < EARLY_MAX {
                let data = data.to_vec();
                self.early.insert(range, EarlyVote { from, from_replica, to, data });
            }
            return;
        };
        if replica.group.me() != to {
            return;
        }
        if replica.has_removed(from_replica) {
            return self.asked_removed(from, range, from_replica);
        }
        if replica.node_of(from_replica).is_none_or(|node| node != from) {
            // A member that we do not know (yet): only a leader of a newer configuration can be
            // right, and then its log will tell us.
            if replica.descriptor.is_some() && message.term < replica.group.term() {
                return;
            }
            replica.seldom.strangers.insert(from_replica, from);
        }
        // The answers to a leader's last heartbeats come after it fell asleep.
        let late = message.get_msg_type() == MessageType::MsgHeartbeatResponse;
        let late = late && message.term <= replica.group.term();
        if replica.asleep && !(late && replica.group.is_leader()) {
            replica.wake(&mut self.awake);
        }
        match replica.group.step(message) {
            Ok(()) | Err(Refusal::Installing) => {}
            Err(_) => self.counters.refused += 1,
        }
        if replica.descriptor.is_none() {
            replica.group.want_state();
        }
        self.dirty.insert(range);
    }

    pub(super) fn send_raft(&mut self, range: RangeId, messages: Vec<raft::eraftpb::Message>) {
        for message in messages {
            let to = ReplicaId(message.to);
            let Some(replica) = self.replicas.get_mut(&range) else { return };
            // Whom the descriptor does not know is answered where it wrote from.
            let stranger = || replica.seldom.strangers.get(&to).copied();
            let Some(node) = replica.node_of(to).or_else(stranger) else { continue };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                replica.group.set_snapshot(None);
                let from = replica.group.me();
                self.counters.snapshots_sent += 1;
                self.effects.snapshots.push(SnapshotEffect::Stream {
                    range,
                    to,
                    node,
                    message: Message::Raft { range, from, to, data: encode_raft(&message) },
                });
                continue;
            }
            let from = ReplicaId(message.from);
            let data = encode_raft(&message);
            self.send(node, Message::Raft { range, from, to, data });
        }
    }
}
