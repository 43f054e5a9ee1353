//! The Admin service. Any node answers for the whole cluster: it asks every other node for what
//! that one knows of itself, and puts the answers together (see [`report`]).

mod check;
mod domain;
mod progress;
mod report;

pub(crate) use progress::{Estimator, Left, Progress, about, size};

use super::backend::View;
use super::grpc::Call;
use super::{Gateway, error};
use holdfast_core::descriptor::{NodeState, ReplicaDescriptor, ReplicaKind};
use holdfast_core::ids::{NodeId, RangeId};
use holdfast_core::request::{AdminOp, Request, Response};
use holdfast_proto::admin as pb;
use report::{Cluster, Local};
use serde::Serialize;
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::Status;

/// How long another node may take to tell about itself. It answers from memory, so one that needs
/// longer counts as not answering.
const ASK_TIMEOUT: Duration = Duration::from_millis(800);

/// Longest name of a decision to reprotect: it is kept in the meta range.
const OPERATION_BYTES_MAX: usize = 200;

/// What `node` says of itself in a report, if it is its report.
pub(crate) fn report_of(report: &[u8], node: NodeId) -> Option<View> {
    let local: Local = serde_json::from_slice(report).ok()?;
    (local.node == node).then_some(local.view)
}

impl Gateway {
    pub(super) async fn admin_status(
        &self,
        _call: Call,
        request: pb::StatusRequest,
    ) -> Result<pb::StatusReply, Status> {
        let json =
            if request.local { json(&self.local()) } else { json(&self.cluster().await.status()) };
        Ok(pb::StatusReply { json: json? })
    }

    pub(super) async fn admin_ranges(
        &self,
        _call: Call,
        _request: pb::RangesRequest,
    ) -> Result<pb::RangesReply, Status> {
        let cluster = self.cluster().await;
        Ok(pb::RangesReply { json: json(&cluster.ranges())?, problems: cluster.problems() })
    }

    pub(super) async fn admin_nodes(
        &self,
        _call: Call,
        _request: pb::NodesRequest,
    ) -> Result<pb::NodesReply, Status> {
        Ok(pb::NodesReply { json: json(&self.cluster().await.nodes())? })
    }

    pub(super) async fn admin_drain(
        &self,
        call: Call,
        request: pb::DrainRequest,
    ) -> Result<pb::DrainReply, Status> {
        let node = NodeId(request.node);
        let pb::DrainRequest { replicas, ttl_ms, .. } = request;
        let drain = match (replicas, ttl_ms) {
            (true, 0) => AdminOp::Leave { node },
            (false, 0) => AdminOp::Drain { node },
            (replicas, ttl_ms) => AdminOp::DrainFor { node, replicas, ttl_ms },
        };
        let message = self.admin(call, drain).await?;
        Ok(pb::DrainReply { message })
    }

    pub(super) async fn admin_reprotect(
        &self,
        call: Call,
        request: pb::ReprotectRequest,
    ) -> Result<pb::ReprotectReply, Status> {
        let pb::ReprotectRequest { node, operation, epoch } = request;
        if operation.is_empty() || operation.len() > OPERATION_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "holdfast: operation must have between 1 and {OPERATION_BYTES_MAX} bytes"
            )));
        }
        let reprotect = AdminOp::Reprotect { node: NodeId(node), operation, epoch };
        Ok(pb::ReprotectReply { message: self.admin(call, reprotect).await? })
    }

    pub(super) async fn admin_undrain(
        &self,
        call: Call,
        request: pb::UndrainRequest,
    ) -> Result<pb::UndrainReply, Status> {
        let message = self.admin(call, AdminOp::Undrain { node: NodeId(request.node) }).await?;
        Ok(pb::UndrainReply { message })
    }

    pub(super) async fn admin_split(
        &self,
        call: Call,
        request: pb::SplitRequest,
    ) -> Result<pb::SplitReply, Status> {
        if request.key.is_empty() {
            return Err(error::key_not_provided());
        }
        let message = self.admin(call, AdminOp::Split { key: request.key }).await?;
        Ok(pb::SplitReply { message })
    }

    pub(super) async fn admin_transfer(
        &self,
        call: Call,
        request: pb::TransferRequest,
    ) -> Result<pb::TransferReply, Status> {
        let (range, to) = (RangeId(request.range), NodeId(request.to));
        let message = self.admin(call, AdminOp::Transfer { range, to }).await?;
        Ok(pb::TransferReply { message })
    }

    pub(super) async fn admin_move(
        &self,
        call: Call,
        request: pb::MoveRequest,
    ) -> Result<pb::MoveReply, Status> {
        let pb::MoveRequest { range, from, to } = request;
        let (range, from, to) = (RangeId(range), NodeId(from), NodeId(to));
        let message = self.admin(call, AdminOp::Move { range, from, to }).await?;
        Ok(pb::MoveReply { message })
    }

    pub(super) async fn admin_merge(
        &self,
        call: Call,
        request: pb::MergeRequest,
    ) -> Result<pb::MergeReply, Status> {
        let range = RangeId(request.range);
        match self.ask(call, Request::Admin(AdminOp::Merge { range })).await? {
            Response::Merging { left, right } => {
                let message = format!("{left} takes in {right}");
                Ok(pb::MergeReply { message, right: right.0 })
            }
            _ => Err(error::unexpected_answer()),
        }
    }

    pub(super) async fn admin_placement(
        &self,
        _call: Call,
        _request: pb::PlacementRequest,
    ) -> Result<pb::PlacementReply, Status> {
        Ok(pb::PlacementReply { json: json(&self.cluster().await.policies())? })
    }

    pub(super) async fn admin_set_placement(
        &self,
        call: Call,
        request: pb::SetPlacementRequest,
    ) -> Result<pb::SetPlacementReply, Status> {
        let pb::SetPlacementRequest { prefix, replicas, allow_fewer: fewer } = request;
        let set = AdminOp::SetPolicy { prefix, copies: replicas.into(), fewer };
        Ok(pb::SetPlacementReply { message: self.admin(call, set).await? })
    }

    pub(super) async fn admin_remove_placement(
        &self,
        call: Call,
        request: pb::RemovePlacementRequest,
    ) -> Result<pb::RemovePlacementReply, Status> {
        let remove = AdminOp::RemovePolicy { prefix: request.prefix };
        Ok(pb::RemovePlacementReply { message: self.admin(call, remove).await? })
    }

    pub(super) async fn admin_check(
        &self,
        call: Call,
        request: pb::CheckRequest,
    ) -> Result<pb::CheckReply, Status> {
        let range = RangeId(request.range);
        let view = self.backend().view();
        if !view.directory.iter().any(|known| known.id == range) {
            return Err(Status::not_found(format!("holdfast: there is no range {range}")));
        }
        match self.ask(call, Request::Admin(AdminOp::Check { range })).await? {
            Response::Check { report } => {
                Ok(pb::CheckReply { json: json(&check::CheckJson::from(&*report))? })
            }
            _ => Err(error::unexpected_answer()),
        }
    }

    async fn admin(&self, call: Call, operation: AdminOp) -> Result<String, Status> {
        match self.ask(call, Request::Admin(operation)).await? {
            Response::Admin { message } => Ok(message),
            _ => Err(error::unexpected_answer()),
        }
    }

    /// What this node knows, in the form that nodes exchange.
    pub fn report(&self) -> Vec<u8> {
        // Only what cannot be written fails, and then the asking node says so.
        serde_json::to_vec(&self.local()).unwrap_or_default()
    }

    /// What this node knows.
    fn local(&self) -> Local {
        let vitals = self.backend().vitals();
        Local {
            node: vitals.node(),
            cluster: vitals.cluster(),
            sequencer: vitals.sequencer(),
            has_leader: vitals.has_leader(),
            draining: vitals.draining(),
            revision: vitals.revision(),
            room: vitals.room(),
            data: u64::try_from(vitals.db_size_in_use()).unwrap_or(0),
            reprotection: *self.inner.progress.lock(),
            view: vitals.whole_view(),
            level: report::LEVEL,
            names_domain: Some(self.inner.config.names_domain),
        }
    }

    /// This node leads the meta range, and somewhere copies are to be made.
    pub(crate) fn makes_copies(&self) -> bool {
        let vitals = self.backend().vitals();
        let view = self.backend().view();
        let learner = |replica: &ReplicaDescriptor| replica.kind == ReplicaKind::Learner;
        vitals.sequencer() == Some(vitals.node())
            && (view.nodes.iter().any(|node| node.state.loses_replicas())
                || view.directory.iter().any(|range| range.replicas.iter().any(learner)))
    }

    /// What all nodes together have left to do of that.
    pub(crate) async fn left(&self) -> Left {
        self.cluster().await.left()
    }

    /// Others are told so from now on.
    pub(crate) fn set_progress(&self, progress: Option<Progress>) {
        *self.inner.progress.lock() = progress;
    }

    /// What all nodes that answer know.
    async fn cluster(&self) -> Cluster {
        let mine = self.local();
        let mut asked = JoinSet::new();
        for node in &mine.view.nodes {
            if node.id != mine.node && node.state != NodeState::Tombstoned {
                asked.spawn(self.clone().ask_node(node.peer_address.clone()));
            }
        }
        let mut answers = Vec::new();
        for (address, answer) in asked.join_all().await {
            match answer {
                // A different cluster may have taken over the address.
                Ok(local) if local.cluster == mine.cluster => answers.push(local),
                Ok(_) => tracing::warn!(address, "a node of another cluster answers"),
                Err(reason) => tracing::debug!(address, reason, "no report of a node"),
            }
        }
        Cluster::new(mine, answers)
    }

    /// Asks another node for its report, over the peers' port: a node whose clients are cut off
    /// still answers there.
    async fn ask_node(self, address: String) -> (String, Result<Local, String>) {
        let asked = address.clone();
        let answer = tokio::task::spawn_blocking(move || (self.inner.ask_node)(&asked));
        let answer = match tokio::time::timeout(ASK_TIMEOUT, answer).await {
            Ok(Ok(Ok(report))) => {
                serde_json::from_slice(&report).map_err(|error| format!("read its report: {error}"))
            }
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err("no answer in time".to_owned()),
        };
        (address, answer)
    }
}

fn json(value: &impl Serialize) -> Result<bytes::Bytes, Status> {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => Err(Status::internal(format!("holdfast: write the report: {error}"))),
    }
}
