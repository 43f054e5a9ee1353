//! What a cluster consists of in Kubernetes: one file an object, all pure.
//!
//! Invariant: the same [`Inputs`] give the same bytes, whatever version of the operator builds them,
//! as far as the pod template is concerned (see [`pod::CURRENT_REVISION`]).

pub mod config_map;
pub mod disruption_budget;
pub mod names;
pub mod network_policy;
pub mod pod;
pub mod pod_monitor;
pub mod recovery;
pub mod secrets;
pub mod service_account;
pub mod services;
pub mod stateful_set;

use crate::api::HoldfastCluster;
use crate::api::spec::{DisruptionBudgetMode, HoldfastClusterSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource as _, ResourceExt as _};
use serde_json::Value;
use std::collections::BTreeMap;

/// Kinds of objects that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1`
    ServiceAccount,
    /// `v1`
    ConfigMap,
    /// `v1`
    Secret,
    /// `v1`
    Service,
    /// `apps/v1`
    StatefulSet,
    /// `policy/v1`
    PodDisruptionBudget,
    /// `networking.k8s.io/v1`
    NetworkPolicy,
    /// `monitoring.coreos.com/v1`
    PodMonitor,
}

/// One object as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All fields that the operator cares for.
    pub body: Value,
}

/// An object that must not be there.
pub type Absent = (Kind, String);

/// All that the objects depend on.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Name of the cluster.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID: keeps clusters apart, also of the same name one after the other.
    pub uid: String,
    /// What is asked for.
    pub spec: HoldfastClusterSpec,
    /// How many nodes form, or formed, it.
    pub bootstrap_nodes: i32,
    /// They did.
    pub bootstrapped: bool,
    /// Which pod template it uses.
    pub template_revision: i32,
    /// How many pods there are to be now.
    pub pods: i32,
    /// A recovery keeps all of them from running.
    pub stopped: bool,
    /// Every range is known to have all its copies.
    pub fully_replicated: bool,
    /// Kubernetes knows the kind PodMonitor.
    pub pod_monitors: bool,
}

impl Inputs {
    /// From a resource with the plan's numbers.
    pub fn new(cluster: &HoldfastCluster) -> Self {
        let status = cluster.status.clone().unwrap_or_default();
        Self {
            name: cluster.name_any(),
            namespace: cluster.namespace().unwrap_or_default(),
            uid: cluster.uid().unwrap_or_default(),
            spec: cluster.spec.clone(),
            bootstrap_nodes: status.bootstrap_nodes.unwrap_or(cluster.spec.nodes),
            bootstrapped: status.bootstrapped,
            template_revision: status.template_revision.unwrap_or(pod::CURRENT_REVISION),
            pods: status.nodes,
            stopped: false,
            fully_replicated: false,
            pod_monitors: false,
        }
    }

    /// Metadata of an object of this cluster.
    pub fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels()),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }

    /// All labels.
    pub fn labels(&self) -> BTreeMap<String, String> {
        names::labels(&self.name)
    }

    /// Deleting the cluster deletes what it owns; volumes are not owned by it.
    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: HoldfastCluster::api_version(&()).into_owned(),
            kind: HoldfastCluster::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// Everything but the Secrets (see [`secrets`]), in the order in which it is applied: what pods need
/// comes before the pods.
pub fn objects(inputs: &Inputs) -> Vec<Object> {
    let mut objects = vec![
        object(Kind::ServiceAccount, &service_account::build(inputs)),
        object(Kind::ConfigMap, &config_map::build(inputs)),
        object(Kind::Service, &services::peers(inputs)),
        object(Kind::Service, &services::gateway(inputs)),
    ];
    if inputs.spec.network_policy.enabled {
        objects.push(object(Kind::NetworkPolicy, &network_policy::build(inputs)));
    }
    if has_budget(inputs) {
        objects.push(object(Kind::PodDisruptionBudget, &disruption_budget::build(inputs)));
    }
    objects.push(object(Kind::StatefulSet, &stateful_set::build(inputs)));
    if has_pod_monitor(inputs) {
        objects.push(pod_monitor::build(inputs));
    }
    objects
}

/// Objects that the operator may have made before and that are not wanted any more.
pub fn absent(inputs: &Inputs) -> Vec<Absent> {
    let mut absent = Vec::new();
    if !inputs.spec.network_policy.enabled {
        absent.push((Kind::NetworkPolicy, inputs.name.clone()));
    }
    if !has_budget(inputs) {
        absent.push((Kind::PodDisruptionBudget, inputs.name.clone()));
    }
    if inputs.pod_monitors && !has_pod_monitor(inputs) {
        absent.push((Kind::PodMonitor, inputs.name.clone()));
    }
    absent
}

fn has_budget(inputs: &Inputs) -> bool {
    // One pod with a budget of its own would keep its Kubernetes node from being drained for ever.
    inputs.pods > 1 && inputs.spec.pod_disruption_budget.mode != DisruptionBudgetMode::Off
}

fn has_pod_monitor(inputs: &Inputs) -> bool {
    inputs.pod_monitors && inputs.spec.monitoring.pod_monitor
}

fn object<K>(kind: Kind, typed: &K) -> Object
where
    K: kube::Resource<DynamicType = ()> + serde::Serialize,
{
    Object {
        kind,
        name: typed.name_any(),
        body: serde_json::to_value(typed).expect("API objects are plain data"),
    }
}
