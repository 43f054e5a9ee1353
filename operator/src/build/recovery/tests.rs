//! The pod that looks at a volume, or changes it: what it is made of.

use super::*;
use crate::api::recovery::{RecoveryMode, RecoveryPhase, RecoveryReport};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

fn inputs(spec: &serde_json::Value) -> Inputs {
    let cluster = serde_json::from_value(json!({
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "HoldfastCluster",
        "metadata": {"name": "demo", "namespace": "ns", "uid": "u"},
        "spec": spec,
    }));
    Inputs::new(&cluster.unwrap())
}

fn recovery() -> RecoveryStatus {
    RecoveryStatus {
        id: "a".to_owned(),
        from: "demo-1".to_owned(),
        mode: RecoveryMode::Ranges,
        ranges: vec![4, 7],
        empty_lost_ranges: true,
        phase: RecoveryPhase::Examining,
        since: Time(jiff::Timestamp::UNIX_EPOCH),
        message: String::new(),
        pod: None,
        pods: 0,
        silent: 0,
        stopped_uid: None,
        report: Some(RecoveryReport {
            digest: "d1".to_owned(),
            store_digest: "s1".to_owned(),
            ..RecoveryReport::default()
        }),
    }
}

fn arguments_of(pod: &Pod) -> Vec<String> {
    pod.spec.as_ref().unwrap().containers[0].args.clone().unwrap()
}

#[test]
fn one_that_looks_changes_nothing_and_one_that_changes_names_what_was_consented_to() {
    let inputs = inputs(&json!({}));
    let look = arguments_of(&pod(&inputs, &recovery(), "x", None, false));
    for part in ["--dry-run", "--range=4,7", "--empty-lost-ranges"] {
        assert!(look.iter().any(|it| it == part), "{part} is not in {look:?}");
    }
    assert!(!look.iter().any(|it| it.contains("accept") || it.contains("once")), "{look:?}");
    let run = arguments_of(&pod(&inputs, &recovery(), "x", None, true));
    for part in ["--i-accept-data-loss", "--expect=s1", "--once=a-d1"] {
        assert!(run.iter().any(|it| it == part), "{part} is not in {run:?}");
    }
    assert!(!run.iter().any(|it| it == "--dry-run"), "{run:?}");
    // Without a report there is nothing that anybody could have consented to.
    let blind = RecoveryStatus { report: None, ..recovery() };
    let blind = arguments_of(&pod(&inputs, &blind, "x", None, true));
    assert!(blind.iter().any(|it| it == "--dry-run"), "{blind:?}");
}

#[test]
fn it_is_no_node_and_runs_where_the_node_does_once() {
    let overlay = json!({"spec": {
        "containers": [{"name": "app", "image": "app"}],
        "tolerations": [{"key": "db"}],
        "imagePullSecrets": [{"name": "pull"}],
        "affinity": {"podAntiAffinity": {}},
    }});
    let inputs =
        inputs(&json!({"podTemplate": overlay, "resources": {"limits": {"memory": "1Gi"}}}));
    let made = pod(&inputs, &recovery(), "x", Some("host-1"), false);
    let labels = made.metadata.labels.clone().unwrap();
    let selects = names::selector("demo").iter().all(|(key, value)| labels.get(key) == Some(value));
    assert!(!selects, "Services and budgets take it for a node: {labels:?}");
    assert_eq!(labels["app.kubernetes.io/instance"], "demo");
    assert_eq!(made.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
    let spec = made.spec.unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
    assert_eq!(spec.containers.len(), 1);
    assert!(spec.init_containers.is_none() && spec.topology_spread_constraints.is_none());
    assert_eq!(spec.tolerations.unwrap().len(), 2);
    assert_eq!(spec.image_pull_secrets.unwrap()[0].name, "pull");
    let affinity = spec.affinity.unwrap();
    assert!(affinity.pod_anti_affinity.is_none());
    assert!(serde_json::to_string(&affinity).unwrap().contains("host-1"));
    let claims: Vec<_> =
        spec.volumes.unwrap().into_iter().filter_map(|it| it.persistent_volume_claim).collect();
    assert_eq!(claims[0].claim_name, "data-demo-1");
    let node = &spec.containers[0];
    assert!(
        node.restart_policy.is_none() && node.liveness_probe.is_none() && node.lifecycle.is_none()
    );
    let security = node.security_context.as_ref().unwrap();
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(spec.security_context.unwrap().run_as_non_root, Some(true));
    assert!(node.resources.as_ref().unwrap().limits.is_some());
}
