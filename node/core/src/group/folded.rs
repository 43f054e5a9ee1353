//! A group at rest, as little as it can be.
//!
//! Of ten thousand groups, nearly all have nothing to do. The raft library keeps a few kilobytes for each:
//! progress of members, maps of votes, buffers. When everybody has everything, that is all the same
//! number.
//!
//! Invariants: a group is folded only if its log is durable, committed and applied to the end, nothing
//! waits or is under way, no member changes, it knows its leader, and, if it leads itself, each member
//! has all of its log. What is kept says all that the library knew for safety: term, vote, log, members
//! and role. Unfolded, a leader leads in the same term: its memory was not lost, it was written down more
//! shortly. What is not kept is only guesses: who was heard of lately (the leader believes everybody for
//! one election timeout), and how fast entries may be sent (it probes first).

use super::Working;
use crate::effects::LogReads;
use crate::ids::{RangeId, ReplicaId, Term};
use crate::log_view::LogView;
use crate::state::Applied;
use raft::StateRole;
use raft::eraftpb::{ConfState, HardState};
use std::sync::Arc;

/// See the module.
pub(super) struct Folded {
    /// The term.
    pub term: Term,
    /// Who leads it.
    pub leader: ReplicaId,
    /// For whom this replica voted in it; 0: nobody.
    vote: u64,
    /// The end of the log; committed and applied.
    pub last: Applied,
    /// Where the log was cut.
    pub truncated: Applied,
    /// The members.
    pub members: Arc<ConfState>,
}

impl Folded {
    /// A group, folded; `None` if there is more to know of it.
    pub(super) fn of(working: &Working, me: ReplicaId) -> Option<Self> {
        let raft = &working.raft.raft;
        let log = raft.store();
        let last = raft.raft_log.last_index();
        let whole = last > 0
            && working.is_quiet()
            && working.persisted == last
            && [raft.raft_log.persisted, raft.raft_log.committed, raft.raft_log.applied]
                .iter()
                .all(|index| *index == last);
        let idle = raft.lead_transferee.is_none()
            && raft.pending_request_snapshot == raft::INVALID_INDEX
            && raft.pending_read_count() == 0
            && raft.ready_read_count() == 0
            && !log.has_snapshots();
        let members = log.conf_state();
        let settled = members.voters_outgoing.is_empty() && members.learners_next.is_empty();
        let led = match raft.state {
            StateRole::Leader => {
                raft.leader_id == me.0
                    && raft.promotable()
                    && !raft.has_pending_conf()
                    && raft.prs().iter().all(|(_, member)| {
                        member.matched == last && member.state != raft::ProgressState::Snapshot
                    })
            }
            StateRole::Follower => ![raft::INVALID_ID, me.0].contains(&raft.leader_id),
            StateRole::Candidate | StateRole::PreCandidate => false,
        };
        if !(whole && idle && settled && led) {
            return None;
        }
        Some(Self {
            term: raft.term,
            leader: ReplicaId(raft.leader_id),
            vote: raft.vote,
            last: Applied { index: last, term: log.term_at(last)? },
            truncated: log.truncated(),
            members: members.clone(),
        })
    }

    /// All members.
    pub(super) fn all(&self) -> impl Iterator<Item = u64> {
        self.members.voters.iter().chain(&self.members.learners).copied()
    }

    /// Term, vote and commit.
    pub(super) fn hard_state(&self) -> HardState {
        let (term, vote, commit) = (self.term, self.vote, self.last.index);
        HardState { term, vote, commit, ..HardState::default() }
    }

    /// The log.
    pub(super) fn view(&self, range: RangeId, reader: Arc<dyn LogReads>) -> LogView {
        let mut view = LogView::new(
            range,
            reader,
            self.truncated,
            self.last.index,
            self.hard_state(),
            self.members.clone(),
        );
        view.set_end(self.last);
        view
    }

    /// The group as it was.
    pub(super) fn unfold(
        &self,
        range: RangeId,
        me: ReplicaId,
        reader: Arc<dyn LogReads>,
        election_ticks: usize,
    ) -> Working {
        let view = self.view(range, reader);
        let mut working = Working::new(me, view, self.last.index, election_ticks);
        let raft = &mut working.raft.raft;
        raft.become_follower(self.term, self.leader.0);
        if self.leader == me {
            raft.state = StateRole::Leader;
            // Changes of members up to here are applied.
            raft.pending_conf_index = self.last.index;
            for (id, member) in raft.mut_prs().iter_mut() {
                member.matched = self.last.index;
                member.committed_index = self.last.index;
                member.recent_active = true;
                if *id == me.0 {
                    member.become_replicate();
                } else {
                    member.become_probe();
                }
            }
        }
        // The role is no news: nothing is to be written or sent because of it.
        let ready = working.raft.ready();
        let number = ready.number();
        working.raft.advance_append_async(ready);
        working.raft.on_persist_ready(number);
        working
    }
}

#[cfg(test)]
mod tests;
