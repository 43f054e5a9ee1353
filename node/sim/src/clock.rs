//! The clock of a simulated node: not the world's.
//!
//! Invariant: a node's clock never goes back while its process lives; its zero has no meaning.

use holdfast_core::effects::Millis;

/// Maps the world's time to the node's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What the node's clock showed at `since`.
    base: Millis,
    /// The world's time at which `base` and `rate` began to hold.
    since: Millis,
    /// The node's milliseconds in a million of the world's.
    rate_ppm: u64,
}

impl Clock {
    /// A clock that shows `base` at the world's `now` and runs at `rate_ppm`.
    pub fn new(base: Millis, now: Millis, rate_ppm: u64) -> Self {
        Self { base, since: now, rate_ppm }
    }

    /// What the node sees at the world's `now`.
    pub fn at(&self, now: Millis) -> Millis {
        self.base + (now - self.since) * self.rate_ppm / 1_000_000
    }

    /// Jumps forward by `by`.
    pub fn jump(&mut self, now: Millis, by: Millis) {
        *self = Self { base: self.at(now) + by, since: now, rate_ppm: self.rate_ppm };
    }
}
