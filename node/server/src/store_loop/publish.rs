//! What the store loop lets the rest of the process know, a few times a second.

use super::snapshots::Sent;
use crate::gateway::backend::{Details, RangeView, View, Vitals};
use holdfast_core::check::Divergence;
use holdfast_core::descriptor::{NodeState, ReplicaKind};
use holdfast_core::ids::{NodeId, RangeId};
use holdfast_core::status::{RangeStatus, ReplicaStatus, Status};
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{error, info};

/// A log entry's size, for estimates of what is still to be copied.
const ENTRY_BYTES: u64 = 512;

/// Tells of replicas when somebody asks.
#[derive(Debug)]
struct Shown {
    status: Arc<Status>,
    /// Bytes sent to nodes that are about to get a copy of the range.
    sent: BTreeMap<RangeId, u64>,
}

/// Publishes a status; `before` is the one that was published before it.
pub(super) fn publish(vitals: &Vitals, status: &Arc<Status>, before: &Status, sent: &Sent) {
    vitals.raise_revision(status.revision);
    vitals.set_compacted(status.compacted);
    vitals.set_sequencer(status.term, status.sequencer);
    vitals.set_indexes(status.index, status.applied);
    let has_leader = status
        .sequencer
        .is_some_and(|node| node == status.node || status.reachable.contains(&node));
    vitals.set_has_leader(has_leader);
    vitals.note_alarms(&status.alarms);
    let sent = sent_to_coming(status, &mut sent.lock());
    vitals.publish_details(Arc::new(Shown { status: Arc::clone(status), sent }));
    if shows_the_same(status, before) {
        return;
    }
    let view = view(status);
    if *vitals.view() != view {
        vitals.publish(view);
    }
}

/// Would the views of both be equal? A node with ten thousand ranges is asked a few times a second, and
/// nearly always nothing has changed; "no" may be wrong, "yes" is not.
fn shows_the_same(status: &Status, before: &Status) -> bool {
    let Status { node, nodes, reachable, alarms, divergences, drains, .. } = status;
    let Status { wanted, facts, policies, planned, ranges, .. } = status;
    // What is shared is equal without being read.
    (node, nodes, reachable, alarms)
        == (&before.node, &before.nodes, &before.reachable, &before.alarms)
        && (divergences, drains, wanted) == (&before.divergences, &before.drains, &before.wanted)
        && (facts, policies, planned) == (&before.facts, &before.policies, &before.planned)
        && *ranges == before.ranges
}

/// Logs what became of nodes.
pub(super) fn tell_nodes(told: &mut Vec<(NodeId, NodeState)>, status: &Status) {
    let now: Vec<_> = status.nodes.iter().map(|node| (node.id, node.state)).collect();
    if *told == now {
        return;
    }
    for (node, state) in &now {
        let before = told.iter().find(|(known, _)| known == node).map(|(_, before)| before);
        if before.is_some_and(|before| before != state) {
            info!(%node, ?before, ?state, "a node's state changed");
        }
    }
    *told = now;
}

/// Logs what is new about where copies go.
pub(super) fn tell_planned(told: &mut Vec<(RangeId, String)>, status: &Status) {
    if *told == status.planned {
        return;
    }
    for (_, line) in status.planned.iter().filter(|line| !told.contains(line)) {
        info!("placement: {line}");
    }
    told.clone_from(&status.planned);
}

/// Logs what is new about replicas that differ.
pub(super) fn tell_divergences(told: &mut Vec<Divergence>, status: &Status) {
    if *told == status.divergences {
        return;
    }
    for divergence in &status.divergences {
        if !told.contains(divergence) {
            let Divergence { range, index, revision, replicas } = divergence;
            let nodes: Vec<NodeId> = replicas.iter().map(|own| own.node).collect();
            error!(%range, ?nodes, index, revision, "replicas differ: see `holdfast-node check`");
        }
    }
    for old in told.iter() {
        if !status.divergences.iter().any(|divergence| divergence.range == old.range) {
            info!(range = %old.range, "replicas differ no more");
        }
    }
    told.clone_from(&status.divergences);
}

/// What the directory has of a range.
fn known(status: &Status, id: RangeId) -> Option<&RangeStatus> {
    // In the order of their ids.
    let found = status.ranges.binary_search_by_key(&id, |range| range.descriptor.id);
    found.ok().map(|at| &status.ranges[at])
}

/// Forgets what was sent to nodes that are about to get no copy any more, and sums up the rest.
fn sent_to_coming(
    status: &Status,
    sent: &mut BTreeMap<(RangeId, NodeId), u64>,
) -> BTreeMap<RangeId, u64> {
    let is_coming = |range, node| {
        let known = known(status, range).and_then(|range| range.descriptor.replica_on(node));
        known.is_some_and(|replica| replica.kind == ReplicaKind::Learner)
    };
    sent.retain(|(range, node), _| is_coming(*range, *node));
    let mut sums = BTreeMap::new();
    for ((range, _), bytes) in sent.iter() {
        *sums.entry(*range).or_default() += bytes;
    }
    sums
}

impl Details for Shown {
    fn replicas(&self) -> Vec<RangeView> {
        let Self { status, sent } = self;
        let told = status.replicas.iter().filter_map(|replica| {
            let range = known(status, replica.range)?;
            let leader = if replica.leader { Some(status.node) } else { range.leaseholder };
            Some(RangeView {
                descriptor: range.descriptor.clone(),
                leader,
                term: replica.term,
                applied: replica.applied,
                leaseholder: replica.leaseholder,
                caught_up: caught_up(replica, status.node),
                bytes_remaining: bytes_remaining(replica),
                rate: replica.rate,
                size: replica.size,
                sent: sent.get(&replica.range).copied().unwrap_or(0),
            })
        });
        told.collect()
    }
}

fn view(status: &Status) -> View {
    View {
        nodes: status.nodes.clone(),
        reachable: status.reachable.clone(),
        alarms: status.alarms.clone(),
        divergences: status.divergences.clone(),
        drains: status.drains.clone(),
        wanted: status.wanted.clone(),
        facts: status.facts.clone(),
        policies: status.policies.clone(),
        planned: status.planned.clone(),
        directory: status.ranges.iter().map(|range| range.descriptor.clone()).collect(),
        replicas: Vec::new(),
    }
}

fn caught_up(replica: &ReplicaStatus, me: NodeId) -> Vec<NodeId> {
    if !replica.leaseholder {
        return Vec::new();
    }
    let followers = replica.followers.iter().filter(|(_, _, fine)| *fine).map(|(node, ..)| *node);
    let mut nodes: Vec<NodeId> = followers.chain([me]).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

fn bytes_remaining(replica: &ReplicaStatus) -> u64 {
    let behind = replica
        .followers
        .iter()
        .filter(|(_, _, fine)| !fine)
        .map(|(_, matched, _)| replica.last_index.saturating_sub(*matched));
    behind.sum::<u64>() * ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::descriptor::{Facts, NodeRecord, RangeDescriptor};
    use holdfast_core::key::Span;
    use holdfast_core::request::AlarmKind;

    #[test]
    fn all_that_is_shown_is_looked_at() {
        let node = NodeRecord {
            id: NodeId(1),
            name: String::new(),
            peer_address: String::new(),
            client_address: String::new(),
            http_address: String::new(),
            state: NodeState::Up,
        };
        let descriptor = RangeDescriptor {
            id: RangeId(2),
            span: Span::all(),
            generation: 1,
            replicas: Vec::new(),
            next_replica: 1,
        };
        let divergence =
            Divergence { range: RangeId(2), index: 1, revision: 1, replicas: Vec::new() };
        let replica = ReplicaStatus {
            range: RangeId(2),
            leader: false,
            leaseholder: false,
            term: 1,
            last_index: 1,
            applied: 1,
            asleep: true,
            locked: false,
            rate: 0,
            size: None,
            watermark: 0,
            followers: Vec::new(),
            frozen: false,
        };
        let range = RangeStatus { descriptor: Arc::new(descriptor), leaseholder: None };
        let mut before = Status::default();
        before.ranges.push(range.clone());
        before.replicas.push(Arc::new(replica.clone()));
        assert!(shows_the_same(&before.clone(), &before));
        let changes: [&dyn Fn(&mut Status); 12] = [
            &|status| status.node = NodeId(9),
            &|status| status.nodes.push(node.clone()),
            &|status| status.reachable.push(NodeId(9)),
            &|status| status.alarms.push((NodeId(9), AlarmKind::NoSpace)),
            &|status| status.divergences.push(divergence.clone()),
            &|status| status.drains.push((NodeId(9), 1)),
            &|status| status.wanted.push((RangeId(2), 3)),
            &|status| status.facts.push((NodeId(9), Facts::default())),
            &|status| status.policies.push((Vec::new().into(), 3)),
            &|status| status.planned.push((RangeId(2), String::new())),
            &|status| status.ranges.push(range.clone()),
            &|status| status.ranges[0].leaseholder = Some(NodeId(9)),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut status = before.clone();
            change(&mut status);
            assert!(!shows_the_same(&status, &before), "change {number}");
        }
        // Replicas are looked at when somebody asks.
        let vitals = Vitals::new(1, NodeId(1));
        let sent = Sent::default();
        for applied in [1, 2] {
            let mut status = before.clone();
            status.replicas[0] = Arc::new(ReplicaStatus { applied, ..replica.clone() });
            publish(&vitals, &Arc::new(status), &before, &sent);
            let told = vitals.whole_view().replicas;
            assert_eq!(told.iter().map(|own| own.applied).collect::<Vec<_>>(), [applied]);
        }
    }
}
