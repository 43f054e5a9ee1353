//! What a user asks for.
//!
//! Invariants: every field has an effect; every default is here and nowhere else. Rules that the
//! API server checks (CEL) are checked again by [`crate::validate`], because a resource may be older
//! than its CRD.

use super::duration::HumanDuration;
use super::placement::Placement;
use super::recovery::Recovery;
use super::status::HoldfastClusterStatus;
use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A Holdfast cluster: a replicated, range-sharded key-value store that speaks the etcd v3 API.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "HoldfastCluster",
    plural = "holdfastclusters",
    singular = "holdfastcluster",
    shortname = "hf",
    category = "all",
    namespaced,
    status = "HoldfastClusterStatus",
    derive = "PartialEq",
    doc = "A Holdfast cluster: a replicated, range-sharded key-value store that speaks the etcd v3 API.",
    scale(
        spec_replicas_path = ".spec.nodes",
        status_replicas_path = ".status.nodes",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".spec.nodes", description = "nodes asked for"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyNodes", description = "pods that are ready"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Available\")].status",
        description = "every range can be read and written"
    ),
    printcolumn(
        name = "Replicated",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"FullyReplicated\")].status",
        description = "every range has all its copies"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "why it is ready or not"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Under-Replicated",
        type_ = "integer",
        json_path = ".status.ranges.underReplicated",
        priority = "1",
        description = "ranges that lack a copy"
    ),
    printcolumn(
        name = "Next",
        type_ = "string",
        json_path = ".status.next",
        priority = "1",
        description = "what the operator does next"
    ),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("metadata.name must have at most 40 characters: pods, services and certificates are named after it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must start with a letter and have no dots: it becomes a part of DNS names")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.nodes >= self.replicas")
        .message("nodes must be at least replicas: each copy of a range needs a node of its own"),
    validation = Rule::new("!has(self.maxFailures) || self.replicas >= 2 * self.maxFailures + 1")
        .message("replicas must be at least 2 * maxFailures + 1: a majority of the copies has to survive"),
    validation = Rule::new("!has(self.placement) || !has(self.placement.policies) || self.placement.policies.all(policy, policy.replicas <= self.nodes)")
        .message("placement.policies: replicas must be at most nodes: each copy of a range needs a node of its own"),
    validation = Rule::new("!has(self.placement) || !has(self.placement.policies) || self.placement.policies.all(policy, policy.replicas >= self.replicas || policy.allowFewer)")
        .message("placement.policies: fewer replicas than the cluster's survive fewer failures: say allowFewer if that is meant"),
)]
pub struct HoldfastClusterSpec {
    /// How many nodes the cluster has. Raising it adds nodes; lowering it drains the node with the
    /// highest number first, and can be taken back while that lasts.
    #[serde(default = "default_nodes")]
    #[schemars(range(min = 1, max = 99))]
    pub nodes: i32,
    /// How many copies every range has: odd. Fixed once the cluster exists.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 7))]
    #[x_kube(
        validation = Rule::new("self % 2 == 1")
            .message("replicas must be odd: an even number survives no more failures than one less"),
        validation = Rule::new("self == oldSelf")
            .message("replicas cannot be changed: the ranges were made with this many copies")
    )]
    pub replicas: i32,
    /// How many nodes may fail at the same time without any data becoming unavailable. Planned
    /// disruptions take at most one less than this, but one. Without it: as many as `replicas` allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3))]
    pub max_failures: Option<i32>,
    /// The container image of the nodes.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
    /// When the image is pulled. Without it: as Kubernetes decides from the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// The volume of every node.
    #[serde(default)]
    pub storage: Storage,
    /// Processor and memory of every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Merged over the pod template that the operator makes, by the names of containers, volumes and
    /// variables. With containers of your own here, the node becomes their sidecar, which they reach
    /// at localhost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub pod_template: Option<serde_json::Value>,
    /// Where copies go, and how many there are.
    #[serde(default)]
    pub placement: Placement,
    /// How pods are spread over Kubernetes nodes and zones.
    #[serde(default)]
    pub topology_spread: TopologySpread,
    /// How clients reach the cluster.
    #[serde(default)]
    pub gateway: Gateway,
    /// Certificates.
    #[serde(default)]
    pub tls: Tls,
    /// What happens when a node stays away.
    #[serde(default)]
    pub reprotection: Reprotection,
    /// When a pod gets a new, empty volume.
    #[serde(default)]
    pub replacement: Replacement,
    /// How many pods Kubernetes may take away at a time.
    #[serde(default)]
    pub pod_disruption_budget: DisruptionBudget,
    /// Who may connect to the pods.
    #[serde(default)]
    pub network_policy: NetworkPolicy,
    /// What is set up for monitoring.
    #[serde(default)]
    pub monitoring: Monitoring,
    /// First keys of the ranges that the new cluster starts with: text, or hex after `0x`. Fixed once
    /// the cluster exists.
    #[serde(default)]
    #[schemars(length(max = 256))]
    #[x_kube(
        validation = Rule::new("self == oldSelf")
            .message("splitKeys cannot be changed: they say how a new cluster starts")
    )]
    pub split_keys: Vec<SplitKey>,
    /// How soon the nodes notice that one of them is gone. Pods read it when they start.
    #[serde(default)]
    pub timing: Timing,
    /// A majority is gone for good: go on without it. Never by itself, and never before you have read
    /// what is lost and said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// The operator writes nothing but the status while this is true.
    #[serde(default)]
    pub paused: bool,
}

/// The first key of a range.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(transparent)]
#[schemars(inline)]
pub struct SplitKey(
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(regex(pattern = r"^[^,\s]+$"))]
    pub String,
);

/// When an image is pulled.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePullPolicy {
    /// Before every start.
    Always,
    /// When it is not there.
    IfNotPresent,
    /// It has to be there.
    Never,
}

impl ImagePullPolicy {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The volume of a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf")
        .message("storage cannot be changed: the volumes were made with this size and class")
)]
pub struct Storage {
    /// How large it is, for example `20Gi`.
    #[serde(default = "default_size")]
    #[schemars(length(min = 1, max = 32))]
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"))]
    pub size: String,
    /// Its storage class. Without it: the default one of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

impl Default for Storage {
    fn default() -> Self {
        Self { size: default_size(), storage_class_name: None }
    }
}

/// How pods are spread.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopologySpread {
    /// Over Kubernetes nodes and zones where that is possible.
    #[default]
    Auto,
    /// Never two pods more on one Kubernetes node than on another, even if a pod has to wait for it.
    Required,
    /// As the scheduler likes.
    Off,
}

/// How clients reach the cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// The Service of the client port.
    #[serde(default)]
    pub service: GatewayService,
}

/// The Service of the client port.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GatewayService {
    /// Its type.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// Its annotations, for example for a cloud's load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Types of Services.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Inside of the Kubernetes cluster only.
    #[default]
    ClusterIP,
    /// Also at a port of every Kubernetes node.
    NodePort,
    /// Also at a load balancer's address.
    LoadBalancer,
}

impl ServiceType {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// Certificates. Between the nodes, and from the operator to them, TLS is always mutual.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Clients speak TLS too, and show a certificate such as the one in the Secret
    /// `<name>-client-tls`. With `false` the client port is open to whoever reaches it. Changing it
    /// restarts the nodes, one by one.
    #[serde(default = "yes")]
    pub client: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self { client: true }
    }
}

/// What happens when a node stays away.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.drainDelay) >= duration(self.delay)")
        .message("reprotection.drainDelay must be at least reprotection.delay: a drained Kubernetes node comes back later than a crashed pod"),
)]
pub struct Reprotection {
    /// Whether lost copies are made anew without being asked.
    #[serde(default)]
    pub mode: ReprotectionMode,
    /// How long a pod may be away before that; until then nothing moves.
    #[serde(default = "default_delay")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('10s')")
            .message("reprotection.delay must be at least 10s: a pod needs longer than that to start again")
    )]
    pub delay: HumanDuration,
    /// The same while the pod's Kubernetes node is cordoned.
    #[serde(default = "default_drain_delay")]
    pub drain_delay: HumanDuration,
    /// When more nodes than this are down at once, nothing is done: then the network is to blame
    /// rather than the nodes. One node is always allowed.
    #[serde(default = "default_max_unhealthy")]
    #[schemars(regex(pattern = r"^(100|[1-9]?[0-9])%$"))]
    pub max_unhealthy: String,
    /// What to make of it when all nodes of a zone, two or more, go away at once. `maxUnhealthy` counts
    /// them in any case.
    #[serde(default)]
    pub zone_loss: ZoneLoss,
    /// How long the operator watches a cluster after its own start before it does anything.
    #[serde(default = "default_observe_for")]
    pub observe_for: HumanDuration,
}

impl Default for Reprotection {
    fn default() -> Self {
        Self {
            mode: ReprotectionMode::default(),
            delay: default_delay(),
            drain_delay: default_drain_delay(),
            max_unhealthy: default_max_unhealthy(),
            zone_loss: ZoneLoss::default(),
            observe_for: default_observe_for(),
        }
    }
}

/// What to make of it when a whole zone goes away at once.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZoneLoss {
    /// The zone, or the network to it, is waited for, unless its machines are declared gone.
    #[default]
    Hold,
    /// Its nodes are as good as lost: their copies are made anew in the others.
    Act,
}

/// Whether lost copies are made anew without being asked.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReprotectionMode {
    /// Yes.
    #[default]
    Auto,
    /// No; the status says what would be done.
    Observe,
    /// No.
    Off,
}

/// When a pod gets a new, empty volume.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// The rule. Whatever it is, a volume is given up only when the cluster has declared its node dead for
    /// ever; or, where no other node can take the copies (as many nodes as copies), when
    /// `reprotection.delay` is over, its Kubernetes node is gone or the annotation asks for it, every
    /// other node is well and every range has a majority without it.
    #[serde(default)]
    pub policy: ReplacementPolicy,
}

/// When a pod gets a new, empty volume.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplacementPolicy {
    /// When its Kubernetes node does not exist any more or is marked `out-of-service`.
    #[default]
    WhenNodeGone,
    /// As soon as the other nodes have taken over all its copies.
    AfterReprotect,
    /// Only on request, by the annotation `holdfast.dev/replace: <pod>`.
    Manual,
}

/// How many pods Kubernetes may take away at a time.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudget {
    /// The rule.
    #[serde(default)]
    pub mode: DisruptionBudgetMode,
}

/// Rules for the PodDisruptionBudget.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DisruptionBudgetMode {
    /// None while some range lacks a copy.
    #[default]
    Dynamic,
    /// Always the same.
    Static,
    /// No budget.
    Off,
}

/// Who may connect to the pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Makes a NetworkPolicy: clients and monitoring from anywhere, the peer port only from the
    /// cluster's own pods and the operator.
    #[serde(default = "yes")]
    pub enabled: bool,
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// What is set up for monitoring.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// Makes a PodMonitor, if the Kubernetes cluster knows that kind.
    #[serde(default)]
    pub pod_monitor: bool,
}

/// How soon the nodes notice that one of them is gone.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.electionMs >= 5 * self.tickMs")
        .message("timing.electionMs must be at least 5 * timing.tickMs: one lost heartbeat must not cause an election"),
)]
pub struct Timing {
    /// Milliseconds between two heartbeats.
    #[serde(default = "default_tick")]
    #[schemars(range(min = 10, max = 10_000))]
    pub tick_ms: i32,
    /// Milliseconds without a leader's sign of life before an election.
    #[serde(default = "default_election")]
    #[schemars(range(min = 50, max = 100_000))]
    pub election_ms: i32,
}

impl Default for Timing {
    fn default() -> Self {
        Self { tick_ms: default_tick(), election_ms: default_election() }
    }
}

impl HoldfastClusterSpec {
    /// How many nodes may fail at once: what is asked for, or what the copies allow.
    pub fn max_failures(&self) -> i32 {
        self.max_failures.unwrap_or((self.replicas - 1) / 2)
    }
}

fn default_nodes() -> i32 {
    3
}
fn default_replicas() -> i32 {
    3
}
fn default_image() -> String {
    format!("docker.io/holdfast/node:{}", env!("CARGO_PKG_VERSION"))
}
fn default_size() -> String {
    "10Gi".to_owned()
}
fn default_delay() -> HumanDuration {
    HumanDuration::new("10m")
}
fn default_drain_delay() -> HumanDuration {
    HumanDuration::new("30m")
}
fn default_observe_for() -> HumanDuration {
    HumanDuration::new("60s")
}
fn default_max_unhealthy() -> String {
    "34%".to_owned()
}
fn default_tick() -> i32 {
    100
}
fn default_election() -> i32 {
    1000
}
fn yes() -> bool {
    true
}

/// An object of any shape.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
