//! When a node that sees no majority sends its clients elsewhere.
//!
//! ```text
//!  no sequencer for `after` ──► cut off ──► a connection that is `stay` old ends, at a moment of its own
//!                                 │         within `spread`
//!          a sequencer again ◄────┘
//! ```
//!
//! A client behind a load balancer has one connection, and stays with it though others could serve it.
//!
//! Invariants: a client that comes again is kept for `stay` at least, so that one which finds nobody else
//! comes at a bounded rate, and is told meanwhile why it is not served. Only time in which this process ran
//! counts: one that was stopped knows nothing of the time between.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether there is a sequencer.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The most that counts between two looks.
const LOOK_MAX: Duration = Duration::from_millis(400);

/// How long there has been no sequencer.
#[derive(Debug, Default)]
pub(super) struct Absence {
    lasted: Duration,
    looked: Option<Instant>,
}

impl Absence {
    /// Looks again: how long there has been none, zero while there is one.
    pub(super) fn look(&mut self, now: Instant, there: bool) -> Duration {
        if there {
            *self = Self::default();
        } else {
            let passed = self.looked.replace(now).map_or(Duration::ZERO, |looked| now - looked);
            self.lasted += passed.min(LOOK_MAX);
        }
        self.lasted
    }
}

/// How long clients are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Without a sequencer, until the node counts as cut off; zero: never.
    pub after: Duration,
}

impl Times {
    /// Has a node been without a sequencer for so long that it counts as cut off?
    pub(super) fn is_cut_off(self, absence: Duration) -> bool {
        !self.after.is_zero() && absence >= self.after
    }

    /// How long a connection is kept in any case.
    fn stay(self) -> Duration {
        2 * self.after
    }

    /// Within what time connections end that may all end now.
    pub(super) fn spread(self) -> Duration {
        self.after
    }

    /// When a connection ends that began at `opened`, if this node has counted as cut off from `since` on
    /// and does so still; `late` is its own part of [`Times::spread`].
    pub(super) fn end(self, opened: Instant, since: Instant, late: Duration) -> Instant {
        since.max(opened + self.stay()) + late
    }
}

/// A random time below `most`, to a thousandth of it.
pub(super) fn jitter(most: Duration) -> Duration {
    // Each state is keyed by the system's randomness and a counter.
    let part = u32::try_from(RandomState::new().hash_one(0_u8) % 1000).expect("below 1000");
    most * part / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { after: Duration::from_secs(5) };

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// Looks as often as the node does; what it makes of the last one.
    fn looks(absence: &mut Absence, from: Instant, lasts: Duration, there: bool) -> Duration {
        let mut said = Duration::ZERO;
        let mut passed = Duration::ZERO;
        while passed <= lasts {
            said = absence.look(from + passed, there);
            passed += LOOK_INTERVAL;
        }
        said
    }

    #[test]
    fn a_node_is_cut_off_only_after_it_saw_no_sequencer_all_the_time() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        assert_eq!(looks(&mut absence, start, seconds(60), true), Duration::ZERO);
        // An election, several times.
        for round in 1..4 {
            let from = start + seconds(100 * round);
            let lasted = looks(&mut absence, from, seconds(4), false);
            assert_eq!(lasted, seconds(4));
            assert!(!TIMES.is_cut_off(lasted));
            absence.look(from + seconds(4) + LOOK_INTERVAL, true);
        }
        let lasted = looks(&mut absence, start + seconds(500), seconds(5), false);
        assert!(TIMES.is_cut_off(lasted));
        assert!(!Times { after: Duration::ZERO }.is_cut_off(seconds(1000)));
    }

    #[test]
    fn time_in_which_the_process_was_stopped_does_not_count() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        absence.look(start, false);
        assert_eq!(absence.look(start + seconds(600), false), LOOK_MAX);
    }

    #[test]
    fn an_old_connection_ends_at_once_and_a_new_one_is_kept_for_a_while() {
        let start = Instant::now();
        let since = start + seconds(100);
        assert_eq!(TIMES.end(start, since, Duration::ZERO), since);
        assert_eq!(TIMES.end(start, since, seconds(3)), since + seconds(3));
        let opened = since + seconds(7);
        assert_eq!(TIMES.end(opened, since, Duration::ZERO), opened + seconds(10));
        // The one that was there shortly before.
        let opened = since - seconds(1);
        assert_eq!(TIMES.end(opened, since, seconds(1)), opened + seconds(11));
    }

    /// However many come again and again: what one client costs.
    #[test]
    fn who_has_no_other_node_comes_again_at_a_bounded_rate() {
        let since = Instant::now();
        let mut opened = since - seconds(1000);
        let mut connections = 0;
        while opened < since + seconds(600) {
            let late = jitter(TIMES.spread());
            assert!(late < TIMES.spread());
            opened = TIMES.end(opened, since, late);
            connections += 1;
        }
        assert!((600 / 15..=1 + 600 / 10).contains(&connections), "{connections}");
    }

    #[test]
    fn jitter_differs() {
        let all: std::collections::BTreeSet<Duration> =
            (0..20).map(|_| jitter(seconds(10))).collect();
        assert!(all.len() > 5, "{all:?}");
    }
}
