//! Deliberate breaches of the world's contract with the core, to show that the checks can fail.

/// One breach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Writes of the log are reported durable when they are only readable.
    EarlyPersisted,
    /// A refused vote arrives as a granted one.
    BoughtVotes,
    /// A revision that the sequencer has granted reaches another asker as well.
    GrantTwice,
    /// What is applied becomes visible a turn too late.
    LateApply,
    /// A batch is applied without its changes.
    LostApply,
    /// Reads see what a node had when it was flushed last.
    OldReads,
    /// A node's clock runs five times too fast.
    FastClock,
    /// Events of a watch disappear.
    LostEvents,
    /// A client's request is put to the node a second time, as a new one.
    DoubleRequest,
    /// A range is told that a transaction over several did not happen, though it did.
    HalfTransaction,
    /// A node loses a row that it had.
    LostRow,
    /// A range that is about to be taken in by another serves again.
    ThawedMerge,
    /// Copies of a range that is to be taken in are said to have everything when they have not.
    HastyMerge,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::EarlyPersisted,
        Self::BoughtVotes,
        Self::GrantTwice,
        Self::LateApply,
        Self::LostApply,
        Self::OldReads,
        Self::FastClock,
        Self::LostEvents,
        Self::DoubleRequest,
        Self::HalfTransaction,
        Self::LostRow,
        Self::ThawedMerge,
        Self::HastyMerge,
    ];
}
