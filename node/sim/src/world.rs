//! The simulated world: nodes with the real core, on one virtual time, network and set of disks.
//!
//! ```text
//!   event queue ──► node: step … turn ──► effects ──► network, disks, reads ──► event queue
//!                                            └──► sights for the invariants, happenings for clients
//! ```
//!
//! Invariants: everything random comes from one seed; events at one time keep the order in which
//! they were made; a node's effects are carried out in the order that the core's contract gives.

mod calm;

mod carry;

mod faults;

mod life;

mod recover;

pub use life::SimNode;

use crate::clock::Clock;
use crate::invariants::{Checks, Sight};
use crate::network::Network;
use crate::sabotage::Sabotage;
use bytes::Bytes;
use holdfast_core::bootstrap::Plan;
use holdfast_core::descriptor::{NodeRecord, NodeState};
use holdfast_core::effects::{ClientToken, Effects, Input, Millis, WatchEffect, WatchToken};
use holdfast_core::error::Error;
use holdfast_core::ids::NodeId;
use holdfast_core::key::Span;
use holdfast_core::level::Level;
use holdfast_core::message::{self, Message};
use holdfast_core::node::Shaping;
use holdfast_core::read::ReadTask;
use holdfast_core::request::{Request, Response};
use holdfast_core::status::Status;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, VecDeque};

/// Between two ticks of a node.
const TICK_MS: Millis = 10;

/// How disks behave.
#[derive(Clone, Copy, Debug)]
pub struct DiskDelays {
    /// Longest fsync in normal operation, in milliseconds.
    pub sync_max: Millis,
    /// One fsync in so many is slow; 0 is never.
    pub slow_one_in: u32,
    /// How slow.
    pub slow_max: Millis,
    /// Longest pause between two flushes of the state.
    pub flush_max: Millis,
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Determines everything.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: u64,
    /// Copies of each range.
    pub replicas: usize,
    /// First cuts.
    pub split_keys: Vec<Bytes>,
    /// Silence after which a node counts as gone.
    pub election_ms: Millis,
    /// Bytes of log kept for members that are behind.
    pub log_budget: u64,
    /// Bytes of live data above which a range is cut.
    pub split_bytes: u64,
    /// Between two consistency checks of a range; 0: only on command.
    pub check_every_ms: Millis,
    /// How ranges are shaped besides.
    pub shaping: Shaping,
    /// Disks.
    pub disk: DiskDelays,
    /// Nodes of older versions, as far as that is what they say; all others are of this one.
    pub older: BTreeMap<NodeId, Level>,
    /// A deliberate fault of the world that breaks its contract with the core.
    pub sabotage: Option<Sabotage>,
    /// Print events.
    pub verbose: bool,
}

impl Options {
    /// A calm world of three nodes.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            replicas: 3,
            split_keys: vec![Bytes::from_static(b"k3"), Bytes::from_static(b"k6")],
            election_ms: 1000,
            log_budget: 1 << 20,
            split_bytes: 0,
            check_every_ms: 0,
            shaping: Shaping::NONE,
            disk: DiskDelays { sync_max: 2, slow_one_in: 0, slow_max: 0, flush_max: 1000 },
            older: BTreeMap::new(),
            sabotage: None,
            verbose: false,
        }
    }

    /// What a node says that it understands.
    pub(crate) fn level_of(&self, node: NodeId) -> Level {
        self.older.get(&node).copied().unwrap_or(Level::NEWEST)
    }
}

/// Something due at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// For one node.
    Node(NodeId, u64, NodeEvent),
    /// Two nodes try to connect.
    Connect(NodeId, NodeId),
    /// The oldest write of a node's log is on disk.
    LogWritten(NodeId, u64),
    /// A flush of a node's state ends: so many changes are durable.
    Flushed(NodeId, u64, usize),
    /// A raft snapshot stream ends.
    Streamed(Box<Stream>),
    /// A node starts.
    Start(NodeId),
    /// A process that was asked to stop ends.
    Stop(NodeId, u64),
    /// A paused node goes on.
    Wake(NodeId, u64),
    /// For whoever drives the world.
    Timer(u64),
}

/// Something that a node's process sees (later, if it is paused).
#[derive(Debug)]
pub(crate) enum NodeEvent {
    Tick,
    Turn,
    Deliver { from: NodeId, session: u64, bytes: Vec<u8> },
    Connected { peer: NodeId, session: u64 },
    Lost { peer: NodeId, refused: bool },
    Input(Box<Input>),
    Read(Box<ReadTask>),
    Flush,
    Install(Box<life::Install>),
}

/// A raft snapshot on its way.
#[derive(Debug)]
pub(crate) struct Stream {
    pub from: NodeId,
    pub from_life: u64,
    pub to: NodeId,
    pub to_life: u64,
    pub replica: holdfast_core::ids::ReplicaId,
    pub image: Option<crate::disk::state::RangeImage>,
    pub range: holdfast_core::ids::RangeId,
    pub message: Message,
}

/// What clients notice.
#[derive(Clone, Debug)]
pub enum Happening {
    /// An answer.
    Reply {
        /// The gateway.
        node: NodeId,
        /// The request.
        token: ClientToken,
        /// The answer.
        result: Result<Response, Error>,
    },
    /// News of a watch.
    Watch {
        /// The gateway.
        node: NodeId,
        /// The news.
        news: WatchEffect,
    },
    /// A node's process ended: whoever waits for it gets nothing any more.
    Crashed(NodeId),
    /// A timer of the driver is due.
    Timer(u64),
}

/// How many of each kind of thing happened, to see what a run covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Events.
    pub events: u64,
    /// Messages delivered.
    pub messages: u64,
    /// Processes ended.
    pub crashes: u64,
    /// Log writes lost in crashes.
    pub lost_writes: u64,
    /// Sessions broken.
    pub resets: u64,
    /// Directions blocked.
    pub partitions: u64,
    /// Processes paused.
    pub pauses: u64,
    /// Clocks that jumped.
    pub jumps: u64,
    /// Raft snapshots sent whole.
    pub snapshots: u64,
    /// Raft snapshots that failed on the way.
    pub snapshot_failures: u64,
    /// Slow fsyncs.
    pub slow_syncs: u64,
    /// Raft messages dropped inside a session, as a full queue does.
    pub dropped: u64,
    /// Replicas hashed for consistency checks.
    pub hashes: u64,
    /// Ranges taken in by others, counted on each node.
    pub merges: u64,
    /// Cuts by load, as far as the nodes that run at the end remember.
    pub cuts_by_load: u64,
    /// The same of merges that nobody asked for.
    pub own_merges: u64,
    /// Voters of the meta range at first that count no more at the end, and have their copy still.
    pub swapped: u64,
}

/// See the module.
pub struct World {
    /// The settings.
    pub options: Options,
    /// Connections.
    pub network: Network,
    /// The checks.
    pub checks: Checks,
    /// What happened how often.
    pub coverage: Coverage,
    /// One raft message in so many is dropped; 0 is never.
    pub drop_one_in: u32,
    now: Millis,
    rng: ChaCha8Rng,
    queue: BTreeMap<(Millis, u64), Event>,
    next_event: u64,
    nodes: BTreeMap<NodeId, SimNode>,
    happenings: VecDeque<Happening>,
    next_token: u64,
    next_incarnation: u64,
    trace: u64,
    /// For [`Sabotage::GrantTwice`].
    last_grant: i64,
}

impl World {
    /// A new cluster, all nodes starting at once.
    pub fn new(options: Options) -> Self {
        let mut world = Self {
            network: Network::default(),
            checks: Checks::new(),
            coverage: Coverage::default(),
            drop_one_in: 0,
            now: 1000,
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            queue: BTreeMap::new(),
            next_event: 0,
            nodes: BTreeMap::new(),
            happenings: VecDeque::new(),
            next_token: 1,
            next_incarnation: 1,
            trace: 0xcbf2_9ce4_8422_2325,
            last_grant: 0,
            options,
        };
        let plan = world.plan();
        for node in 1..=world.options.nodes {
            let id = NodeId(node);
            world.nodes.insert(id, SimNode::formatted(id, &plan));
            world.schedule(0, Event::Start(id));
        }
        world
    }

    /// What the cluster looks like at first.
    pub fn plan(&self) -> Plan {
        let nodes = (1..=self.options.nodes)
            .map(|node| NodeRecord {
                id: NodeId(node),
                name: format!("node-{node}"),
                peer_address: format!("node-{node}:1"),
                client_address: format!("node-{node}:2"),
                http_address: format!("node-{node}:3"),
                state: NodeState::Up,
            })
            .collect();
        Plan {
            cluster: 7,
            nodes,
            replicas: self.options.replicas,
            split_keys: self.options.split_keys.clone(),
        }
    }

    /// The world's time.
    pub fn now(&self) -> Millis {
        self.now
    }

    /// A fingerprint of everything that happened so far.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// The dice.
    pub fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.rng
    }

    /// The nodes.
    pub fn nodes(&self) -> &BTreeMap<NodeId, SimNode> {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, node: NodeId) -> &SimNode {
        &self.nodes[&node]
    }

    /// What a running node says of itself.
    pub fn status(&self, node: NodeId) -> Option<Status> {
        self.nodes[&node].core.as_ref().map(holdfast_core::node::Node::status)
    }

    /// Plans a timer of the driver.
    pub fn timer(&mut self, after: Millis, name: u64) {
        self.schedule(after, Event::Timer(name));
    }

    /// Asks a node something; `None` if nothing runs there.
    pub fn request(
        &mut self,
        node: NodeId,
        timeout: Millis,
        request: Request,
    ) -> Option<ClientToken> {
        let now = self.now;
        let sim = self.nodes.get(&node)?;
        sim.core.as_ref()?;
        let deadline = sim.clock.at(now) + timeout;
        let token = self.next_token;
        self.next_token += 1;
        if self.options.sabotage == Some(Sabotage::DoubleRequest) && self.rng.random_ratio(1, 50) {
            let (token, request) = (u64::MAX - token, request.clone());
            let input = Input::Request { token, deadline, request };
            self.post(node, 5, NodeEvent::Input(Box::new(input)));
        }
        self.post(node, 0, NodeEvent::Input(Box::new(Input::Request { token, deadline, request })));
        Some(token)
    }

    /// Starts a watch on a node; `None` if nothing runs there.
    pub fn watch(
        &mut self,
        node: NodeId,
        span: Span,
        start: i64,
        prev_kv: bool,
    ) -> Option<WatchToken> {
        self.nodes.get(&node)?.core.as_ref()?;
        let token = self.next_token;
        self.next_token += 1;
        let input = Input::WatchCreate { token, span, start, prev_kv };
        self.post(node, 0, NodeEvent::Input(Box::new(input)));
        Some(token)
    }

    /// Ends a watch.
    pub fn cancel_watch(&mut self, node: NodeId, token: WatchToken) {
        self.post(node, 0, NodeEvent::Input(Box::new(Input::WatchCancel { token })));
    }

    /// Asks a node to give up all leadership.
    pub fn shutdown(&mut self, node: NodeId) {
        let sim = self.sim(node);
        sim.stopping = sim.is_up();
        self.post(node, 0, NodeEvent::Input(Box::new(Input::Shutdown)));
    }

    /// True if the node has given up all leadership after [`Self::shutdown`].
    pub fn handed_over(&self, node: NodeId) -> bool {
        self.nodes[&node].handed_over
    }

    /// The next thing that clients noticed.
    pub fn happening(&mut self) -> Option<Happening> {
        self.happenings.pop_front()
    }

    /// Handles the next event. False if a check failed, or nothing is left.
    pub fn advance(&mut self) -> bool {
        if self.checks.violation().is_some() {
            return false;
        }
        let Some(((at, _), event)) = self.queue.pop_first() else { return false };
        self.now = at;
        self.checks.now = at;
        self.coverage.events += 1;
        self.mix(at);
        self.handle(event);
        self.checks.violation().is_none()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Node(node, life, event) => self.node_event(node, life, event),
            Event::Connect(a, b) => self.try_connect(a, b),
            Event::LogWritten(node, life) => self.log_written(node, life),
            Event::Flushed(node, life, count) => self.flushed(node, life, count),
            Event::Streamed(stream) => self.streamed(*stream),
            Event::Start(node) => self.start(node),
            Event::Stop(node, life) => self.stop(node, life),
            Event::Wake(node, life) => self.wake(node, life),
            Event::Timer(name) => self.happenings.push_back(Happening::Timer(name)),
        }
    }

    fn schedule(&mut self, after: Millis, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    fn schedule_at(&mut self, at: Millis, event: Event) {
        self.next_event += 1;
        self.queue.insert((at, self.next_event), event);
    }

    /// Plans something for a node's present process.
    fn post(&mut self, node: NodeId, after: Millis, event: NodeEvent) {
        let life = self.nodes[&node].life;
        self.schedule(after, Event::Node(node, life, event));
    }

    fn mix(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn node_event(&mut self, node: NodeId, life: u64, event: NodeEvent) {
        let sim = self.nodes.get_mut(&node).expect("events name known nodes");
        if sim.life != life || sim.core.is_none() {
            return;
        }
        if sim.paused || !sim.deferred.is_empty() {
            // One tick is enough to find out how late it is.
            if !(matches!(event, NodeEvent::Tick) && sim.tick_deferred) {
                sim.tick_deferred |= matches!(event, NodeEvent::Tick);
                sim.deferred.push_back(event);
            }
            return;
        }
        self.node_event_now(node, event);
    }

    fn node_event_now(&mut self, node: NodeId, event: NodeEvent) {
        match event {
            NodeEvent::Tick => {
                self.step(node, Input::Tick);
                self.post(node, TICK_MS, NodeEvent::Tick);
            }
            NodeEvent::Turn => self.turn(node),
            NodeEvent::Deliver { from, session, bytes } => {
                if self.nodes[&node].sessions.get(&from) == Some(&session) {
                    self.coverage.messages += 1;
                    self.mix_bytes(&bytes);
                    let message = message::decode(&bytes).expect("what was encoded is decodable");
                    if self.options.verbose {
                        println!("{} {from} -> {node}: {}", self.now, brief(&message));
                    }
                    self.step(node, Input::Message { from, message });
                }
            }
            NodeEvent::Connected { peer, session } => {
                self.sim(node).sessions.insert(peer, session);
                let level = self.options.level_of(peer);
                self.step(node, Input::PeerConnected { peer, level });
            }
            NodeEvent::Lost { peer, refused } => {
                self.sim(node).sessions.remove(&peer);
                self.step(node, Input::PeerLost { peer, refused });
            }
            NodeEvent::Input(input) => self.step(node, *input),
            NodeEvent::Read(task) => self.run_read(node, *task),
            NodeEvent::Flush => self.start_flush(node),
            NodeEvent::Install(install) => self.installed(node, *install),
        }
    }

    fn sim(&mut self, node: NodeId) -> &mut SimNode {
        self.nodes.get_mut(&node).expect("events name known nodes")
    }

    /// Gives a node an input; its effects follow in a turn of their own.
    fn step(&mut self, node: NodeId, input: Input) {
        let now = self.now;
        let sim = self.sim(node);
        let own_now = sim.clock.at(now);
        let Some(core) = &mut sim.core else { return };
        core.step(own_now, input, &sim.state);
        if !std::mem::replace(&mut sim.turn_due, true) {
            self.post(node, 0, NodeEvent::Turn);
        }
    }

    fn turn(&mut self, node: NodeId) {
        let now = self.now;
        self.sim(node).turn_due = false;
        loop {
            let sim = self.sim(node);
            let own_now = sim.clock.at(now);
            let Some(core) = &mut sim.core else { return };
            let effects: Effects = core.effects(own_now, &sim.state);
            let again = effects.again;
            let follow_up = self.carry_out(node, effects);
            let more = again || !follow_up.is_empty();
            for input in follow_up {
                let sim = self.sim(node);
                if let Some(core) = &mut sim.core {
                    core.step(own_now, input, &sim.state);
                }
            }
            if !more || self.checks.violation().is_some() {
                break;
            }
        }
        self.look_at(node);
    }

    /// Lets the checks see a node's view of itself, now and then: it costs.
    fn look_at(&mut self, node: NodeId) {
        self.sim(node).turns += 1;
        if !self.nodes[&node].turns.is_multiple_of(16) {
            return;
        }
        if let Some(status) = self.status(node) {
            self.checks.see(&self.nodes, &Sight::Status { node, status: &status });
        }
    }

    fn new_clock(&mut self) -> Clock {
        let base = self.rng.random_range(1..1_000_000);
        let mut rate = self.rng.random_range(999_000..=1_001_000);
        if self.options.sabotage == Some(Sabotage::FastClock) {
            rate *= 5;
        }
        Clock::new(base, self.now, rate)
    }
}

/// A message in one line.
fn brief(message: &Message) -> String {
    let mut text = match message {
        Message::Raft { range, data, .. } => match holdfast_core::group::decode_raft(data) {
            Ok(raft) => format!(
                "{range} {:?} term {} index {} log {} entries {} commit {}",
                raft.get_msg_type(),
                raft.term,
                raft.index,
                raft.log_term,
                raft.entries.len(),
                raft.commit
            ),
            Err(error) => error,
        },
        other => format!("{other:?}"),
    };
    if let Some((end, _)) = text.char_indices().nth(300) {
        text.truncate(end);
    }
    text
}
