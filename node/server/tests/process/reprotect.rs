//! A node that stays away is replaced by its peers; one that comes back in time keeps its place; one
//! that is taken out of service gives its copies away first.

use super::cluster::{Cluster, run_to_end, wait_for};
use super::history::Load;
use serde_json::Value;

const KEYS: [&str; 6] = ["a", "h", "m", "o", "u", "z"];
const FOUR: [&str; 4] = ["--nodes", "4", "--split-keys", "g,n,t"];

/// The nodes of every range's copies, by range.
fn places(cluster: &Cluster) -> Vec<(u64, Vec<u64>)> {
    let output = cluster.command(&["ranges", "-o", "json"]);
    let ranges: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ranges = ranges["ranges"].as_array().or_else(|| ranges.as_array()).unwrap();
    let nodes = |range: &Value| {
        let replicas = range["replicas"].as_array().unwrap();
        replicas.iter().map(|replica| replica["node"].as_u64().unwrap()).collect()
    };
    ranges.iter().map(|range| (range["id"].as_u64().unwrap(), nodes(range))).collect()
}

fn knows(cluster: &Cluster, node: u64) -> bool {
    cluster.status()["nodes"]
        .as_array()
        .is_some_and(|nodes| nodes.iter().any(|known| known["id"].as_u64() == Some(node)))
}

#[test]
fn a_lost_node_is_replaced_by_its_peers_and_the_next_failure_is_safe() {
    let cluster = Cluster::start(&[&FOUR[..], &["--reprotect-delay", "2s"]].concat());
    cluster.wait_full();
    assert!(places(&cluster).iter().any(|(_, nodes)| nodes.contains(&4)));
    let load = Load::start(&cluster.endpoints(), &KEYS);
    load.wait_progress(100);
    cluster.kill(4);
    cluster.wait_said("reprotection starts");
    cluster.wait_said("Full Protection Restored");
    cluster.wait_full();
    wait_for("the lost node to be forgotten", || !knows(&cluster, 4));
    assert!(places(&cluster).iter().all(|(_, nodes)| !nodes.contains(&4)));
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);

    // What is left is as good as new.
    let load = Load::start(&[cluster.endpoint(1), cluster.endpoint(2)], &KEYS);
    load.wait_progress(50);
    cluster.kill(3);
    load.wait_progress(100);
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);

    // The disk of the lost node is of no use any more, and says so.
    let directory = cluster.directory.path().to_str().unwrap();
    let (code, words) = run_to_end(&["dev", "--rejoin", "4", "--data", directory]);
    assert_ne!(code, 0);
    assert!(words.contains("node 4"), "{words}");
    let log = std::fs::read_to_string(cluster.node_directory(4).join("log")).unwrap();
    assert!(log.contains("gone for good"), "{log}");
}

#[test]
fn a_node_that_comes_back_in_time_keeps_its_place() {
    let mut cluster = Cluster::start(&[&FOUR[..], &["--reprotect-delay", "10m"]].concat());
    cluster.wait_full();
    let before = places(&cluster);
    let load = Load::start(&cluster.endpoints(), &KEYS);
    load.wait_progress(50);
    cluster.kill(4);
    cluster.wait_said("node-4 does not answer");
    load.wait_progress(100);
    cluster.rejoin(4);
    cluster.wait_full();
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(places(&cluster), before);
}

#[test]
fn a_node_gives_its_copies_away_before_it_goes() {
    let cluster = Cluster::start(&FOUR);
    cluster.wait_full();
    let load = Load::start(&cluster.endpoints(), &KEYS);
    load.wait_progress(50);
    let drain = cluster.command(&["drain", "4", "--replicas"]);
    assert!(drain.status.success(), "{}", String::from_utf8_lossy(&drain.stderr));
    wait_for("the node to be gone", || !knows(&cluster, 4));
    cluster.wait_full();
    assert!(places(&cluster).iter().all(|(_, nodes)| !nodes.contains(&4)));
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);

    // Three copies need three nodes.
    let drain = cluster.command(&["drain", "3", "--replicas"]);
    assert!(!drain.status.success());
    let words = String::from_utf8_lossy(&drain.stderr).into_owned();
    assert!(words.contains("no spare node"), "{words}");
    // And a node that answers is not lost.
    let reprotect = cluster.command(&["reprotect", "3"]);
    assert!(!reprotect.status.success());
}
