//! What becomes of nodes: they join, are drained for a time, condemned and retired.
//!
//! Invariants: a node id is never given twice; who is gone for good stays so; a decision to reprotect
//! is carried out once, and not for one who decides with an older epoch.

use super::{MetaAnswer, MetaState, row};
use crate::descriptor::{NodeRecord, NodeState};
use crate::error::Error;
use crate::ids::NodeId;
use crate::message::InternalReply;
use crate::request::Response;
use crate::state::SystemRow;
use serde::{Deserialize, Serialize};

/// Decisions to reprotect that are remembered, so that a repetition has no effect.
const OPERATIONS_MAX: usize = 64;

/// How long a node is drained unless somebody asks again. The sequencer counts the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainLease {
    /// Milliseconds.
    pub ttl_ms: u64,
    /// How often it was asked for, to tell an end from the beginning after it.
    pub renewals: u64,
}

impl MetaState {
    pub(super) fn drain_for(
        &mut self,
        node: NodeId,
        leaving: bool,
        ttl_ms: u64,
        rows: &mut Vec<SystemRow>,
    ) -> Result<Response, Error> {
        let Some(record) = self.nodes.get_mut(&node) else {
            return Err(Error::Refused(format!("there is no node {node}")));
        };
        if matches!(record.state, NodeState::Tombstoned | NodeState::Condemned) {
            return Err(Error::Refused(format!("{node} is {:?} already", record.state)));
        }
        // Who leaves does not stay because somebody else would only drain it.
        let leaves = leaving || record.state == NodeState::Leaving;
        record.state = if leaves { NodeState::Leaving } else { NodeState::Draining };
        row(rows, b'N', node.0, Some(&*record));
        let renewals = self.drains.get(&node).map_or(1, |drain| drain.renewals + 1);
        let drain = DrainLease { ttl_ms, renewals };
        self.drains.insert(node, drain);
        row(rows, b'E', node.0, Some(&drain));
        let seconds = ttl_ms.div_ceil(1000);
        let message = format!("{node} is {:?} for {seconds} s, unless asked again", record.state);
        Ok(Response::Admin { message })
    }

    pub(super) fn end_drain(&mut self, node: NodeId, rows: &mut Vec<SystemRow>) {
        if self.drains.remove(&node).is_some() {
            row::<DrainLease>(rows, b'E', node.0, None);
        }
    }

    pub(super) fn condemn(
        &mut self,
        node: NodeId,
        operation: &str,
        epoch: u64,
        rows: &mut Vec<SystemRow>,
    ) -> Result<Response, Error> {
        let done = |message: String| Ok(Response::Admin { message });
        if self.scalars.operations.iter().any(|known| known == operation) {
            return done(format!("operation {operation} is known"));
        }
        let newest = self.scalars.operation_epoch;
        // A person decides whatever the epoch is, and ends nobody else's.
        if epoch != 0 && epoch < newest {
            return Err(Error::Refused(format!(
                "epoch {epoch} is over: somebody decides with epoch {newest}"
            )));
        }
        let Some(record) = self.nodes.get_mut(&node) else {
            return Err(Error::Refused(format!("there is no node {node}")));
        };
        if record.state == NodeState::Tombstoned {
            return Err(Error::Refused(format!("{node} is gone for good already")));
        }
        record.state = NodeState::Condemned;
        row(rows, b'N', node.0, Some(&*record));
        self.scalars.operation_epoch = newest.max(epoch);
        self.scalars.operations.push_back(operation.to_owned());
        if self.scalars.operations.len() > OPERATIONS_MAX {
            self.scalars.operations.pop_front();
        }
        self.scalars_row(rows);
        done(format!("the copies of {node} are made elsewhere"))
    }

    /// The directory is not asked here: it may know things that did not come by the log. A range
    /// that still has a copy there makes another one, as for every node that is gone.
    pub(super) fn retire(&mut self, node: NodeId, rows: &mut Vec<SystemRow>) {
        if let Some(record) = self.nodes.get_mut(&node)
            && record.state.loses_replicas()
        {
            record.state = NodeState::Tombstoned;
            row(rows, b'N', node.0, Some(&*record));
            self.forget_facts(node, rows);
        }
    }

    pub(super) fn join(
        &mut self,
        record: &NodeRecord,
        nonce: u64,
        rows: &mut Vec<SystemRow>,
    ) -> MetaAnswer {
        let known = self.scalars.joins.iter().find(|(seen, _)| *seen == nonce);
        let node = if let Some((_, node)) = known {
            *node
        } else {
            let node = NodeId(self.scalars.next_node);
            self.scalars.next_node += 1;
            self.scalars.joins.push_back((nonce, node));
            if self.scalars.joins.len() > 64 {
                self.scalars.joins.pop_front();
            }
            // The place has a new, empty disk: what the old one held there is gone for good.
            for old in self.nodes.values_mut() {
                if old.name == record.name && old.state != NodeState::Tombstoned {
                    old.state = NodeState::Tombstoned;
                    row(rows, b'N', old.id.0, Some(&*old));
                }
            }
            let record = NodeRecord { id: node, state: NodeState::Up, ..record.clone() };
            row(rows, b'N', node.0, Some(&record));
            self.nodes.insert(node, record);
            self.scalars_row(rows);
            node
        };
        let peers = self.nodes.values().map(|node| (node.id, node.peer_address.clone())).collect();
        MetaAnswer::Internal(InternalReply::Joined { cluster: self.scalars.cluster, node, peers })
    }
}
