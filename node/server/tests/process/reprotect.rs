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

#[test]
fn a_move_that_the_cluster_would_undo_is_refused() {
    let cluster = Cluster::start(&FOUR);
    cluster.wait_full();
    let check = cluster.command(&["ranges", "--check"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let load = Load::start(&cluster.endpoints(), &KEYS);
    load.wait_progress(50);
    // Four nodes, four ranges: each has three copies, and gives one for one.
    let before = places(&cluster);
    let on = |range: u64| before.iter().find(|(id, _)| *id == range).unwrap().1.clone();
    let (from, to) = (on(2)[0], (1..=4).find(|node| !on(2).contains(node)).unwrap());
    let words = |from: u64, to: u64| {
        let (from, to) = (from.to_string(), to.to_string());
        let arguments = ["move", "--range", "2", "--from", &from, "--to", &to, "--wait"];
        let output = cluster.command(&[&arguments[..], &["--timeout", "60s"]].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, why) = words(from, to);
    assert_eq!(code, Some(3), "{why}");
    assert!(why.contains("would move one back"), "{why}");
    let (code, why) = words(to, from);
    assert_eq!(code, Some(3));
    assert!(why.contains("has no copy of r2"), "{why}");
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
}

#[test]
fn a_leaders_copy_moves_without_a_failed_request() {
    let cluster = Cluster::start(&["--nodes", "4", "--split-keys", "m"]);
    cluster.wait_full();
    let load = Load::start(&cluster.endpoints(), &KEYS);
    load.wait_progress(50);
    // Range 2 is on nodes 1 to 3, led by 1, range 3 on 2 to 4: nodes 2 and 3 have two copies.
    let arguments = ["move", "--range", "3", "--from", "2", "--to", "1", "--wait"];
    let moved = cluster.command(&[&arguments[..], &["--timeout", "60s"]].concat());
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    cluster.wait_full();
    let mut nodes = places(&cluster).iter().find(|(id, _)| *id == 3).unwrap().1.clone();
    nodes.sort_unstable();
    assert_eq!(nodes, [1, 3, 4]);
    load.wait_progress(50);
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let check = cluster.command(&["ranges", "--check", "-o", "json"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    cluster.kill(4);
    // It is still in its place, and the copies there count as long as nobody gives it up.
    wait_for("the leaders of node 4 to move", || {
        cluster.command(&["ranges", "--check"]).status.success()
    });
}
