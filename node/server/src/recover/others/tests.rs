//! Five nodes; range 2 is on nodes 1 to 3, of which 2 and 3 are gone; the disk is that of node 1.

use super::*;
use crate::gateway::RangeView;
use holdfast_core::bootstrap::Plan;
use holdfast_core::descriptor::{NodeRecord, RangeDescriptor};
use holdfast_core::status::{RangeStatus, ReplicaStatus};

struct Bench {
    own: Status,
    others: BTreeMap<NodeId, View>,
}

fn copy(descriptor: &RangeDescriptor, applied: u64) -> RangeView {
    RangeView {
        descriptor: descriptor.clone().into(),
        leader: None,
        term: 7,
        applied,
        leaseholder: false,
        caught_up: Vec::new(),
        bytes_remaining: 0,
        rate: 0,
        size: None,
        sent: 0,
    }
}

fn bench() -> Bench {
    let record = |id: u64| NodeRecord {
        id: NodeId(id),
        name: format!("node-{id}"),
        peer_address: String::new(),
        client_address: String::new(),
        http_address: String::new(),
        state: NodeState::Up,
    };
    let nodes: Vec<NodeRecord> = (1..=5).map(record).collect();
    let plan = Plan { cluster: 1, nodes: nodes.clone(), replicas: 3, split_keys: Vec::new() };
    let ranges = plan.ranges();
    let replica = ReplicaStatus {
        range: RangeId(2),
        leader: false,
        leaseholder: false,
        term: 7,
        last_index: 20,
        applied: 20,
        asleep: false,
        locked: false,
        frozen: false,
        rate: 0,
        size: None,
        watermark: 0,
        followers: Vec::new(),
    };
    let known = |descriptor: &RangeDescriptor| RangeStatus {
        descriptor: descriptor.clone().into(),
        leaseholder: None,
    };
    let own = Status {
        node: NodeId(1),
        nodes,
        ranges: ranges.iter().map(known).collect(),
        replicas: vec![replica.into()],
        ..Status::default()
    };
    let directory = ranges.into_iter().map(Into::into).collect();
    let view = View { directory, ..View::default() };
    Bench { own, others: [(NodeId(4), view.clone()), (NodeId(5), view)].into() }
}

#[test]
fn only_what_is_lost_is_recovered() {
    type Change = fn(&mut Bench);
    let cases: [(Change, Option<&str>); 8] = [
        (|_| {}, None),
        (|b| b.others.retain(|node, _| *node == NodeId(4)), Some("has no majority either")),
        (
            |b| {
                let view = b.others.get(&NodeId(4)).cloned().unwrap();
                b.others.insert(NodeId(3), view);
            },
            Some("2 of 3 copies of r2 are there"),
        ),
        (
            |b| {
                let mut copy = copy(&b.own.ranges[1].descriptor, 9);
                copy.leaseholder = true;
                b.others.get_mut(&NodeId(5)).unwrap().replicas.push(copy);
            },
            Some("n5 serves r2"),
        ),
        (
            |b| {
                let copy = copy(&b.own.ranges[1].descriptor, 21);
                b.others.get_mut(&NodeId(5)).unwrap().replicas.push(copy);
            },
            Some("n5 has more of r2: entry 21, here it is 20"),
        ),
        (
            |b| {
                let newer = &mut b.others.get_mut(&NodeId(5)).unwrap().directory[1];
                std::sync::Arc::make_mut(newer).generation += 1;
            },
            Some("n5 knows more of r2"),
        ),
        (
            |b| {
                let view = b.others.get_mut(&NodeId(5)).unwrap();
                let cut = RangeDescriptor {
                    id: RangeId(3),
                    ..RangeDescriptor::clone(&view.directory[1])
                };
                view.directory.push(cut.into());
            },
            Some("n5 knows more of r2"),
        ),
        (|b| b.own.ranges.truncate(1), Some("there is no range r2")),
    ];
    for (number, (change, wanted)) in cases.into_iter().enumerate() {
        let mut bench = bench();
        change(&mut bench);
        let found = objection(&bench.own, &[RangeId(2)], &bench.others);
        match (&found, wanted) {
            (None, None) => {}
            (Some(found), Some(part)) if found.contains(part) => {}
            _ => panic!("case {number}: {found:?}"),
        }
    }
}
