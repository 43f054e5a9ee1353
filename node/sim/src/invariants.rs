//! What must hold at every moment, one file each.

use crate::disk::state::RangeImage;
use crate::world::SimNode;
use holdfast_core::effects::{Persist, WatchEffect};
use holdfast_core::error::Error;
use holdfast_core::ids::NodeId;
use holdfast_core::message::Message;
use holdfast_core::request::Response;
use holdfast_core::state::ApplyBatch;
use holdfast_core::status::Status;
use std::collections::BTreeMap;

/// Something that the checks may look at, at the moment when it happens.
#[derive(Debug)]
pub enum Sight<'a> {
    /// A process starts.
    Started {
        /// Where.
        node: NodeId,
    },
    /// A process ended.
    Crashed {
        /// Where.
        node: NodeId,
    },
    /// A message leaves.
    Sent {
        /// The sender.
        from: NodeId,
        /// The receiver.
        to: NodeId,
        /// It.
        message: &'a Message,
    },
    /// A log write is asked for.
    Persisting {
        /// Where.
        node: NodeId,
        /// It.
        persist: &'a Persist,
    },
    /// A batch is about to become visible.
    Applying {
        /// Where.
        node: NodeId,
        /// It.
        batch: &'a ApplyBatch,
    },
    /// A raft snapshot is about to replace a range.
    Installing {
        /// Where.
        node: NodeId,
        /// It.
        image: &'a RangeImage,
    },
    /// A client is answered.
    Replied {
        /// The gateway.
        node: NodeId,
        /// The answer.
        result: &'a Result<Response, Error>,
    },
    /// A watch is told something.
    Watch {
        /// The gateway.
        node: NodeId,
        /// It.
        news: &'a WatchEffect,
    },
    /// What a node says of itself.
    Status {
        /// The node.
        node: NodeId,
        /// It.
        status: &'a Status,
    },
}

/// The nodes, for checks that look at disks.
pub type Nodes = BTreeMap<NodeId, SimNode>;

/// One thing that must hold.
pub trait Invariant {
    /// Its name, as in the file.
    fn name(&self) -> &'static str;

    /// Looks at something.
    ///
    /// # Errors
    /// The invariant does not hold: says why.
    fn see(&mut self, nodes: &Nodes, sight: &Sight<'_>) -> Result<(), String>;
}

/// All checks of a run.
pub struct Checks {
    list: Vec<Box<dyn Invariant>>,
    violation: Option<String>,
}

impl Checks {
    /// Every invariant.
    pub fn new() -> Self {
        Self { list: Vec::new(), violation: None }
    }

    /// The first violation.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Notes a violation found elsewhere.
    pub fn fail(&mut self, violation: String) {
        self.violation.get_or_insert(violation);
    }

    /// Shows something to every check.
    pub fn see(&mut self, nodes: &Nodes, sight: &Sight<'_>) {
        for check in &mut self.list {
            if let Err(why) = check.see(nodes, sight) {
                self.violation.get_or_insert(format!("{}: {why}", check.name()));
            }
        }
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self::new()
    }
}
