//! When the copies of a lost node will be made: as a moment, which stays the same while the time that
//! is left passes, so that the status is not written each time that somebody looks.
//!
//! Invariant: pure; unknown is nothing.

use super::health::whole_seconds;
use jiff::{SignedDuration, Timestamp};

/// What is told is rounded up to this.
const STEP_SECONDS: i64 = 10;

/// It may be off by so much without being told anew, and by a quarter of the time that is left.
const OFF: SignedDuration = SignedDuration::from_secs(15);

/// Nothing beyond this is foretold.
const SECONDS_MAX: i64 = 30 * 24 * 3600;

/// What to tell now: `told` before, if that is still about right, or anew from the `seconds` that are
/// left.
pub fn end(told: Option<Timestamp>, seconds: Option<u64>, now: Timestamp) -> Option<Timestamp> {
    let seconds = i64::try_from(seconds?).ok().filter(|seconds| *seconds <= SECONDS_MAX)?;
    let left = SignedDuration::from_secs(seconds);
    let end = whole_seconds(now.saturating_add(left).ok()?);
    let may_be_off = OFF.max(left / 4);
    if let Some(told) = told
        && told > now
        && told.duration_since(end).abs() <= may_be_off
    {
        return Some(told);
    }
    let up = (STEP_SECONDS - end.as_second().rem_euclid(STEP_SECONDS)) % STEP_SECONDS;
    end.saturating_add(SignedDuration::from_secs(up)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("in range")
    }

    #[test]
    fn it_stays_while_time_passes_as_foretold() {
        let mut told = end(None, Some(301), at(0));
        assert_eq!(told, Some(at(310)));
        for second in 1..=300 {
            told = end(told, Some(301 - second as u64), at(second));
            assert_eq!(told, Some(at(310)), "after {second} s");
        }
    }

    #[test]
    fn it_changes_when_it_was_wrong() {
        let told = end(None, Some(300), at(0));
        assert_eq!(end(told, Some(350), at(0)), told, "about right");
        assert_eq!(end(told, Some(600), at(0)), Some(at(600)));
        assert_eq!(end(told, Some(100), at(100)), Some(at(200)));
        // What was foretold has passed, and it goes on.
        assert_eq!(end(told, Some(5), at(301)), Some(at(310)));
    }

    #[test]
    fn unknown_is_nothing() {
        assert_eq!(end(Some(at(300)), None, at(0)), None);
        assert_eq!(end(None, Some(u64::MAX), at(0)), None);
        assert_eq!(end(None, Some(SECONDS_MAX as u64 + 1), at(0)), None);
    }
}
