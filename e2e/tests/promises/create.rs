//! One resource makes a cluster (O1): three pods ready and serving within a minute, spread and
//! without rights.

use crate::view;
use crate::world::{CLUSTER, World, machine_of};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

/// What is promised from `kubectl apply` until clients are served, images present.
const READY_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn three_pods_are_ready_and_serve_within_a_minute(world: &World) {
    let took = world.make_cluster().await;
    assert!(took <= READY_WITHIN, "ready after {took:?}");
    eprintln!("    ready after {:.1} s", took.as_secs_f64());
    let cluster = world.cluster().await;
    for wanted in ["Ready", "Available", "FullyReplicated"] {
        assert!(view::is_true(&cluster, wanted), "{wanted}: {}", view::in_short(&cluster));
    }
    world.await_gateway("to have all pods", READY_WITHIN, |pods| pods.len() == 3).await;
    let recording = world.record(None).await;
    recording.await_progress().await;
    recording.stop().await.nothing_failed();
}

pub(crate) async fn pods_are_spread_and_restricted(world: &World) {
    world.make_cluster().await;
    exists::<StatefulSet>(world.api(), CLUSTER).await;
    exists::<Service>(world.api(), &format!("{CLUSTER}-peers")).await;
    exists::<Service>(world.api(), &format!("{CLUSTER}-gateway")).await;
    exists::<ConfigMap>(world.api(), &format!("{CLUSTER}-config")).await;
    exists::<ServiceAccount>(world.api(), CLUSTER).await;
    exists::<PodDisruptionBudget>(world.api(), CLUSTER).await;
    exists::<NetworkPolicy>(world.api(), CLUSTER).await;
    for secret in ["ca", "node-tls", "client-tls", "operator-tls"] {
        exists::<Secret>(world.api(), &format!("{CLUSTER}-{secret}")).await;
    }
    for ordinal in 0..3 {
        let claim = format!("data-{CLUSTER}-{ordinal}");
        exists::<PersistentVolumeClaim>(world.api(), &claim).await;
    }
    let pods = world.pods().await;
    let machines: BTreeSet<String> = pods.iter().map(machine_of).collect();
    assert_eq!(machines.len(), 3, "pods share a Kubernetes node: {machines:?}");
    // The namespace enforces the restricted standard already; this is what it does not ask for.
    for pod in &pods {
        let spec = pod.spec.as_ref().expect("a pod has a spec");
        assert_eq!(spec.automount_service_account_token, Some(false), "nodes get no API token");
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let read_only = container
                .security_context
                .as_ref()
                .and_then(|context| context.read_only_root_filesystem);
            assert_eq!(read_only, Some(true), "container {} can write", container.name);
        }
    }
}

async fn exists<K>(api: Api<K>, name: &str)
where
    K: Clone + DeserializeOwned + Debug,
{
    if let Err(error) = api.get(name).await {
        panic!("{}: {name}: {error}", std::any::type_name::<K>());
    }
}
