//! Which version the nodes run, and from when on what is new in this one is used.
//!
//! Invariant: the meta range's leader raises the cluster's level only while every node that is not
//! gone for good is connected and says that it knows it. Who is away may come back as an older one.

use super::Node;
use crate::command::{MetaChange, MetaEntry};
use crate::descriptor::NodeState;
use crate::effects::Millis;
use crate::ids::{NodeId, RequestId};
use crate::level::Level;

/// Between two attempts.
const RAISE_MS: Millis = 1_000;

impl Node {
    /// Raises the cluster's level, if every node knows a higher one.
    pub(super) fn raise_level(&mut self) {
        if self.meta.level() >= Level::NEWEST || self.now < self.raise_at {
            return;
        }
        let nodes = self.meta.nodes().values();
        let known = nodes.filter(|record| record.state != NodeState::Tombstoned);
        let lowest = known.map(|record| self.level_of(record.id)).min();
        if let Some(level) = lowest.filter(|lowest| *lowest > self.meta.level()) {
            self.raise_at = self.now + RAISE_MS;
            let change = MetaChange::Raise { level };
            self.service.change(MetaEntry { id: RequestId::default(), change });
        }
    }

    /// What every node of the cluster understands, as far as this one knows: who does not must not be
    /// talked to.
    pub fn level(&self) -> Level {
        self.meta.level()
    }

    /// What a node understands, as far as it is connected.
    pub(super) fn level_of(&self, node: NodeId) -> Level {
        if node == self.config.node {
            return Level::NEWEST;
        }
        let peer = self.peers.get(&node).filter(|peer| peer.connected && !peer.down);
        peer.map_or(Level::UNKNOWN, |peer| peer.level)
    }

    /// May what came with `level` be used?
    ///
    /// # Errors
    /// Whom it waits for, and why.
    pub(super) fn check_level(&self, level: Level) -> Result<(), String> {
        if self.meta.level() >= level {
            return Ok(());
        }
        let nodes = self.meta.nodes().values();
        let older: Vec<String> = nodes
            .filter(|record| record.state != NodeState::Tombstoned)
            .filter(|record| self.level_of(record.id) < level)
            .map(|record| record.id.to_string())
            .collect();
        if older.is_empty() {
            return Err("the cluster is going over to this version: try again".to_owned());
        }
        Err(format!(
            "{} must be connected and run this version first: an older one would stop at what it does \
             not know",
            older.join(", ")
        ))
    }
}
