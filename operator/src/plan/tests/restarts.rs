//! What nobody does on a doubt: to restart a living node that others need, and to act on old reports.

use super::super::fixture::{Fixture, member};
use super::{blocked, one, overdue};
use crate::api::spec::ReprotectionMode;
use crate::api::status::OperationType;
use crate::plan::Action;

/// A cluster whose pods are all to be made anew.
fn outdated(nodes: i32) -> Fixture {
    let mut fixture = Fixture::new(nodes);
    fixture.observed.stateful_set.as_mut().unwrap().update_revision = Some("r2".to_owned());
    fixture
}

#[test]
fn a_ready_pod_whose_node_nobody_knows_counts_for_no_majority() {
    let mut fixture = outdated(3);
    fixture.report().nodes.retain(|member| member.id != 1);
    fixture.report().sequencer = Some(2);
    let plan = fixture.step();
    assert_eq!(plan.action, None);
    assert_eq!(blocked(&fixture), one("Restart/demo-2", "StoreNotHealthy"));
    assert_eq!(fixture.store(0).reason.as_deref(), Some("StoreWedged"));
}

#[test]
fn a_living_node_is_not_restarted_unless_the_others_are_a_majority() {
    // Its pod is outdated and not ready, so it would be next, whatever it is.
    let mut fixture = outdated(3);
    fixture.unready(2);
    fixture.pod(2).running = true;
    let plan = fixture.clone().step();
    assert!(matches!(plan.action, Some(Action::DeletePod { pod, .. }) if pod == "demo-2"));
    // What it was before its disk was emptied still counts for majorities.
    let mut emptied = fixture.clone();
    emptied.member(2).state = "Down".to_owned();
    emptied.report().nodes.push(member(4, 2));
    emptied.cluster.spec.reprotection.mode = ReprotectionMode::Off;
    assert_eq!(emptied.step().action, None);
    assert!(blocked(&emptied).contains(&one("Restart/demo-2", "NoQuorum")[0]));
    // One that joins does not count yet.
    fixture.member(1).state = "Joining".to_owned();
    assert_eq!(fixture.step().action, None);
    assert_eq!(blocked(&fixture), one("Restart/demo-2", "NoQuorum"));
    // One or two nodes have nobody to spare them.
    let mut pair = outdated(2);
    pair.cluster.spec.replicas = 1;
    assert!(matches!(pair.step().action, Some(Action::DeletePod { .. })));
}

#[test]
fn a_living_node_is_not_restarted_while_any_copy_is_incomplete() {
    let mut fixture = outdated(3);
    fixture.unready(2);
    fixture.pod(2).running = true;
    fixture.report().ranges.fully_replicated = 9;
    assert_eq!(fixture.step().action, None);
    assert_eq!(blocked(&fixture), one("Restart/demo-2", "FullyReplicated"));
    // If it does not answer, then it is the one that lacks them.
    fixture.member(2).state = "Down".to_owned();
    assert!(matches!(fixture.step().action, Some(Action::DeletePod { .. })));
}

#[test]
fn what_the_nodes_said_before_is_nothing_to_act_on() {
    let silent = Some("demo-0: no answer in time".to_owned());
    let mut fixture = outdated(3);
    fixture.observed.report_error.clone_from(&silent);
    assert_eq!(fixture.step().action, None);
    assert_eq!(blocked(&fixture), one("Restart/demo-2", "StatusStale"));

    // Also between writing down and doing.
    let mut fixture = outdated(3);
    assert!(fixture.step().action.is_some());
    fixture.observed.report_error.clone_from(&silent);
    assert_eq!(fixture.step().action, None);

    let mut fixture = overdue(5);
    fixture.observed.report_error.clone_from(&silent);
    assert_eq!(fixture.step().action, None);
    assert_eq!(blocked(&fixture), one("Reprotect/demo-2", "StatusStale"));

    // A pod whose node had not joined when they answered last stays.
    let mut fixture = Fixture::new(4);
    fixture.report().nodes.pop();
    fixture.unready(3);
    let mut store = fixture.store(3).clone();
    (store.served, store.store_id) = (false, None);
    fixture.cluster.status.as_mut().unwrap().stores[3] = store;
    fixture.cluster.spec.nodes = 3;
    fixture.step();
    assert_eq!(fixture.status().operation.as_ref().unwrap().kind, OperationType::ScaleDown);
    fixture.observed.report_error = silent;
    assert_eq!(fixture.step().status.nodes, 4);
    fixture.observed.report_error = None;
    assert_eq!(fixture.step().status.nodes, 3);
}
