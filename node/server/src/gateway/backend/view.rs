//! What a node knows about itself and the cluster, published by the store loop's edge for every
//! other part of the process.
//!
//! Invariant: reading never waits for the store loop, and what is read may be a little old. Numbers
//! that change with each write are atomics in [`Vitals`]; the rest is a [`View`], replaced whole, but for
//! what there is to say of each replica: of those there are thousands, so it is put together when somebody
//! asks ([`Details`]).

use bytes::Bytes;
use holdfast_core::check::Divergence;
use holdfast_core::descriptor::{Facts, NodeRecord, RangeDescriptor, Room};
use holdfast_core::ids::{Index, NodeId, RangeId, Revision, Term};
use holdfast_core::request::AlarmKind;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

/// Neither false nor true.
const UNKNOWN: u8 = u8::MAX;
/// Not a number of bytes.
const UNKNOWN_BYTES: u64 = u64::MAX;

/// Numbers that change often. The edge stores them each turn in which they changed, **before** it
/// sends the replies of that turn, so that a header's revision never lags its answer.
#[derive(Debug)]
pub struct Vitals {
    cluster: u64,
    node: NodeId,
    revision: AtomicI64,
    compacted: AtomicI64,
    term: AtomicU64,
    sequencer: AtomicU64,
    raft_index: AtomicU64,
    applied_index: AtomicU64,
    db_size: AtomicI64,
    db_size_in_use: AtomicI64,
    has_leader: AtomicBool,
    draining: AtomicBool,
    no_space: AtomicBool,
    disk_full: AtomicU8,
    room: AtomicU64,
    room_class: AtomicU8,
    view: RwLock<Arc<View>>,
    details: RwLock<Option<Arc<dyn Details>>>,
}

/// Who can tell of each replica of this node.
pub trait Details: std::fmt::Debug + Send + Sync {
    /// They, by their ranges' ids.
    fn replicas(&self) -> Vec<RangeView>;
}

impl Vitals {
    /// Of a node that has just started; nothing else known yet.
    pub fn new(cluster: u64, node: NodeId) -> Self {
        Self {
            cluster,
            node,
            revision: AtomicI64::new(1),
            compacted: AtomicI64::new(0),
            term: AtomicU64::new(0),
            sequencer: AtomicU64::new(0),
            raft_index: AtomicU64::new(0),
            applied_index: AtomicU64::new(0),
            db_size: AtomicI64::new(0),
            db_size_in_use: AtomicI64::new(0),
            has_leader: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            no_space: AtomicBool::new(false),
            disk_full: AtomicU8::new(UNKNOWN),
            room: AtomicU64::new(UNKNOWN_BYTES),
            room_class: AtomicU8::new(UNKNOWN),
            view: RwLock::new(Arc::default()),
            details: RwLock::new(None),
        }
    }

    /// The cluster's id, the same on every node for ever.
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The highest revision this node has heard of; at least 1.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Raises the revision; a lower one than known changes nothing.
    pub fn raise_revision(&self, revision: Revision) {
        // The load first: most calls change nothing, and then no cache line moves.
        if self.revision.load(Ordering::Relaxed) < revision {
            self.revision.fetch_max(revision, Ordering::Release);
        }
    }

    /// History below this is gone; 0 if none is.
    pub fn compacted(&self) -> Revision {
        self.compacted.load(Ordering::Relaxed)
    }

    /// Sets what [`Vitals::compacted`] tells.
    pub fn set_compacted(&self, revision: Revision) {
        self.compacted.store(revision, Ordering::Relaxed);
    }

    /// The meta range's raft term, as known here.
    pub fn term(&self) -> Term {
        self.term.load(Ordering::Relaxed)
    }

    /// The node that leads the meta range and so numbers the writes, if one is known.
    pub fn sequencer(&self) -> Option<NodeId> {
        let node = self.sequencer.load(Ordering::Relaxed);
        (node != 0).then_some(NodeId(node))
    }

    /// Sets what [`Vitals::term`] and [`Vitals::sequencer`] tell.
    pub fn set_sequencer(&self, term: Term, node: Option<NodeId>) {
        self.term.store(term, Ordering::Relaxed);
        self.sequencer.store(node.map_or(0, |node| node.0), Ordering::Relaxed);
    }

    /// Last log index of this node's meta replica, or the sum over its replicas if it has none.
    pub fn raft_index(&self) -> Index {
        self.raft_index.load(Ordering::Relaxed)
    }

    /// Applied part of [`Vitals::raft_index`].
    pub fn applied_index(&self) -> Index {
        self.applied_index.load(Ordering::Relaxed)
    }

    /// Sets what [`Vitals::raft_index`] and [`Vitals::applied_index`] tell.
    pub fn set_indexes(&self, last: Index, applied: Index) {
        self.raft_index.store(last, Ordering::Relaxed);
        self.applied_index.store(applied, Ordering::Relaxed);
    }

    /// Bytes of the state files.
    pub fn db_size(&self) -> i64 {
        self.db_size.load(Ordering::Relaxed)
    }

    /// Bytes of them that hold data.
    pub fn db_size_in_use(&self) -> i64 {
        self.db_size_in_use.load(Ordering::Relaxed)
    }

    /// Sets what [`Vitals::db_size`] and [`Vitals::db_size_in_use`] tell.
    pub fn set_db_size(&self, size: i64, in_use: i64) {
        self.db_size.store(size, Ordering::Relaxed);
        self.db_size_in_use.store(in_use, Ordering::Relaxed);
    }

    /// This node can reach a sequencer: linearizable requests can be served here.
    pub fn has_leader(&self) -> bool {
        self.has_leader.load(Ordering::Relaxed)
    }

    /// Sets what [`Vitals::has_leader`] tells.
    pub fn set_has_leader(&self, yes: bool) {
        self.has_leader.store(yes, Ordering::Relaxed);
    }

    /// The node is about to stop: unready, and clients should go.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Sets what [`Vitals::draining`] tells.
    pub fn set_draining(&self, yes: bool) {
        self.draining.store(yes, Ordering::Relaxed);
    }

    /// An alarm about room is raised somewhere: nothing may be put anywhere.
    pub fn no_space(&self) -> bool {
        self.no_space.load(Ordering::Relaxed)
    }

    /// Whether this node's own disk is full; nothing if nobody has looked yet.
    pub fn disk_full(&self) -> Option<bool> {
        match self.disk_full.load(Ordering::Relaxed) {
            UNKNOWN => None,
            known => Some(known == u8::from(true)),
        }
    }

    /// Sets what [`Vitals::disk_full`] tells.
    pub fn set_disk_full(&self, yes: bool) {
        self.disk_full.store(u8::from(yes), Ordering::Relaxed);
    }

    /// Bytes that may still be written to this node's disk before it counts as full; nothing if nobody has
    /// looked yet.
    pub fn room(&self) -> Option<u64> {
        let room = self.room.load(Ordering::Relaxed);
        (room != UNKNOWN_BYTES).then_some(room)
    }

    /// Sets what [`Vitals::room`] tells.
    pub fn set_room(&self, bytes: u64) {
        self.room.store(bytes, Ordering::Relaxed);
    }

    /// How much room this node's disk has; nothing if nobody has looked yet.
    pub fn room_class(&self) -> Option<Room> {
        let known = self.room_class.load(Ordering::Relaxed);
        [Room::Plenty, Room::Less, Room::Little].into_iter().find(|room| *room as u8 == known)
    }

    /// Sets what [`Vitals::room_class`] tells.
    pub fn set_room_class(&self, room: Room) {
        self.room_class.store(room as u8, Ordering::Relaxed);
    }

    /// Takes notice of the alarms that are raised, before they are published.
    pub fn note_alarms(&self, alarms: &[(NodeId, AlarmKind)]) {
        let no_space = alarms.iter().any(|(_, alarm)| *alarm == AlarmKind::NoSpace);
        self.no_space.store(no_space, Ordering::Relaxed);
    }

    /// What was published last, without replicas.
    pub fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// The same with this node's replicas.
    pub fn whole_view(&self) -> View {
        let details = self.details.read().clone();
        let replicas = details.map(|details| details.replicas()).unwrap_or_default();
        View { replicas, ..self.view().as_ref().clone() }
    }

    /// Replaces who can tell of replicas.
    pub fn publish_details(&self, details: Arc<dyn Details>) {
        *self.details.write() = Some(details);
    }

    /// Replaces the view. Wanted on every change of nodes, alarms, leaders or descriptors, at most
    /// a few times a second.
    pub fn publish(&self, view: View) {
        self.note_alarms(&view.alarms);
        *self.view.write() = Arc::new(view);
    }
}

/// What changes rarely.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Every node of the static set, as this node last heard.
    pub nodes: Vec<NodeRecord>,
    /// Nodes that answered within the election timeout, this one included.
    pub reachable: Vec<NodeId>,
    /// Alarms that are raised.
    pub alarms: Vec<(NodeId, AlarmKind)>,
    /// Nodes that are drained for a time, with all of that time in milliseconds.
    #[serde(default)]
    pub drains: Vec<(NodeId, u64)>,
    /// Copies that ranges are to get by themselves, at least, where that was decided.
    #[serde(default)]
    pub wanted: Vec<(RangeId, usize)>,
    /// What nodes say of themselves that matters for where copies go; nothing of most.
    #[serde(default)]
    pub facts: Vec<(NodeId, Facts)>,
    /// Placement policies: prefix and copies.
    #[serde(default)]
    pub policies: Vec<(Bytes, usize)>,
    /// On the sequencer: what is planned, and what is held up, for each range, in words.
    #[serde(default)]
    pub planned: Vec<(RangeId, String)>,
    /// Replicas that differ from the others of their range.
    #[serde(default)]
    pub divergences: Vec<Divergence>,
    /// Every range, as this node last heard; exact where the meta range has a replica.
    pub directory: Vec<Arc<RangeDescriptor>>,
    /// This node's replicas, in a [`Vitals::whole_view`].
    pub replicas: Vec<RangeView>,
}

impl View {
    /// Alarms for which probes may take a node out of service. That copies differ is not among them:
    /// it concerns one range, and a probe would stop all of them. A person who raises that alarm means it.
    pub fn stopping_alarms(&self) -> impl Iterator<Item = AlarmKind> + '_ {
        let differs = |node: NodeId| {
            let mut all = self.divergences.iter().flat_map(|divergence| &divergence.replicas);
            all.any(|replica| replica.node == node)
        };
        let alarms = self.alarms.iter().copied();
        alarms
            .filter(move |(node, alarm)| *alarm != AlarmKind::Corrupt || !differs(*node))
            .map(|(_, alarm)| alarm)
    }
}

/// One replica on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeView {
    /// The range as applied here.
    pub descriptor: Arc<RangeDescriptor>,
    /// The leader that this replica knows of.
    pub leader: Option<NodeId>,
    /// Its raft term.
    pub term: Term,
    /// Applied log index.
    pub applied: Index,
    /// This replica leads and may serve (its leadership is registered).
    pub leaseholder: bool,
    /// Only where `leaseholder`: nodes whose copies are complete but for what is under way,
    /// this one included.
    pub caught_up: Vec<NodeId>,
    /// Only where `leaseholder`: about how many bytes of log the other copies still lack.
    pub bytes_remaining: u64,
    /// Requests a second, where `leaseholder`. Older nodes do not tell.
    #[serde(default)]
    pub rate: u64,
    /// Bytes of live data, if they were measured. Older nodes do not tell.
    #[serde(default)]
    pub size: Option<u64>,
    /// Bytes that this node has sent to nodes that are about to get a copy.
    #[serde(default)]
    pub sent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::descriptor::{ReplicaDescriptor, ReplicaKind};
    use holdfast_core::ids::{RangeId, ReplicaId};

    #[test]
    fn copies_that_differ_stop_no_probe() {
        let replica =
            ReplicaDescriptor { replica: ReplicaId(1), node: NodeId(2), kind: ReplicaKind::Voter };
        let divergence =
            Divergence { range: RangeId(3), index: 9, revision: 5, replicas: vec![replica] };
        let alarms = vec![(NodeId(2), AlarmKind::Corrupt), (NodeId(3), AlarmKind::NoSpace)];
        let mut view = View { alarms, divergences: vec![divergence], ..View::default() };
        assert_eq!(view.stopping_alarms().collect::<Vec<_>>(), [AlarmKind::NoSpace]);
        view.divergences.clear();
        assert_eq!(view.stopping_alarms().count(), 2);
    }
}
