//! Connections between the simulated nodes.
//!
//! As over TCP: between two nodes there is a session or none; within a session each direction is
//! an ordered stream that loses nothing; what is lost, is lost with the session. A silent
//! partition holds a direction back; whatever was held arrives late, or is lost with the session.
//!
//! Invariant: a message is delivered only in the session in which it was sent.

use holdfast_core::effects::Millis;
use holdfast_core::ids::NodeId;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How messages travel.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// Shortest, in milliseconds.
    pub min: Millis,
    /// Longest in normal operation.
    pub max: Millis,
    /// One message in so many is much later, and everything behind it; 0 is never.
    pub slow_one_in: u32,
    /// How late a slow one may be.
    pub slow_max: Millis,
}

impl Default for Delays {
    fn default() -> Self {
        Self { min: 0, max: 2, slow_one_in: 0, slow_max: 0 }
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then, in this session.
    Arrives(Millis, u64),
    /// It waits for the direction to open, in this session.
    Held(u64),
    /// There is no session.
    Lost,
}

#[derive(Debug, Default)]
struct Direction {
    /// The last arrival planned: later messages arrive no sooner.
    last_arrival: Millis,
    held: VecDeque<(u64, Vec<u8>)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Network {
    /// How messages travel.
    pub delays: Delays,
    sessions: BTreeMap<(NodeId, NodeId), u64>,
    directions: BTreeMap<(NodeId, NodeId), Direction>,
    blocked: BTreeSet<(NodeId, NodeId)>,
    next_session: u64,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Network {
    /// The session between two nodes, if there is one.
    pub fn session(&self, a: NodeId, b: NodeId) -> Option<u64> {
        self.sessions.get(&pair(a, b)).copied()
    }

    /// True if messages get from `from` to `to`.
    pub fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        !self.blocked.contains(&(from, to))
    }

    /// Starts a session.
    pub fn connect(&mut self, a: NodeId, b: NodeId) -> u64 {
        self.next_session += 1;
        self.sessions.insert(pair(a, b), self.next_session);
        self.next_session
    }

    /// Ends a session; what is under way is lost.
    pub fn disconnect(&mut self, a: NodeId, b: NodeId) -> Option<u64> {
        for direction in [(a, b), (b, a)] {
            if let Some(direction) = self.directions.get_mut(&direction) {
                direction.held.clear();
            }
        }
        self.sessions.remove(&pair(a, b))
    }

    /// Silently stops one direction.
    pub fn block(&mut self, from: NodeId, to: NodeId) {
        self.blocked.insert((from, to));
    }

    /// Opens one direction again; gives what was held, in order.
    pub fn unblock(&mut self, from: NodeId, to: NodeId) -> Vec<(u64, Vec<u8>)> {
        self.blocked.remove(&(from, to));
        self.directions
            .get_mut(&(from, to))
            .map_or_else(Vec::new, |direction| std::mem::take(&mut direction.held).into())
    }

    /// Directions that are stopped.
    pub fn blocked(&self) -> Vec<(NodeId, NodeId)> {
        self.blocked.iter().copied().collect()
    }

    /// How long something takes from node to node.
    pub fn delay(&self, rng: &mut ChaCha8Rng) -> Millis {
        let Delays { min, max, slow_one_in, slow_max } = self.delays;
        if slow_one_in > 0 && rng.random_ratio(1, slow_one_in) {
            rng.random_range(max..=max.max(slow_max))
        } else {
            rng.random_range(min..=max)
        }
    }

    /// Decides about a message.
    pub fn fate(&mut self, now: Millis, from: NodeId, to: NodeId, rng: &mut ChaCha8Rng) -> Fate {
        let Some(session) = self.session(from, to) else { return Fate::Lost };
        if !self.is_open(from, to) {
            return Fate::Held(session);
        }
        Fate::Arrives(self.arrival(now, from, to, rng), session)
    }

    /// When something sent now arrives, behind all that was sent before.
    pub fn arrival(
        &mut self,
        now: Millis,
        from: NodeId,
        to: NodeId,
        rng: &mut ChaCha8Rng,
    ) -> Millis {
        let at = now + self.delay(rng);
        let direction = self.directions.entry((from, to)).or_default();
        direction.last_arrival = direction.last_arrival.max(at);
        direction.last_arrival
    }

    /// Keeps a message until the direction opens.
    pub fn hold(&mut self, from: NodeId, to: NodeId, session: u64, message: Vec<u8>) {
        self.directions.entry((from, to)).or_default().held.push_back((session, message));
    }
}
