//! Reads what a `HoldfastCluster` says, without the operator's types: as any other program would.

use kube::api::DynamicObject;
use serde_json::Value;

/// A condition of a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A condition by its type.
pub(crate) fn condition(cluster: &DynamicObject, wanted: &str) -> Option<Condition> {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    cluster.data["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == wanted)
        .map(|found| Condition {
            status: text(found, "status"),
            reason: text(found, "reason"),
            message: text(found, "message"),
        })
}

/// Whether a condition is true, and about the newest spec.
pub(crate) fn is_true(cluster: &DynamicObject, wanted: &str) -> bool {
    cluster.data["status"]["observedGeneration"].as_i64() == cluster.metadata.generation
        && condition(cluster, wanted).is_some_and(|found| found.status == "True")
}

/// Ready with this many nodes, all of them healthy.
pub(crate) fn is_whole(cluster: &DynamicObject, nodes: i64) -> bool {
    is_true(cluster, "Ready")
        && is_true(cluster, "Available")
        && cluster.data["status"]["readyNodes"].as_i64() == Some(nodes)
        && stores(cluster).len() == usize::try_from(nodes).expect("nodes are few")
        && stores(cluster).iter().all(|store| store["state"] == "Healthy")
}

/// The table of stores.
pub(crate) fn stores(cluster: &DynamicObject) -> &[Value] {
    cluster.data["status"]["stores"].as_array().map_or(&[], Vec::as_slice)
}

/// The row of a pod's store; null if there is none.
pub(crate) fn store<'a>(cluster: &'a DynamicObject, pod: &str) -> &'a Value {
    stores(cluster).iter().find(|store| store["pod"] == pod).unwrap_or(&Value::Null)
}

/// What a failed wait prints of a cluster.
pub(crate) fn in_short(cluster: &DynamicObject) -> String {
    serde_json::to_string_pretty(&cluster.data["status"]).expect("it came as JSON")
}
