//! The Cluster service: etcd's members are our nodes.
//!
//! Nodes come and go through the admin API and the operator, which check that no data is put at
//! risk; etcd's calls for it are refused.

use super::grpc::Call;
use super::{Config, Gateway, error};
use holdfast_core::descriptor::{NodeRecord, NodeState};
use holdfast_core::request::Request;
use holdfast_proto::etcdserverpb as pb;
use tonic::Status;

impl Gateway {
    pub(super) async fn member_list(
        &self,
        call: Call,
        request: pb::MemberListRequest,
    ) -> Result<pb::MemberListResponse, Status> {
        if request.linearizable {
            // Proves that this node is connected to a majority, and so not long out of date.
            self.ask(call, Request::CurrentRevision).await?;
        }
        let view = self.backend().view();
        let members = view
            .nodes
            .iter()
            .filter(|node| node.state != NodeState::Tombstoned)
            .map(|node| member(node, self.config()))
            .collect();
        Ok(pb::MemberListResponse { header: Some(self.bare_header()), members })
    }
}

/// The answer to every request that would change the members.
pub(super) fn refuse_change() -> Status {
    Status::failed_precondition(
        "holdfast: nodes join by starting and leave by the admin API or the operator; the member \
         calls of etcd change nothing here",
    )
}

/// Unlike in etcd a member that has not started yet has URLs already.
fn member(node: &NodeRecord, config: &Config) -> pb::Member {
    pb::Member {
        id: node.id.0,
        name: node.name.clone(),
        peer_ur_ls: vec![url(&node.peer_address, config.peer_tls)],
        client_ur_ls: vec![url(&node.client_address, config.client_tls)],
        is_learner: false,
    }
}

fn url(address: &str, tls: bool) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}

/// The target of a leader transfer must be one of these.
pub(super) fn check_transferee(nodes: &[NodeRecord], target: u64) -> Result<(), Status> {
    let known = nodes.iter().any(|node| node.id.0 == target && node.state == NodeState::Up);
    if known { Ok(()) } else { Err(error::bad_transferee()) }
}
