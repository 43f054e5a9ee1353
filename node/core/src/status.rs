//! What a node says about itself, for people, dashboards and the operator.

use crate::check::Divergence;
use crate::descriptor::{Facts, NodeRecord, RangeDescriptor};
use crate::ids::{NodeId, RangeId, Revision, Term};
use crate::request::AlarmKind;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A snapshot of one node's view.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The cluster.
    pub cluster: u64,
    /// This node.
    pub node: NodeId,
    /// It was told to leave, and has no copy of anything any more: the cluster goes on without it.
    pub left: bool,
    /// The sequencer, if known.
    pub sequencer: Option<NodeId>,
    /// True if this node is the sequencer and grants.
    pub sequencing: bool,
    /// Term of the meta range.
    pub term: Term,
    /// Committed index of the meta range.
    pub index: u64,
    /// Applied index of the meta range.
    pub applied: u64,
    /// Newest revision heard of.
    pub revision: Revision,
    /// History below this is gone.
    pub compacted: Revision,
    /// The static set.
    pub nodes: Vec<NodeRecord>,
    /// Nodes heard of lately, this one included.
    pub reachable: Vec<NodeId>,
    /// All ranges of the directory, with the registered leaseholder.
    pub ranges: Vec<RangeStatus>,
    /// Replicas on this node.
    pub replicas: Vec<Arc<ReplicaStatus>>,
    /// Alarms.
    pub alarms: Vec<(NodeId, AlarmKind)>,
    /// Nodes that are drained for a time, with all of that time in milliseconds.
    pub drains: Vec<(NodeId, u64)>,
    /// What nodes say of themselves that matters for where copies go; nothing of most.
    pub facts: Vec<(NodeId, Facts)>,
    /// Placement policies: prefix and copies.
    pub policies: Vec<(Bytes, usize)>,
    /// On the sequencer: what is planned, and what is held up, for each range, in words.
    pub planned: Vec<(RangeId, String)>,
    /// Replicas that differ from the others of their range.
    pub divergences: Vec<Divergence>,
    /// Client leases.
    pub leases: usize,
    /// Requests of this gateway under way.
    pub requests: usize,
    /// Watches of this gateway.
    pub watches: usize,
    /// Counters since start.
    pub counters: Counters,
    /// Copies that ranges are to get by themselves, at least, where that was decided.
    pub wanted: Vec<(RangeId, usize)>,
}

/// A range as the directory has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeStatus {
    /// The descriptor, shared with what was told before if it is the same.
    pub descriptor: Arc<RangeDescriptor>,
    /// Who may serve it.
    pub leaseholder: Option<NodeId>,
}

/// A replica on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The range.
    pub range: RangeId,
    /// It leads.
    pub leader: bool,
    /// It holds the range lease.
    pub leaseholder: bool,
    /// Its term.
    pub term: Term,
    /// Last log index.
    pub last_index: u64,
    /// Applied index.
    pub applied: u64,
    /// It sleeps.
    pub asleep: bool,
    /// A transaction over several ranges has locked it.
    pub locked: bool,
    /// Requests a second, if this node serves it.
    pub rate: u64,
    /// Bytes of live data, if they were measured since this node has led it.
    pub size: Option<u64>,
    /// The watermark.
    pub watermark: Revision,
    /// If it leads: (node, matched index, caught up and heard of) of every voter.
    pub followers: Vec<(NodeId, u64, bool)>,
    /// It serves nothing: it is about to be taken in by its left neighbour.
    pub frozen: bool,
}

impl ReplicaStatus {
    /// Equal, whatever they say of followers; `other` says nothing of them.
    pub fn is_same_but_followers(&self, other: &Self) -> bool {
        let Self { range, leader, leaseholder, term, last_index, applied, .. } = *self;
        (range, leader, leaseholder, term, last_index, applied)
            == (
                other.range,
                other.leader,
                other.leaseholder,
                other.term,
                other.last_index,
                other.applied,
            )
            && (self.asleep, self.locked, self.size, self.watermark, self.frozen)
                == (other.asleep, other.locked, other.size, other.watermark, other.frozen)
    }
}

/// Counters since start.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Log entries proposed.
    pub proposals: u64,
    /// Commands applied.
    pub applied: u64,
    /// Elections won.
    pub elections: u64,
    /// Revisions granted here.
    pub grants: u64,
    /// Quorum rounds started here.
    pub rounds: u64,
    /// Requests routed to another node.
    pub forwarded: u64,
    /// Requests tried again.
    pub retried: u64,
    /// Raft snapshots asked for.
    pub snapshots_sent: u64,
    /// Raft snapshots installed.
    pub snapshots_installed: u64,
    /// Raft messages refused: from another incarnation of a replica, or malformed.
    pub refused: u64,
    /// Ranges whose replicas were compared by this node.
    pub checks: u64,
    /// Of these, comparisons in which not every voter took part.
    pub checks_incomplete: u64,
    /// Ranges taken in by replicas of this node.
    pub merges: u64,
    /// Ranges led here that were cut because they had grown.
    pub cuts_by_size: u64,
    /// Ranges led here that were cut because of their load.
    pub cuts_by_load: u64,
    /// Merges that this node, leading the meta range, began by itself.
    pub merges_begun: u64,
    /// Changes of ranks that this node, leading the meta range, has asked for because of load.
    pub ranks_by_load: u64,
}
