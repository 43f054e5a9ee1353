//! Reads that the edge runs outside the store loop: pure functions of the state at a revision.

use crate::error::Error;
use crate::eval;
use crate::feed::FeedId;
use crate::ids::{NodeId, RangeId, Revision};
use crate::key::Span;
use crate::request::{Op, Response};
use crate::state::StateReads;

/// Where the answer of a read goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A local client.
    Client(u64),
    /// A node that routed the request here: answer with [`crate::message::Message::Reply`].
    Remote {
        /// The node.
        node: NodeId,
        /// Its name for the request.
        token: u64,
    },
    /// One part of a multi-range request of this gateway: [`crate::effects::Input::ReadDone`].
    Gather {
        /// The request.
        gather: u64,
        /// The part.
        part: u32,
    },
    /// Nobody waits.
    None,
}

/// One read to run on any thread.
#[derive(Clone, Debug)]
pub struct ReadTask {
    /// Where the answer goes (unused for a feed scan).
    pub origin: Origin,
    /// What to do.
    pub work: ReadWork,
}

/// What to read.
#[derive(Clone, Debug)]
pub enum ReadWork {
    /// Evaluate at `revision`, whose data this replica has in full. The client may have asked for
    /// an older revision inside; `compacted` is the bound at that moment.
    At {
        /// The operation.
        op: Op,
        /// The header revision.
        revision: Revision,
        /// History below this is gone.
        compacted: Revision,
        /// Ranges that are read without a lease: their replicas here may be taken away, or replaced
        /// by a raft snapshot, at any moment, also between the request and the read.
        unleased: Vec<RangeId>,
    },
    /// Reconstruct the answer of a command that was applied at `revision`.
    Replay {
        /// The operation.
        op: Op,
        /// The revision that it got.
        revision: Revision,
        /// History below this is gone.
        compacted: Revision,
    },
    /// Measure a range: answer with [`crate::effects::Input::Measured`].
    Measure {
        /// The range.
        range: RangeId,
        /// The generation of its descriptor.
        generation: u64,
        /// Its keys.
        span: Span,
    },
    /// Find the events of a feed: answer with [`crate::effects::Input::FeedScanned`].
    Feed {
        /// The feed.
        feed: FeedId,
        /// Its keys.
        span: Span,
        /// From this revision on.
        from: Revision,
        /// Up to this one.
        to: Revision,
        /// With previous values.
        prev_kv: bool,
        /// History below this is gone.
        compacted: Revision,
    },
}

impl ReadTask {
    /// A rough idea of the work: true if it touches at most a few keys, so that it may run where
    /// it would delay others.
    pub fn is_small(&self) -> bool {
        let op = match &self.work {
            ReadWork::At { op, .. } | ReadWork::Replay { op, .. } => op,
            ReadWork::Feed { .. } | ReadWork::Measure { .. } => return false,
        };
        op.spans().iter().all(|span| span.single().is_some())
    }

    /// Runs a read of an operation.
    ///
    /// # Panics
    /// For [`ReadWork::Feed`] and [`ReadWork::Measure`], which have answers of their own (see
    /// [`crate::feed::scan`] and [`crate::measure::measure`]).
    pub fn run(&self, state: &dyn StateReads) -> Result<Response, Error> {
        match &self.work {
            ReadWork::At { op, revision, compacted, unleased } => {
                let answer = eval::read(op, *revision, *compacted, state);
                // Only afterwards: what was there then was there all the time, since a replica's
                // rows go before its keys.
                if unleased.iter().any(|range| !state.holds(*range)) {
                    return Err(Error::NoLeader);
                }
                answer
            }
            ReadWork::Replay { op, revision, compacted } => {
                eval::replay(op, *revision, *compacted, state)
            }
            ReadWork::Feed { .. } | ReadWork::Measure { .. } => {
                unreachable!("it has an answer of its own")
            }
        }
    }
}
