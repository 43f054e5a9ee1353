//! Two of three machines are gone for good with their disks (F7, F8): the operator does nothing by itself,
//! shows on request what would be kept and lost, and after consent to exactly that the cluster serves what
//! the last volume has, on new and empty volumes for the others.

use crate::view;
use crate::world::{PATIENCE, World, await_object, machine_of, small};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use std::time::Duration;

/// Kubernetes notices after 20 s; pods stop and start once, and there is little to copy.
const WITHIN: Duration = Duration::from_secs(300);

pub(crate) async fn what_is_left_goes_on_by_consent(world: &World) {
    let mut spec = small();
    spec["splitKeys"] = json!(["g", "n"]);
    spec["reprotection"] = json!({"delay": "10s", "observeFor": "1s"});
    world.apply(spec.clone()).await.expect("the resource is valid");
    let cluster = world.whole(3).await;
    world
        .await_cluster("to have all copies", PATIENCE, |cluster| {
            view::is_true(cluster, "FullyReplicated")
        })
        .await;
    let (left, lost) = one_is_left(world).await;
    let left_id = view::store(&cluster, &left)["storeID"].clone();
    let before = claims(world).await;
    world.run_shell("writer", None).await;
    for (key, value) in [("a", "1"), ("h", "2"), ("t", "3")] {
        world.etcdctl("writer", &["put", key, value]).await.expect("a put");
    }

    for machine in &lost {
        world.fault(&["link-down", machine]);
    }
    world
        .await_cluster("to be unavailable", WITHIN, |cluster| {
            view::condition(cluster, "Available").is_some_and(|it| it.status != "True")
                && view::condition(cluster, "Ready").is_some_and(|it| it.status != "True")
        })
        .await;
    assert!(world.cluster().await.data["status"]["recovery"].is_null(), "nobody asked");

    // A look: what would be kept, and what lost.
    spec["recovery"] = json!({"id": "flood", "from": left});
    world.apply(spec.clone()).await.expect("the resource is valid");
    world.await_event("RecoveryReported", WITHIN).await;
    let cluster =
        world.await_cluster("to report", WITHIN, |cluster| is_in(cluster, "Reported")).await;
    let report = cluster.data["status"]["recovery"]["report"].clone();
    assert_eq!(report["keptRanges"], 3, "{report}");
    assert_eq!(report["gone"].as_array().map(Vec::len), Some(2), "{report}");
    let digest = report["digest"].as_str().expect("a digest").to_owned();
    let name = report["configMap"].as_str().expect("a name");
    let whole = await_object(world.api::<ConfigMap>(), name, WITHIN, |map| {
        map.is_some_and(|map: &ConfigMap| map.data.is_some())
    });
    let whole = whole.await.expect("the report is kept").expect("it is there");
    let text = &whole.data.expect("it has a text")["report.txt"];
    assert!(text.contains("becomes the whole cluster") && text.contains("Gone for ever"), "{text}");
    assert_eq!(claims(world).await, before, "nothing is given up by looking");

    // Consent to something else is none.
    spec["recovery"]["acceptDataLoss"] = json!("0123456789ab");
    world.apply(spec.clone()).await.expect("the resource is valid");
    world
        .await_cluster("to say what it waits for", PATIENCE, |cluster| {
            is_in(cluster, "Reported")
                && cluster.data["status"]["recovery"]["message"]
                    .as_str()
                    .is_some_and(|it| it.contains("acceptDataLoss is 0123456789ab"))
        })
        .await;

    // Consent; but as long as nobody says that the machines are gone, pods may run on them.
    spec["recovery"]["acceptDataLoss"] = json!(digest);
    world.apply(spec.clone()).await.expect("the resource is valid");
    world
        .await_cluster("to wait for the machines", WITHIN, |cluster| {
            is_in(cluster, "Stopping")
                && cluster.data["status"]["recovery"]["message"]
                    .as_str()
                    .is_some_and(|it| it.contains("out-of-service"))
        })
        .await;
    assert_eq!(claims(world).await, before, "nothing is given up yet");
    for machine in &lost {
        world.fault(&["out-of-service", machine]);
    }
    world.await_event("RecoveryDone", WITHIN).await;
    let cluster = world.await_cluster("to be done", WITHIN, |cluster| is_in(cluster, "Done")).await;
    assert_eq!(view::store(&cluster, &left)["storeID"], left_id, "it is the node that was left");
    // Where pods can be placed still.
    world.run_client("reader", &["wait"], None).await;
    for (key, value) in [("a", "1"), ("h", "2"), ("t", "3")] {
        let read = world.etcdctl("reader", &["get", key, "--print-value-only"]).await;
        assert_eq!(read.expect("it is served").trim(), value, "{key}");
    }
    world.etcdctl("reader", &["put", "new", "4"]).await.expect("it takes writes");

    // On new volumes, it becomes what it was.
    let cluster = world
        .await_cluster("to be fully protected on new volumes", WITHIN, |cluster| {
            view::is_whole(cluster, 3) && view::is_true(cluster, "FullyReplicated")
        })
        .await;
    assert!(!view::is_true(&cluster, "Stalled"), "{}", view::in_short(&cluster));
    let after = claims(world).await;
    for (name, uid) in &before {
        let kept = after.iter().find(|(other, _)| other == name).map(|(_, uid)| uid);
        assert_eq!(
            kept == Some(uid),
            *name == format!("data-{left}"),
            "{name}: {before:?}, {after:?}"
        );
    }
    let pods = world.pods().await;
    assert!(pods.iter().all(|pod| !lost.contains(&machine_of(pod))), "a pod is on a lost machine");
}

/// A pod, and the machines of the others. What else is needed runs where the pod does: an operator, and who
/// tells names.
async fn one_is_left(world: &World) -> (String, Vec<String>) {
    let operators = machines(world.operators(), "").await;
    let names = Api::namespaced(world.client.clone(), "kube-system");
    let names = machines(names, "k8s-app=kube-dns").await;
    let pods = world.pods().await;
    let left = pods.iter().max_by_key(|pod| {
        let machine = machine_of(pod);
        (operators.contains(&machine), names.contains(&machine))
    });
    let left = left.expect("the cluster has pods");
    let mut lost: Vec<String> = pods.iter().map(machine_of).collect();
    lost.retain(|machine| *machine != machine_of(left));
    assert_eq!(lost.len(), 2, "each pod has a machine of its own");
    (left.name_any(), lost)
}

/// The machines of pods.
async fn machines(pods: Api<Pod>, labels: &str) -> Vec<String> {
    let pods = pods.list(&ListParams::default().labels(labels)).await;
    pods.expect("pods can be listed").iter().map(machine_of).collect()
}

fn is_in(cluster: &DynamicObject, phase: &str) -> bool {
    cluster.data["status"]["recovery"]["phase"] == Value::from(phase)
}

/// The claims with their UIDs.
async fn claims(world: &World) -> Vec<(String, Option<String>)> {
    let claims = world.api::<PersistentVolumeClaim>().list(&ListParams::default()).await;
    let claims = claims.expect("claims can be listed");
    let mut claims: Vec<_> = claims.iter().map(|claim| (claim.name_any(), claim.uid())).collect();
    claims.sort();
    claims
}
