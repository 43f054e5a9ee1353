//! The protocol of `docs/protocol.md` as a model that is searched exhaustively within bounds.
//!
//! ```text
//!  client ─► leaseholder ─► session (FIFO) ─► sequencer ─► quorum round ─► answer
//!               │   ▲                                                        │
//!               │   └────────────────────────────────────────────────────────┘
//!               └─► range log ─► committed ─► applied ─► reply, feed + watermark ─► gateway
//! ```
//!
//! The model keeps what the argument rests on and abstracts the rest:
//! - A Raft group is its committed log plus the unfinished tails of its leaders. A new leader's
//!   log begins with everything committed and *some prefix* of the old tail; an old leader
//!   commits nothing more but may go on believing that it leads.
//! - The meta group's log is one durable record ([`state::Meta`]); only its newest leader can add
//!   to it, an older one may go on numbering.
//! - Lost messages, crashed processes and pauses are actions that never happen: every action is
//!   optional. Only what survives a loss is modelled by actions of its own.
//! - A client's answer is delivered at the first moment it exists, because that constrains the
//!   order in real time the most.
//!
//! [`Variant`] lists deliberate mistakes; the tests show that each one is found. [`Scenario`]
//! bounds the search.

mod client;
mod client_lease;
mod properties;
mod range;
pub mod scenario;
mod sequencer;
pub mod state;
mod transaction;
mod watch;

use stateright::Property;

pub use scenario::{Request, Scenario};
use state::{LeaseStage, Mask, NODES, RANGES, State};

/// The protocol, or a wrong version of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As documented.
    Right,
    /// The sequencer does not compare terms, so an old leader of a range goes on being served.
    NoFencing,
    /// A range's watermark follows answers to questions of other ranges of its node, too.
    WatermarkBorrowed,
    /// A write is acknowledged when its leader has it, before a majority has.
    AckBeforeDurable,
    /// A retried write is evaluated again without looking for its first execution.
    RetryWithoutRecord,
    /// A copy of a settled request is executed because its record is gone.
    SettledCopyExecuted,
    /// Answers leave the sequencer without a quorum round.
    StaleSequencerGrants,
    /// The quorum round is begun before the items are numbered.
    RoundBeforeNumbering,
    /// A new sequencer continues where the durable state says numbering stood, inside the block.
    TakeoverInsideBlock,
    /// A sequencer that has logged its hand-over goes on granting.
    GrantAfterHandover,
    /// A deposed sequencer's record is forwarded to its successor, which logs it.
    ForwardedHandover,
    /// Answers of an older session are taken for answers to the same items of the newer one.
    SessionAnswersAcceptedLate,
    /// A new session sends its unanswered items in another order than they were evaluated in.
    ResendReordered,
    /// The watermark follows the session and forgets what is granted and not applied.
    WatermarkIgnoresGrant,
    /// The watermark and reads pass over intents of undecided transactions.
    IntentIgnored,
    /// The coordinator tells the participants one by one and logs no decision.
    CoordinatorCrashCommitsHalf,
    /// A prepare does not wait for queued writes on its keys.
    PrepareOvertakesQueued,
    /// A range is added to the client lease when the write is applied, not before its grant.
    AttachedAfterGrant,
    /// The keys of an ending lease are looked up without waiting for queued writes.
    DeletionOvertakesQueued,
    /// A leaseholder says "nothing to delete" without asking the sequencer.
    ClearedUnfenced,
}

/// The model: a variant in the bounds of a scenario.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Which protocol.
    pub variant: Variant,
    /// Which bounds.
    pub scenario: Scenario,
}

/// One step of some part of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client's request (or its retry) reaches a leader of a range, which evaluates it.
    Submit {
        /// Index of the operation.
        operation: usize,
        /// The range.
        range: usize,
        /// Index of the leader.
        leader: usize,
    },
    /// A copy of a finished write arrives late.
    LateCopy {
        /// Index of the operation.
        operation: usize,
        /// The range.
        range: usize,
        /// Index of the leader.
        leader: usize,
    },
    /// A leaseholder asks for the current revision to move its watermark.
    AskWatermark {
        /// The range.
        range: usize,
        /// Index of the leader.
        leader: usize,
    },
    /// The sequencer of the node's session numbers what waits there, as one batch.
    Number {
        /// The node.
        node: usize,
    },
    /// That sequencer begins a quorum round for what it has numbered.
    Round {
        /// The node.
        node: usize,
    },
    /// The oldest answer of the session reaches the node.
    Deliver {
        /// The node.
        node: usize,
    },
    /// The oldest answer of the node's session before reaches it.
    DeliverLate {
        /// The node.
        node: usize,
    },
    /// The node begins a new session with the newest sequencer.
    Reconnect {
        /// The node.
        node: usize,
    },
    /// A sequencer logs that it hands over.
    HandOver {
        /// Its index.
        sequencer: usize,
    },
    /// The meta range elects a new leader.
    Takeover {
        /// A commit record that was not durable yet survives in the new leader's log.
        keeps_proposal: bool,
    },
    /// The next entry of a range's log becomes durable at a majority.
    Commit {
        /// The range.
        range: usize,
    },
    /// A leader applies its next entry and answers who waits for it.
    Apply {
        /// The range.
        range: usize,
        /// Index of the leader.
        leader: usize,
    },
    /// A range elects a new leader, whose no-op commits at once.
    Elect {
        /// The range.
        range: usize,
        /// How much of the old leader's unfinished tail the new one has.
        survivors: usize,
    },
    /// The newest leader of the range is registered in the meta log.
    Register {
        /// The range.
        range: usize,
    },
    /// A leaseholder serves its part of a read.
    Serve {
        /// Index of the operation.
        operation: usize,
        /// The range.
        range: usize,
    },
    /// The gateway takes events and watermark from a leader's feed.
    Pull {
        /// The range.
        range: usize,
        /// Index of the leader.
        leader: usize,
    },
    /// A participant writes the transaction's intent.
    Prepare {
        /// The range.
        range: usize,
    },
    /// The sequencer numbers the transaction and proposes its commit record.
    Decide,
    /// The commit record is durable: the commit point.
    Logged,
    /// Somebody who met the intent asks, and the sequencer logs the abort.
    Abort,
    /// A participant proposes the end of its intent.
    Resolve {
        /// The range.
        range: usize,
    },
    /// The coordinator dies.
    Crash,
    /// The end of the client lease is logged.
    Revoke,
    /// A leader is asked to delete the keys attached to the lease.
    DeleteAttached {
        /// The range.
        range: usize,
        /// Index of the leader.
        leader: usize,
    },
    /// All ranges are clear of the lease: its removal is logged.
    Remove,
}

impl stateright::Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.scenario.initial_state()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.client_actions(state, actions);
        self.sequencer_actions(state, actions);
        self.range_actions(state, actions);
        if self.scenario.watch {
            self.watch_actions(state, actions);
        }
        if self.scenario.transaction {
            self.transaction_actions(state, actions);
        }
        if self.scenario.revocation {
            self.client_lease_actions(state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.perform(&mut state, action);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(&self.scenario)
    }
}

impl Protocol {
    /// A variant in the bounds of a scenario.
    pub fn new(variant: Variant, scenario: Scenario) -> Self {
        Self { variant, scenario }
    }

    fn is(&self, variant: Variant) -> bool {
        self.variant == variant
    }

    fn perform(&self, state: &mut State, action: Action) {
        match action {
            Action::Submit { operation, range, leader } => {
                self.submit(state, operation, range, leader);
            }
            Action::LateCopy { operation, range, leader } => {
                self.late_copy(state, operation, range, leader);
            }
            Action::AskWatermark { range, leader } => Self::ask_watermark(state, range, leader),
            Action::Number { node } => self.number(state, node),
            Action::Round { node } => self.round(state, node),
            Action::Deliver { node } => self.deliver(state, node),
            Action::DeliverLate { node } => self.deliver_late(state, node),
            Action::Reconnect { node } => self.reconnect(state, node),
            Action::HandOver { sequencer } => self.hand_over(state, sequencer),
            Action::Takeover { keeps_proposal } => self.takeover(state, keeps_proposal),
            Action::Commit { range } => state.ranges[range].current_mut().committed += 1,
            Action::Apply { range, leader } => self.apply(state, range, leader),
            Action::Elect { range, survivors } => Self::elect(state, range, survivors),
            Action::Register { range } => Self::register(state, range),
            Action::Serve { operation, range } => self.serve(state, operation, range),
            Action::Pull { range, leader } => self.pull(state, range, leader),
            Action::Prepare { range } => self.prepare(state, range),
            Action::Decide => Self::decide(state),
            Action::Logged => Self::logged(state),
            Action::Abort => Self::abort(state),
            Action::Resolve { range } => self.resolve(state, range),
            Action::Crash => state.transaction.alive = false,
            Action::Revoke => state.lease.stage = LeaseStage::Revoking,
            Action::DeleteAttached { range, leader } => {
                self.delete_attached(state, range, leader);
            }
            Action::Remove => state.lease.stage = LeaseStage::Removed,
        }
    }
}

/// Every leader of every range, as (range, index).
fn leaders(state: &State) -> impl Iterator<Item = (usize, usize)> + '_ {
    (0..RANGES).flat_map(|range| (0..state.ranges[range].leaders.len()).map(move |i| (range, i)))
}

/// Every node.
fn nodes() -> impl Iterator<Item = usize> {
    0..NODES
}

/// The bit of an operation.
fn bit(index: usize) -> Mask {
    1 << index
}
