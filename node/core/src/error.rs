//! Errors that reach a client. Named by what failed; the gateway maps each to etcd's gRPC code and
//! text (`rpctypes`), byte for byte.

use crate::ids::{NodeId, RangeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Error {
    /// The read or compaction revision is below the compaction.
    #[error("required revision has been compacted")]
    Compacted,
    /// The read or compaction revision has not happened yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// `ignore_value` or `ignore_lease` on a missing key.
    #[error("key not found")]
    KeyNotFound,
    /// No such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// The lease id is taken.
    #[error("lease already exists")]
    LeaseExists,
    /// The request is larger than a command may be.
    #[error("request is too large")]
    TooLarge,
    /// Too much is waiting already.
    #[error("too many requests")]
    TooManyRequests,
    /// The node that would write is out of room.
    #[error("database space exceeded")]
    NoSpace,
    /// The deadline passed; whether the request was carried out is unknown.
    #[error("request timed out")]
    TimedOut,
    /// There is no sequencer, or this node cannot reach it.
    #[error("no leader")]
    NoLeader,
    /// A range has no majority: the request failed, others go on.
    #[error("range {range} {span} has no majority: nodes {missing:?} do not answer")]
    RangeUnavailable {
        /// The range.
        range: RangeId,
        /// Its span, for people.
        span: String,
        /// The nodes that are missing.
        missing: Vec<NodeId>,
    },
    /// The node is stopping.
    #[error("server stopped")]
    Stopped,
    /// An administrative operation was refused.
    #[error("{0}")]
    Refused(String),
}

/// Why a range did not take a request: the router learns from it and tries again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Misrouted {
    /// This node does not hold the range's lease; `hint` names who might.
    NotLeaseholder {
        /// The leader this replica knows of.
        hint: Option<NodeId>,
    },
    /// The request's keys are not in this range any more.
    RangeMoved,
    /// No such replica here.
    NoReplica,
    /// The range's queue is full: try again later.
    Busy,
    /// As [`Misrouted::NotLeaseholder`], of a request whose command may be in the log already. The
    /// next leaseholder of its keys knows.
    Abandoned {
        /// The leader this replica knows of.
        hint: Option<NodeId>,
    },
}
