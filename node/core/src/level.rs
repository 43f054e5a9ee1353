//! What the versions of Holdfast understand of each other's messages and log entries.
//!
//! ```text
//!  handshake: the level of each node ─► all nodes have at least n ─► Raise(n) in the meta range's log
//!                                                                        │ applied
//!                                                    what came with level n may be used ◄─┘
//! ```
//!
//! Invariants: what is newer than the cluster's level is neither sent nor proposed; the cluster's level
//! is raised only when every node that is not gone for good is connected and has said that it knows
//! that much, and never goes back: who is older than that stops at the log's word for it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a node, or every node of a cluster, understands. Each level knows all of those below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Level(pub u16);

impl Level {
    /// Nothing was heard of it.
    pub const UNKNOWN: Self = Self(0);
    /// All before there were levels. Some of these know merges, some cuts by load and changes of ranks,
    /// too, and nothing tells them apart.
    pub const FIRST: Self = Self(1);
    /// Merges, cuts that nobody asked for, changes of ranks, reports of loads, placement policies, and what
    /// nodes say of their disks and failure domains.
    pub const SHAPING: Self = Self(2);
    /// What this build understands.
    pub const NEWEST: Self = Self::SHAPING;
}

/// That of a cluster whose log says nothing of it.
impl Default for Level {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {}", self.0)
    }
}
