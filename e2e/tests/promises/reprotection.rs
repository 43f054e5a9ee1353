//! A Kubernetes node does not come back (P5, B2): after the delay its copies are made on the others,
//! which is told as "Full Protection Restored", and clients notice nothing. When the machine returns
//! after all, the disk is not taken for what it was: its pod gets a new volume and its share of copies.
//! Where there are as many nodes as copies, the pod gets its new volume first, once somebody declared the
//! machine gone, or, with the policy `Manual`, asked for a new volume.

use crate::recording::RECORDER;
use crate::view;
use crate::world::{CLUSTER, PATIENCE, World, machine_of, small};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Kubernetes notices after 20 s, the delay is 10 s, and there is little to copy.
pub(crate) const RESTORED_WITHIN: Duration = Duration::from_secs(150);
/// Writes may wait for an election and for clients to find other nodes.
const GAP_MS: u64 = 10_000;

pub(crate) async fn a_lost_machine_is_made_good(world: &World) {
    let mut spec = small();
    spec["nodes"] = json!(4);
    spec["splitKeys"] = json!(["b", "d", "f"]);
    spec["reprotection"] = json!({"delay": "10s", "observeFor": "1s"});
    spec["replacement"] = json!({"policy": "AfterReprotect"});
    world.apply(spec).await.expect("the resource is valid");
    let cluster = world.whole(4).await;
    let ranges = cluster.data["status"]["protection"]["totalRanges"].clone();
    let pods = world.pods().await;
    let (name, machine) = alone(world, &pods).await;
    let old = view::store(&cluster, &name)["storeID"].clone();
    let recording = world.record(Some(&machine)).await;
    let number = world.number_of(RECORDER, &name).await;

    world.fault(&["link-down", &machine]);
    world
        .await_cluster("to start reprotection", PATIENCE, |cluster| {
            view::is_true(cluster, "Reprotecting")
                || view::condition(cluster, "FullyReplicated")
                    .is_some_and(|it| it.status == "False")
        })
        .await;
    world.await_event("FullProtectionRestored", RESTORED_WITHIN).await;
    let cluster = world
        .await_cluster("to have all copies again", PATIENCE, |cluster| {
            view::is_true(cluster, "FullyReplicated") && view::is_true(cluster, "Available")
        })
        .await;
    assert_eq!(cluster.data["status"]["protection"]["totalRanges"], ranges);
    recording.await_progress().await;

    world.fault(&["link-up", &machine]);
    let cluster = world.whole(4).await;
    let new = &view::store(&cluster, &name)["storeID"];
    assert!(new.is_i64() && *new != old, "a store that was given up came back: {new}");
    recording.await_progress().await;
    let recorded = recording.stop().await;
    recorded.failed_only_at(&number);
    recorded.no_gap_above(GAP_MS);
}

/// The most common cluster, as many nodes as copies: nobody could take the copies, so a node with an empty
/// volume comes first, on another machine, and then the copies are made there.
pub(crate) async fn of_three_machines_one_is_lost_with_its_disk(world: &World) {
    let mut spec = small();
    spec["splitKeys"] = json!(["b", "d", "f"]);
    spec["reprotection"] = json!({"delay": "10s", "observeFor": "1s"});
    world.apply(spec).await.expect("the resource is valid");
    let cluster = world.whole(3).await;
    let (name, machine) = alone(world, &world.pods().await).await;
    let old = view::store(&cluster, &name)["storeID"].clone();
    let recording = world.record(Some(&machine)).await;
    let number = world.number_of(RECORDER, &name).await;

    world.fault(&["link-down", &machine]);
    // As long as the machine may come back, its disk is kept.
    world
        .await_cluster("to say what it waits for", PATIENCE, |cluster| {
            view::condition(cluster, "ReprotectionHeld")
                .is_some_and(|it| it.status == "True" && it.reason == "NoSpareStore")
        })
        .await;
    recording.await_progress().await;
    world.fault(&["out-of-service", &machine]);
    world.await_event("ReplacementStarted", RESTORED_WITHIN).await;
    world.await_event("FullProtectionRestored", RESTORED_WITHIN).await;
    let cluster = world
        .await_cluster("to be whole without what was lost", PATIENCE, |cluster| {
            let new = &view::store(cluster, &name)["storeID"];
            view::is_whole(cluster, 3)
                && view::is_true(cluster, "FullyReplicated")
                && new.is_i64()
                && *new != old
                && cluster.data["status"]["givenUp"].is_null()
        })
        .await;
    assert!(!view::is_true(&cluster, "ReprotectionHeld"), "{}", view::in_short(&cluster));
    let pods = world.pods().await;
    assert!(pods.iter().all(|pod| machine_of(pod) != machine), "a pod is on the lost machine");
    recording.await_progress().await;
    let recorded = recording.stop().await;
    recorded.failed_only_at(&number);
    recorded.no_gap_above(GAP_MS);
}

/// The policy `Manual`: not even a machine that is declared gone costs a volume, only the annotation does.
pub(crate) async fn a_volume_is_replaced_when_somebody_says_so(world: &World) {
    let mut spec = small();
    spec["reprotection"] = json!({"delay": "10s", "observeFor": "1s"});
    spec["replacement"] = json!({"policy": "Manual"});
    world.apply(spec).await.expect("the resource is valid");
    let cluster = world.whole(3).await;
    let (name, machine) = alone(world, &world.pods().await).await;
    let old = view::store(&cluster, &name)["storeID"].clone();
    let recording = world.record(Some(&machine)).await;
    let number = world.number_of(RECORDER, &name).await;

    world.fault(&["link-down", &machine]);
    world
        .await_cluster("to say what it waits for", PATIENCE, |cluster| {
            view::condition(cluster, "ReprotectionHeld").is_some_and(|it| {
                it.status == "True"
                    && it.reason == "NoSpareStore"
                    && it.message.contains(&format!("holdfast.dev/replace={name}"))
            })
        })
        .await;
    world.fault(&["out-of-service", &machine]);
    recording.await_progress().await;
    assert!(!world.has_event("ReplacementStarted").await, "nobody asked for a new volume");

    let asked = Patch::Merge(json!({"metadata": {"annotations": {"holdfast.dev/replace": name}}}));
    let parameters = PatchParams::default();
    world.clusters().patch(CLUSTER, &parameters, &asked).await.expect("it can be annotated");
    world.await_event("FullProtectionRestored", RESTORED_WITHIN).await;
    let cluster = world
        .await_cluster("to be whole with a new volume", PATIENCE, |cluster| {
            let new = &view::store(cluster, &name)["storeID"];
            view::is_whole(cluster, 3) && new.is_i64() && *new != old
        })
        .await;
    assert!(view::is_true(&cluster, "FullyReplicated"), "{}", view::in_short(&cluster));
    recording.await_progress().await;
    recording.stop().await.failed_only_at(&number);
}

/// A pod that has its Kubernetes node for itself, with that node; if possible not one that the
/// operator runs on.
pub(crate) async fn alone(world: &World, pods: &[Pod]) -> (String, String) {
    let operators = world.operators::<Pod>().list(&ListParams::default()).await;
    let taken: Vec<String> =
        operators.expect("pods can be listed").iter().map(machine_of).collect();
    let mut on: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in pods {
        on.entry(machine_of(pod)).or_default().push(pod.name_any());
    }
    let (machine, mut pods) = on
        .into_iter()
        .filter(|(_, pods)| pods.len() == 1)
        .min_by_key(|(machine, _)| taken.contains(machine))
        .expect("some Kubernetes node has a single pod");
    (pods.remove(0), machine)
}
