//! What nodes say to each other.
//!
//! Encoding: a version byte, then postcard. Variants are only ever appended. What cannot be
//! decoded stops the connection, never guesses.

use crate::check::{Divergence, Found};
use crate::command::{Change, Decision};
use crate::descriptor::RangeDescriptor;
use crate::effects::{Event, RaftBytes};
use crate::error::{Error, Misrouted};
use crate::feed::{FeedId, FeedStart};
use crate::ids::{LeaseId, NodeId, RangeId, ReplicaId, RequestId, Revision, Term};
use crate::key::Span;
use crate::request::{Op, Request, Response};
use crate::state::{Applied, Version};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Version of the encoding below.
pub const MESSAGE_VERSION: u8 = 1;

/// Names one stream of questions to the sequencer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId {
    /// The asking process: never used by another run of any node.
    pub incarnation: u64,
    /// Counts the sessions of that process.
    pub number: u64,
}

/// One message between two nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A raft message between two replicas of a range.
    Raft {
        /// The range.
        range: RangeId,
        /// The sender.
        from: ReplicaId,
        /// The receiver.
        to: ReplicaId,
        /// `raft.eraftpb.Message`.
        data: RaftBytes,
    },
    /// "I am here", when nothing else was said for a tick.
    Heartbeat {
        /// A number that changes when the process starts again.
        incarnation: u64,
    },
    /// A request routed to the leaseholder of one range.
    Request(Box<RoutedRequest>),
    /// The answer to a routed request.
    Reply {
        /// As in the request.
        token: u64,
        /// Done, failed, or to be routed anew.
        outcome: Outcome,
    },
    /// Ordered questions to the sequencer.
    SequencerAsk {
        /// The session; a new one starts the stream anew.
        session: SessionId,
        /// Number of the first item in the session, from 0, without gaps.
        first: u64,
        /// The questions.
        items: Vec<SequencerItem>,
    },
    /// Ordered answers of the sequencer.
    SequencerAnswer {
        /// The session.
        session: SessionId,
        /// Number of the first item answered.
        first: u64,
        /// One answer an item.
        answers: Vec<SequencerReply>,
        /// History below this is gone.
        compacted: Revision,
    },
    /// This node is not the sequencer, or not ready: start a new session.
    SequencerRefused {
        /// The session.
        session: SessionId,
    },
    /// The sequencer's counter moved: ranges with watches may want to ask. No safety meaning.
    SequencerHint {
        /// The last revision granted.
        revision: Revision,
    },
    /// Whether the sender wants [`Message::SequencerHint`].
    WantHints(bool),
    /// Every replica has everything: no ticks until something happens.
    Quiesce {
        /// The range.
        range: RangeId,
        /// The leader's term.
        term: Term,
        /// The last index, applied everywhere.
        index: u64,
    },
    /// Please wake: somebody has work for the range.
    Wake {
        /// The range.
        range: RangeId,
    },
    /// Subscribe to the changes of one range.
    FeedStart(FeedStart),
    /// End a subscription.
    FeedStop {
        /// The feed.
        feed: FeedId,
    },
    /// Changes of one range.
    FeedEvents {
        /// The feed.
        feed: FeedId,
        /// In (revision, sub) order.
        events: Vec<Event>,
        /// Nothing at or below this will follow.
        through: Revision,
    },
    /// The feed cannot go on here: subscribe anew (elsewhere), or the history is gone.
    FeedEnded {
        /// The feed.
        feed: FeedId,
        /// Set if the wanted history is compacted.
        compacted: Option<Revision>,
    },
    /// A replica that was removed, as the sender knows for good: the receiver deletes it when a
    /// majority of the range says so.
    Tombstone {
        /// The range.
        range: RangeId,
        /// The replica that is gone.
        replica: ReplicaId,
    },
    /// A replica that seems to have been removed asks; answered by [`Message::Tombstone`], if so.
    AmIRemoved {
        /// The range.
        range: RangeId,
        /// The replica that asks.
        replica: ReplicaId,
    },
    /// What a replica says of a checkpoint, to the node that compares.
    Checked(Found),
    /// What the ranges do that the sender leads, for the meta range's leader.
    Loads(LoadReport),
}

/// Requests a second of the ranges that a node leads, but for the meta range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Those with the most, a bounded number of them.
    pub ranges: Vec<(RangeId, u64)>,
    /// All others together.
    pub rest: u64,
}

/// A request on its way to the leaseholder of one range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutedRequest {
    /// The gateway's name for it.
    pub token: u64,
    /// The range meant.
    pub range: RangeId,
    /// For exactly-once.
    pub id: RequestId,
    /// Every sequence of this gateway below this has been settled.
    pub settled_below: u64,
    /// What to do.
    pub body: RangeRequest,
}

/// What a range is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeRequest {
    /// A key-value operation wholly inside the range.
    Kv(Op),
    /// A read from whatever the replica has.
    Stale(Op),
    /// Delete the keys attached to a lease that is being revoked.
    RevokeLease {
        /// The lease.
        lease: i64,
    },
    /// Keys of this range attached to a lease.
    LeaseKeys {
        /// The lease.
        lease: i64,
    },
    /// A question or change for the meta range.
    Meta(MetaRequest),
    /// Cut this range.
    Split {
        /// First key of the new range.
        key: Bytes,
        /// Id of the new range, allocated by the meta range.
        child: RangeId,
    },
    /// Give the leadership away.
    Transfer {
        /// To this node.
        to: NodeId,
    },
    /// Change the replicas: add one on a node, or remove one.
    ChangeReplicas {
        /// Add a voter there (as learner first).
        add: Option<NodeId>,
        /// Remove the replica there.
        remove: Option<NodeId>,
        /// The descriptor generation this was decided on.
        generation: u64,
    },
    /// As [`RangeRequest::Kv`], of which an earlier copy may still be under way: also an outcome
    /// that changes nothing must be remembered, or that copy could change something after it.
    KvAgain(Op),
    /// Lock the range for a transaction, and read.
    Lock {
        /// The transaction.
        txn: RequestId,
        /// The node that coordinates it.
        node: NodeId,
        /// What it reads, all inside the range; also names the keys that it may write.
        reads: Vec<LockedRead>,
        /// Wait for another transaction's lock. Only one that locks its ranges in key order may.
        wait: bool,
    },
    /// End a transaction's lock.
    Resolve {
        /// The transaction.
        txn: RequestId,
        /// Every sequence of its gateway below this has been settled.
        settled_below: u64,
        /// What became of it.
        decision: Decision,
    },
    /// Compare the replicas.
    Check,
    /// Stop serving and changing anything, to be taken in by the left neighbour.
    Freeze {
        /// The neighbour.
        left: RangeId,
        /// The range's generation that this was decided on.
        generation: u64,
    },
    /// Make sure that this generation is over, and serve.
    Thaw {
        /// It.
        generation: u64,
    },
    /// Take in the right neighbour.
    Merge {
        /// The range's generation that this was decided on.
        generation: u64,
        /// The neighbour.
        right: RangeDescriptor,
        /// Where its log ends.
        at: Applied,
    },
    /// Make the copy on a node the one that should lead.
    Rank {
        /// The node.
        first: NodeId,
        /// The range's generation that this was decided on.
        generation: u64,
    },
    /// How much does the range hold and do? Answered without waking it up.
    Weigh,
    /// Make a learner count in place of a voter, which stays as a learner. With
    /// [`Level::VOTERS`](crate::level::Level::VOTERS).
    SwapVoters {
        /// The learner's node.
        add: NodeId,
        /// The voter's node.
        remove: NodeId,
        /// The descriptor generation this was decided on.
        generation: u64,
    },
}

/// What a transaction wants to know of a range that it locks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedRead {
    /// The keys.
    pub span: Span,
    /// At this revision; 0 is the latest.
    pub revision: Revision,
    /// What of them.
    pub want: Want,
}

/// How much a transaction wants to know of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// How many there are.
    Count,
    /// All but the values.
    Keys,
    /// All.
    Values,
}

/// The answer to a [`LockedRead`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedRows {
    /// Live keys, unless only their number was wanted.
    pub rows: Vec<(Bytes, Version)>,
    /// How many there are.
    pub count: u64,
}

/// What the meta range is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaRequest {
    /// One of the client's requests that concern the whole cluster.
    Client(Request),
    /// A range has a new leader, or a new descriptor.
    Register {
        /// What the leader has applied.
        descriptor: RangeDescriptor,
        /// Its term.
        term: Term,
        /// Its node.
        node: NodeId,
        /// The range this one was cut from, with its generation after the cut.
        parent: Option<(RangeId, u64)>,
        /// Ranges that were cut off this one and that the directory may not know yet, each with
        /// the range it was cut from before it in the list.
        cut_off: Vec<RangeDescriptor>,
    },
    /// A new, empty node wants to join.
    Join {
        /// Human name.
        name: String,
        /// Peer listener.
        peer_address: String,
        /// Client listener.
        client_address: String,
        /// HTTP listener.
        http_address: String,
        /// Random number of this attempt, so that a repeated one gets the same id.
        nonce: u64,
    },
    /// A known node started (with these addresses).
    Announce {
        /// The node.
        node: NodeId,
        /// Human name.
        name: String,
        /// Peer listener.
        peer_address: String,
        /// Client listener.
        client_address: String,
        /// HTTP listener.
        http_address: String,
    },
    /// Allocate a range id for a split.
    AllocateRange,
    /// Decide that a transaction happens.
    Commit {
        /// The transaction.
        txn: RequestId,
        /// Every sequence of its gateway below this has been settled.
        settled_below: u64,
        /// Client leases that must exist, and the ranges where they get keys.
        leases: Vec<(LeaseId, RangeId)>,
        /// What it changes in each range, with placeholders for the revision.
        parts: Vec<(RangeId, Change)>,
    },
    /// What became of a transaction? If nothing is decided yet, it does not happen.
    Settle {
        /// The transaction.
        txn: RequestId,
        /// The range that asks.
        range: RangeId,
    },
    /// Every range of a transaction has carried out what was decided.
    Forget {
        /// The transaction.
        txn: RequestId,
        /// Every sequence of its gateway below this has been settled.
        settled_below: u64,
    },
    /// A check found that replicas differ, or do not any more.
    Checked(Divergence),
    /// A range that was recovered from its last copy is to have as many as before.
    Want {
        /// The range.
        range: RangeId,
        /// They.
        copies: u64,
    },
    /// A range has taken others in; registers its leader, too.
    Absorb {
        /// What the leader has applied.
        descriptor: RangeDescriptor,
        /// Its term.
        term: Term,
        /// Its node.
        node: NodeId,
        /// The ranges taken in.
        gone: Vec<RangeId>,
    },
    /// Allocate a range id for a cut that no person asked for.
    AllocateCut,
}

/// How a routed request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Carried out.
    Done(Result<Response, Error>),
    /// Not taken; learn and try again.
    Misrouted {
        /// Why.
        reason: Misrouted,
        /// What the replica knows about the ranges there now.
        descriptors: Vec<RangeDescriptor>,
    },
    /// An answer between nodes that no client sees.
    Internal(InternalReply),
}

/// Answers between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InternalReply {
    /// Done.
    Ok,
    /// The joined node's id and the cluster's.
    Joined {
        /// The cluster.
        cluster: u64,
        /// The node.
        node: NodeId,
        /// Everybody's peer address.
        peers: Vec<(NodeId, String)>,
    },
    /// A new range id.
    Range(RangeId),
    /// Keys attached to a lease in one range.
    Keys(Vec<Bytes>),
    /// The sequencer's first revision.
    First(Revision),
    /// The range is locked for the transaction; an answer to each read.
    Locked(Vec<LockedRows>),
    /// The range is not locked for the transaction: it has ended there already, or did not want to
    /// wait.
    Ended,
    /// What was decided on a transaction.
    Decided(Verdict),
    /// What became of a transaction, for the range that asked.
    Settled(Decision),
    /// The range is frozen.
    Frozen {
        /// What it is.
        descriptor: RangeDescriptor,
        /// Where its log ends.
        at: Applied,
        /// Every replica has all of it.
        everywhere: bool,
    },
    /// What a range is: of an earlier generation nothing can happen any more.
    Stands {
        /// Its generation.
        generation: u64,
        /// The ranges that it has taken in.
        absorbed: Vec<RangeId>,
    },
    /// What a range holds and does.
    Weight {
        /// Bytes of live data, if they are known.
        bytes: Option<u64>,
        /// For how long it has had next to no load, in milliseconds.
        quiet_ms: u64,
    },
}

/// What was decided on a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It happened at this revision.
    Committed(Revision),
    /// It did not: one of its ranges did not want to wait any more.
    Aborted,
    /// It did not: a client lease that it names does not exist.
    LeaseNotFound,
}

/// One question to the sequencer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencerItem {
    /// The range that asks.
    pub range: RangeId,
    /// Its leader's term.
    pub term: Term,
    /// The descriptor generation it has applied.
    pub generation: u64,
    /// A number for a write, or the current one for a read.
    pub kind: SequencerItemKind,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SequencerItemKind {
    /// A revision for a command; the named client leases must exist.
    Grant {
        /// Leases that the command attaches keys to.
        leases: Vec<i64>,
    },
    /// The last revision granted.
    Read,
    /// The last revision granted, for a transaction that has locked its ranges. Refused if it was
    /// ended meanwhile, since its locks may stand no more.
    ReadLocked {
        /// The transaction.
        txn: RequestId,
    },
}

/// One answer of the sequencer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SequencerReply {
    /// The command's revision.
    Granted(Revision),
    /// The last revision granted before this question.
    Current(Revision),
    /// The range's leader is registered with another term or generation.
    Fenced,
    /// A lease does not exist.
    LeaseNotFound,
}

/// Encodes a message.
pub fn encode(message: &Message) -> Vec<u8> {
    encode_into(message, Vec::new())
}

/// Encodes a message after what is in `buffer`, and gives the buffer back.
pub fn encode_into(message: &Message, mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.push(MESSAGE_VERSION);
    postcard::to_extend(message, buffer).expect("messages have no unencodable parts")
}

/// Decodes a message.
///
/// # Errors
/// A version that is not known, or bytes that are not a message.
pub fn decode(bytes: &[u8]) -> Result<Message, String> {
    match bytes.split_first() {
        Some((&MESSAGE_VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|error| format!("malformed peer message: {error}"))
        }
        Some((version, _)) => Err(format!("peer message version {version} is not known")),
        None => Err("empty peer message".to_owned()),
    }
}
