//! Bounds the bytes a second of the raft snapshots that a node sends and receives, each for itself,
//! by a rate that follows what clients feel (see [`super::pace`]).
//!
//! Invariants: no thread of its own; whoever writes the log or moves a piece of a snapshot closes the
//! window of time that is over. One piece makes nobody wait longer than [`DEBT_MAX`], which is less
//! than what the other side of a connection takes for a failure.

use super::pace::{Latencies, Limits, Pace, SAMPLES, WINDOW, WINDOW_MAX, Window};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// After the last piece of a snapshot its effects last for so long.
const AFTERMATH: Duration = Duration::from_secs(1);

/// After so long without a snapshot the next ones begin gently.
const REST: Duration = Duration::from_secs(10);

/// The longest that one piece occupies the stream, however large it is and low the rate.
const DEBT_MAX: Duration = Duration::from_secs(1);

/// Follows the log's writes, and says how fast snapshots may flow.
#[derive(Debug)]
pub struct Pacer {
    seen: Mutex<Seen>,
    rate: AtomicU64,
    limits: Limits,
    /// Snapshots that are being installed.
    installing: AtomicUsize,
    sent: Throttle,
    received: Throttle,
}

/// The window that is open.
#[derive(Debug)]
struct Seen {
    pace: Pace,
    writes: Latencies,
    since: Instant,
    disturbed: bool,
    flowed: Option<Instant>,
}

/// What a node tells of its snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Bytes a second that may flow now.
    pub rate: u64,
    /// Bytes a second that may flow at most.
    pub limit: u64,
    /// Bytes that were sent since the start.
    pub sent: u64,
    /// Bytes that were received since the start.
    pub received: u64,
}

impl Pacer {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let pace = Pace::new(limits);
        let now = Instant::now();
        Arc::new(Self {
            rate: AtomicU64::new(pace.rate()),
            limits: pace.limits(),
            seen: Mutex::new(Seen {
                pace,
                writes: Latencies::default(),
                since: now,
                disturbed: false,
                flowed: None,
            }),
            installing: AtomicUsize::new(0),
            sent: Throttle::new(now),
            received: Throttle::new(now),
        })
    }

    /// A write to the log became durable, and took so long.
    pub fn log_written(&self, took: Duration) {
        let mut seen = self.seen.lock();
        seen.writes.add(took);
        self.look(&mut seen, Instant::now());
    }

    /// While `install` runs, a snapshot keeps the disk busy.
    pub fn installing<T>(&self, install: impl FnOnce() -> T) -> T {
        self.flows(Instant::now());
        self.installing.fetch_add(1, Ordering::Relaxed);
        let done = install();
        self.installing.fetch_sub(1, Ordering::Relaxed);
        self.flows(Instant::now());
        done
    }

    /// Now.
    pub fn flow(&self) -> Flow {
        Flow {
            rate: self.rate(),
            limit: self.limits.most,
            sent: self.sent.total.load(Ordering::Relaxed),
            received: self.received.total.load(Ordering::Relaxed),
        }
    }

    /// Waits until so much more may be sent.
    pub(super) fn send(&self, bytes: usize) {
        self.flows(Instant::now());
        self.sent.take(bytes, self.rate());
    }

    /// So much was received; waits until more may be.
    pub(super) fn receive(&self, bytes: usize) {
        self.flows(Instant::now());
        self.received.take(bytes, self.rate());
    }

    fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    fn flows(&self, now: Instant) {
        let mut seen = self.seen.lock();
        let before = seen.flowed.replace(now);
        if before.is_none_or(|last| now > last + AFTERMATH) {
            // What was calm so far stays calm.
            self.close(&mut seen, now);
        }
        if before.is_none_or(|last| now > last + REST) {
            seen.pace.begin();
            self.rate.store(seen.pace.rate(), Ordering::Relaxed);
        }
        seen.disturbed = true;
        self.look(&mut seen, now);
    }

    /// Closes the window if it is over.
    fn look(&self, seen: &mut Seen, now: Instant) {
        let length = now.saturating_duration_since(seen.since);
        if length >= WINDOW_MAX || (length >= WINDOW && seen.writes.count() >= SAMPLES) {
            self.close(seen, now);
        }
    }

    fn close(&self, seen: &mut Seen, now: Instant) {
        let writes = std::mem::take(&mut seen.writes);
        seen.pace.step(&Window {
            length: now.saturating_duration_since(seen.since),
            writes: writes.count(),
            latency: writes.p95(),
            disturbed: seen.disturbed,
        });
        self.rate.store(seen.pace.rate(), Ordering::Relaxed);
        let lately = seen.flowed.is_some_and(|last| now <= last + AFTERMATH);
        seen.disturbed = lately || self.installing.load(Ordering::Relaxed) > 0;
        seen.since = now;
    }
}

/// Spreads bytes over time.
#[derive(Debug)]
struct Throttle {
    /// When everything that was taken so far has had its time.
    free_at: Mutex<Instant>,
    total: AtomicU64,
}

impl Throttle {
    fn new(now: Instant) -> Self {
        Self { free_at: Mutex::new(now), total: AtomicU64::new(0) }
    }

    /// Waits for the turn of `bytes` at `rate` bytes a second.
    fn take(&self, bytes: usize, rate: u64) {
        self.total.fetch_add(bytes as u64, Ordering::Relaxed);
        let time = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64).min(DEBT_MAX);
        let start = {
            let mut free_at = self.free_at.lock();
            let start = (*free_at).max(Instant::now());
            *free_at = start + time;
            start
        };
        std::thread::sleep(start.saturating_duration_since(Instant::now()));
    }
}
