//! The front-end network of a node fails (F9): it takes part as before and only takes no clients.

use crate::pod_killed::leader;
use crate::recording::RECORDER;
use crate::view;
use crate::world::{World, restarts};
use kube::ResourceExt as _;
use std::time::Duration;

/// Readiness asks every 2 seconds, waits as long, and believes the second silence.
const OUT_WITHIN: Duration = Duration::from_secs(15);

pub(crate) async fn it_takes_part_without_clients(world: &World) {
    world.make_cluster().await;
    let recording = world.record(None).await;
    let pod = leader(world).await;
    let number = world.number_of(RECORDER, &pod).await;
    let before = world.pods().await.into_iter().find(|found| found.name_any() == pod);
    world.fault(&["front-cut", &world.namespace, &pod]);
    world
        .await_gateway("to leave it out", OUT_WITHIN, |pods| {
            !pods.is_empty() && !pods.contains(&pod)
        })
        .await;
    // Its peers hear it: to them it is up, with all its copies, and nothing is lost.
    let cluster = world
        .await_cluster("to say that its peers see the node", Duration::from_secs(60), |cluster| {
            view::store(cluster, &pod)["member"] == "Up"
                && view::is_true(cluster, "Available")
                && view::is_true(cluster, "FullyReplicated")
        })
        .await;
    assert_eq!(
        cluster.data["status"]["operation"],
        serde_json::Value::Null,
        "nothing is done to it"
    );
    recording.await_progress().await;
    world.fault(&["front-heal", &world.namespace, &pod]);
    world.await_gateway("to have it again", OUT_WITHIN, |pods| pods.len() == 3).await;
    world.whole(3).await;
    let after = world.pods().await.into_iter().find(|found| found.name_any() == pod);
    assert_eq!(
        before.map(|pod| (pod.uid(), restarts(&pod))),
        after.map(|pod| (pod.uid(), restarts(&pod))),
        "the pod was not restarted"
    );
    recording.stop().await.failed_only_at(&number);
}
