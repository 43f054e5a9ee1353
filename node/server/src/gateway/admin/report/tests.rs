//! What a cluster says of itself as its nodes come and go.

use super::super::progress::Left;
use super::*;
use holdfast_core::descriptor::ReplicaDescriptor;
use holdfast_core::ids::ReplicaId;
use holdfast_core::key::Span;
use std::sync::Arc;

fn record(id: u64) -> NodeRecord {
    NodeRecord {
        id: NodeId(id),
        name: format!("node-{id}"),
        peer_address: String::new(),
        client_address: String::new(),
        http_address: String::new(),
        state: NodeState::Up,
    }
}

fn descriptor(id: u64) -> RangeDescriptor {
    let replicas = (1..=3)
        .map(|node| ReplicaDescriptor {
            replica: ReplicaId(node),
            node: NodeId(node),
            kind: ReplicaKind::Voter,
        })
        .collect();
    RangeDescriptor { id: RangeId(id), span: Span::all(), generation: 1, replicas, next_replica: 4 }
}

/// Node `id`, which leads the range of its own number, sees `caught_up` there.
fn report(id: u64, caught_up: &[u64]) -> Local {
    let replicas = (1..=3)
        .map(|range| RangeView {
            descriptor: descriptor(range).into(),
            leader: Some(NodeId(range)),
            term: 2,
            applied: 10,
            leaseholder: range == id,
            caught_up: caught_up.iter().map(|node| NodeId(*node)).collect(),
            bytes_remaining: if range == id { 7 } else { 0 },
            rate: 0,
            size: None,
            sent: 0,
        })
        .collect();
    Local {
        node: NodeId(id),
        cluster: 0xabc,
        sequencer: Some(NodeId(1)),
        has_leader: true,
        draining: false,
        revision: 5,
        room: Some(100 * id),
        data: 10,
        level: LEVEL,
        names_domain: Some(false),
        reprotection: None,
        view: View {
            nodes: (1..=3).map(record).collect(),
            directory: (1..=3).map(|range| descriptor(range).into()).collect(),
            replicas,
            ..View::default()
        },
    }
}

fn json(cluster: &Cluster) -> serde_json::Value {
    serde_json::to_value(cluster.status()).expect("plain data")
}

#[test]
fn nodes_that_answer_tell_their_room() {
    let all = [1, 2, 3];
    let silent = Cluster::new(report(1, &all), vec![report(2, &all)]);
    let nodes = json(&silent)["nodes"].clone();
    assert_eq!((&nodes[1]["roomBytes"], &nodes[1]["dataBytes"]), (&200.into(), &10.into()));
    assert_eq!(nodes[2]["roomBytes"], serde_json::Value::Null);
    // A node of before says nothing about it.
    let mut old = serde_json::to_value(report(3, &all)).expect("plain data");
    old.as_object_mut().expect("an object").retain(|key, _| key != "room" && key != "data");
    let old: Local = serde_json::from_value(old).expect("it is still understood");
    assert_eq!(old.room, None);
}

#[test]
fn a_whole_cluster_is_fully_protected() {
    let all = [1, 2, 3];
    let cluster = Cluster::new(report(1, &all), vec![report(2, &all), report(3, &all)]);
    let status = json(&cluster);
    assert_eq!(status["protection"], "Full");
    assert_eq!(
        status["ranges"],
        serde_json::json!({"total": 3, "fullyReplicated": 3, "unavailable": 0})
    );
    assert_eq!(status["bytesRemaining"], 21);
    assert_eq!(status["nodes"][2]["id"], 3);
    assert_eq!(status["nodes"][2]["state"], "Up");
    assert_eq!(status["nodes"][2]["ranges"], 3);
    assert_eq!(status["nodes"][2]["leaders"], 1);
}

/// The ranges that the dead node led have a new leader: everything is served, by two copies.
#[test]
fn a_dead_node_degrades() {
    let mut second = report(2, &[1, 2]);
    second.view.replicas[2].leaseholder = true;
    let cluster = Cluster::new(report(1, &[1, 2]), vec![second]);
    let status = json(&cluster);
    assert_eq!(status["protection"], "Degraded");
    assert_eq!(status["ranges"]["fullyReplicated"], 0);
    assert_eq!(status["ranges"]["unavailable"], 0);
    assert_eq!(status["nodes"][2]["state"], "Down");
    assert_eq!(status["nodes"][2]["leaders"], 0);
    assert_eq!(status["nodes"][1]["leaders"], 2);
}

#[test]
fn a_node_alone_is_unavailable() {
    let cluster = Cluster::new(report(1, &[1]), Vec::new());
    let status = json(&cluster);
    assert_eq!(status["protection"], "Unavailable");
    assert_eq!(status["ranges"]["unavailable"], 3);
}

#[test]
fn a_node_that_lags_is_not_full_protection() {
    let cluster =
        Cluster::new(report(1, &[1, 2]), vec![report(2, &[1, 2, 3]), report(3, &[1, 2, 3])]);
    let status = json(&cluster);
    assert_eq!(status["protection"], "Degraded");
    assert_eq!(status["ranges"]["fullyReplicated"], 2);
}

#[test]
fn the_newest_descriptor_and_leaseholder_count() {
    let all = [1, 2, 3];
    let mut stale = report(3, &all);
    stale.view.replicas[0].leaseholder = true;
    stale.view.replicas[0].term = 1;
    let mut newer = report(2, &all);
    let newest = Arc::make_mut(&mut newer.view.directory[1]);
    newest.generation = 9;
    newest.replicas.truncate(2);
    let cluster = Cluster::new(report(1, &all), vec![newer, stale]);
    let ranges = serde_json::to_value(cluster.ranges()).expect("plain data");
    assert_eq!(ranges[0]["leader"], 1);
    assert_eq!(ranges[0]["kind"], "meta");
    assert_eq!(ranges[1]["generation"], 9);
    assert_eq!(ranges[1]["replicas"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_report_survives_the_way_between_nodes() {
    let sent = report(2, &[1, 2, 3]);
    let bytes = serde_json::to_vec(&sent).expect("plain data");
    let received: Local = serde_json::from_slice(&bytes).expect("the same form");
    assert_eq!(received, sent);
}

/// A copy that differs protects nothing, whoever says that it has everything.
#[test]
fn copies_that_differ_are_not_full_protection() {
    let all = [1, 2, 3];
    let mut first = report(1, &all);
    first.view.divergences = vec![Divergence {
        range: RangeId(2),
        index: 9,
        revision: 5,
        replicas: vec![descriptor(2).replicas[2]],
    }];
    // Who does not lead the meta range may not have heard of it.
    let cluster = Cluster::new(report(2, &all), vec![report(3, &all), first]);
    let status = json(&cluster);
    assert_eq!(status["protection"], "Degraded");
    assert_eq!(status["ranges"]["fullyReplicated"], 2);
    assert_eq!(status["diverged"], serde_json::json!([{"range": 2, "nodes": [3], "revision": 5}]));
    let ranges = serde_json::to_value(cluster.ranges()).expect("plain data");
    assert_eq!(ranges[1]["diverged"], serde_json::json!([3]));
    assert_eq!(ranges[1]["state"], "Degraded");
}

/// Node 3 is gone for good, and node 4 is to get its copies.
fn losing() -> (Local, Vec<Local>) {
    let mut reports: Vec<Local> = [1, 2].map(|id| report(id, &[1, 2])).into();
    reports[0].view.replicas[2].leaseholder = true;
    let mut spare = report(4, &[]);
    spare.view.replicas.clear();
    reports.push(spare);
    for report in &mut reports {
        report.data = 600;
        report.view.nodes.push(record(4));
        report.view.nodes[2].state = NodeState::Condemned;
    }
    (reports.remove(0), reports)
}

#[test]
fn what_is_left_is_copies_and_not_what_their_logs_lack() {
    let (mine, others) = losing();
    let cluster = Cluster::new(mine, others);
    // Ranges 2 and 3: who is in the meta range is another matter. 1800 bytes are six copies.
    assert_eq!(cluster.left(), Left { ranges: 2, bytes: 600 });
    let status = json(&cluster);
    assert_eq!(status["protection"], "Reprotecting");
    assert_eq!(status["bytesRemaining"], 600 + 7);
    assert_eq!(status["reprotection"], serde_json::Value::Null);
}

#[test]
fn what_was_measured_and_sent_counts() {
    let (mut mine, mut others) = losing();
    // Node 2 leads range 2 and has sent a part of it.
    let learner =
        ReplicaDescriptor { replica: ReplicaId(4), node: NodeId(4), kind: ReplicaKind::Learner };
    let replica = &mut others[0].view.replicas[1];
    Arc::make_mut(&mut replica.descriptor).replicas.push(learner);
    Arc::make_mut(&mut replica.descriptor).generation = 2;
    (replica.size, replica.sent) = (Some(5000), 2000);
    // What the leader of the meta range says of the time that is left is everybody's word.
    let progress = Progress { ranges_total: 2, seconds_left: Some(9), ..Progress::default() };
    mine.reprotection = Some(progress);
    others[0].reprotection = Some(Progress::default());
    let me = others.remove(0);
    others.push(mine);
    let cluster = Cluster::new(me, others);
    // There are seven copies by now.
    assert_eq!(cluster.left(), Left { ranges: 2, bytes: 3000 + 1800 / 7 });
    let status = json(&cluster);
    assert_eq!(status["reprotection"]["secondsLeft"], 9);
    // More was sent than was thought to be there.
    let (mine, mut others) = losing();
    others[0].view.replicas[1].sent = 10_000;
    assert_eq!(Cluster::new(mine, others).left(), Left { ranges: 2, bytes: 300 });
}
