//! What goes wrong between and around the nodes: sessions, partitions, pauses, clocks.

use super::{Event, NodeEvent, World};
use crate::network::Fate;
use crate::sabotage::Sabotage;
use holdfast_core::command::Decision;
use holdfast_core::effects::Millis;
use holdfast_core::group::{decode_raft, encode_raft};
use holdfast_core::ids::NodeId;
use holdfast_core::level::Level;
use holdfast_core::message::{
    self, InternalReply, Message, Outcome, RangeRequest, RoutedRequest, SequencerReply,
};
use holdfast_core::node::Node;
use raft::eraftpb::MessageType;
use rand::Rng;

/// Between two attempts to connect.
const RECONNECT_MS: Millis = 100;

impl World {
    /// A node loses the version of a key that was written at a revision.
    pub fn lose(&mut self, node: NodeId, key: bytes::Bytes, revision: i64) {
        self.sim(node).state.lose(key, revision);
    }

    /// Sends a message on its way.
    pub(super) fn transmit(&mut self, from: NodeId, to: NodeId, message: &Message) {
        if matches!(message, Message::Raft { .. })
            && self.drop_one_in > 0
            && self.rng.random_ratio(1, self.drop_one_in)
        {
            self.coverage.dropped += 1;
            return;
        }
        if self.options.sabotage == Some(Sabotage::ThawedMerge) {
            self.thaw(message);
        }
        let bytes = match self.options.sabotage {
            Some(Sabotage::GrantTwice) => message::encode(&self.grant_twice(message)),
            Some(Sabotage::BoughtVotes) => message::encode(&Self::buy_vote(message)),
            Some(Sabotage::HastyMerge) => message::encode(&Self::hasten(message)),
            Some(Sabotage::HalfTransaction) => message::encode(&self.halve(message)),
            _ => message::encode(message),
        };
        let now = self.now;
        match self.network.fate(now, from, to, &mut self.rng) {
            Fate::Arrives(at, session) => self.deliver(from, to, at, session, bytes),
            Fate::Held(session) => self.network.hold(from, to, session, bytes),
            Fate::Lost => {}
        }
    }

    /// The right range hears that the merge is off, when the left one hears that it is on.
    fn thaw(&mut self, message: &Message) {
        let Message::Request(request) = message else { return };
        let RangeRequest::Merge { right, .. } = &request.body else { return };
        let body = RangeRequest::Thaw { generation: right.generation };
        let off = RoutedRequest { range: right.id, token: 0, body, ..(**request).clone() };
        let bytes = message::encode(&Message::Request(Box::new(off)));
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for (from, to) in nodes.iter().zip(nodes.iter().cycle().skip(1)) {
            let now = self.now;
            if let Fate::Arrives(at, session) = self.network.fate(now, *from, *to, &mut self.rng) {
                self.deliver(*from, *to, at, session, bytes.clone());
            }
        }
    }

    fn hasten(message: &Message) -> Message {
        let mut message = message.clone();
        if let Message::Reply {
            outcome: Outcome::Internal(InternalReply::Frozen { everywhere, .. }),
            ..
        } = &mut message
        {
            *everywhere = true;
        }
        message
    }

    /// Now and then, a range hears the wrong end of a transaction.
    fn halve(&mut self, message: &Message) -> Message {
        let mut message = message.clone();
        if let Message::Request(request) = &mut message
            && let RangeRequest::Resolve { decision, .. } = &mut request.body
            && self.rng.random_ratio(1, 10)
        {
            *decision = Decision::Aborted;
        }
        message
    }

    /// Now and then, a grant is the same as one given to somebody else.
    fn grant_twice(&mut self, message: &Message) -> Message {
        let mut message = message.clone();
        if let Message::SequencerAnswer { answers, .. } = &mut message {
            for answer in answers {
                if let SequencerReply::Granted(revision) = answer {
                    let granted = std::mem::replace(&mut self.last_grant, *revision);
                    if granted > 0 && self.rng.random_ratio(1, 20) {
                        *revision = granted;
                    }
                }
            }
        }
        message
    }

    /// A vote that is refused arrives as granted: the same node can vote twice in a term, and for
    /// somebody whose log lacks what is committed.
    fn buy_vote(message: &Message) -> Message {
        let mut message = message.clone();
        if let Message::Raft { data, .. } = &mut message {
            let mut raft = decode_raft(data).expect("the core's own message");
            let vote = MessageType::MsgRequestVoteResponse;
            let pre_vote = MessageType::MsgRequestPreVoteResponse;
            if raft.reject && (raft.get_msg_type() == vote || raft.get_msg_type() == pre_vote) {
                raft.reject = false;
                *data = encode_raft(&raft);
            }
        }
        message
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, at: Millis, session: u64, bytes: Vec<u8>) {
        let life = self.nodes[&to].life;
        self.schedule_at(at, Event::Node(to, life, NodeEvent::Deliver { from, session, bytes }));
    }

    pub(super) fn try_connect(&mut self, a: NodeId, b: NodeId) {
        if self.network.session(a, b).is_some() {
            return;
        }
        let (one, other) = (&self.nodes[&a], &self.nodes[&b]);
        if !one.is_up() || !other.is_up() {
            // The one that starts later tries again.
            return;
        }
        let open = self.network.is_open(a, b) && self.network.is_open(b, a);
        let refused = self.refuses(a, b) || self.refuses(b, a);
        if !open || refused || one.paused || other.paused {
            self.schedule(RECONNECT_MS, Event::Connect(a, b));
            return;
        }
        let session = self.network.connect(a, b);
        for (node, peer) in [(a, b), (b, a)] {
            let now = self.now;
            let at = self.network.arrival(now, peer, node, &mut self.rng);
            let life = self.nodes[&node].life;
            let event = NodeEvent::Connected { peer, session };
            self.schedule_at(at, Event::Node(node, life, event));
        }
    }

    /// Does a node refuse another one, which would stop at what it says?
    fn refuses(&self, node: NodeId, peer: NodeId) -> bool {
        let level = self.nodes[&node].core.as_ref().map_or(Level::UNKNOWN, Node::level);
        level.objection("it", self.options.level_of(peer)).is_some()
    }

    /// Breaks the session between two nodes, if there is one.
    pub fn reset(&mut self, a: NodeId, b: NodeId) {
        self.coverage.resets += 1;
        self.end_session(a, b, false);
        let after = self.rng.random_range(1..RECONNECT_MS);
        self.schedule(after, Event::Connect(a, b));
    }

    /// `refused`: whoever still runs learns that the other's process is gone.
    pub(super) fn end_session(&mut self, a: NodeId, b: NodeId, refused: bool) {
        if self.network.disconnect(a, b).is_none() {
            return;
        }
        for (node, peer) in [(a, b), (b, a)] {
            if self.nodes[&node].is_up() {
                // In the order of the stream: what was sent before is dropped by its session.
                let now = self.now;
                let at = self.network.arrival(now, peer, node, &mut self.rng);
                let life = self.nodes[&node].life;
                let refused = refused && !self.nodes[&peer].is_up();
                self.schedule_at(at, Event::Node(node, life, NodeEvent::Lost { peer, refused }));
            }
        }
    }

    /// Silently stops messages in one direction.
    pub fn block(&mut self, from: NodeId, to: NodeId) {
        self.coverage.partitions += 1;
        self.network.block(from, to);
    }

    /// Opens all directions. What was held arrives now, or its session broke meanwhile.
    pub fn heal(&mut self) {
        for (from, to) in self.network.blocked() {
            let held = self.network.unblock(from, to);
            if self.rng.random_bool(0.5) {
                self.reset(from, to);
                continue;
            }
            for (session, bytes) in held {
                if self.network.session(from, to) == Some(session) {
                    let now = self.now;
                    let at = self.network.arrival(now, from, to, &mut self.rng);
                    self.deliver(from, to, at, session, bytes);
                }
            }
        }
    }

    /// Ends every pause: one that had just begun would outlast the other faults by seconds.
    pub fn wake_all(&mut self) {
        let paused: Vec<(NodeId, u64)> = self
            .nodes
            .iter()
            .filter(|(_, sim)| sim.paused)
            .map(|(node, sim)| (*node, sim.life))
            .collect();
        for (node, life) in paused {
            self.schedule(0, Event::Wake(node, life));
        }
    }

    /// Stops a node's process for a while.
    pub fn pause(&mut self, node: NodeId, time: Millis) {
        let sim = self.sim(node);
        if sim.core.is_none() || sim.paused {
            return;
        }
        sim.paused = true;
        let life = sim.life;
        self.coverage.pauses += 1;
        self.schedule(time, Event::Wake(node, life));
    }

    pub(super) fn wake(&mut self, node: NodeId, life: u64) {
        let sim = self.sim(node);
        if sim.life != life {
            return;
        }
        sim.paused = false;
        sim.tick_deferred = false;
        let mut deferred = std::mem::take(&mut sim.deferred);
        // The order in which a woken process finds its timer and its mail is open.
        if self.rng.random_bool(0.5)
            && let Some(tick) = deferred.iter().position(|event| matches!(event, NodeEvent::Tick))
            && let Some(tick) = deferred.remove(tick)
        {
            deferred.push_front(tick);
        }
        for event in deferred {
            if self.nodes[&node].life == life {
                self.node_event_now(node, event);
            }
        }
    }

    /// Lets a node's clock jump forward.
    pub fn jump(&mut self, node: NodeId, by: Millis) {
        let now = self.now;
        self.coverage.jumps += 1;
        self.sim(node).clock.jump(now, by);
    }
}
