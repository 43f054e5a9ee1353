//! What a client asks and what it is answered, free of any wire format.
//!
//! The gateway has checked the static rules (see `check.rs`) before a request gets here; what
//! depends on the state (leases, revisions, existing keys) is checked where it is evaluated.

use crate::descriptor::{Facts, Room};
use crate::ids::{LeaseId, NodeId, Revision};
use crate::key::Span;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One key with its value and history facts, as etcd's `mvccpb.KeyValue`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Revision at which the key was created since its last deletion.
    pub create_revision: Revision,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// Number of changes since creation, from 1; 0 for a deletion.
    pub version: i64,
    /// The value; empty when only keys were asked for.
    pub value: Bytes,
    /// The attached client lease, or 0.
    pub lease: LeaseId,
}

/// Order of a sorted range read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortOrder {
    /// As stored: ascending by key, unless a target other than the key is given.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What a range read or compare looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The number of changes.
    Version,
    /// The create revision.
    Create,
    /// The revision of the last change.
    Mod,
    /// The value.
    Value,
}

/// etcd `RangeRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeOp {
    /// First key.
    pub key: Bytes,
    /// etcd's end: empty is one key, `"\0"` is "all from here".
    pub range_end: Bytes,
    /// At most so many keys; 0 is no limit.
    pub limit: i64,
    /// Read at this revision; 0 or less is the latest.
    pub revision: Revision,
    /// Order of the answer.
    pub sort_order: SortOrder,
    /// What to order by.
    pub sort_target: SortTarget,
    /// May be answered by any replica from what it has.
    pub serializable: bool,
    /// Leave values out.
    pub keys_only: bool,
    /// Answer only the count.
    pub count_only: bool,
    /// Keep keys with `mod_revision` at least this; 0 is no bound.
    pub min_mod_revision: Revision,
    /// Keep keys with `mod_revision` at most this; 0 is no bound.
    pub max_mod_revision: Revision,
    /// Keep keys with `create_revision` at least this; 0 is no bound.
    pub min_create_revision: Revision,
    /// Keep keys with `create_revision` at most this; 0 is no bound.
    pub max_create_revision: Revision,
}

/// etcd `PutRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOp {
    /// The key.
    pub key: Bytes,
    /// The new value.
    pub value: Bytes,
    /// Lease to attach, or 0.
    pub lease: LeaseId,
    /// Answer with what was there before.
    pub prev_kv: bool,
    /// Keep the present value.
    pub ignore_value: bool,
    /// Keep the present lease.
    pub ignore_lease: bool,
}

/// etcd `DeleteRangeRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteOp {
    /// First key.
    pub key: Bytes,
    /// etcd's end, as in [`RangeOp`].
    pub range_end: Bytes,
    /// Answer with what was there before.
    pub prev_kv: bool,
}

/// How a compare relates its two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareResult {
    /// `stored == given`
    Equal,
    /// `stored > given`
    Greater,
    /// `stored < given`
    Less,
    /// `stored != given`
    NotEqual,
}

/// The given side of a compare, and with it the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareTarget {
    /// Number of changes.
    Version(i64),
    /// Create revision.
    Create(Revision),
    /// Revision of the last change.
    Mod(Revision),
    /// The value.
    Value(Bytes),
    /// The attached lease.
    Lease(LeaseId),
}

/// etcd `Compare`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// First key.
    pub key: Bytes,
    /// etcd's end; empty is one key.
    pub range_end: Bytes,
    /// The relation that must hold for every key in the interval.
    pub result: CompareResult,
    /// What is compared, with what.
    pub target: CompareTarget,
}

/// etcd `TxnRequest`: one-shot, serializable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnOp {
    /// All must hold for `success` to run.
    pub compare: Vec<Compare>,
    /// Runs when every compare holds.
    pub success: Vec<Op>,
    /// Runs otherwise.
    pub failure: Vec<Op>,
}

/// One operation of the key-value service, alone or inside a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Read keys.
    Range(RangeOp),
    /// Write one key.
    Put(PutOp),
    /// Delete keys.
    Delete(DeleteOp),
    /// Compare, then one of two lists.
    Txn(TxnOp),
}

impl Op {
    /// Every span that the operation may touch, compares and both branches included.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        self.collect_spans(&mut spans);
        spans
    }

    fn collect_spans(&self, spans: &mut Vec<Span>) {
        match self {
            Op::Range(op) => spans.push(Span::from_etcd(&op.key, &op.range_end)),
            Op::Put(op) => spans.push(Span::key(&op.key)),
            Op::Delete(op) => spans.push(Span::from_etcd(&op.key, &op.range_end)),
            Op::Txn(txn) => {
                for compare in &txn.compare {
                    spans.push(Span::from_etcd(&compare.key, &compare.range_end));
                }
                for op in txn.success.iter().chain(&txn.failure) {
                    op.collect_spans(spans);
                }
            }
        }
    }

    /// True if no branch can change anything. As in etcd, a nested transaction counts as a write.
    pub fn is_read_only(&self) -> bool {
        match self {
            Op::Range(_) => true,
            Op::Put(_) | Op::Delete(_) => false,
            Op::Txn(txn) => {
                txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(_)))
            }
        }
    }

    /// True if it is read-only and every read in it may be stale.
    pub fn is_serializable(&self) -> bool {
        match self {
            Op::Range(op) => op.serializable,
            Op::Put(_) | Op::Delete(_) => false,
            Op::Txn(txn) => {
                let mut reads = txn.success.iter().chain(&txn.failure).peekable();
                // One that only compares has not said that it may be stale.
                reads.peek().is_some()
                    && reads.all(|op| matches!(op, Op::Range(range) if range.serializable))
            }
        }
    }

    /// Bytes of keys and values inside, for bounds on queues.
    pub fn size(&self) -> usize {
        match self {
            Op::Range(op) => op.key.len() + op.range_end.len(),
            Op::Put(op) => op.key.len() + op.value.len(),
            Op::Delete(op) => op.key.len() + op.range_end.len(),
            Op::Txn(txn) => {
                txn.compare.iter().map(|c| c.key.len() + c.range_end.len() + 16).sum::<usize>()
                    + txn.success.iter().chain(&txn.failure).map(Op::size).sum::<usize>()
            }
        }
    }
}

/// What a client asks of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Key-value service.
    Kv(Op),
    /// Forget history below a revision.
    Compact {
        /// Keep what is visible at this revision and later.
        revision: Revision,
    },
    /// Make a lease; the gateway has chosen the id (never 0).
    LeaseGrant {
        /// The id.
        id: LeaseId,
        /// Seconds.
        ttl: i64,
    },
    /// Delete a lease and the keys attached to it.
    LeaseRevoke {
        /// The id.
        id: LeaseId,
    },
    /// Give a lease its full time again.
    LeaseKeepAlive {
        /// The id.
        id: LeaseId,
    },
    /// How long a lease still lives.
    LeaseTimeToLive {
        /// The id.
        id: LeaseId,
        /// Also list the keys attached to it.
        keys: bool,
    },
    /// All leases.
    LeaseList,
    /// The sequencer's current revision, confirmed by a quorum.
    CurrentRevision,
    /// The alarms, changed or only read.
    Alarm {
        /// What to do.
        action: AlarmAction,
        /// The node concerned; 0 is all.
        member: u64,
        /// The kind of alarm.
        alarm: AlarmKind,
    },
    /// An operation for administrators.
    Admin(AdminOp),
}

/// What to do with alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlarmAction {
    /// List.
    Get,
    /// Raise.
    Activate,
    /// Clear.
    Deactivate,
}

/// Kinds of alarm (etcd `AlarmType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AlarmKind {
    /// All kinds (in questions only).
    None,
    /// A node is out of room.
    NoSpace,
    /// Replicas differ.
    Corrupt,
}

/// Operations for administrators and the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminOp {
    /// Cut the range that holds `key`, so that `key` starts a range.
    Split {
        /// First key of the new range.
        key: Bytes,
    },
    /// Give the leadership of a range to another node.
    Transfer {
        /// The range.
        range: crate::ids::RangeId,
        /// The node to lead it.
        to: NodeId,
    },
    /// Take leaders away from a node and keep them away.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// Let a drained node lead again; one that leaves or is condemned keeps what it still has.
    Undrain {
        /// The node.
        node: NodeId,
    },
    /// Give all copies that a node has to others, then forget it.
    Leave {
        /// The node.
        node: NodeId,
    },
    /// Make the copies of a node that does not answer elsewhere.
    Reprotect {
        /// The node.
        node: NodeId,
        /// Names the decision: a repetition has no further effect.
        operation: String,
        /// Counts those who decide: a lower one than seen before is refused.
        epoch: u64,
    },
    /// Compare the replicas of a range.
    Check {
        /// The range.
        range: crate::ids::RangeId,
    },
    /// Drain a node, or have it leave, for a time that begins anew with each repetition.
    DrainFor {
        /// The node.
        node: NodeId,
        /// Its copies go, too.
        replicas: bool,
        /// Milliseconds.
        ttl_ms: u64,
    },
    /// Move one copy of a range.
    Move {
        /// The range.
        range: crate::ids::RangeId,
        /// Where it is.
        from: NodeId,
        /// Where it is to be.
        to: NodeId,
    },
    /// Merge a range with its right neighbour, into one.
    Merge {
        /// The range.
        range: crate::ids::RangeId,
    },
    /// A node says of itself what matters for where copies go: from older versions, who say both at
    /// once, so that either could take the other back.
    Facts {
        /// The node.
        node: NodeId,
        /// What it says.
        facts: Facts,
    },
    /// Give the keys under a prefix so many copies.
    SetPolicy {
        /// The prefix; empty: all keys that no other policy names.
        prefix: Bytes,
        /// Copies.
        copies: u64,
        /// Also if the cluster is for more failures.
        fewer: bool,
    },
    /// Give the keys under a prefix as many copies as those around them.
    RemovePolicy {
        /// The prefix.
        prefix: Bytes,
    },
    /// A node, or somebody who knows its machine, says what it fails together with.
    Domain {
        /// The node.
        node: NodeId,
        /// Empty: it fails alone.
        domain: String,
    },
    /// A node says how much room its disk has.
    Room {
        /// The node.
        node: NodeId,
        /// It.
        room: Room,
    },
}

/// The answer to one [`Op`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResult {
    /// Keys read.
    Range(RangeResult),
    /// One key written.
    Put {
        /// What was there before, if asked for and present.
        prev_kv: Option<KeyValue>,
    },
    /// Keys deleted.
    Delete {
        /// How many.
        deleted: i64,
        /// What was there before, if asked for, in key order.
        prev_kvs: Vec<KeyValue>,
    },
    /// A transaction.
    Txn {
        /// Every compare held.
        succeeded: bool,
        /// One result per operation of the branch that ran, each with its header revision.
        results: Vec<(Revision, OpResult)>,
    },
}

/// Keys read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeResult {
    /// The keys, in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// Cut off by the limit.
    pub more: bool,
    /// All keys in the interval at that revision, whatever the limit and filters.
    pub count: i64,
}

/// The answer to one [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Key-value service.
    Kv {
        /// The header revision.
        revision: Revision,
        /// The result.
        result: OpResult,
    },
    /// Compaction accepted.
    Compact {
        /// The current revision.
        revision: Revision,
    },
    /// Lease made.
    LeaseGrant {
        /// The id.
        id: LeaseId,
        /// Seconds granted.
        ttl: i64,
    },
    /// Lease gone.
    LeaseRevoke {
        /// The revision of the last deletion, or the current one.
        revision: Revision,
    },
    /// Lease renewed; `ttl` is 0 if there is no such lease.
    LeaseKeepAlive {
        /// The id.
        id: LeaseId,
        /// Seconds, full again.
        ttl: i64,
    },
    /// Lease looked at; `ttl` is -1 if there is no such lease.
    LeaseTimeToLive {
        /// The id.
        id: LeaseId,
        /// Seconds left.
        ttl: i64,
        /// Seconds granted.
        granted_ttl: i64,
        /// Attached keys, if asked for.
        keys: Vec<Bytes>,
    },
    /// All lease ids, by expiry.
    LeaseList {
        /// The ids.
        ids: Vec<LeaseId>,
    },
    /// The current revision.
    CurrentRevision {
        /// It.
        revision: Revision,
    },
    /// Alarms after the action: (node, kind).
    Alarm {
        /// They.
        alarms: Vec<(NodeId, AlarmKind)>,
    },
    /// An administrative operation is done.
    Admin {
        /// One line for people.
        message: String,
    },
    /// The replicas of a range were compared.
    Check {
        /// What came of it.
        report: Box<crate::check::CheckReport>,
    },
    /// A range is to be taken in by its left neighbour.
    Merging {
        /// The neighbour.
        left: crate::ids::RangeId,
        /// The range.
        right: crate::ids::RangeId,
    },
}
