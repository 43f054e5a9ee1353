//! As many nodes as copies: a machine that is gone for good with its disk is made good by a new volume.

use super::super::fixture::{Fixture, member, well};
use super::{DELAY, accepted, blocked, one, overdue};
use crate::api::REPLACE_ANNOTATION;
use crate::api::spec::ReplacementPolicy;
use crate::api::status::{OperationType, StoreState};
use crate::plan::operations::{Outcome, absorb};
use crate::plan::{Action, Plan};

/// `demo-2` of three is away for longer than the delay, and so is its machine.
fn lost() -> Fixture {
    let mut fixture = overdue(3);
    fixture.observed.hosts.as_mut().unwrap().remove("host-2");
    fixture
}

fn replaces(plan: &Plan) -> Option<&str> {
    match &plan.action {
        Some(Action::Replace { pod, volume_uid: Some(uid), gone_host: Some(host), .. }) => {
            assert_eq!((pod.as_str(), host.as_str()), ("demo-2", "host-2"));
            Some(uid)
        }
        _ => None,
    }
}

/// Kubernetes makes the pod anew, with an empty volume.
fn new_pod(fixture: &mut Fixture) {
    fixture.add_pod(2);
    fixture.observed.volumes.get_mut("demo-2").unwrap().uid = "pvc-new".to_owned();
    fixture.observed.volumes.get_mut("demo-2").unwrap().bound = false;
    fixture.unready(2);
    fixture.pod(2).uid = "pod-new".to_owned();
    fixture.pod(2).host = None;
}

#[test]
fn a_lost_machine_of_three_is_made_good() {
    let mut fixture = lost();
    let plan = fixture.step();
    assert_eq!(replaces(&plan), Some("pvc-2"));
    assert_eq!(fixture.store(2).state, StoreState::Replacing);
    assert_eq!(plan.status.given_up[0].store_id, 3);
    // A crash before it is done: the same again.
    assert_eq!(fixture.step().action, plan.action);
    accepted(&mut fixture);
    new_pod(&mut fixture);
    let plan = fixture.settle();
    assert_eq!((plan.action, &plan.status.operation), (None, &None));
    assert_eq!(fixture.store(2).state, StoreState::Pending);
    assert_eq!((fixture.store(2).store_id, fixture.store(2).member.as_str()), (None, "Absent"));
    // As long as its new node is not there, nobody can take the copies; and no second volume goes.
    assert_eq!(blocked(&fixture), one("Reprotect/demo-2", "NoSpareStore"));
    assert!(plan.status.next.contains("demo-2 joins"), "{}", plan.status.next);
    fixture.pass(10 * DELAY);
    assert_eq!(fixture.settle().action, None);
    // It joins on another machine: what it was is given up, by name.
    fixture.report().nodes.push(member(4, 2));
    fixture.pod(2).ready = true;
    fixture.pod(2).host = Some("host-1".to_owned());
    let plan = fixture.step();
    assert!(matches!(plan.action, Some(Action::Reprotect { node: 3, .. })), "{plan:?}");
    accepted(&mut fixture);
    fixture.member(2).state = "Up".to_owned();
    fixture.report().nodes.retain(|member| member.id != 3);
    let plan = fixture.step();
    assert!(plan.notices.iter().any(|notice| notice.reason == "StoreTombstoned"));
    let plan = fixture.settle();
    assert!(plan.status.given_up.is_empty() && plan.status.operation.is_none());
    assert_eq!((fixture.store(2).state, fixture.store(2).store_id), (StoreState::Healthy, Some(4)));
}

#[test]
fn out_of_service_counts_as_gone_and_not_ready_does_not() {
    let mut fixture = overdue(3);
    let host = fixture.observed.hosts.as_mut().unwrap().get_mut("host-2").unwrap();
    host.ready = false;
    assert_eq!(fixture.step().action, None);
    assert_eq!(blocked(&fixture), one("Reprotect/demo-2", "NoSpareStore"));
    let message = &fixture.status().blocked_by[0].message;
    assert!(message.contains("host-2") && message.contains("out-of-service"), "{message}");
    fixture.observed.hosts.as_mut().unwrap().get_mut("host-2").unwrap().out_of_service = true;
    assert_eq!(replaces(&fixture.step()), Some("pvc-2"));
}

#[test]
fn each_policy_has_its_own_way() {
    use ReplacementPolicy::{AfterReprotect, Manual, WhenNodeGone};
    for (policy, expected) in [(WhenNodeGone, true), (AfterReprotect, true), (Manual, false)] {
        let mut fixture = lost();
        fixture.cluster.spec.replacement.policy = policy;
        assert_eq!(replaces(&fixture.step()).is_some(), expected, "{policy:?}");
        // Whatever the policy: not while the machine may come back, unless a human says so.
        let mut fixture = overdue(3);
        fixture.cluster.spec.replacement.policy = policy;
        assert_eq!(fixture.step().action, None, "{policy:?}");
        assert_eq!(blocked(&fixture), one("Reprotect/demo-2", "NoSpareStore"));
        let annotations = fixture.cluster.metadata.annotations.get_or_insert_default();
        annotations.insert(REPLACE_ANNOTATION.to_owned(), "demo-2".to_owned());
        let plan = fixture.step();
        let Some(Action::Replace { gone_host: None, .. }) = plan.action else { panic!("{plan:?}") };
    }
    // Not even a human's word counts before the delay is over.
    let mut fixture = Fixture::new(3);
    fixture.kill(2);
    let annotations = fixture.cluster.metadata.annotations.get_or_insert_default();
    annotations.insert(REPLACE_ANNOTATION.to_owned(), "demo-2".to_owned());
    assert_eq!(fixture.step().action, None);
}

/// What holds the volume, and what is shown.
#[test]
fn every_guard_keeps_the_volume() {
    type Break = fn(&mut Fixture);
    let rows: [(&str, &str, Break); 9] = [
        ("Reprotect", "OperatorWarmup", |it| it.observed.fresh_for = std::time::Duration::ZERO),
        ("Reprotect", "StatusStale", |it| it.observed.report_error = Some("no".to_owned())),
        ("Reprotect", "NoQuorum", |it| it.report().sequencer = None),
        ("Reprotect", "NoQuorum", |it| it.report().ranges.unavailable = 1),
        ("Replace", "StoreNotHealthy", |it| {
            it.report().nodes.push(member(9, 7));
            it.report().nodes[3].state = "Down".to_owned();
            it.report().nodes[3].name = "demo-1".to_owned();
        }),
        ("Reprotect", "TooManyUnhealthy", |it| it.unready(1)),
        ("Replace", "Paused", |it| it.cluster.spec.paused = true),
        ("Replace", "ObserveMode", |it| {
            it.cluster.spec.reprotection.mode = crate::api::spec::ReprotectionMode::Observe;
        }),
        ("Reprotect", "NoSpareStore", |it| it.observed.hosts = None),
    ];
    for (what, guard, breaks) in rows {
        let mut fixture = lost();
        breaks(&mut fixture);
        let plan = fixture.step();
        assert_eq!(plan.action, None, "{guard}");
        assert!(plan.status.given_up.is_empty(), "{guard}");
        if guard != "Paused" {
            let shown = blocked(&fixture);
            let wanted = (format!("{what}/demo-2"), guard.to_owned());
            assert!(shown.contains(&wanted), "{guard}: {shown:?}");
        }
        // The same between writing down and doing.
        let mut fixture = lost();
        assert!(replaces(&fixture.step()).is_some());
        breaks(&mut fixture);
        let plan = fixture.step();
        assert_eq!(plan.action, None, "{guard}");
        assert!(plan.status.given_up.is_empty() || guard == "Paused", "{guard}");
    }
}

#[test]
fn a_machine_that_is_back_keeps_its_volume() {
    let mut fixture = lost();
    assert!(replaces(&fixture.step()).is_some());
    // The last look at Kubernetes found it.
    let now = fixture.now;
    let refused = Outcome::Refused("Kubernetes node host-2 exists".to_owned());
    absorb(fixture.cluster.status.as_mut().unwrap(), refused, now);
    fixture.observed.hosts.as_mut().unwrap().insert("host-2".to_owned(), well());
    fixture.member(2).state = "Up".to_owned();
    let now = fixture.now;
    fixture.pod(2).ready = true;
    fixture.pod(2).ready_changed = Some(now);
    let plan = fixture.step();
    assert_eq!((plan.action, &plan.status.operation), (None, &None));
    assert!(plan.status.given_up.is_empty());
    assert_eq!(fixture.store(2).store_id, Some(3));
}

#[test]
fn back_on_a_volume_that_is_going_it_is_spared_first() {
    let mut fixture = lost();
    assert!(replaces(&fixture.step()).is_some());
    accepted(&mut fixture);
    fixture.observed.volumes.get_mut("demo-2").unwrap().terminating = true;
    fixture.member(2).state = "Up".to_owned();
    fixture.pod(2).ready = true;
    let plan = fixture.step();
    assert_eq!(plan.action, None);
    assert!(plan.status.operation.is_some());
    assert_eq!(plan.status.blocked_by[0].action, "Replace/demo-2");
    fixture.report().ranges.fully_replicated = 10;
    fixture.pass(60);
    let plan = fixture.step();
    assert!(
        matches!(&plan.action, Some(Action::Replace { volume_uid: None, pod_uid: Some(_), .. })),
        "{plan:?}"
    );
}

#[test]
fn the_last_spare_node_is_lost_in_the_middle() {
    let mut fixture = Fixture::new(5);
    fixture.kill(3);
    fixture.step();
    fixture.pass(DELAY).step();
    accepted(&mut fixture);
    fixture.step();
    assert_eq!(fixture.store(3).state, StoreState::Reprotecting);
    fixture.member(3).state = "Condemned".to_owned();
    // The first of those that could take its copies is known to be dead, the second is lost now.
    fixture.report().nodes.retain(|member| member.id != 5);
    fixture.observed.hosts.as_mut().unwrap().remove("host-3");
    fixture.cluster.spec.replicas = 4;
    let plan = fixture.step();
    assert_eq!(plan.status.operation, None, "it waits for a node that cannot come");
    let plan = fixture.step();
    let operation = plan.status.operation.as_ref().unwrap();
    assert_eq!((operation.kind, operation.pod.as_str()), (OperationType::Replace, "demo-3"));
}
