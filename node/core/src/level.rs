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
//! that much, and never goes back: who is older than that would stop at the log's word for it, so nodes of
//! the cluster do not talk to it, nor let it join.

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
    /// Voters of the meta range that change places with replicas that do not count.
    pub const VOTERS: Self = Self(3);
    /// What this build understands.
    pub const NEWEST: Self = Self::VOTERS;

    /// Why a node that understands `node` must not take part in a cluster of this level, if there is a
    /// reason; `who` stands for it. Of one that nothing was heard of nothing is guessed.
    pub fn objection(self, who: &str, node: Self) -> Option<String> {
        (node != Self::UNKNOWN && node < self).then(|| {
            format!(
                "the cluster has gone over to {self} for good, and {who} runs an older version, which \
                 knows {node} only and would stop: start {who} with the version of the other nodes"
            )
        })
    }

    /// Fails if this build does not understand all that a cluster of this level says.
    ///
    /// # Errors
    /// Which level is needed, and what to do.
    pub fn check_known(self) -> Result<(), String> {
        self.objection("this node", Self::NEWEST).map_or(Ok(()), Err)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_known_to_be_older_is_refused() {
        assert_eq!(Level::SHAPING.objection("n4", Level::SHAPING), None);
        assert_eq!(Level::SHAPING.objection("n4", Level(3)), None);
        assert_eq!(Level::SHAPING.objection("n4", Level::UNKNOWN), None);
        assert_eq!(Level::default().objection("n4", Level::FIRST), None);
        let reason = Level::SHAPING.objection("n4", Level::FIRST).expect("it would stop");
        assert!(reason.contains("level 2") && reason.contains("level 1 only"), "{reason}");
        assert!(reason.ends_with("start n4 with the version of the other nodes"), "{reason}");
    }

    #[test]
    fn a_build_knows_its_own_level_and_none_above() {
        assert_eq!(Level::NEWEST.check_known(), Ok(()));
        let reason = Level(Level::NEWEST.0 + 1).check_known().expect_err("of a later build");
        assert!(reason.contains("this node runs an older version"), "{reason}");
    }
}
