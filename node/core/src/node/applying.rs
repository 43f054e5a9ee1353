//! Applying what is committed, and what follows from it: answers, events, cuts, members, raft
//! snapshots.

use super::{EarlyVote, Node};
use crate::bootstrap::{START, initial_hard_state, initial_log};
use crate::descriptor::RangeDescriptor;
use crate::effects::{Persist, ReplicaBoot, SnapshotEffect};
use crate::error::{Error, Misrouted};
use crate::group::{Group, decode_raft};
use crate::ids::{META_RANGE, NodeId, RangeId, ReplicaId, RequestId};
use crate::leaseholder::{Asked, Asker, View, Work};
use crate::message::{Message, Outcome};
use crate::replica::{Lease, Replica, Split};
use crate::request::Response;
use crate::state::{Applied, ApplyBatch, StateReads};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Snapshot};

impl Node {
    /// Applies a range's committed entries of this turn.
    pub(super) fn apply(
        &mut self,
        range: RangeId,
        entries: Vec<raft::eraftpb::Entry>,
        state: &dyn StateReads,
        persist: &mut Persist,
    ) {
        let entries = self.hold_merges(range, entries);
        if entries.is_empty() {
            return;
        }
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let mut done = replica.apply(entries, state);
        self.counters.applied += done.commands.len() as u64;
        let meta = std::mem::take(&mut done.meta);
        let mut hashes = std::mem::take(&mut done.checkpoints);
        for (number, entry) in meta.iter().enumerate() {
            self.hash_meta(&mut hashes, number);
            let answer = self.meta.apply(entry, &mut done.batch.system);
            self.meta_applied(entry, answer);
        }
        if !meta.is_empty() {
            self.meta_changed();
        }
        if range == META_RANGE {
            self.hash_meta(&mut hashes, meta.len());
        }
        for (_, task) in hashes {
            self.checkpoint_applied(task);
        }
        self.publish(range, &done.batch, state);
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        if replica.holds_lease()
            && let Some(descriptor) = &replica.descriptor
        {
            let view = View {
                state,
                dedup: &replica.dedup,
                span: &descriptor.span,
                known: self.session.known(),
                compacted: self.session.compacted().max(self.meta.compacted()),
                full: false,
            };
            for (revision, mutations) in &done.commands {
                let mutations = &done.batch.mutations[mutations.clone()];
                replica.leaseholder.applied(*revision, mutations, &view, &mut self.out);
            }
            let held = replica.intent.map(|intent| intent.txn);
            replica.leaseholder.locks_applied(held, &done.resolved, &view, &mut self.out);
            self.unblock.insert(range);
        }
        self.apply_batch(done.batch);
        let cut = !done.splits.is_empty();
        for split in done.splits {
            self.split_applied(range, split, persist);
        }
        for right in done.merged {
            let index = self.replicas.get(&range).map_or(0, |left| left.applied.index);
            self.taken_in(range, right, index);
            self.counters.merges += 1;
        }
        if done.changed {
            self.descriptor_changed(range, cut);
        }
        // The own-term entry may just have been applied.
        self.role_changed(range);
    }

    /// After everything of this turn was applied.
    pub(super) fn after_apply(&mut self) {
        self.flush_watermarks();
    }

    fn descriptor_changed(&mut self, range: RangeId, cut: bool) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let Some(descriptor) = replica.descriptor.clone() else { return };
        // The first half of a joint change is not news yet: who leaves by it still counts.
        if !replica.group.is_joint() {
            self.learn(&descriptor);
            if range == META_RANGE && self.sequencer.is_active() {
                self.publish_meta_members();
            }
        }
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let feeds: Vec<_> = replica
            .seldom
            .subscribers
            .iter()
            .filter(|(_, subscriber)| !descriptor.span.covers(&subscriber.span))
            .map(|(feed, _)| *feed)
            .collect();
        for feed in &feeds {
            replica.seldom.subscribers.remove(feed);
        }
        // The sequencer refuses questions that name the old generation: tell it the new one.
        if replica.lease != Lease::None {
            replica.drop_lease();
            replica.leaseholder.abandon(None, &mut self.out);
        }
        match replica.take_admin() {
            Some(asker) if cut => {
                let message = format!("{range} is now {}", descriptor.span);
                self.outcome(asker, Outcome::Done(Ok(Response::Admin { message })));
            }
            // A change of members came first: the cut names a generation that is over.
            Some(asker) => self.out.misrouted(asker, Misrouted::Busy),
            None => {}
        }
        for feed in feeds {
            self.send(feed.gateway, Message::FeedEnded { feed, compacted: None });
        }
        self.dirty.insert(range);
    }

    // Cuts.

    pub(super) fn serve_split(
        &mut self,
        asker: Asker,
        id: RequestId,
        range: RangeId,
        (key, child): (Bytes, RangeId),
        state: &dyn StateReads,
    ) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let Some(descriptor) = &replica.descriptor else { return };
        if !descriptor.span.contains(&key) {
            return self.out.misrouted(asker, Misrouted::RangeMoved);
        }
        let refusal = if descriptor.span.start == key {
            Some(format!("{range} starts at {} already", crate::key::printable(&key)))
        } else if replica.seldom.admin.is_some() {
            Some(format!("{range} is being changed already: try again"))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.outcome(asker, Outcome::Done(Err(Error::Refused(refusal))));
        }
        let asked =
            Asked { asker, id, settled_below: 0, again: false, work: Work::Cut { key, child } };
        self.ask_leaseholder(range, asked, state);
    }

    /// A cut whose turn has come: nothing is under way in the range.
    pub(super) fn propose_cut(&mut self, range: RangeId, asked: Asked) {
        let Asked { asker, id, work, .. } = asked;
        let (key, child) = match work {
            Work::Cut { key, child } => (key, child),
            Work::Change(entry) => return self.propose_change(range, asker, &entry),
            _ => unreachable!("only these are put there"),
        };
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let Some(descriptor) = &replica.descriptor else { return };
        if !descriptor.span.contains(&key) || descriptor.span.start == key {
            // Another one came first.
            return self.out.misrouted(asker, Misrouted::RangeMoved);
        }
        // Asked for once more: the child was there, and was taken in since. It would have keys, and no
        // place in the directory ever. Ids only grow, so one that is younger than the child has keys
        // of it that this node may not know to be gone yet.
        let was_there = replica.merging.absorbed.contains(&child) || self.meta.is_gone(child);
        if was_there || child <= range {
            let refusal =
                format!("{child} cannot be cut off from {range} any more: ask for another");
            return self.outcome(asker, Outcome::Done(Err(Error::Refused(refusal))));
        }
        let entry =
            crate::command::Entry::Split { id, key, child, generation: descriptor.generation };
        let taken = replica.seldom.admin.is_none() && replica.group.propose(entry.encode());
        // Nothing may follow the cut in this log that was planned before it: the lease comes back,
        // with the new descriptor, when the cut is applied.
        self.lease_lost(range);
        if !taken {
            self.out.misrouted(asker, Misrouted::Busy);
        } else if let Some(replica) = self.replicas.get_mut(&range) {
            replica.seldom.admin = Some(asker);
        }
        self.dirty.insert(range);
    }

    fn split_applied(&mut self, parent: RangeId, split: Split, persist: &mut Persist) {
        let child = split.child;
        let id = child.id;
        let Some(parent_replica) = self.replicas.get(&parent) else { return };
        let leads = parent_replica.group.is_leader();
        // The cut once more, after a crash, of a child whose replica left this node meanwhile; or
        // one that goes on with its log, and has asked for its state.
        let own = child.replica_on(self.config.node);
        let own = own.filter(|own| !self.departures.includes(id, own.replica));
        let ahead = |early: &Replica| early.descriptor.is_none() && early.group.last_index() > 0;
        let Some(own) = own.filter(|_| !self.replicas.get(&id).is_some_and(ahead)) else {
            if self.replicas.get(&id).is_none_or(|other| other.descriptor.is_none()) {
                self.departures.leave(id, child.span);
            }
            return;
        };
        let system = split.rows;
        // A replica of the child may be here already, empty, because its leader wrote first. Its
        // vote must not be forgotten. Or this is the cut once more, after a crash that took the
        // child's state and left its log: that goes on.
        let orphan = self.orphans.remove(&id);
        let begun = orphan.as_ref().is_some_and(|orphan| orphan.truncated == START);
        let mut boot = match (self.replicas.remove(&id), orphan) {
            (Some(early), _) if early.descriptor.is_some() => {
                self.replicas.insert(id, early);
                return;
            }
            (None, Some(orphan)) if begun => orphan,
            (early, orphan) => {
                let before = early
                    .map(|early| early.group.hard_state())
                    .or(orphan.map(|orphan| orphan.hard_state))
                    .unwrap_or_default();
                super::merge_write(persist, initial_log(id, before.clone()));
                ReplicaBoot {
                    range: id,
                    hard_state: initial_hard_state(before),
                    truncated: START,
                    last_index: START.index,
                    applied: START,
                    removed: ReplicaId::default(),
                }
            }
        };
        boot.applied = START;
        let rows: Vec<(Bytes, Bytes)> =
            system.iter().filter_map(|row| Some((row.key.clone(), row.value.clone()?))).collect();
        let members: ConfState =
            Replica::load_members(&rows).expect("rows written above can be read");
        let group = Group::new(
            own.replica,
            boot,
            members,
            self.reader.clone(),
            self.config.election_ticks(),
        );
        let mut replica =
            Replica::new(id, group, START, &rows).expect("rows written above can be read");
        // It may be too large still.
        replica.growth.written = self.config.split_bytes;
        if leads {
            replica.group.campaign();
        } else {
            replica.campaign_in = Some(10);
        }
        self.replicas.insert(id, replica);
        self.apply_batch(ApplyBatch { range: id, applied: START, mutations: Vec::new(), system });
        self.learn(&child);
        self.dirty.insert(id);
        if let Some(EarlyVote { from, from_replica, to, data }) = self.early.remove(&id) {
            self.raft_message(from, id, from_replica, to, &data);
        }
    }

    // Raft snapshots.

    pub(super) fn snapshot_wanted(&mut self, range: RangeId, to: ReplicaId) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let Some(descriptor) = &replica.descriptor else { return };
        if replica.seldom.pinning.iter().any(|(waiting, _)| *waiting == to.0) {
            return;
        }
        let span = descriptor.span.clone();
        replica.seldom.pinning.push((to.0, span.clone()));
        self.effects.snapshots.push(SnapshotEffect::Build { range, to, span });
    }

    pub(super) fn snapshot_built(
        &mut self,
        range: RangeId,
        to: ReplicaId,
        applied: Option<Applied>,
    ) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let pinned = replica.seldom.pinning.iter().position(|(waiting, _)| *waiting == to.0);
        let Some((_, pinned)) = pinned.map(|place| replica.seldom.pinning.remove(place)) else {
            return;
        };
        let Some(applied) = applied else { return };
        let mut snapshot = Snapshot::default();
        // Of that position, not of now.
        let Some((members, descriptor)) = replica.shape_at(applied.index) else { return };
        // The range has taken in another since, or was cut: keys are missing, or are there of a range
        // that the receiver may have newer ones of.
        if descriptor.is_some_and(|descriptor| pinned != descriptor.span) {
            return;
        }
        let metadata = snapshot.mut_metadata();
        metadata.index = applied.index;
        metadata.term = applied.term;
        metadata.set_conf_state(members.clone());
        // The receiver must know which keys it will have before it has them.
        if let Some(descriptor) = descriptor {
            snapshot.set_data(
                postcard::to_stdvec(descriptor).expect("a descriptor can be encoded").into(),
            );
        }
        replica.group.set_snapshot(Some(snapshot));
        replica.group.unreachable(to);
        self.dirty.insert(range);
    }

    pub(super) fn snapshot_staged(&mut self, from: NodeId, message: Message, staged: u64) {
        if !self.take_staged(from, message, staged) {
            self.effects.snapshots.push(SnapshotEffect::Discard { staged });
        }
    }

    /// True if it will be installed.
    fn take_staged(&mut self, from: NodeId, message: Message, staged: u64) -> bool {
        let Message::Raft { range, from: from_replica, to, data } = message else { return false };
        let Ok(raft_message) = decode_raft(&data) else { return false };
        let descriptor: Option<RangeDescriptor> =
            postcard::from_bytes(&raft_message.get_snapshot().data).ok();
        let Some(descriptor) = descriptor else { return false };
        let occupied = self.departures.occupies(range, &descriptor.span);
        // Two that are on their way at the same time, one from before a cut and one from after it,
        // must not both write the keys that they share.
        let taken = self.staged.iter().map(|(other, (_, coming))| (other, &coming.span));
        let coming = taken.chain(&self.installing).any(|(other, span)| {
            *other != range
                && *other != META_RANGE
                && range != META_RANGE
                && span.overlaps(&descriptor.span)
        });
        let others = self.overlapping(range, &descriptor.span);
        if occupied || coming || !self.replaces(range, &others) {
            // An older neighbour has still to apply its own cut, or to go: the sender will try again.
            return false;
        }
        if self.has_snapshot(range) {
            // The one before it is not installed yet, and the group will not hear of another.
            return false;
        }
        self.raft_message(from, range, from_replica, to, &data);
        let taken = self.has_snapshot(range);
        if taken {
            self.staged.insert(range, (staged, descriptor));
        }
        taken
    }

    /// True if a raft snapshot was taken for the range's replica here and is not installed yet.
    fn has_snapshot(&self, range: RangeId) -> bool {
        self.replicas.get(&range).is_some_and(|replica| replica.group.has_snapshot())
    }

    /// After the groups' turns, which begin to install what was staged before: what is left belonged
    /// to replicas that were removed in between. It would keep its room, and its keys from others,
    /// for ever.
    pub(super) fn discard_staged(&mut self) {
        for (staged, _) in std::mem::take(&mut self.staged).into_values() {
            self.effects.snapshots.push(SnapshotEffect::Discard { staged });
        }
    }

    pub(super) fn install_snapshot(&mut self, range: RangeId, snapshot: &Snapshot) {
        let Some((staged, descriptor)) = self.staged.remove(&range) else { return };
        let index = snapshot.get_metadata().index;
        for other in self.overlapping(range, &descriptor.span) {
            if self.replaces(range, &[other]) {
                self.taken_in(range, other, index);
            }
        }
        let Some(replica) = self.replicas.get_mut(&range) else {
            return self.effects.snapshots.push(SnapshotEffect::Discard { staged });
        };
        replica.merging.held.clear();
        self.installing.insert(range, descriptor.span.clone());
        let metadata = snapshot.get_metadata();
        let mut clear = vec![descriptor.span];
        clear.extend(replica.descriptor.iter().map(|own| own.span.clone()));
        self.effects.snapshots.push(SnapshotEffect::Install {
            range,
            staged,
            applied: Applied { index: metadata.index, term: metadata.term },
            clear,
        });
    }

    pub(super) fn snapshot_installed(&mut self, range: RangeId, state: &dyn StateReads) {
        self.installing.remove(&range);
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let sequence = self.persist_sequence + 1;
        let Some((position, turn)) = replica.group.installed(sequence) else { return };
        self.counters.snapshots_installed += 1;
        let rows = state.system_rows(range);
        replica.applied = position;
        replica.load(&rows).unwrap_or_else(|error| panic!("{range} after a snapshot: {error}"));
        replica.durable = position.index;
        if range == META_RANGE {
            let meta = crate::meta::MetaState::load(
                rows.iter().map(|(key, value)| (key.as_ref(), value.as_ref())),
            );
            self.meta = meta.unwrap_or_else(|error| panic!("meta range after a snapshot: {error}"));
            self.planning.changed();
            self.meta_changed();
        }
        self.send_raft(range, turn.messages);
        if let Some(write) = turn.write {
            self.writing.insert(range);
            self.write_log(true, vec![write]);
        }
        self.dirty.insert(range);
    }
}
