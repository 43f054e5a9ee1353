//! The number of nodes follows the resource (P7): up while clients go on; below the copies never.

use crate::view;
use crate::world::{CLUSTER, World, small};
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// Through the scale subresource, as `kubectl scale` does.
async fn scale(world: &World, nodes: i64) -> Result<(), kube::Error> {
    let wanted = Patch::Merge(json!({"spec": {"replicas": nodes}}));
    world.clusters().patch_scale(CLUSTER, &PatchParams::default(), &wanted).await.map(drop)
}

pub(crate) async fn up_while_clients_go_on(world: &World) {
    world.make_cluster().await;
    let recording = world.record(None).await;
    scale(world, 5).await.expect("the resource can be scaled");
    world.whole(5).await;
    recording.await_progress().await;
    recording.stop().await.nothing_failed();
}

pub(crate) async fn down_gives_the_copies_away_first(world: &World) {
    let mut spec = small();
    spec["nodes"] = json!(4);
    spec["splitKeys"] = json!(["b", "d", "f"]);
    world.apply(spec).await.expect("the resource is valid");
    world.whole(4).await;
    let recording = world.record(None).await;
    scale(world, 3).await.expect("the resource can be scaled");
    let cluster = world.whole(3).await;
    assert!(view::is_true(&cluster, "FullyReplicated"), "{}", view::in_short(&cluster));
    recording.await_progress().await;
    recording.stop().await.nothing_failed();
}

pub(crate) async fn below_the_copies_is_refused(world: &World) {
    world.make_cluster().await;
    let mut spec = small();
    spec["nodes"] = json!(2);
    let error = world.apply(spec).await.expect_err("three copies need three nodes").to_string();
    assert!(error.contains("nodes must be at least replicas"), "{error}");
    assert!(scale(world, 1).await.is_err(), "scaled below the number of copies");
    world.whole(3).await;
}
