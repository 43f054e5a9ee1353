//! Clusters for tests of decisions: a resource, what is seen of it, and a clock.

use crate::api::status::{HoldfastClusterStatus, Store};
use crate::api::{HoldfastCluster, HoldfastClusterSpec};
use crate::build::names;
use crate::observe::{
    HostView, Member, Observed, PodView, PolicyView, RangeCounts, Report, StatefulSetView,
    VolumeView,
};
use crate::plan::{Plan, plan};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// When tests begin.
pub const START: i64 = 1_790_000_000;

/// A cluster that is well, until a test changes something.
#[derive(Clone, Debug)]
pub struct Fixture {
    pub cluster: HoldfastCluster,
    pub observed: Observed,
    pub now: Timestamp,
}

impl Fixture {
    /// `nodes` nodes with three copies of ten ranges, formed and observed for long.
    pub fn new(nodes: i32) -> Self {
        let spec: HoldfastClusterSpec =
            serde_json::from_value(serde_json::json!({ "nodes": nodes })).unwrap();
        let mut cluster = HoldfastCluster::new("demo", spec);
        cluster.metadata.namespace = Some("ns".to_owned());
        cluster.metadata.uid = Some("uid-1".to_owned());
        cluster.metadata.generation = Some(1);
        cluster.metadata.resource_version = Some("1".to_owned());
        let mut fixture = Self {
            cluster,
            observed: Observed {
                fresh_for: Duration::from_hours(1),
                hosts: Some((0..nodes).map(|at| (host(at), well())).collect()),
                stateful_set: Some(StatefulSetView {
                    replicas: nodes,
                    update_revision: Some("r1".to_owned()),
                    bootstrap_nodes: Some(nodes),
                    bootstrapped: true,
                }),
                report: Some(Report {
                    protection: "Full".to_owned(),
                    ranges: RangeCounts { total: 10, fully_replicated: 10, unavailable: 0 },
                    nodes: vec![],
                    bytes_remaining: 0,
                    reprotection: None,
                    policies: Some(vec![all_keys()]),
                    cluster: "c1".to_owned(),
                    sequencer: Some(1),
                }),
                ..Observed::default()
            },
            now: Timestamp::from_second(START).unwrap(),
        };
        for ordinal in 0..nodes {
            fixture.add_pod(ordinal);
            fixture.report().nodes.push(member(ordinal as u64 + 1, ordinal));
        }
        // Everything has been well for long.
        fixture.settle();
        fixture
    }

    pub fn add_pod(&mut self, ordinal: i32) {
        let pod = names::pod("demo", ordinal);
        let view = PodView {
            uid: format!("pod-{ordinal}"),
            ready: true,
            running: true,
            in_gateway: true,
            ready_changed: Timestamp::from_second(START - 3600).ok(),
            host: Some(host(ordinal)),
            ip: Some(format!("10.0.0.{ordinal}")),
            revision: Some("r1".to_owned()),
            ..PodView::default()
        };
        let volume =
            VolumeView { uid: format!("pvc-{ordinal}"), bound: true, ..Default::default() };
        self.observed.volumes.insert(pod.clone(), volume);
        self.observed.pods.insert(pod, view);
    }

    pub fn report(&mut self) -> &mut Report {
        self.observed.report.as_mut().unwrap()
    }

    pub fn member(&mut self, ordinal: i32) -> &mut Member {
        let name = names::pod("demo", ordinal);
        self.report().nodes.iter_mut().find(|member| member.name == name).unwrap()
    }

    pub fn pod(&mut self, ordinal: i32) -> &mut PodView {
        self.observed.pods.get_mut(&names::pod("demo", ordinal)).unwrap()
    }

    /// The pod is not ready from now on.
    pub fn unready(&mut self, ordinal: i32) {
        let now = self.now;
        let pod = self.pod(ordinal);
        pod.ready = false;
        pod.running = false;
        pod.ready_changed = Some(now);
    }

    /// Pod and node are gone from now on.
    pub fn kill(&mut self, ordinal: i32) {
        self.unready(ordinal);
        self.member(ordinal).state = "Down".to_owned();
        let report = self.report();
        report.protection = "Degraded".to_owned();
        report.ranges.fully_replicated = 0;
    }

    pub fn pass(&mut self, seconds: i64) -> &mut Self {
        self.now += SignedDuration::from_secs(seconds);
        self
    }

    /// Plans, and keeps the status.
    pub fn step(&mut self) -> Plan {
        let plan = plan(&self.cluster, &self.observed, true, self.now);
        self.cluster.status = Some(plan.status.clone());
        self.change_gateway(&plan);
        plan
    }

    /// Changes labels as asked.
    pub fn change_gateway(&mut self, plan: &Plan) {
        for change in &plan.gateway {
            let pod = self.observed.pods.get_mut(&change.pod);
            if let Some(pod) = pod.filter(|pod| pod.uid == change.uid) {
                pod.in_gateway = change.wanted;
            }
        }
    }

    /// Plans until nothing changes.
    pub fn settle(&mut self) -> Plan {
        for _ in 0..10 {
            let before = self.cluster.status.clone();
            let plan = self.step();
            if before.as_ref() == Some(&plan.status) {
                return plan;
            }
        }
        panic!("the status does not settle: {:#?}", self.cluster.status);
    }

    pub fn status(&self) -> &HoldfastClusterStatus {
        self.cluster.status.as_ref().unwrap()
    }

    pub fn store(&self, ordinal: i32) -> &Store {
        let name = names::pod("demo", ordinal);
        self.status().stores.iter().find(|store| store.pod == name).unwrap()
    }
}

/// The policy that every cluster has.
pub fn all_keys() -> PolicyView {
    PolicyView { prefix: String::new(), replicas: 3, ranges: 9, complete: 9 }
}

pub fn host(ordinal: i32) -> String {
    format!("host-{ordinal}")
}

pub fn well() -> HostView {
    HostView { ready: true, ..HostView::default() }
}

pub fn member(id: u64, ordinal: i32) -> Member {
    Member {
        id,
        name: names::pod("demo", ordinal),
        state: "Up".to_owned(),
        ranges: 6,
        leaders: 2,
        names_failure_domain: Some(false),
        ..Member::default()
    }
}
