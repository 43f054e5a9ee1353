//! Invalid resources are refused by the API server, with a message that says what to change; and what
//! keeps pods from starting is a condition of one sentence.

use crate::view;
use crate::world::{PATIENCE, World};
use serde_json::{Value, json};

pub(crate) async fn what_keeps_pods_from_starting_is_said(world: &World) {
    let mut spec = crate::world::small();
    spec["image"] = json!("docker.io/holdfast/missing:never");
    spec["imagePullPolicy"] = json!("Never");
    world.apply(spec).await.expect("the resource is valid");
    stalled(world, "ImagePullFailed", "docker.io/holdfast/missing:never").await;
    // A correction gets through, although nothing has ever run.
    let mut spec = crate::world::small();
    spec["nodes"] = json!(3);
    world.apply(spec).await.expect("the resource is valid");
    world.whole(3).await;
}

pub(crate) async fn a_storage_class_that_is_missing_is_said(world: &World) {
    let mut spec = crate::world::small();
    spec["storage"]["storageClassName"] = json!("no-such-class");
    world.apply(spec).await.expect("the resource is valid");
    stalled(world, "VolumePending", "no-such-class").await;
}

/// Waits until the cluster says that it needs a human, and why.
pub(crate) async fn stalled(world: &World, reason: &str, part: &str) {
    let what = format!("to say {reason} and {part:?}");
    world
        .await_cluster(&what, PATIENCE, |cluster| {
            view::condition(cluster, "Stalled").is_some_and(|it| {
                it.status == "True" && it.reason == reason && it.message.contains(part)
            })
        })
        .await;
}

fn policies(policies: Value) -> Value {
    json!({"placement": {"policies": policies}})
}

pub(crate) async fn the_api_server_says_what_is_wrong(world: &World) {
    let cases: [(Value, &str); 15] = [
        (json!({"nodes": 2}), "nodes must be at least replicas"),
        (json!({"replicas": 2}), "replicas must be odd"),
        (json!({"nodes": 3, "maxFailures": 2}), "replicas must be at least 2 * maxFailures + 1"),
        (json!({"storage": {"size": "lots"}}), "spec.storage.size"),
        (json!({"reprotection": {"delay": "1s"}}), "reprotection.delay must be at least 10s"),
        (
            json!({"reprotection": {"delay": "20m", "drainDelay": "10m"}}),
            "reprotection.drainDelay must be at least reprotection.delay",
        ),
        (
            json!({"timing": {"tickMs": 100, "electionMs": 200}}),
            "timing.electionMs must be at least 5 * timing.tickMs",
        ),
        (json!({"gateway": {"service": {"type": "Carrier"}}}), "Unsupported value"),
        (policies(json!([{"prefix": "a", "replicas": 5}])), "replicas must be at most nodes"),
        (policies(json!([{"prefix": "a", "replicas": 1}])), "say allowFewer if that is meant"),
        (policies(json!([{"prefix": "a", "replicas": 2}])), "replicas must be odd"),
        (policies(json!([{"prefix": "0x6", "replicas": 3}])), "two hex digits a byte"),
        (
            policies(json!([{"prefix": "a", "replicas": 3}, {"prefix": "a", "replicas": 3}])),
            "duplicate entries for key",
        ),
        (
            json!({"recovery": {"id": "a", "from": "demo-1", "mode": "Ranges"}}),
            "recovery.ranges names the ranges of mode Ranges",
        ),
        (json!({"recovery": {"id": "Not a name", "from": "demo-1"}}), "spec.recovery.id"),
    ];
    for (spec, message) in cases {
        let error = world.apply(spec.clone()).await.expect_err("it is invalid").to_string();
        assert!(error.contains(message), "{spec} was refused with {error:?}, not {message:?}");
    }

    // What the data was made with cannot be changed afterwards.
    let mut spec = crate::world::small();
    spec["nodes"] = json!(5);
    // Never started: the image is not there, and the rules are the same.
    spec["image"] = json!("docker.io/holdfast/missing:never");
    spec["imagePullPolicy"] = json!("Never");
    spec["recovery"] = json!({"id": "a", "from": "demo-1"});
    world.apply(spec.clone()).await.expect("the resource is valid");
    let changes: [(&str, Value, &str); 4] = [
        ("recovery", json!({"id": "a", "from": "demo-2"}), "not changed under its id"),
        ("replicas", json!(5), "replicas cannot be changed"),
        ("storage", json!({"size": "2Gi"}), "storage cannot be changed"),
        ("splitKeys", json!(["m"]), "splitKeys cannot be changed"),
    ];
    for (field, value, message) in changes {
        let mut changed = spec.clone();
        changed[field] = value;
        let error = world.apply(changed).await.expect_err("it is fixed").to_string();
        assert!(error.contains(message), "{field} was refused with {error:?}, not {message:?}");
    }
}
