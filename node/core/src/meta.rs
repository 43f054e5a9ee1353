//! The state of the meta range: nodes, directory, registrations, client leases, compaction.
//!
//! Every node has a replica of the meta range, so this state is also the routing directory of its
//! gateway. It may lag; what it says is a hint for routing, and a fact only at the sequencer.
//!
//! Invariants: changed only by applying log entries, in the same way on every replica; a range's
//! registered term never goes back; node and range ids are never given twice.

mod automatic;
mod directory;
mod divergences;
mod facts;
mod leases;
mod level;
mod merging;
mod nodes;
mod policies;
mod recovery;
mod transactions;

use automatic::Automatic;
pub use leases::LeaseRecord;
pub use merging::{Merge, Merges};
pub use nodes::DrainLease;
pub use policies::{Policies, name as policy_name, span_of};
pub use recovery::{EPOCH, Remains};
pub use transactions::{Committed, Transactions};

use crate::check::{Divergence, Fingerprint};
use crate::command::{Change, Decision, MetaChange, MetaEntry};
use crate::descriptor::{Facts, GrantBlock, NodeRecord, NodeState, RangeDescriptor, Registration};
use crate::error::Error;
use crate::ids::{LeaseId, META_RANGE, NodeId, RangeId, RequestId, Revision};
use crate::level::Level;
use crate::message::{InternalReply, Verdict};
use crate::request::{AlarmAction, AlarmKind, Response};
use crate::state::SystemRow;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Answers of past changes that are remembered for repeated requests. Only what is still under way
/// at a gateway can be repeated; this is far more than a gateway has under way for the meta range.
const ANSWERS_MAX: u64 = 1024;

/// In the place of a revision: the transaction was seen not to be possible, and got none.
pub const NO_NUMBER: Revision = 0;

/// The way of one copy of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Where it is.
    pub from: NodeId,
    /// Where it is to be.
    pub to: NodeId,
}

/// The answer to a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaAnswer {
    /// For a client.
    Client(Result<Response, Error>),
    /// For a node.
    Internal(InternalReply),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Scalars {
    cluster: u64,
    block: GrantBlock,
    compacted: Revision,
    next_node: u64,
    next_range: u64,
    answers: u64,
    alarms: BTreeSet<(NodeId, AlarmKind)>,
    joins: VecDeque<(u64, NodeId)>,
    operation_epoch: u64,
    operations: VecDeque<String>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaState {
    scalars: Scalars,
    nodes: BTreeMap<NodeId, NodeRecord>,
    ranges: BTreeMap<RangeId, Arc<RangeDescriptor>>,
    /// Generations of the descriptors that came by the log. `ranges` may know newer ones from
    /// peers, which must not sway what applying an entry writes.
    logged: BTreeMap<RangeId, u64>,
    by_start: BTreeMap<Bytes, RangeId>,
    registrations: BTreeMap<RangeId, Registration>,
    leases: BTreeMap<LeaseId, LeaseRecord>,
    answers: BTreeMap<RequestId, (u64, MetaAnswer)>,
    transactions: Transactions,
    divergences: BTreeMap<RangeId, Divergence>,
    moves: BTreeMap<RangeId, Move>,
    drains: BTreeMap<NodeId, DrainLease>,
    wanted: BTreeMap<RangeId, usize>,
    merges: Merges,
    facts: BTreeMap<NodeId, Facts>,
    policies: Policies,
    automatic: Automatic,
    level: Level,
}

impl MetaState {
    /// The state of a cluster that is just formed.
    pub fn initial(cluster: u64, nodes: Vec<NodeRecord>, ranges: Vec<RangeDescriptor>) -> Self {
        let scalars = Scalars {
            cluster,
            block: GrantBlock { end: 1, handover: Some(2) },
            next_node: nodes.iter().map(|node| node.id.0).max().unwrap_or(0) + 1,
            next_range: ranges.iter().map(|range| range.id.0).max().unwrap_or(0) + 1,
            ..Scalars::default()
        };
        let first = ranges.iter().find(|range| range.id != META_RANGE);
        let policies =
            first.map_or_else(Policies::default, |range| Policies::formed(range.voters().count()));
        let mut state = Self { scalars, policies, ..Self::default() };
        state.nodes = nodes.into_iter().map(|node| (node.id, node)).collect();
        for range in ranges {
            state.logged.insert(range.id, range.generation);
            state.set_range(range);
        }
        state
    }

    /// Reads the state from the meta range's system rows.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn load<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, String> {
        fn read<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, String> {
            postcard::from_bytes(value).map_err(|error| format!("malformed meta row: {error}"))
        }
        fn id(key: &[u8]) -> Result<u64, String> {
            let id: [u8; 8] =
                key[1..].try_into().map_err(|_| "malformed meta row key".to_owned())?;
            Ok(u64::from_be_bytes(id))
        }
        let mut state = Self::default();
        for (key, value) in rows {
            match key.first() {
                Some(b'S') => state.scalars = read(value)?,
                Some(b'N') => {
                    let node: NodeRecord = read(value)?;
                    state.nodes.insert(node.id, node);
                }
                Some(b'R') => {
                    let range: RangeDescriptor = read(value)?;
                    state.logged.insert(range.id, range.generation);
                    state.set_range(range);
                }
                Some(b'L') => {
                    state.leases.insert(id(key)? as i64, read(value)?);
                }
                Some(b'G') => {
                    state.registrations.insert(RangeId(id(key)?), read(value)?);
                }
                Some(b'A') => {
                    let (request, answer): (RequestId, MetaAnswer) = read(value)?;
                    state.answers.insert(request, (id(key)?, answer));
                }
                Some(b'D') => {
                    state.divergences.insert(RangeId(id(key)?), read(value)?);
                }
                Some(b'E') => {
                    state.drains.insert(NodeId(id(key)?), read(value)?);
                }
                Some(&facts::ROW) => {
                    state.facts.insert(NodeId(id(key)?), read(value)?);
                }
                Some(&policies::ROW) => state.policies.load(key, value)?,
                Some(b'M') => {
                    state.moves.insert(RangeId(id(key)?), read(value)?);
                }
                Some(b'W') => {
                    state.wanted.insert(RangeId(id(key)?), read::<u64>(value)? as usize);
                }
                Some(&level::ROW) => {
                    state.level = read(value)?;
                    state.level.check_known()?;
                }
                Some(&automatic::ROW) => state.automatic.load(RangeId(id(key)?)),
                _ if state.merges.load(key, value)? => {}
                // Also rows that every range has (descriptor, dedup, position).
                _ => state.transactions.load(key, value)?,
            }
        }
        Ok(state)
    }

    /// All rows, for the start of a cluster.
    pub fn all_rows(&self) -> Vec<SystemRow> {
        let mut rows = Vec::new();
        self.scalars_row(&mut rows);
        for node in self.nodes.values() {
            row(&mut rows, b'N', node.id.0, Some(node));
        }
        for range in self.ranges.values() {
            row(&mut rows, b'R', range.id.0, Some(&**range));
        }
        self.policies.all_rows(&mut rows);
        rows
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> u64 {
        self.scalars.cluster
    }

    /// The block of revisions that the sequencer may grant from.
    pub fn block(&self) -> GrantBlock {
        self.scalars.block
    }

    /// History below this is gone.
    pub fn compacted(&self) -> Revision {
        self.scalars.compacted
    }

    /// The static set of nodes.
    pub fn nodes(&self) -> &BTreeMap<NodeId, NodeRecord> {
        &self.nodes
    }

    /// All ranges.
    pub fn ranges(&self) -> &BTreeMap<RangeId, Arc<RangeDescriptor>> {
        &self.ranges
    }

    /// Has the directory heard of a range by the log, not only from peers?
    pub fn is_logged(&self, range: RangeId) -> bool {
        self.logged.contains_key(&range)
    }

    /// Who may serve a range.
    pub fn registration(&self, range: RangeId) -> Option<Registration> {
        self.registrations.get(&range).copied()
    }

    /// The client leases.
    pub fn leases(&self) -> &BTreeMap<LeaseId, LeaseRecord> {
        &self.leases
    }

    /// Transactions over several ranges.
    pub fn transactions(&self) -> &Transactions {
        &self.transactions
    }

    /// Alarms raised.
    pub fn alarms(&self) -> &BTreeSet<(NodeId, AlarmKind)> {
        &self.scalars.alarms
    }

    /// Ranges whose replicas differ, as far as is known.
    pub fn divergences(&self) -> &BTreeMap<RangeId, Divergence> {
        &self.divergences
    }

    /// Nodes that are drained for a time.
    pub fn drains(&self) -> &BTreeMap<NodeId, DrainLease> {
        &self.drains
    }

    /// Copies that are to go to another node, by range.
    pub fn moves(&self) -> &BTreeMap<RangeId, Move> {
        &self.moves
    }

    /// A hash of all that came by the log.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fingerprint::default();
        hash.value(&self.scalars);
        hash.value(&self.nodes);
        hash.value(&self.logged);
        hash.value(&self.registrations);
        hash.value(&self.leases);
        hash.value(&self.answers);
        hash.value(&self.divergences);
        hash.value(&self.transactions);
        hash.value(&self.moves);
        hash.value(&self.drains);
        hash.value(&self.wanted);
        hash.value(&(self.merges.under_way(), self.merges.gone()));
        // As earlier versions hash it, as long as there is nothing that they do not know.
        if !self.facts.is_empty() {
            hash.value(&self.facts);
        }
        if !self.policies.all().is_empty() {
            hash.value(&self.policies);
        }
        self.automatic.hash(&mut hash);
        if self.level != Level::default() {
            hash.value(&self.level);
        }
        hash.finish()
    }

    /// What a repeated request was answered.
    pub fn answered(&self, id: RequestId) -> Option<&MetaAnswer> {
        self.answers.get(&id).map(|(_, answer)| answer)
    }

    fn scalars_row(&self, rows: &mut Vec<SystemRow>) {
        row(rows, b'S', 0, Some(&self.scalars));
    }

    /// Applies one change and says what it answers.
    pub fn apply(&mut self, entry: &MetaEntry, rows: &mut Vec<SystemRow>) -> MetaAnswer {
        if let Some(answer) = self.answered(entry.id) {
            return answer.clone();
        }
        let answer = self.change(&entry.change, rows);
        if entry.id != RequestId::default() {
            let slot = self.scalars.answers % ANSWERS_MAX;
            self.scalars.answers += 1;
            self.answers.retain(|_, (old, _)| *old != slot);
            row(rows, b'A', slot, Some(&(entry.id, &answer)));
            self.answers.insert(entry.id, (slot, answer.clone()));
            self.scalars_row(rows);
        }
        answer
    }

    fn change(&mut self, change: &MetaChange, rows: &mut Vec<SystemRow>) -> MetaAnswer {
        match change {
            MetaChange::Reserve { end } => {
                self.scalars.block = GrantBlock { end: *end, handover: None };
                self.scalars_row(rows);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Takeover { term: _, size } => {
                let GrantBlock { end, handover } = self.scalars.block;
                let first = handover.unwrap_or(end + 1);
                self.scalars.block = GrantBlock { end: end.max(first - 1 + size), handover: None };
                self.scalars_row(rows);
                MetaAnswer::Internal(InternalReply::First(first))
            }
            MetaChange::Handover { next } => {
                self.scalars.block.handover = Some(*next);
                self.scalars_row(rows);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            // A late word of a range that is another's now.
            MetaChange::Register { descriptor, .. } if self.is_gone(descriptor.id) => {
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Register { descriptor, term, node, parent, cut_off } => {
                if let Some((parent, _)) = parent {
                    self.inherit_leases(*parent, descriptor.id, rows);
                }
                let mut left = descriptor.id;
                for child in cut_off {
                    self.inherit_leases(left, child.id, rows);
                    left = child.id;
                    if !self.logged.contains_key(&child.id) && !self.is_gone(child.id) {
                        self.log_range(child, rows);
                    }
                }
                self.register(
                    descriptor,
                    Registration { term: *term, node: *node, generation: descriptor.generation },
                    *parent,
                    rows,
                );
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Join { record, nonce } => self.join(record, *nonce, rows),
            MetaChange::Announce(record) => {
                let state = match self.nodes.get(&record.id).map(|node| node.state) {
                    Some(
                        state @ (NodeState::Draining | NodeState::Tombstoned | NodeState::Leaving),
                    ) => state,
                    // Who was condemned has come back in time.
                    Some(NodeState::Joining | NodeState::Up | NodeState::Condemned) | None => {
                        NodeState::Up
                    }
                };
                let record = NodeRecord { state, ..record.clone() };
                row(rows, b'N', record.id.0, Some(&record));
                self.nodes.insert(record.id, record);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::SetNodeState { node, state } => {
                self.end_drain(*node, rows);
                if let Some(record) = self.nodes.get_mut(node)
                    && record.state != NodeState::Tombstoned
                {
                    record.state = *state;
                    row(rows, b'N', node.0, Some(&*record));
                }
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::DrainFor { node, leaving, ttl_ms } => {
                MetaAnswer::Client(self.drain_for(*node, *leaving, *ttl_ms, rows))
            }
            MetaChange::DrainExpired { node, renewals } => {
                if self.drains.get(node).is_some_and(|drain| drain.renewals == *renewals) {
                    self.end_drain(*node, rows);
                    if let Some(record) = self.nodes.get_mut(node)
                        && matches!(record.state, NodeState::Draining | NodeState::Leaving)
                    {
                        record.state = NodeState::Up;
                        row(rows, b'N', node.0, Some(&*record));
                    }
                }
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Condemn { node, operation, epoch } => {
                self.end_drain(*node, rows);
                MetaAnswer::Client(self.condemn(*node, operation, *epoch, rows))
            }
            MetaChange::Retire { node } => {
                self.end_drain(*node, rows);
                self.retire(*node, rows);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::AllocateRange | MetaChange::AllocateCut => {
                let range = RangeId(self.scalars.next_range);
                self.scalars.next_range += 1;
                self.scalars_row(rows);
                if *change == MetaChange::AllocateCut {
                    self.mark_automatic(range, rows);
                }
                MetaAnswer::Internal(InternalReply::Range(range))
            }
            MetaChange::LeaseGrant { .. }
            | MetaChange::LeaseRevoking { .. }
            | MetaChange::LeaseRemoved { .. }
            | MetaChange::LeaseAttach { .. } => self.change_lease(change, rows),
            MetaChange::Compact { revision } => {
                if *revision <= self.scalars.compacted {
                    return MetaAnswer::Client(Err(Error::Compacted));
                }
                self.scalars.compacted = *revision;
                self.scalars_row(rows);
                MetaAnswer::Client(Ok(Response::Compact { revision: 0 }))
            }
            MetaChange::Alarm { action, member, alarm } => {
                self.alarm(*action, NodeId(*member), *alarm);
                self.forgive(rows);
                self.scalars_row(rows);
                let alarms = self.scalars.alarms.iter().copied().collect();
                MetaAnswer::Client(Ok(Response::Alarm { alarms }))
            }
            MetaChange::Commit { txn, settled_below, revision, leases, parts } => {
                self.transactions.settled(txn.gateway, *settled_below, rows);
                let verdict = self.commit(*txn, *revision, leases, parts, rows);
                MetaAnswer::Internal(InternalReply::Decided(verdict))
            }
            MetaChange::Settle { txn, range } => {
                if self.transactions.decided(*txn).is_none() {
                    self.transactions.abort(*txn, rows);
                }
                let record = self.transactions.committed().get(txn);
                let decision = record.map_or(Decision::Aborted, |record| record.part(*range));
                MetaAnswer::Internal(InternalReply::Settled(decision))
            }
            MetaChange::Forget { txn, settled_below } => {
                self.transactions.forget(*txn, rows);
                self.transactions.settled(txn.gateway, *settled_below, rows);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Move { range, way } => {
                let Move { from, to } = *way;
                self.moves.insert(*range, *way);
                row(rows, b'M', range.0, Some(way));
                let message =
                    format!("{range}: a copy is made on {to}, then the one on {from} goes");
                MetaAnswer::Client(Ok(Response::Admin { message }))
            }
            MetaChange::MoveEnded { range } => {
                self.moves.remove(range);
                row::<Move>(rows, b'M', range.0, None);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Checked(found) if self.is_gone(found.range) => {
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Checked(found) => {
                self.checked(found, rows);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Want { range, copies } => {
                self.want(*range, *copies as usize, rows);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Merge(merge) => MetaAnswer::Client(match self.begin_merge(merge, rows) {
                Ok(()) => Ok(Response::Merging { left: merge.left, right: merge.right }),
                Err(reason) => Err(Error::Refused(reason)),
            }),
            MetaChange::MergeEnded(merge) => {
                self.end_merge(merge, rows);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Absorb { descriptor, term, node, gone } => {
                self.absorb(descriptor, (*term, *node), gone, rows);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Facts { node, facts } => {
                MetaAnswer::Client(self.note_facts(*node, facts.clone(), rows))
            }
            MetaChange::Domain { node, domain } => {
                let facts = Facts { domain: domain.clone(), ..self.facts_of(*node) };
                MetaAnswer::Client(self.note_facts(*node, facts, rows))
            }
            MetaChange::Room { node, room } => {
                let facts = Facts { room: *room, ..self.facts_of(*node) };
                MetaAnswer::Client(self.note_facts(*node, facts, rows))
            }
            MetaChange::Raise { level } => {
                self.raise(*level, rows);
                MetaAnswer::Internal(InternalReply::Ok)
            }
            MetaChange::Pin { range } => MetaAnswer::Client(self.pin(*range, rows)),
            MetaChange::SetPolicy { prefix, copies, fewer } => {
                MetaAnswer::Client(self.set_policy((prefix, *copies as usize), *fewer, rows))
            }
            MetaChange::RemovePolicy { prefix } => {
                MetaAnswer::Client(self.remove_policy(prefix, rows))
            }
        }
    }

    fn commit(
        &mut self,
        txn: RequestId,
        revision: Revision,
        leases: &[(LeaseId, RangeId)],
        parts: &[(RangeId, Change)],
        rows: &mut Vec<SystemRow>,
    ) -> Verdict {
        if let Some(verdict) = self.transactions.decided(txn) {
            return verdict;
        }
        let granted = self.grants(leases);
        if !granted || revision == NO_NUMBER {
            self.transactions.abort(txn, rows);
            return if granted { Verdict::Aborted } else { Verdict::LeaseNotFound };
        }
        for (lease, range) in leases {
            if let Some(record) = self.leases.get_mut(lease)
                && record.ranges.insert(*range)
            {
                row(rows, b'L', *lease as u64, Some(&*record));
            }
        }
        self.transactions.commit(txn, Committed { revision, parts: parts.to_vec() }, rows);
        Verdict::Committed(revision)
    }

    fn alarm(&mut self, action: AlarmAction, member: NodeId, alarm: AlarmKind) {
        match action {
            AlarmAction::Get => {}
            AlarmAction::Activate => {
                if alarm != AlarmKind::None {
                    self.scalars.alarms.insert((member, alarm));
                }
            }
            AlarmAction::Deactivate => self.scalars.alarms.retain(|(node, kind)| {
                !((member.0 == 0 || *node == member)
                    && (alarm == AlarmKind::None || *kind == alarm))
            }),
        }
    }
}

fn row<T: Serialize>(rows: &mut Vec<SystemRow>, kind: u8, id: u64, value: Option<&T>) {
    let mut key = vec![kind];
    key.extend_from_slice(&id.to_be_bytes());
    let value = value
        .map(|value| Bytes::from(postcard::to_stdvec(value).expect("a meta row can be encoded")));
    rows.push(SystemRow { key: key.into(), value });
}
