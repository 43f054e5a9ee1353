//! Time, silence and leadership: ticks, liveness of other nodes, elections, sleep, hand-over.
//!
//! Invariant: nothing here is needed for safety. A wrong guess about a silent node costs an
//! election, never a write.

use super::{Asked, Node, PAUSE_MS};
use crate::command::{MetaChange, MetaEntry};
use crate::effects::Millis;
use crate::error::{Error, Misrouted};
use crate::ids::{META_RANGE, NodeId, RangeId, ReplicaId, RequestId, Term};
use crate::leaseholder::{self, Asker};
use crate::level::Level;
use crate::message::{
    Message, MetaRequest, Outcome, RangeRequest, RoutedRequest, SequencerItem, SequencerItemKind,
};
use crate::replica::{Lease, Replica};
use crate::request::Response;
use crate::state::StateReads;
use std::collections::BTreeSet;

/// On the way out, the meta range stays so long after every other range was handed over.
const META_STAYS_MS: Millis = 50;
/// Ticks without work after which a leader puts its range to sleep.
const SLEEP_TICKS: u32 = 20;
/// Ticks for which a better placed replica must have been ready before it gets the leadership.
const REBALANCE_TICKS: u32 = 20;
/// Between two looks for replicas that seem to have been removed.
const FORGET_MS: Millis = 1_000;

/// Between two looks at all replicas for those that do not sleep.
const LOOK_FOR_AWAKE_MS: Millis = 1_000;

impl Node {
    /// This process did not run for a while: it cannot say who was silent meanwhile.
    pub(super) fn woke_from_pause(&mut self, now: Millis) {
        for peer in self.peers.values_mut() {
            peer.last_heard = now;
        }
        self.last_tick = now;
        self.service.extend_leases(now + PAUSE_MS, self.meta.leases());
    }

    pub(super) fn tick(&mut self) {
        if self.session_retry_at.is_some_and(|at| at <= self.now) {
            self.session_retry_at = None;
            self.session.restart(self.meta_leader());
        }
        self.follow_sequencer();
        self.router_tick();
        self.watch_tick();
        self.stand();
        if self.now < self.last_tick + self.config.tick_ms {
            return;
        }
        self.last_tick = self.now;
        self.early.clear();
        self.raft_ticks();
        self.liveness_tick();
        self.meta_tick();
        self.splitting_tick();
        self.loading_tick();
        self.report_tick();
        self.check_tick();
    }

    fn raft_ticks(&mut self) {
        for range in self.awake_ranges() {
            // Before the tick, which makes a leader's next heartbeats.
            if self.consider_sleep(range) {
                continue;
            }
            let Some(replica) = self.replicas.get_mut(&range) else { continue };
            if replica.descriptor.is_none() {
                continue;
            }
            replica.group.tick();
            replica.idle_ticks += 1;
            match &mut replica.campaign_in {
                Some(0) => {
                    replica.campaign_in = None;
                    if replica.group.leader().is_none() {
                        replica.group.campaign();
                    }
                }
                Some(ticks) => *ticks -= 1,
                None => {}
            }
            self.dirty.insert(range);
            self.finish_joint(range);
            self.settle_timeout(range);
            self.consider_rebalance(range);
        }
    }

    /// The ranges that do not sleep. Who sleeps costs nothing, but for a look now and then, so that
    /// no way to wake up can be forgotten for long.
    fn awake_ranges(&mut self) -> Vec<RangeId> {
        let awake = |replica: &Replica| !replica.asleep;
        if self.now >= self.look_for_awake_at {
            self.look_for_awake_at = self.now + LOOK_FOR_AWAKE_MS;
            let all = self.replicas.iter().filter(|(_, replica)| awake(replica));
            self.awake = all.map(|(range, _)| *range).collect();
            self.end_logs_at_rest();
            for range in &self.awake {
                if let Some(replica) = self.replicas.get_mut(range) {
                    replica.group.trim();
                }
            }
        } else {
            let replicas = &self.replicas;
            self.awake.retain(|range| replicas.get(range).is_some_and(awake));
        }
        self.awake.iter().copied().collect()
    }

    fn settle_timeout(&mut self, range: RangeId) {
        let peers = &self.peers;
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let rank = replica.rank(|node| peers.get(&node).is_none_or(|peer| !peer.down));
        if !replica.group.is_installing() {
            replica.group.settle_timeout(rank);
        }
    }

    // Liveness.

    pub(super) fn heard(&mut self, from: NodeId) {
        if from == self.config.node {
            return;
        }
        let now = self.now;
        let peer = self.peers.entry(from).or_default();
        peer.last_heard = now;
        if peer.down {
            peer.down = false;
            self.wake_ranges_with(from);
        }
    }

    pub(super) fn heartbeat(&mut self, from: NodeId, incarnation: u64) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.incarnation != incarnation {
            let restarted = peer.incarnation != 0;
            peer.incarnation = incarnation;
            if restarted {
                // Whatever it led before, it leads no more.
                self.leader_gone(from);
            }
            self.wake_ranges_with(from);
        }
    }

    pub(super) fn peer_connected(&mut self, peer: NodeId, level: Level, state: &dyn StateReads) {
        self.heard(peer);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.connected = true;
            known.level = level;
        }
        let incarnation = self.config.incarnation;
        self.send(peer, Message::Heartbeat { incarnation });
        if self.session.sequencer() == Some(peer) {
            self.session.restart(Some(peer));
        }
        self.watch_peer_changed(peer);
        self.retry_waiting();
        self.wake_ranges_with(peer);
        let _: &dyn StateReads = state;
    }

    pub(super) fn peer_lost(&mut self, peer: NodeId, refused: bool) {
        let now = self.now;
        let known = self.peers.entry(peer).or_default();
        known.connected = false;
        if refused && !known.down {
            known.down = true;
            known.down_since = now;
        }
        self.resend_from(peer);
        self.watch_peer_changed(peer);
        for replica in self.replicas.values_mut() {
            if let Some(seldom) = replica.seldom.there() {
                seldom.subscribers.retain(|feed, _| feed.gateway != peer);
            }
            let member = replica.descriptor.as_ref().and_then(|own| own.replica_on(peer));
            if let Some(member) = member
                && replica.group.is_leader()
            {
                replica.group.unreachable(member.replica);
            }
        }
        if refused {
            self.leader_gone(peer);
        }
    }

    fn liveness_tick(&mut self) {
        let now = self.now;
        let tick = self.config.tick_ms;
        let mut quiet = Vec::new();
        let mut gone = Vec::new();
        // A node that has just joined knows nobody yet but by connections.
        let connected = self.peers.iter().filter(|(_, peer)| peer.connected);
        let connected: BTreeSet<NodeId> = connected.map(|(node, _)| *node).collect();
        let known = self.meta.nodes().keys().copied().collect::<BTreeSet<_>>();
        for node in known.union(&connected) {
            if *node == self.config.node {
                continue;
            }
            let peer = self
                .peers
                .entry(*node)
                .or_insert_with(|| super::Peer { last_heard: now, ..super::Peer::default() });
            if peer.connected && now >= peer.last_sent + tick {
                quiet.push(*node);
            }
            if !peer.down && now > peer.last_heard + self.config.election_ms {
                peer.down = true;
                peer.down_since = now;
                gone.push(*node);
            }
        }
        if now >= self.forget_at {
            self.forget_at = now + FORGET_MS;
            self.ask_removed();
            self.want_copies();
        }
        let incarnation = self.config.incarnation;
        for node in quiet {
            self.send(node, Message::Heartbeat { incarnation });
        }
        for node in gone {
            self.leader_gone(node);
            self.resend_from(node);
        }
    }

    pub(super) fn wake_ranges_with(&mut self, node: NodeId) {
        for replica in self.replicas.values_mut() {
            if replica.group.is_leader()
                && replica.descriptor.as_ref().is_some_and(|own| own.replica_on(node).is_some())
            {
                replica.wake(&mut self.awake);
            }
        }
    }

    // Sleep.

    /// Puts a range without work to sleep, on all its nodes. True if it sleeps from now on.
    fn consider_sleep(&mut self, range: RangeId) -> bool {
        if range == META_RANGE {
            return false;
        }
        let peers = &self.peers;
        let me = self.config.node;
        let Some(replica) = self.replicas.get_mut(&range) else { return false };
        let all_here = replica.descriptor.as_ref().is_some_and(|own| {
            own.replicas.iter().all(|member| {
                member.node == me || peers.get(&member.node).is_some_and(|peer| !peer.down)
            })
        });
        if replica.idle_ticks < SLEEP_TICKS
            || !all_here
            || !replica.holds_lease()
            || replica.intent.is_some()
            || !replica.leaseholder.is_idle()
            || !replica.group.is_quiet()
            || !replica.group.all_caught_up(replica.applied.index)
        {
            return false;
        }
        replica.asleep = true;
        replica.rest(self.meta.ranges().get(&range), &mut self.members);
        let message =
            Message::Quiesce { range, term: replica.group.term(), index: replica.applied.index };
        let members: Vec<NodeId> = replica
            .descriptor
            .iter()
            .flat_map(|own| own.replicas.iter().map(|member| member.node))
            .filter(|node| *node != me)
            .collect();
        for node in members {
            self.send(node, message.clone());
        }
        true
    }

    pub(super) fn quiesce(&mut self, range: RangeId, term: Term, index: u64) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        if replica.group.term() == term
            && replica.group.leader().is_some()
            && !replica.group.is_leader()
            && replica.applied.index == index
            && replica.group.last_index() == index
            && replica.group.is_quiet()
        {
            replica.asleep = true;
            replica.rest(self.meta.ranges().get(&range), &mut self.members);
        }
    }

    pub(super) fn wake(&mut self, range: RangeId) {
        if let Some(replica) = self.replicas.get_mut(&range) {
            replica.wake(&mut self.awake);
        }
    }

    // Roles.

    /// Looks whether a replica's leadership changed in this turn, and acts on it.
    pub(super) fn role_changed(&mut self, range: RangeId) {
        self.settle_timeout(range);
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        if let Some(node) = replica.leader_node()
            && replica.last_leader != Some(node)
        {
            replica.last_leader = Some(node);
            replica.campaign_in = None;
            self.router.moved(range);
            if range == META_RANGE {
                self.range_moved(range, node);
            } else {
                self.retry_range(range);
            }
        }
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let term = replica.group.term();
        let leads = replica.group.is_leader();
        let lost = match replica.lease {
            // A cut gives the lease up before it is in the log, and may never be applied.
            Lease::None => !leads && replica.seldom.admin.is_some(),
            Lease::Registering(own) | Lease::Held(own) => !leads || own != term,
        };
        if lost {
            self.lease_lost(range);
        }
        self.turn_away(range);
        if range == META_RANGE {
            self.meta_role(leads);
            return;
        }
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let sure = leads
            && replica.lease == Lease::None
            && replica.has_settled()
            && replica.merging.frozen.is_none()
            // Or the directory would forget members that still count.
            && !replica.group.is_joint()
            && !replica.group.is_transferring();
        if sure && !self.stopping {
            self.register(range);
        }
    }

    /// Whoever waited for this replica to lead has to ask elsewhere.
    fn turn_away(&mut self, range: RangeId) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        if replica.seldom.waiting.is_empty() || replica.may_lead_soon() {
            return;
        }
        let hint = replica.leader_node().filter(|node| *node != self.config.node);
        for (asker, _) in replica.take_waiting() {
            self.out.misrouted(asker, Misrouted::NotLeaseholder { hint });
        }
    }

    fn register(&mut self, range: RangeId) {
        let node = self.config.node;
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let Some(descriptor) = replica.descriptor.as_deref().cloned() else { return };
        let term = replica.group.term();
        let generation = descriptor.generation;
        replica.lease = Lease::Registering(term);
        self.counters.elections += 1;
        let parent = replica.parent;
        let gone = self.not_known_gone(range);
        let cut_off = self.cut_off(&descriptor);
        let known = self.meta.registration(range).is_some_and(|known| {
            known.term == term && known.node == node && known.generation >= generation
        });
        // A range that was cut off may have registered, and this one's generation with it, before
        // the directory knows another that was cut off earlier.
        if known && cut_off.is_empty() && gone.is_empty() {
            return self.lease_held(range);
        }
        let request = if gone.is_empty() {
            MetaRequest::Register { descriptor, term, node, parent, cut_off }
        } else {
            MetaRequest::Absorb { descriptor, term, node, gone }
        };
        self.internal_request(
            super::routing::Owner::Register(range),
            META_RANGE,
            RangeRequest::Meta(request),
        );
    }

    /// Ranges that this one has taken in and the directory still knows. They must be gone there before
    /// this range serves: whoever led them may ask the sequencer until then.
    fn not_known_gone(&self, range: RangeId) -> Vec<RangeId> {
        let Some(replica) = self.replicas.get(&range) else { return Vec::new() };
        let absorbed = replica.merging.absorbed.iter().copied();
        absorbed.filter(|other| !self.meta.is_gone(*other)).collect()
    }

    /// Ranges on this node that were cut off `descriptor` (or off those) and that the directory
    /// does not know yet. It must learn of them before this range serves again, or keys attached
    /// to client leases there would be forgotten.
    fn cut_off(
        &self,
        descriptor: &crate::descriptor::RangeDescriptor,
    ) -> Vec<crate::descriptor::RangeDescriptor> {
        let mut found = Vec::new();
        let mut end = descriptor.span.end.clone();
        while let Some(start) = end.take() {
            // The usual case, for which not every replica of this node is looked at.
            let known = self.meta.range_of(&start);
            if known.is_some_and(|own| own.span.start == start && self.meta.is_logged(own.id)) {
                break;
            }
            let next = self
                .replicas
                .values()
                .filter(|replica| !self.meta.is_logged(replica.range))
                .filter_map(|replica| replica.descriptor.as_deref())
                .find(|other| other.id != META_RANGE && other.span.start == start);
            if let Some(next) = next {
                found.push(next.clone());
                end.clone_from(&next.span.end);
            }
        }
        found
    }

    /// The registration of a local leader was applied.
    pub(super) fn lease_held(&mut self, range: RangeId) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let Lease::Registering(term) = replica.lease else { return };
        replica.lease = Lease::Held(term);
        replica.idle_ticks = 0;
        replica.leaseholder.begin(replica.intent.map(|intent| intent.txn));
        for (asker, request) in replica.take_waiting() {
            self.again(asker, request);
        }
        self.retry_waiting();
        self.watch_range_moved(range, self.config.node);
    }

    /// A request that waited here is served anew.
    pub(super) fn again(&mut self, asker: Asker, request: RoutedRequest) {
        match asker {
            Asker::Local(_) | Asker::Nobody => {
                self.loopback.push_back(Message::Request(Box::new(request)));
            }
            Asker::Remote { node, .. } => self.later.push_back((node, request)),
        }
    }

    pub(super) fn lease_lost(&mut self, range: RangeId) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        replica.drop_lease();
        let hint = replica.leader_node().filter(|node| *node != self.config.node);
        replica.leaseholder.abandon(hint, &mut self.out);
        for (asker, _) in replica.take_waiting() {
            self.out.misrouted(asker, Misrouted::NotLeaseholder { hint });
        }
        if let Some(asker) = replica.take_admin() {
            self.out.misrouted(asker, Misrouted::NotLeaseholder { hint });
        }
        let feeds: Vec<_> = replica.take_subscribers();
        for feed in feeds {
            self.send(feed.gateway, Message::FeedEnded { feed, compacted: None });
        }
    }

    // The session with the sequencer.

    pub(super) fn meta_leader(&self) -> Option<NodeId> {
        let replica = self.replicas.get(&META_RANGE)?;
        if replica.group.is_leader() {
            return Some(self.config.node);
        }
        replica.leader_node()
    }

    /// Keeps the session pointed at the meta range's leader.
    pub(super) fn follow_sequencer(&mut self) {
        let leader = self.meta_leader();
        if self.session.sequencer() != leader {
            self.session.restart(leader);
            self.session_retry_at = None;
            self.watching.hints_wanted = false;
        }
    }

    pub(super) fn sequencer_answered(
        &mut self,
        session: crate::message::SessionId,
        first: u64,
        answers: &[crate::message::SequencerReply],
        compacted: i64,
        state: &dyn StateReads,
    ) {
        let answered = self.session.answer(session, first, answers, compacted);
        for (range, term, asked, reply) in answered {
            let current = current_revision(reply);
            self.session.learn(current);
            match asked {
                Asked::Gather(id) => self.gather_at(id, current),
                Asked::Watch(token) => self.watch_start(token, current),
                Asked::Transaction(sequence) => self.transaction_at(sequence, current),
                Asked::Range(cookie) => self.range_answered(range, term, cookie, reply, state),
            }
        }
    }

    fn range_answered(
        &mut self,
        range: RangeId,
        term: Term,
        cookie: leaseholder::Cookie,
        reply: crate::message::SequencerReply,
        state: &dyn StateReads,
    ) {
        let watermark = matches!(cookie, leaseholder::Cookie::Watermark);
        let current = self
            .replicas
            .get(&range)
            .is_some_and(|replica| replica.holds_lease() && replica.group.term() == term);
        if !current {
            let hint = self.replicas.get(&range).and_then(Replica::leader_node);
            let reason = Misrouted::NotLeaseholder { hint };
            return leaseholder::refuse_cookie(cookie, reason, &mut self.out);
        }
        if reply == crate::message::SequencerReply::Fenced {
            // Either a newer leader is registered (then raft will tell), or the descriptor that
            // this replica has applied is too old: register anew.
            let reason = Misrouted::NotLeaseholder { hint: None };
            leaseholder::refuse_cookie(cookie, reason, &mut self.out);
            self.lease_lost(range);
            self.dirty.insert(range);
            return;
        }
        let waits = self.with_leaseholder(range, state, |holder, view, out| {
            holder.answered(cookie, reply, view, out);
            holder.has_blocked()
        });
        // A refusal may have been the last thing that the blocked ones waited for.
        if waits == Some(true) {
            self.unblock.insert(range);
        }
        let mut again = false;
        self.router.proposing(range);
        if let Some(replica) = self.replicas.get_mut(&range) {
            if watermark {
                replica.asking_watermark = false;
                // The counter moved on while this was on its way, and may not move again.
                again = matches!(reply, crate::message::SequencerReply::Current(revision)
                    if revision < self.watching.hinted);
            }
            if !replica.seldom.subscribers.is_empty() {
                self.watching.moved.insert(range);
            }
        }
        if again {
            self.ask_watermark(range);
        }
    }

    /// Asks for the watermark of a range that has subscribers, if it may lag.
    pub(super) fn ask_watermark(&mut self, range: RangeId) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        if !replica.holds_lease()
            || replica.asking_watermark
            || replica.seldom.subscribers.is_empty()
        {
            return;
        }
        let Some(descriptor) = &replica.descriptor else { return };
        replica.asking_watermark = true;
        let item = SequencerItem {
            range,
            term: replica.group.term(),
            generation: descriptor.generation,
            kind: SequencerItemKind::Read,
        };
        self.session.ask(item, Asked::Range(leaseholder::Cookie::Watermark));
    }

    // Hand-over.

    /// Leadership belongs to the first in rank that is alive, not draining and caught up.
    fn consider_rebalance(&mut self, range: RangeId) {
        let Some(target) = self.better_placed(range) else {
            if let Some(replica) = self.replicas.get_mut(&range) {
                replica.transfer_ticks = 0;
            }
            return;
        };
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        replica.transfer_ticks += 1;
        replica.idle_ticks = 0;
        if replica.transfer_ticks >= REBALANCE_TICKS {
            replica.transfer_ticks = 0;
            self.hand_over(range, target);
        }
    }

    fn better_placed(&self, range: RangeId) -> Option<ReplicaId> {
        let replica = self.replicas.get(&range)?;
        if !replica.group.is_leader() || replica.group.is_transferring() {
            return None;
        }
        let descriptor = replica.descriptor.as_ref()?;
        let me = replica.group.me();
        let last = replica.group.last_index();
        let progress = replica.group.progress();
        let self_draining = self.is_draining(self.config.node);
        for voter in descriptor.voters() {
            if voter.replica == me {
                if self_draining {
                    continue;
                }
                return None;
            }
            let ready = !self.is_draining(voter.node)
                && self.peers.get(&voter.node).is_some_and(|peer| peer.connected && !peer.down)
                // "Heard of lately" starts anew with each check of the quorum, so it is not asked.
                && progress.iter().any(|(replica, matched, _, _)| {
                    *replica == voter.replica && matched + 1000 >= last
                });
            if ready {
                return Some(voter.replica);
            }
        }
        None
    }

    /// The best other voter to lead a range, if any is up.
    pub(super) fn successor(&self, range: RangeId) -> Option<ReplicaId> {
        let replica = self.replicas.get(&range)?;
        let descriptor = replica.descriptor.as_ref()?;
        let progress = replica.group.progress();
        descriptor
            .voters()
            .filter(|voter| {
                voter.replica != replica.group.me()
                    && !self.is_draining(voter.node)
                    && self.peers.get(&voter.node).is_some_and(|peer| peer.connected && !peer.down)
            })
            .max_by_key(|voter| {
                let matched = progress
                    .iter()
                    .find(|(id, ..)| *id == voter.replica)
                    .map_or(0, |(_, matched, ..)| *matched);
                (matched, std::cmp::Reverse(voter.replica))
            })
            .map(|voter| voter.replica)
    }

    pub(super) fn hand_over(&mut self, range: RangeId, to: ReplicaId) {
        if range == META_RANGE {
            self.resume_at = self.now + 2 * self.config.election_ms;
            if let Some(next) = self.sequencer.stop() {
                // The transfer follows the proposal at once: a successor is made only of a member
                // that has all of the log, this entry with it.
                self.service.handing_over = Some(to);
                self.service.change(MetaEntry {
                    id: RequestId::default(),
                    change: MetaChange::Handover { next },
                });
                return;
            }
            // It never became active: nothing to log.
        }
        if let Some(replica) = self.replicas.get_mut(&range) {
            replica.group.transfer(to);
            self.dirty.insert(range);
        }
        if range != META_RANGE {
            let hint = self.replicas.get(&range).and_then(|replica| replica.node_of(to));
            let Some(replica) = self.replicas.get_mut(&range) else { return };
            if replica.lease != Lease::None {
                replica.drop_lease();
                replica.leaseholder.abandon(hint, &mut self.out);
                let feeds: Vec<_> = replica.take_subscribers();
                for feed in feeds {
                    self.send(feed.gateway, Message::FeedEnded { feed, compacted: None });
                }
            }
        }
    }

    pub(super) fn serve_transfer(&mut self, asker: Asker, range: RangeId, to: NodeId) {
        let Some(replica) = self.replicas.get(&range) else {
            return self.out.misrouted(asker, Misrouted::NoReplica);
        };
        if !replica.group.is_leader() {
            let hint = replica.leader_node();
            return self.out.misrouted(asker, Misrouted::NotLeaseholder { hint });
        }
        let target = replica.descriptor.as_ref().and_then(|own| own.replica_on(to));
        let result = match target {
            Some(target) if target.replica == replica.group.me() => {
                Ok(Response::Admin { message: format!("{range} is led by {to} already") })
            }
            Some(target) => {
                self.hand_over(range, target.replica);
                Ok(Response::Admin { message: format!("{range} is being handed to {to}") })
            }
            None => Err(Error::Refused(format!("{to} has no replica of {range}"))),
        };
        self.outcome(asker, Outcome::Done(result));
    }

    pub(super) fn shutdown(&mut self) {
        self.stopping = true;
        self.meta_leaves_at = self.now + self.config.election_ms;
        self.hand_over_all();
    }

    /// Offers every leadership to another node (again, where it did not work out). The meta range
    /// comes a while after the others: the new leaseholders need a sequencer to register with, and
    /// two short waits are better for a client than a long one.
    pub(super) fn hand_over_all(&mut self) {
        let me = self.config.node;
        let busy = self.replicas.iter().any(|(range, replica)| {
            *range != META_RANGE
                && (replica.group.is_leader()
                    || self.meta.registration(*range).is_some_and(|held| held.node == me))
        });
        if !busy {
            self.meta_leaves_at = self.meta_leaves_at.min(self.now + META_STAYS_MS);
        }
        let leaves = self.now >= self.meta_leaves_at;
        let led: Vec<RangeId> = self
            .replicas
            .iter()
            .filter(|(_, replica)| replica.group.is_leader() && !replica.group.is_transferring())
            .map(|(range, _)| *range)
            .filter(|range| *range != META_RANGE || leaves)
            .collect();
        for range in led {
            if let Some(to) = self.successor(range) {
                self.hand_over(range, to);
            }
        }
    }
}

/// The revision that an answer of the sequencer names; 0 if none.
fn current_revision(reply: crate::message::SequencerReply) -> i64 {
    match reply {
        crate::message::SequencerReply::Granted(revision)
        | crate::message::SequencerReply::Current(revision) => revision,
        crate::message::SequencerReply::Fenced | crate::message::SequencerReply::LeaseNotFound => 0,
    }
}
