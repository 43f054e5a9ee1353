//! How fast raft snapshots may flow beside clients: pure, so that it can be tested.
//!
//! What clients feel of a snapshot is told by the raft log of this node, through which all their
//! writes here go: the 95th percentile of its writes in a window of time is compared with what it is
//! while no snapshot flows. Too slow: the rate becomes smaller by a part of itself. Fast enough, or
//! no clients: it becomes larger by a part of the limit.
//!
//! Invariants: the rate is never above the limit nor below the floor, so that every reprotection
//! ends; at the floor what is undisturbed is learned anew, so that clients who were going to be slow
//! anyway do not hold it there for ever.

use std::time::Duration;

/// A window has at least this length.
pub(super) const WINDOW: Duration = Duration::from_millis(500);

/// And goes on for so long if it has fewer writes than [`SAMPLES`].
pub(super) const WINDOW_MAX: Duration = Duration::from_secs(4);

/// Writes from which a percentile says something.
pub(super) const SAMPLES: u32 = 20;

/// With fewer writes than this in [`WINDOW_MAX`] there are no clients.
const CLIENTS: u32 = 5;

/// After a decrease this much of the rate is left.
const DECREASE: f64 = 0.7;

/// One step up is this part of the rate, and at least [`INCREASE_LEAST_PART`] of the limit.
const INCREASE_PART: u64 = 4;

/// See [`INCREASE_PART`].
const INCREASE_LEAST_PART: u64 = 64;

/// The same, for each [`WINDOW`] of time, while there are no clients to disturb.
const ALONE_PART: u64 = 4;

/// With clients, snapshots begin with this part of the limit.
const BEGIN_PART: u64 = 4;

/// So many times the undisturbed latency is too slow.
const SLOW: f64 = 2.0;

/// Below so many times the undisturbed latency there is room for more.
const FINE: f64 = 1.5;

/// Slower by less than this is never too slow: nobody notices it.
const SLACK: Duration = Duration::from_micros(1500);

/// Weight of a new window in what counts as undisturbed.
const LEARN: f64 = 0.2;

/// The same for windows at the floor, which snapshots disturb, if only a little.
const LEARN_AT_FLOOR: f64 = 0.1;

/// Bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Never more.
    pub most: u64,
    /// Never less; at most `most`.
    pub least: u64,
}

impl Limits {
    /// The same rate whatever clients feel.
    #[cfg(test)]
    pub(super) fn fixed(rate: u64) -> Self {
        Self { most: rate, least: rate }
    }
}

/// What was seen in some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// How long it was.
    pub length: Duration,
    /// Writes to the log.
    pub writes: u32,
    /// The 95th percentile of how long they took.
    pub latency: Duration,
    /// Snapshots flowed in it.
    pub disturbed: bool,
}

/// The rate, and what it follows from.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    limits: Limits,
    rate: u64,
    /// Seconds that a write takes undisturbed.
    undisturbed: Option<f64>,
    /// `undisturbed` is from calm windows, and not the best of disturbed ones.
    learned: bool,
    /// Clients wrote in the last window.
    clients: bool,
}

impl Pace {
    pub(super) fn new(limits: Limits) -> Self {
        let Limits { most, least } = limits;
        let limits = Limits { most: most.max(1), least: least.clamp(1, most.max(1)) };
        Self { limits, rate: limits.most, undisturbed: None, learned: false, clients: false }
    }

    /// Bytes a second that may flow now.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Snapshots begin to flow after so long a time without any that what was learned is of no use.
    pub(super) fn begin(&mut self) {
        if self.clients {
            self.set(self.limits.most / BEGIN_PART);
        }
    }

    /// A window is over.
    pub(super) fn step(&mut self, window: &Window) {
        let long = window.length.max(WINDOW_MAX).as_secs_f64() / WINDOW_MAX.as_secs_f64();
        let clients = f64::from(window.writes) >= f64::from(CLIENTS) * long;
        // Few writes in a moment say nothing.
        if clients || window.length >= WINDOW {
            self.clients = clients;
        }
        let Limits { most, .. } = self.limits;
        let latency = window.latency.as_secs_f64();
        if !clients || !window.disturbed {
            if clients {
                let known = self.undisturbed.filter(|_| self.learned);
                self.undisturbed =
                    Some(known.map_or(latency, |known| known + LEARN * (latency - known)));
                self.learned = true;
            }
            let windows = window.length.as_secs_f64() / WINDOW.as_secs_f64();
            // Nobody knows whether there is room for more while nothing flows.
            let step = if self.clients { self.step_up() } else { (most / ALONE_PART).max(1) };
            return self.set(self.rate.saturating_add((windows * step as f64) as u64));
        }
        let undisturbed = match self.undisturbed {
            Some(known) if self.learned => known,
            // It has never been calm here: the best that was seen stands in for it.
            other => *self.undisturbed.insert(other.map_or(latency, |known| known.min(latency))),
        };
        let slack = SLACK.as_secs_f64();
        if latency < (FINE * undisturbed).max(undisturbed + slack / 2.0) {
            return self.set(self.rate.saturating_add(self.step_up()));
        }
        if self.rate == self.limits.least {
            self.undisturbed = Some(undisturbed + LEARN_AT_FLOOR * (latency - undisturbed));
            // A best that was seen must not undo this.
            self.learned = true;
        } else if latency > (SLOW * undisturbed).max(undisturbed + slack) {
            self.set((self.rate as f64 * DECREASE) as u64);
        }
    }

    fn step_up(&self) -> u64 {
        (self.rate / INCREASE_PART).max(self.limits.most / INCREASE_LEAST_PART).max(1)
    }

    fn set(&mut self, rate: u64) {
        self.rate = rate.clamp(self.limits.least, self.limits.most);
    }
}

/// How long writes took, by size of the time.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    buckets: [u32; BUCKETS],
    count: u32,
}

/// Four buckets for each doubling, from a microsecond to 16 seconds.
const BUCKETS: usize = 4 * 24;

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0 }
    }
}

impl Latencies {
    /// One more write.
    pub(super) fn add(&mut self, took: Duration) {
        let micros = took.as_secs_f64().max(1e-6) * 1e6;
        let bucket = (4.0 * micros.log2()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// At most one in twenty took longer than this; zero if there was none.
    pub(super) fn p95(&self) -> Duration {
        let mut longer = self.count;
        for (bucket, count) in self.buckets.iter().enumerate() {
            longer -= count;
            if *count > 0 && longer <= self.count / 20 {
                return Duration::from_secs_f64(2_f64.powf((bucket as f64 + 0.5) / 4.0) / 1e6);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests;
