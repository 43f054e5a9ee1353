//! One replica of one range: its Raft group member, its applied position, and, while it holds the
//! range lease, the [`Leaseholder`].
//!
//! Invariants: entries are applied in log order, once; what applying changes leaves as one
//! [`ApplyBatch`]; the range lease is held only between seeing the own registration applied and
//! the first sign of another term.

mod extras;
pub mod merging;
mod ranking;

use crate::alike::Alike;
use crate::check::{Checkpoint, Fingerprint, HashTask};
use crate::command::{Change, Decision, Entry};
use crate::dedup::{Dedup, Seen};
use crate::descriptor::{RangeDescriptor, ReplicaDescriptor, ReplicaKind};
use crate::eval;
use crate::group::Group;
use crate::ids::{Index, NodeId, RangeId, ReplicaId, RequestId, Revision, Term};
use crate::key::Span;
use crate::leaseholder::Leaseholder;
use crate::load::Load;
use crate::node::Growth;
use crate::seldom::Seldom;
use crate::state::{Applied, ApplyBatch, Mutation, StateReads, SystemRow};
use bytes::Bytes;
pub use extras::Extras;
use merging::Merging;
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, EntryType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Key of the system row with the descriptor.
pub const DESCRIPTOR_ROW: &[u8] = b"descriptor";
/// Key of the system row with the raft members.
pub const MEMBERS_ROW: &[u8] = b"members";
/// Key of the system row with the range that this one was cut off, and its generation then.
pub const PARENT_ROW: &[u8] = b"parent";
/// Key of the system row with the replicas that the last change of members took out.
pub const LEFT_ROW: &[u8] = b"left";
/// Key of the system row with the transaction that has locked the range.
pub const INTENT_ROW: &[u8] = b"intent";
/// Key of the system row with the number of copies that a range had which was recovered from its last
/// one.
pub const WANTED_ROW: &[u8] = b"wanted";
/// Key of the system row with the newest applied revision.
pub const REVISION_ROW: &[u8] = b"revision";

/// Where a leader stands on its way to the range lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Not the leader, or not yet sure of its own term.
    None,
    /// Applied an entry of its own term; registration is asked for.
    Registering(Term),
    /// Registered: may serve.
    Held(Term),
}

/// A subscription to this range's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Keys wanted.
    pub span: Span,
    /// Everything below this was sent.
    pub next: Revision,
    /// With previous values.
    pub prev_kv: bool,
    /// A history scan is under way: live events wait.
    pub scanning: bool,
    /// The last watermark told.
    pub told: Revision,
}

/// A transaction over several ranges that has locked this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The transaction.
    pub txn: RequestId,
    /// The node that coordinates it.
    pub node: NodeId,
}

/// What applying committed entries brought.
#[derive(Debug)]
pub struct AppliedEntries {
    /// For the edge.
    pub batch: ApplyBatch,
    /// Commands applied, in order: revision and where their mutations are in the batch.
    pub commands: Vec<(Revision, std::ops::Range<usize>)>,
    /// Changes of the meta range, for the node.
    pub meta: Vec<crate::command::MetaEntry>,
    /// Cuts, for the node.
    pub splits: Vec<Split>,
    /// Ranges that this one took in.
    pub merged: Vec<RangeId>,
    /// Transactions whose locks ended.
    pub resolved: Vec<RequestId>,
    /// Checkpoints, each with the number of changes in `meta` that came before it.
    pub checkpoints: Vec<(usize, HashTask)>,
    /// An entry of this term was applied.
    pub own_term: bool,
    /// The descriptor or the members changed.
    pub changed: bool,
}

/// A cut that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The request it answers.
    pub id: RequestId,
    /// The new range.
    pub child: RangeDescriptor,
    /// The parent's generation after the cut.
    pub parent_generation: u64,
    /// What the parent had carried out at the cut; entries applied with it may already follow.
    pub rows: Vec<SystemRow>,
}

/// Changes of members and descriptor that are remembered for raft snapshots being made.
const SHAPES_MAX: usize = 8;

/// What a replica was from an index on.
type Shape = (Index, Arc<ConfState>, Option<Arc<RangeDescriptor>>);

/// See the module.
pub struct Replica {
    /// The range.
    pub range: RangeId,
    /// Its Raft group member.
    pub group: Group,
    /// `None` until a raft snapshot brings it (a replica that is just being added).
    pub descriptor: Option<Arc<RangeDescriptor>>,
    /// Position applied.
    pub applied: Applied,
    /// Position that is durable in the state.
    pub durable: Index,
    /// Newest revision applied.
    pub revision: Revision,
    /// What was carried out.
    pub dedup: Dedup,
    /// Who has locked the range.
    pub intent: Option<Intent>,
    /// The range lease.
    pub lease: Lease,
    /// What the lease holder does.
    pub leaseholder: Leaseholder,
    /// How it has grown.
    pub growth: Growth,
    /// Sleeps: no ticks.
    pub asleep: bool,
    /// Ticks without work.
    pub idle_ticks: u32,
    /// Campaign when this many ticks have passed (it has just begun).
    pub campaign_in: Option<u32>,
    /// A watermark question is under way.
    pub asking_watermark: bool,
    /// The range that this one was cut off, with its generation after the cut: its leader must
    /// not serve with an older one once this range has a leader.
    pub parent: Option<(RangeId, u64)>,
    /// It was recovered from its last copy, and had so many.
    pub wanted: Option<u64>,
    /// The last leader seen, for routing.
    pub last_leader: Option<NodeId>,
    /// Members and descriptor after each of the last changes, oldest first.
    shapes: VecDeque<Shape>,
    /// Replicas that the last change of members took out. While that is joint, they still count.
    pub left: Vec<ReplicaDescriptor>,
    /// Where the last change of members was applied.
    members_since: Index,
    /// Those that left are still to be told, once the change is durable here.
    farewell: bool,
    /// Its part in merges.
    pub merging: Seldom<Merging>,
    /// Ticks for which a better placed replica has been ready to lead.
    pub transfer_ticks: u32,
    /// End of this replica's log when it last gave up the lease, and the term of then.
    given_up: Applied,
    /// What most replicas never have.
    pub seldom: Seldom<Extras>,
}

impl Replica {
    /// Ticks again: there is work, or may be. `awake` is the node's list of those that do.
    pub fn wake(&mut self, awake: &mut BTreeSet<RangeId>) {
        self.asleep = false;
        self.idle_ticks = 0;
        awake.insert(self.range);
    }

    /// Gives back memory that only a replica at work needs. `known` is the directory's copy of the
    /// descriptor, and `members` are those of other ranges: one of each is enough, if they are equal.
    pub fn rest(&mut self, known: Option<&Arc<RangeDescriptor>>, members: &mut Alike<ConfState>) {
        if let (Some(known), Some(own)) = (known, &mut self.descriptor)
            && known == own
        {
            own.clone_from(known);
            if let Some((_, _, Some(shape))) = self.shapes.back_mut()
                && shape == known
            {
                shape.clone_from(known);
            }
        }
        self.growth.load.forget_sample();
        self.leaseholder.rest();
        self.seldom.rest(Extras::is_empty);
        self.merging.rest(Merging::is_empty);
        self.group.rest();
        for (_, shape, _) in &mut self.shapes {
            members.share(shape);
        }
        self.group.share_members(members);
    }

    /// A replica over its group; typed state comes from `rows`.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn new(
        range: RangeId,
        group: Group,
        applied: Applied,
        rows: &[(Bytes, Bytes)],
    ) -> Result<Self, String> {
        let mut replica = Self {
            range,
            group,
            descriptor: None,
            applied,
            durable: applied.index,
            revision: 0,
            dedup: Dedup::default(),
            intent: None,
            lease: Lease::None,
            leaseholder: Leaseholder::default(),
            growth: Growth::default(),
            asleep: false,
            idle_ticks: 0,
            campaign_in: None,
            asking_watermark: false,
            parent: None,
            wanted: None,
            last_leader: None,
            shapes: VecDeque::new(),
            left: Vec::new(),
            members_since: 0,
            farewell: false,
            merging: Seldom::default(),
            transfer_ticks: 0,
            given_up: Applied::default(),
            seldom: Seldom::default(),
        };
        replica.load(rows)?;
        Ok(replica)
    }

    /// Reads the typed state from system rows.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn load(&mut self, rows: &[(Bytes, Bytes)]) -> Result<(), String> {
        let find = |key: &[u8]| rows.iter().find(|(k, _)| k == key).map(|(_, value)| value);
        self.descriptor = match find(DESCRIPTOR_ROW) {
            Some(value) => Some(Arc::new(
                postcard::from_bytes(value)
                    .map_err(|error| format!("malformed descriptor of {}: {error}", self.range))?,
            )),
            None => None,
        };
        self.revision = match find(REVISION_ROW) {
            Some(value) => postcard::from_bytes(value)
                .map_err(|error| format!("malformed revision of {}: {error}", self.range))?,
            None => 0,
        };
        self.parent = match find(PARENT_ROW) {
            Some(value) => Some(
                postcard::from_bytes(value)
                    .map_err(|error| format!("malformed parent of {}: {error}", self.range))?,
            ),
            None => None,
        };
        self.intent = match find(INTENT_ROW) {
            Some(value) => Some(
                postcard::from_bytes(value)
                    .map_err(|error| format!("malformed lock of {}: {error}", self.range))?,
            ),
            None => None,
        };
        self.wanted = match find(WANTED_ROW) {
            Some(value) => Some(
                postcard::from_bytes(value)
                    .map_err(|error| format!("malformed wish of {}: {error}", self.range))?,
            ),
            None => None,
        };
        *self.merging = Merging::load(rows)?;
        self.merging.rest(Merging::is_empty);
        self.left = Self::load_left(rows)?;
        if let Some(seldom) = self.seldom.there() {
            seldom.strangers.clear();
        }
        self.dedup = Dedup::load(rows.iter().map(|(k, v)| (k.as_ref(), v.as_ref())))?;
        self.shapes.clear();
        self.remember_shape();
        Ok(())
    }

    fn remember_shape(&mut self) {
        if self.shapes.len() == SHAPES_MAX {
            self.shapes.pop_front();
        }
        let members = self.group.members().clone();
        // Most ranges never change: there are thousands, with one shape each.
        if self.shapes.is_empty() {
            self.shapes.reserve_exact(1);
        }
        self.shapes.push_back((self.applied.index, members, self.descriptor.clone()));
    }

    /// The members and the descriptor as they were when `index` was applied: what a raft snapshot
    /// of that position must say. `None` if they have changed too often since.
    pub fn shape_at(&self, index: Index) -> Option<(&ConfState, Option<&RangeDescriptor>)> {
        let (_, members, descriptor) =
            self.shapes.iter().rev().find(|(changed, ..)| *changed <= index)?;
        Some((members, descriptor.as_deref()))
    }

    /// The raft members from system rows.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn load_members(rows: &[(Bytes, Bytes)]) -> Result<ConfState, String> {
        match rows.iter().find(|(key, _)| key.as_ref() == MEMBERS_ROW) {
            Some((_, value)) => ConfState::parse_from_bytes(value)
                .map_err(|error| format!("malformed members row: {error}")),
            None => Ok(ConfState::default()),
        }
    }

    /// The replicas that the last change of members took out, from system rows.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn load_left(rows: &[(Bytes, Bytes)]) -> Result<Vec<ReplicaDescriptor>, String> {
        match rows.iter().find(|(key, _)| key.as_ref() == LEFT_ROW) {
            Some((_, value)) => postcard::from_bytes(value)
                .map_err(|error| format!("malformed row of those that left: {error}")),
            None => Ok(Vec::new()),
        }
    }

    /// The rows that every range has from the start.
    pub fn initial_rows(descriptor: &RangeDescriptor) -> Vec<SystemRow> {
        let mut members = ConfState::default();
        members.set_voters(descriptor.voters().map(|voter| voter.replica.0).collect());
        members.set_learners(
            descriptor
                .replicas
                .iter()
                .filter(|replica| replica.kind == ReplicaKind::Learner)
                .map(|learner| learner.replica.0)
                .collect(),
        );
        vec![descriptor_row(descriptor), members_row(&members)]
    }

    /// True if this replica may serve.
    pub fn holds_lease(&self) -> bool {
        matches!(self.lease, Lease::Held(term) if term == self.group.term())
            && self.group.is_leader()
    }

    /// Gives up the lease, if it is held or asked for.
    ///
    /// Commands that this leaseholder proposed may still be on their way through the log, where the
    /// next one, perhaps of the same term and on the same node, cannot see them: `has_settled`.
    pub fn drop_lease(&mut self) {
        self.lease = Lease::None;
        self.asking_watermark = false;
        self.growth.load = Load::default();
        self.given_up = Applied { index: self.group.last_index(), term: self.group.term() };
    }

    /// True if everything that earlier leaseholders proposed is applied here: the state shows what
    /// the next one has to build on. An entry of the own term says so of earlier terms.
    pub fn has_settled(&self) -> bool {
        let term = self.group.term();
        self.applied.term == term
            && (self.given_up.term != term || self.applied.index >= self.given_up.index)
    }

    /// True if this replica leads, or stands for election: requests may wait here for the outcome.
    pub fn may_lead_soon(&self) -> bool {
        self.group.is_leader() || self.group.is_candidate()
    }

    /// The node that leads, as far as this replica knows.
    pub fn leader_node(&self) -> Option<NodeId> {
        self.node_of(self.group.leader()?)
    }

    /// This replica's place in the ranking, among those for which `alive` holds.
    pub fn rank(&self, alive: impl Fn(NodeId) -> bool) -> usize {
        let me = self.group.me();
        self.descriptor.as_ref().map_or(0, |descriptor| {
            descriptor
                .voters()
                .filter(|replica| replica.replica == me || alive(replica.node))
                .position(|replica| replica.replica == me)
                .unwrap_or(descriptor.replicas.len())
        })
    }

    /// Applies committed entries.
    ///
    /// # Panics
    /// On an entry that this build cannot read: skipping it would let replicas differ.
    pub fn apply(
        &mut self,
        entries: Vec<raft::eraftpb::Entry>,
        state: &dyn StateReads,
    ) -> AppliedEntries {
        let mut done = AppliedEntries {
            batch: ApplyBatch {
                range: self.range,
                applied: self.applied,
                mutations: Vec::new(),
                system: Vec::new(),
            },
            commands: Vec::new(),
            meta: Vec::new(),
            splits: Vec::new(),
            merged: Vec::new(),
            resolved: Vec::new(),
            checkpoints: Vec::new(),
            own_term: false,
            changed: false,
        };
        let revision_before = self.revision;
        for entry in entries {
            assert_eq!(entry.index, self.applied.index + 1, "entries are applied in order");
            self.applied = Applied { index: entry.index, term: entry.term };
            done.own_term |= entry.term == self.group.term();
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => {
                    let decoded = Entry::decode(&entry.data).unwrap_or_else(|error| {
                        panic!("{} index {}: {error}", self.range, entry.index)
                    });
                    self.apply_entry(decoded, state, &mut done);
                }
                EntryType::EntryConfChange => {
                    let mut change = ConfChange::default();
                    change.merge_from_bytes(&entry.data).expect("a change of members is readable");
                    let change = raft_proto::ConfChangeI::into_v2(change);
                    self.apply_members(&change, &entry.context, &mut done);
                }
                EntryType::EntryConfChangeV2 => {
                    let mut change = ConfChangeV2::default();
                    change.merge_from_bytes(&entry.data).expect("a change of members is readable");
                    self.apply_members(&change, &entry.context, &mut done);
                }
            }
        }
        done.batch.applied = self.applied;
        self.growth.applied(&done.batch.mutations);
        self.dedup.take_rows(&mut done.batch.system);
        if self.revision != revision_before {
            done.batch.system.push(SystemRow {
                key: Bytes::from_static(REVISION_ROW),
                value: Some(encode(&self.revision)),
            });
        }
        self.group.applied(self.applied.index);
        if self.shape_changed() {
            self.remember_shape();
        }
        done
    }

    fn shape_changed(&self) -> bool {
        self.shapes.back().is_none_or(|(_, members, descriptor)| {
            members != self.group.members() || *descriptor != self.descriptor
        })
    }

    fn apply_entry(&mut self, entry: Entry, state: &dyn StateReads, done: &mut AppliedEntries) {
        match entry {
            Entry::Commands(commands) => {
                for command in commands {
                    self.apply_change(command.revision, command.change, state, done);
                    self.dedup.record(command.id, command.settled_below, command.revision);
                }
            }
            Entry::Lock { txn, node } => {
                if self.intent.is_none() && self.dedup.seen(txn) == Seen::New {
                    self.set_intent(Some(Intent { txn, node }), done);
                }
            }
            Entry::Resolve { txn, settled_below, decision } => {
                done.resolved.push(txn);
                if self.intent.is_some_and(|intent| intent.txn == txn) {
                    self.set_intent(None, done);
                    if let Decision::Committed { revision, change } = decision {
                        self.apply_change(revision, change, state, done);
                    }
                } else if self.dedup.seen(txn) != Seen::New {
                    return;
                }
                // From now on a late lock of it is refused.
                self.dedup.record(txn, settled_below, self.revision);
            }
            Entry::Meta(changes) => done.meta.extend(changes),
            Entry::Split { id, key, child, generation } => {
                self.apply_split(id, &key, child, generation, done);
            }
            Entry::Freeze { left, generation } => self.apply_freeze(left, generation, done),
            Entry::Thaw { generation } => self.apply_thaw(generation, done),
            Entry::Merge { generation, right, at: _ } => {
                self.apply_merge(generation, &right, done);
            }
            Entry::Rank { generation, first } => self.apply_rank(generation, first, done),
            Entry::Checkpoint(checkpoint) => {
                let after = done.meta.len();
                done.checkpoints.extend(self.hash_task(checkpoint).map(|task| (after, task)));
            }
        }
    }

    fn set_intent(&mut self, intent: Option<Intent>, done: &mut AppliedEntries) {
        self.intent = intent;
        let value = intent.map(|intent| encode(&intent));
        done.batch.system.push(SystemRow { key: Bytes::from_static(INTENT_ROW), value });
    }

    fn apply_change(
        &mut self,
        revision: Revision,
        change: Change,
        state: &dyn StateReads,
        done: &mut AppliedEntries,
    ) {
        let start = done.batch.mutations.len();
        match change {
            Change::Keys(mutations) => {
                if let Some(own) = &self.descriptor {
                    assert!(
                        mutations.iter().all(|change| own.span.contains(&change.key)),
                        "{}: a command changes keys outside {}",
                        self.range,
                        own.span
                    );
                }
                done.batch.mutations.extend(mutations);
            }
            Change::DeleteSpan(span) => {
                let deleted = span_delete(&span, revision, state, &done.batch.mutations);
                done.batch.mutations.extend(deleted);
            }
            Change::DeletePart(span, first) => {
                let mut deleted = span_delete(&span, revision, state, &done.batch.mutations);
                for mutation in &mut deleted {
                    mutation.version.sub += first;
                }
                done.batch.mutations.extend(deleted);
            }
        }
        assert!(
            revision > self.revision,
            "{}: revision {revision} after {}",
            self.range,
            self.revision
        );
        self.revision = revision;
        done.commands.push((revision, start..done.batch.mutations.len()));
    }

    /// What to hash at a checkpoint, as of now.
    fn hash_task(&self, checkpoint: Checkpoint) -> Option<HashTask> {
        let descriptor = self.descriptor.as_ref()?;
        let mut hash = Fingerprint::default();
        hash.value(descriptor);
        hash.value(&self.parent);
        hash.value(&self.intent);
        hash.value(&self.merging.frozen);
        hash.value(&self.merging.absorbed);
        hash.number(self.revision as u64);
        hash.number(self.dedup.fingerprint());
        Some(HashTask {
            range: self.range,
            replica: self.group.me(),
            index: self.applied.index,
            checkpoint,
            span: descriptor.span.clone(),
            bookkeeping: hash.finish(),
        })
    }

    fn apply_split(
        &mut self,
        id: RequestId,
        key: &Bytes,
        child: RangeId,
        generation: u64,
        done: &mut AppliedEntries,
    ) {
        if self.intent.is_some() {
            return;
        }
        let Some(descriptor) = self.descriptor.as_mut().map(Arc::make_mut) else { return };
        if descriptor.generation != generation
            || !descriptor.span.contains(key)
            || descriptor.span.start == *key
        {
            return;
        }
        descriptor.generation += 1;
        // Another node ranks first, so that the cuts of one range are not all led by one node.
        let mut replicas = descriptor.replicas.clone();
        let first = child.0 as usize % replicas.len().max(1);
        replicas.rotate_left(first);
        let right = RangeDescriptor {
            id: child,
            span: Span { start: key.clone(), end: descriptor.span.end.clone() },
            generation: 1,
            replicas,
            next_replica: descriptor.next_replica,
        };
        descriptor.span.end = Some(key.clone());
        self.growth.cut();
        done.changed = true;
        done.batch.system.push(descriptor_row(descriptor));
        let parent_generation = descriptor.generation;
        let mut rows = Self::initial_rows(&right);
        self.dedup.all_rows(&mut rows);
        let row = |key: &'static [u8], value| SystemRow {
            key: Bytes::from_static(key),
            value: Some(value),
        };
        rows.push(row(PARENT_ROW, encode(&(self.range, parent_generation))));
        rows.push(row(REVISION_ROW, encode(&self.revision)));
        done.splits.push(Split { id, child: right, parent_generation, rows });
    }

    fn apply_members(&mut self, change: &ConfChangeV2, context: &[u8], done: &mut AppliedEntries) {
        let members = self.group.apply_change(change);
        done.batch.system.push(members_row(&members));
        done.changed = true;
        self.members_since = self.applied.index;
        self.farewell = !self.group.is_joint();
        if !self.group.is_voter(self.group.me()) {
            // The library can neither lead a group in which it does not count nor be elected by it.
            self.group.step_down();
        }
        // The second half of a joint change says nothing new of the range.
        if context.is_empty() {
            return;
        }
        let new: RangeDescriptor =
            postcard::from_bytes(context).expect("the descriptor with a change is readable");
        if let Some(old) = &self.descriptor {
            let leaves = |replica: &&ReplicaDescriptor| new.replica(replica.replica).is_none();
            self.left = old.replicas.iter().filter(leaves).copied().collect();
            done.batch.system.push(SystemRow {
                key: Bytes::from_static(LEFT_ROW),
                value: Some(encode(&self.left)),
            });
        }
        done.batch.system.push(descriptor_row(&new));
        self.descriptor = Some(Arc::new(new));
        if let Some(seldom) = self.seldom.there() {
            seldom.strangers.clear();
        }
    }

    /// The node of the replica with this id, if it is or just was a member.
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        let own = self.descriptor.as_ref()?;
        let left = || self.left.iter().find(|left| left.replica == replica).copied();
        own.replica(replica).or_else(left).map(|replica| replica.node)
    }

    /// Was this replica a member, and is it none any more whatever happens? So it is once a change
    /// has ended without it, and this replica cannot fall back behind that.
    pub fn has_removed(&self, replica: ReplicaId) -> bool {
        self.descriptor.as_ref().is_some_and(|own| replica.0 < own.next_replica)
            && !self.group.is_member(replica)
            && !self.group.is_joint()
            && self.durable >= self.members_since
    }

    /// Those that left and may be told so, once.
    pub fn take_farewell(&mut self) -> Vec<ReplicaDescriptor> {
        if !self.farewell || self.durable < self.members_since {
            return Vec::new();
        }
        self.farewell = false;
        self.left.iter().filter(|left| self.has_removed(left.replica)).copied().collect()
    }
}

/// A symbolic deletion on the state as it is after the mutations earlier in the same batch.
fn span_delete(
    span: &Span,
    revision: Revision,
    state: &dyn StateReads,
    earlier: &[Mutation],
) -> Vec<Mutation> {
    let mut live: BTreeMap<Bytes, i64> = BTreeMap::new();
    let mut dead: Vec<Mutation> = eval::delete_span(span, revision, state);
    let mut created: BTreeMap<Bytes, Mutation> = BTreeMap::new();
    for mutation in earlier.iter().filter(|mutation| span.contains(&mutation.key)) {
        live.insert(mutation.key.clone(), mutation.version.version);
        created.insert(mutation.key.clone(), mutation.clone());
    }
    dead.retain(|mutation| !live.contains_key(&mutation.key));
    for (key, mutation) in created {
        if mutation.version.value.is_some() {
            dead.push(eval::tombstone(key, &mutation.version, revision, 0));
        }
    }
    dead.sort_by(|a, b| a.key.cmp(&b.key));
    for (sub, mutation) in dead.iter_mut().enumerate() {
        mutation.version.sub = sub as u32;
    }
    dead
}

/// The system row with a descriptor.
pub fn descriptor_row(descriptor: &RangeDescriptor) -> SystemRow {
    SystemRow { key: Bytes::from_static(DESCRIPTOR_ROW), value: Some(encode(descriptor)) }
}

/// The system row with the raft members, in an order that does not depend on how they came about,
/// so that equal replicas have equal rows.
pub fn members_row(members: &ConfState) -> SystemRow {
    let mut members = members.clone();
    members.mut_voters().sort_unstable();
    members.mut_learners().sort_unstable();
    members.mut_voters_outgoing().sort_unstable();
    members.mut_learners_next().sort_unstable();
    let value = members.write_to_bytes().expect("members can be encoded");
    SystemRow { key: Bytes::from_static(MEMBERS_ROW), value: Some(value.into()) }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_stdvec(value).expect("a system row can be encoded").into()
}

#[cfg(test)]
mod tests;
