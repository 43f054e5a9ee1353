//! What the operator answers, and what it remembers.
//!
//! Invariants: every timer and every intent is here, so that another operator, or the same one after
//! a restart, goes on where this one stopped; nothing in here changes just because time passes.

use super::placement::PlacementStatus;
use super::recovery::RecoveryStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// Observed state of a cluster.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct HoldfastClusterStatus {
    /// The generation of the spec that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The cluster's own id, as its nodes and disks carry it. Set once.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// True from the moment that the nodes formed a cluster, for ever: whatever starts later joins.
    pub bootstrapped: bool,
    /// How many nodes form, or formed, the cluster. Set once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_nodes: Option<i32>,
    /// Which of the operator's pod templates this cluster uses: a newer operator keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_revision: Option<i32>,
    /// How many pods there are to be now.
    pub nodes: i32,
    /// How many pods are ready.
    pub ready_nodes: i32,
    /// How many pods were made from the newest template.
    pub updated_nodes: i32,
    /// Selects the pods.
    pub selector: String,
    /// Ranges by state. Absent while unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Ranges>,
    /// How well the data is protected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
    /// What became of `spec.placement`.
    #[serde(skip_serializing_if = "PlacementStatus::is_empty")]
    pub placement: PlacementStatus,
    /// Every node with its pod.
    #[schemars(schema_with = "stores_schema")]
    pub stores: Vec<Store>,
    /// Nodes that were drained and taken away by scaling down, whose volumes are still there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parked: Vec<Parked>,
    /// Nodes whose volumes were given up before their copies were made anew, because no other node could
    /// take them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<GivenUp>,
    /// What is being done to a node: at most one thing at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// A recovery from the loss of a majority, as it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryStatus>,
    /// The epoch of the newest operation; each has a higher one.
    pub epoch: i64,
    /// What is due but held back, and by what.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<Blocked>,
    /// What the operator does next.
    pub next: String,
    /// Aspects of the state, by type.
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

impl HoldfastClusterStatus {
    /// A recovery that was asked for and is not over.
    pub fn recovery_under_way(&self) -> Option<&RecoveryStatus> {
        self.recovery.as_ref().filter(|it| !it.phase.ended())
    }
}

/// Ranges by state.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Ranges {
    /// All of them.
    pub total: i64,
    /// Those that can be read and written.
    pub available: i64,
    /// Those with all copies complete.
    pub fully_replicated: i64,
    /// Those that lack a copy.
    pub under_replicated: i64,
    /// Those that nobody can read or write.
    pub unavailable: i64,
}

/// How well the data is protected.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Protection {
    /// `Full`, `Degraded`, `Reprotecting`, `Unavailable` or `Unknown`.
    pub state: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Bytes that are still to be copied, rounded up to 16 MiB.
    pub bytes_remaining: i64,
    /// When all copies will be made, if it goes on like this. Absent while unknown; changed only when
    /// it turns out to be off by more than a quarter of the time that is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_end: Option<Time>,
}

/// What the operator thinks of a node.
#[derive(
    JsonSchema,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
pub enum StoreState {
    /// Its pod has never been ready: it is still starting.
    #[default]
    Pending,
    /// As it should be.
    Healthy,
    /// Away or not ready; the clock runs.
    Suspect,
    /// Away while its Kubernetes node is drained; the clock of `drainDelay` runs.
    Draining,
    /// Away for too long: its copies are to be made anew elsewhere.
    Condemned,
    /// Its copies are being made anew elsewhere.
    Reprotecting,
    /// It has no copies left and may never come back.
    Tombstoned,
    /// Its pod and volume are being replaced.
    Replacing,
    /// It is drained because the cluster becomes smaller.
    Leaving,
}

/// A node with its pod.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// Its pod.
    pub pod: String,
    /// The number that the cluster knows it by; an emptied volume makes a new one.
    #[serde(rename = "storeID", skip_serializing_if = "Option::is_none")]
    pub store_id: Option<i64>,
    /// What the operator thinks of it.
    pub state: StoreState,
    /// What the other nodes say of it: `Up`, `Down`, `Draining`, `Leaving`, `Condemned`, `Joining`, `Absent` if
    /// they do not know it, or `Unknown`.
    pub member: String,
    /// The pod's Kubernetes node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The zone of that Kubernetes node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What it fails together with, as the cluster knows it. Without it: it fails alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_domain: Option<String>,
    /// Why the state is as it is, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is away. Survives restarts of the operator and of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_since: Option<Time>,
    /// When its copies are made anew elsewhere, if it does not come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_at: Option<Time>,
    /// Copies of ranges on it.
    pub ranges: i64,
    /// Ranges that it leads.
    pub leaders: i64,
    /// Its pod has been ready at least once; before that, nothing counts as a failure.
    pub served: bool,
}

/// A node that was drained and taken away.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Parked {
    /// The pod that it was.
    pub pod: String,
    /// The number that the cluster knows it by.
    #[serde(rename = "storeID")]
    pub store_id: i64,
    /// The UID of its volume claim.
    #[serde(rename = "volumeUID", skip_serializing_if = "Option::is_none")]
    pub volume_uid: Option<String>,
}

/// A node that can never come back, since its volume was given up; the cluster does not know that yet.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GivenUp {
    /// The pod that it was.
    pub pod: String,
    /// The number that the cluster knows it by.
    #[serde(rename = "storeID")]
    pub store_id: i64,
    /// The UID of the volume claim that it had.
    #[serde(rename = "volumeUID")]
    pub volume_uid: String,
}

/// Kinds of operations.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationType {
    /// Make the copies of a lost node anew on others.
    Reprotect,
    /// Drain a node and take it away.
    ScaleDown,
    /// Let a drained node lead again.
    Undrain,
    /// Give a pod a new volume.
    Replace,
    /// Make a pod anew from the newest template.
    Restart,
}

/// How far an operation is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Written down, not yet carried out.
    Intended,
    /// The cluster, or Kubernetes, has taken it on.
    Accepted,
    /// The cluster said no; it is asked again at `retryAt`.
    Refused,
}

/// Something that is done to a node.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Unique; asking twice with the same one is asking once.
    pub id: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: OperationType,
    /// The pod it is about.
    pub pod: String,
    /// The node it is about.
    #[serde(rename = "storeID", skip_serializing_if = "Option::is_none")]
    pub store_id: Option<i64>,
    /// The UID of the pod or volume that it is about: another one of the same name is left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Orders operations: the cluster refuses one with a lower epoch than it has seen.
    pub epoch: i64,
    /// How far it is.
    pub phase: Phase,
    /// When it was written down.
    pub started_at: Time,
    /// What the cluster said to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When a refused one is tried again; of a drain that goes on: when it is asked for once more, because it
    /// ends by itself if nobody does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// How often it was refused.
    #[serde(default)]
    pub refusals: i32,
}

/// Something that is due but held back.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// What is due, as `What/pod`.
    pub action: String,
    /// What holds it back.
    pub guard: String,
    /// The same as a sentence.
    pub message: String,
    /// Since when.
    pub since: Time,
}

/// A list in which each entry has another value of `key`.
pub(super) fn keyed<T: JsonSchema>(generator: &mut SchemaGenerator, key: &str) -> Schema {
    let mut schema = generator.subschema_for::<Vec<T>>();
    schema.insert("x-kubernetes-list-type".to_owned(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".to_owned(), serde_json::json!([key]));
    schema
}

fn stores_schema(generator: &mut SchemaGenerator) -> Schema {
    keyed::<Store>(generator, "pod")
}

fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    keyed::<Condition>(generator, "type")
}
