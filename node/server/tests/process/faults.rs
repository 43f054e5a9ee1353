//! Nodes that die, hang, lose their disk; and what clients see of it.

use super::cluster::{Cluster, wait_for};
use super::history::Load;
use nix::sys::signal::Signal;

const KEYS: [&str; 6] = ["apple", "banana", "grape", "orange", "tomato", "zebra"];
const SPLIT: [&str; 2] = ["--split-keys", "g,n,t"];

/// Endpoints of all nodes but one.
fn others(cluster: &Cluster, node: usize) -> Vec<String> {
    (1..=3).filter(|&other| other != node).map(|other| cluster.endpoint(other)).collect()
}

#[test]
fn no_write_fails_or_is_lost_when_leaders_are_killed() {
    let mut cluster = Cluster::start(&SPLIT);
    cluster.wait_full();
    for _ in 0..2 {
        let victim = cluster.busiest();
        let load = Load::start(&others(&cluster, victim), &KEYS);
        load.wait_progress(100);
        cluster.kill(victim);
        load.wait_progress(200);
        cluster.rejoin(victim);
        load.wait_progress(100);
        let report = load.finish();
        println!("{} writes, longest gap {:?}", report.acked, report.longest_gap);
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        cluster.wait_full();
    }
    cluster.stop();
}

#[test]
fn a_paused_leader_serves_nothing_stale_when_it_wakes() {
    let cluster = Cluster::start(&SPLIT);
    cluster.wait_full();
    let victim = cluster.busiest();
    let load = Load::start(&others(&cluster, victim), &KEYS);
    load.wait_progress(100);
    cluster.signal(victim, Signal::SIGSTOP);
    load.wait_progress(200);
    cluster.signal(victim, Signal::SIGCONT);
    load.wait_progress(100);
    let report = load.finish();
    println!("{} writes, longest gap {:?}", report.acked, report.longest_gap);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    // Also through the node that was paused.
    let load = Load::start(&cluster.endpoints(), &KEYS);
    load.wait_progress(50);
    load.finish();
    cluster.wait_full();
}

#[test]
fn a_node_that_stops_gracefully_costs_no_request() {
    let mut cluster = Cluster::start(&SPLIT);
    cluster.wait_full();
    let victim = cluster.busiest();
    let load = Load::start(&others(&cluster, victim), &KEYS);
    load.wait_progress(100);
    cluster.signal(victim, Signal::SIGTERM);
    let pid_file = cluster.node_directory(victim).join("pid");
    wait_for("the node to stop", || !pid_file.exists());
    load.wait_progress(100);
    cluster.rejoin(victim);
    load.wait_progress(100);
    let report = load.finish();
    println!("{} writes, longest gap {:?}", report.acked, report.longest_gap);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    cluster.stop();
}

#[test]
fn without_a_majority_nothing_is_served_and_with_it_nothing_is_lost() {
    let mut cluster = Cluster::start(&SPLIT);
    cluster.wait_full();
    let load = Load::start(&[cluster.endpoint(1)], &KEYS);
    load.wait_progress(100);
    cluster.kill(2);
    cluster.kill(3);
    wait_for("the cluster to say that it is unavailable", || {
        cluster.status()["protection"] == "Unavailable"
    });
    cluster.rejoin(2);
    load.wait_progress(100);
    cluster.rejoin(3);
    load.wait_progress(100);
    load.finish();
    cluster.wait_full();
    cluster.stop();
}

#[test]
fn all_nodes_killed_at_once_come_back_with_everything() {
    let mut cluster = Cluster::start(&SPLIT);
    cluster.wait_full();
    let load = Load::start(&cluster.endpoints(), &KEYS);
    load.wait_progress(300);
    for node in 1..=3 {
        cluster.kill(node);
    }
    // Each waits for the others, so they must come together.
    cluster.stop();
    cluster.run(&[]);
    load.wait_progress(100);
    load.finish();
    cluster.wait_full();
}

#[test]
fn a_node_with_an_emptied_disk_joins_as_a_new_one() {
    let mut cluster = Cluster::start(&SPLIT);
    cluster.wait_full();
    let load = Load::start(&[cluster.endpoint(1), cluster.endpoint(3)], &KEYS);
    load.wait_progress(100);
    cluster.kill(2);
    let directory = cluster.node_directory(2);
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::create_dir(&directory).unwrap();
    cluster.rejoin(2);
    load.wait_progress(100);
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let status = cluster.status();
    let ids: Vec<u64> =
        status["nodes"].as_array().unwrap().iter().filter_map(|node| node["id"].as_u64()).collect();
    assert!(ids.contains(&4), "the new node has an id that was never used: {ids:?}");
    // It serves clients like any other, wherever the copies are.
    let load = Load::start(&cluster.endpoints(), &KEYS);
    load.wait_progress(50);
    load.finish();
}
