//! The operator dies in the middle, or there are two (principle: it proposes, the quorum disposes):
//! the cluster comes up all the same, once, and a running one is not touched.

use crate::world::{OPERATOR, PATIENCE, World, from_json, identities, small};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use std::time::Duration;

/// How often the operator is killed while a cluster comes up.
const KILLS: usize = 3;

pub(crate) async fn a_cluster_comes_up_while_the_operator_dies(world: &World) {
    world.apply(small()).await.expect("the resource is valid");
    // Each kill follows something that the operator has just done.
    for kill in 0..KILLS {
        match kill {
            0 => {}
            1 => {
                let there = |set: Option<&StatefulSet>| set.is_some();
                let sets: Api<StatefulSet> = world.api();
                let found = crate::world::await_object(sets, "demo", PATIENCE, there).await;
                assert!(found.is_ok(), "no StatefulSet came");
            }
            _ => {
                world
                    .await_pod("demo-0", "to run", PATIENCE, |pod| {
                        crate::world::phase(pod) == "Running"
                    })
                    .await;
            }
        }
        kill_operators(world).await;
    }
    world.whole(3).await;
    world.await_operator(OPERATOR).await;
    let recording = world.record(None).await;
    recording.await_progress().await;
    recording.stop().await.nothing_failed();
}

pub(crate) async fn two_operators_do_no_harm(world: &World) {
    let deployments = world.operators::<Deployment>();
    let first = deployments.get(OPERATOR).await.expect("the operator is installed");
    // The second believes that it leads: it does not ask.
    let mut second = serde_json::to_value(&first).expect("it came as JSON");
    let name = format!("{OPERATOR}-second");
    second["metadata"] = json!({"name": name});
    second["spec"]["replicas"] = json!(1);
    second["spec"]["selector"] = json!({"matchLabels": {"holdfast.dev/e2e": "second"}});
    second["spec"]["template"]["metadata"]["labels"] = json!({"holdfast.dev/e2e": "second"});
    let container = &mut second["spec"]["template"]["spec"]["containers"][0];
    let mut arguments: Vec<String> =
        serde_json::from_value(container["args"].clone()).unwrap_or_default();
    arguments.retain(|argument| !argument.starts_with("--leader-elect"));
    arguments.push("--leader-elect=false".to_owned());
    container["args"] = json!(arguments);
    drop(second.as_object_mut().expect("an object").remove("status"));
    let second: Deployment = from_json(second);
    deployments.create(&PostParams::default(), &second).await.expect("a Deployment can be made");
    world.await_operator(&name).await;

    world.make_cluster().await;
    let before = world.pods().await;
    let set = world.api::<StatefulSet>().get("demo").await.expect("it is there");
    let recording = world.record(None).await;
    // Time in which they could quarrel: each sees the resource several times.
    for round in 0..3 {
        let patch =
            json!({"metadata": {"annotations": {"holdfast.dev/e2e-round": round.to_string()}}});
        world
            .clusters()
            .patch("demo", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&patch))
            .await
            .expect("an annotation can be set");
        recording.await_progress().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let same = world.api::<StatefulSet>().get("demo").await.expect("it is there");
    assert_eq!(set.metadata.generation, same.metadata.generation, "the StatefulSet was changed");
    assert_eq!(identities(&before), identities(&world.pods().await), "pods were restarted");
    recording.stop().await.nothing_failed();
    let deleted = deployments.delete(&name, &DeleteParams::default()).await;
    assert!(deleted.is_ok(), "the second operator stays");
}

/// Takes all operators away at once, without a chance to say good-bye.
async fn kill_operators(world: &World) {
    let pods = world.operators::<Pod>();
    let list = pods.list(&ListParams::default()).await.expect("pods can be listed");
    for pod in list {
        let now = DeleteParams::default().grace_period(0);
        // One that is gone already is as good.
        drop(pods.delete(&pod.name_any(), &now).await);
    }
}
