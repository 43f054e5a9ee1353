//! What peers must understand: what the cluster has gone over to, as far as this node knows.
//!
//! Invariant: it never goes back, and starts at what every version knows: who is refused would have stopped.

use holdfast_core::level::Level;
use std::sync::atomic::{AtomicU16, Ordering};

/// The least level of a peer.
#[derive(Debug)]
pub(super) struct Least(AtomicU16);

impl Least {
    pub(super) fn new(level: Level) -> Self {
        Self(AtomicU16::new(level.0))
    }

    /// True if less was asked before.
    pub(super) fn raise(&self, level: Level) -> bool {
        self.0.fetch_max(level.0, Ordering::SeqCst) < level.0
    }

    /// Why a node of this level must not be talked to, if there is a reason; `who` stands for it.
    pub(super) fn objection(&self, who: &str, level: Level) -> Option<String> {
        Level(self.0.load(Ordering::SeqCst)).objection(who, level)
    }
}
