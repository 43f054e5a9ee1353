//! Where copies go, by the resource: a key prefix has more copies than the others as long as the resource says
//! so, nodes are told the zones of their machines, and copies are spread over these. Policies that were set by
//! command stay; a node that a policy needs is not taken away.

use crate::view;
use crate::world::{CLUSTER, PATIENCE, World, machine_of, small};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ZONE: &str = "topology.kubernetes.io/zone";
const RACK: &str = "example.com/rack";

/// A command of holdfast-node in the first pod, on the nodes' own port.
pub(crate) async fn command(world: &World, arguments: &[&str]) -> Result<String, String> {
    let mut command = vec!["/usr/local/bin/holdfast-node"];
    command.extend(arguments);
    command.extend(["--endpoints=localhost:2380", "--cacert=/etc/holdfast/tls/ca.crt"]);
    command.extend(["--cert=/etc/holdfast/tls/tls.crt", "--key=/etc/holdfast/tls/tls.key"]);
    world.exec(&format!("{CLUSTER}-0"), &command).await
}

/// First key and nodes of the voters of every data range.
pub(crate) async fn ranges(world: &World) -> BTreeMap<String, Vec<i64>> {
    let answer = command(world, &["ranges", "-o", "json"]).await.expect("the node answers");
    let answer: Value = serde_json::from_str(&answer).expect("it prints JSON");
    let all = answer["ranges"].as_array().expect("a list of ranges");
    let data = all.iter().filter(|range| range["kind"] == "data");
    data.map(|range| {
        let replicas = range["replicas"].as_array().into_iter().flatten();
        let voters = replicas.filter(|replica| replica["kind"] == "voter");
        let mut nodes: Vec<i64> = voters.filter_map(|it| it["node"].as_i64()).collect();
        nodes.sort_unstable();
        (range["start"].as_str().unwrap_or_default().to_owned(), nodes)
    })
    .collect()
}

fn policy<'a>(cluster: &'a DynamicObject, prefix: &str) -> &'a Value {
    let all = cluster.data["status"]["placement"]["policies"].as_array();
    all.into_iter().flatten().find(|it| it["prefix"] == prefix).unwrap_or(&Value::Null)
}

/// The failure domain of every store by its number.
fn domains(cluster: &DynamicObject) -> BTreeMap<i64, String> {
    let stores = view::stores(cluster).iter();
    stores
        .filter_map(|store| {
            Some((store["storeID"].as_i64()?, store["failureDomain"].as_str()?.to_owned()))
        })
        .collect()
}

async fn at_rest(
    world: &World,
    what: &str,
    wanted: impl Fn(&DynamicObject) -> bool,
) -> DynamicObject {
    world
        .await_cluster(what, PATIENCE, |cluster| {
            view::is_whole(cluster, 5)
                && view::is_true(cluster, "FullyReplicated")
                && cluster.data["status"]["next"] == "nothing to do"
                && wanted(cluster)
        })
        .await
}

/// Waits until nothing is wrong with where copies are: they move one after the other.
pub(crate) async fn await_checked(world: &World) {
    let mut said = String::new();
    let checked = tokio::time::timeout(PATIENCE, async {
        while let Err(why) = command(world, &["ranges", "--check"]).await {
            said = why;
        }
    });
    assert!(checked.await.is_ok(), "copies are not where they should be: {said}");
}

pub(crate) async fn copies_follow_the_resource(world: &World) {
    let mut spec = small();
    spec["nodes"] = json!(5);
    // Two, two and one.
    spec["topologySpread"] = json!("Required");
    spec["splitKeys"] = json!(["m", "z"]);
    spec["reprotection"] = json!({"observeFor": "1s"});
    let plain = spec.clone();
    spec["placement"] = json!({"policies": [{"prefix": "users/", "replicas": 5}]});
    world.apply(spec.clone()).await.expect("the resource is valid");
    let cluster = at_rest(world, "to have all copies", |cluster| {
        policy(cluster, "users/")["state"] == "Met" && domains(cluster).len() == 5
    })
    .await;
    await_checked(world).await;

    // Each node knows the zone of its machine, and copies are in all three.
    let zones = domains(&cluster);
    let machines: Api<Node> = Api::all(world.client.clone());
    for pod in world.pods().await {
        let machine = machines.get(&machine_of(&pod)).await.expect("the machine can be read");
        let store = view::store(&cluster, &pod.name_any());
        assert_eq!(store["failureDomain"], machine.labels()[ZONE], "{}", pod.name_any());
    }
    let found = ranges(world).await;
    for (start, nodes) in &found {
        let copies = if start == "users/" { 5 } else { 3 };
        assert_eq!(nodes.len(), copies, "copies of the range at {start:?}: {found:?}");
        let mut domains: Vec<&String> = nodes.iter().map(|node| &zones[node]).collect();
        domains.sort();
        domains.dedup();
        assert_eq!(domains.len(), 3, "the copies of the range at {start:?} share zones: {found:?}");
    }
    assert!(found.contains_key("users/") && found.contains_key("users0"), "{found:?}");

    // A node that it needs is not taken away, and a policy that was set by command is another's.
    let mut fewer = spec.clone();
    fewer["nodes"] = json!(3);
    let error = world.apply(fewer).await.expect_err("five copies need five nodes").to_string();
    assert!(error.contains("replicas must be at most nodes"), "{error}");
    let set = ["placement", "set", "--prefix", "cache/", "--replicas", "1", "--allow-fewer"];
    command(world, &set).await.expect("it can be set");

    // What machines fail together with is told by another label, without a restart.
    let before = crate::world::identities(&world.pods().await);
    for pod in world.pods().await {
        let rack = json!({"metadata": {"labels": {RACK: "one"}}});
        let patch = Patch::Merge(rack);
        machines.patch(&machine_of(&pod), &PatchParams::default(), &patch).await.expect("labelled");
    }
    let mut racks = plain.clone();
    racks["placement"] = json!({"failureDomain": {"topologyKey": RACK}});
    world.apply(racks).await.expect("the resource is valid");
    let cluster = at_rest(world, "to have undone the policy", |cluster| {
        cluster.data["status"]["placement"].is_null()
            && domains(cluster).values().all(|domain| domain == "one")
    })
    .await;
    assert_eq!(domains(&cluster).len(), 5, "{}", view::in_short(&cluster));
    await_checked(world).await;
    let found = ranges(world).await;
    for (start, nodes) in &found {
        let copies = if start == "cache/" { 1 } else { 3 };
        assert_eq!(nodes.len(), copies, "copies of the range at {start:?}: {found:?}");
    }
    assert!(found.contains_key("cache/"), "a policy that was set by command is gone: {found:?}");
    assert_eq!(crate::world::identities(&world.pods().await), before, "a pod was restarted");

    let mut none = plain;
    none["placement"] = json!({"failureDomain": {"mode": "None"}});
    world.apply(none).await.expect("the resource is valid");
    at_rest(world, "to let each node fail alone", |cluster| domains(cluster).is_empty()).await;
    for pod in world.pods().await {
        let patch = Patch::Merge(json!({"metadata": {"labels": {RACK: null}}}));
        machines.patch(&machine_of(&pod), &PatchParams::default(), &patch).await.expect("labelled");
    }
}
