//! What must hold at every moment, one file each.
//!
//! | file | what |
//! |---|---|
//! | `election_safety` | one leader a term |
//! | `log_matching` | one entry an index, and it is on disk before it is applied |
//! | `states_agree` | one state an index |
//! | `grants_unique` | one grant a revision |
//! | `watermark` | nothing follows a promise that nothing follows |
//! | `quorum_durable` | answers name only what a majority of disks has |
//! | `promises_kept` | a replica never forgets what it promised, and a removed one is silent |
//! | `checks_truthful` | a consistency check finds no difference that is not there |
//! | [`crate::history`] | one change a revision |
//! | [`crate::oracle`] | what clients see: strict serializability, exactly once, watches, leases |
//! | [`crate::convergence`] | once the faults end, all is well again |

pub mod election_safety;

pub mod log_matching;

pub mod states_agree;

pub mod grants_unique;

pub mod watermark;

pub mod quorum_durable;

pub mod promises_kept;

pub mod checks_truthful;

use crate::disk::state::RangeImage;
use crate::history::History;
use crate::world::SimNode;
use holdfast_core::effects::{Millis, Persist, WatchEffect};
use holdfast_core::error::Error;
use holdfast_core::ids::{NodeId, RangeId};
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
    /// A batch or a raft snapshot has become visible.
    Applied {
        /// Where.
        node: NodeId,
        /// The range.
        range: RangeId,
    },
    /// A raft snapshot is about to replace a range.
    Installing {
        /// Where.
        node: NodeId,
        /// It.
        image: &'a RangeImage,
    },
    /// All effects of a turn were carried out.
    TurnEnds,
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
    /// What happened.
    pub history: History,
    /// The world's time.
    pub now: Millis,
    list: Vec<Box<dyn Invariant>>,
    violation: Option<String>,
}

impl Checks {
    /// Every invariant.
    pub fn new() -> Self {
        let list: Vec<Box<dyn Invariant>> = vec![
            Box::<election_safety::ElectionSafety>::default(),
            Box::<log_matching::LogMatching>::default(),
            Box::<states_agree::StatesAgree>::default(),
            Box::<grants_unique::GrantsUnique>::default(),
            Box::<watermark::Watermark>::default(),
            Box::<quorum_durable::QuorumDurable>::default(),
            Box::<promises_kept::PromisesKept>::default(),
            Box::<checks_truthful::ChecksTruthful>::default(),
        ];
        Self { history: History::default(), now: 0, list, violation: None }
    }

    /// What holds even after the copies that made up a majority are gone: what they had and nobody else
    /// has is lost, and may be on their disks.
    pub fn after_loss() -> Self {
        let list: Vec<Box<dyn Invariant>> = vec![
            Box::<election_safety::ElectionSafety>::default(),
            Box::<grants_unique::GrantsUnique>::default(),
            Box::<watermark::Watermark>::default(),
            Box::<checks_truthful::ChecksTruthful>::default(),
        ];
        Self { history: History::default(), now: 0, list, violation: None }
    }

    /// The first violation.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Goes on after a violation that was wanted.
    pub fn forget_violation(&mut self) {
        self.violation = None;
    }

    /// Notes a violation found elsewhere.
    pub fn fail(&mut self, violation: String) {
        self.violation.get_or_insert(violation);
    }

    /// Shows something to every check.
    pub fn see(&mut self, nodes: &Nodes, sight: &Sight<'_>) {
        if let Sight::Applying { batch, .. } = sight
            && let Err(why) = self.history.applied(batch, self.now)
        {
            self.violation.get_or_insert(format!("history: {why}"));
        }
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
