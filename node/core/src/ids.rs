//! Identifiers. One type per kind of id, so that the compiler catches a swapped argument.
//!
//! Invariant: node, range and replica ids are never used twice in the life of a cluster.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// One store: a data directory with an identity. An emptied disk gets a new id.
    NodeId, "n"
);
id!(
    /// One range: a span of keys kept by one Raft group.
    RangeId, "r"
);
id!(
    /// One member of a range's Raft group; used as the Raft peer id. Unique within its range.
    ReplicaId, "p"
);

/// The range that holds the system keys; its leader is the sequencer.
pub const META_RANGE: RangeId = RangeId(1);

/// A point in the one total order of all changes. The empty store is at revision 1 (as in etcd).
pub type Revision = i64;

/// A Raft term.
pub type Term = u64;

/// A Raft log index.
pub type Index = u64;

/// Identifies a client lease (etcd's `Lease`); 0 means "no lease".
pub type LeaseId = i64;

/// Names one client request for ever, so that a repeated delivery is applied once.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct RequestId {
    /// The gateway's incarnation: a number never used by another run of any node.
    pub gateway: u64,
    /// Counts the requests of this gateway, from a start of its own.
    pub sequence: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}/{}", self.gateway, self.sequence)
    }
}
