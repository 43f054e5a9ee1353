//! The pod that runs `holdfast-node recover` on the volume of a stopped node, and the ConfigMap with what
//! it printed.
//!
//! Invariants: made from the pod template of the nodes, with the user's overlay, so that it runs wherever
//! they do; none of the labels that select nodes; it is never started twice by itself.

use super::{Inputs, Kind, Object, names, pod};
use crate::api::recovery::RecoveryStatus;
use crate::observe::recovery::PRINTED_BY;
use k8s_openapi::api::core::v1::{
    Affinity, ConfigMap, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolumeClaimVolumeSource, Pod, ResourceRequirements, Toleration, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Seconds after which Kubernetes ends it: far longer than the logs of a large volume take to be applied.
const DEADLINE: i64 = 3600;
/// How long it waits for the node to leave the volume.
const WAIT: &str = "2m";
/// Where Kubernetes reads a container's last message.
const LAST_MESSAGE: &str = "/dev/termination-log";

/// Builds the pod `name`. `host` is the Kubernetes node on which the volume is in use, if it is.
pub fn pod(
    inputs: &Inputs,
    recovery: &RecoveryStatus,
    name: &str,
    host: Option<&str>,
    write: bool,
) -> Pod {
    let mut spec = pod::template(inputs).spec.unwrap_or_default();
    let others = spec.init_containers.take().unwrap_or_default();
    let mut all = std::mem::take(&mut spec.containers).into_iter().chain(others);
    let node = all.find(|container| container.name == names::CONTAINER);
    let mut node = node.expect("every template has the node's container");
    node.args = Some(arguments(recovery, write));
    node.ports = None;
    node.startup_probe = None;
    node.liveness_probe = None;
    node.readiness_probe = None;
    node.lifecycle = None;
    node.restart_policy = None;
    node.termination_message_path = Some(LAST_MESSAGE.to_owned());
    node.termination_message_policy = Some("File".to_owned());
    // It runs where the node has its place reserved, and while that is stopped.
    node.resources = Some(ResourceRequirements {
        requests: Some(
            [("cpu", "10m"), ("memory", "32Mi")]
                .map(|(what, much)| (what.to_owned(), Quantity(much.to_owned())))
                .into(),
        ),
        limits: node.resources.and_then(|resources| resources.limits),
        ..ResourceRequirements::default()
    });
    spec.containers = vec![node];
    spec.restart_policy = Some("Never".to_owned());
    spec.active_deadline_seconds = Some(DEADLINE);
    // Its process can be killed at any moment.
    spec.termination_grace_period_seconds = Some(1);
    spec.topology_spread_constraints = None;
    spec.affinity = host.map(on);
    if host.is_some() {
        // The node is there, so its volume is, cordoned or not.
        spec.tolerations.get_or_insert_default().push(Toleration {
            key: Some("node.kubernetes.io/unschedulable".to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        });
    }
    spec.volumes.get_or_insert_default().push(Volume {
        name: names::VOLUME.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: names::volume_claim(&recovery.from),
            read_only: None,
        }),
        ..Volume::default()
    });
    let mut metadata = inputs.metadata(name);
    metadata.labels = Some(names::recovery_labels(&inputs.name));
    Pod { metadata, spec: Some(spec), status: None }
}

fn arguments(recovery: &RecoveryStatus, write: bool) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["recover", "--data", pod::DATA_DIR, "--wait", WAIT, "--verdict", LAST_MESSAGE]
            .map(str::to_owned)
            .into();
    if !recovery.ranges.is_empty() {
        let ranges: Vec<String> = recovery.ranges.iter().map(i64::to_string).collect();
        arguments.push(format!("--range={}", ranges.join(",")));
    }
    if recovery.empty_lost_ranges {
        arguments.push("--empty-lost-ranges".to_owned());
    }
    match recovery.report.as_ref().filter(|_| write) {
        Some(report) => arguments.extend([
            "--i-accept-data-loss".to_owned(),
            format!("--expect={}", report.store_digest),
            format!("--once={}-{}", recovery.id, report.digest),
        ]),
        None => arguments.push("--dry-run".to_owned()),
    }
    arguments
}

/// On this Kubernetes node and no other.
fn on(host: &str) -> Affinity {
    Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![NodeSelectorTerm {
                    match_fields: Some(vec![NodeSelectorRequirement {
                        key: "metadata.name".to_owned(),
                        operator: "In".to_owned(),
                        values: Some(vec![host.to_owned()]),
                    }]),
                    ..NodeSelectorTerm::default()
                }],
            }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// Builds the ConfigMap `name` with what the pod of this UID has printed.
pub fn printed(inputs: &Inputs, name: &str, pod_uid: &str, text: String) -> Object {
    let mut metadata = inputs.metadata(name);
    metadata.annotations = Some([(PRINTED_BY.to_owned(), pod_uid.to_owned())].into());
    let map = ConfigMap {
        metadata,
        data: Some([("report.txt".to_owned(), text)].into()),
        ..ConfigMap::default()
    };
    super::object(Kind::ConfigMap, &map)
}

#[cfg(test)]
mod tests;
