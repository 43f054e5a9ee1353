//! A process stands still, as on a machine that swaps or a disk that hangs (F5, S2): others take
//! over, the gateway does without it, and when it goes on it is a follower: no stale read.

use crate::pod_killed::leader;
use crate::recording::RECORDER;
use crate::world::World;
use std::time::Duration;

/// Readiness asks every 2 seconds, waits as long, and believes the second silence.
const OUT_WITHIN: Duration = Duration::from_secs(15);
/// Writes may wait for an election, no longer.
const GAP_MS: u64 = 8_000;

pub(crate) async fn a_pod_that_stands_still_leaves_the_gateway_and_returns(world: &World) {
    world.make_cluster().await;
    let recording = world.record(None).await;
    let pod = leader(world).await;
    let number = world.number_of(RECORDER, &pod).await;
    world.fault(&["pause", &world.namespace, &pod]);
    let took = world
        .await_gateway("to leave it out", OUT_WITHIN, |pods| {
            !pods.is_empty() && !pods.contains(&pod)
        })
        .await;
    eprintln!("    out of the gateway after {:.1} s", took.as_secs_f64());
    recording.await_progress().await;
    world.fault(&["resume", &world.namespace, &pod]);
    world.whole(3).await;
    recording.await_progress().await;
    let recorded = recording.stop().await;
    recorded.failed_only_at(&number);
    recorded.no_gap_above(GAP_MS);
}
