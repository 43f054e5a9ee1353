//! Three members that elect, rest and go on.

use super::super::{Form, Group};
use crate::effects::{LogReads, ReplicaBoot};
use crate::ids::{Index, RangeId, ReplicaId};
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType, Message, MessageType,
};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Log(Mutex<Vec<Entry>>);

impl LogReads for Log {
    fn entries(&self, _: RangeId, low: Index, high: Index, _: u64) -> Vec<Entry> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|entry| (low..high).contains(&entry.index)).cloned().collect()
    }
}

struct Three {
    groups: Vec<Group>,
    logs: Vec<Arc<Log>>,
    applied: Vec<Index>,
}

impl Three {
    fn new() -> Self {
        let logs: Vec<Arc<Log>> = (0..3).map(|_| Arc::default()).collect();
        let members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        let boot = || ReplicaBoot { range: RangeId(2), ..ReplicaBoot::default() };
        let groups = logs
            .iter()
            .zip(1..)
            .map(|(log, id)| Group::new(ReplicaId(id), boot(), members.clone(), log.clone(), 10));
        Self { groups: groups.collect(), logs, applied: vec![0; 3] }
    }

    /// Everything that follows from what happened, with a disk that is done at once.
    fn settle(&mut self) -> Vec<Message> {
        let mut all: Vec<Message> = Vec::new();
        loop {
            let mut sent = Vec::new();
            for (place, group) in self.groups.iter_mut().enumerate() {
                while let Some(turn) = group.turn(1) {
                    sent.extend(turn.messages);
                    if let Some(write) = turn.write {
                        let mut log = self.logs[place].0.lock().unwrap();
                        for entry in write.entries {
                            log.retain(|old| old.index < entry.index);
                            log.push(entry);
                        }
                    }
                    sent.extend(group.persisted(1));
                    for entry in &turn.committed {
                        if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
                            let change = ConfChangeV2::parse_from_bytes(&entry.data);
                            group.apply_change(&change.expect("it was proposed"));
                        }
                    }
                    if let Some(last) = turn.committed.last() {
                        self.applied[place] = last.index;
                        group.applied(last.index);
                    }
                }
            }
            if sent.is_empty() {
                return all;
            }
            for message in sent {
                all.push(message.clone());
                let to = message.to as usize - 1;
                assert_eq!(self.groups[to].step(message), Ok(()));
            }
        }
    }

    fn elected() -> Self {
        let mut three = Self::new();
        three.groups[0].campaign();
        three.settle();
        assert!(three.groups[0].propose(b"one".to_vec()));
        three.settle();
        // The followers hear what is committed.
        three.groups[0].tick();
        three.settle();
        assert!(three.groups[0].all_caught_up(three.applied[0]));
        three
    }

    fn are_folded(&self) -> Vec<bool> {
        self.groups.iter().map(|group| matches!(group.form, Form::Folded(_))).collect()
    }
}

/// What is to be the same, whatever form a group has.
fn seen(group: &Group) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut progress: Vec<_> = group
        .progress()
        .into_iter()
        .map(|(id, matched, _, snapshot)| (id, matched, snapshot))
        .collect();
    progress.sort_unstable();
    (
        (group.term(), group.is_leader(), group.leader(), group.committed(), group.last_index()),
        (group.hard_state(), group.members().clone(), group.truncated(), progress),
        (group.term_at(group.last_index()), group.is_quiet(), group.is_waiting()),
    )
}

#[test]
fn a_group_that_rested_is_what_it_was() {
    let mut three = Three::elected();
    let before: Vec<_> = three.groups.iter().map(seen).collect();
    three.groups.iter_mut().for_each(Group::rest);
    assert_eq!(three.are_folded(), [true; 3]);
    assert_eq!(three.groups.iter().map(seen).collect::<Vec<_>>(), before);
    for group in &mut three.groups {
        group.unfold();
    }
    assert_eq!(three.are_folded(), [false; 3]);
    assert_eq!(three.groups.iter().map(seen).collect::<Vec<_>>(), before);
    // Nothing is to be written or sent because of it.
    assert!(three.settle().is_empty());
}

#[test]
fn a_leader_that_rested_leads_in_the_same_term() {
    let mut three = Three::elected();
    let (term, last) = (three.groups[0].term(), three.groups[0].last_index());
    three.groups.iter_mut().for_each(Group::rest);
    assert!(three.groups[0].propose(b"two".to_vec()));
    let sent = three.settle();
    assert_eq!(three.applied[0], last + 1);
    assert_eq!(three.groups[0].term(), term);
    assert!(sent.iter().all(|message| message.term == term));
    assert!(three.logs.iter().all(|log| log.0.lock().unwrap().len() as Index == last + 1));
}

#[test]
fn followers_that_rested_vote_once() {
    let mut three = Three::elected();
    let term = three.groups[0].term();
    three.groups.iter_mut().for_each(Group::rest);
    // The vote of the term was given to the first: nobody else gets it.
    let mut ask = Message { from: 3, to: 2, term, index: 99, log_term: term, ..Message::default() };
    ask.set_msg_type(MessageType::MsgRequestVote);
    three.groups[1].step(ask).unwrap();
    let turn = three.groups[1].turn(1).unwrap();
    let rejects = |message: &Message| {
        message.get_msg_type() != MessageType::MsgRequestVoteResponse || message.reject
    };
    assert!(turn.messages.iter().all(rejects), "{:?}", turn.messages);
    assert_eq!(three.groups[1].hard_state().vote, 1);
    // When the leader is gone, another one is elected, in the next term.
    three.groups[1].forget_leader();
    three.groups[2].forget_leader();
    three.groups[1].campaign();
    three.settle();
    assert!(three.groups[1].is_leader() && !three.groups[0].is_leader());
    assert_eq!(three.groups[1].term(), term + 1);
}

#[test]
fn who_has_something_to_do_is_not_folded() {
    let mut three = Three::elected();
    assert!(three.groups[0].propose(b"two".to_vec()));
    three.groups[0].rest();
    assert!(!three.are_folded()[0], "an entry is on its way");
    three.settle();
    three.groups[0].transfer(ReplicaId(2));
    three.groups[0].rest();
    assert!(!three.are_folded()[0], "it is about to hand over");
    let mut alone = Three::new();
    alone.groups[0].rest();
    assert!(!alone.are_folded()[0], "it knows no leader");
}

#[test]
fn late_answers_do_not_wake_a_leader_and_newer_terms_do() {
    let mut three = Three::elected();
    three.groups.iter_mut().for_each(Group::rest);
    let term = three.groups[0].term();
    let mut answer = Message { from: 2, to: 1, term, ..Message::default() };
    answer.set_msg_type(MessageType::MsgHeartbeatResponse);
    three.groups[0].step(answer.clone()).unwrap();
    assert!(three.are_folded()[0]);
    answer.term += 1;
    three.groups[0].step(answer).unwrap();
    assert!(!three.groups[0].is_leader());
    assert_eq!(three.groups[0].term(), term + 1);
}

/// The range is not served between the halves.
#[test]
fn the_second_half_of_a_joint_change_waits_for_no_tick() {
    let mut three = Three::elected();
    let mut single = ConfChangeSingle { node_id: 3, ..ConfChangeSingle::default() };
    single.set_change_type(ConfChangeType::RemoveNode);
    let mut change = ConfChangeV2::default();
    change.mut_changes().push(single);
    change.set_transition(ConfChangeTransition::Implicit);
    let before = three.groups[0].last_index();
    assert!(three.groups[0].propose_change(Vec::new(), change));
    three.settle();
    assert_eq!(three.groups[0].last_index(), before + 2);
    assert_eq!(three.groups[0].members().voters, [1, 2]);
    assert!(!three.groups[0].is_joint());
}
