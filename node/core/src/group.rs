//! One member of one Raft group: the raft library plus the bookkeeping that keeps its contract.
//!
//! Invariants (raft 0.7): between `ready` and `advance` nothing else touches the raft node; new
//! entries are readable through the log view before `advance`; messages of a follower or candidate
//! leave only after everything they speak of is durable; a raft snapshot is installed before the
//! node goes on; a message that the library would panic on does not reach it ([`Refusal`]). A group
//! that rests is folded: [`folded`] says what is kept, and why that is all there is to know.

mod admission;
mod folded;

pub use admission::Refusal;

use crate::alike::Alike;
use crate::effects::{LogReads, LogWrite, ReplicaBoot};
use crate::ids::{Index, RangeId, ReplicaId, Term};
use crate::log_view::LogView;
use crate::state::Applied;
use folded::Folded;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::{RawNode, ReadState, Ready, StateRole, Storage};
use std::collections::VecDeque;
use std::sync::Arc;

/// Entries of one append message, in bytes.
const APPEND_BYTES_MAX: u64 = 1 << 20;
/// Append messages under way to a follower.
const INFLIGHT_MAX: usize = 256;
/// Bytes of entries proposed and not committed; beyond it proposals are refused.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Bytes of committed entries handed out at a time.
const COMMITTED_BYTES_MAX: u64 = 8 << 20;

/// What the raft library brought in a turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// May leave now.
    pub messages: Vec<Message>,
    /// Must be made durable, under the sequence number given to [`Group::turn`].
    pub write: Option<LogWrite>,
    /// To apply, in order.
    pub committed: Vec<Entry>,
    /// Quorum rounds confirmed.
    pub reads: Vec<ReadState>,
    /// A raft snapshot to install; the group stands still until [`Group::installed`].
    pub snapshot: Option<Snapshot>,
}

/// Something that waits for the disk.
struct Outstanding {
    sequence: u64,
    ready: u64,
    last_entry: Option<Index>,
    /// The position of a raft snapshot that this write completes: applied once it is durable, since
    /// the library takes nothing for applied that it does not know to be persisted.
    installed: Option<Index>,
    messages: Vec<Message>,
}

/// See the module.
pub struct Group {
    range: RangeId,
    me: ReplicaId,
    reader: Arc<dyn LogReads>,
    election_ticks: u32,
    form: Form,
}

/// Thousands of groups rest while some work, so what only those need has a place of its own.
enum Form {
    Working(Box<Working>),
    Folded(Box<Folded>),
}

/// A group at work.
struct Working {
    raft: RawNode<LogView>,
    outstanding: VecDeque<Outstanding>,
    persisted: Index,
    installing: Option<Ready>,
}

impl Working {
    fn new(me: ReplicaId, view: LogView, applied: Index, election_ticks: usize) -> Self {
        let config = raft::Config {
            id: me.0,
            election_tick: election_ticks,
            heartbeat_tick: 1,
            applied,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            ..raft::Config::default()
        };
        let persisted = view.last();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, view, &logger)
            .expect("the configuration is valid and the log view cannot fail");
        Self { raft, outstanding: VecDeque::new(), persisted, installing: None }
    }

    /// See [`Group::is_installing`].
    fn is_installing(&self) -> bool {
        self.installing.is_some()
            || self.outstanding.iter().any(|waiting| waiting.installed.is_some())
    }

    fn is_quiet(&self) -> bool {
        self.outstanding.is_empty() && self.installing.is_none() && !self.raft.has_ready()
    }
}

impl Group {
    /// Continues from what is on disk.
    pub fn new(
        me: ReplicaId,
        boot: ReplicaBoot,
        conf_state: ConfState,
        reader: Arc<dyn LogReads>,
        election_ticks: usize,
    ) -> Self {
        let ReplicaBoot { range, mut hard_state, truncated, last_index, applied, removed: _ } =
            boot;
        hard_state.commit = hard_state.commit.max(applied.index).min(last_index);
        hard_state.term = hard_state.term.max(applied.term);
        let view =
            LogView::new(range, reader.clone(), truncated, last_index, hard_state, conf_state);
        let working = Working::new(me, view, applied.index, election_ticks);
        let form = Form::Working(Box::new(working));
        let mut group = Self { range, me, reader, election_ticks: election_ticks as u32, form };
        group.settle_timeout(0);
        group
    }

    /// Makes the raft library's own state again, if this group was folded.
    fn unfold(&mut self) -> &mut Working {
        if let Form::Folded(folded) = &self.form {
            let reader = self.reader.clone();
            let working = folded.unfold(self.range, self.me, reader, self.election_ticks as usize);
            self.form = Form::Working(Box::new(working));
            self.settle_timeout(0);
        }
        match &mut self.form {
            Form::Working(working) => working,
            Form::Folded(_) => unreachable!("it was unfolded above"),
        }
    }

    /// The raft library draws election timeouts from a random source of its own; every replay must
    /// be the same, so the timeout is a function of who we are. Lower ranks come first.
    pub fn settle_timeout(&mut self, rank: usize) {
        let Form::Working(working) = &mut self.form else { return };
        let raft = &mut working.raft.raft;
        let mixed =
            (self.range.0 ^ raft.term.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62;
        let ticks = self.election_ticks as usize;
        let extra = (rank * 2 + mixed as usize % 2).min(ticks - 1);
        raft.set_randomized_election_timeout(ticks + extra);
    }

    /// This replica.
    pub fn me(&self) -> ReplicaId {
        self.me
    }

    /// The current term.
    pub fn term(&self) -> Term {
        match &self.form {
            Form::Working(working) => working.raft.raft.term,
            Form::Folded(folded) => folded.term,
        }
    }

    /// True if this replica leads.
    pub fn is_leader(&self) -> bool {
        match &self.form {
            Form::Working(working) => working.raft.raft.state == StateRole::Leader,
            Form::Folded(folded) => folded.leader == self.me,
        }
    }

    /// True while this replica stands for election with some prospect: asked to by the leader, or
    /// after others said that they would vote for it.
    pub fn is_candidate(&self) -> bool {
        match &self.form {
            Form::Working(working) => working.raft.raft.state == StateRole::Candidate,
            Form::Folded(_) => false,
        }
    }

    /// The leader, as far as known.
    pub fn leader(&self) -> Option<ReplicaId> {
        match &self.form {
            Form::Working(working) => match working.raft.raft.leader_id {
                raft::INVALID_ID => None,
                id => Some(ReplicaId(id)),
            },
            Form::Folded(folded) => Some(folded.leader),
        }
    }

    /// The committed index.
    pub fn committed(&self) -> Index {
        match &self.form {
            Form::Working(working) => working.raft.raft.raft_log.committed,
            Form::Folded(folded) => folded.last.index,
        }
    }

    /// The last index of the log.
    pub fn last_index(&self) -> Index {
        match &self.form {
            Form::Working(working) => working.raft.raft.raft_log.last_index(),
            Form::Folded(folded) => folded.last.index,
        }
    }

    /// The members, as of what is applied.
    pub fn members(&self) -> &Arc<ConfState> {
        match &self.form {
            Form::Working(working) => working.raft.store().conf_state(),
            Form::Folded(folded) => &folded.members,
        }
    }

    /// The position below which the log was cut.
    pub fn truncated(&self) -> Applied {
        match &self.form {
            Form::Working(working) => working.raft.store().truncated(),
            Form::Folded(folded) => folded.truncated,
        }
    }

    /// The log below was cut.
    pub fn truncate(&mut self, to: Applied) {
        match &mut self.form {
            Form::Working(working) => working.raft.mut_store().truncate(to),
            Form::Folded(folded) => folded.truncated = to,
        }
    }

    /// The term at an index, if the log still knows it.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        match &self.form {
            Form::Working(working) => working.raft.store().term_at(index),
            Form::Folded(folded) => folded.view(self.range, self.reader.clone()).term_at(index),
        }
    }

    /// Offers a pinned snapshot (or takes it back).
    pub fn set_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.unfold().raft.mut_store().set_snapshot(snapshot);
    }

    /// Replicas that want a snapshot since the last call.
    pub fn take_wanted(&self) -> Vec<u64> {
        match &self.form {
            Form::Working(working) => working.raft.store().take_wanted(),
            Form::Folded(_) => Vec::new(),
        }
    }

    /// True from the moment at which the library has taken a raft snapshot until it is installed.
    pub fn has_snapshot(&self) -> bool {
        match &self.form {
            Form::Working(working) => {
                working.is_installing() || working.raft.raft.raft_log.unstable.snapshot.is_some()
            }
            Form::Folded(_) => false,
        }
    }

    /// True while a raft snapshot is being installed: nothing may be asked of the group. Until the
    /// new log is durable too, the library has not applied what its log no longer has, and would
    /// look for it (for changes of members) if it stood for election.
    pub fn is_installing(&self) -> bool {
        match &self.form {
            Form::Working(working) => working.is_installing(),
            Form::Folded(_) => false,
        }
    }

    /// For each member: (replica, matched index, heard of lately, is in need of a snapshot).
    pub fn progress(&self) -> Vec<(ReplicaId, Index, bool, bool)> {
        if !self.is_leader() {
            return Vec::new();
        }
        match &self.form {
            Form::Working(working) => working
                .raft
                .raft
                .prs()
                .iter()
                .map(|(id, progress)| {
                    (
                        ReplicaId(*id),
                        progress.matched,
                        progress.recent_active,
                        progress.state == raft::ProgressState::Snapshot,
                    )
                })
                .collect(),
            Form::Folded(folded) => {
                folded.all().map(|id| (ReplicaId(id), folded.last.index, true, false)).collect()
            }
        }
    }

    /// Time passed.
    pub fn tick(&mut self) {
        if !self.is_installing() {
            self.unfold().raft.tick();
        }
    }

    /// Stand for election now. Only a voter can: the library asks that when its own clock says so,
    /// and not here.
    pub fn campaign(&mut self) {
        if self.is_installing() || self.is_leader() {
            return;
        }
        let raft = &mut self.unfold().raft;
        if raft.raft.promotable() {
            // The only error is "no such message while a configuration change is pending".
            if raft.campaign().is_err() {}
        }
    }

    /// The leader is known to be gone: do not protect it from elections any longer.
    pub fn forget_leader(&mut self) {
        if !self.is_installing() && !self.is_leader() && self.leader().is_some() {
            let raft = &mut self.unfold().raft.raft;
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
    }

    /// Gives up leading, without a successor, and standing for election.
    pub fn step_down(&mut self) {
        let raft = &mut self.unfold().raft.raft;
        if raft.state != StateRole::Follower {
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
    }

    /// A message from another member.
    ///
    /// # Errors
    /// It was not taken, and why.
    pub fn step(&mut self, message: Message) -> Result<(), Refusal> {
        self.admit(&message)?;
        if self.is_known(&message) {
            return Ok(());
        }
        // Errors mean "not for me" (unknown peer, local message): raft itself recovers.
        self.unfold().raft.step(message).or(Ok(()))
    }

    /// True if a message says only what a leader at rest knows: that the sender has its log. The
    /// answers to its last heartbeats come when it rests already.
    fn is_known(&self, message: &Message) -> bool {
        let Form::Folded(folded) = &self.form else { return false };
        message.get_msg_type() == MessageType::MsgHeartbeatResponse
            && folded.leader == self.me
            && message.term <= folded.term
    }

    /// This replica has a log and not the state to which it belongs: asks the leader for a raft
    /// snapshot, unless it has. Until that comes, the log stays as it is.
    pub fn want_state(&mut self) {
        if self.is_installing() || self.last_index() == 0 {
            return;
        }
        // The errors are "not now": no leader, nothing of its term yet, asked already.
        if self.unfold().raft.request_snapshot().is_err() {}
    }

    /// Proposes an entry. False: refused for now. Only a leader's proposal is taken; it is never
    /// forwarded.
    pub fn propose(&mut self, data: Vec<u8>) -> bool {
        !self.is_installing()
            && self.is_leader()
            && self.unfold().raft.propose(Vec::new(), data).is_ok()
    }

    /// Proposes a change of members.
    pub fn propose_change(&mut self, context: Vec<u8>, change: ConfChangeV2) -> bool {
        !self.is_installing()
            && self.is_leader()
            && self.unfold().raft.propose_conf_change(context, change).is_ok()
    }

    /// A change of members is proposed and not applied: another would be ignored.
    pub fn is_changing(&self) -> bool {
        match &self.form {
            Form::Working(working) => working.raft.raft.has_pending_conf(),
            Form::Folded(_) => false,
        }
    }

    /// Between the two halves of a joint change: the second half has to be proposed if the leader
    /// that would have done so is gone.
    pub fn is_joint(&self) -> bool {
        !self.members().voters_outgoing.is_empty()
    }

    /// Does this replica's vote count, in one of the halves if a change is not over?
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        let members = self.members();
        members.voters.contains(&replica.0) || members.voters_outgoing.contains(&replica.0)
    }

    /// Does this replica count, or will it, or did it until a change that is not over?
    pub fn is_member(&self, replica: ReplicaId) -> bool {
        let members = self.members();
        [&members.voters, &members.voters_outgoing, &members.learners, &members.learners_next]
            .into_iter()
            .any(|part| part.contains(&replica.0))
    }

    /// A change of members was applied.
    pub fn apply_change(&mut self, change: &ConfChangeV2) -> ConfState {
        let raft = &mut self.unfold().raft;
        let state = raft
            .apply_conf_change(change)
            .expect("a committed change of members is valid: it was checked when proposed");
        raft.mut_store().set_conf_state(state.clone());
        state
    }

    /// Whoever says so knows that this position is committed. True if that was news, and the log has
    /// it.
    pub fn commit_to(&mut self, position: Applied) -> bool {
        let known = || self.term_at(position.index) == Some(position.term);
        if self.is_installing() || self.committed() >= position.index || !known() {
            return false;
        }
        self.unfold().raft.raft.raft_log.commit_to(position.index);
        true
    }

    /// Starts a quorum round that confirms leadership.
    pub fn confirm(&mut self, round: u64) {
        if !self.is_installing() && self.is_leader() {
            self.unfold().raft.read_index(round.to_be_bytes().to_vec());
        }
    }

    /// Hands leadership to another member. Not a leader's any more, the library would
    /// forward the wish to whoever leads now.
    pub fn transfer(&mut self, to: ReplicaId) {
        if !self.is_installing() && self.is_leader() {
            self.unfold().raft.transfer_leader(to.0);
        }
    }

    /// True while a hand-over is under way.
    pub fn is_transferring(&self) -> bool {
        match &self.form {
            Form::Working(working) => working.raft.raft.lead_transferee.is_some(),
            Form::Folded(_) => false,
        }
    }

    /// Gives up a hand-over that did not happen.
    pub fn abort_transfer(&mut self) {
        if let Form::Working(working) = &mut self.form {
            working.raft.raft.abort_leader_transfer();
        }
    }

    /// A member cannot be reached. (A group at rest probes all of them anyway when it works again.)
    pub fn unreachable(&mut self, replica: ReplicaId) {
        if let Form::Working(working) = &mut self.form
            && !working.is_installing()
        {
            working.raft.report_unreachable(replica.0);
        }
    }

    /// How a raft snapshot stream ended.
    pub fn snapshot_sent(&mut self, to: ReplicaId, ok: bool) {
        if !self.is_installing() {
            let status =
                if ok { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
            self.unfold().raft.report_snapshot(to.0, status);
        }
    }

    /// Everything up to here was applied.
    pub fn applied(&mut self, index: Index) {
        // Nothing that a folded group does not know.
        if let Form::Working(working) = &mut self.form {
            working.applied(index);
        }
    }

    /// Collects what there is to do. `sequence` names the write, if there is one.
    pub fn turn(&mut self, sequence: u64) -> Option<Turn> {
        let range = self.range;
        let Form::Working(working) = &mut self.form else { return None };
        if working.installing.is_some() || !working.raft.has_ready() {
            return None;
        }
        let mut ready = working.raft.ready();
        let mut turn = Turn {
            messages: ready.take_messages(),
            committed: ready.take_committed_entries(),
            reads: ready.take_read_states(),
            ..Turn::default()
        };
        if !ready.snapshot().is_empty() {
            turn.snapshot = Some(ready.snapshot().clone());
            working.installing = Some(ready);
            return Some(turn);
        }
        working.advance(range, ready, sequence, None, &mut turn);
        Some(turn)
    }

    /// The raft snapshot is installed and durable in the state.
    pub fn installed(&mut self, sequence: u64) -> Option<(Applied, Turn)> {
        let range = self.range;
        let Form::Working(working) = &mut self.form else { return None };
        let ready = working.installing.take()?;
        let meta = ready.snapshot().get_metadata();
        let position = Applied { index: meta.index, term: meta.term };
        let conf_state = meta.get_conf_state().clone();
        working.raft.mut_store().reset_to(position, conf_state);
        let mut turn = Turn::default();
        working.advance(range, ready, sequence, Some(position), &mut turn);
        Some((position, turn))
    }

    /// Term and vote as last made durable (or on the way).
    pub fn hard_state(&self) -> HardState {
        match &self.form {
            Form::Working(working) => working.hard_state(),
            Form::Folded(folded) => folded.hard_state(),
        }
    }

    /// Writes up to `sequence` are durable: gives the messages that waited for them.
    pub fn persisted(&mut self, sequence: u64) -> Vec<Message> {
        match &mut self.form {
            Form::Working(working) => working.persisted(sequence),
            Form::Folded(_) => Vec::new(),
        }
    }

    /// True if something waits for the disk.
    pub fn is_waiting(&self) -> bool {
        match &self.form {
            Form::Working(working) => !working.outstanding.is_empty(),
            Form::Folded(_) => false,
        }
    }

    /// True if nothing waits for the disk and nothing is left to do.
    pub fn is_quiet(&self) -> bool {
        match &self.form {
            Form::Working(working) => working.is_quiet(),
            Form::Folded(_) => true,
        }
    }

    /// Bytes that a group at rest takes beside itself.
    #[cfg(test)]
    pub const FOLDED_BYTES: usize = size_of::<Folded>();

    /// True if it rests, and as little as possible is kept of it.
    pub fn is_folded(&self) -> bool {
        matches!(self.form, Form::Folded(_))
    }

    /// Gives back memory that only a group at work needs: a node may hold thousands that sleep.
    pub fn rest(&mut self) {
        let Form::Working(working) = &mut self.form else { return };
        match Folded::of(working, self.me) {
            Some(folded) => self.form = Form::Folded(Box::new(folded)),
            None => working.rest(),
        }
    }

    /// Of a group at rest: its members are kept once for all that have the same.
    pub fn share_members(&mut self, alike: &mut Alike<ConfState>) {
        if let Form::Folded(folded) = &mut self.form {
            alike.share(&mut folded.members);
        }
    }

    /// Gives back memory that was needed for more work than there is now, if nothing is under way.
    pub fn trim(&mut self) {
        if let Form::Working(working) = &mut self.form
            && working.is_quiet()
        {
            working.rest();
        }
    }

    /// True if every member has everything.
    pub fn all_caught_up(&self, applied: Index) -> bool {
        let last = self.last_index();
        let followed = || match &self.form {
            Form::Working(working) => {
                working.raft.raft.prs().iter().all(|(_, progress)| progress.matched == last)
            }
            Form::Folded(_) => true,
        };
        self.is_leader() && applied == last && self.committed() == last && followed()
    }
}

impl Working {
    /// See [`Group::applied`].
    fn applied(&mut self, index: Index) {
        let last = self.raft.raft.raft_log.last_index();
        self.raft.advance_apply_to(index);
        // The library adds the second half of a joint change by itself, and sends it with whatever
        // comes next: a heartbeat, as nothing is served meanwhile.
        if self.raft.raft.raft_log.last_index() > last {
            self.raft.raft.bcast_append();
        }
    }

    fn advance(
        &mut self,
        range: RangeId,
        mut ready: Ready,
        sequence: u64,
        truncate: Option<Applied>,
        turn: &mut Turn,
    ) {
        let entries = ready.take_entries();
        // A changed commit index alone need not be written: it is found again.
        let hard_state = ready.hs().cloned();
        let must_write = ready.must_sync() || !entries.is_empty() || truncate.is_some();
        let held = ready.take_persisted_messages();
        let number = ready.number();
        if let Some(hard_state) = &hard_state {
            self.raft.mut_store().set_hard_state(hard_state.clone());
        }
        self.raft.mut_store().append(&entries);
        let last_entry = entries.last().map(|entry| entry.index);
        self.raft.advance_append_async(ready);
        if must_write {
            let hard_state = hard_state.or_else(|| Some(self.hard_state()));
            // Entries above a raft snapshot's position may contradict it: they go as well.
            let destroy = truncate.is_some();
            turn.write =
                Some(LogWrite { range, entries, hard_state, truncate, destroy, removed: None });
            self.outstanding.push_back(Outstanding {
                sequence,
                ready: number,
                last_entry: last_entry.or(truncate.map(|position| position.index)),
                installed: truncate.map(|position| position.index),
                messages: held,
            });
        } else if let Some(last) = self.outstanding.back_mut() {
            last.ready = number;
            last.messages.extend(held);
        } else {
            self.raft.on_persist_ready(number);
            turn.messages.extend(held);
        }
    }

    fn hard_state(&self) -> HardState {
        self.raft.store().initial_state().expect("the log view cannot fail").hard_state
    }

    /// See [`Group::persisted`].
    fn persisted(&mut self, sequence: u64) -> Vec<Message> {
        let mut released = Vec::new();
        while self.outstanding.front().is_some_and(|waiting| waiting.sequence <= sequence) {
            let done = self.outstanding.pop_front().expect("checked above");
            self.raft.on_persist_ready(done.ready);
            if let Some(index) = done.installed {
                self.applied(index);
            }
            if let Some(index) = done.last_entry {
                self.persisted = index;
            }
            released.extend(done.messages);
        }
        let persisted = self.persisted;
        self.raft.mut_store().shrink(persisted);
        released
    }

    /// For a group that cannot be folded: what it needs only when there is work.
    fn rest(&mut self) {
        self.raft.raft.maybe_free_inflight_buffers();
        self.raft.raft.raft_log.unstable.entries.shrink_to_fit();
        let persisted = self.persisted;
        self.raft.mut_store().rest(persisted);
        self.outstanding.shrink_to_fit();
    }
}

/// Encodes a raft message for the wire.
pub fn encode_raft(message: &Message) -> bytes::Bytes {
    message.write_to_bytes().expect("a raft message can be encoded").into()
}

/// Decodes a raft message from the wire.
///
/// # Errors
/// Bytes that are not a raft message.
pub fn decode_raft(data: &[u8]) -> Result<Message, String> {
    Message::parse_from_bytes(data).map_err(|error| format!("malformed raft message: {error}"))
}

/// The position that the raft snapshot in a message stands for, if there is one: the edge sends the
/// data of exactly that position with it.
pub fn snapshot_position(message: &crate::message::Message) -> Option<Applied> {
    let crate::message::Message::Raft { data, .. } = message else { return None };
    let message = decode_raft(data).ok()?;
    let metadata = message.get_snapshot().get_metadata();
    (metadata.index > 0).then_some(Applied { index: metadata.index, term: metadata.term })
}
