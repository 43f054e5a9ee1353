//! What goes into a node's state machine and what comes out.
//!
//! Invariants: a turn is any number of [`Input`]s followed by one [`Effects`]. The edge carries
//! the fields of `Effects` out in the order in which they are declared: `send` may go at once;
//! `persist` starts in order and is answered by [`Input::Persisted`]; `apply` must be visible to
//! reads before the next input is stepped; then come `installs`, `reads`, `replies`, `watch`.
//! Messages that must not leave before something is durable are kept inside until `Persisted`.

use crate::check::{Found, HashTask};
use crate::error::Error;
use crate::ids::{Index, NodeId, RangeId, ReplicaId, Revision};
use crate::key::Span;
use crate::level::Level;
use crate::message::Message;
use crate::read::ReadTask;
use crate::request::{KeyValue, Request, Response};
use crate::state::{Applied, ApplyBatch};
use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};

/// Milliseconds on a clock that never goes back; its zero has no meaning.
pub type Millis = u64;

/// Names a request of a local client, chosen by the edge, unique in the life of the process.
pub type ClientToken = u64;

/// Names a watch of a local client, chosen by the edge, unique in the life of the process.
pub type WatchToken = u64;

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// Time passed. At least every 10 ms while anything is going on.
    Tick,
    /// A local client asks.
    Request {
        /// Names the request.
        token: ClientToken,
        /// When the client gives up.
        deadline: Millis,
        /// What it asks.
        request: Request,
    },
    /// The local client went away: the answer is not needed any more.
    Abandon {
        /// The request.
        token: ClientToken,
    },
    /// A message from another node.
    Message {
        /// The sender.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A [`Persist`] is durable (and so are all earlier ones).
    Persisted {
        /// Its number.
        sequence: u64,
    },
    /// A connection to this node's peer listener is up: streams to and from it start anew.
    PeerConnected {
        /// The peer.
        peer: NodeId,
        /// What it understands, of what this node understands.
        level: Level,
    },
    /// The connection to a peer broke. `refused` says that its process is certainly gone
    /// (connection refused), which is a hint to campaign at once.
    PeerLost {
        /// The peer.
        peer: NodeId,
        /// Nothing listens there any more.
        refused: bool,
    },
    /// A sub-read of a multi-range request is done (see [`crate::read::Origin::Gather`]).
    ReadDone {
        /// Which.
        gather: u64,
        /// Which part of it.
        part: u32,
        /// Its answer.
        result: Result<Response, Error>,
    },
    /// A raft snapshot asked for by [`SnapshotEffect::Build`] is pinned.
    SnapshotBuilt {
        /// The range.
        range: RangeId,
        /// For this replica.
        to: ReplicaId,
        /// The log position it stands for; `None` if it could not be built.
        applied: Option<Applied>,
    },
    /// A stream started by [`SnapshotEffect::Stream`] ended.
    SnapshotSent {
        /// The range.
        range: RangeId,
        /// To this replica.
        to: ReplicaId,
        /// All of it arrived.
        ok: bool,
    },
    /// A complete raft snapshot was received and staged.
    SnapshotStaged {
        /// The sender.
        from: NodeId,
        /// The `MsgSnapshot` that came with it.
        message: Message,
        /// The edge's name for the staged data.
        staged: u64,
    },
    /// [`SnapshotEffect::Install`] is done and durable.
    SnapshotInstalled {
        /// The range.
        range: RangeId,
    },
    /// State up to these positions is durable, so the log below may be cut.
    StateDurable {
        /// Durable applied index of each range.
        applied: Vec<(RangeId, Index)>,
    },
    /// A history scan asked for by [`ReadTask`] for a feed is done; events go to the subscriber.
    FeedScanned {
        /// The feed.
        feed: crate::feed::FeedId,
        /// Events found, oldest first.
        events: Vec<Event>,
        /// Everything up to here was seen.
        through: Revision,
    },
    /// A [`ReadTask`] that measures a range is done.
    Measured {
        /// The range.
        range: RangeId,
        /// The generation of its descriptor that was measured.
        generation: u64,
        /// What it holds.
        measure: crate::measure::Measure,
    },
    /// A local client starts to watch.
    WatchCreate {
        /// Names the watch.
        token: WatchToken,
        /// Its keys.
        span: Span,
        /// First revision wanted; 0 is "what comes from now on".
        start: Revision,
        /// Send the previous value with each event.
        prev_kv: bool,
    },
    /// A local client ends a watch.
    WatchCancel {
        /// The watch.
        token: WatchToken,
    },
    /// This node's room on disk: `full` refuses client writes that it leads.
    DiskFull {
        /// At or above the limit.
        full: bool,
    },
    /// A [`HashTask`] is done.
    Hashed {
        /// Who wants to know: the leader of the checkpoint.
        to: NodeId,
        /// What was found.
        found: Found,
    },
    /// Give up all leadership, for a graceful stop; `Effects::handed_over` tells the end.
    Shutdown,
}

/// One change, as a watch sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// True for a put, false for a deletion.
    pub put: bool,
    /// The key after the change; a deletion has only key and `mod_revision`.
    pub kv: KeyValue,
    /// The key before, if asked for, present and not compacted.
    pub prev_kv: Option<KeyValue>,
    /// Which change of its revision.
    pub sub: u32,
}

/// What the core asks of the edge at the end of a turn.
#[derive(Debug, Default)]
pub struct Effects {
    /// Send now, in order per node.
    pub send: Vec<(NodeId, Message)>,
    /// Write to the log, fsync if asked, then answer [`Input::Persisted`]. In order.
    pub persist: Vec<Persist>,
    /// Make visible to reads before the next step.
    pub apply: Vec<ApplyBatch>,
    /// Raft snapshots.
    pub snapshots: Vec<SnapshotEffect>,
    /// Hash each on any thread, and deliver what was found ([`Input::Hashed`]). What there is to
    /// hash must be kept from now on: see [`HashTask`].
    pub hashes: Vec<HashTask>,
    /// Run [`ReadTask::run`] on any thread and deliver the answer.
    pub reads: Vec<ReadTask>,
    /// Answers to local clients.
    pub replies: Vec<(ClientToken, Result<Response, Error>)>,
    /// News for local watches.
    pub watch: Vec<WatchEffect>,
    /// After [`Input::Shutdown`]: nothing is led here any more.
    pub handed_over: bool,
    /// More to do that needs `apply` to be visible first: ask for effects again at once.
    pub again: bool,
    /// Addresses of nodes changed: (node, peer address).
    pub peers: Vec<(NodeId, String)>,
}

/// Log writes of one turn.
#[derive(Debug, Default)]
pub struct Persist {
    /// Counts up from 1 without gaps.
    pub sequence: u64,
    /// Fsync before answering.
    pub sync: bool,
    /// Per range.
    pub writes: Vec<LogWrite>,
}

/// Log writes of one range.
#[derive(Debug, Default)]
pub struct LogWrite {
    /// The range.
    pub range: RangeId,
    /// Entries to append; the first replaces whatever had its index or a later one.
    pub entries: Vec<Entry>,
    /// New term and vote.
    pub hard_state: Option<HardState>,
    /// Forget entries up to and including this position, and remember its term.
    pub truncate: Option<Applied>,
    /// Forget the range's log altogether (the replica was removed).
    pub destroy: bool,
    /// This node's replicas of the range up to this one were removed. Remembered for ever, whatever
    /// else becomes of the range's log: a removed replica must never vote again.
    pub removed: Option<ReplicaId>,
}

/// Read access to the raft log on disk. Entries of an unanswered [`Persist`] are kept by the core.
pub trait LogReads: Send + Sync {
    /// Entries with `low <= index < high`, at least one, then as many as fit `max_bytes`.
    ///
    /// # Panics
    /// If an entry that was persisted and not truncated cannot be read: unknown means stop.
    fn entries(&self, range: RangeId, low: Index, high: Index, max_bytes: u64) -> Vec<Entry>;
}

/// What the log and the state know of a replica at start.
#[derive(Debug, Default)]
pub struct ReplicaBoot {
    /// The range.
    pub range: RangeId,
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The position below which the log was cut (term kept).
    pub truncated: Applied,
    /// The last entry in the log, or `truncated.index` if there is none.
    pub last_index: Index,
    /// The durable applied position of the state.
    pub applied: Applied,
    /// This node's replicas of the range up to this one were removed (0: none).
    pub removed: ReplicaId,
}

impl ReplicaBoot {
    /// True if a replica has written anything that is still there.
    pub fn has_log(&self) -> bool {
        self.hard_state != HardState::default() || self.last_index > 0
    }
}

/// Raft snapshots: building, streaming, installing.
#[derive(Debug)]
pub enum SnapshotEffect {
    /// Make the state durable, pin it, and answer [`Input::SnapshotBuilt`].
    Build {
        /// The range.
        range: RangeId,
        /// For this replica.
        to: ReplicaId,
        /// Its keys.
        span: Span,
    },
    /// Stream the pinned state to `node`, then `message`; answer [`Input::SnapshotSent`].
    Stream {
        /// The range.
        range: RangeId,
        /// To this replica.
        to: ReplicaId,
        /// On this node.
        node: NodeId,
        /// The raft message that completes it.
        message: Message,
    },
    /// Replace everything the node has of the range (rows in `clear` included) by the staged data,
    /// durably, then answer [`Input::SnapshotInstalled`].
    Install {
        /// The range.
        range: RangeId,
        /// The staged data.
        staged: u64,
        /// The position it stands for.
        applied: Applied,
        /// Keys of the replica before and after.
        clear: Vec<Span>,
    },
    /// What was staged is of no use: remove it.
    Discard {
        /// The staged data.
        staged: u64,
    },
    /// The replica is gone: delete its rows in `clear` and its system rows.
    Destroy {
        /// The range.
        range: RangeId,
        /// Its keys.
        clear: Vec<Span>,
    },
}

/// News for one local watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEffect {
    /// The watch stands; `revision` is the current one.
    Created {
        /// The watch.
        token: WatchToken,
        /// Current revision.
        revision: Revision,
    },
    /// Events in (revision, sub) order, complete through `through`. May be empty (progress).
    Events {
        /// The watch.
        token: WatchToken,
        /// They; whole revisions only.
        events: Vec<Event>,
        /// Nothing at or below this will follow.
        through: Revision,
    },
    /// The wanted history is gone; the watch is over.
    Compacted {
        /// The watch.
        token: WatchToken,
        /// Oldest revision that can be watched.
        compact_revision: Revision,
    },
}

/// The raft message inside a [`Message::Raft`], as bytes that only the core reads.
pub type RaftBytes = Bytes;
