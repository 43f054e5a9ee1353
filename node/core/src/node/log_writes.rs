//! What is written to the log, what follows when it is durable, and how far a log is cut.
//!
//! Invariants: writes have numbers that only grow; nothing that a member may still need within the
//! budget, and nothing that the state does not have durably, is cut off. A range that sleeps keeps no
//! entries: it fell asleep when every member had all of them.

use super::Node;
use super::log_sizes::{LogSizes, Share};
use crate::effects::{LogWrite, Persist};
use crate::ids::{Index, RangeId};
use crate::message::Message;
use crate::replica::Replica;
use crate::state::Applied;

/// So many logs end at a time: thousands of ranges fall asleep together after a start.
const END_AT_ONCE: usize = 1_000;

impl Node {
    /// Cuts the logs of ranges that sleep at their ends, where the state has all of it: what is kept of
    /// such a log is a few numbers, on disk as in memory.
    pub(super) fn end_logs_at_rest(&mut self) {
        let logs = &mut self.logs;
        let rests = |replica: &&mut Replica| {
            let last = replica.group.last_index();
            replica.asleep
                && replica.group.is_folded()
                && replica.durable == last
                && replica.group.truncated().index < last
        };
        let writes =
            self.replicas.values_mut().filter(rests).take(END_AT_ONCE).filter_map(|replica| {
                let (range, index) = (replica.range, replica.group.last_index());
                let end = Applied { index, term: replica.group.term_at(index)? };
                replica.group.truncate(end);
                logs.forget(range);
                Some(LogWrite { range, truncate: Some(end), ..LogWrite::default() })
            });
        let writes = writes.collect();
        self.write_log(false, writes);
    }

    pub(super) fn persisted(&mut self, sequence: u64) {
        self.departures_written(sequence);
        for range in std::mem::take(&mut self.writing) {
            let Some(replica) = self.replicas.get_mut(&range) else { continue };
            let released = replica.group.persisted(sequence);
            if replica.group.is_waiting() {
                self.writing.insert(range);
            }
            self.dirty.insert(range);
            self.send_raft(range, released);
        }
    }

    pub(super) fn state_durable(&mut self, applied: &[(RangeId, Index)]) {
        let mut writes = Vec::new();
        let mut farewells = Vec::new();
        for (range, index) in applied {
            let Some(replica) = self.replicas.get_mut(range) else { continue };
            // Said of an earlier replica of the range, it says nothing of this one.
            if *index > replica.applied.index {
                continue;
            }
            replica.durable = replica.durable.max(*index);
            for left in replica.take_farewell() {
                farewells.push((left.node, *range, left.replica));
            }
            writes.extend(cut_log(&mut self.logs, replica, self.config.log_budget));
        }
        for range in self.logs.too_large(self.config.log_budget) {
            let Some(replica) = self.replicas.get_mut(&range) else { continue };
            writes.extend(cut_log(&mut self.logs, replica, self.config.log_budget));
        }
        for (node, range, replica) in farewells {
            self.send(node, Message::Tombstone { range, replica });
        }
        self.write_log(false, writes);
    }

    /// Asks for a write of the log under a number of its own, never between the beginning and the
    /// end of a turn, which has taken the next number already.
    pub(super) fn write_log(&mut self, sync: bool, writes: Vec<LogWrite>) {
        for write in writes.iter().filter(|write| write.destroy) {
            self.logs.forget(write.range);
        }
        if !writes.is_empty() {
            self.persist_sequence += 1;
            let sequence = self.persist_sequence;
            self.effects.persist.push(Persist { sequence, sync, writes });
        }
    }
}

/// Cuts the log of a replica, if that is worth it.
fn cut_log(logs: &mut LogSizes, replica: &mut Replica, budget: u64) -> Option<LogWrite> {
    let (range, last) = (replica.range, replica.group.last_index());
    let held = last - replica.group.truncated().index;
    let cut = truncation(replica, logs.share(range, held, budget))?;
    replica.group.truncate(cut);
    logs.cut(range, held, last - cut.index);
    Some(LogWrite { range, truncate: Some(cut), ..LogWrite::default() })
}

/// Two turns of a group in one write: the later one continues (or replaces the tail of) the first.
pub(super) fn merge_write(persist: &mut Persist, write: LogWrite) {
    let Some(same) = persist.writes.iter_mut().find(|known| known.range == write.range) else {
        persist.writes.push(write);
        return;
    };
    if let Some(first) = write.entries.first() {
        let keep = same.entries.iter().take_while(|entry| entry.index < first.index).count();
        same.entries.truncate(keep);
        same.entries.extend(write.entries);
    }
    same.hard_state = write.hard_state.or(same.hard_state.take());
    same.truncate = write.truncate.or(same.truncate);
    same.destroy |= write.destroy;
    same.removed = same.removed.max(write.removed);
}

/// How far the log of a replica may be cut: below what is durable in the state, and keeping what
/// members that are behind still need, within its share of the budget.
fn truncation(replica: &Replica, share: Share) -> Option<Applied> {
    /// Bytes of entries kept for members that are a little behind.
    const KEEP_BYTES: u64 = 1 << 20;
    /// Cuts smaller than this are not worth a write.
    const STEP_BYTES: u64 = 5 << 19;
    let Share { average, most } = share;
    let (keep, step) = (most.min(KEEP_BYTES / average), most.min(STEP_BYTES / average));
    let first = replica.group.truncated().index;
    let mut cut = replica.durable.saturating_sub(keep);
    let oldest = replica.group.last_index().saturating_sub(most);
    if replica.group.is_leader() {
        let slowest = replica
            .group
            .progress()
            .iter()
            .map(|(_, matched, _, snapshot)| if *snapshot { Index::MAX } else { *matched })
            .min()
            .unwrap_or(Index::MAX);
        // Within the budget, an absent member finds all it missed.
        cut = cut.min(slowest.max(oldest));
    } else {
        // A follower may lead tomorrow: it keeps as much as a leader might need to.
        cut = cut.min(oldest);
    }
    if cut < first + step.max(1) {
        return None;
    }
    let term = replica.group.term_at(cut)?;
    Some(Applied { index: cut, term })
}
