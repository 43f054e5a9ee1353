//! One node of the cluster: gateway, replicas and, on the meta range's leader, the sequencer.
//!
//! ```text
//!  client ─► router ─► replica (leaseholder) ─► session ─► sequencer (maybe another node)
//!    ▲                     │ propose                            │ revision
//!    └──── answer ◄─ apply ◄─ raft group ◄── log + peers ◄──────┘
//! ```
//!
//! Invariants: no clock, thread, socket, file or dice; everything that leaves, leaves in
//! [`Effects`]; what is applied in a turn is not read before the edge has made it visible.

use crate::alike::Alike;
use crate::command::MetaEntry;
use crate::effects::{
    ClientToken, Effects, Input, LogReads, Millis, Persist, ReplicaBoot, WatchToken,
};
use crate::error::{Error, Misrouted};
use crate::ids::{META_RANGE, NodeId, RangeId, ReplicaId, RequestId, Revision};
use crate::leaseholder::{Asker, Cookie, Out, View};
use crate::level::Level;
use crate::message::{Message, Outcome, SequencerItem};
use crate::meta::MetaState;
use crate::read::{Origin, ReadTask, ReadWork};
use crate::sequencer::Sequencer;
use crate::session::Session;
use crate::state::{ApplyBatch, StateReads};
use crate::status::Counters;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

mod applying;
mod booting;
mod checking;
mod draining;
mod gather;
mod growing;
mod leadership;
mod levels;
mod lifetimes;
mod loading;
mod log_sizes;
mod log_writes;
mod members;
mod merging;
mod messages;
mod meta_service;
mod moving;
mod planning;
mod policies;
mod ranking;
pub mod recovery;
mod replicas;
mod reports;
mod routing;
mod serving;
mod shrinking;
mod splitting;
mod standing;
mod status;
mod transactions;
mod unavailable;
mod watching;

use checking::Checks;
use lifetimes::Departures;
pub use loading::Shaping;
use log_sizes::LogSizes;
use log_writes::merge_write;
use merging::Merging;
use messages::EarlyVote;
use meta_service::{MetaService, Question};
use planning::Planning;
use replicas::Replicas;
use reports::Reports;
use routing::Router;
use shrinking::Shaper;
pub(crate) use splitting::Growth;
use watching::Watching;

/// A pause of this process longer than this (in milliseconds) means that its idea of who was
/// silent for how long is worthless.
const PAUSE_MS: Millis = 400;

/// Inputs processed from the own loop-back queue in one turn; a bound against endless turns.
const LOOPBACK_MAX: usize = 100_000;

/// Settings of a node.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// A number never used by another run of any node.
    pub incarnation: u64,
    /// Length of a raft tick.
    pub tick_ms: Millis,
    /// Silence after which a node counts as gone, and a follower stands for election.
    pub election_ms: Millis,
    /// Bytes of log kept for members that are behind (all ranges together).
    pub log_budget: u64,
    /// Bytes of live data above which a range is cut in two; 0 is never.
    pub split_bytes: u64,
    /// Between two consistency checks of a range led here; 0: only on command.
    pub check_every_ms: Millis,
    /// Cuts by load, merges and spread leaders.
    pub shaping: Shaping,
}

impl Config {
    /// Defaults for a node.
    pub fn new(node: NodeId, incarnation: u64) -> Self {
        Self {
            node,
            incarnation,
            tick_ms: 100,
            election_ms: 1000,
            log_budget: 1 << 30,
            split_bytes: 256 << 20,
            check_every_ms: 3_600_000,
            shaping: Shaping::default(),
        }
    }

    fn election_ticks(&self) -> usize {
        (self.election_ms / self.tick_ms).max(2) as usize
    }
}

/// What is known of another node's liveness.
#[derive(Clone, Debug, Default)]
struct Peer {
    last_heard: Millis,
    last_sent: Millis,
    connected: bool,
    /// Since the last connection.
    level: Level,
    incarnation: u64,
    down: bool,
    down_since: Millis,
}

/// Comes back with an answer of the sequencer.
#[derive(Debug)]
enum Asked {
    /// For the leaseholder of the range named in the item.
    Range(Cookie),
    /// The current revision, for a multi-range read.
    Gather(u64),
    /// The current revision, for a new watch.
    Watch(WatchToken),
    /// The current revision, for a transaction of this gateway that has locked its ranges.
    Transaction(u64),
}

/// See the module.
pub struct Node {
    config: Config,
    now: Millis,
    last_tick: Millis,
    reader: Arc<dyn LogReads>,
    replicas: Replicas,
    meta: MetaState,
    service: MetaService,
    sequencer: Sequencer<Question>,
    session: Session<Asked>,
    session_retry_at: Option<Millis>,
    router: Router,
    watching: Watching,
    peers: BTreeMap<NodeId, Peer>,
    dirty: BTreeSet<RangeId>,
    /// Every range that does not sleep, and some that do (see `leadership`).
    awake: BTreeSet<RangeId>,
    /// Ranges whose leader is gone, for a short time.
    standing: BTreeMap<RangeId, standing::Standing>,
    look_for_awake_at: Millis,
    /// How much log there is.
    logs: LogSizes,
    /// Members of ranges at rest.
    members: Alike<raft::eraftpb::ConfState>,
    /// Ranges with something on its way to the log.
    writing: BTreeSet<RangeId>,
    loopback: VecDeque<Message>,
    persist_sequence: u64,
    departures: Departures,
    merging: Merging,
    shaper: Shaper,
    reports: Reports,
    checks: Checks,
    unblock: BTreeSet<RangeId>,
    /// Requests of other nodes that waited for a lease which is here now.
    later: VecDeque<(NodeId, crate::message::RoutedRequest)>,
    effects: Effects,
    out: Out,
    full: bool,
    stopping: bool,
    /// On the way out, the meta range waits so long for the others to be handed over.
    meta_leaves_at: Millis,
    counters: Counters,
    known_peers: Vec<(NodeId, String)>,
    /// When a hand-over of the sequencer counts as failed.
    resume_at: Millis,
    /// The next attempt to raise the cluster's level.
    raise_at: Millis,
    /// Where copies go (on the meta range's leader).
    planning: Planning,
    /// When a cut was asked for at this bound of a placement policy.
    bounds_asked: BTreeMap<bytes::Bytes, Millis>,
    /// The next look for replicas that were removed.
    forget_at: Millis,
    /// Requests for votes in ranges that are not here yet: the cut that makes them may be applied in
    /// this very turn. Kept until the next tick.
    early: BTreeMap<RangeId, EarlyVote>,
    /// Replicas with a log and no state yet.
    orphans: BTreeMap<RangeId, ReplicaBoot>,
    /// Raft snapshots received, waiting for the raft library to take them.
    staged: BTreeMap<RangeId, (u64, crate::descriptor::RangeDescriptor)>,
    /// Raft snapshots being installed: these keys are spoken for already.
    installing: BTreeMap<RangeId, crate::key::Span>,
}

impl Node {
    /// A node that continues from what is on disk.
    ///
    /// # Errors
    /// State that cannot be read.
    pub fn new(
        config: Config,
        now: Millis,
        reader: Arc<dyn LogReads>,
        state: &dyn StateReads,
        boots: Vec<ReplicaBoot>,
    ) -> Result<Self, String> {
        let first = first_number(config.incarnation);
        let mut node = Self {
            session: Session::new(config.incarnation),
            router: Router::new(first),
            config,
            now,
            last_tick: now,
            reader,
            replicas: Replicas::default(),
            meta: MetaState::default(),
            service: MetaService::default(),
            sequencer: Sequencer::new(),
            session_retry_at: None,
            watching: Watching::new(first),
            peers: BTreeMap::new(),
            dirty: BTreeSet::new(),
            awake: BTreeSet::new(),
            standing: BTreeMap::new(),
            look_for_awake_at: 0,
            logs: LogSizes::default(),
            members: Alike::default(),
            writing: BTreeSet::new(),
            loopback: VecDeque::new(),
            persist_sequence: 0,
            departures: Departures::default(),
            merging: Merging::default(),
            shaper: Shaper::default(),
            reports: Reports::default(),
            checks: Checks::default(),
            unblock: BTreeSet::new(),
            later: VecDeque::new(),
            effects: Effects::default(),
            out: Out::default(),
            full: false,
            stopping: false,
            meta_leaves_at: 0,
            counters: Counters::default(),
            known_peers: Vec::new(),
            resume_at: 0,
            raise_at: 0,
            planning: Planning::default(),
            bounds_asked: BTreeMap::new(),
            forget_at: 0,
            early: BTreeMap::new(),
            orphans: BTreeMap::new(),
            staged: BTreeMap::new(),
            installing: BTreeMap::new(),
        };
        for boot in boots {
            let rows = state.system_rows(boot.range);
            if boot.range == META_RANGE {
                node.meta = MetaState::load(rows.iter().map(|(k, v)| (k.as_ref(), v.as_ref())))?;
            }
            node.start_replica(boot, &rows)?;
        }
        node.find_taken_in();
        node.meta_changed();
        for replica in node.replicas.values_mut() {
            // At a cold start the first in rank stands at once; the others give it time.
            let rank = replica.rank(|_| true);
            replica.campaign_in = Some(rank as u32 * 3 + 1);
        }
        Ok(node)
    }

    /// Something happened. Its consequences come with [`Self::effects`].
    pub fn step(&mut self, now: Millis, input: Input, state: &dyn StateReads) {
        if now > self.now + PAUSE_MS {
            self.woke_from_pause(now);
        }
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.tick(),
            Input::Request { token, deadline, request } => {
                self.client_request(token, deadline, request, state);
            }
            Input::Abandon { token } => self.router.abandon(token),
            Input::Message { from, message } => {
                self.heard(from);
                self.message(from, message, state);
            }
            Input::Persisted { sequence } => self.persisted(sequence),
            Input::PeerConnected { peer, level } => self.peer_connected(peer, level, state),
            Input::PeerLost { peer, refused } => self.peer_lost(peer, refused),
            Input::ReadDone { gather, part, result } => self.gathered(gather, part, result),
            Input::SnapshotBuilt { range, to, applied } => self.snapshot_built(range, to, applied),
            Input::SnapshotSent { range, to, ok } => {
                if let Some(replica) = self.replicas.get_mut(&range) {
                    replica.group.snapshot_sent(to, ok);
                    self.dirty.insert(range);
                }
            }
            Input::SnapshotStaged { from, message, staged } => {
                self.heard(from);
                self.snapshot_staged(from, message, staged);
            }
            Input::SnapshotInstalled { range } => self.snapshot_installed(range, state),
            Input::StateDurable { applied } => self.state_durable(&applied),
            Input::FeedScanned { feed, events, through } => {
                self.feed_scanned(feed, events, through);
            }
            Input::WatchCreate { token, span, start, prev_kv } => {
                self.watch_create(token, span, start, prev_kv);
            }
            Input::WatchCancel { token } => self.watch_cancel(token),
            Input::Measured { range, generation, measure } => {
                self.measured(range, generation, measure);
            }
            Input::DiskFull { full } => self.full = full,
            Input::Hashed { to, found } => self.send(to, Message::Checked(found)),
            Input::Shutdown => self.shutdown(),
        }
        self.drain_out();
    }

    /// Everything that the inputs since the last call ask of the edge.
    pub fn effects(&mut self, now: Millis, state: &dyn StateReads) -> Effects {
        if now > self.now + PAUSE_MS {
            self.woke_from_pause(now);
        }
        self.now = self.now.max(now);
        self.remove_doomed();
        for range in std::mem::take(&mut self.unblock) {
            self.with_leaseholder(range, state, |leaseholder, view, out| {
                leaseholder.unblock(view, out);
            });
            self.router.proposing(range);
        }
        self.drain_out();
        let mut committed: BTreeMap<RangeId, Vec<raft::eraftpb::Entry>> = BTreeMap::new();
        let mut persist = Persist { sequence: self.persist_sequence + 1, ..Persist::default() };
        for _ in 0..LOOPBACK_MAX {
            self.sequence_turn();
            while let Some((from, request)) = self.later.pop_front() {
                let asker = Asker::Remote { node: from, token: request.token };
                self.serve(asker, request, state);
                self.drain_out();
            }
            let message = self.loopback.pop_front();
            let busy = message.is_some();
            if let Some(message) = message {
                self.message(self.config.node, message, state);
                self.drain_out();
            }
            self.propose();
            self.group_turns(&mut persist, &mut committed);
            let idle =
                self.dirty.is_empty() && !self.service.has_changes() && !self.session.has_unsent();
            if !busy && self.loopback.is_empty() && idle {
                break;
            }
        }
        self.discard_staged();
        for range in self.merging.holding() {
            committed.entry(range).or_default();
        }
        for (range, entries) in committed {
            self.apply(range, entries, state, &mut persist);
        }
        self.after_apply();
        self.drain_out();
        if !persist.writes.is_empty() {
            self.persist_sequence += 1;
            persist.sync = true;
            self.effects.persist.push(persist);
        }
        self.hints();
        self.effects.again |= !self.loopback.is_empty()
            || !self.unblock.is_empty()
            || !self.later.is_empty()
            || !self.dirty.is_empty()
            || self.service.has_changes()
            || self.session.has_unsent()
            || self.has_departures()
            || self.has_ready_merges()
            || self.departures.has_leftovers();
        self.effects.handed_over =
            self.stopping && self.replicas.values().all(|replica| !replica.group.is_leader());
        std::mem::take(&mut self.effects)
    }

    /// Sends to a node, or to ourselves.
    fn send(&mut self, to: NodeId, message: Message) {
        if to == self.config.node {
            self.loopback.push_back(message);
        } else {
            if let Some(peer) = self.peers.get_mut(&to) {
                peer.last_sent = self.now;
            }
            self.effects.send.push((to, message));
        }
    }

    /// The sequencer's part of a turn: number what is queued, and ask what is to be asked.
    fn sequence_turn(&mut self) {
        if let Some((to, message)) = self.session.take_unsent() {
            self.send(to, message);
        }
        if self.loopback.is_empty()
            && let Some(round) = self.sequencer.number(&self.meta)
            && let Some(replica) = self.replicas.get_mut(&META_RANGE)
        {
            self.counters.rounds += 1;
            replica.group.confirm(round);
            self.dirty.insert(META_RANGE);
        }
        self.sequencer_housekeeping();
    }

    /// Gives each leaseholder's granted commands to its group.
    fn propose(&mut self) {
        let ranges: Vec<RangeId> = self.router.take_proposing();
        for range in ranges {
            let Some(replica) = self.replicas.get_mut(&range) else { continue };
            if !replica.holds_lease() {
                continue;
            }
            for commands in replica.leaseholder.take_proposals() {
                let data = crate::command::Entry::Commands(commands).encode();
                self.counters.proposals += 1;
                if !replica.group.propose(data) {
                    // Later ones must not overtake it: start over once the log is applied.
                    replica.drop_lease();
                    replica.leaseholder.abandon(None, &mut self.out);
                    break;
                }
            }
            if let Some(cut) = replica.leaseholder.take_cut() {
                self.propose_cut(range, cut);
                continue;
            }
            for entry in replica.leaseholder.take_entries() {
                self.counters.proposals += 1;
                if !replica.holds_lease() || !replica.group.propose(entry.encode()) {
                    replica.drop_lease();
                    replica.leaseholder.abandon(None, &mut self.out);
                    break;
                }
            }
            replica.wake(&mut self.awake);
            self.dirty.insert(range);
        }
        let changes = self.service.take_changes();
        if !changes.is_empty() {
            self.propose_meta(changes);
        }
        if let Some(to) = self.service.handing_over.take()
            && let Some(replica) = self.replicas.get_mut(&META_RANGE)
        {
            replica.group.transfer(to);
            self.dirty.insert(META_RANGE);
        }
    }

    fn propose_meta(&mut self, changes: Vec<MetaEntry>) {
        if let Some(replica) = self.replicas.get_mut(&META_RANGE) {
            let data = crate::command::Entry::Meta(changes).encode();
            self.counters.proposals += 1;
            // If it is refused, whoever waits for it asks again.
            if !replica.group.propose(data) {
                self.service.proposal_refused(self.now, &mut self.out);
            }
            self.dirty.insert(META_RANGE);
        }
    }

    /// Collects what the raft groups that were touched bring.
    fn group_turns(
        &mut self,
        persist: &mut Persist,
        committed: &mut BTreeMap<RangeId, Vec<raft::eraftpb::Entry>>,
    ) {
        for range in std::mem::take(&mut self.dirty) {
            let Some(replica) = self.replicas.get_mut(&range) else { continue };
            self.awake.insert(range);
            let Some(turn) = replica.group.turn(persist.sequence) else {
                self.role_changed(range);
                continue;
            };
            if let Some(write) = turn.write {
                if write.truncate.is_some() {
                    // A raft snapshot is in its place.
                    self.logs.forget(range);
                }
                self.logs.written(range, write.entries.iter().map(|entry| entry.data.len()));
                merge_write(persist, write);
                self.writing.insert(range);
            }
            // Without a state there is nothing to apply it to: that comes with a raft snapshot.
            if replica.descriptor.is_some() {
                committed.entry(range).or_default().extend(turn.committed);
            }
            let wanted = replica.group.take_wanted();
            self.send_raft(range, turn.messages);
            if let Some(snapshot) = turn.snapshot {
                self.install_snapshot(range, &snapshot);
            }
            for read in turn.reads {
                if range == META_RANGE && read.request_ctx.len() == 8 {
                    let round: [u8; 8] =
                        read.request_ctx.as_slice().try_into().expect("length checked");
                    self.round_confirmed(u64::from_be_bytes(round));
                }
            }
            for to in wanted {
                self.snapshot_wanted(range, ReplicaId(to));
            }
            self.role_changed(range);
        }
    }

    /// Runs something on the leaseholder of a range, if this node holds the range lease.
    fn with_leaseholder<R>(
        &mut self,
        range: RangeId,
        state: &dyn StateReads,
        run: impl FnOnce(&mut crate::leaseholder::Leaseholder, &View<'_>, &mut Out) -> R,
    ) -> Option<R> {
        let out_of_space = self.out_of_space();
        let replica = self.replicas.get_mut(&range)?;
        if !replica.holds_lease() {
            return None;
        }
        let descriptor = replica.descriptor.as_ref()?;
        let view = View {
            state,
            dedup: &replica.dedup,
            span: &descriptor.span,
            known: self.session.known(),
            compacted: self.session.compacted().max(self.meta.compacted()),
            full: self.full || out_of_space,
        };
        let result = run(&mut replica.leaseholder, &view, &mut self.out);
        let (term, generation) = (replica.group.term(), descriptor.generation);
        for (kind, cookie) in self.out.questions.drain(..) {
            let item = SequencerItem { range, term, generation, kind };
            self.session.ask(item, Asked::Range(cookie));
        }
        if replica.asleep {
            replica.wake(&mut self.awake);
        }
        Some(result)
    }

    /// Sends answers and reads where they belong.
    fn drain_out(&mut self) {
        while !self.out.outcomes.is_empty() || !self.out.reads.is_empty() {
            let out = std::mem::take(&mut self.out);
            for (asker, outcome) in out.outcomes {
                self.outcome(asker, outcome);
            }
            for (asker, work) in out.reads {
                self.read(asker, work);
            }
        }
    }

    fn outcome(&mut self, asker: Asker, mut outcome: Outcome) {
        if let Outcome::Misrouted { reason: Misrouted::RangeMoved, descriptors } = &mut outcome {
            let all = self.replicas.values();
            descriptors.extend(all.filter_map(|replica| replica.descriptor.as_deref().cloned()));
        }
        match asker {
            Asker::Local(sequence) => self.routed_outcome(sequence, outcome),
            Asker::Remote { node, token } => self.send(node, Message::Reply { token, outcome }),
            Asker::Nobody => {}
        }
    }

    fn read(&mut self, asker: Asker, work: ReadWork) {
        let origin = match asker {
            Asker::Local(sequence) => match self.router.read_started(sequence) {
                Some(origin) => origin,
                None => return,
            },
            Asker::Remote { node, token } => Origin::Remote { node, token },
            Asker::Nobody => return,
        };
        self.effects.reads.push(ReadTask { origin, work });
    }

    /// Writes are refused as long as the alarm is raised, as in etcd.
    fn out_of_space(&self) -> bool {
        self.meta.alarms().iter().any(|(_, kind)| *kind == crate::request::AlarmKind::NoSpace)
    }

    /// Is this node marked as one that leads nothing?
    fn is_draining(&self, node: NodeId) -> bool {
        self.meta.nodes().get(&node).is_some_and(|record| !record.state.may_lead())
    }

    fn fail_client(&mut self, token: ClientToken, error: Error) {
        self.effects.replies.push((token, Err(error)));
    }

    fn apply_batch(&mut self, batch: ApplyBatch) {
        self.effects.apply.push(batch);
    }

    /// The incarnation, also the gateway's name in request ids.
    fn request_id(&self, sequence: u64) -> RequestId {
        RequestId { gateway: self.config.incarnation, sequence }
    }

    /// The newest revision that this node has heard of.
    pub fn known_revision(&self) -> Revision {
        self.session
            .known()
            .max(self.replicas.values().map(|replica| replica.revision).max().unwrap_or_default())
    }
}

/// Where a run of a node starts to count what it asks of others: far from where any other run
/// does, so that an answer meant for an earlier run finds nobody. (The mixing is that of
/// SplitMix64, by Steele, Lea and Flood.)
fn first_number(incarnation: u64) -> u64 {
    const BITS: u32 = 48;
    let mut mixed = incarnation.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> (u64::BITS - BITS)
}
