//! Whose turn it is to receive a raft snapshot.
//!
//! ```text
//!  first of those who are here: as fast as it comes, once there is room
//!  all others:                  a piece every PAUSE, so that their senders see that this node lives
//! ```
//!
//! Snapshots that are received side by side are all complete late, and take memory for all of them, or a
//! file each. One after the other takes as long, and the first can be installed while the second comes.
//!
//! Invariants: in the order in which they came; one that hears nothing of its sender for [`AWAY`] holds up
//! nobody until it does; nobody waits longer than twice [`PAUSE`] for a piece.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two pieces of a snapshot whose turn it is not. Far less than what its sender takes for the end of
/// a connection, since the sender learns of room in a buffer only when a sixteenth of it is free, and
/// buffers of connections have up to 32 MiB.
const PAUSE: Duration = Duration::from_millis(250);

/// After so long without a word of its sender, a snapshot holds up nobody any more.
const AWAY: Duration = Duration::from_secs(1);

/// All raft snapshots that a node receives.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    last: u64,
    /// In the order in which they came.
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// It has been waiting for its sender since then.
    away: Option<Instant>,
}

impl Queue {
    /// The first of those who are not away for too long.
    fn first(&self, now: Instant) -> Option<u64> {
        let here = |entry: &&Entry| entry.away.is_none_or(|since| now < since + AWAY);
        self.entries.iter().find(here).map(|entry| entry.number)
    }

    fn set_away(&mut self, number: u64, away: Option<Instant>) {
        let mine = self.entries.iter_mut().find(|entry| entry.number == number);
        mine.expect("it is in the queue until it is dropped").away = away;
    }
}

impl Turns {
    /// One more snapshot is received, until the answer is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Turn {
        let mut queue = self.queue.lock();
        queue.last += 1;
        let number = queue.last;
        queue.entries.push_back(Entry { number, away: Some(Instant::now()) });
        Turn { turns: Arc::clone(self), number }
    }
}

/// The place of one snapshot.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    number: u64,
}

impl Turn {
    /// Waits until the next piece may be received. When it is this one's turn, `room` waits for room, at most
    /// for the time that it is given.
    pub(super) fn wait(&self, room: impl FnOnce(Duration)) {
        let until = Instant::now() + PAUSE;
        let mut queue = self.turns.queue.lock();
        queue.set_away(self.number, None);
        let mut mine = queue.first(Instant::now()) == Some(self.number);
        while !mine && !self.turns.changed.wait_until(&mut queue, until).timed_out() {
            mine = queue.first(Instant::now()) == Some(self.number);
        }
        if mine {
            drop(queue);
            room(PAUSE);
            queue = self.turns.queue.lock();
        }
        queue.set_away(self.number, Some(Instant::now()));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.queue.lock().entries.retain(|entry| entry.number != self.number);
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(turn: &Turn) -> (bool, Duration) {
        let (start, mut mine) = (Instant::now(), false);
        turn.wait(|_| mine = true);
        (mine, start.elapsed())
    }

    #[test]
    fn one_after_the_other_and_the_others_slowly() {
        let turns = Arc::new(Turns::default());
        let (first, second) = (turns.enter(), turns.enter());
        for _ in 0..1000 {
            assert!(wait(&first).0);
        }
        let (mine, took) = wait(&second);
        assert!(!mine && took >= PAUSE, "{took:?}");
        assert!(wait(&first).0);
        drop(first);
        assert!(wait(&second).0);
        drop(second);
        assert!(turns.queue.lock().entries.is_empty());
    }

    #[test]
    fn who_waits_for_its_sender_holds_up_nobody() {
        let turns = Arc::new(Turns::default());
        let (first, second) = (turns.enter(), turns.enter());
        assert!(wait(&first).0);
        let (start, mut pieces) = (Instant::now(), 0);
        while !wait(&second).0 {
            pieces += 1;
            assert!(start.elapsed() < 20 * AWAY, "it is held up for ever");
        }
        let took = start.elapsed();
        assert!(pieces > 0 && took >= AWAY - PAUSE, "{pieces} pieces, {took:?}");
        assert!(wait(&second).0, "it is alone");
        assert!(wait(&first).0, "it is here again");
    }
}
