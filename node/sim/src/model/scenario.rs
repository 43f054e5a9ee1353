//! The bounds of a search: which requests, which faults, how often.
//!
//! Invariant: every scenario has finitely many states, because each request, fault and extra
//! happens a bounded number of times and a deposed sequencer has at most one block left.

use super::state::{
    Budget, ClientLease, Leader, LeaseStage, Mask, Meta, Node, Operation, RANGES, Range, Sequencer,
    State, Transaction, Watch,
};

/// Numbers in a block. Two, so that a take-over both cuts a block short and meets an empty one.
pub(super) const BLOCK: u8 = 2;

/// What a client asks for, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Write in a range, on a key that the transaction does not touch.
    Put(usize),
    /// Write in a range, on the key that the transaction compares and writes.
    PutContended(usize),
    /// Write in a range, of a key attached to the client lease.
    PutAttached(usize),
    /// Linearizable read of everything in a range.
    Read(usize),
    /// Linearizable read of everything in all ranges at one revision.
    ReadAll,
}

impl Request {
    /// The range of a write.
    pub(super) fn write_range(self) -> Option<usize> {
        match self {
            Self::Put(range) | Self::PutContended(range) | Self::PutAttached(range) => Some(range),
            Self::Read(_) | Self::ReadAll => None,
        }
    }

    /// The ranges of a read.
    pub(super) fn read_ranges(self) -> Mask {
        match self {
            Self::Put(_) | Self::PutContended(_) | Self::PutAttached(_) => 0,
            Self::Read(range) => 1 << range,
            Self::ReadAll => (1 << RANGES) - 1,
        }
    }
}

/// The bounds of one search.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// For reports.
    pub name: &'static str,
    /// The node that leads each range at first.
    pub homes: [usize; RANGES],
    /// The clients' requests.
    pub requests: Vec<Request>,
    /// What may go wrong, and how often.
    pub budget: Budget,
    /// A gateway watches both ranges.
    pub watch: bool,
    /// There is a transaction over both ranges.
    pub transaction: bool,
    /// The client lease ends.
    pub revocation: bool,
}

const NOTHING: Budget = Budget {
    takeovers: 0,
    handovers: 0,
    resets: 0,
    elections: [0; RANGES],
    watermarks: 0,
    copies: 0,
};

impl Scenario {
    /// Numbering and fencing: concurrent writes in two ranges and a read, one range fails over,
    /// the sequencer fails.
    pub fn order() -> Self {
        Self {
            name: "order",
            homes: [0, 1],
            requests: vec![Request::Put(0), Request::Put(1), Request::Read(0)],
            budget: Budget { takeovers: 1, elections: [1, 0], ..NOTHING },
            watch: false,
            transaction: false,
            revocation: false,
        }
    }

    /// The sequencer hands over as planned, or fails in the middle of it.
    pub fn hand_over() -> Self {
        Self {
            name: "hand-over",
            budget: Budget { takeovers: 2, handovers: 1, ..NOTHING },
            ..Self::order()
        }
    }

    /// Pipelined writes on one key: evaluation through the overlay, a session that breaks, a
    /// failover in the middle of the pipeline.
    pub fn pipeline() -> Self {
        Self {
            name: "pipeline",
            homes: [0, 1],
            requests: vec![Request::Put(0); 3],
            budget: Budget { resets: 1, elections: [1, 0], ..NOTHING },
            watch: false,
            transaction: false,
            revocation: false,
        }
    }

    /// Request ids: retries after failovers, late copies of requests that are settled.
    pub fn requests() -> Self {
        Self {
            name: "requests",
            homes: [0, 1],
            requests: vec![Request::Put(0); 2],
            budget: Budget { elections: [2, 0], copies: 1, ..NOTHING },
            watch: false,
            transaction: false,
            revocation: false,
        }
    }

    /// Watermarks and the merged watch: writes in two ranges that share a session at first,
    /// failover of one, a session that breaks.
    pub fn watch() -> Self {
        Self {
            name: "watch",
            homes: [0, 0],
            requests: vec![Request::Put(0), Request::Put(1)],
            budget: Budget { resets: 1, elections: [1, 0], watermarks: 2, ..NOTHING },
            watch: true,
            transaction: false,
            revocation: false,
        }
    }

    /// The watch across a change of the sequencer.
    pub fn watch_takeover() -> Self {
        Self {
            name: "watch, sequencer replaced",
            homes: [0, 1],
            budget: Budget { takeovers: 1, handovers: 1, watermarks: 2, ..NOTHING },
            ..Self::watch()
        }
    }

    /// A transaction over both ranges, a read of all at one revision, and a write on one of the
    /// transaction's keys; the coordinator may die.
    pub fn transaction() -> Self {
        Self {
            name: "transaction",
            homes: [0, 1],
            requests: vec![Request::PutContended(0), Request::ReadAll],
            budget: NOTHING,
            watch: false,
            transaction: true,
            revocation: false,
        }
    }

    /// The transaction while a participant fails over, read at one revision.
    pub fn transaction_failover() -> Self {
        Self {
            name: "transaction, participant fails",
            requests: vec![Request::ReadAll],
            budget: Budget { elections: [1, 0], ..NOTHING },
            ..Self::transaction()
        }
    }

    /// The transaction against a write on one of its keys while their range fails over.
    pub fn transaction_contended() -> Self {
        Self {
            name: "transaction, contended range fails",
            requests: vec![Request::PutContended(0)],
            budget: Budget { elections: [1, 0], ..NOTHING },
            ..Self::transaction()
        }
    }

    /// The transaction seen by a watch, beside a write that may overtake it, and the sequencer
    /// replaced while the commit record is on its way.
    pub fn transaction_watch() -> Self {
        Self {
            name: "transaction, watched",
            homes: [0, 1],
            requests: vec![Request::Put(0)],
            budget: Budget { takeovers: 1, watermarks: 1, ..NOTHING },
            watch: true,
            transaction: true,
            revocation: false,
        }
    }

    /// The client lease ends while writes attach keys to it, and the range fails over.
    pub fn client_lease() -> Self {
        Self {
            name: "client lease",
            requests: vec![Request::PutAttached(0), Request::Put(0), Request::Read(0)],
            budget: Budget { elections: [1, 0], ..NOTHING },
            revocation: true,
            ..Self::order()
        }
    }

    /// The scenarios that every test run searches.
    pub fn all() -> Vec<Self> {
        vec![
            Self::order(),
            Self::hand_over(),
            Self::pipeline(),
            Self::requests(),
            Self::watch(),
            Self::watch_takeover(),
            Self::transaction(),
            Self::transaction_failover(),
            Self::transaction_contended(),
            Self::transaction_watch(),
            Self::client_lease(),
        ]
    }

    /// The same with more of everything at once, for a search that takes minutes.
    pub fn wide() -> Vec<Self> {
        let order = Self::order();
        let order = Budget { handovers: 1, ..order.budget };
        let pipeline = Budget { takeovers: 1, ..Self::pipeline().budget };
        let watch = Budget { takeovers: 1, ..Self::watch().budget };
        let transaction = Budget { elections: [1, 0], ..NOTHING };
        let watched = Budget { watermarks: 2, ..Self::transaction_watch().budget };
        vec![
            Self { name: "wide order", budget: order, ..Self::order() },
            Self { name: "wide pipeline", budget: pipeline, ..Self::pipeline() },
            Self { name: "wide watch", budget: watch, ..Self::watch() },
            Self { name: "wide transaction", budget: transaction, ..Self::transaction() },
            Self { name: "wide watched", budget: watched, ..Self::transaction_watch() },
        ]
    }

    /// An empty store at revision 1, everybody connected.
    pub(super) fn initial_state(&self) -> State {
        let node =
            || Node { sequencer: 0, stream: Vec::new(), late: Vec::new(), round_first: false };
        State {
            meta: Meta { block_end: 2, registered: [1; RANGES], ..Meta::default() },
            sequencers: vec![Sequencer {
                next: 2,
                end: 2,
                registered: [1; RANGES],
                handed_over: false,
            }],
            nodes: [node(), node()],
            ranges: self.homes.map(|node| Range { leaders: vec![Leader::first(node)] }),
            operations: vec![Operation::default(); self.requests.len()],
            transaction: Transaction { begun: false, before: 0, alive: true, revision: 0 },
            lease: ClientLease { stage: LeaseStage::Held, attached: 0, cleared: 0 },
            watch: Watch::default(),
            budget: self.budget,
            order_broken: false,
            misplaced: false,
            copy_refused: false,
        }
    }
}
