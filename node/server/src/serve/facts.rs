//! Tells the meta range what this node knows of itself that matters for where copies go: its failure
//! domain, and how much room its disk has.
//!
//! A node that was started without a failure domain keeps the one that the meta range has for it: somebody
//! else told it, for example an operator that knows the node's machine.
//!
//! Invariants: said only if the meta range knows something else, so a node that has nothing to say never
//! says anything; and only once every node has said that it knows what this is, since a node of an older
//! version would stop at it.

use crate::gateway::Gateway;
use crate::gateway::backend::Backend;
use holdfast_core::descriptor::{Facts, NodeState};
use holdfast_core::request::{AdminOp, Request};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Longest wait for the meta range.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Follows what this node knows of itself until `stop`.
pub(super) async fn follow(gateway: Gateway, domain: Option<String>, stop: CancellationToken) {
    let backend = gateway.backend().clone();
    let mut known = false;
    loop {
        let news = news(&backend, domain.as_deref());
        if news.is_some() && !known {
            match gateway.check_placement_known().await {
                Ok(()) => known = true,
                Err(why) => debug!("not said of this node yet: {why}"),
            }
        }
        if let Some(facts) = news.filter(|_| known) {
            let node = backend.vitals().node();
            let op = AdminOp::Facts { node, facts: facts.clone() };
            match backend.call(Request::Admin(op), TIMEOUT).await {
                Ok(_) => info!(domain = facts.domain, room = ?facts.room, "said of this node"),
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
fn news(backend: &Backend, domain: Option<&str>) -> Option<Facts> {
    let vitals = backend.vitals();
    let view = vitals.view();
    let me = vitals.node();
    let known = |state: NodeState| state != NodeState::Tombstoned;
    view.nodes.iter().find(|record| record.id == me && known(record.state))?;
    let said = view.facts.iter().find(|(node, _)| *node == me).map(|(_, said)| said);
    let said = said.cloned().unwrap_or_default();
    let domain = domain.map_or_else(|| said.domain.clone(), str::to_owned);
    let facts = Facts { domain, room: vitals.room_class()? };
    (said != facts).then_some(facts)
}
