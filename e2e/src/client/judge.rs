//! What may be read from a key that one writer counts up.
//!
//! Invariant: `seen` never falls; it is a number that a read beginning now must at least return,
//! unless it returns a write that failed: nobody knows whether, nor when, such a write takes effect,
//! and it may well be after later ones.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// One key, its writer's progress, and what readers have seen of it.
#[derive(Debug)]
pub(super) struct Key {
    /// Its name.
    pub(super) name: String,
    /// The highest number that was sent, acknowledged or not.
    sent: AtomicU64,
    /// The highest number that was acknowledged to the writer.
    acknowledged: AtomicU64,
    /// The highest number that was acknowledged or read.
    seen: AtomicU64,
    /// The numbers whose writes failed.
    open: Mutex<BTreeSet<u64>>,
}

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Right,
    /// It misses a write that was acknowledged, or seen by another read, before.
    Stale(String),
    /// It was never written.
    Impossible(String),
}

impl Key {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            open: Mutex::new(BTreeSet::new()),
        }
    }

    /// The number to write next.
    pub(super) fn next(&self) -> u64 {
        self.sent.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A write was acknowledged.
    pub(super) fn acknowledge(&self, number: u64) {
        self.acknowledged.fetch_max(number, Ordering::SeqCst);
        self.seen.fetch_max(number, Ordering::SeqCst);
    }

    /// A write failed: it may have taken effect, or still do so.
    pub(super) fn leave_open(&self, number: u64) {
        self.open.lock().insert(number);
    }

    /// What a read that begins now must at least return.
    pub(super) fn at_least(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// Judges the value of a read that began when [`Self::at_least`] was `least`.
    pub(super) fn judge(&self, least: u64, value: Option<&[u8]>) -> Verdict {
        let sent = self.sent.load(Ordering::SeqCst);
        let number = match value {
            None => 0,
            Some(bytes) => {
                match std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<u64>().ok()) {
                    Some(number) => number,
                    None => {
                        let text = String::from_utf8_lossy(bytes);
                        return Verdict::Impossible(format!("read {text:?}, never written"));
                    }
                }
            }
        };
        if number > sent {
            return Verdict::Impossible(format!("read {number}, only {sent} were written"));
        }
        if number < least && !self.open.lock().contains(&number) {
            return Verdict::Stale(format!("read {number}, but {least} was there before"));
        }
        self.seen.fetch_max(number, Ordering::SeqCst);
        Verdict::Right
    }

    /// Judges a read after the last write: what is lost, if anything.
    pub(super) fn judge_last(&self, value: Option<Vec<u8>>) -> Option<String> {
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        match self.judge(acknowledged, value.as_deref()) {
            Verdict::Right => None,
            Verdict::Stale(_) | Verdict::Impossible(_) => {
                Some(format!("the last value is {value:?}, but {acknowledged} was acknowledged"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_with(sent: u64, acknowledged: u64) -> Key {
        let key = Key::new("k".to_owned());
        for _ in 0..sent {
            key.next();
        }
        key.acknowledge(acknowledged);
        key
    }

    #[test]
    fn a_read_may_return_a_write_that_is_not_acknowledged_yet() {
        let key = key_with(5, 3);
        assert_eq!(key.judge(key.at_least(), Some(b"5")), Verdict::Right);
    }

    #[test]
    fn what_one_read_saw_the_next_must_not_miss() {
        let key = key_with(5, 3);
        assert_eq!(key.judge(3, Some(b"5")), Verdict::Right);
        assert!(matches!(key.judge(key.at_least(), Some(b"4")), Verdict::Stale(_)));
    }

    #[test]
    fn a_missing_key_is_stale_once_something_was_acknowledged() {
        assert_eq!(key_with(1, 0).judge(0, None), Verdict::Right);
        assert!(matches!(key_with(1, 1).judge(1, None), Verdict::Stale(_)));
    }

    #[test]
    fn what_was_never_written_is_impossible() {
        assert!(matches!(key_with(1, 1).judge(1, Some(b"2")), Verdict::Impossible(_)));
        assert!(matches!(key_with(1, 1).judge(1, Some(b"x")), Verdict::Impossible(_)));
    }

    #[test]
    fn a_write_that_failed_may_take_effect_late() {
        let key = key_with(5, 5);
        key.leave_open(3);
        assert_eq!(key.judge(key.at_least(), Some(b"3")), Verdict::Right);
        assert!(matches!(key.judge(key.at_least(), Some(b"4")), Verdict::Stale(_)));
    }

    #[test]
    fn a_lost_write_shows_in_the_last_read() {
        assert!(key_with(3, 2).judge_last(Some(b"1".to_vec())).is_some());
        assert!(key_with(3, 2).judge_last(Some(b"3".to_vec())).is_none());
    }
}
