//! The store loop's edge: one thread owns the core, feeds it what happened, and carries out what it
//! decides.
//!
//! ```text
//! gateway, peers, log writer, readers ──► mailbox ──► Node::step … ──► Node::effects
//!                                                                          │ in this order
//!      sockets ◄── send   log writer ◄── persist   State ◄── apply   … ◄───┘
//! ```
//!
//! Invariants: nothing in a turn waits for a disk, a client or a peer; effects are carried out in
//! the order in which the core declares them; a turn takes all the mail there is, up to
//! [`TURN_MAIL_MAX`], so that one write, one frame a peer and one wake-up serve many requests.

mod checks;

mod fingerprints;

mod keeper;

mod log_writer;

mod mail;

mod publish;

mod questions;

mod readers;

mod snapshots;

mod turns;

pub use mail::{Inbox, Mail, PeerMail, SnapshotSink, ask};
pub use snapshots::receive as receive_snapshots;

use crate::gateway::backend::{BackendCall, Vitals, WatchSink};
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::transport::Transport;
use fingerprints::{Fingerprints, Question};
use holdfast_core::check::Divergence;
use holdfast_core::descriptor::NodeState;
use holdfast_core::effects::{Effects, Input, Millis, Persist, WatchEffect, WatchToken};
use holdfast_core::ids::{NodeId, RangeId};
use holdfast_core::message::Message;
use holdfast_core::node::Node;
use holdfast_core::read::{Origin, ReadTask, ReadWork};
use holdfast_core::status::Status;
use holdfast_storage::state::RevisionPin;
use holdfast_storage::{Disk, RaftLog, State};
use questions::Questions;
use readers::{Delivery, Reply, deliver};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::info;

/// Mail handled in one turn at most: bounds how long the first waits for the last.
const TURN_MAIL_MAX: usize = 4096;

/// Between two ticks of the core.
const TICK: Duration = Duration::from_millis(10);

/// A node that was removed has so long to send its clients away, before connections with it end.
const FAREWELL: Duration = Duration::from_secs(3);

/// Room for so many messages to a node is kept, and not for as many as when ten thousand ranges spoke at once.
const OUTGOING_KEPT: usize = 256;

/// Between two publications of the status, at least.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// And at least so many times what the last one took: with very many ranges, two percent of a core.
const PUBLISH_PART: u32 = 50;

/// Above this the state in memory has outrun the disk, and the loop slows down.
const MEMTABLE_BYTES_MAX: usize = 512 << 20;

/// How long each turn waits while the disk is behind.
const CONGESTION_PAUSE: Duration = Duration::from_millis(2);

/// Hears of changed addresses of nodes.
pub type OnPeers = Box<dyn FnMut(Vec<(NodeId, String)>) + Send>;

/// What a store loop works on.
pub struct Parts {
    /// The core.
    pub node: Node,
    /// The applied state.
    pub state: State,
    /// The raft log.
    pub log: Arc<RaftLog>,
    /// The data directory.
    pub disk: Arc<Disk>,
    /// Connections to other nodes.
    pub transport: Arc<Transport>,
    /// What the gateway sees.
    pub vitals: Arc<Vitals>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Where mail comes in.
    pub inbox: Inbox,
    /// Zero of the core's clock.
    pub clock: Clock,
    /// Bytes a second that consistency checks read.
    pub check_rate: u64,
    /// Hears of changed addresses of nodes.
    pub on_peers: OnPeers,
}

/// The core's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at 1, now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time of an instant.
    pub fn millis(self, instant: Instant) -> Millis {
        1 + instant.saturating_duration_since(self.0).as_millis() as Millis
    }

    /// Now.
    pub fn now(self) -> Millis {
        self.millis(Instant::now())
    }
}

/// A running store loop.
pub struct Handle {
    inbox: Inbox,
    thread: JoinHandle<()>,
    helpers: Vec<JoinHandle<()>>,
    handed_over: tokio::sync::watch::Receiver<bool>,
    left: tokio::sync::watch::Receiver<bool>,
    keeper_stop: keeper::StopFlag,
    log_queue: log_writer::Queue,
    state: State,
    metrics: Arc<Metrics>,
}

impl Handle {
    /// Asks the core to give up all leadership and waits until it has.
    pub async fn hand_over(&mut self) {
        self.inbox.post(Mail::Input(Box::new(Input::Shutdown)));
        // An error says that the loop is gone, and leads nothing.
        drop(self.handed_over.wait_for(|done| *done).await);
    }

    /// Waits until the cluster goes on without this node: it has given away everything, or was told.
    pub async fn left(&mut self) {
        if self.left.wait_for(|left| *left).await.is_err() {
            // The loop is gone, so the process is about to end in another way.
            std::future::pending::<()>().await;
        }
    }

    /// Ends the loop and makes everything durable.
    pub fn stop(self) {
        self.inbox.post(Mail::Stop);
        // A panic has ended the process already.
        drop(self.thread.join());
        self.keeper_stop.set();
        self.log_queue.post(log_writer::Job::Stop);
        for helper in self.helpers {
            drop(helper.join());
        }
        keeper::flush_now(&self.state, &self.inbox, &self.metrics);
    }
}

/// Starts the loop and its helper threads.
///
/// # Errors
/// The operating system cannot start a thread.
pub fn start(parts: Parts) -> std::io::Result<Handle> {
    let (handed_over_sender, handed_over) = tokio::sync::watch::channel(false);
    let (left_sender, left) = tokio::sync::watch::channel(false);
    let Parts {
        node,
        state,
        log,
        disk,
        transport,
        vitals,
        metrics,
        inbox,
        clock,
        check_rate,
        on_peers,
    } = parts;
    let keeper_stop = keeper::StopFlag::default();
    let log_queue: log_writer::Queue = Arc::new(Mailbox::default());
    let readers = readers::start(&state, &inbox)?;
    let hasher = checks::Hasher::start(&state, &inbox, check_rate)?;
    let sent = snapshots::Sent::default();
    let snapshots = snapshots::start(&snapshots::Tools {
        state: state.clone(),
        transport: Arc::clone(&transport),
        inbox: Arc::clone(&inbox),
        sent: Arc::clone(&sent),
    })?;
    let mut helpers = vec![log_writer::start(
        Arc::clone(&log),
        Arc::clone(&log_queue),
        Arc::clone(&inbox),
        Arc::clone(&metrics),
        Arc::clone(transport.pacer()),
    )?];
    let keeper = keeper::Keeper {
        state: state.clone(),
        log,
        disk,
        vitals: Arc::clone(&vitals),
        inbox: Arc::clone(&inbox),
        metrics: Arc::clone(&metrics),
        stop: keeper_stop.clone(),
    };
    helpers.extend(keeper.start()?);
    let edge = StoreLoop {
        node,
        state: state.clone(),
        inbox: Arc::clone(&inbox),
        log_queue: Arc::clone(&log_queue),
        transport,
        vitals,
        metrics: Arc::clone(&metrics),
        clock,
        readers,
        hasher,
        snapshots,
        sent,
        on_peers,
        handed_over: handed_over_sender,
        left: left_sender,
        removed_since: HashMap::new(),
        replies: HashMap::default(),
        watches: HashMap::default(),
        sessions: HashMap::default(),
        questions: Questions::default(),
        fingerprints: Fingerprints::default(),
        outgoing: Vec::new(),
        follow_up: Vec::new(),
        publish_at: Instant::now(),
        status: Arc::default(),
        sequencer: None,
        divergences: Vec::new(),
        planned: Vec::new(),
        node_states: Vec::new(),
    };
    let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || edge.run())?;
    Ok(Handle { inbox, thread, helpers, handed_over, left, keeper_stop, log_queue, state, metrics })
}

/// Maps tokens to what waits for them.
type TokenMap<V> = HashMap<u64, V, BuildHasherDefault<TokenHasher>>;

/// Tokens count up from 1, so spreading their bits is all the hashing they need.
#[derive(Default)]
struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio, which spreads consecutive numbers best.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

struct StoreLoop {
    node: Node,
    state: State,
    inbox: Inbox,
    log_queue: log_writer::Queue,
    transport: Arc<Transport>,
    vitals: Arc<Vitals>,
    metrics: Arc<Metrics>,
    clock: Clock,
    readers: crossbeam_channel::Sender<readers::Job>,
    hasher: checks::Hasher,
    snapshots: crossbeam_channel::Sender<snapshots::Job>,
    sent: snapshots::Sent,
    on_peers: OnPeers,
    handed_over: tokio::sync::watch::Sender<bool>,
    left: tokio::sync::watch::Sender<bool>,
    /// Nodes that were removed, and since when that is known here.
    removed_since: HashMap<NodeId, Instant>,
    /// Local clients that wait.
    replies: TokenMap<Reply>,
    /// Local watches.
    watches: TokenMap<WatchSink>,
    /// The session that is up with each peer: mail of an older one is dropped.
    sessions: HashMap<NodeId, u64>,
    questions: Questions,
    fingerprints: Fingerprints,
    /// Messages of this turn, by peer; the vectors are reused.
    outgoing: Vec<(NodeId, Vec<Message>)>,
    /// Inputs that carrying out effects brought about.
    follow_up: Vec<Input>,
    publish_at: Instant,
    /// As it was published last.
    status: Arc<Status>,
    sequencer: Option<NodeId>,
    /// As they were told last.
    divergences: Vec<Divergence>,
    /// As it was told last.
    planned: Vec<(RangeId, String)>,
    /// As they were told last.
    node_states: Vec<(NodeId, NodeState)>,
}

impl StoreLoop {
    fn run(mut self) {
        let mut mail = Vec::new();
        let mut next_tick = Instant::now();
        self.turn();
        loop {
            self.inbox.take(&mut mail, next_tick);
            let start = Instant::now();
            let now = self.clock.millis(start);
            let count = mail.len();
            if start >= next_tick {
                self.node.step(now, Input::Tick, &self.state);
                self.take_fingerprints();
                next_tick = start + TICK;
            }
            for (number, one) in mail.drain(..).enumerate() {
                if matches!(one, Mail::Stop) {
                    self.inbox.close();
                    return;
                }
                self.handle(now, one);
                if number % TURN_MAIL_MAX == TURN_MAIL_MAX - 1 {
                    self.turn();
                }
            }
            self.turn();
            if count > 0 {
                self.metrics.turn(count, start.elapsed());
            }
            self.housekeeping();
        }
    }

    fn step(&mut self, now: Millis, input: Input) {
        self.node.step(now, input, &self.state);
    }

    fn handle(&mut self, now: Millis, mail: Mail) {
        match mail {
            Mail::Client(call) => self.client(now, call),
            Mail::Peer { from, session, batch } => {
                if self.sessions.get(&from) == Some(&session) {
                    for message in batch {
                        self.step(now, Input::Message { from, message });
                    }
                }
            }
            Mail::Connected { peer, session, level } => {
                self.sessions.insert(peer, session);
                self.step(now, Input::PeerConnected { peer, level });
            }
            Mail::Lost { peer, refused } => {
                self.sessions.remove(&peer);
                self.step(now, Input::PeerLost { peer, refused });
            }
            Mail::Input(input) => self.step(now, *input),
            Mail::Send { to, message } => self.queue_message(to, *message),
            Mail::Asked { request, reply } => {
                let input = self.questions.ask(request, reply);
                self.step(now, input);
            }
            Mail::Persisted { sequence } => self.step(now, Input::Persisted { sequence }),
            // Its clients are sent away as when it had noticed by itself.
            Mail::Removed => self.has_left(),
            Mail::Stop => {}
        }
    }

    fn client(&mut self, now: Millis, call: BackendCall) {
        match call {
            BackendCall::Request { token, deadline, request, reply } => {
                self.replies.insert(token, reply);
                let deadline = self.clock.millis(deadline);
                self.step(now, Input::Request { token, deadline, request });
            }
            BackendCall::Abandon { token } => {
                if self.replies.remove(&token).is_some() {
                    self.step(now, Input::Abandon { token });
                }
            }
            BackendCall::Watch { token, span, start, prev_kv, sink } => {
                self.watches.insert(token, sink);
                self.step(now, Input::WatchCreate { token, span, start, prev_kv });
            }
            BackendCall::CancelWatch { token } => {
                if self.watches.remove(&token).is_some() {
                    self.step(now, Input::WatchCancel { token });
                }
            }
            BackendCall::Hash { revision, reply } => {
                let status = self.status_of_fingerprints();
                self.fingerprints.ask(revision, reply, &status);
                self.take_fingerprints();
            }
            // The prober may be gone.
            BackendCall::Ping { reply } => drop(reply.send(())),
        }
    }

    /// The gateway learns the revision of an answer before the core hears of it.
    fn status_of_fingerprints(&self) -> Status {
        let status = self.node.status();
        Status { revision: status.revision.max(self.vitals.revision()), ..status }
    }

    /// Takes the fingerprints that clients wait for and whose replicas have caught up.
    fn take_fingerprints(&mut self) {
        if self.fingerprints.is_empty() {
            return;
        }
        let status = self.status_of_fingerprints();
        for (question, compacted) in self.fingerprints.ready(&status) {
            let Question { revision, reply, .. } = question;
            let pin = self.state.pin_revision(compacted);
            self.read_elsewhere(readers::Job::Hash { revision, compacted, pin, reply });
        }
    }

    /// Carries out what the core decided, until it has nothing more to say.
    fn turn(&mut self) {
        loop {
            let now = self.clock.now();
            let effects = self.node.effects(now, &self.state);
            let again = effects.again;
            self.carry_out(effects);
            let follow_up = std::mem::take(&mut self.follow_up);
            let more = again || !follow_up.is_empty();
            for input in follow_up {
                self.step(now, input);
            }
            if !more {
                return;
            }
        }
    }

    fn carry_out(&mut self, effects: Effects) {
        let Effects {
            send,
            persist,
            apply,
            snapshots,
            hashes,
            reads,
            replies,
            watch,
            handed_over,
            again: _,
            peers,
        } = effects;
        for (to, message) in send {
            self.queue_message(to, message);
        }
        self.send_queued();
        for persist in persist {
            self.persist(persist);
        }
        if !apply.is_empty() {
            let start = Instant::now();
            self.state.apply(&apply);
            self.metrics.apply(start.elapsed());
        }
        for effect in snapshots {
            self.snapshots.send(effect).expect("the snapshot threads live as long as the loop");
        }
        for task in hashes {
            self.hasher.take(task);
        }
        self.run_reads(reads);
        for (token, result) in replies {
            if let Some(reply) = self.replies.remove(&token) {
                // The client may be gone.
                drop(reply.send(result));
            }
        }
        for effect in watch {
            self.watch_news(effect);
        }
        if handed_over {
            self.handed_over.send_if_modified(|done| !std::mem::replace(done, true));
        }
        if !peers.is_empty() {
            for (node, address) in &peers {
                self.transport.set_peer(*node, address);
            }
            (self.on_peers)(peers);
        }
        // Answers of reads to other gateways.
        self.send_queued();
    }

    fn queue_message(&mut self, to: NodeId, message: Message) {
        if to == questions::NOBODY {
            self.questions.answered(message);
            return;
        }
        match self.outgoing.iter_mut().find(|(node, _)| *node == to) {
            Some((_, messages)) => messages.push(message),
            None => self.outgoing.push((to, vec![message])),
        }
    }

    fn send_queued(&mut self) {
        for (to, messages) in &mut self.outgoing {
            if !messages.is_empty() {
                self.transport.send(*to, messages.drain(..));
            }
        }
    }

    fn persist(&self, persist: Persist) {
        self.log_queue.post(log_writer::Job::Write(persist));
    }

    fn run_reads(&mut self, reads: Vec<ReadTask>) {
        if reads.is_empty() {
            return;
        }
        let (mut inline, mut pooled) = (0, 0);
        for task in reads {
            let reply = match task.origin {
                Origin::Client(token) => match self.replies.remove(&token) {
                    Some(reply) => Some(reply),
                    // The client went away.
                    None => continue,
                },
                _ => None,
            };
            if !task.is_small() {
                pooled += 1;
                let pin = self.pin(&task);
                self.read_elsewhere(readers::Job::Read(task, pin, reply));
                continue;
            }
            inline += 1;
            let result = task.run(&self.state);
            if let Some(reply) = reply {
                // The client may be gone.
                drop(reply.send(result));
                continue;
            }
            match deliver(task.origin, result) {
                Delivery::Nobody => {}
                Delivery::Send { to, message } => self.queue_message(to, message),
                Delivery::Input(input) => self.follow_up.push(input),
            }
        }
        self.metrics.reads(inline, pooled);
    }

    /// Keeps what a read may look at until it is done.
    fn pin(&self, task: &ReadTask) -> RevisionPin {
        self.state.pin_revision(match &task.work {
            ReadWork::At { compacted, .. } => *compacted,
            ReadWork::Replay { revision, .. } => *revision,
            ReadWork::Feed { from, .. } => *from - 1,
            // The newest state is what it is about.
            ReadWork::Measure { .. } => holdfast_core::state::REVISION_MAX,
        })
    }

    fn read_elsewhere(&self, job: readers::Job) {
        self.readers.send(job).expect("the reader threads live as long as the loop");
    }

    fn watch_news(&mut self, effect: WatchEffect) {
        let (token, over) = token_of(&effect);
        let Some(sink) = self.watches.get(&token) else { return };
        let delivered = sink.push(effect);
        if over || !delivered {
            self.watches.remove(&token);
        }
        if !delivered && !over {
            self.follow_up.push(Input::WatchCancel { token });
        }
    }

    /// The cluster goes on without this node: whoever runs it is to end it.
    fn has_left(&self) {
        self.left.send_if_modified(|left| !std::mem::replace(left, true));
    }

    /// What is due now and then.
    fn housekeeping(&mut self) {
        if self.state.is_congested() && self.state.memtable_bytes() > MEMTABLE_BYTES_MAX {
            std::thread::sleep(CONGESTION_PAUSE);
        }
        let start = Instant::now();
        if start < self.publish_at {
            return;
        }
        let status = Arc::new(self.node.status_after(&self.status));
        let before = std::mem::replace(&mut self.status, Arc::clone(&status));
        if status.sequencer != self.sequencer {
            self.sequencer = status.sequencer;
            info!(sequencer = ?status.sequencer, term = status.term, "the sequencer changed");
        }
        publish::tell_divergences(&mut self.divergences, &status);
        publish::tell_planned(&mut self.planned, &status);
        publish::tell_nodes(&mut self.node_states, &status);
        self.transport.require(self.node.level());
        for node in &status.nodes {
            if node.state == NodeState::Tombstoned {
                self.transport.refuse(node.id);
                let since = self.removed_since.entry(node.id).or_insert_with(Instant::now);
                if since.elapsed() > FAREWELL {
                    self.transport.end(node.id);
                }
            }
        }
        if status.left {
            self.has_left();
        }
        publish::publish(&self.vitals, &status, &before, &self.sent);
        for (_, messages) in &mut self.outgoing {
            messages.shrink_to(OUTGOING_KEPT);
        }
        if let Ok(size) = self.state.size_on_disk() {
            self.vitals.set_db_size(size as i64, size as i64);
            self.metrics.state_size(size);
        }
        let peer_bytes = self.transport.queued().iter().map(|(_, bytes)| bytes).sum();
        self.metrics.snapshots(self.transport.pacer().flow());
        self.metrics.queues(self.inbox.len(), self.log_queue.len(), peer_bytes);
        self.metrics.status(status);
        self.questions.forget_old();
        self.publish_at = start + PUBLISH_INTERVAL.max(start.elapsed() * PUBLISH_PART);
    }
}

/// The watch that news is for, and whether the watch is over with it.
fn token_of(effect: &WatchEffect) -> (WatchToken, bool) {
    match effect {
        WatchEffect::Created { token, .. } | WatchEffect::Events { token, .. } => (*token, false),
        WatchEffect::Compacted { token, .. } => (*token, true),
    }
}
