//! What the model remembers: the sequencer's group, sessions, range groups, clients, the watch.
//!
//! Everything is small on purpose: revisions are `u8`, sets of requests are bit masks, and what
//! follows from something else is computed and not stored, because each stored bit can double the
//! number of states.

/// A revision, small enough for a model. The empty store is at revision 1.
pub type Revision = u8;
/// A set of requests, bit *i* for operation *i*; [`TRANSACTION`] for the multi-range transaction.
pub type Mask = u8;

/// Ranges in the model, each with its own Raft group.
pub const RANGES: usize = 2;
/// Nodes that can lead a range. Further voters only take part in majorities and have no state.
pub const NODES: usize = 2;
/// The bit of the multi-range transaction in a [`Mask`].
pub const TRANSACTION: Mask = 1 << 7;

/// Stands for an operation's index in the command that deletes the keys of the client lease.
pub const DELETION: usize = 6;

/// One state of the whole system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What the meta range's log has made durable at a majority.
    pub meta: Meta,
    /// One per meta term; the last is the leader, the others do not know yet that they are not.
    pub sequencers: Vec<Sequencer>,
    /// Each node's session with a sequencer.
    pub nodes: [Node; NODES],
    /// The range groups.
    pub ranges: [Range; RANGES],
    /// What the clients have asked for, by index into the scenario's list.
    pub operations: Vec<Operation>,
    /// The one transaction over both ranges.
    pub transaction: Transaction,
    /// The one client lease.
    pub lease: ClientLease,
    /// The gateway that merges the feeds of both ranges.
    pub watch: Watch,
    /// How many faults and extras the scenario still allows.
    pub budget: Budget,
    /// An answer was given whose revision contradicts the order in real time.
    pub order_broken: bool,
    /// A read's revision does not lie where the read was evaluated.
    pub misplaced: bool,
    /// A late copy of a request was turned away because it was settled.
    pub copy_refused: bool,
}

/// Durable contents of the meta range's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Meta {
    /// First revision that no logged block covers.
    pub block_end: Revision,
    /// The registered term of each range.
    pub registered: [u8; RANGES],
    /// The outcome of the transaction, once logged.
    pub decision: Option<Outcome>,
    /// A commit record that its sequencer has numbered and proposed, not yet durable.
    pub proposed: Option<Revision>,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its writes take effect at this revision.
    Committed(Revision),
    /// It never happened.
    Aborted,
}

/// Volatile state of one leader of the meta range.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sequencer {
    /// The next revision to hand out.
    pub next: Revision,
    /// End (exclusive) of the block it may hand out from.
    pub end: Revision,
    /// Registrations it has applied.
    pub registered: [u8; RANGES],
    /// It has logged a hand-over record.
    pub handed_over: bool,
}

/// A node, as far as its session goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The sequencer (index) that the current session leads to.
    pub sequencer: usize,
    /// The session in both directions, oldest item first.
    pub stream: Vec<Slot>,
    /// Answers of the session before, still in the network. Only a wrong variant looks at them.
    pub late: Vec<Slot>,
    /// Wrong variant: the sequencer holds a confirmed quorum round for what it numbers next.
    pub round_first: bool,
}

/// One item on a session and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// What the node asks.
    pub item: Item,
    /// How far it has come.
    pub stage: Stage,
}

/// What a node asks on its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// A revision for a write.
    Grant {
        /// The range.
        range: usize,
        /// The leader (index) that asks; its term is the index plus one.
        leader: usize,
        /// The write and what it carries into the log.
        write: Write,
    },
    /// The current revision for a read.
    ReadAt {
        /// The range.
        range: usize,
        /// The leader that asks.
        leader: usize,
        /// The reading operation.
        operation: usize,
        /// The writes that its evaluation saw in front of it.
        base: Mask,
    },
    /// The current revision for no request: it moves the watermark of an idle range.
    Watermark {
        /// The range.
        range: usize,
        /// The leader that asks.
        leader: usize,
    },
}

/// A write as its leaseholder has evaluated it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// The operation.
    pub operation: usize,
    /// The writes that the evaluation saw in front of it.
    pub base: Mask,
    /// Least outstanding sequence number of its gateway (`settled_below`).
    pub floor: usize,
}

/// The way of an item through the sequencer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// On its way to the sequencer.
    Sent,
    /// Numbered, the quorum round has not begun.
    Numbered(Answer),
    /// The quorum round was begun while the sequencer still led, so the answer may be sent.
    Confirmed(Answer),
}

/// What the sequencer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The write takes this revision.
    Granted(Revision),
    /// Everything up to here was numbered before.
    At(Revision),
    /// The range has a newer leader.
    Refused,
    /// The client lease that the command names is gone.
    LeaseGone,
}

/// A range's Raft group. The committed log is the committed part of the last leader's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// One per Raft term; the last is the leader, the others may not know yet.
    pub leaders: Vec<Leader>,
}

/// What a leader of a range knows and holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    /// The node it runs on.
    pub node: usize,
    /// Its log.
    pub log: Vec<Entry>,
    /// Entries that are durable at a majority, as far as this leader can know.
    pub committed: usize,
    /// Entries it has applied.
    pub applied: usize,
    /// Whether the sequencer stands behind it.
    pub standing: Standing,
    /// Latest revision that answered one of this leader's own questions.
    pub seen: Revision,
}

/// What a leader knows of its registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Elected, its own no-op applied, not registered.
    Elected,
    /// Registered: it is the leaseholder as far as it knows.
    Registered,
    /// It was refused, so it knows that there is a newer leader.
    Revoked,
}

/// An entry of a range's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// The first entry of a leader's own term.
    NoOp,
    /// A single-range write.
    Write(Write, Revision),
    /// Intent of the transaction.
    Prepare {
        /// Latest revision its leader had seen.
        seen: Revision,
        /// Writes on the same key that the compare of the transaction saw.
        saw: Mask,
    },
    /// End of the intent.
    Resolve(Outcome),
}

/// A client's request while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Operation {
    /// Sent by the client.
    pub begun: bool,
    /// Finished before this one was begun. Cleared when the order has been checked.
    pub before: Mask,
    /// Leaders per range that it was sent to.
    pub tried: [Mask; RANGES],
    /// The answer's header revision, or the one that the read has taken; 0 before, and for a
    /// finished request that was refused.
    pub revision: Revision,
    /// Answered.
    pub finished: bool,
    /// Reads: the leader that may serve the part once its range is quiet up to the revision.
    pub ready: [Option<usize>; RANGES],
    /// Reads: parts served.
    pub served: Mask,
    /// Reads: the writes found in each range.
    pub found: [Mask; RANGES],
}

/// The coordinator's side of the multi-range transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// Begun.
    pub begun: bool,
    /// Finished before it was begun.
    pub before: Mask,
    /// The coordinator lives.
    pub alive: bool,
    /// Acknowledged to its client at this revision; 0 before.
    pub revision: Revision,
}

/// The record of the client lease in the meta range.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientLease {
    /// How far its end has come.
    pub stage: LeaseStage,
    /// Ranges that may hold keys attached to it.
    pub attached: Mask,
    /// Ranges that have said that they hold none any more.
    pub cleared: Mask,
}

/// From grant to end of a client lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseStage {
    /// Keys may be attached.
    Held,
    /// Its keys are being deleted.
    Revoking,
    /// Gone.
    Removed,
}

/// The gateway's watch over both ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Watch {
    /// Watermark received from each range.
    pub watermark: [Revision; RANGES],
    /// Events received from each range.
    pub events: [Mask; RANGES],
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// New sequencers.
    pub takeovers: u8,
    /// Logged hand-overs.
    pub handovers: u8,
    /// Sessions that break although their sequencer is well.
    pub resets: u8,
    /// Elections in each range.
    pub elections: [u8; RANGES],
    /// Questions that only move a watermark.
    pub watermarks: u8,
    /// Copies of finished requests that arrive late.
    pub copies: u8,
}

impl Range {
    /// The leader of the newest term.
    pub fn current(&self) -> &Leader {
        self.leaders.last().expect("a range begins with a leader")
    }

    /// The leader of the newest term.
    pub fn current_mut(&mut self) -> &mut Leader {
        self.leaders.last_mut().expect("a range begins with a leader")
    }

    /// The entries that are durable at a majority.
    pub fn committed(&self) -> &[Entry] {
        let leader = self.current();
        &leader.log[..leader.committed]
    }
}

impl Leader {
    /// The first leader of a range, long established.
    pub fn first(node: usize) -> Self {
        Self {
            node,
            log: Vec::new(),
            committed: 0,
            applied: 0,
            standing: Standing::Registered,
            seen: 0,
        }
    }

    /// The entries this leader has applied.
    pub fn applied(&self) -> &[Entry] {
        &self.log[..self.applied]
    }

    /// The lowest revision that was granted and is not applied.
    pub fn oldest_pending(&self) -> Option<Revision> {
        let pending = self.log[self.applied..].iter();
        pending.filter_map(|entry| entry.write().map(|(_, revision)| revision)).min()
    }

    /// The intent that is proposed or applied and whose end is not applied: what its leader had
    /// seen when it prepared.
    pub fn open_intent(&self) -> Option<Revision> {
        if self.applied().iter().any(|entry| matches!(entry, Entry::Resolve(_))) {
            return None;
        }
        self.log.iter().find_map(Entry::prepare)
    }

    /// As [`Self::open_intent`], only applied ones.
    pub fn open_applied_intent(&self) -> Option<Revision> {
        self.applied().iter().find_map(Entry::prepare).and(self.open_intent())
    }
}

impl Entry {
    /// The single-range write and its revision.
    pub fn write(&self) -> Option<(Write, Revision)> {
        match *self {
            Self::Write(write, revision) => Some((write, revision)),
            Self::NoOp | Self::Prepare { .. } | Self::Resolve(_) => None,
        }
    }

    /// What the leader had seen when it prepared.
    pub fn prepare(&self) -> Option<Revision> {
        match *self {
            Self::Prepare { seen, .. } => Some(seen),
            Self::NoOp | Self::Write(..) | Self::Resolve(_) => None,
        }
    }

    /// The events that applying the entry makes visible, with their revision.
    pub fn event(&self) -> Option<(Mask, Revision)> {
        match *self {
            Self::Write(write, revision) => Some((1 << write.operation, revision)),
            Self::Resolve(Outcome::Committed(revision)) => Some((TRANSACTION, revision)),
            Self::NoOp | Self::Prepare { .. } | Self::Resolve(Outcome::Aborted) => None,
        }
    }
}

/// The events of `entries` with a revision in `(after, up_to]`.
pub fn events(entries: &[Entry], after: Revision, up_to: Revision) -> Mask {
    let events = entries.iter().filter_map(Entry::event);
    let inside = events.filter(|&(_, revision)| after < revision && revision <= up_to);
    inside.fold(0, |mask, (event, _)| mask | event)
}
