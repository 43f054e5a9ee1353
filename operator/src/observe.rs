//! What is there: Kubernetes objects and the nodes' own report, reduced to what decisions need.
//!
//! Invariants: pure; what is not known is `None`, never a guess. A report of the nodes counts only
//! while it is younger than [`FRESH`].

pub mod recovery;

use crate::api::status::GivenUp;
use crate::build::names;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How old a report of the nodes may be.
pub const FRESH: Duration = Duration::from_secs(30);

/// Annotation of the StatefulSet: how many nodes formed the cluster. With it, a resource that lost
/// its status does not form the cluster a second time.
pub const BOOTSTRAP_NODES: &str = "holdfast.dev/bootstrap-nodes";
/// Annotation of the StatefulSet: they did.
pub const BOOTSTRAPPED: &str = "holdfast.dev/bootstrapped";

/// Everything that a plan depends on, besides the resource and the time.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The StatefulSet, if it is there.
    pub stateful_set: Option<StatefulSetView>,
    /// The pods, by name.
    pub pods: BTreeMap<String, PodView>,
    /// The volume claims, by the name of their pod.
    pub volumes: BTreeMap<String, VolumeView>,
    /// Pods that recover a volume, by name.
    pub recovery_pods: BTreeMap<String, recovery::RecoveryPod>,
    /// ConfigMaps with what these printed, by name: the UID of the pod.
    pub kept_reports: BTreeMap<String, String>,
    /// The Kubernetes nodes, by name; `None` if the operator may not read them.
    pub hosts: Option<BTreeMap<String, HostView>>,
    /// What the nodes say, if they said it lately.
    pub report: Option<Report>,
    /// Why there is no report.
    pub report_error: Option<String>,
    /// Ready pods that show another certificate to new connections than the one that was issued.
    pub old_certificates: Vec<String>,
    /// Ready pods of which nobody knows it, because they do not answer.
    pub unseen_certificates: Vec<String>,
    /// For how long there have been reports without a gap, since this operator started.
    pub fresh_for: Duration,
    /// For how long the status has been as it is, since this operator started.
    pub quiet_for: Duration,
}

/// The StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatefulSetView {
    /// How many pods it is to have.
    pub replicas: i32,
    /// The newest revision of its pod template, if its controller has seen the newest spec.
    pub update_revision: Option<String>,
    /// See [`BOOTSTRAP_NODES`].
    pub bootstrap_nodes: Option<i32>,
    /// See [`BOOTSTRAPPED`].
    pub bootstrapped: bool,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Another pod of the same name has another one.
    pub uid: String,
    /// The node in it says that it can serve clients, and Kubernetes believes it.
    pub ready: bool,
    /// When that changed last.
    pub ready_changed: Option<Timestamp>,
    /// It is being deleted.
    pub terminating: bool,
    /// The node's process runs, as far as Kubernetes knows.
    pub running: bool,
    /// Why it cannot be put on a Kubernetes node.
    pub unschedulable: Option<String>,
    /// Why its container does not start: reason and message.
    pub waiting: Option<(String, String)>,
    /// The last words of the run before this one.
    pub last_words: Option<String>,
    /// Its labels let the gateway send clients to it.
    pub in_gateway: bool,
    /// Its Kubernetes node.
    pub host: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// Which revision of the template it was made from.
    pub revision: Option<String>,
}

/// A volume claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeView {
    /// Another claim of the same name has another one.
    pub uid: String,
    /// It is being deleted.
    pub terminating: bool,
    /// It has a volume.
    pub bound: bool,
    /// Its storage class.
    pub class: Option<String>,
}

/// A Kubernetes node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// Kubernetes hears from it.
    pub ready: bool,
    /// It is cordoned: whoever is on it will be gone for longer than a restart.
    pub cordoned: bool,
    /// Somebody declared that nothing runs on it any more.
    pub out_of_service: bool,
    /// Its zone, from the label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// What its pods fail together with, from the label that the spec names.
    pub domain: Option<String>,
}

/// What the nodes say of themselves: the admin API's `Status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `Full`, `Degraded`, `Reprotecting` or `Unavailable`.
    pub protection: String,
    /// Ranges by state.
    pub ranges: RangeCounts,
    /// Every node that is not gone for ever.
    pub nodes: Vec<Member>,
    /// Bytes still to be copied.
    #[serde(default)]
    pub bytes_remaining: u64,
    /// How far the making of copies is, if any are made. Older nodes do not tell.
    #[serde(default)]
    pub reprotection: Option<Progress>,
    /// How many copies the ranges under which prefixes have. Older nodes do not tell.
    #[serde(default)]
    pub policies: Option<Vec<PolicyView>>,
    /// The cluster's id.
    #[serde(default)]
    pub cluster: String,
    /// Who leads the meta range.
    #[serde(default)]
    pub sequencer: Option<u64>,
}

/// Ranges by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeCounts {
    /// All.
    pub total: i64,
    /// With all copies complete.
    pub fully_replicated: i64,
    /// Not served.
    pub unavailable: i64,
}

/// How far the making of copies is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Seconds until it is over, if the nodes can tell.
    #[serde(default)]
    pub seconds_left: Option<u64>,
}

/// A placement policy as the cluster has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// First bytes of the keys: text, or hex after `0x`; empty: all keys that no other one names.
    pub prefix: String,
    /// Copies that it asks for.
    pub replicas: i32,
    /// Ranges under it.
    pub ranges: i64,
    /// Of which have as many copies.
    pub complete: i64,
}

/// A node as the others see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its number.
    pub id: u64,
    /// Its pod's name.
    pub name: String,
    /// `Up`, `Down`, `Draining`, `Leaving`, `Condemned` or `Joining`.
    pub state: String,
    /// Copies of ranges on it.
    #[serde(default)]
    pub ranges: i64,
    /// Ranges that it leads.
    #[serde(default)]
    pub leaders: i64,
    /// Bytes that may be written before its disk counts as full, if it says so.
    #[serde(default)]
    pub room_bytes: Option<u64>,
    /// Bytes of its data, if it says so.
    #[serde(default)]
    pub data_bytes: Option<u64>,
    /// What it fails together with; empty: it fails alone.
    #[serde(default)]
    pub failure_domain: String,
    /// It was started with it, so nobody else can say it. Older nodes do not tell, nor do silent ones.
    #[serde(default)]
    pub names_failure_domain: Option<bool>,
    /// Its volume was given up: it can never come back.
    #[serde(skip)]
    pub given_up: bool,
}

impl Member {
    /// It answers.
    pub fn is_alive(&self) -> bool {
        matches!(self.state.as_str(), "Up" | "Draining" | "Leaving")
    }
}

impl Report {
    /// The node that fills a pod's place. After a replacement two have the same name: the one that
    /// answers counts, else the newer; never one without a volume.
    pub fn member(&self, pod: &str) -> Option<&Member> {
        let may_be = |member: &&Member| member.is_alive() || !member.given_up;
        let named = self.nodes.iter().filter(|member| member.name == pod).filter(may_be);
        named.max_by_key(|member| (member.is_alive(), member.id))
    }

    /// The node with this number.
    pub fn by_id(&self, id: i64) -> Option<&Member> {
        self.nodes.iter().find(|member| member.id as i64 == id)
    }

    /// How many nodes answer.
    pub fn alive(&self) -> usize {
        self.nodes.iter().filter(|member| member.is_alive()).count()
    }

    /// How many places there are for nodes. One whose disk was emptied is there twice: as what it was
    /// and as what it is.
    pub fn places(&self) -> usize {
        let names: BTreeSet<&str> = self.nodes.iter().map(|member| member.name.as_str()).collect();
        names.len()
    }

    /// A majority of the nodes answers and somebody leads the meta range: what the report says is
    /// the cluster's view and not that of a part that was cut off.
    pub fn has_quorum(&self) -> bool {
        self.sequencer.is_some() && self.alive() * 2 > self.places()
    }

    /// Nodes that can never come back, because another one lives in their place or their volume is gone.
    pub fn superseded(&self) -> impl Iterator<Item = &Member> {
        self.nodes.iter().filter(|old| {
            let another =
                || self.member(&old.name).is_some_and(|new| new.id != old.id && new.is_alive());
            old.state == "Down" && (old.given_up || another())
        })
    }
}

impl Observed {
    /// The same, with a mark at the nodes whose volumes were given up.
    pub fn without_volumes(&self, given_up: &[GivenUp]) -> Cow<'_, Self> {
        if given_up.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut marked = self.clone();
        for member in marked.report.iter_mut().flat_map(|report| &mut report.nodes) {
            member.given_up = given_up.iter().any(|gone| gone.store_id == member.id as i64);
        }
        Cow::Owned(marked)
    }
}

impl From<&StatefulSet> for StatefulSetView {
    fn from(object: &StatefulSet) -> Self {
        let annotation = |key: &str| object.metadata.annotations.as_ref()?.get(key).cloned();
        let status = object.status.clone().unwrap_or_default();
        // Until its controller has seen the newest spec, the revision is that of an older one.
        let current = status.observed_generation >= object.metadata.generation;
        Self {
            replicas: object.spec.replicas.unwrap_or(0),
            update_revision: status.update_revision.filter(|_| current),
            bootstrap_nodes: annotation(BOOTSTRAP_NODES).and_then(|text| text.parse().ok()),
            bootstrapped: annotation(BOOTSTRAPPED).as_deref() == Some("true"),
        }
    }
}

impl From<&Pod> for PodView {
    fn from(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let condition = |kind: &str| {
            status.conditions.iter().flatten().find(|condition| condition.type_ == kind).cloned()
        };
        let is = |kind: &str, value: &str| {
            condition(kind).is_some_and(|condition| condition.status == value)
        };
        let container: Option<ContainerStatus> = status
            .container_statuses
            .iter()
            .chain(status.init_container_statuses.iter())
            .flatten()
            .find(|container| container.name == names::CONTAINER)
            .cloned();
        let state = container.as_ref().and_then(|container| container.state.clone());
        let waiting = state.as_ref().and_then(|state| state.waiting.clone()).map(|waiting| {
            (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
        });
        let ready_now = container.as_ref().is_some_and(|container| container.ready);
        // A user's container that is not ready says nothing about the node beside it; but when
        // Kubernetes lost the host, the containers' own states are only the last that was heard.
        let believed = is("Ready", "True") || is("ContainersReady", "False");
        let scheduled = condition("PodScheduled");
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            ready: ready_now && believed,
            ready_changed: condition("Ready")
                .and_then(|condition| condition.last_transition_time)
                .map(|time| time.0),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            running: state.is_some_and(|state| state.running.is_some()),
            unschedulable: scheduled
                .filter(|condition| condition.status == "False")
                .map(|condition| condition.message.unwrap_or_default()),
            waiting,
            last_words: container
                .and_then(|container| container.last_state)
                .and_then(|state| state.terminated)
                .and_then(|terminated| terminated.message),
            in_gateway: pod.labels().get(names::MANAGED_BY_LABEL).map(String::as_str)
                == Some(names::MANAGED_BY),
            host: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            ip: status.pod_ip,
            revision: pod
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get("controller-revision-hash").cloned()),
        }
    }
}

impl From<&PersistentVolumeClaim> for VolumeView {
    fn from(claim: &PersistentVolumeClaim) -> Self {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            uid: claim.metadata.uid.clone().unwrap_or_default(),
            terminating: claim.metadata.deletion_timestamp.is_some(),
            bound: phase == Some("Bound"),
            class: claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()),
        }
    }
}

impl From<&Node> for HostView {
    fn from(node: &Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let taint = |key: &str| spec.taints.iter().flatten().any(|taint| taint.key == key);
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        Self {
            ready: conditions
                .into_iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            cordoned: spec.unschedulable == Some(true) || taint("node.kubernetes.io/unschedulable"),
            out_of_service: taint("node.kubernetes.io/out-of-service"),
            zone: node.labels().get("topology.kubernetes.io/zone").cloned(),
            domain: None,
        }
    }
}

impl HostView {
    /// With the failure domain that a label tells, if one does.
    pub fn with_domain(node: &Node, label: Option<&str>) -> Self {
        let domain = label.and_then(|label| node.labels().get(label)).cloned();
        Self { domain: domain.filter(|domain| !domain.is_empty()), ..Self::from(node) }
    }
}

#[cfg(test)]
mod tests;
