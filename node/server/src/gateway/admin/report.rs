//! Puts together what the nodes know of themselves: pure, so that it can be tested.
//!
//! Invariants: a range is what its descriptor with the highest generation says; its leader is the
//! leaseholder with the highest term; a node that did not answer is `Down`, whatever it was.

use super::progress::Progress;
use crate::gateway::backend::{RangeView, View};
use bytes::Bytes;
use holdfast_core::check::Divergence;
use holdfast_core::descriptor::{Facts, NodeRecord, NodeState, RangeDescriptor, ReplicaKind, Room};
use holdfast_core::ids::{NodeId, RangeId, Revision};
use holdfast_core::placement::{self, Directory};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod left;

/// What one node knows, as nodes send it to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Local {
    pub node: NodeId,
    pub cluster: u64,
    pub sequencer: Option<NodeId>,
    pub has_leader: bool,
    pub draining: bool,
    pub revision: Revision,
    /// Bytes that may be written before its disk counts as full. Older nodes do not tell.
    #[serde(default)]
    pub room: Option<u64>,
    /// Bytes of its data. Older nodes do not tell.
    #[serde(default)]
    pub data: u64,
    /// How far the making of copies is, if this node follows it.
    #[serde(default)]
    pub reprotection: Option<Progress>,
    pub view: View,
    /// See [`LEVEL`].
    #[serde(default)]
    pub level: u32,
    /// It was started with a failure domain, which holds. Older nodes do not tell, and take back what
    /// others say of theirs.
    #[serde(default)]
    pub names_domain: Option<bool>,
}

/// What versions before [`holdfast_core::level`] ask for: this one knows placement.
pub(super) const LEVEL: u32 = 1;

/// The reports of all nodes that answered.
pub(super) struct Cluster {
    id: u64,
    sequencer: Option<NodeId>,
    revision: Revision,
    nodes: Vec<NodeRecord>,
    answering: BTreeSet<NodeId>,
    draining: BTreeSet<NodeId>,
    ranges: Vec<Range>,
    divergences: Vec<Divergence>,
    drains: Vec<(NodeId, u64)>,
    /// Room and data of the nodes that answer.
    disks: BTreeMap<NodeId, (Option<u64>, u64)>,
    /// Copies that ranges are to have at least, where that was decided.
    least: BTreeMap<RangeId, usize>,
    facts: BTreeMap<NodeId, Facts>,
    /// Nodes that answered, with whether they name their failure domain themselves.
    names_domain: BTreeMap<NodeId, bool>,
    policies: Vec<(Bytes, usize)>,
    planned: Vec<(RangeId, String)>,
    /// As the leader of the meta range follows it.
    reprotection: Option<Progress>,
}

/// One range, with what its leaseholder says.
struct Range {
    descriptor: Arc<RangeDescriptor>,
    leaseholder: Option<(NodeId, RangeView)>,
}

/// How well the data is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Protection {
    /// Every range has all its copies, complete, on nodes that answer.
    Full,
    /// Every range is served; some copies are missing or behind.
    Degraded,
    /// As `Degraded`, and copies are being made.
    Reprotecting,
    /// Some range is not served.
    Unavailable,
}

/// `holdfast-node status -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusJson {
    protection: Protection,
    ranges: RangeCounts,
    nodes: Vec<NodeJson>,
    /// The placement policies, by prefix.
    policies: Vec<PolicyJson>,
    /// About how many bytes the copies still lack.
    bytes_remaining: u64,
    /// How far the making of copies is, if any are made and that is known.
    reprotection: Option<Progress>,
    /// Ranges whose copies differ, as the last comparison found.
    diverged: Vec<DivergedJson>,
    cluster: String,
    sequencer: Option<u64>,
    revision: Revision,
}

/// Copies of one range that differ from the majority, or from each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct DivergedJson {
    range: u64,
    nodes: Vec<u64>,
    revision: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RangeCounts {
    total: usize,
    fully_replicated: usize,
    unavailable: usize,
}

/// One node, in `status` and `nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeJson {
    id: u64,
    name: String,
    state: &'static str,
    /// If it is drained for a time: all of that time.
    drain_ttl_seconds: Option<u64>,
    ranges: usize,
    leaders: usize,
    /// Requests a second of the ranges that it leads, but for the meta range.
    requests_per_second: u64,
    /// Bytes that may be written before its disk counts as full; `null` while it does not answer.
    room_bytes: Option<u64>,
    /// Bytes of its data; `null` while it does not answer.
    data_bytes: Option<u64>,
    client_address: String,
    peer_address: String,
    http_address: String,
    /// What it fails together with; empty: it fails alone.
    failure_domain: String,
    /// It was started with it, so nobody else can say it; `null` while it does not answer, or is older
    /// than that.
    names_failure_domain: Option<bool>,
    /// Of its disk: `Plenty`, `Less`, `Little`.
    room: &'static str,
}

/// One range, in `ranges`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RangeJson {
    id: u64,
    /// As `--split-keys` takes it: text, or hex after `0x`.
    start: String,
    /// `null` is the end of the key space.
    end: Option<String>,
    /// `meta` for the system keys, else `data`.
    kind: &'static str,
    state: &'static str,
    leader: Option<u64>,
    /// Requests that its leader takes in a second; 0 of the meta range.
    requests_per_second: u64,
    term: Option<u64>,
    generation: u64,
    replicas: Vec<ReplicaJson>,
    bytes_remaining: u64,
    /// How many copies it should have, if that is known.
    wanted: Option<usize>,
    /// What is done next about its copies, or what holds that up, in words.
    planned: Vec<String>,
    /// Nodes whose copies differ, as the last comparison found.
    diverged: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicaJson {
    node: u64,
    replica: u64,
    kind: &'static str,
    caught_up: bool,
}

/// One placement policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicyJson {
    /// As commands take it; empty: all keys that no other policy names.
    prefix: String,
    replicas: usize,
    max_failures: usize,
    /// Ranges under it.
    ranges: usize,
    /// Of which have that many copies.
    complete: usize,
}

/// A key as text where it is plain text, else as hex after `0x`: what commands take as a key.
fn bound(key: &[u8]) -> String {
    use std::fmt::Write as _;
    match std::str::from_utf8(key) {
        Ok(text) if !text.starts_with("0x") && !text.chars().any(char::is_control) => {
            text.to_owned()
        }
        _ => key.iter().fold("0x".to_owned(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes everything");
            hex
        }),
    }
}

impl Cluster {
    /// From this node's report and those of others that answered.
    pub(super) fn new(mine: Local, others: Vec<Local>) -> Self {
        let id = mine.cluster;
        let reports: Vec<Local> = std::iter::once(mine).chain(others).collect();
        let mut descriptors: BTreeMap<RangeId, Arc<RangeDescriptor>> = BTreeMap::new();
        let mut leaseholders: BTreeMap<RangeId, (NodeId, RangeView)> = BTreeMap::new();
        let mut nodes: BTreeMap<NodeId, NodeRecord> = BTreeMap::new();
        for report in &reports {
            let held = report.view.replicas.iter().map(|replica| &replica.descriptor);
            for descriptor in report.view.directory.iter().chain(held) {
                let known = descriptors.entry(descriptor.id).or_insert_with(|| descriptor.clone());
                if known.generation < descriptor.generation {
                    *known = descriptor.clone();
                }
            }
            for replica in report.view.replicas.iter().filter(|replica| replica.leaseholder) {
                let claim = (report.node, replica.clone());
                let known =
                    leaseholders.entry(replica.descriptor.id).or_insert_with(|| claim.clone());
                if known.1.term < replica.term {
                    *known = claim;
                }
            }
        }
        // Records change rarely; who leads the meta range, or else the most, knows best.
        let sequencer = reports
            .iter()
            .find(|report| report.sequencer == Some(report.node))
            .map(|report| report.node)
            .or_else(|| reports.iter().find_map(|report| report.sequencer));
        let by_trust = reports
            .iter()
            .filter(|report| Some(report.node) != sequencer)
            .chain(reports.iter().filter(|report| Some(report.node) == sequencer));
        for report in by_trust {
            for record in &report.view.nodes {
                nodes.insert(record.id, record.clone());
            }
        }
        let ranges = descriptors
            .into_values()
            .map(|descriptor| {
                let leaseholder = leaseholders.remove(&descriptor.id);
                Range { descriptor, leaseholder }
            })
            .collect();
        let trusted = reports.iter().max_by_key(|report| Some(report.node) == sequencer);
        let divergences = trusted.map_or_else(Vec::new, |report| report.view.divergences.clone());
        let drains = trusted.map_or_else(Vec::new, |report| report.view.drains.clone());
        let least = trusted.into_iter().flat_map(|report| report.view.wanted.iter().copied());
        let facts = trusted
            .map_or_else(BTreeMap::new, |report| report.view.facts.iter().cloned().collect());
        let planned = trusted.map_or_else(Vec::new, |report| report.view.planned.clone());
        let policies = trusted.map_or_else(Vec::new, |report| report.view.policies.clone());
        Self {
            least: least.collect(),
            reprotection: trusted.and_then(|report| report.reprotection),
            id,
            sequencer,
            facts,
            names_domain: reports
                .iter()
                .filter_map(|report| Some((report.node, report.names_domain?)))
                .collect(),
            policies,
            planned,
            revision: reports.iter().map(|report| report.revision).max().unwrap_or(0),
            nodes: nodes.into_values().collect(),
            answering: reports.iter().map(|report| report.node).collect(),
            draining: reports
                .iter()
                .filter(|report| report.draining)
                .map(|report| report.node)
                .collect(),
            ranges,
            divergences,
            drains,
            disks: reports.iter().map(|it| (it.node, (it.room, it.data))).collect(),
        }
    }

    /// How protected the data is.
    pub(super) fn status(&self) -> StatusJson {
        let full = self.ranges.iter().filter(|range| self.is_full(range)).count();
        let unavailable = self.ranges.iter().filter(|range| !self.is_available(range)).count();
        let copying = self.ranges.iter().any(|range| range.is_copying() || self.is_moving(range));
        let protection = if unavailable > 0 || self.ranges.is_empty() {
            Protection::Unavailable
        } else if full == self.ranges.len() {
            Protection::Full
        } else if copying {
            Protection::Reprotecting
        } else {
            Protection::Degraded
        };
        StatusJson {
            protection,
            ranges: RangeCounts { total: self.ranges.len(), fully_replicated: full, unavailable },
            nodes: self.nodes(),
            policies: self.policies(),
            bytes_remaining: self.ranges.iter().map(|range| self.bytes_remaining(range)).sum(),
            reprotection: self.reprotection.filter(|_| protection != Protection::Full),
            diverged: self.divergences.iter().map(DivergedJson::from).collect(),
            cluster: format!("{:x}", self.id),
            sequencer: self.sequencer.map(|node| node.0),
            revision: self.revision,
        }
    }

    /// Every node that is not gone for ever.
    pub(super) fn nodes(&self) -> Vec<NodeJson> {
        let live = self.nodes.iter().filter(|node| node.state != NodeState::Tombstoned);
        live.map(|node| NodeJson {
            id: node.id.0,
            name: node.name.clone(),
            state: self.state(node),
            drain_ttl_seconds: self
                .drains
                .iter()
                .find(|(drained, _)| *drained == node.id)
                .map(|(_, ttl_ms)| ttl_ms.div_ceil(1000)),
            ranges: self
                .ranges
                .iter()
                .filter(|range| range.descriptor.replica_on(node.id).is_some())
                .count(),
            leaders: self.ranges.iter().filter(|range| range.leader() == Some(node.id)).count(),
            requests_per_second: self
                .ranges
                .iter()
                .filter(|range| range.leader() == Some(node.id))
                .map(Range::rate)
                .sum(),
            room_bytes: self.disks.get(&node.id).and_then(|(room, _)| *room),
            data_bytes: self.disks.get(&node.id).map(|(_, data)| *data),
            client_address: node.client_address.clone(),
            peer_address: node.peer_address.clone(),
            http_address: node.http_address.clone(),
            failure_domain: self.facts(node.id).domain,
            names_failure_domain: self.names_domain(node.id),
            room: match self.facts(node.id).room {
                Room::Plenty => "Plenty",
                Room::Less => "Less",
                Room::Little => "Little",
            },
        })
        .collect()
    }

    /// Every range, by key.
    pub(super) fn ranges(&self) -> Vec<RangeJson> {
        let mut ranges: Vec<&Range> = self.ranges.iter().collect();
        ranges.sort_by_key(|range| {
            let meta = range.descriptor.id == holdfast_core::ids::META_RANGE;
            (!meta, &range.descriptor.span.start)
        });
        ranges.into_iter().map(|range| self.range(range)).collect()
    }

    /// What the checker of the directory finds.
    pub(super) fn problems(&self) -> Vec<String> {
        let ranges: Vec<RangeDescriptor> =
            self.ranges.iter().map(|range| RangeDescriptor::clone(&range.descriptor)).collect();
        let leader = |range: &Range| Some((range.descriptor.id, range.leader()?));
        let leaders = self.ranges.iter().filter_map(leader).collect();
        let directory = Directory {
            nodes: &self.nodes,
            ranges: &ranges,
            leaders: &leaders,
            policies: &self.policies,
            least: &self.least,
            facts: &self.facts,
        };
        let found = placement::check(&directory);
        let mut problems: Vec<String> = found.iter().map(ToString::to_string).collect();
        if !problems.is_empty() {
            problems.extend(self.planned.iter().map(|(_, line)| format!("next: {line}")));
        }
        problems
    }

    /// The placement policies, by prefix.
    pub(super) fn policies(&self) -> Vec<PolicyJson> {
        let policy = |(prefix, replicas): &(Bytes, usize)| {
            let ranges =
                || self.ranges.iter().filter(|range| self.policy_of(range) == Some(prefix));
            let complete = |range: &&Range| range.descriptor.voters().count() == *replicas;
            PolicyJson {
                prefix: bound(prefix),
                replicas: *replicas,
                max_failures: replicas / 2,
                ranges: ranges().count(),
                complete: ranges().filter(complete).count(),
            }
        };
        self.policies.iter().map(policy).collect()
    }

    fn policy_of(&self, range: &Range) -> Option<&Bytes> {
        let Range { descriptor, .. } = range;
        if descriptor.id == holdfast_core::ids::META_RANGE {
            return None;
        }
        let names = |(prefix, _): &&(Bytes, usize)| descriptor.span.start.starts_with(prefix);
        let prefixes = self.policies.iter().filter(names).map(|(prefix, _)| prefix);
        prefixes.max_by_key(|prefix| prefix.len())
    }

    /// Copies that a range should have; of the meta range every node has one.
    fn wanted(&self, range: &Range) -> Option<usize> {
        if range.descriptor.id == holdfast_core::ids::META_RANGE {
            return None;
        }
        let policy = placement::wanted(&self.policies, &range.descriptor);
        policy.max(self.least.get(&range.descriptor.id).copied())
    }

    /// Whether a node names its failure domain itself; nothing if it does not answer, or is older than that.
    pub(super) fn names_domain(&self, node: NodeId) -> Option<bool> {
        self.names_domain.get(&node).copied()
    }

    /// What is known of a node that matters for where copies go.
    pub(super) fn facts(&self, node: NodeId) -> Facts {
        self.facts.get(&node).cloned().unwrap_or_default()
    }

    fn range(&self, range: &Range) -> RangeJson {
        let descriptor = &range.descriptor;
        let replicas = descriptor.replicas.iter().map(|replica| ReplicaJson {
            node: replica.node.0,
            replica: replica.replica.0,
            kind: match replica.kind {
                ReplicaKind::Voter => "voter",
                ReplicaKind::Learner => "learner",
            },
            caught_up: self.has_copy(range, replica.node),
        });
        RangeJson {
            id: descriptor.id.0,
            start: bound(&descriptor.span.start),
            end: descriptor.span.end.as_ref().map(|end| bound(end)),
            kind: if descriptor.id == holdfast_core::ids::META_RANGE { "meta" } else { "data" },
            state: if !self.is_available(range) {
                "Unavailable"
            } else if self.is_full(range) {
                "Full"
            } else if range.is_copying() {
                "Reprotecting"
            } else {
                "Degraded"
            },
            leader: range.leader().map(|node| node.0),
            requests_per_second: range.rate(),
            term: range.leaseholder.as_ref().map(|(_, view)| view.term),
            generation: descriptor.generation,
            replicas: replicas.collect(),
            bytes_remaining: self.bytes_remaining(range),
            wanted: self.wanted(range),
            planned: self
                .planned
                .iter()
                .filter(|(id, _)| *id == descriptor.id)
                .map(|(_, line)| line.clone())
                .collect(),
            diverged: self.divergence(range).map_or_else(Vec::new, nodes_of),
        }
    }

    fn divergence(&self, range: &Range) -> Option<&Divergence> {
        self.divergences.iter().find(|divergence| divergence.range == range.descriptor.id)
    }

    fn state(&self, node: &NodeRecord) -> &'static str {
        match node.state {
            NodeState::Tombstoned => "Tombstoned",
            NodeState::Joining => "Joining",
            NodeState::Condemned => "Condemned",
            NodeState::Up | NodeState::Draining | NodeState::Leaving
                if !self.answering.contains(&node.id) =>
            {
                "Down"
            }
            NodeState::Draining => "Draining",
            NodeState::Leaving => "Leaving",
            NodeState::Up if self.draining.contains(&node.id) => "Draining",
            NodeState::Up => "Up",
        }
    }

    /// A copy of it is to be made elsewhere, and there is a node for it.
    fn is_moving(&self, range: &Range) -> bool {
        let losing = |node: &&NodeRecord| node.state.loses_replicas();
        let spare = |node: &&NodeRecord| {
            node.state == NodeState::Up
                && self.answering.contains(&node.id)
                && range.descriptor.replica_on(node.id).is_none()
        };
        range.descriptor.id != holdfast_core::ids::META_RANGE
            && self
                .nodes
                .iter()
                .filter(losing)
                .any(|node| range.descriptor.replica_on(node.id).is_some())
            && self.nodes.iter().any(|node| spare(&node))
    }

    /// Some node that answers serves the range.
    fn is_available(&self, range: &Range) -> bool {
        let voters = range.descriptor.voters().filter(|voter| self.answering.contains(&voter.node));
        range.leaseholder.is_some() && voters.count() >= range.descriptor.quorum()
    }

    /// Every voter has everything, and answers, and none was found to differ.
    fn is_full(&self, range: &Range) -> bool {
        let enough = |copies: usize| range.descriptor.voters().count() >= copies;
        self.is_available(range)
            && self.wanted(range).is_none_or(enough)
            && self.divergence(range).is_none()
            && range.descriptor.voters().all(|voter| self.has_copy(range, voter.node))
    }

    fn has_copy(&self, range: &Range, node: NodeId) -> bool {
        self.answering.contains(&node)
            && range.leaseholder.as_ref().is_some_and(|(_, view)| view.caught_up.contains(&node))
    }
}

fn nodes_of(divergence: &Divergence) -> Vec<u64> {
    divergence.replicas.iter().map(|own| own.node.0).collect()
}

impl From<&Divergence> for DivergedJson {
    fn from(divergence: &Divergence) -> Self {
        Self {
            range: divergence.range.0,
            nodes: nodes_of(divergence),
            revision: divergence.revision,
        }
    }
}

impl Range {
    /// Requests a second.
    fn rate(&self) -> u64 {
        self.leaseholder.as_ref().map_or(0, |(_, view)| view.rate)
    }

    fn leader(&self) -> Option<NodeId> {
        self.leaseholder.as_ref().map(|(node, _)| *node)
    }

    fn is_copying(&self) -> bool {
        self.descriptor.replicas.iter().any(|replica| replica.kind == ReplicaKind::Learner)
    }
}

#[cfg(test)]
mod tests;
