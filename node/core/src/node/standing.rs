//! Elections after a leader is known to be gone.
//!
//! ```text
//!  rank 0:  at once       20   60  140      300 ms
//!  rank 1:                   60 80  120     200        360 ms
//! ```
//!
//! The best placed replica stands at once. That may be in vain: who has not noticed yet that the leader is
//! gone protects it and does not answer, and whoever notices last may not be able to win, because its log is
//! shorter. So each stands again, soon and then less soon.
//!
//! Invariants: who stands first only asks whether it would win (pre-vote), which changes nothing; nobody
//! stands again here once somebody leads or the term has moved, since then an election is under way and
//! has its own time; the number of attempts is bounded, so that a majority that is gone costs little. What
//! comes after them is the election timeout.

use super::Node;
use crate::effects::Millis;
use crate::ids::{NodeId, RangeId, Term};

/// Between the first attempts of replicas of successive rank: an election takes less, unless something is
/// wrong.
const RANK_MS: Millis = 60;
/// From the first attempt to the second; from there on twice as long each time. All survivors notice
/// within a few milliseconds that a process is gone, so this is enough for nearly all.
const AGAIN_MS: Millis = 20;
/// Attempts after the first one.
const AGAIN: u32 = 4;

/// What is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// The term in which the leader was lost.
    term: Term,
    /// When to stand next.
    at: Millis,
    /// Attempts that were made.
    made: u32,
}

impl Standing {
    /// The leader of this term is gone, and there are so many better placed.
    fn new(now: Millis, term: Term, rank: usize) -> Self {
        Self { term, at: now + rank as Millis * RANK_MS, made: 0 }
    }

    /// An attempt is made now. What comes next, if anything.
    fn made(self, now: Millis) -> Option<Self> {
        let next = Self { at: now + (AGAIN_MS << self.made), made: self.made + 1, ..self };
        (self.made < AGAIN).then_some(next)
    }
}

impl Node {
    /// A node is gone: its ranges need new leaders, the best placed first.
    pub(super) fn leader_gone(&mut self, node: NodeId) {
        let (now, peers) = (self.now, &self.peers);
        for (range, replica) in self.replicas.iter_mut() {
            if replica.leader_node() != Some(node) {
                continue;
            }
            replica.wake(&mut self.awake);
            replica.group.forget_leader();
            let rank = replica
                .rank(|peer| peer != node && peers.get(&peer).is_none_or(|known| !known.down));
            self.standing.insert(*range, Standing::new(now, replica.group.term(), rank));
            self.dirty.insert(*range);
        }
        self.stand();
    }

    /// Stands for those elections that are due.
    pub(super) fn stand(&mut self) {
        let now = self.now;
        let due = self.standing.iter().filter(|(_, standing)| standing.at <= now);
        let due: Vec<(RangeId, Standing)> = due.map(|(range, due)| (*range, *due)).collect();
        for (range, standing) in due {
            self.standing.remove(&range);
            let Some(replica) = self.replicas.get_mut(&range) else { continue };
            if replica.group.leader().is_some() || replica.group.term() != standing.term {
                continue;
            }
            replica.group.campaign();
            self.dirty.insert(range);
            self.standing.extend(standing.made(now).map(|next| (range, next)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(rank: usize) -> Vec<Millis> {
        let first = Standing::new(1000, 7, rank);
        let all = std::iter::successors(Some(first), |last| last.made(last.at));
        all.map(|standing| standing.at - 1000).collect()
    }

    #[test]
    fn each_stands_a_few_times_and_not_all_at_once() {
        assert_eq!(times(0), [0, 20, 60, 140, 300]);
        assert_eq!(times(1), [60, 80, 120, 200, 360]);
        assert_eq!(times(4).len(), 1 + AGAIN as usize);
    }
}
