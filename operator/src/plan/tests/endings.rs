//! Nodes that are gone for good: what was asked for is over, and nobody waits for them.

use super::super::fixture::{Fixture, member};
use super::{DELAY, accepted, overdue};
use crate::api::status::{Parked, StoreState};
use crate::plan::Action;
use crate::plan::operations::{Outcome, absorb};

#[test]
fn what_the_cluster_has_done_is_done_whoever_heard_the_answer() {
    for refused in [false, true] {
        let mut fixture = overdue(5);
        fixture.step();
        if refused {
            let now = fixture.now;
            let status = fixture.cluster.status.as_mut().unwrap();
            absorb(status, Outcome::Refused("n3 is gone for good already".to_owned()), now);
        }
        // It was taken on and carried out; meanwhile another node is away, which holds requests back.
        fixture.report().nodes.retain(|member| member.id != 3);
        fixture.kill(0);
        // Nobody who was cut off says so.
        fixture.report().sequencer = None;
        assert!(fixture.clone().step().status.operation.is_some());
        fixture.report().sequencer = Some(2);
        let plan = fixture.step();
        assert_eq!((plan.action, plan.status.operation), (None, None));
        assert!(plan.notices.iter().any(|notice| notice.reason == "StoreTombstoned"));
        assert_eq!(fixture.store(2).state, StoreState::Tombstoned);
    }
}

#[test]
fn a_node_that_is_gone_for_good_does_not_hold_back_help_for_the_next() {
    let mut fixture = Fixture::new(7);
    fixture.cluster.spec.reprotection.max_unhealthy = "0%".to_owned();
    fixture.kill(2);
    fixture.step();
    fixture.pass(DELAY).step();
    accepted(&mut fixture);
    fixture.report().nodes.retain(|member| member.id != 3);
    fixture.step();
    assert_eq!(fixture.store(2).state, StoreState::Tombstoned);
    fixture.kill(4);
    fixture.step();
    let plan = fixture.pass(DELAY).step();
    assert!(matches!(plan.action, Some(Action::Reprotect { node: 5, .. })), "{plan:?}");
}

#[test]
fn a_node_without_a_place_is_given_up_and_its_disk_is_remembered() {
    let mut fixture = Fixture::new(3);
    fixture.add_pod(3);
    fixture.observed.pods.remove("demo-3");
    let mut late = member(9, 3);
    late.state = "Down".to_owned();
    fixture.report().nodes.push(late);
    let status = fixture.cluster.status.as_mut().unwrap();
    status.parked.push(Parked {
        pod: "demo-3".to_owned(),
        store_id: 4,
        volume_uid: Some("pvc-before".to_owned()),
    });
    let plan = fixture.step();
    assert!(matches!(plan.action, Some(Action::Reprotect { node: 9, .. })), "{plan:?}");
    accepted(&mut fixture);
    // Its place is wanted again while that goes on: the disk is kept until its node is dead.
    fixture.cluster.spec.nodes = 4;
    fixture.add_pod(3);
    fixture.unready(3);
    fixture.report().nodes[3].state = "Condemned".to_owned();
    assert_eq!(fixture.settle().action, None);
    fixture.report().nodes.pop();
    fixture.step();
    let plan = fixture.step();
    let Some(Action::Replace { volume_uid, .. }) = plan.action else { panic!("{plan:?}") };
    assert_eq!(volume_uid.as_deref(), Some("pvc-3"));
}

#[test]
fn a_farewell_that_was_refused_keeps_no_help_from_others() {
    let mut fixture = Fixture::new(5);
    fixture.cluster.spec.nodes = 4;
    fixture.step();
    assert_eq!(fixture.pass(3).step().action, Some(Action::Drain { node: 5 }));
    let now = fixture.now;
    let status = fixture.cluster.status.as_mut().unwrap();
    absorb(status, Outcome::Refused("no spare node".to_owned()), now);
    // While all is well it is asked again, as the same.
    let id = fixture.status().operation.clone().unwrap().id;
    assert_eq!(fixture.step().status.operation.unwrap().id, id);
    fixture.kill(0);
    // It may have been taken on when nobody heard: then it goes on.
    let mut leaving = fixture.clone();
    leaving.member(4).state = "Leaving".to_owned();
    assert!(leaving.step().status.operation.is_some());
    assert_eq!(fixture.step().status.operation, None);
    let plan = fixture.pass(DELAY).step();
    assert!(matches!(plan.action, Some(Action::Reprotect { node: 1, .. })), "{plan:?}");
}
