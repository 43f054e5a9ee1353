//! A new version of the operator restarts no pod of a running cluster.

use crate::world::{OPERATOR, World, identities};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use serde_json::json;

pub(crate) async fn no_pod_restarts(world: &World) {
    world.make_cluster().await;
    let before = world.pods().await;
    let recording = world.record(None).await;
    // As an upgrade does: other pods of the operator take the place of those that run.
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {
        "holdfast.dev/e2e-upgrade": world.namespace,
    }}}}});
    world
        .operators::<Deployment>()
        .patch(OPERATOR, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("the operator can be patched");
    world.await_operator(OPERATOR).await;
    // The new one works: it answers a change that needs no restart.
    let mut spec = crate::world::small();
    spec["reprotection"] = json!({"delay": "11m"});
    world.apply(spec).await.expect("the resource is valid");
    world.whole(3).await;
    assert_eq!(identities(&before), identities(&world.pods().await), "pods were restarted");
    recording.stop().await.nothing_failed();
}
