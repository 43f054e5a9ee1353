//! Somebody who knows a node's machine says what it fails together with.
//!
//! Invariant: what a node was started with holds; nothing is said of a node that would take it back.

use super::super::Gateway;
use super::super::grpc::Call;
use crate::config::failure_domain;
use holdfast_core::ids::NodeId;
use holdfast_core::request::AdminOp;
use holdfast_proto::admin as pb;
use tonic::Status;

impl Gateway {
    pub(in super::super) async fn admin_set_failure_domain(
        &self,
        call: Call,
        request: pb::SetFailureDomainRequest,
    ) -> Result<pb::SetFailureDomainReply, Status> {
        let (node, domain) = (NodeId(request.node), request.domain);
        failure_domain(&domain)
            .map_err(|rule| Status::invalid_argument(format!("holdfast: failure domain {rule}")))?;
        let cluster = self.cluster().await;
        let known = cluster.facts(node);
        may_be_told(node, cluster.names_domain(node), &known.domain)
            .map_err(Status::failed_precondition)?;
        let message = if domain.is_empty() {
            format!("{node} fails alone")
        } else {
            format!("{node} fails together with all of {domain}")
        };
        if known.domain != domain {
            self.admin(call, AdminOp::Domain { node, domain }).await?;
        }
        Ok(pb::SetFailureDomainReply { message })
    }
}

/// Whether others may say what a node fails together with.
fn may_be_told(node: NodeId, names_itself: Option<bool>, own: &str) -> Result<(), String> {
    match names_itself {
        Some(false) => Ok(()),
        Some(true) => Err(format!(
            "holdfast: {node} was started with --failure-domain {own:?}, which holds: start it without, then others can say it"
        )),
        None => Err(format!(
            "holdfast: {node} must answer and run this version before others say what it fails together with"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_was_started_with_holds() {
        let say = |names| may_be_told(NodeId(3), names, "rack-1");
        assert_eq!(say(Some(false)), Ok(()));
        for (names, part) in [(Some(true), "rack-1"), (None, "must answer")] {
            let why = say(names).unwrap_err();
            assert!(why.contains(part) && why.contains("n3"), "{why}");
        }
    }
}
