//! A replica never forgets what it promised: it gives one vote a term, its log does not get shorter
//! than what it acknowledged in a term, and once removed it says nothing any more. Nobody has a
//! reason to refuse a message of an honest peer.

use super::{Invariant, Nodes, Sight};
use holdfast_core::group::decode_raft;
use holdfast_core::ids::{Index, RangeId, ReplicaId, Term};
use holdfast_core::message::Message;
use raft::eraftpb::MessageType;
use std::collections::BTreeMap;

/// What each replica has said.
#[derive(Debug, Default)]
pub struct PromisesKept {
    /// For whom it voted last, and in which term.
    votes: BTreeMap<(RangeId, ReplicaId), (Term, ReplicaId)>,
    /// How much of the log of the last term's leader it has said that it has.
    acknowledged: BTreeMap<(RangeId, ReplicaId), (Term, Index)>,
}

impl PromisesKept {
    fn said(&mut self, range: RangeId, data: &[u8]) -> Result<(), String> {
        let raft = decode_raft(data)?;
        let (from, term) = ((range, ReplicaId(raft.from)), raft.term);
        match raft.get_msg_type() {
            MessageType::MsgRequestVoteResponse if !raft.reject => {
                let candidate = ReplicaId(raft.to);
                let last = self.votes.insert(from, (term, candidate)).unwrap_or_default();
                if last.0 > term || last.0 == term && last.1 != candidate {
                    return Err(format!("{from:?} voted {last:?}, then {:?}", (term, candidate)));
                }
            }
            MessageType::MsgAppendResponse if raft.reject && raft.request_snapshot == 0 => {
                // Where its log ends at the latest, or an earlier place to try.
                let (of, index) = self.acknowledged.get(&from).copied().unwrap_or_default();
                if of == term && raft.index <= index {
                    return Err(format!(
                        "{from:?} had {index} of the leader of term {term}, and refuses {}",
                        raft.index
                    ));
                }
            }
            MessageType::MsgAppendResponse if !raft.reject => {
                let last = self.acknowledged.entry(from).or_default();
                if (term, raft.index) > *last {
                    *last = (term, raft.index);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Invariant for PromisesKept {
    fn name(&self) -> &'static str {
        "promises kept"
    }

    fn see(&mut self, nodes: &Nodes, sight: &Sight<'_>) -> Result<(), String> {
        match sight {
            Sight::Sent {
                from: node, message: Message::Raft { range, from, data, .. }, ..
            } => {
                let removed = nodes[node]
                    .log
                    .durable(|logs| logs.range(*range).map(|log| log.removed))
                    .unwrap_or_default();
                if *from <= removed {
                    return Err(format!("{from:?} of {range} was removed from {node}, and speaks"));
                }
                self.said(*range, data)
            }
            Sight::Status { node, status } if status.counters.refused > 0 => {
                Err(format!("{node} refused {} raft messages", status.counters.refused))
            }
            _ => Ok(()),
        }
    }
}
