//! What the log of a range may hold.
//!
//! Encoding: a version byte, then postcard. Variants are only ever appended. An entry that cannot
//! be decoded stops the node: skipping it would let replicas differ.

use crate::check::{Checkpoint, Divergence};
use crate::descriptor::{Facts, NodeRecord, NodeState, RangeDescriptor, Room};
use crate::eval::PENDING_BASE;
use crate::ids::{LeaseId, NodeId, RangeId, ReplicaId, RequestId, Revision, Term};
use crate::key::Span;
use crate::level::Level;
use crate::meta::{Merge, Move};
use crate::request::{AlarmAction, AlarmKind};
use crate::state::{Applied, Mutation};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Version of the encoding below.
pub const ENTRY_VERSION: u8 = 1;

/// One entry of a range's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// Commands of clients, in revision order.
    Commands(Vec<Command>),
    /// Cut the range at `key`.
    Split {
        /// The request it answers.
        id: RequestId,
        /// First key of the new range.
        key: Bytes,
        /// The new range.
        child: RangeId,
        /// The parent's generation before.
        generation: u64,
    },
    /// Changes of the meta range.
    Meta(Vec<MetaEntry>),
    /// A transaction over several ranges locks this one: no other change until its
    /// [`Entry::Resolve`]. Without effect if the transaction has ended here already.
    Lock {
        /// The transaction.
        txn: RequestId,
        /// The node that coordinates it.
        node: NodeId,
    },
    /// The end of a transaction's lock. Without effect if it does not hold one, but for the memory
    /// that it has ended.
    Resolve {
        /// The transaction.
        txn: RequestId,
        /// Every sequence of its gateway below this has been settled.
        settled_below: u64,
        /// What became of it.
        decision: Decision,
    },
    /// Changes nothing: every replica hashes what it has.
    Checkpoint(Checkpoint),
    /// The range is to be taken in by its left neighbour: from here on it changes nothing and serves
    /// nothing. Without effect at another generation.
    Freeze {
        /// The neighbour.
        left: RangeId,
        /// The range's generation.
        generation: u64,
    },
    /// The next generation begins: what names this one (a freeze, a merge, a cut) has no effect any
    /// more, and a range that was frozen is not.
    Thaw {
        /// The range's generation.
        generation: u64,
    },
    /// Takes in the right neighbour, which is frozen and complete on every node that has a replica of
    /// this range. Without effect at another generation.
    Merge {
        /// This range's generation before.
        generation: u64,
        /// The neighbour.
        right: RangeDescriptor,
        /// Where its log ends.
        at: Applied,
    },
    /// Another replica should lead. Without effect at another generation.
    Rank {
        /// The range's generation before.
        generation: u64,
        /// The one that becomes the first in rank.
        first: ReplicaId,
    },
}

/// What became of a transaction, for one of its ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// It happened.
    Committed {
        /// At this revision.
        revision: Revision,
        /// What it changes in this range.
        change: Change,
    },
    /// It did not, and never will.
    Aborted,
}

impl Decision {
    /// A part of a transaction that is committed at `revision`, from a change whose revision is a
    /// placeholder still.
    pub fn committed(revision: Revision, change: &Change) -> Self {
        let mut change = change.clone();
        if let Change::Keys(mutations) = &mut change {
            for mutation in mutations {
                mutation.version.mod_revision = revision;
                if mutation.version.create_revision >= PENDING_BASE {
                    mutation.version.create_revision = revision;
                }
            }
        }
        Decision::Committed { revision, change }
    }
}

/// One client command, complete: applying it needs no reads (but for [`Change::DeleteSpan`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// For exactly-once.
    pub id: RequestId,
    /// Every sequence of this gateway below this has been settled.
    pub settled_below: u64,
    /// The granted revision.
    pub revision: Revision,
    /// What it changes.
    pub change: Change,
}

/// What a command changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// These keys.
    Keys(Vec<Mutation>),
    /// Every live key in the span.
    DeleteSpan(Span),
    /// Every live key in the span, as part of a deletion over several ranges: the first is that
    /// many changes after the beginning of the revision.
    DeletePart(Span, u32),
}

/// One change of the meta range, with the request it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaEntry {
    /// For exactly-once; the default id for changes that the sequencer makes by itself.
    pub id: RequestId,
    /// The change.
    pub change: MetaChange,
}

/// Changes of the meta range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaChange {
    /// The sequencer may grant up to `end`.
    Reserve {
        /// Last revision of the block.
        end: Revision,
    },
    /// The sequencer stops granting; its successor goes on exactly here.
    Handover {
        /// Next revision.
        next: Revision,
    },
    /// A range has a new leader or descriptor.
    Register {
        /// What the leader has applied.
        descriptor: RangeDescriptor,
        /// Its term.
        term: Term,
        /// Its node.
        node: NodeId,
        /// The range this one was cut from, with its generation after the cut.
        parent: Option<(RangeId, u64)>,
        /// Ranges cut off this one, in key order.
        cut_off: Vec<RangeDescriptor>,
    },
    /// A new node.
    Join {
        /// What it said of itself (its id is chosen when applied).
        record: NodeRecord,
        /// Random number of the attempt.
        nonce: u64,
    },
    /// A known node started.
    Announce(NodeRecord),
    /// A node's state changed.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Its state from now on.
        state: NodeState,
    },
    /// Copies of a node that does not answer are to be made elsewhere.
    Condemn {
        /// The node.
        node: NodeId,
        /// Names the decision.
        operation: String,
        /// Counts those who decide.
        epoch: u64,
    },
    /// A node that was to lose its copies has none any more: it is gone for good. Without effect
    /// if it was called back meanwhile.
    Retire {
        /// The node.
        node: NodeId,
    },
    /// Allocate a range id.
    AllocateRange,
    /// Make a lease.
    LeaseGrant {
        /// Its id.
        id: LeaseId,
        /// Seconds.
        ttl: i64,
    },
    /// From now on nothing attaches to the lease; its keys are being deleted.
    LeaseRevoking {
        /// Its id.
        id: LeaseId,
    },
    /// All keys of the lease are deleted.
    LeaseRemoved {
        /// Its id.
        id: LeaseId,
    },
    /// Keys of the range may attach to the lease from now on.
    LeaseAttach {
        /// The lease.
        id: LeaseId,
        /// The range.
        range: RangeId,
    },
    /// Forget history below `revision`.
    Compact {
        /// It.
        revision: Revision,
    },
    /// Alarms.
    Alarm {
        /// What to do.
        action: AlarmAction,
        /// The node; 0 is all.
        member: u64,
        /// The kind.
        alarm: AlarmKind,
    },
    /// The leader of this term becomes the sequencer, with a block of its own. Where that begins
    /// follows from what was logged before.
    Takeover {
        /// The term in which it was proposed.
        term: Term,
        /// Revisions in the block.
        size: i64,
    },
    /// A transaction over several ranges happens: its commit point. Answered by what was decided,
    /// which is the first decision for ever.
    Commit {
        /// The transaction.
        txn: RequestId,
        /// Every sequence of its gateway below this has been settled.
        settled_below: u64,
        /// The sequencer's number for it, lost if it is not committed.
        revision: Revision,
        /// Client leases that must exist, and the ranges where they get keys.
        leases: Vec<(LeaseId, RangeId)>,
        /// What it changes in each range, with placeholders for the revision.
        parts: Vec<(RangeId, Change)>,
    },
    /// A range asks for the outcome of a transaction: without one, it is that it did not happen.
    Settle {
        /// The transaction.
        txn: RequestId,
        /// The range.
        range: RangeId,
    },
    /// Every range of a transaction has carried out what was decided.
    Forget {
        /// The transaction.
        txn: RequestId,
        /// Every sequence of its gateway below this has been settled.
        settled_below: u64,
    },
    /// A check found that replicas differ, or (with none) that they do not.
    Checked(Divergence),
    /// A copy of a range is to go from one node to another.
    Move {
        /// The range.
        range: RangeId,
        /// From where to where.
        way: Move,
    },
    /// It has, or cannot.
    MoveEnded {
        /// The range.
        range: RangeId,
    },
    /// A node is drained, or leaves, for a time; or for that time again.
    DrainFor {
        /// The node.
        node: NodeId,
        /// Its copies go, too.
        leaving: bool,
        /// Milliseconds.
        ttl_ms: u64,
    },
    /// That time was over. Without effect if it has begun anew since.
    DrainExpired {
        /// The node.
        node: NodeId,
        /// As in the drain.
        renewals: u64,
    },
    /// A range is to have at least so many copies.
    Want {
        /// The range.
        range: RangeId,
        /// They.
        copies: u64,
    },
    /// A range is to be taken in by its left neighbour; or both are where they belong, and it begins.
    Merge(Merge),
    /// It was called off: both ranges serve, each its own. Without effect on a later merge of them.
    MergeEnded(Merge),
    /// A range has taken others in: they are gone. Registers it, too.
    Absorb {
        /// What its leader has applied.
        descriptor: RangeDescriptor,
        /// The leader's term.
        term: Term,
        /// Its node.
        node: NodeId,
        /// The ranges taken in.
        gone: Vec<RangeId>,
    },
    /// What a node says of itself has changed: from older versions, who say both at once.
    Facts {
        /// The node.
        node: NodeId,
        /// What it says.
        facts: Facts,
    },
    /// How many copies the keys under a prefix are to have.
    SetPolicy {
        /// The prefix.
        prefix: Bytes,
        /// Copies.
        copies: u64,
        /// Also if the cluster is for more failures.
        fewer: bool,
    },
    /// As many as the keys around it.
    RemovePolicy {
        /// The prefix.
        prefix: Bytes,
    },
    /// Allocate the id of a range that the cluster cuts off by itself.
    AllocateCut,
    /// Every node understands this much: it may be used from now on.
    Raise {
        /// It.
        level: Level,
    },
    /// Somebody wants a range to begin where the cluster has cut by itself: it stays so.
    Pin {
        /// The range.
        range: RangeId,
    },
    /// What a node fails together with has changed. With [`Level::SHAPING`].
    Domain {
        /// The node.
        node: NodeId,
        /// Empty: it fails alone.
        domain: String,
    },
    /// How much room a node's disk has. With [`Level::SHAPING`].
    Room {
        /// The node.
        node: NodeId,
        /// It.
        room: Room,
    },
}

impl Entry {
    /// The durable bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![ENTRY_VERSION]).expect("entries have no unencodable parts")
    }

    /// Do these durable bytes say [`Entry::Merge`]?
    pub fn is_merge(bytes: &[u8]) -> bool {
        const MERGE: u8 = 8;
        bytes.starts_with(&[ENTRY_VERSION, MERGE])
    }

    /// Reads the durable bytes.
    ///
    /// # Errors
    /// A version or content that this build does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        match bytes.split_first() {
            Some((&ENTRY_VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| format!("malformed log entry: {error}"))
            }
            Some((version, _)) => Err(format!("log entry version {version} is not known")),
            None => Err("empty log entry".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Span;

    #[test]
    fn a_merge_is_known_by_its_first_bytes() {
        let right = RangeDescriptor {
            id: RangeId(3),
            span: Span::all(),
            generation: 1,
            replicas: Vec::new(),
            next_replica: 1,
        };
        let merge = Entry::Merge { generation: 1, right, at: Applied::default() };
        assert!(Entry::is_merge(&merge.encode()));
        assert!(!Entry::is_merge(&Entry::Thaw { generation: 1 }.encode()));
        assert!(!Entry::is_merge(&[]));
    }
}
