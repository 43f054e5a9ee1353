//! What nodes say of themselves that matters for where copies go.
//!
//! Invariants: nothing is kept of a node that is gone, or of one that says what all say.

use super::{MetaState, row};
use crate::descriptor::{Facts, NodeState};
use crate::error::Error;
use crate::ids::NodeId;
use crate::request::Response;
use crate::state::SystemRow;
use std::collections::BTreeMap;

/// First byte of such a row; the node follows.
pub(super) const ROW: u8 = b'F';

impl MetaState {
    /// What nodes say of themselves, as far as it is not what all say.
    pub fn facts(&self) -> &BTreeMap<NodeId, Facts> {
        &self.facts
    }

    /// That of one of them.
    pub fn facts_of(&self, node: NodeId) -> Facts {
        self.facts.get(&node).cloned().unwrap_or_default()
    }

    pub(super) fn note_facts(
        &mut self,
        node: NodeId,
        facts: Facts,
        rows: &mut Vec<SystemRow>,
    ) -> Result<Response, Error> {
        if self.nodes.get(&node).is_none_or(|own| own.state == NodeState::Tombstoned) {
            return Err(Error::Refused(format!("there is no node {node}")));
        }
        if facts == Facts::default() {
            self.forget_facts(node, rows);
        } else {
            row(rows, ROW, node.0, Some(&facts));
            self.facts.insert(node, facts);
        }
        Ok(Response::Admin { message: format!("{node} has said so") })
    }

    pub(super) fn forget_facts(&mut self, node: NodeId, rows: &mut Vec<SystemRow>) {
        if self.facts.remove(&node).is_some() {
            row::<Facts>(rows, ROW, node.0, None);
        }
    }
}
