//! Tells the meta range what this node knows of itself that matters for where copies go: its failure
//! domain, and how much room its disk has.
//!
//! A node that was started without a failure domain keeps the one that the meta range has for it: somebody
//! else told it, for example an operator that knows the node's machine.
//!
//! Invariants: said only if the meta range knows something else, so a node that has nothing to say never
//! says anything; one thing at a time, so that neither takes back what somebody else said of the other.

use crate::gateway::backend::Backend;
use holdfast_core::descriptor::{Facts, NodeState, Room};
use holdfast_core::ids::NodeId;
use holdfast_core::request::{AdminOp, Request};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Longest wait for the meta range.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Follows what this node knows of itself until `stop`.
pub(super) async fn follow(backend: Backend, domain: Option<String>, stop: CancellationToken) {
    loop {
        for op in look(&backend, domain.as_deref()) {
            // While some node is of an older version this is refused: then it is said later.
            match backend.call(Request::Admin(op.clone()), TIMEOUT).await {
                Ok(_) => info!(?op, "said of this node"),
                Err(error) => debug!("what this node says of itself was not heard: {error}"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// What the meta range does not know yet.
fn look(backend: &Backend, domain: Option<&str>) -> Vec<AdminOp> {
    let vitals = backend.vitals();
    let view = vitals.view();
    let me = vitals.node();
    let member = |state: NodeState| state != NodeState::Tombstoned;
    if !view.nodes.iter().any(|record| record.id == me && member(record.state)) {
        return Vec::new();
    }
    let known = view.facts.iter().find(|(node, _)| *node == me).map(|(_, known)| known);
    news(me, known.unwrap_or(&Facts::default()), domain, vitals.room_class())
}

/// What is to be said where `known` is known.
fn news(node: NodeId, known: &Facts, domain: Option<&str>, room: Option<Room>) -> Vec<AdminOp> {
    let domain = domain.filter(|domain| **domain != known.domain);
    let domain = domain.map(|domain| AdminOp::Domain { node, domain: domain.to_owned() });
    let room = room.filter(|room| *room != known.room);
    domain.into_iter().chain(room.map(|room| AdminOp::Room { node, room })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_is_said() {
        let node = NodeId(3);
        let known = Facts { domain: "a".to_owned(), room: Room::Less };
        let domain = || AdminOp::Domain { node, domain: "b".to_owned() };
        let room = || AdminOp::Room { node, room: Room::Plenty };
        assert_eq!(news(node, &known, Some("a"), Some(Room::Less)), []);
        assert_eq!(news(node, &known, None, None), []);
        // One that was started without a domain keeps what somebody else said.
        assert_eq!(news(node, &known, None, Some(Room::Plenty)), [room()]);
        assert_eq!(news(node, &known, Some("b"), Some(Room::Less)), [domain()]);
        assert_eq!(news(node, &known, Some("b"), Some(Room::Plenty)), [domain(), room()]);
    }
}
