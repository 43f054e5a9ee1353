//! Deliberate breaches of the world's contract with the core, to show that the checks can fail.

/// One breach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Writes are reported durable before they are, and lost in a crash.
    EarlyPersisted,
}
