//! Recovery step by step, in plain cases: who is asked, what is shown, and what is done only after consent.

use super::super::fixture::{Fixture, host};
use super::*;
use crate::observe::VolumeView;
use crate::observe::recovery::{Ended, RecoveryPod, Summary, Verdict};
use crate::plan::Plan;
use serde_json::json;

/// What a pod says that has looked at the volume.
fn looked() -> Verdict {
    Verdict {
        version: 1,
        report: Some(Summary {
            digest: "store".to_owned(),
            kept: 4,
            term: 6,
            ..Summary::default()
        }),
        gone: vec!["n1 (demo-0)".to_owned(), "n3 (demo-2)".to_owned()],
        ..Verdict::default()
    }
}

fn refused(refusal: &str, report: bool) -> Verdict {
    Verdict {
        refusal: Some(refusal.to_owned()),
        failure: Some(format!("no: {refusal}")),
        report: looked().report.filter(|_| report),
        ..looked()
    }
}

/// Of three nodes, demo-1 is left, and recovery `a` from it is asked for.
pub(super) fn lost() -> Fixture {
    let mut fixture = Fixture::new(3);
    fixture.kill(0);
    fixture.kill(2);
    fixture.unready(1);
    let report = fixture.report();
    report.ranges.unavailable = 10;
    report.sequencer = None;
    fixture.pass(60).settle();
    fixture
}

pub(super) fn ask(fixture: &mut Fixture, fields: serde_json::Value) {
    let mut request = json!({"id": "a", "from": "demo-1"});
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    fixture.cluster.spec.recovery = Some(serde_json::from_value(request).unwrap());
}

fn consent(fixture: &mut Fixture, digest: &str) {
    fixture.cluster.spec.recovery.as_mut().unwrap().accept_data_loss = Some(digest.to_owned());
}

fn recovery(fixture: &Fixture) -> &RecoveryStatus {
    fixture.status().recovery.as_ref().unwrap()
}

fn phase(fixture: &Fixture) -> RecoveryPhase {
    recovery(fixture).phase
}

/// What Kubernetes makes of a step.
pub(super) fn carry_out(fixture: &mut Fixture, step: &Step) {
    let observed = &mut fixture.observed;
    match step {
        Step::StartPod { name, .. } => {
            let uid = format!("uid-{name}");
            let pod = RecoveryPod { uid, ..RecoveryPod::default() };
            observed.recovery_pods.entry(name.clone()).or_insert(pod);
        }
        Step::StopNode { pod, uid } => {
            if let Some(view) = observed.pods.get_mut(pod).filter(|view| view.uid == *uid) {
                view.uid.push('\'');
            }
        }
        Step::DeleteVolume { pod, uid } => {
            observed.volumes.retain(|name, volume| name != pod || volume.uid != *uid);
        }
        Step::Keep { uid, config_map, .. } => {
            observed.kept_reports.insert(config_map.clone(), uid.clone());
        }
        Step::RemovePod { pod, uid } => {
            observed.recovery_pods.retain(|name, view| name != pod || view.uid != *uid);
        }
    }
}

/// Plans, and lets Kubernetes do it.
fn go(fixture: &mut Fixture) -> Plan {
    let plan = fixture.step();
    assert!(plan.action.is_none() || plan.recovery.is_none(), "{plan:?}");
    if let Some(step) = &plan.recovery {
        carry_out(fixture, step);
    }
    plan
}

/// Plans until nothing changes.
fn rest(fixture: &mut Fixture) {
    for _ in 0..20 {
        let before = fixture.cluster.status.clone();
        let plan = go(fixture);
        if plan.recovery.is_none() && before.as_ref() == Some(&plan.status) {
            return;
        }
    }
    panic!("it does not come to rest: {:#?}", recovery(fixture));
}

/// The pod of the recovery runs, or has ended.
fn pod(fixture: &mut Fixture, verdict: Option<Verdict>) {
    let name = recovery(fixture).pod.clone().unwrap();
    let pod = fixture.observed.recovery_pods.get_mut(&name).expect("it was started");
    pod.running = verdict.is_none();
    pod.ended = verdict.map(|it| Ended { verdict: Some(it), why: String::new() });
}

fn silent(fixture: &mut Fixture) {
    let name = recovery(fixture).pod.clone().unwrap();
    let pod = fixture.observed.recovery_pods.get_mut(&name).expect("it was started");
    pod.ended = Some(Ended { verdict: None, why: "evicted".to_owned() });
}

/// Looked at, and reported.
fn reported() -> Fixture {
    let mut fixture = lost();
    ask(&mut fixture, json!({}));
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Examining);
    pod(&mut fixture, None);
    rest(&mut fixture);
    pod(&mut fixture, Some(looked()));
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Reported);
    fixture
}

fn digest_of(fixture: &Fixture) -> String {
    recovery(fixture).report.as_ref().unwrap().digest.clone()
}

/// All pods have stopped, and the volume is about to be changed.
fn executing() -> Fixture {
    let mut fixture = reported();
    let digest = digest_of(&fixture);
    consent(&mut fixture, &digest);
    rest(&mut fixture);
    fixture.observed.pods.clear();
    fixture.observed.stateful_set.as_mut().unwrap().replicas = 0;
    fixture.observed.report = None;
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Recovering);
    fixture
}

#[test]
fn nothing_happens_that_nobody_asked_for() {
    let mut fixture = lost();
    for _ in 0..50 {
        let plan = fixture.pass(600).step();
        assert!(plan.recovery.is_none() && !plan.stopped && plan.status.recovery.is_none());
    }
}

#[test]
fn a_look_stops_the_node_once_its_pod_waits_and_tells_what_would_be_lost() {
    let mut fixture = lost();
    ask(&mut fixture, json!({}));
    let plan = go(&mut fixture);
    assert_eq!((plan.recovery, plan.stopped), (None, false), "the intent is written first");
    let name = "demo-recovery-a-look1".to_owned();
    let plan = go(&mut fixture);
    let start = Step::StartPod { name: name.clone(), host: Some(host(1)), write: false };
    assert_eq!(plan.recovery, Some(start));
    assert_eq!(go(&mut fixture).recovery, None, "it does not wait for the volume yet");
    pod(&mut fixture, None);
    let stop = Step::StopNode { pod: "demo-1".to_owned(), uid: "pod-1".to_owned() };
    assert_eq!(go(&mut fixture).recovery, Some(stop));
    assert_eq!(go(&mut fixture).recovery, None, "the next pod of that name is left alone");
    pod(&mut fixture, Some(looked()));
    let plan = go(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Reported);
    assert!(plan.notices.iter().any(|it| it.reason == "RecoveryReported"), "{plan:?}");
    let report = recovery(&fixture).report.clone().unwrap();
    let given_up: Vec<&str> = report.volumes_given_up.iter().map(|it| it.pod.as_str()).collect();
    assert_eq!(given_up, ["demo-0", "demo-2"]);
    assert!(fixture.status().next.contains(&report.digest), "{}", fixture.status().next);
    let map = "demo-recovery-a-report".to_owned();
    let keep = Step::Keep { pod: name.clone(), uid: format!("uid-{name}"), config_map: map };
    assert_eq!(go(&mut fixture).recovery, Some(keep));
    assert!(matches!(go(&mut fixture).recovery, Some(Step::RemovePod { .. })));
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Reported, "it waits for a human");
}

#[test]
fn a_pod_that_came_first_to_the_volume_is_stopped_once() {
    let mut fixture = lost();
    let own = fixture.observed.pods.remove("demo-1").unwrap();
    ask(&mut fixture, json!({}));
    rest(&mut fixture);
    // The StatefulSet made it after the look had begun.
    fixture.observed.pods.insert("demo-1".to_owned(), own);
    assert_eq!(go(&mut fixture).recovery, None, "nothing waits for the volume yet");
    pod(&mut fixture, None);
    let stop = Step::StopNode { pod: "demo-1".to_owned(), uid: "pod-1".to_owned() };
    assert_eq!(go(&mut fixture).recovery, Some(stop));
    rest(&mut fixture);
    assert_eq!(recovery(&fixture).stopped_uid.as_deref(), Some("pod-1"), "that one and no other");
}

#[test]
fn with_consent_all_pods_stop_then_the_volume_is_changed_then_others_get_new_ones() {
    let mut fixture = reported();
    let digest = digest_of(&fixture);
    consent(&mut fixture, &digest);
    let plan = go(&mut fixture);
    assert!(plan.stopped);
    assert_eq!(phase(&fixture), RecoveryPhase::Stopping);
    assert!(plan.notices.iter().any(|it| it.reason == "RecoveryStarted" && it.warning));
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Stopping, "pods are there still");
    fixture.observed.pods.retain(|name, _| name == "demo-2");
    fixture.observed.hosts.as_mut().unwrap().get_mut(&host(2)).unwrap().ready = false;
    fixture.observed.stateful_set.as_mut().unwrap().replicas = 0;
    rest(&mut fixture);
    let message = &recovery(&fixture).message;
    assert!(message.contains("demo-2") && message.contains("out-of-service"), "{message}");
    fixture.observed.pods.clear();
    fixture.observed.report = None;
    go(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Recovering);
    let name = "demo-recovery-a-run2".to_owned();
    let start = Step::StartPod { name, host: None, write: true };
    assert_eq!(go(&mut fixture).recovery, Some(start));
    pod(&mut fixture, Some(Verdict { done: true, ..looked() }));
    assert!(go(&mut fixture).stopped);
    assert_eq!(phase(&fixture), RecoveryPhase::Replacing);
    for (at, pod) in [(0, "demo-0"), (2, "demo-2")] {
        let gone = Step::DeleteVolume { pod: pod.to_owned(), uid: format!("pvc-{at}") };
        let plan = go(&mut fixture);
        assert_eq!((plan.recovery, plan.stopped), (Some(gone), true));
    }
    let plan = go(&mut fixture);
    assert_eq!((phase(&fixture), plan.stopped), (RecoveryPhase::Starting, false));
    assert!(fixture.observed.volumes.contains_key("demo-1"), "what is left stays");
    let fresh = fixture.store(0);
    assert!(fresh.store_id.is_none() && !fresh.served && fresh.down_since.is_none(), "{fresh:?}");
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Starting);
    let mut well = Fixture::new(3).observed;
    well.report.as_mut().unwrap().nodes.retain(|node| node.name == "demo-1");
    let kept = std::mem::take(&mut fixture.observed.kept_reports);
    fixture.observed = Observed { kept_reports: kept, ..well };
    let plan = go(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Done);
    let done = plan.notices.iter().find(|it| it.reason == "RecoveryDone").unwrap();
    assert!(done.note.contains("n1 (demo-0)"), "{}", done.note);
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Done);
    fixture.cluster.spec.recovery = None;
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Done, "what was lost is still told");
}

#[test]
fn consent_to_anything_else_is_none() {
    let mut fixture = reported();
    consent(&mut fixture, "0123456789ab");
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Reported);
    assert!(recovery(&fixture).message.contains("acceptDataLoss is 0123456789ab"));
    // A volume is another one by now: it is looked again, and what was consented to is not that.
    let digest = digest_of(&fixture);
    let new = VolumeView { uid: "new".to_owned(), bound: true, ..VolumeView::default() };
    fixture.observed.volumes.insert("demo-2".to_owned(), new);
    consent(&mut fixture, &digest);
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Examining);
    assert_eq!(recovery(&fixture).pod.as_deref(), Some("demo-recovery-a-look2"));
    pod(&mut fixture, Some(looked()));
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Reported);
    assert_ne!(digest_of(&fixture), digest);
}

#[test]
fn a_report_that_the_volume_does_not_confirm_is_made_anew() {
    let mut fixture = executing();
    pod(&mut fixture, Some(refused("Outdated", true)));
    let plan = go(&mut fixture);
    assert_eq!((phase(&fixture), plan.stopped), (RecoveryPhase::Requested, false));
    assert!(recovery(&fixture).report.is_none());
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Examining);
    assert_eq!(recovery(&fixture).pod.as_deref(), Some("demo-recovery-a-look3"));
    assert_eq!(fixture.observed.volumes.len(), 3);
}

#[test]
fn as_long_as_a_majority_may_be_there_nothing_is_begun() {
    let mut fixture = lost();
    ask(&mut fixture, json!({}));
    let guard = |fixture: &mut Fixture| {
        rest(fixture);
        assert_eq!(phase(fixture), RecoveryPhase::Requested);
        fixture
            .status()
            .blocked_by
            .iter()
            .find(|it| it.action.starts_with("Recover/"))
            .unwrap()
            .guard
            .clone()
    };
    let well = fixture.clone();
    fixture.pod(1).ready = true;
    assert_eq!(guard(&mut fixture), "MajorityThere");
    fixture = well.clone();
    fixture.member(2).state = "Up".to_owned();
    fixture.report().sequencer = Some(2);
    assert_eq!(guard(&mut fixture), "MajorityThere");
    fixture = well.clone();
    fixture.observed.volumes.remove("demo-1");
    assert_eq!(guard(&mut fixture), "VolumeGone");
    fixture = well;
    ask(&mut fixture, json!({"from": "demo-7"}));
    assert_eq!(guard(&mut fixture), "UnknownPod");
    ask(&mut fixture, json!({"mode": "Ranges", "ranges": [4]}));
    assert_eq!(guard(&mut fixture), "NoQuorum");
    // It is back while the user reads.
    let mut fixture = reported();
    let digest = digest_of(&fixture);
    consent(&mut fixture, &digest);
    fixture.pod(0).ready = true;
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Reported);
    assert!(recovery(&fixture).message.contains("demo-0 is ready"));
}

#[test]
fn what_is_taken_back_in_time_changes_nothing() {
    for stopping in [false, true] {
        let mut fixture = reported();
        if stopping {
            let digest = digest_of(&fixture);
            consent(&mut fixture, &digest);
            rest(&mut fixture);
            assert_eq!(phase(&fixture), RecoveryPhase::Stopping);
        }
        fixture.cluster.spec.recovery = None;
        let plan = go(&mut fixture);
        assert!(!plan.stopped && plan.status.recovery.is_none());
        assert!(plan.notices.iter().any(|it| it.reason == "RecoveryCancelled"));
        rest(&mut fixture);
        assert!(fixture.observed.recovery_pods.is_empty());
        assert_eq!(fixture.observed.volumes.len(), 3);
    }
    // Too late.
    let mut fixture = executing();
    fixture.cluster.spec.recovery = None;
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Recovering);
}

#[test]
fn pods_that_end_without_a_word_are_not_tried_for_ever() {
    let mut fixture = executing();
    for at in 2..5 {
        assert_eq!(
            recovery(&fixture).pod.as_deref(),
            Some(format!("demo-recovery-a-run{at}").as_str())
        );
        silent(&mut fixture);
        rest(&mut fixture);
    }
    assert_eq!(phase(&fixture), RecoveryPhase::Failed);
    assert!(!fixture.step().stopped, "pods start again");
    assert_eq!(
        fixture.observed.volumes.len(),
        3,
        "nothing is given up that was not gone on without"
    );
    rest(&mut fixture);
    // Another request begins anew.
    ask(&mut fixture, json!({"id": "b"}));
    fixture.observed = lost().observed;
    rest(&mut fixture);
    assert_eq!(recovery(&fixture).pod.as_deref(), Some("demo-recovery-b-look1"));
}

#[test]
fn a_refusal_ends_it_but_that_others_run_does_not_keep_from_looking() {
    for (refusal, report, ends) in [
        ("Running", true, RecoveryPhase::Reported),
        ("Majority", true, RecoveryPhase::Failed),
        ("LostKeys", true, RecoveryPhase::Failed),
        ("Unclear", true, RecoveryPhase::Failed),
        ("Nothing", false, RecoveryPhase::Failed),
    ] {
        let mut fixture = lost();
        ask(&mut fixture, json!({}));
        rest(&mut fixture);
        pod(&mut fixture, Some(refused(refusal, report)));
        rest(&mut fixture);
        assert_eq!(phase(&fixture), ends, "{refusal}");
        if ends == RecoveryPhase::Failed {
            assert!(recovery(&fixture).message.contains(refusal));
        }
    }
    let mut fixture = executing();
    pod(&mut fixture, Some(refused("Running", true)));
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Failed);
    assert_eq!(fixture.observed.volumes.len(), 3);
}

#[test]
fn single_ranges_are_recovered_while_the_others_are_served() {
    let mut fixture = Fixture::new(5);
    fixture.kill(0);
    fixture.kill(2);
    fixture.report().ranges.unavailable = 1;
    fixture.pass(60).settle();
    ask(&mut fixture, json!({"mode": "Ranges", "ranges": [4]}));
    rest(&mut fixture);
    pod(&mut fixture, None);
    rest(&mut fixture);
    pod(&mut fixture, Some(looked()));
    rest(&mut fixture);
    assert!(recovery(&fixture).report.as_ref().unwrap().volumes_given_up.is_empty());
    let digest = digest_of(&fixture);
    consent(&mut fixture, &digest);
    let plan = go(&mut fixture);
    assert!(!plan.stopped);
    assert_eq!(phase(&fixture), RecoveryPhase::Recovering);
    let name = "demo-recovery-a-run2".to_owned();
    let start = Step::StartPod { name, host: Some(host(1)), write: true };
    assert_eq!(go(&mut fixture).recovery, Some(start));
    pod(&mut fixture, None);
    assert!(
        matches!(go(&mut fixture).recovery, Some(Step::StopNode { pod, .. }) if pod == "demo-1")
    );
    pod(&mut fixture, Some(Verdict { done: true, ..looked() }));
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Done);
    assert_eq!(fixture.observed.volumes.len(), 5);
}

#[test]
fn what_was_under_way_ends_with_the_old_cluster_and_nothing_begins_meanwhile() {
    let mut fixture = Fixture::new(5);
    fixture.kill(4);
    fixture.pass(601).step();
    assert!(fixture.status().operation.is_some(), "its copies are made anew");
    fixture.kill(0);
    fixture.kill(2);
    fixture.unready(1);
    fixture.unready(3);
    fixture.report().ranges.unavailable = 10;
    fixture.report().sequencer = None;
    ask(&mut fixture, json!({}));
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Examining);
    let operation = fixture.status().operation.clone();
    assert!(operation.is_some());
    assert_eq!(fixture.pass(600).step().action, None, "it waits");
    assert_eq!(fixture.status().operation, operation);
    pod(&mut fixture, Some(looked()));
    rest(&mut fixture);
    let digest = digest_of(&fixture);
    consent(&mut fixture, &digest);
    rest(&mut fixture);
    assert_eq!(phase(&fixture), RecoveryPhase::Stopping);
    assert!(fixture.status().operation.is_none());
}
