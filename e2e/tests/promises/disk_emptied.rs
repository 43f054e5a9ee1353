//! A disk is emptied (B3): its node is never mistaken for the old one, it joins as a new store, and
//! clients do not notice.

use crate::view;
use crate::world::{CLUSTER, PATIENCE, World, is_ready};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DeleteParams;

pub(crate) async fn it_joins_as_a_new_store(world: &World) {
    world.make_cluster().await;
    let recording = world.record(None).await;
    let pod = format!("{CLUSTER}-2");
    let old = view::store(&world.cluster().await, &pod)["storeID"].clone();
    assert!(old.is_i64(), "the status says which store a pod is");
    let before = world.api::<Pod>().get(&pod).await.expect("it is there");
    world.fault(&["empty", &world.namespace, &format!("data-{pod}")]);
    world.api::<Pod>().delete(&pod, &DeleteParams::default()).await.expect("it can be deleted");
    world
        .await_pod(&pod, "to be new and ready", PATIENCE, |pod| {
            is_ready(pod) && pod.is_some_and(|pod| pod.uid() != before.uid())
        })
        .await;
    world
        .await_cluster("to show it as a new store", PATIENCE, |cluster| {
            let new = &view::store(cluster, &pod)["storeID"];
            new.is_i64() && *new != old && view::is_true(cluster, "Available")
        })
        .await;
    recording.await_progress().await;
    recording.stop().await;
}
