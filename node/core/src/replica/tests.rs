//! When a lease may begin.

use super::*;
use crate::bootstrap::{START, initial_hard_state};
use crate::command::Command;
use crate::effects::{LogReads, ReplicaBoot};
use crate::state::tests::Rows;
use raft::eraftpb::{Entry as LogEntry, HardState, Message, MessageType};
use std::sync::Arc;

struct NoDisk;

impl LogReads for NoDisk {
    fn entries(&self, _: RangeId, _: Index, _: Index, _: u64) -> Vec<LogEntry> {
        unreachable!("everything is in the cache")
    }
}

/// The only voter of its range, leading it.
fn leader() -> Replica {
    let voter =
        ReplicaDescriptor { replica: ReplicaId(1), node: NodeId(1), kind: ReplicaKind::Voter };
    let descriptor = RangeDescriptor {
        id: RangeId(2),
        span: Span { start: Bytes::new(), end: None },
        generation: 1,
        replicas: vec![voter],
        next_replica: 2,
    };
    let rows: Vec<(Bytes, Bytes)> = Replica::initial_rows(&descriptor)
        .into_iter()
        .filter_map(|row| Some((row.key, row.value?)))
        .collect();
    let boot = ReplicaBoot {
        range: descriptor.id,
        hard_state: initial_hard_state(HardState::default()),
        truncated: START,
        last_index: START.index,
        applied: START,
        ..ReplicaBoot::default()
    };
    let members = Replica::load_members(&rows).expect("readable");
    let group = Group::new(voter.replica, boot, members, Arc::new(NoDisk), 10);
    let mut replica = Replica::new(descriptor.id, group, START, &rows).expect("readable");
    replica.group.campaign();
    assert!(!replica.has_settled(), "its first entry is not applied");
    run(&mut replica);
    replica
}

/// Writes, commits and applies everything there is.
fn run(replica: &mut Replica) {
    while let Some(turn) = replica.group.turn(1) {
        replica.apply(turn.committed, &Rows::default());
        replica.group.persisted(1);
    }
}

fn propose(replica: &mut Replica, revision: Revision) -> RequestId {
    let id = RequestId { gateway: 7, sequence: revision as u64 };
    let change = Change::Keys(Vec::new());
    let command = Command { id, settled_below: 0, revision, change };
    assert!(replica.group.propose(Entry::Commands(vec![command]).encode()));
    id
}

/// A request of the former holding may be asked again: the next one has to know it.
#[test]
fn a_lease_begins_when_all_that_the_last_one_proposed_is_applied() {
    let mut replica = leader();
    assert!(replica.has_settled());
    replica.lease = Lease::Held(replica.group.term());
    let id = propose(&mut replica, 10);
    replica.drop_lease();
    assert_eq!(replica.dedup.seen(id), Seen::New);
    assert!(!replica.has_settled());
    run(&mut replica);
    assert_eq!(replica.dedup.seen(id), Seen::Done(10));
    assert!(replica.has_settled());
}

#[test]
fn proposals_that_another_leader_replaced_are_not_waited_for() {
    let mut replica = leader();
    let (term, applied) = (replica.group.term(), replica.applied);
    for revision in [10, 11, 12] {
        propose(&mut replica, revision);
    }
    let mut append = Message::default();
    append.set_msg_type(MessageType::MsgAppend);
    (append.from, append.to, append.term) = (2, 1, term + 1);
    (append.index, append.log_term) = (applied.index, applied.term);
    let other = LogEntry { index: applied.index + 1, term: term + 1, ..LogEntry::default() };
    append.set_entries(vec![other].into());
    replica.group.step(append).expect("a leader may say so");
    run(&mut replica);
    replica.group.campaign();
    run(&mut replica);
    assert_eq!(replica.applied.index, applied.index + 2);
    assert!(replica.has_settled());
}

/// What is being installed would be written after the neighbour has taken everything over.
#[test]
fn nothing_is_taken_in_while_a_raft_snapshot_is_installed() {
    let mut replica = leader();
    let at = replica.applied;
    let later = Applied { index: at.index + 5, term: at.term + 1 };
    assert!(replica.may_be_taken_in(at) && !replica.may_be_taken_in(later));
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgSnapshot);
    (message.from, message.to, message.term) = (2, 1, later.term);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (later.index, later.term);
    metadata.mut_conf_state().voters = vec![1, 2];
    replica.group.step(message).expect("a leader may send one");
    assert!(!replica.may_be_taken_in(at), "it was received");
    assert!(replica.group.turn(1).expect("it is to be installed").snapshot.is_some());
    assert!(!replica.may_be_taken_in(at), "it is being installed");
    let (position, _) = replica.group.installed(2).expect("it was being installed");
    replica.applied = position;
    replica.group.persisted(2);
    assert!(replica.may_be_taken_in(later));
}

/// A node may hold ten thousand replicas, nearly all of which sleep.
#[test]
fn a_replica_at_rest_takes_little_memory() {
    let mut replica = leader();
    let known = replica.descriptor.as_deref().cloned().map(Arc::new);
    replica.rest(known.as_ref(), &mut Alike::default());
    assert!(replica.group.is_folded());
    assert!(Arc::ptr_eq(replica.descriptor.as_ref().unwrap(), known.as_ref().unwrap()));
    // Each is an allocation of its own, of one of the sizes that allocators have.
    const { assert!(size_of::<Replica>() <= 512 && Group::FOLDED_BYTES <= 64) };
    assert!(replica.seldom.there().is_none() && replica.merging.there().is_none());
    // It goes on where it was.
    let applied = replica.applied.index;
    propose(&mut replica, 10);
    run(&mut replica);
    assert_eq!(replica.applied.index, applied + 1);
}
