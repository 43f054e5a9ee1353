//! What is made of Kubernetes' objects.

use super::*;
use serde_json::{Value, json};

fn pod(status: Value) -> PodView {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "demo-0", "uid": "u", "labels": {"controller-revision-hash": "r"}},
        "spec": {"containers": [], "nodeName": "host-0"},
        "status": status,
    }))
    .unwrap();
    PodView::from(&pod)
}

fn conditions(ready: &str, containers: &str) -> Value {
    json!([
        {"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-22T10:00:00Z"},
        {"type": "ContainersReady", "status": containers},
        {"type": "PodScheduled", "status": "True"},
    ])
}

fn container(name: &str, ready: bool) -> Value {
    json!({"name": name, "ready": ready, "image": "", "imageID": "", "restartCount": 0,
        "state": {"running": {}}})
}

#[test]
fn a_ready_pod_is_ready() {
    let view = pod(json!({"conditions": conditions("True", "True"), "podIP": "10.0.0.1",
        "containerStatuses": [container("node", true)]}));
    assert!(view.ready && view.running);
    assert_eq!(view.ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(view.revision.as_deref(), Some("r"));
    assert!(view.ready_changed.is_some());
}

#[test]
fn a_users_container_does_not_make_the_node_unready() {
    let view = pod(json!({"conditions": conditions("False", "False"),
        "initContainerStatuses": [container("node", true)],
        "containerStatuses": [container("app", false)]}));
    assert!(view.ready);
}

#[test]
fn what_kubernetes_lost_sight_of_is_not_ready() {
    let view = pod(json!({"conditions": conditions("False", "True"),
        "containerStatuses": [container("node", true)]}));
    assert!(!view.ready);
}

#[test]
fn why_a_pod_does_not_start_is_kept() {
    let view = pod(json!({"containerStatuses": [{
        "name": "node", "ready": false, "image": "", "imageID": "", "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
        "lastState": {"terminated": {"exitCode": 1, "message": "disk of another cluster"}},
    }]}));
    assert_eq!(view.waiting.unwrap().0, "CrashLoopBackOff");
    assert_eq!(view.last_words.as_deref(), Some("disk of another cluster"));
}

#[test]
fn cordoned_and_lost_hosts() {
    let node = |spec: Value| {
        let node: Node = serde_json::from_value(json!({"metadata": {}, "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap();
        HostView::from(&node)
    };
    assert_eq!(node(json!({})), HostView { ready: true, ..HostView::default() });
    assert!(node(json!({"unschedulable": true})).cordoned);
    let taint =
        json!({"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]});
    assert!(node(taint).out_of_service);
}

#[test]
fn a_report_of_a_part_is_not_a_majority() {
    let report: Report = serde_json::from_value(json!({
        "protection": "Degraded", "ranges": {"total": 1, "fullyReplicated": 0, "unavailable": 0},
        "nodes": [
            {"id": 1, "name": "demo-0", "state": "Up"},
            {"id": 2, "name": "demo-1", "state": "Down"},
            {"id": 3, "name": "demo-2", "state": "Down"},
            {"id": 4, "name": "demo-1", "state": "Up"},
        ],
        "sequencer": 1,
    }))
    .unwrap();
    // Two of three places answer, but of two nodes alone one is no majority.
    assert!(report.has_quorum() && report.superseded().next().is_some_and(|old| old.id == 2));
    let cut = Report { nodes: report.nodes[..3].to_vec(), ..report.clone() };
    assert!(!cut.has_quorum());
    // A replacement has its predecessor's name; the one that answers counts.
    assert_eq!(report.member("demo-1").unwrap().id, 4);
    assert_eq!(report.member("demo-9"), None);
}

#[test]
fn a_pod_of_a_recovery_tells_how_it_ended_only_in_a_format_that_is_known() {
    let pod = |status: Value| {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "x", "uid": "u"}, "status": status}),
        )
        .unwrap();
        recovery::RecoveryPod::from(&pod)
    };
    let ended = |message: &str| {
        let state = json!({"terminated": {"exitCode": 2, "message": message}});
        let container = json!({"name": "node", "ready": false, "image": "", "imageID": "",
            "restartCount": 0, "state": state});
        pod(json!({"phase": "Failed", "containerStatuses": [container]})).ended.unwrap()
    };
    let verdict = ended(r#"{"version":1,"refusal":"Outdated","failure":"no"}"#).verdict.unwrap();
    assert_eq!(verdict.refusal.as_deref(), Some("Outdated"));
    assert_eq!(ended(r#"{"version":2,"done":true}"#).verdict, None);
    assert_eq!(ended("killed"), recovery::Ended { verdict: None, why: "exit code 2".to_owned() });
    // The deadline, or a machine that is gone: no container ever said a word.
    let late = pod(json!({"phase": "Failed", "reason": "DeadlineExceeded"})).ended.unwrap();
    assert_eq!(late.why, "DeadlineExceeded");
    let waits = json!([{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]);
    let waits = pod(json!({"phase": "Pending", "conditions": waits}));
    assert_eq!((waits.ended, waits.trouble.as_deref()), (None, Some("0/3 nodes")));
}
