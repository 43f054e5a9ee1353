//! What the operator measures of itself and of its clusters, for Prometheus.
//!
//! Invariant: labels have a bounded set of values; no error text is ever one.

use crate::api::HoldfastCluster;
use kube::ResourceExt as _;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cluster {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterCondition {
    namespace: String,
    name: String,
    condition: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RangeState {
    namespace: String,
    name: String,
    state: &'static str,
}

/// All metrics.
pub struct Metrics {
    registry: Registry,
    reconciles: Counter,
    failures: Family<Failure, Counter>,
    duration: Histogram,
    writes: Counter,
    leader: Gauge,
    nodes_ready: Family<Cluster, Gauge>,
    stores_down: Family<Cluster, Gauge>,
    bytes_remaining: Family<Cluster, Gauge>,
    estimated_end: Family<Cluster, Gauge>,
    conditions: Family<ClusterCondition, Gauge>,
    ranges: Family<RangeState, Gauge>,
    known: Mutex<std::collections::HashSet<Cluster>>,
}

const STATUSES: [&str; 3] = ["True", "False", "Unknown"];
const STATES: [&str; 3] = ["total", "fullyReplicated", "unavailable"];

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("holdfast_operator"),
            reconciles: Counter::default(),
            failures: Family::default(),
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            writes: Counter::default(),
            leader: Gauge::default(),
            nodes_ready: Family::default(),
            stores_down: Family::default(),
            bytes_remaining: Family::default(),
            estimated_end: Family::default(),
            conditions: Family::default(),
            ranges: Family::default(),
            known: Mutex::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("reconcile_runs", "Reconciles", self.reconciles.clone());
        registry.register("reconcile_failures", "Failed ones, by reason", self.failures.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "How long they took",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register("api_writes", "Requests that change objects", self.writes.clone());
        registry.register(
            "leader",
            "1 while this operator is the one that acts",
            self.leader.clone(),
        );
        registry.register("cluster_nodes_ready", "Pods that are ready", self.nodes_ready.clone());
        registry.register("cluster_stores_down", "Nodes that are away", self.stores_down.clone());
        registry.register(
            "cluster_reprotection_remaining_bytes",
            "Bytes still to be copied",
            self.bytes_remaining.clone(),
        );
        registry.register(
            "cluster_reprotection_end_timestamp_seconds",
            "When all copies will be made, in seconds since 1970; not there while unknown",
            self.estimated_end.clone(),
        );
        registry.register(
            "cluster_condition",
            "1 for the condition's status",
            self.conditions.clone(),
        );
        registry.register("cluster_ranges", "Ranges by state", self.ranges.clone());
    }

    /// A reconcile ended; `failure` names the kind of error.
    pub fn reconciled(&self, took: Duration, failure: Option<&'static str>) {
        self.reconciles.inc();
        self.duration.observe(took.as_secs_f64());
        if let Some(reason) = failure {
            self.failures.get_or_create(&Failure { reason }).inc();
        }
    }

    /// A request that changes an object was made.
    pub fn wrote(&self) {
        self.writes.inc();
    }

    /// How many requests that change objects were made.
    pub fn writes(&self) -> u64 {
        self.writes.get()
    }

    /// Whether this operator acts.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The state of a cluster.
    pub fn observe(&self, cluster: &HoldfastCluster) {
        let Some(status) = &cluster.status else { return };
        let key = Cluster {
            namespace: cluster.namespace().unwrap_or_default(),
            name: cluster.name_any(),
        };
        self.nodes_ready.get_or_create(&key).set(status.ready_nodes.into());
        let down = status.stores.iter().filter(|store| store.down_since.is_some()).count();
        self.stores_down.get_or_create(&key).set(down as i64);
        let bytes = status.protection.as_ref().map_or(0, |it| it.bytes_remaining);
        self.bytes_remaining.get_or_create(&key).set(bytes);
        match status.protection.as_ref().and_then(|it| it.estimated_end.as_ref()) {
            Some(end) => {
                self.estimated_end.get_or_create(&key).set(end.0.as_second());
            }
            None => {
                self.estimated_end.remove(&key);
            }
        }
        for condition in &status.conditions {
            for value in STATUSES {
                let labels = ClusterCondition {
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                    condition: condition.type_.clone(),
                    status: value,
                };
                let is = condition.status == value;
                self.conditions.get_or_create(&labels).set(i64::from(is));
            }
        }
        let ranges = status.ranges.clone().unwrap_or_default();
        for (state, count) in
            STATES.into_iter().zip([ranges.total, ranges.fully_replicated, ranges.unavailable])
        {
            let labels =
                RangeState { namespace: key.namespace.clone(), name: key.name.clone(), state };
            self.ranges.get_or_create(&labels).set(count);
        }
        self.known.lock().insert(key);
    }

    /// A cluster is gone.
    pub fn forget(&self, cluster: &HoldfastCluster) {
        let key = Cluster {
            namespace: cluster.namespace().unwrap_or_default(),
            name: cluster.name_any(),
        };
        if !self.known.lock().remove(&key) {
            return;
        }
        self.nodes_ready.remove(&key);
        self.stores_down.remove(&key);
        self.bytes_remaining.remove(&key);
        self.estimated_end.remove(&key);
        for condition in cluster.status.iter().flat_map(|status| &status.conditions) {
            for value in STATUSES {
                self.conditions.remove(&ClusterCondition {
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                    condition: condition.type_.clone(),
                    status: value,
                });
            }
        }
        for state in STATES {
            let labels =
                RangeState { namespace: key.namespace.clone(), name: key.name.clone(), state };
            self.ranges.remove(&labels);
        }
    }

    /// The text for /metrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("a string takes everything");
        text
    }
}
