//! How many requests a range serves, and where among its keys they go: what a cut by load, and a merge
//! of ranges without any, are decided on.
//!
//! ```text
//!   requests ─► rate (decaying average) ─► high for some time ─► a key from the sample divides it?
//!                                                                   yes: cut there   no: rest
//! ```
//!
//! Invariants: a request costs a few instructions and, but for one in very many, no memory; the sample
//! exists only while the load is high, and is bounded; no clock and no dice: time is given, and the
//! sample's choice follows from what it has seen. An estimate, on which no safety rests.

use crate::effects::Millis;
use crate::key::Span;
use bytes::Bytes;

/// The average is brought up to date after so long.
const ROLL_MS: Millis = 500;
/// What was so long ago counts about half.
const HALF_MS: Millis = 4_000;
/// Requests in the sample.
const SAMPLE_MAX: usize = 128;
/// Fewer of them say nothing.
const SAMPLE_MIN: usize = 8;
/// After so many requests seen, the older ones count less.
const SEEN_MAX: u32 = 32 * SAMPLE_MAX as u32;
/// Bytes of a key that are kept: a cut may as well be made at the beginning of a key.
const KEY_MAX: usize = 256;
/// Each side of a cut has at least this part of the load, or it would not help.
const SIDE_PART: usize = 5;
/// At most this part may touch both sides: such requests get dearer by a cut.
const CROSSING_PART: usize = 3;
const MILLI: u64 = 1_000;

/// One request of the sample: the keys from `start` to before `end`, or only one key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Taken {
    start: Box<[u8]>,
    /// Empty: no end.
    end: Option<Box<[u8]>>,
}

/// Requests, each of the recent ones as likely as the others.
#[derive(Clone, Debug, Default)]
struct Sample {
    seen: u32,
    dice: u64,
    taken: Vec<Taken>,
    /// The key that divided an earlier sample. It must divide a later one, too: of keys that are
    /// written in order, no cut would have anything to the left of it.
    candidate: Option<Bytes>,
}

/// Where a load can be divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Division {
    /// Too little was seen to say.
    Unknown,
    /// Nowhere: it is on one key, or on requests that touch all of the range.
    Nowhere,
    /// About half of it is before this key.
    At(Bytes),
}

/// What is known of a range's load since its leaseholder got the lease.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Requests since the average was brought up to date.
    requests: u32,
    /// Thousandths of requests a second.
    rate: u64,
    rolled_at: Option<Millis>,
    /// Since when the rate has been above the limit.
    hot_since: Option<Millis>,
    /// Since when it has been far below.
    quiet_since: Option<Millis>,
    resting_until: Millis,
    sample: Option<Box<Sample>>,
}

impl Load {
    /// A request was taken; `spans` gives its keys, if they are wanted. True if the load is high.
    pub fn note(&mut self, spans: impl FnOnce() -> Vec<Span>) -> bool {
        self.requests = self.requests.saturating_add(1);
        let Some(sample) = &mut self.sample else { return false };
        sample.see(spans);
        true
    }

    /// Brings the average up to date. `limit`: requests a second at which a range is cut; 0 is never.
    /// With fewer than `quiet` it does next to nothing; 0: whatever it does.
    pub fn roll(&mut self, now: Millis, limit: u64, quiet: u64) {
        let from = *self.rolled_at.get_or_insert(now);
        let quiet_since = *self.quiet_since.get_or_insert(now);
        let elapsed = now.saturating_sub(from);
        if elapsed < ROLL_MS {
            return;
        }
        let requests = u64::from(std::mem::take(&mut self.requests));
        let lately = requests * MILLI * MILLI / elapsed;
        self.rate = (self.rate * HALF_MS + lately * elapsed) / (HALF_MS + elapsed);
        self.rolled_at = Some(now);
        let is_quiet = quiet == 0 || self.rate < quiet * MILLI;
        self.quiet_since = Some(if is_quiet { quiet_since } else { now });
        if limit == 0 {
            return;
        }
        let limit = limit * MILLI;
        self.hot_since = self.hot_since.or(Some(now)).filter(|_| self.rate >= limit);
        if self.rate * 4 < limit {
            self.sample = None;
        } else if self.rate * 2 >= limit && now >= self.resting_until {
            self.sample.get_or_insert_default();
        }
    }

    /// Has the load been above the limit for so long?
    pub fn is_hot(&self, now: Millis, after: Millis) -> bool {
        now >= self.resting_until && self.hot_since.is_some_and(|since| now >= since + after)
    }

    /// For how long there has been next to no load; 0 if there is some.
    pub fn quiet_ms(&self, now: Millis) -> Millis {
        self.quiet_since.map_or(0, |since| now.saturating_sub(since))
    }

    /// Requests a second.
    pub fn rate(&self) -> u64 {
        self.rate / MILLI
    }

    /// The load falls: nobody asks for the sample soon.
    pub fn forget_sample(&mut self) {
        self.sample = None;
    }

    /// Where to cut. If that is nowhere, the load is left alone for `rest` milliseconds.
    pub fn divide(&mut self, now: Millis, rest: Millis) -> Division {
        let division = self.sample.as_mut().map_or(Division::Unknown, |sample| sample.divide());
        if division == Division::Nowhere {
            self.sample = None;
            self.resting_until = now + rest;
        }
        division
    }
}

impl Sample {
    fn see(&mut self, spans: impl FnOnce() -> Vec<Span>) {
        self.seen += 1;
        let place = if self.taken.len() < SAMPLE_MAX {
            self.taken.len()
        } else {
            (self.throw() % u64::from(self.seen)) as usize
        };
        if self.seen >= SEEN_MAX {
            self.seen /= 2;
        }
        if place >= SAMPLE_MAX {
            return;
        }
        let Some(taken) = Taken::of(&spans()) else { return };
        match self.taken.get_mut(place) {
            Some(old) => *old = taken,
            None => self.taken.push(taken),
        }
    }

    /// Numbers without any order to them. (`SplitMix64`, by Steele, Lea and Flood.)
    fn throw(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn divide(&mut self) -> Division {
        if self.taken.len() < SAMPLE_MIN {
            return Division::Unknown;
        }
        if let Some(key) = self.candidate.take() {
            return if self.divides(&key) { Division::At(key) } else { Division::Nowhere };
        }
        let mut keys: Vec<&[u8]> = self.taken.iter().map(|taken| taken.start.as_ref()).collect();
        keys.sort_unstable();
        keys.dedup();
        let smaller = |key: &[u8]| {
            let (before, after) = self.sides(key);
            before.min(after)
        };
        let best = keys
            .into_iter()
            .filter(|key| self.divides(key))
            .max_by_key(|key| (smaller(key), std::cmp::Reverse(*key)));
        let Some(best) = best.map(Bytes::copy_from_slice) else { return Division::Nowhere };
        self.candidate = Some(best);
        self.taken.clear();
        self.seen = 0;
        Division::Unknown
    }

    /// Requests before a key, and from it on.
    fn sides(&self, key: &[u8]) -> (usize, usize) {
        let before = self.taken.iter().filter(|taken| taken.is_before(key)).count();
        let after = self.taken.iter().filter(|taken| taken.start.as_ref() >= key).count();
        (before, after)
    }

    fn divides(&self, key: &[u8]) -> bool {
        let all = self.taken.len();
        let (before, after) = self.sides(key);
        before.min(after) * SIDE_PART >= all && (all - before - after) * CROSSING_PART <= all
    }
}

impl Taken {
    /// From the first key of a request to its last.
    fn of(spans: &[Span]) -> Option<Self> {
        let short = |key: &Bytes| Box::from(&key[..key.len().min(KEY_MAX)]);
        let first = spans.iter().min_by(|a, b| a.start.cmp(&b.start))?;
        let start = short(&first.start);
        let one = first.single().is_some() && spans.iter().all(|span| span == first);
        let end = if one {
            None
        } else if spans.iter().any(|span| span.end.is_none()) {
            Some(Box::default())
        } else {
            spans.iter().filter_map(|span| span.end.as_ref()).max().map(short)
        };
        Some(Self { start, end })
    }

    fn is_before(&self, key: &[u8]) -> bool {
        self.start.as_ref() < key
            && self.end.as_ref().is_none_or(|end| !end.is_empty() && end.as_ref() <= key)
    }
}

#[cfg(test)]
mod tests;
