//! Hashing the keys of a range for a consistency check, slowly, while everything else goes on.
//!
//! Invariants: from the beginning of an audit on, pruning leaves what it hashes; work that replaces
//! or removes keys of its span (a raft snapshot, a wipe) disturbs it, and it says so instead of
//! giving a hash; so does history that was gone before it began.

use crate::state::State;
use crate::state::hash::Sum;
use crate::state::prune::RevisionPin;
use holdfast_core::ids::Revision;
use holdfast_core::key::{Span, successor};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Audits that have begun and not ended.
#[derive(Debug, Default)]
pub struct Audits {
    running: Mutex<Vec<(Span, Arc<AtomicBool>)>>,
}

impl Audits {
    /// Keys in these spans are about to be replaced.
    pub fn disturb(&self, spans: &[Span]) {
        for (span, disturbed) in self.running.lock().iter() {
            if spans.iter().any(|other| other.overlaps(span)) {
                disturbed.store(true, Ordering::Release);
            }
        }
    }
}

/// An audit of one range.
#[must_use = "it keeps history until it is run or dropped"]
pub struct Audit {
    state: State,
    span: Span,
    revision: Revision,
    compacted: Revision,
    disturbed: Arc<AtomicBool>,
    _pin: RevisionPin,
}

/// What an audit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audited {
    /// The hash of all changes.
    Hash(u64),
    /// History up to here was gone already.
    Pruned(Revision),
    /// Keys were replaced meanwhile.
    Disturbed,
}

impl State {
    /// Begins an audit of the keys in `span` at `revision`, without what a compaction at `compacted`
    /// hides, which is at most `revision`. The replica is here now, and complete up to `revision`.
    pub fn audit(&self, span: Span, revision: Revision, compacted: Revision) -> Audit {
        let disturbed = Arc::new(AtomicBool::new(false));
        self.shared.audits.running.lock().push((span.clone(), Arc::clone(&disturbed)));
        let pin = self.pin_revision(compacted);
        Audit { state: self.clone(), span, revision, compacted, disturbed, _pin: pin }
    }
}

impl Audit {
    /// Hashes. After some keys each time, `pause` is told how many bytes they had, and decides how
    /// fast this goes. Panics if the state file cannot be read.
    pub fn run(self, mut pause: impl FnMut(u64)) -> Audited {
        let Self { state, span, revision, compacted, disturbed, _pin } = &self;
        let mut sum = Sum::default();
        let mut from = (!span.is_empty()).then(|| span.start.clone());
        while let Some(start) = from {
            let before = sum.bytes;
            let last = state.hash_chunk(&start, span, *revision, *compacted, &mut sum);
            from = last.map(|last| successor(&last));
            if disturbed.load(Ordering::Acquire) {
                return Audited::Disturbed;
            }
            pause(sum.bytes - before);
        }
        // Asked now: a removal that had begun before the pin could still take some of it.
        let pruned = state.shared.inner.read().disk.meta().pruned;
        if disturbed.load(Ordering::Acquire) {
            Audited::Disturbed
        } else if pruned > *compacted {
            Audited::Pruned(pruned)
        } else {
            Audited::Hash(sum.hash)
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let mut running = self.state.shared.audits.running.lock();
        running.retain(|(_, disturbed)| !Arc::ptr_eq(disturbed, &self.disturbed));
    }
}

#[cfg(test)]
mod tests;
