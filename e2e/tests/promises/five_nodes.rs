//! Five nodes on three machines, with a delay of 30 s (P5): a reboot of every machine in turn moves nothing,
//! and a machine that is deleted from Kubernetes ends in "Full Protection Restored" without one failed
//! request at the others; what was on it is replaced elsewhere.

use crate::placement::{await_checked, ranges};
use crate::recording::RECORDER;
use crate::reprotection::{RESTORED_WITHIN, alone};
use crate::view;
use crate::world::{PATIENCE, World, machine_of, pod_condition, restarts, small};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::json;
use std::collections::BTreeSet;

pub(crate) async fn reboots_move_nothing_and_a_deleted_machine_is_made_good(world: &World) {
    let mut spec = small();
    spec["nodes"] = json!(5);
    // Two, two and one: losing the one leaves every range its majority.
    spec["topologySpread"] = json!("Required");
    spec["splitKeys"] = json!(["b", "d", "f", "h"]);
    spec["reprotection"] = json!({"delay": "30s", "observeFor": "1s"});
    world.apply(spec).await.expect("the resource is valid");
    world.whole(5).await;
    // New nodes have got their share, and nothing is on its way.
    world
        .await_cluster("to be at rest", PATIENCE, |cluster| {
            view::is_true(cluster, "FullyReplicated")
                && cluster.data["status"]["next"] == "nothing to do"
                && view::stores(cluster).iter().all(|store| store["failureDomain"].is_string())
        })
        .await;
    // Copies have been spread over the zones, too.
    await_checked(world).await;
    let before = ranges(world).await;
    let pods = world.pods().await;

    let machines: BTreeSet<String> = pods.iter().map(machine_of).collect();
    for machine in &machines {
        let there: Vec<_> = pods.iter().filter(|pod| machine_of(pod) == *machine).collect();
        for pod in &there {
            world.fault(&["kill", &world.namespace, &pod.name_any()]);
        }
        for pod in there {
            world
                .await_pod(&pod.name_any(), "to be back", PATIENCE, |now| {
                    now.is_some_and(|now| {
                        restarts(now) > restarts(pod) && pod_condition(now) == "True"
                    })
                })
                .await;
        }
    }
    let cluster = world
        .await_cluster("to be at rest again", PATIENCE, |cluster| {
            view::is_whole(cluster, 5) && view::is_true(cluster, "FullyReplicated")
        })
        .await;
    assert_eq!(ranges(world).await, before, "a copy was moved because of a reboot");
    assert!(!world.has_event("ReprotectionStarted").await, "a reboot was taken for a loss");

    let (name, machine) = alone(world, &pods).await;
    let old = view::store(&cluster, &name)["storeID"].clone();
    let recording = world.record(Some(&machine)).await;
    let number = world.number_of(RECORDER, &name).await;
    world.fault(&["link-down", &machine]);
    let suspected = |cluster: &DynamicObject| view::store(cluster, &name)["downSince"].is_string();
    world.await_cluster("to suspect the node", PATIENCE, suspected).await;
    world.fault(&["delete-node", &machine]);
    world.await_event("FullProtectionRestored", RESTORED_WITHIN).await;
    // Nothing of it comes back, so its pod starts elsewhere with an empty volume.
    let cluster = world.whole(5).await;
    let new = &view::store(&cluster, &name)["storeID"];
    assert!(new.is_i64() && *new != old, "the store that was lost is there: {new}");
    let pods = world.pods().await;
    assert!(pods.iter().all(|pod| machine_of(pod) != machine), "a pod is on the lost machine");
    recording.await_progress().await;
    recording.stop().await.failed_only_at(&number);
}
