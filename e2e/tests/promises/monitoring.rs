//! The kind PodMonitor appears while everything runs: the operator notices, and makes one for a cluster that
//! asks for it.

use crate::world::{CLUSTER, PATIENCE, World, await_object, from_json, small};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams};
use serde_json::json;

const KIND: &str = "podmonitors.monitoring.coreos.com";

pub(crate) async fn a_pod_monitor_is_made_once_its_kind_is_there(world: &World) {
    let kinds = Api::<CustomResourceDefinition>::all(world.client.clone());
    if kinds.get_opt(KIND).await.expect("kinds can be read").is_some() {
        panic!("{KIND} is there already: this test has to bring it");
    }
    let mut spec = small();
    spec["monitoring"] = json!({"podMonitor": true});
    world.apply(spec).await.expect("the resource is valid");
    world.whole(3).await;
    let kind: CustomResourceDefinition = from_json(json!({
        "metadata": {"name": KIND},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor",
                "listKind": "PodMonitorList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    }));
    kinds.create(&PostParams::default(), &kind).await.expect("a kind can be made");
    let monitor = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor");
    let monitors: Api<DynamicObject> = Api::namespaced_with(
        world.client.clone(),
        &world.namespace,
        &ApiResource::from_gvk(&monitor),
    );
    let made = await_object(monitors, CLUSTER, PATIENCE, |found| found.is_some()).await;
    let removed = kinds.delete(KIND, &DeleteParams::default()).await;
    let monitor = made.unwrap_or_else(|_| panic!("no PodMonitor within {PATIENCE:?}"));
    let monitor = monitor.expect("it was seen");
    assert_eq!(monitor.data["spec"]["podMetricsEndpoints"][0]["path"], "/metrics");
    removed.expect("the kind can be removed");
}
