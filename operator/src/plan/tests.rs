//! Every row of the state machine, and every guard.

use super::fixture::{Fixture, START, well};
use super::operations::{Outcome, absorb};
use super::{Action, InGateway, Plan, plan};
use crate::api::spec::{ReplacementPolicy, ReprotectionMode};
use crate::api::status::{OperationType, Phase, StoreState};
use crate::api::{HumanDuration, REPLACE_ANNOTATION};
use jiff::Timestamp;
use std::time::Duration;

const DELAY: i64 = 600;

fn blocked(fixture: &Fixture) -> Vec<(String, String)> {
    fixture
        .status()
        .blocked_by
        .iter()
        .map(|blocked| (blocked.action.clone(), blocked.guard.clone()))
        .collect()
}

fn one(action: &str, guard: &str) -> Vec<(String, String)> {
    vec![(action.to_owned(), guard.to_owned())]
}

fn accepted(fixture: &mut Fixture) {
    let now = fixture.now;
    let status = fixture.cluster.status.as_mut().unwrap();
    absorb(status, Outcome::Accepted("taken on".to_owned()), now);
    let operation = status.operation.clone().unwrap();
    if operation.kind == OperationType::Reprotect {
        let members = fixture.report().nodes.iter_mut();
        for member in members.filter(|it| Some(it.id as i64) == operation.store_id) {
            "Condemned".clone_into(&mut member.state);
        }
    }
}

#[test]
fn a_cluster_that_is_well_needs_nothing() {
    let mut fixture = Fixture::new(5);
    let plan = fixture.step();
    assert_eq!(plan.action, None);
    assert_eq!(plan.status.next, "nothing to do");
    assert_eq!(plan.requeue, Duration::from_secs(10));
    assert!(plan.notices.is_empty() && plan.held.is_none());
    assert!(plan.status.stores.iter().all(|store| store.state == StoreState::Healthy));
}

#[test]
fn what_does_not_move_for_long_is_looked_at_less_often() {
    let mut fixture = Fixture::new(3);
    fixture.kill(1);
    fixture.settle();
    for (quiet, wait) in [(0, 3), (29, 3), (50, 5), (99_999, 10)] {
        fixture.observed.quiet_for = Duration::from_secs(quiet);
        assert_eq!(fixture.step().requeue, Duration::from_secs(wait), "{quiet} s");
    }
}

#[test]
fn before_the_first_start_the_founders_are_fixed_once() {
    let mut fixture = Fixture::new(3);
    fixture.observed = crate::observe::Observed::default();
    fixture.cluster.status = None;
    let plan = fixture.step();
    assert_eq!((plan.status.bootstrap_nodes, plan.status.nodes), (Some(3), 3));
    assert!(!plan.status.bootstrapped);
    // More are asked for before the cluster is formed: they wait.
    fixture.cluster.spec.nodes = 5;
    let plan = fixture.step();
    assert_eq!((plan.status.bootstrap_nodes, plan.status.nodes), (Some(3), 3));
}

#[test]
fn the_latch_closes_once_and_for_ever() {
    let mut fixture = Fixture::new(3);
    let report = fixture.observed.report.clone();
    fixture.cluster.status = None;
    fixture.observed.stateful_set = None;
    fixture.observed.report = None;
    assert!(!fixture.step().status.bootstrapped);
    fixture.observed.report = report;
    let plan = fixture.step();
    assert!(plan.status.bootstrapped);
    assert_eq!(plan.status.cluster_id.as_deref(), Some("c1"));
    assert_eq!(plan.notices[0].reason, "Bootstrapped");
    fixture.observed.report = None;
    assert!(fixture.step().status.bootstrapped);
}

#[test]
fn a_lost_status_does_not_found_the_cluster_again() {
    let mut fixture = Fixture::new(5);
    fixture.observed.stateful_set.as_mut().unwrap().bootstrap_nodes = Some(3);
    fixture.observed.report = None;
    fixture.cluster.status = None;
    let status = fixture.step().status;
    assert_eq!((status.bootstrap_nodes, status.nodes), (Some(3), 5));
    assert!(status.bootstrapped);
}

#[test]
fn healthy_becomes_suspect_at_once_and_the_clock_is_in_the_status() {
    let mut fixture = Fixture::new(5);
    fixture.kill(2);
    let plan = fixture.step();
    let store = fixture.store(2);
    assert_eq!(store.state, StoreState::Suspect);
    assert_eq!(store.down_since.as_ref().unwrap().0.as_second(), START);
    assert_eq!(store.act_at.as_ref().unwrap().0.as_second(), START + DELAY);
    assert_eq!(plan.action, None);
    assert_eq!(plan.held.as_ref().unwrap().0, "WaitingDelay");
    assert_eq!(plan.notices[0].reason, "StoreDown");
    assert!(plan.status.next.contains("demo-2"), "{}", plan.status.next);
    // Later loops keep the times.
    fixture.pass(100).step();
    assert_eq!(fixture.store(2).down_since.as_ref().unwrap().0.as_second(), START);
}

#[test]
fn the_clock_survives_a_new_pod_and_a_missing_one() {
    let mut fixture = Fixture::new(5);
    fixture.kill(2);
    fixture.step();
    fixture.observed.pods.remove("demo-2");
    fixture.pass(60).step();
    assert_eq!(fixture.store(2).down_since.as_ref().unwrap().0.as_second(), START);
    fixture.add_pod(2);
    fixture.pod(2).uid = "another".to_owned();
    fixture.unready(2);
    fixture.pass(60).step();
    assert_eq!(fixture.store(2).down_since.as_ref().unwrap().0.as_second(), START);
}

#[test]
fn back_for_half_a_minute_is_healthy_again() {
    let mut fixture = Fixture::new(5);
    fixture.kill(2);
    fixture.step();
    fixture.pass(60);
    let now = fixture.now;
    fixture.pod(2).ready = true;
    fixture.pod(2).ready_changed = Some(now);
    fixture.member(2).state = "Up".to_owned();
    fixture.step();
    assert_eq!(fixture.store(2).state, StoreState::Suspect);
    assert_eq!(fixture.store(2).act_at, None);
    fixture.pass(31);
    let plan = fixture.step();
    assert_eq!(fixture.store(2).state, StoreState::Healthy);
    assert!(plan.notices.iter().any(|notice| notice.reason == "StoreRecovered"));
    // Flapping does not reset the clock before that.
    fixture.kill(2);
    fixture.step();
    assert!(fixture.store(2).down_since.as_ref().unwrap().0.as_second() > START);
}

#[test]
fn a_drained_host_gets_the_longer_delay() {
    let mut fixture = Fixture::new(5);
    fixture.kill(2);
    let hosts = fixture.observed.hosts.as_mut().unwrap();
    hosts.get_mut("host-2").unwrap().cordoned = true;
    let plan = fixture.step();
    assert_eq!(fixture.store(2).state, StoreState::Draining);
    assert_eq!(fixture.store(2).act_at.as_ref().unwrap().0.as_second(), START + 1800);
    assert_eq!(plan.held.unwrap().0, "NodeDraining");
    fixture.pass(DELAY + 1);
    assert_eq!(fixture.step().action, None);
}

#[test]
fn a_pod_that_never_served_never_counts() {
    let mut fixture = Fixture::new(3);
    fixture.cluster.spec.nodes = 4;
    fixture.step();
    assert_eq!(fixture.status().nodes, 4);
    assert_eq!(fixture.store(3).state, StoreState::Pending);
    fixture.pass(100_000);
    let plan = fixture.step();
    assert_eq!((plan.action, plan.held), (None, None));
    assert_eq!(fixture.store(3).down_since, None);
}

#[test]
fn a_front_end_failure_never_starts_the_clock() {
    let mut fixture = Fixture::new(5);
    fixture.unready(2);
    fixture.step();
    assert_eq!(fixture.store(2).state, StoreState::Suspect);
    assert_eq!(fixture.store(2).reason.as_deref(), Some("ProbeMismatch"));
    assert_eq!((&fixture.store(2).down_since, &fixture.store(2).act_at), (&None, &None));
    fixture.pass(10 * DELAY);
    assert_eq!(fixture.step().action, None);
    // When the node goes too, the whole delay begins only then.
    fixture.member(2).state = "Down".to_owned();
    fixture.step();
    let began = fixture.now.as_second();
    assert_eq!(fixture.store(2).down_since.as_ref().unwrap().0.as_second(), began);
}

#[test]
fn a_ready_pod_that_nobody_hears_is_wedged_and_left_alone() {
    let mut fixture = Fixture::new(5);
    fixture.member(2).state = "Down".to_owned();
    fixture.pass(10 * DELAY);
    let plan = fixture.step();
    assert_eq!(plan.action, None);
    assert_eq!(fixture.store(2).reason.as_deref(), Some("StoreWedged"));
    assert_eq!(fixture.store(2).down_since, None);
}

#[test]
fn a_silent_host_makes_its_pod_suspect() {
    let mut fixture = Fixture::new(5);
    fixture.observed.hosts.as_mut().unwrap().get_mut("host-2").unwrap().ready = false;
    fixture.member(2).state = "Down".to_owned();
    fixture.step();
    assert_eq!(fixture.store(2).state, StoreState::Suspect);
    assert!(fixture.store(2).down_since.is_some());
}

/// A fixture in which `demo-2` is away for longer than the delay.
fn overdue(nodes: i32) -> Fixture {
    let mut fixture = Fixture::new(nodes);
    fixture.kill(2);
    fixture.step();
    fixture.pass(DELAY);
    fixture
}

#[test]
fn after_the_delay_the_operation_is_written_down_and_sent() {
    let mut fixture = overdue(5);
    let plan = fixture.step();
    let operation = plan.status.operation.clone().unwrap();
    assert_eq!((operation.kind, operation.phase), (OperationType::Reprotect, Phase::Intended));
    assert_eq!((operation.epoch, plan.status.epoch, operation.store_id), (1, 1, Some(3)));
    assert_eq!(fixture.store(2).state, StoreState::Condemned);
    let Some(Action::Reprotect { node: 3, operation: id, epoch: 1 }) = plan.action else {
        panic!("{:?}", plan.action)
    };
    assert_eq!(id, operation.id);
    assert_eq!(plan.notices[0].reason, "ReprotectionStarted");
    // A crash before or after sending: the same is sent again, under the same name.
    let again = fixture.step();
    assert_eq!(again.action, Some(Action::Reprotect { node: 3, operation: id, epoch: 1 }));
}

#[test]
fn a_refusal_is_shown_and_asked_again_later_and_later() {
    let mut fixture = overdue(5);
    fixture.step();
    let mut waits = vec![];
    for _ in 0..3 {
        let now = fixture.now;
        let status = fixture.cluster.status.as_mut().unwrap();
        absorb(status, Outcome::Refused("epoch is old".to_owned()), now);
        let at = status.operation.as_ref().unwrap().retry_at.as_ref().unwrap().0;
        waits.push(at.as_second() - now.as_second());
        let plan = fixture.step();
        assert_eq!(plan.action, None);
        assert_eq!(plan.held.as_ref().unwrap().0, "Refused");
        assert!(plan.status.next.contains("epoch is old"), "{}", plan.status.next);
        fixture.now = at;
        assert!(matches!(fixture.step().action, Some(Action::Reprotect { .. })));
    }
    assert_eq!(waits, [15, 30, 60]);
}

#[test]
fn accepted_becomes_reprotecting_and_then_tombstoned() {
    let mut fixture = overdue(5);
    fixture.step();
    accepted(&mut fixture);
    let plan = fixture.step();
    assert_eq!(plan.action, None);
    assert_eq!(fixture.store(2).state, StoreState::Reprotecting);
    fixture.report().nodes.retain(|member| member.id != 3);
    let plan = fixture.step();
    assert_eq!(fixture.store(2).state, StoreState::Tombstoned);
    assert!(plan.notices.iter().any(|notice| notice.reason == "StoreTombstoned"));
    assert_eq!(plan.status.operation, None);
    // The host exists still, so the volume stays.
    fixture.step();
    assert_eq!(blocked(&fixture), one("Replace/demo-2", "NodeExists"));
    assert_eq!(fixture.store(2).state, StoreState::Tombstoned);
}

#[test]
fn a_node_that_returns_in_time_cancels_it() {
    for accept in [false, true] {
        let mut fixture = overdue(5);
        fixture.step();
        if accept {
            accepted(&mut fixture);
        }
        fixture.member(2).state = "Up".to_owned();
        let plan = fixture.step();
        assert_eq!((plan.action, plan.status.operation), (None, None));
        assert!(plan.notices.iter().any(|notice| notice.reason == "ReprotectionCancelled"));
    }
}

fn tombstoned() -> Fixture {
    let mut fixture = overdue(5);
    fixture.step();
    accepted(&mut fixture);
    fixture.report().nodes.retain(|member| member.id != 3);
    fixture.step();
    fixture
}

#[test]
fn a_dead_node_is_replaced_when_its_host_is_gone() {
    let mut fixture = tombstoned();
    fixture.observed.hosts.as_mut().unwrap().remove("host-2");
    let plan = fixture.step();
    let expected = Action::Replace {
        pod: "demo-2".to_owned(),
        pod_uid: Some("pod-2".to_owned()),
        volume_uid: Some("pvc-2".to_owned()),
        gone_host: None,
    };
    assert_eq!(plan.action, Some(expected));
    assert_eq!(fixture.store(2).state, StoreState::Replacing);
    accepted(&mut fixture);
    // The claim is on its way out, the pod not yet: only the pod is deleted again.
    fixture.observed.volumes.get_mut("demo-2").unwrap().terminating = true;
    let plan = fixture.step();
    let expected = Action::Replace {
        pod: "demo-2".to_owned(),
        pod_uid: Some("pod-2".to_owned()),
        volume_uid: None,
        gone_host: None,
    };
    assert_eq!(plan.action, Some(expected));
    // A new claim and a new pod: done, and the newcomer is not a failure.
    fixture.add_pod(2);
    fixture.observed.volumes.get_mut("demo-2").unwrap().uid = "pvc-new".to_owned();
    fixture.pod(2).uid = "pod-new".to_owned();
    fixture.unready(2);
    let plan = fixture.step();
    assert_eq!((plan.action, plan.status.operation), (None, None));
    assert_eq!(fixture.store(2).state, StoreState::Pending);
    fixture.report().nodes.push(super::fixture::member(6, 2));
    fixture.pod(2).ready = true;
    fixture.step();
    assert_eq!(fixture.store(2).state, StoreState::Healthy);
    assert_eq!(fixture.store(2).store_id, Some(6));
}

#[test]
fn policies_of_replacement() {
    let mut fixture = tombstoned();
    fixture.cluster.spec.replacement.policy = ReplacementPolicy::Manual;
    fixture.step();
    assert_eq!(blocked(&fixture), one("Replace/demo-2", "ManualReplacement"));
    let annotations = fixture.cluster.metadata.annotations.get_or_insert_default();
    annotations.insert(REPLACE_ANNOTATION.to_owned(), "demo-2".to_owned());
    assert!(matches!(fixture.step().action, Some(Action::Replace { .. })));

    let mut fixture = tombstoned();
    fixture.cluster.spec.replacement.policy = ReplacementPolicy::AfterReprotect;
    assert!(matches!(fixture.step().action, Some(Action::Replace { .. })));

    let mut fixture = tombstoned();
    fixture.observed.hosts = None;
    fixture.step();
    assert_eq!(blocked(&fixture), one("Replace/demo-2", "NodesUnreadable"));

    let mut fixture = tombstoned();
    let hosts = fixture.observed.hosts.as_mut().unwrap();
    hosts.get_mut("host-2").unwrap().out_of_service = true;
    assert!(matches!(fixture.step().action, Some(Action::Replace { .. })));
}

#[test]
fn no_volume_goes_without_a_fresh_word_that_its_node_is_dead() {
    let mut fixture = tombstoned();
    fixture.cluster.spec.replacement.policy = ReplacementPolicy::AfterReprotect;
    fixture.observed.report = None;
    assert_eq!(fixture.step().action, None);
    assert_eq!(fixture.store(2).state, StoreState::Tombstoned);
    // A request alone is not enough either.
    let mut fixture = Fixture::new(5);
    let annotations = fixture.cluster.metadata.annotations.get_or_insert_default();
    annotations.insert(REPLACE_ANNOTATION.to_owned(), "demo-2".to_owned());
    assert_eq!(fixture.step().action, None);
}

/// Every guard: what breaks it, and what is shown. Nothing is done while it is broken.
#[test]
fn every_guard_holds_the_operation() {
    type Break = fn(&mut Fixture);
    let rows: [(&str, Break); 11] = [
        ("OperatorWarmup", |fixture| fixture.observed.fresh_for = Duration::from_secs(59)),
        ("StatusStale", |fixture| fixture.observed.report = None),
        ("NoQuorum", |fixture| fixture.report().sequencer = None),
        ("NoQuorum", |fixture| fixture.report().ranges.unavailable = 1),
        ("NoQuorum", |fixture| {
            for ordinal in [0, 1, 3] {
                fixture.member(ordinal).state = "Down".to_owned();
            }
        }),
        ("TooManyUnhealthy", |fixture| fixture.unready(1)),
        ("NoSpareStore", |fixture| {
            fixture.report().nodes.retain(|member| [1, 2, 3].contains(&member.id));
        }),
        ("Paused", |fixture| fixture.cluster.spec.paused = true),
        ("ObserveMode", |fixture| {
            fixture.cluster.spec.reprotection.mode = ReprotectionMode::Observe;
        }),
        ("ClockWentBack", |fixture| {
            let at = Timestamp::from_second(START + 10_000).unwrap();
            let status = fixture.cluster.status.as_mut().unwrap();
            status.stores[0].down_since =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
        }),
        ("", |_| {}),
    ];
    for (guard, breaks) in rows {
        let mut fixture = overdue(5);
        breaks(&mut fixture);
        let plan = fixture.step();
        if guard.is_empty() {
            assert!(plan.action.is_some());
            continue;
        }
        assert_eq!(plan.action, None, "{guard}");
        if guard == "Paused" {
            continue;
        }
        assert_eq!(blocked(&fixture), one("Reprotect/demo-2", guard), "{guard}");
        assert_eq!(plan.held.unwrap().0, guard);
        // The same again changes nothing, except that a healthy store loses its odd time.
        if guard == "ClockWentBack" {
            continue;
        }
        assert_eq!(fixture.step().status, plan.status, "{guard}");
    }
}

#[test]
fn mode_off_never_sets_a_time() {
    let mut fixture = Fixture::new(5);
    fixture.cluster.spec.reprotection.mode = ReprotectionMode::Off;
    fixture.kill(2);
    fixture.pass(DELAY * 10);
    let plan = fixture.step();
    assert_eq!((plan.action, &fixture.store(2).act_at), (None, &None));
}

#[test]
fn guards_hold_also_between_writing_down_and_sending() {
    let mut fixture = overdue(5);
    fixture.step();
    fixture.report().ranges.unavailable = 2;
    let plan = fixture.step();
    assert_eq!(plan.action, None);
    assert!(plan.status.operation.is_some());
    assert_eq!(blocked(&fixture), one("Reprotect/demo-2", "NoQuorum"));
}

#[test]
fn one_thing_at_a_time() {
    let mut fixture = overdue(7);
    fixture.cluster.spec.reprotection.max_unhealthy = "50%".to_owned();
    fixture.step();
    accepted(&mut fixture);
    fixture.kill(4);
    fixture.step();
    fixture.pass(DELAY);
    let plan = fixture.step();
    assert_eq!(plan.action, None);
    assert_eq!(blocked(&fixture), one("Reprotect/demo-4", "OtherOperation"));
}

#[test]
fn an_invalid_spec_changes_nothing_but_the_view() {
    let mut fixture = overdue(5);
    let plan = plan(&fixture.cluster, &fixture.observed, false, fixture.now);
    assert_eq!((plan.action, plan.status.nodes), (None, 5));
    fixture.cluster.spec.nodes = 9;
    let plan = super::plan(&fixture.cluster, &fixture.observed, false, fixture.now);
    assert_eq!(plan.status.nodes, 5);
}

#[test]
fn scaling_down_drains_first_and_takes_away_what_is_empty() {
    let mut fixture = Fixture::new(5);
    fixture.cluster.spec.nodes = 4;
    // The gateway forgets it first.
    let plan = fixture.step();
    let out = InGateway { pod: "demo-4".to_owned(), uid: "pod-4".to_owned(), wanted: false };
    assert_eq!((&plan.action, &plan.gateway), (&None, &vec![out]));
    assert_eq!((plan.status.nodes, fixture.store(4).state), (5, StoreState::Leaving));
    assert!(plan.status.next.contains("gateway"), "{}", plan.status.next);
    let plan = fixture.pass(2).step();
    assert_eq!((&plan.action, &plan.gateway), (&None, &vec![]));
    let mut unseen = fixture.clone();
    unseen.pod(4).in_gateway = true;
    assert_eq!(unseen.pass(60).step().action, None);
    let plan = fixture.pass(1).step();
    assert_eq!(plan.action, Some(Action::Drain { node: 5 }));
    accepted(&mut fixture);
    fixture.member(4).state = "Draining".to_owned();
    let plan = fixture.step();
    assert_eq!((plan.action.clone(), plan.status.nodes), (None, 5));
    assert!(plan.status.next.contains("holds no ranges (now 6)"), "{}", plan.status.next);
    // Unknown is not empty.
    let report = fixture.observed.report.take();
    assert_eq!(fixture.step().status.nodes, 5);
    fixture.observed.report = report;
    // It holds nothing any more, but has not left yet.
    fixture.member(4).ranges = 0;
    assert_eq!(fixture.step().status.nodes, 5);
    fixture.report().nodes.pop();
    let plan = fixture.step();
    assert_eq!((plan.status.nodes, plan.status.operation), (4, None));
    assert_eq!(plan.status.parked[0].store_id, 5);
    // Its pod is still there, and so is what Kubernetes last heard of it: no client may come back to it.
    assert_eq!(plan.gateway, vec![]);
    let plan = fixture.step();
    assert_eq!((plan.status.stores.len(), plan.gateway), (4, vec![]));
}

#[test]
fn a_drain_is_asked_for_again_long_before_it_ends_by_itself() {
    let mut fixture = Fixture::new(4);
    fixture.cluster.spec.nodes = 3;
    fixture.step();
    fixture.pass(5).step();
    accepted(&mut fixture);
    fixture.member(3).state = "Leaving".to_owned();
    let renews = |plan: &Plan| matches!(plan.action, Some(Action::Drain { node: 4 }));
    let mut since = 0;
    for _ in 0..200 {
        fixture.pass(3);
        since += 3;
        if renews(&fixture.step()) {
            assert!((100..200).contains(&since), "after {since} s");
            accepted(&mut fixture);
            since = 0;
        }
    }
    assert!(since < 200);
    // Nobody could, and it ended: the next operator begins it again.
    fixture.pass(3000);
    fixture.member(3).state = "Up".to_owned();
    assert!(renews(&fixture.step()));
    // The answer got lost: the same once more.
    assert!(renews(&fixture.pass(3).step()));
}

#[test]
fn raising_nodes_again_takes_the_drain_back() {
    let mut fixture = Fixture::new(5);
    fixture.cluster.spec.nodes = 4;
    fixture.step();
    accepted(&mut fixture);
    fixture.member(4).state = "Draining".to_owned();
    fixture.cluster.spec.nodes = 5;
    let plan = fixture.step();
    assert_eq!(plan.action, Some(Action::Undrain { node: 5 }));
    assert_eq!((plan.status.nodes, plan.gateway[0].wanted), (5, true));
    accepted(&mut fixture);
    fixture.member(4).state = "Up".to_owned();
    assert_eq!(fixture.step().status.operation, None);
}

#[test]
fn a_node_that_left_for_good_comes_back_with_an_empty_volume() {
    let mut fixture = Fixture::new(5);
    fixture.cluster.spec.nodes = 4;
    fixture.step();
    accepted(&mut fixture);
    fixture.report().nodes.pop();
    fixture.step();
    assert_eq!(fixture.status().parked[0].volume_uid.as_deref(), Some("pvc-4"));
    fixture.observed.pods.remove("demo-4");
    fixture.step();
    // Wanted again: its disk is that of a dead node, so it gets another.
    fixture.cluster.spec.nodes = 5;
    fixture.add_pod(4);
    fixture.unready(4);
    fixture.step();
    let plan = fixture.settle();
    let Some(Action::Replace { volume_uid, .. }) = plan.action else { panic!("{plan:?}") };
    assert_eq!(volume_uid.as_deref(), Some("pvc-4"));
    accepted(&mut fixture);
    fixture.observed.volumes.get_mut("demo-4").unwrap().uid = "pvc-new".to_owned();
    fixture.settle();
    assert!(fixture.status().parked.is_empty() && fixture.status().operation.is_none());
}

#[test]
fn scaling_down_waits_until_all_is_well() {
    let mut fixture = Fixture::new(5);
    fixture.kill(0);
    fixture.cluster.spec.nodes = 4;
    let plan = fixture.step();
    assert_eq!(plan.action, None);
    assert_eq!(blocked(&fixture), one("ScaleDown/demo-4", "StoreNotHealthy"));
    // Fewer than the copies cannot be asked for, and would be refused anyway.
    let mut fixture = Fixture::new(3);
    fixture.cluster.spec.nodes = 2;
    assert_eq!(fixture.step().action, None);
    assert_eq!(blocked(&fixture), one("ScaleDown/demo-2", "TooFewNodes"));
}

#[test]
fn outdated_pods_are_made_anew_one_by_one_the_sequencer_last() {
    let mut fixture = Fixture::new(3);
    fixture.observed.stateful_set.as_mut().unwrap().update_revision = Some("r2".to_owned());
    let mut order = vec![];
    for _ in 0..3 {
        let plan = fixture.step();
        let Some(Action::DeletePod { pod, uid }) = plan.action else { panic!("{plan:?}") };
        order.push(pod.clone());
        accepted(&mut fixture);
        // It goes, comes again, and the others wait for it.
        let ordinal: i32 = pod.rsplit('-').next().unwrap().parse().unwrap();
        fixture.observed.pods.remove(&pod);
        assert_eq!(fixture.step().action, None);
        fixture.add_pod(ordinal);
        fixture.pod(ordinal).uid = format!("{uid}-new");
        fixture.pod(ordinal).revision = Some("r2".to_owned());
        fixture.pod(ordinal).ready = false;
        assert_eq!(fixture.step().action, None);
        assert_eq!(blocked(&fixture).len(), usize::from(order.len() < 3));
        let now = fixture.now;
        fixture.pod(ordinal).ready = true;
        fixture.pod(ordinal).ready_changed = Some(now);
        fixture.pass(31).step();
    }
    assert_eq!(order, ["demo-2", "demo-1", "demo-0"]);
}

#[test]
fn nothing_is_restarted_while_a_copy_is_missing_or_the_state_unknown() {
    let mut fixture = Fixture::new(3);
    fixture.observed.stateful_set.as_mut().unwrap().update_revision = Some("r2".to_owned());
    fixture.report().ranges.fully_replicated = 9;
    assert_eq!(fixture.step().action, None);
    assert_eq!(blocked(&fixture), one("Restart/demo-2", "FullyReplicated"));
    fixture.observed.report = None;
    assert_eq!(fixture.step().action, None);
    assert_eq!(blocked(&fixture), one("Restart/demo-2", "StatusStale"));
}

#[test]
fn a_broken_template_is_corrected_without_waiting_for_it_to_work() {
    let mut fixture = Fixture::new(3);
    fixture.cluster.status = None;
    fixture.observed.report = None;
    fixture.observed.stateful_set.as_mut().unwrap().bootstrapped = false;
    fixture.observed.stateful_set.as_mut().unwrap().update_revision = Some("r2".to_owned());
    for ordinal in 0..3 {
        fixture.unready(ordinal);
        fixture.pod(ordinal).waiting = Some(("ImagePullBackOff".to_owned(), String::new()));
    }
    let plan = fixture.step();
    assert!(matches!(plan.action, Some(Action::DeletePod { .. })), "{plan:?}");
}

#[test]
fn short_delays_are_looked_at_in_time() {
    let mut fixture = Fixture::new(5);
    fixture.cluster.spec.reprotection.delay = HumanDuration::new("10s");
    fixture.kill(2);
    fixture.step();
    fixture.pass(9);
    assert!(fixture.step().requeue <= Duration::from_secs(1));
}

#[test]
fn the_host_that_is_well_again_is_no_reason_to_wait() {
    let mut fixture = Fixture::new(5);
    fixture.observed.hosts.as_mut().unwrap().insert("host-9".to_owned(), well());
    assert_eq!(fixture.step().action, None);
}

#[test]
fn a_node_with_an_emptied_disk_is_given_up_as_what_it_was() {
    let mut fixture = Fixture::new(3);
    fixture.member(2).state = "Down".to_owned();
    fixture.report().nodes.push(super::fixture::member(4, 2));
    fixture.report().ranges.fully_replicated = 0;
    let plan = fixture.step();
    assert!(matches!(plan.action, Some(Action::Reprotect { node: 3, .. })), "{plan:?}");
    // The pod itself is well.
    assert_eq!((fixture.store(2).state, fixture.store(2).store_id), (StoreState::Healthy, Some(4)));
    accepted(&mut fixture);
    fixture.report().nodes.retain(|member| member.id != 3);
    fixture.report().ranges.fully_replicated = 10;
    let plan = fixture.settle();
    assert_eq!((plan.action, plan.status.operation), (None, None));
    assert_eq!(fixture.store(2).state, StoreState::Healthy);
}

mod endings;
mod restarts;
mod room_and_zones;
mod without_spare;
