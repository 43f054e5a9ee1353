//! The sequencer gives out no revision twice.

use super::{Invariant, Nodes, Sight};
use holdfast_core::ids::{NodeId, Revision};
use holdfast_core::message::{Message, SequencerReply};
use std::collections::BTreeMap;

/// Who was given what. Answers of a sequencer to its own node do not show here; what comes of them
/// shows in the history.
#[derive(Debug, Default)]
pub struct GrantsUnique {
    granted: BTreeMap<Revision, (NodeId, NodeId)>,
}

impl Invariant for GrantsUnique {
    fn name(&self) -> &'static str {
        "grants unique"
    }

    fn see(&mut self, _nodes: &Nodes, sight: &Sight<'_>) -> Result<(), String> {
        let Sight::Sent { from, to, message: Message::SequencerAnswer { answers, .. } } = sight
        else {
            return Ok(());
        };
        for answer in answers {
            if let SequencerReply::Granted(revision) = answer
                && let Some((giver, taker)) = self.granted.insert(*revision, (*from, *to))
            {
                return Err(format!(
                    "{revision} was given by {giver} to {taker} and by {from} to {to}"
                ));
            }
        }
        Ok(())
    }
}
