//! What a raft group takes from a peer.
//!
//! The raft library trusts its peers: it ends the process on a message that contradicts what it
//! knows. A peer may be late, of another incarnation, or wrong, and none of that is a reason for
//! this node to end. So what would stop the library is refused here, with a reason.
//!
//! Invariant: a message that is admitted makes the library neither panic nor take something for
//! persisted, committed or confirmed that is not.

use super::Group;
use crate::ids::Index;
use raft::eraftpb::{ConfState, Message, MessageType};
use thiserror::Error;

/// Why a raft message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It says nothing of where or when it comes from.
    #[error("it names no sender or no term")]
    Anonymous,
    /// It asks this replica to act in the sender's name.
    #[error("it was forwarded: what a deposed leader decided must not enter its successor's log")]
    Forwarded,
    /// A raft snapshot is being installed: the sender will try again.
    #[error("a raft snapshot is being installed")]
    Installing,
    /// The leader takes this log for longer than it is: it means another incarnation of it.
    #[error("it commits up to {commit}, and the log ends at {last}")]
    CommitsBeyondLog {
        /// What it says is committed here.
        commit: Index,
        /// What there is.
        last: Index,
    },
    /// Entries that this leader never sent are acknowledged.
    #[error("it acknowledges entry {index}, and the log ends at {last}")]
    AcknowledgesBeyondLog {
        /// What it says that it has.
        index: Index,
        /// What there is.
        last: Index,
    },
    /// The entries do not follow one another.
    #[error("its entries do not follow one another from {after} on")]
    Gap {
        /// They should come after this one.
        after: Index,
    },
    /// A raft snapshot without a position, or with members that contradict each other.
    #[error("its raft snapshot has no position, or impossible members")]
    ImpossibleSnapshot,
}

impl Group {
    /// Is this a message that the library can take?
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn admit(&self, message: &Message) -> Result<(), Refusal> {
        let last = self.last_index();
        let kind = message.get_msg_type();
        // A follower's raft library forwards these; and answers to them confirm a leader (I6).
        if matches!(
            kind,
            MessageType::MsgPropose | MessageType::MsgReadIndex | MessageType::MsgReadIndexResp
        ) {
            return Err(Refusal::Forwarded);
        }
        if message.from == raft::INVALID_ID || message.from == self.me.0 || message.term == 0 {
            return Err(Refusal::Anonymous);
        }
        if self.is_installing() {
            return Err(Refusal::Installing);
        }
        if message.term < self.term() {
            // Of a time that is over: the library takes no more of it than that.
            return Ok(());
        }
        match kind {
            MessageType::MsgHeartbeat if message.commit > last => {
                Err(Refusal::CommitsBeyondLog { commit: message.commit, last })
            }
            MessageType::MsgAppend => {
                let after = message.index;
                // The library takes "term 0" for that of any entry that is not there.
                let nowhere = after > 0 && message.log_term == 0;
                let mut place = (after, message.log_term);
                let follow = message.entries.iter().all(|entry| {
                    let before = std::mem::replace(&mut place, (entry.index, entry.term));
                    entry.index == before.0 + 1 && (before.1..=message.term).contains(&entry.term)
                });
                if nowhere || !follow { Err(Refusal::Gap { after }) } else { Ok(()) }
            }
            MessageType::MsgAppendResponse
                if self.is_leader() && !message.reject && message.index > last =>
            {
                Err(Refusal::AcknowledgesBeyondLog { index: message.index, last })
            }
            MessageType::MsgSnapshot => {
                let metadata = message.get_snapshot().get_metadata();
                let placed = metadata.index > 0 && metadata.term > 0;
                if placed && is_possible(metadata.get_conf_state()) {
                    Ok(())
                } else {
                    Err(Refusal::ImpossibleSnapshot)
                }
            }
            _ => Ok(()),
        }
    }
}

/// Members as a group can have them: somebody votes, nobody has two parts.
fn is_possible(members: &ConfState) -> bool {
    let distinct = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.windows(2).all(|pair| pair[0] != pair[1]) && !ids.contains(&raft::INVALID_ID)
    };
    let (voters, outgoing) = (&members.voters, &members.voters_outgoing);
    let (learners, next) = (&members.learners, &members.learners_next);
    let joint = !outgoing.is_empty();
    !voters.is_empty()
        && distinct(&[voters.as_slice(), learners, next].concat())
        && distinct(&[outgoing.as_slice(), learners].concat())
        && next.iter().all(|id| outgoing.contains(id))
        && (joint || !members.auto_leave)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::{LogReads, ReplicaBoot};
    use crate::ids::{RangeId, ReplicaId};
    use crate::state::Applied;
    use raft::eraftpb::{Entry, Snapshot};
    use std::sync::Arc;

    const LAST: Index = 9;

    /// Entries 6 to 9 after the start at 5, all of term 5.
    struct Log;

    impl LogReads for Log {
        fn entries(&self, _: RangeId, low: Index, high: Index, _: u64) -> Vec<Entry> {
            (low..high.min(LAST + 1)).map(|index| entry(index, 5)).collect()
        }
    }

    fn entry(index: Index, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn members(voters: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), ..ConfState::default() }
    }

    fn group(voters: &[u64], last_index: Index) -> Group {
        let start = Applied { index: 5, term: 5 };
        let truncated = if last_index == 0 { Applied::default() } else { start };
        let boot = ReplicaBoot {
            range: RangeId(2),
            truncated,
            last_index,
            applied: truncated,
            ..ReplicaBoot::default()
        };
        Group::new(ReplicaId(1), boot, members(voters), Arc::new(Log), 10)
    }

    fn message(kind: MessageType) -> Message {
        let mut message = Message { from: 2, to: 1, term: 7, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    /// What a leader says to a replica of which it believes that it has its log.
    #[test]
    fn a_commit_for_a_log_that_is_not_there_is_refused() {
        let mut group = group(&[], 0);
        let heartbeat = Message { commit: 43, ..message(MessageType::MsgHeartbeat) };
        let refusal = Refusal::CommitsBeyondLog { commit: 43, last: 0 };
        assert_eq!(group.step(heartbeat), Err(refusal));
        assert_eq!(refusal.to_string(), "it commits up to 43, and the log ends at 0");
        assert_eq!(group.term(), 0, "nothing of it was taken");
        assert_eq!(group.step(message(MessageType::MsgHeartbeat)), Ok(()));
        assert_eq!(group.term(), 7);
    }

    #[test]
    fn entries_must_follow_one_another() {
        let append = |index: Index, log_term: u64, entries: &[(Index, u64)]| {
            let entries: Vec<Entry> = entries.iter().map(|(i, term)| entry(*i, *term)).collect();
            let mut message =
                Message { index, log_term, commit: 12, ..message(MessageType::MsgAppend) };
            message.set_entries(entries.into());
            group(&[1, 2, 3], LAST).step(message)
        };
        assert_eq!(append(9, 5, &[(10, 6), (11, 7)]), Ok(()));
        assert_eq!(append(4, 5, &[]), Ok(()));
        assert_eq!(append(20, 6, &[(21, 6)]), Ok(()), "the library asks for what is missing");
        assert_eq!(append(9, 5, &[(10, 6), (12, 6)]), Err(Refusal::Gap { after: 9 }));
        assert_eq!(append(9, 5, &[(10, 6), (11, 5)]), Err(Refusal::Gap { after: 9 }));
        assert_eq!(append(9, 5, &[(10, 8)]), Err(Refusal::Gap { after: 9 }));
        assert_eq!(append(30, 0, &[(31, 6)]), Err(Refusal::Gap { after: 30 }));
    }

    #[test]
    fn a_leader_takes_no_answer_to_what_it_never_sent() {
        let mut leader = group(&[1], LAST);
        leader.campaign();
        while let Some(turn) = leader.turn(1) {
            leader.applied(turn.committed.last().map_or(5, |entry| entry.index));
            leader.persisted(1);
        }
        assert!(leader.is_leader());
        let (last, term) = (leader.last_index(), leader.term());
        let answer = |index: Index, reject: bool| {
            let message = message(MessageType::MsgAppendResponse);
            Message { index, reject, term, ..message }
        };
        let refused = Err(Refusal::AcknowledgesBeyondLog { index: last + 1, last });
        assert_eq!(leader.step(answer(last, false)), Ok(()));
        assert_eq!(leader.step(answer(last + 1, false)), refused);
        assert_eq!(leader.step(answer(last + 1, true)), Ok(()), "it refuses entries: fine");
        let late = Message { term: term - 1, ..answer(last + 1, false) };
        assert_eq!(leader.step(late), Ok(()), "it is of a term that is over");
    }

    #[test]
    fn a_raft_snapshot_has_a_position_and_possible_members() {
        let offer = |index: Index, members: ConfState| {
            let mut snapshot = Snapshot::default();
            snapshot.mut_metadata().index = index;
            snapshot.mut_metadata().term = 6;
            snapshot.mut_metadata().set_conf_state(members);
            let mut message = message(MessageType::MsgSnapshot);
            message.set_snapshot(snapshot);
            group(&[], 0).step(message)
        };
        let impossible = Err(Refusal::ImpossibleSnapshot);
        assert_eq!(offer(20, members(&[1, 2])), Ok(()));
        assert_eq!(offer(0, members(&[1, 2])), impossible);
        assert_eq!(offer(20, members(&[])), impossible);
        assert_eq!(offer(20, ConfState { learners: vec![1], ..members(&[1, 2]) }), impossible);
        let joint = ConfState { voters_outgoing: vec![1, 3], auto_leave: true, ..members(&[1, 2]) };
        assert_eq!(offer(20, joint.clone()), Ok(()));
        assert_eq!(offer(20, ConfState { learners_next: vec![3], ..joint.clone() }), Ok(()));
        assert_eq!(offer(20, ConfState { learners_next: vec![4], ..joint }), impossible);
        assert_eq!(offer(20, ConfState { auto_leave: true, ..members(&[1, 2]) }), impossible);
    }

    #[test]
    fn nobody_speaks_in_anothers_name() {
        let mut group = group(&[1, 2, 3], LAST);
        for kind in
            [MessageType::MsgPropose, MessageType::MsgReadIndex, MessageType::MsgReadIndexResp]
        {
            assert_eq!(group.step(message(kind)), Err(Refusal::Forwarded));
        }
        let heartbeat = || message(MessageType::MsgHeartbeat);
        for strange in [
            Message { from: 0, ..heartbeat() },
            Message { from: 1, ..heartbeat() },
            Message { term: 0, ..heartbeat() },
        ] {
            assert_eq!(group.step(strange), Err(Refusal::Anonymous));
        }
    }
}
