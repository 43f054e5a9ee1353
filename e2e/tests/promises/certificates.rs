//! Certificates are made anew while clients go on: the condition says when every pod has them, nothing
//! restarts and nothing fails.

use crate::view;
use crate::world::{CLUSTER, PATIENCE, World, identities};
use k8s_openapi::api::core::v1::Secret;
use kube::api::DeleteParams;

pub(crate) async fn ready_means_that_every_pod_shows_them(world: &World) {
    world.make_cluster().await;
    let pods = world.pods().await;
    let recording = world.record(None).await;
    let is = |status: &'static str, reason: &'static str| {
        move |cluster: &kube::api::DynamicObject| {
            view::condition(cluster, "CertificatesReady")
                .is_some_and(|it| it.status == status && it.reason == reason)
        }
    };
    world.await_cluster("to have its certificates", PATIENCE, is("True", "Loaded")).await;
    let secret = format!("{CLUSTER}-node-tls");
    world
        .api::<Secret>()
        .delete(&secret, &DeleteParams::default())
        .await
        .expect("a Secret can be deleted");
    // Issued is not loaded.
    world.await_cluster("to say who has the old one", PATIENCE, is("False", "NotLoaded")).await;
    world.await_cluster("to have the new ones everywhere", PATIENCE, is("True", "Loaded")).await;
    recording.await_progress().await;
    assert_eq!(identities(&pods), identities(&world.pods().await), "pods were restarted");
    recording.stop().await.nothing_failed();
}
