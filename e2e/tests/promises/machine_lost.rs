//! A Kubernetes node loses its network (F1 to F5, F10, B1): the others serve, the status says what is
//! suspected and since when, nothing moves before the delay, and when it returns it catches up.

use crate::recording::RECORDER;
use crate::view;
use crate::world::{PATIENCE, World, await_object, is_well, machine_of, pod_condition};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use std::time::Duration;

/// What is promised from Kubernetes noticing until the status says so.
const SUSPECT_WITHIN: Duration = Duration::from_secs(15);
/// Writes may wait for an election and for clients to find other nodes.
const GAP_MS: u64 = 10_000;

pub(crate) async fn the_others_serve_and_it_returns(world: &World) {
    world.make_cluster().await;
    // One that the operator does not run on: its own loss is another test's.
    let operators = world.operators::<Pod>().list(&ListParams::default()).await;
    let taken: Vec<String> =
        operators.expect("pods can be listed").iter().map(machine_of).collect();
    let pods = world.pods().await;
    let victim = pods
        .iter()
        .find(|pod| !taken.contains(&machine_of(pod)))
        .expect("some Kubernetes node has a pod and no operator");
    let (name, machine) = (victim.name_any(), machine_of(victim));
    let recording = world.record(Some(&machine)).await;
    let number = world.number_of(RECORDER, &name).await;

    world.fault(&["link-down", &machine]);
    world
        .await_pod(&name, "to be noticed as away", PATIENCE, |pod| {
            pod.is_some_and(|pod| pod_condition(pod) != "True")
        })
        .await;
    let cluster = world
        .await_cluster("to suspect the node", SUSPECT_WITHIN, |cluster| {
            view::store(cluster, &name)["state"] == "Suspect"
        })
        .await;
    let store = view::store(&cluster, &name);
    assert!(store["downSince"].is_string() && store["actAt"].is_string(), "no clock: {store}");
    // On a busy machine a node may seem away for a moment: it counts what comes of it.
    world
        .await_cluster("to be available", Duration::from_secs(15), |cluster| {
            view::is_true(cluster, "Available")
        })
        .await;
    world
        .await_gateway("to leave it out", Duration::from_secs(15), |pods| {
            !pods.is_empty() && !pods.contains(&name)
        })
        .await;
    recording.await_progress().await;

    world.fault(&["link-up", &machine]);
    let nodes = Api::<Node>::all(world.client.clone());
    let ready = |node: Option<&Node>| node.is_some_and(is_well);
    assert!(await_object(nodes, &machine, PATIENCE, ready).await.is_ok(), "{machine} stays away");
    let cluster = world.whole(3).await;
    let returned = view::store(&cluster, &name);
    assert_eq!(returned["storeID"], store["storeID"], "it is the same store");
    assert_eq!(returned["downSince"], serde_json::Value::Null, "the clock has stopped");
    recording.await_progress().await;
    let recorded = recording.stop().await;
    recorded.failed_only_at(&number);
    recorded.no_gap_above(GAP_MS);
}
