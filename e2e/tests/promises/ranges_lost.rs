//! Of five machines' nodes two are gone for good with their disks, and with them the majority of some ranges,
//! while the meta range and all other ranges go on (F7, F8): by consent to what is shown, the last copies of these
//! ranges are made the whole of them, no volume is given up for it, and what was lost is made again elsewhere.

use crate::placement::command;
use crate::view;
use crate::world::{PATIENCE, World, machine_of, small};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Kubernetes notices after 20 s; a pod stops and starts twice for each node with last copies.
const WITHIN: Duration = Duration::from_mins(5);

/// A range with the pods that have its copies.
struct Range {
    number: i64,
    /// A key of it.
    key: String,
    pods: Vec<String>,
}

pub(crate) async fn their_last_copies_go_on_by_consent(world: &World) {
    let mut spec = small();
    spec["nodes"] = json!(5);
    // Two, two and one; and copies do not care about machines, or none would lose two of three.
    spec["topologySpread"] = json!("Required");
    spec["placement"] = json!({"failureDomain": {"mode": "None"}});
    spec["splitKeys"] = json!(["b", "d", "f", "h", "k", "m", "p", "s", "v"]);
    // Also if as many nodes go at once as are on a machine here.
    spec["reprotection"] = json!({"delay": "10s", "observeFor": "1s", "maxUnhealthy": "40%"});
    world.apply(spec.clone()).await.expect("the resource is valid");
    world.whole(5).await;
    let cluster = world
        .await_cluster("to be at rest", PATIENCE, |cluster| {
            view::is_true(cluster, "FullyReplicated")
                && cluster.data["status"]["next"] == "nothing to do"
        })
        .await;
    crate::placement::await_checked(world).await;
    let ranges = ranges(world, &cluster).await;
    let pods = world.pods().await;
    let (machine, gone) = two_together(world, &pods, &ranges).await;
    let last = last_copies(&ranges, &gone);
    world.run_shell("writer", Some(&machine)).await;
    for range in &ranges {
        let put = world.etcdctl("writer", &["put", &range.key, &range.number.to_string()]).await;
        put.expect("a put");
    }

    world.fault(&["link-down", &machine]);
    world
        .await_cluster("to be unavailable in part", WITHIN, |cluster| {
            view::condition(cluster, "Available").is_some_and(|it| it.status != "True")
                && gone.iter().all(|pod| view::store(cluster, pod)["downSince"].is_string())
        })
        .await;
    for (place, (from, ranges)) in last.iter().enumerate() {
        recover(world, &mut spec, &format!("flood-{place}"), (from, ranges)).await;
    }
    for range in &ranges {
        let read = world.etcdctl("writer", &["get", &range.key, "--print-value-only"]).await;
        let read = read.expect("it is served");
        assert_eq!(read.trim(), range.number.to_string(), "{}", range.key);
        let put = world.etcdctl("writer", &["put", &range.key, "again"]).await;
        put.expect("it takes writes");
    }

    // A whole zone is away, and is waited for until somebody says that it is gone.
    world
        .await_cluster("to wait for the zone", WITHIN, |cluster| {
            cluster.data["status"]["next"].as_str().is_some_and(|next| next.contains("ZoneAway"))
        })
        .await;
    world.fault(&["delete-node", &machine]);
    world.await_event("FullProtectionRestored", WITHIN).await;
    let cluster_before = cluster;
    let cluster = world
        .await_cluster("to be whole on new volumes", WITHIN, |cluster| {
            view::is_whole(cluster, 5)
                && view::is_true(cluster, "FullyReplicated")
                && stores(cluster, &gone).iter().all(|(pod, store)| {
                    store.is_i64() && **store != view::store(&cluster_before, pod)["storeID"]
                })
        })
        .await;
    for pod in last.keys() {
        let (old, new) = (view::store(&cluster_before, pod), view::store(&cluster, pod));
        assert_eq!(old["storeID"], new["storeID"], "{pod} is the node that it was");
    }
    assert!(!view::is_true(&cluster, "Stalled"), "{}", view::in_short(&cluster));
}

/// Asks for a report of these ranges, consents to it, and waits until they are served.
async fn recover(world: &World, spec: &mut Value, id: &str, (from, ranges): (&str, &[i64])) {
    let is_in = |cluster: &DynamicObject, phase: &str| {
        let recovery = &cluster.data["status"]["recovery"];
        recovery["id"] == id && recovery["phase"] == phase
    };
    let before = claims(world).await;
    spec["recovery"] = json!({"id": id, "from": from, "mode": "Ranges", "ranges": ranges});
    world.apply(spec.clone()).await.expect("the resource is valid");
    let cluster =
        world.await_cluster("to report", WITHIN, |cluster| is_in(cluster, "Reported")).await;
    let report = &cluster.data["status"]["recovery"]["report"];
    assert_eq!(report["keptRanges"], json!(ranges.len()), "{report}");
    let none = report["volumesGivenUp"].as_array().is_none_or(Vec::is_empty);
    assert!(none && report["lostParts"].as_i64().unwrap_or(0) == 0, "{report}");

    spec["recovery"]["acceptDataLoss"] = report["digest"].clone();
    world.apply(spec.clone()).await.expect("the resource is valid");
    world.await_cluster("to be done", WITHIN, |cluster| is_in(cluster, "Done")).await;
    assert_eq!(claims(world).await, before, "a volume was given up");
}

/// The user ranges, with a key of each.
async fn ranges(world: &World, cluster: &DynamicObject) -> Vec<Range> {
    let pod_of: BTreeMap<i64, &str> = view::stores(cluster)
        .iter()
        .filter_map(|store| Some((store["storeID"].as_i64()?, store["pod"].as_str()?)))
        .collect();
    let answer = command(world, &["ranges", "-o", "json"]).await.expect("the node answers");
    let answer: Value = serde_json::from_str(&answer).expect("it prints JSON");
    let all = answer["ranges"].as_array().expect("a list of ranges").iter();
    all.filter(|range| range["kind"] == "data")
        .map(|range| {
            let voters = range["replicas"].as_array().into_iter().flatten();
            let pods = voters.filter_map(|voter| pod_of.get(&voter["node"].as_i64()?).copied());
            Range {
                number: range["id"].as_i64().expect("a number"),
                key: format!("{}a", range["start"].as_str().unwrap_or_default()),
                pods: pods.map(str::to_owned).collect(),
            }
        })
        .collect()
}

/// A machine with two pods that have most copies of some ranges; if possible not one that the operator
/// needs, or who tells names.
async fn two_together(world: &World, pods: &[Pod], ranges: &[Range]) -> (String, BTreeSet<String>) {
    let names = Api::<Pod>::namespaced(world.client.clone(), "kube-system");
    let names = names.list(&ListParams::default().labels("k8s-app=kube-dns")).await;
    let operators = world.operators::<Pod>().list(&ListParams::default()).await;
    let needed = [operators, names].into_iter().flat_map(|pods| pods.expect("pods can be listed"));
    let needed: BTreeSet<String> = needed.map(|pod| machine_of(&pod)).collect();
    let mut on: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in pods {
        on.entry(machine_of(pod)).or_default().insert(pod.name_any());
    }
    on.into_iter()
        .filter(|(_, pods)| pods.len() == 2 && !last_copies(ranges, pods).is_empty())
        .min_by_key(|(machine, _)| needed.contains(machine))
        .expect("two of five nodes on a machine have two of three copies of one of ten ranges")
}

/// The ranges of which most copies are on pods that are gone, by the pod that has the last one.
fn last_copies(ranges: &[Range], gone: &BTreeSet<String>) -> BTreeMap<String, Vec<i64>> {
    let mut last: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for range in ranges {
        let left: Vec<&String> = range.pods.iter().filter(|pod| !gone.contains(*pod)).collect();
        if let [pod] = left[..] {
            last.entry(pod.clone()).or_default().push(range.number);
        }
    }
    last
}

/// The numbers of the stores of these pods.
fn stores<'a>(cluster: &'a DynamicObject, pods: &'a BTreeSet<String>) -> Vec<(&'a str, &'a Value)> {
    pods.iter().map(|pod| (pod.as_str(), &view::store(cluster, pod)["storeID"])).collect()
}

/// The claims with their UIDs.
async fn claims(world: &World) -> BTreeMap<String, Option<String>> {
    let claims = world.api::<PersistentVolumeClaim>().list(&ListParams::default()).await;
    let claims = claims.expect("claims can be listed");
    claims.iter().map(|claim| (claim.name_any(), claim.uid())).collect()
}
