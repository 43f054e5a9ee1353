//! Who holds what: ranges with their replicas, and nodes with their addresses.

use crate::ids::{NodeId, RangeId, ReplicaId, Revision, Term};
use crate::key::Span;
use serde::{Deserialize, Serialize};

/// What a replica may do in its Raft group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReplicaKind {
    /// Counts for the majority.
    Voter,
    /// Receives the log, does not count.
    Learner,
}

/// One copy of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaDescriptor {
    /// Its Raft peer id.
    pub replica: ReplicaId,
    /// The node that holds it.
    pub node: NodeId,
    /// Voter or learner.
    pub kind: ReplicaKind,
}

/// One range. The order of `replicas` is their rank: the first that is alive should lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeDescriptor {
    /// The range.
    pub id: RangeId,
    /// Its keys.
    pub span: Span,
    /// Counts the changes of this descriptor; the higher one is right.
    pub generation: u64,
    /// Its copies, by rank.
    pub replicas: Vec<ReplicaDescriptor>,
    /// The next unused replica id.
    pub next_replica: u64,
}

impl RangeDescriptor {
    /// The replica on `node`, if there is one.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaDescriptor> {
        self.replicas.iter().copied().find(|replica| replica.node == node)
    }

    /// The replica with this id.
    pub fn replica(&self, id: ReplicaId) -> Option<ReplicaDescriptor> {
        self.replicas.iter().copied().find(|replica| replica.replica == id)
    }

    /// The voters.
    pub fn voters(&self) -> impl Iterator<Item = ReplicaDescriptor> + '_ {
        self.replicas.iter().copied().filter(|replica| replica.kind == ReplicaKind::Voter)
    }

    /// How many voters are a majority.
    pub fn quorum(&self) -> usize {
        self.voters().count() / 2 + 1
    }
}

/// What the cluster thinks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Known, has not started yet.
    Joining,
    /// In service.
    Up,
    /// Keeps its replicas, leads nothing.
    Draining,
    /// Never to come back; its id is refused for ever.
    Tombstoned,
    /// Away for so long that its copies are being made elsewhere, unless it comes back first.
    Condemned,
    /// In service, and gives its copies to other nodes; then it is gone for good.
    Leaving,
}

impl NodeState {
    /// May it lead ranges?
    pub fn may_lead(self) -> bool {
        matches!(self, NodeState::Up | NodeState::Joining)
    }

    /// Are its copies to be made elsewhere?
    pub fn loses_replicas(self) -> bool {
        matches!(self, NodeState::Tombstoned | NodeState::Condemned | NodeState::Leaving)
    }
}

/// One node of the static set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node.
    pub id: NodeId,
    /// Human name, for example the pod's; also ties a replacement to the place it fills.
    pub name: String,
    /// `host:port` of the peer listener.
    pub peer_address: String,
    /// `host:port` of the client listener, as clients reach it.
    pub client_address: String,
    /// `host:port` of the HTTP listener.
    pub http_address: String,
    /// What the cluster thinks of it.
    pub state: NodeState,
}

/// How much room a node's disk has.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Room {
    /// More than it needs.
    #[default]
    Plenty,
    /// Less than others should have.
    Less,
    /// So little that it gets no new copies.
    Little,
}

/// What a node says of itself that matters for where copies go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Facts {
    /// What it fails together with, for example its zone; empty: it fails alone.
    pub domain: String,
    /// Its disk.
    pub room: Room,
}

/// The registered right of a range's leader to serve (the *range lease*): of the highest term
/// that registered with the sequencer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The leader's term.
    pub term: Term,
    /// The node it runs on.
    pub node: NodeId,
    /// The descriptor generation it had applied at least.
    pub generation: u64,
}

/// A running number that the sequencer may grant up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantBlock {
    /// No revision above this may be granted before another block is logged.
    pub end: Revision,
    /// Set by a planned hand-over: exactly the next revision to grant.
    pub handover: Option<Revision>,
}
