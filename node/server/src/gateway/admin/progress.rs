//! How far the making of copies is, and when it will be over: pure, so that it can be tested.
//!
//! Invariants: unknown is said as long as too little was seen to tell, or nothing gets on; what comes
//! on top in the middle (one more node is lost) makes more of the whole, and never undoes what is done.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// The speed is that of the last so much time.
const LOOKED_AT: Duration = Duration::from_secs(30);

/// Looks that are closer than this count as one.
const STEP: Duration = Duration::from_millis(500);

/// Nothing is foretold from less than this.
const SEEN_MIN: Duration = Duration::from_secs(3);

/// A range costs what so many bytes do, however small it is: members change, a disk is written.
const RANGE_BYTES: u64 = 1 << 20;

/// Beyond this it is not foretold but guessed.
const SECONDS_MAX: f64 = 7.0 * 24.0 * 3600.0;

/// What is left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Ranges that are to get copies.
    pub ranges: u64,
    /// Bytes of these copies, about.
    pub bytes: u64,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Ranges that got all their copies since it began.
    pub ranges_done: u64,
    /// Ranges in all.
    pub ranges_total: u64,
    /// Bytes that were copied since it began, about.
    pub bytes_done: u64,
    /// Bytes in all, about.
    pub bytes_total: u64,
    /// Seconds until it is over, if it goes on like this; `null` is unknown.
    pub seconds_left: Option<u64>,
}

impl Progress {
    /// From a node's answer; nothing if it is not there.
    pub(crate) fn from_json(value: &serde_json::Value) -> Option<Self> {
        Self::deserialize(value).ok()
    }
}

/// Remembers what was seen. Times are since any moment.
#[derive(Debug, Default)]
pub(crate) struct Estimator {
    left: Option<Left>,
    done: Left,
    /// What was done by when, oldest first, at most [`LOOKED_AT`] long.
    seen: VecDeque<(Duration, u64)>,
}

impl Estimator {
    /// So much is left now.
    pub(crate) fn look(&mut self, now: Duration, left: Left) -> Option<Progress> {
        if left.ranges == 0 {
            *self = Self::default();
            return None;
        }
        let before = self.left.replace(left).unwrap_or(left);
        self.done.ranges += before.ranges.saturating_sub(left.ranges);
        self.done.bytes += before.bytes.saturating_sub(left.bytes);
        let done = self.done.work();
        if done == 0 {
            // The time until something moves says nothing of the speed.
            self.seen.clear();
        }
        if self.seen.back().is_none_or(|(last, _)| now >= *last + STEP) {
            self.seen.push_back((now, done));
        }
        while self.seen.get(1).is_some_and(|(second, _)| *second + LOOKED_AT <= now) {
            self.seen.pop_front();
        }
        Some(Progress {
            ranges_done: self.done.ranges,
            ranges_total: self.done.ranges + left.ranges,
            bytes_done: self.done.bytes,
            bytes_total: self.done.bytes + left.bytes,
            seconds_left: self.seconds(now, done, left),
        })
    }

    fn seconds(&self, now: Duration, done: u64, left: Left) -> Option<u64> {
        let (since, then) = self.seen.front()?;
        let time = now.saturating_sub(*since);
        if time < SEEN_MIN || done <= *then {
            return None;
        }
        let speed = (done - then) as f64 / time.as_secs_f64();
        let seconds = left.work() as f64 / speed;
        (seconds <= SECONDS_MAX).then(|| seconds.ceil() as u64)
    }
}

impl Left {
    fn work(self) -> u64 {
        self.bytes.saturating_add(self.ranges.saturating_mul(RANGE_BYTES))
    }
}

/// Seconds as people say them: none pretends to know better than it does.
pub(crate) fn about(seconds: Option<u64>) -> String {
    match seconds {
        None => "time left unknown".to_owned(),
        Some(0..=5) => "about 5 s left".to_owned(),
        Some(seconds @ 6..=90) => format!("about {} s left", seconds.div_ceil(5) * 5),
        Some(seconds @ 91..=5400) => format!("about {} min left", seconds.div_ceil(60)),
        Some(seconds) => format!("about {} h left", seconds.div_ceil(3600)),
    }
}

/// Bytes as people say them.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..=1_048_575 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        1_048_576..=10_737_418_239 => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{} GiB", bytes.div_ceil(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn left(ranges: u64, mib: u64) -> Left {
        Left { ranges, bytes: mib * MIB }
    }

    #[test]
    fn a_steady_copy_is_foretold_once_it_was_seen() {
        let mut estimator = Estimator::default();
        // Ten ranges of 99 MiB, and a MiB for each: one range in two seconds.
        for second in 0..=8 {
            let ranges = 10 - second / 2;
            let bytes = 990 - second * 99 / 2;
            let progress = estimator.look(seconds(second), left(ranges, bytes)).unwrap();
            assert_eq!((progress.ranges_total, progress.bytes_total), (10, 990 * MIB));
            assert_eq!(progress.ranges_done, second / 2);
            if second < 3 {
                assert_eq!(progress.seconds_left, None);
            } else {
                let foretold = progress.seconds_left.unwrap();
                assert!((19 - second..=22 - second).contains(&foretold), "{second}: {foretold}");
            }
        }
        assert_eq!(estimator.look(seconds(20), left(0, 0)), None);
        let anew = estimator.look(seconds(21), left(3, 3)).unwrap();
        assert_eq!((anew.ranges_done, anew.ranges_total), (0, 3));
    }

    #[test]
    fn what_does_not_get_on_is_unknown() {
        let mut estimator = Estimator::default();
        for second in 0..10 {
            let progress = estimator.look(seconds(second), left(4, 100)).unwrap();
            assert_eq!(progress.seconds_left, None);
        }
        let begun = estimator.look(seconds(10), left(4, 90)).unwrap();
        assert_eq!(begun.seconds_left, None);
        let begun = estimator.look(seconds(12), left(4, 70)).unwrap();
        assert_eq!(begun.seconds_left, Some(8), "what it waited for before does not count");
        for second in 13..60 {
            estimator.look(seconds(second), left(4, 70));
        }
        assert_eq!(estimator.look(seconds(60), left(4, 70)).unwrap().seconds_left, None);
    }

    #[test]
    fn a_second_loss_makes_more_of_it() {
        let mut estimator = Estimator::default();
        estimator.look(seconds(0), left(4, 400));
        let before = estimator.look(seconds(10), left(3, 300)).unwrap();
        assert_eq!(before.seconds_left, Some(30));
        let after = estimator.look(seconds(11), left(7, 700)).unwrap();
        assert_eq!((after.ranges_done, after.ranges_total), (1, 8));
        assert_eq!(after.bytes_total, 800 * MIB);
        assert!(after.seconds_left > before.seconds_left);
    }

    #[test]
    fn the_speed_is_that_of_late() {
        let mut estimator = Estimator::default();
        for second in 0..200 {
            estimator.look(seconds(second), left(1, 10_000 - second));
        }
        for second in 200..260 {
            estimator.look(seconds(second), left(1, 9_800 - (second - 200) * 100));
        }
        let progress = estimator.look(seconds(260), left(1, 3_800)).unwrap();
        assert!((38..=40).contains(&progress.seconds_left.unwrap()), "{progress:?}");
        assert!(estimator.seen.len() <= 62);
    }

    #[test]
    fn people_hear_no_more_than_is_known() {
        assert_eq!(about(None), "time left unknown");
        assert_eq!(about(Some(2)), "about 5 s left");
        assert_eq!(about(Some(41)), "about 45 s left");
        assert_eq!(about(Some(130)), "about 3 min left");
        assert_eq!(about(Some(6000)), "about 2 h left");
        assert_eq!(size(1), "1 KiB");
        assert_eq!(size(5 << 20), "5 MiB");
        assert_eq!(size(20 << 30), "20 GiB");
    }
}
