//! At most one leader in a term of a range (Raft, figure 3: Election Safety).

use super::{Invariant, Nodes, Sight};
use holdfast_core::group::decode_raft;
use holdfast_core::ids::{NodeId, RangeId, Term};
use holdfast_core::message::Message;
use raft::eraftpb::MessageType;
use std::collections::BTreeMap;

/// Who was seen to lead: by the messages that only a leader sends, and by what nodes say.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<(RangeId, Term), NodeId>,
}

impl ElectionSafety {
    fn leads(&mut self, range: RangeId, term: Term, node: NodeId) -> Result<(), String> {
        let first = *self.leaders.entry((range, term)).or_insert(node);
        if first == node {
            return Ok(());
        }
        Err(format!("{range} term {term} is led by {first} and by {node}"))
    }
}

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn see(&mut self, _nodes: &Nodes, sight: &Sight<'_>) -> Result<(), String> {
        match sight {
            Sight::Sent { from, message: Message::Raft { range, data, .. }, .. } => {
                let raft = decode_raft(data)?;
                match raft.get_msg_type() {
                    MessageType::MsgAppend | MessageType::MsgHeartbeat => {
                        self.leads(*range, raft.term, *from)
                    }
                    _ => Ok(()),
                }
            }
            Sight::Status { node, status } => status
                .replicas
                .iter()
                .filter(|replica| replica.leader)
                .try_for_each(|replica| self.leads(replica.range, replica.term, *node)),
            _ => Ok(()),
        }
    }
}
