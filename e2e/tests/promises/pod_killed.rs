//! A pod goes away (F2, F4, S2): nobody else's clients notice, and it returns by itself.

use crate::recording::RECORDER;
use crate::view;
use crate::world::{PATIENCE, World, is_ready, restarts};
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use std::time::{Duration, Instant};

/// Writes may wait for an election, no longer.
const GAP_MS: u64 = 5_000;
/// Promised are 15 s from Kubernetes noticing, which itself takes a few.
const SUSPECT_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn a_deleted_pod_costs_no_request(world: &World) {
    world.make_cluster().await;
    let recording = world.record(None).await;
    let pod = leader(world).await;
    let before =
        world.api::<k8s_openapi::api::core::v1::Pod>().get(&pod).await.expect("it is there");
    world
        .api::<k8s_openapi::api::core::v1::Pod>()
        .delete(&pod, &DeleteParams::default())
        .await
        .expect("a pod can be deleted");
    world
        .await_pod(&pod, "to be new and ready", PATIENCE, |pod| {
            is_ready(pod) && pod.is_some_and(|pod| pod.uid() != before.uid())
        })
        .await;
    world.whole(3).await;
    recording.await_progress().await;
    let recorded = recording.stop().await;
    recorded.nothing_failed();
    recorded.no_gap_above(GAP_MS);
}

pub(crate) async fn a_killed_process_costs_only_its_own_clients(world: &World) {
    world.make_cluster().await;
    let recording = world.record(None).await;
    let pod = leader(world).await;
    let number = world.number_of(RECORDER, &pod).await;
    let began = Instant::now();
    world.fault(&["kill", &world.namespace, &pod]);
    // It is back soon; that it was away is said nevertheless, and for half a minute.
    world
        .await_cluster("to suspect the node", SUSPECT_WITHIN, |cluster| {
            view::store(cluster, &pod)["state"] == "Suspect"
        })
        .await;
    eprintln!("    Suspect {:.1} s after the kill", began.elapsed().as_secs_f64());
    world
        .await_pod(&pod, "to have started again", PATIENCE, |pod| {
            is_ready(pod) && pod.is_some_and(|pod| restarts(pod) > 0)
        })
        .await;
    world.whole(3).await;
    recording.await_progress().await;
    let recorded = recording.stop().await;
    recorded.failed_only_at(&number);
    recorded.no_gap_above(GAP_MS);
}

/// The pod that leads most ranges: losing it is worst.
pub(crate) async fn leader(world: &World) -> String {
    let cluster = world.cluster().await;
    view::stores(&cluster)
        .iter()
        .max_by_key(|store| store["leaders"].as_i64())
        .and_then(|store| store["pod"].as_str())
        .expect("the status lists stores")
        .to_owned()
}
