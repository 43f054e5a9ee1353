//! What a node says about itself.

use super::Node;
use crate::descriptor::NodeState;
use crate::ids::{META_RANGE, NodeId, RangeId};
use crate::level::Level;
use crate::replica::Replica;
use crate::status::{RangeStatus, ReplicaStatus, Status};
use std::sync::Arc;

impl Node {
    /// A snapshot of this node's view.
    pub fn status(&self) -> Status {
        self.status_after(&Status::default())
    }

    /// The same. What has not changed since `before` is shared with it: a node with ten thousand
    /// ranges tells of them a few times a second.
    pub fn status_after(&self, before: &Status) -> Status {
        let meta = self.replicas.get(&META_RANGE);
        let me = self.config.node;
        let reachable: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.connected && !peer.down)
            .map(|(node, _)| *node)
            .chain([me])
            .collect();
        let replicas = self.replica_statuses(&reachable, before);
        Status {
            cluster: self.meta.cluster(),
            node: me,
            left: self.replicas.is_empty()
                && self.meta.nodes().get(&me).is_some_and(|own| own.state == NodeState::Leaving),
            sequencer: self.meta_leader(),
            sequencing: self.sequencer.is_active(),
            term: meta.map_or(0, |replica| replica.group.term()),
            index: meta.map_or(0, |replica| replica.group.committed()),
            applied: meta.map_or(0, |replica| replica.applied.index),
            revision: self.known_revision(),
            compacted: self.meta.compacted(),
            nodes: self.meta.nodes().values().cloned().collect(),
            reachable,
            ranges: self.range_statuses(),
            replicas,
            alarms: self.meta.alarms().iter().copied().collect(),
            drains: self.meta.drains().iter().map(|(node, drain)| (*node, drain.ttl_ms)).collect(),
            facts: self.meta.facts().iter().map(|(node, own)| (*node, own.clone())).collect(),
            policies: self
                .meta
                .policies()
                .all()
                .iter()
                .map(|(prefix, copies)| (prefix.clone(), *copies))
                .collect(),
            planned: self.planned(),
            divergences: self.meta.divergences().values().cloned().collect(),
            leases: self.meta.leases().len(),
            requests: self.router.len(),
            watches: self.watching.len(),
            counters: self.counters,
            wanted: self
                .meta
                .all_wanted()
                .iter()
                .map(|(range, copies)| (*range, *copies))
                .collect(),
        }
    }

    fn range_statuses(&self) -> Vec<RangeStatus> {
        let descriptors = self.meta.ranges().values().cloned();
        descriptors
            .map(|descriptor| RangeStatus {
                leaseholder: self.leaseholder_of(descriptor.id),
                descriptor,
            })
            .collect()
    }

    /// In the order of the ranges' ids, as `before` is.
    fn replica_statuses(&self, reachable: &[NodeId], before: &Status) -> Vec<Arc<ReplicaStatus>> {
        let same_peers = before.reachable == reachable;
        let mut before = before.replicas.iter().peekable();
        self.replicas
            .values()
            .map(|replica| {
                while before.next_if(|known| known.range < replica.range).is_some() {}
                let known = before.next_if(|known| known.range == replica.range);
                let known = known.filter(|known| same_peers && known.asleep && replica.asleep);
                let mut status = self.own_status(replica);
                match known {
                    // Whose followers they are, and how far, does not change while it sleeps.
                    Some(known) if known.is_same_but_followers(&status) => known.clone(),
                    Some(_) | None => {
                        status.followers = self.follower_statuses(replica);
                        Arc::new(status)
                    }
                }
            })
            .collect()
    }

    /// The sequencer's last plan, in words.
    fn planned(&self) -> Vec<(RangeId, String)> {
        if !self.sequencer.is_active() {
            return Vec::new();
        }
        let steps = self.planning.plan().steps.iter().map(|step| (step.range, step.to_string()));
        let held = self.planning.plan().held.iter();
        let level = self.check_level(Level::NEWEST).err();
        let level = level.map(|why| {
            let what = if self.meta.level() < Level::SHAPING {
                "no merges, cuts by load, new ranks and placement"
            } else {
                "voters stay whatever their failure domain"
            };
            (META_RANGE, format!("{what}: {why}"))
        });
        let held = held.map(|(range, why)| (*range, format!("{range}: {why}")));
        steps.chain(held).chain(level).collect()
    }

    fn follower_statuses(&self, replica: &Replica) -> Vec<(NodeId, u64, bool)> {
        let last = replica.group.last_index();
        let me = self.config.node;
        let members = replica.group.progress().into_iter();
        let followers = members.filter_map(|(id, matched, _, _)| {
            let node = replica.node_of(id)?;
            let here = node == me
                || self.peers.get(&node).is_some_and(|peer| peer.connected && !peer.down);
            Some((node, matched, here && matched + 1000 >= last))
        });
        followers.collect()
    }

    /// What there is to say of a replica, but for its followers.
    fn own_status(&self, replica: &Replica) -> ReplicaStatus {
        ReplicaStatus {
            range: replica.range,
            leader: replica.group.is_leader(),
            leaseholder: replica.holds_lease()
                || (replica.range == META_RANGE && self.sequencer.is_active()),
            term: replica.group.term(),
            last_index: replica.group.last_index(),
            applied: replica.applied.index,
            asleep: replica.asleep,
            locked: replica.intent.is_some(),
            rate: if replica.holds_lease() && !replica.asleep {
                replica.growth.load.rate()
            } else {
                0
            },
            size: replica.growth.size.map(|size| size + replica.growth.written),
            watermark: replica.leaseholder.watermark().max(replica.revision),
            followers: Vec::new(),
            frozen: replica.merging.frozen.is_some(),
        }
    }
}
