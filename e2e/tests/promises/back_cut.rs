//! The back-end network of a node fails (F10): that is node failure. The others go on; the node
//! refuses its clients rather than answer from what it knows, and the gateway does without it.

use crate::pod_killed::leader;
use crate::recording::RECORDER;
use crate::view;
use crate::world::World;
use std::time::Duration;

/// The node has to notice that it is alone, and readiness to ask twice.
const OUT_WITHIN: Duration = Duration::from_secs(30);
/// What is promised from Kubernetes noticing until the status says so.
const SUSPECT_WITHIN: Duration = Duration::from_secs(15);
/// Writes may wait for an election, no longer.
const GAP_MS: u64 = 8_000;

pub(crate) async fn the_others_go_on_and_it_returns(world: &World) {
    world.make_cluster().await;
    let recording = world.record(None).await;
    let pod = leader(world).await;
    let number = world.number_of(RECORDER, &pod).await;
    world.fault(&["back-cut", &world.namespace, &pod]);
    world
        .await_gateway("to leave it out", OUT_WITHIN, |pods| {
            !pods.is_empty() && !pods.contains(&pod)
        })
        .await;
    world
        .await_cluster("to suspect the node", SUSPECT_WITHIN, |cluster| {
            view::store(cluster, &pod)["state"] == "Suspect"
        })
        .await;
    recording.await_progress().await;
    world.fault(&["back-heal", &world.namespace, &pod]);
    world.whole(3).await;
    world.await_gateway("to have it again", OUT_WITHIN, |pods| pods.len() == 3).await;
    recording.await_progress().await;
    let recorded = recording.stop().await;
    recorded.failed_only_at(&number);
    recorded.no_gap_above(GAP_MS);
}
