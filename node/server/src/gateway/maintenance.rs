//! The Maintenance service.
//!
//! Where etcd speaks of "the leader", we speak of the sequencer: the node that leads the meta range.

use super::cluster::check_transferee;
use super::grpc::Call;
use super::{ETCD_VERSION, Gateway, error};
use holdfast_core::ids::{META_RANGE, NodeId};
use holdfast_core::request::{AdminOp, AlarmAction, AlarmKind, Request, Response};
use holdfast_proto::etcdserverpb as pb;
use tonic::Status;

impl Gateway {
    pub(super) fn status(&self, _request: pb::StatusRequest) -> pb::StatusResponse {
        let vitals = self.backend().vitals();
        let mut errors: Vec<String> = Vec::new();
        if !vitals.has_leader() {
            errors.push("etcdserver: no leader".to_owned());
        }
        for (node, alarm) in &self.backend().view().alarms {
            // As etcd prints an alarm.
            errors.push(format!("memberID:{} alarm:{} ", node.0, alarm_name(*alarm)));
        }
        pb::StatusResponse {
            header: Some(self.current_header()),
            version: ETCD_VERSION.to_owned(),
            db_size: vitals.db_size(),
            leader: vitals.sequencer().map_or(0, |node| node.0),
            raft_index: vitals.raft_index(),
            raft_term: vitals.term(),
            raft_applied_index: vitals.applied_index(),
            errors,
            db_size_in_use: vitals.db_size_in_use(),
            is_learner: false,
            storage_version: ETCD_VERSION.to_owned(),
            db_size_quota: self.config().db_size_quota,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }
    }

    pub(super) async fn alarm(
        &self,
        call: Call,
        request: pb::AlarmRequest,
    ) -> Result<pb::AlarmResponse, Status> {
        let action = match request.action() {
            pb::alarm_request::AlarmAction::Get => AlarmAction::Get,
            pb::alarm_request::AlarmAction::Activate => AlarmAction::Activate,
            pb::alarm_request::AlarmAction::Deactivate => AlarmAction::Deactivate,
        };
        let alarm = match request.alarm() {
            pb::AlarmType::None => AlarmKind::None,
            pb::AlarmType::Nospace => AlarmKind::NoSpace,
            pb::AlarmType::Corrupt => AlarmKind::Corrupt,
        };
        let member = request.member_id;
        let this = |&(node, kind): &(NodeId, AlarmKind)| node.0 == member && kind == alarm;
        let alarms: Vec<(NodeId, AlarmKind)> = match action {
            AlarmAction::Get => {
                let raised = self.raised_alarms(call).await?;
                let wanted = |kind| alarm == AlarmKind::None || kind == alarm;
                raised.into_iter().filter(|(_, kind)| wanted(*kind)).collect()
            }
            // The answer tells of the one alarm raised, or of the one cleared if there was one.
            AlarmAction::Activate => {
                let raised = self.change_alarms(call, action, member, alarm).await?;
                raised.into_iter().filter(this).collect()
            }
            AlarmAction::Deactivate => {
                let raised = self.raised_alarms(call).await?;
                self.change_alarms(call, action, member, alarm).await?;
                raised.into_iter().filter(this).collect()
            }
        };
        let alarms = alarms.into_iter().map(alarm_member).collect();
        Ok(pb::AlarmResponse { header: Some(self.current_header()), alarms })
    }

    /// All alarms that are raised, as the meta range knows them now.
    pub(super) async fn raised_alarms(
        &self,
        call: Call,
    ) -> Result<Vec<(NodeId, AlarmKind)>, Status> {
        self.change_alarms(call, AlarmAction::Get, 0, AlarmKind::None).await
    }

    /// All alarms that are raised after the action.
    async fn change_alarms(
        &self,
        call: Call,
        action: AlarmAction,
        member: u64,
        alarm: AlarmKind,
    ) -> Result<Vec<(NodeId, AlarmKind)>, Status> {
        match self.ask(call, Request::Alarm { action, member, alarm }).await? {
            Response::Alarm { alarms } => {
                // So that a client that goes on here at once sees its own change.
                self.backend().vitals().note_alarms(&alarms);
                Ok(alarms)
            }
            _ => Err(error::unexpected_answer()),
        }
    }

    /// Nothing to do: deleted data makes room by itself.
    pub(super) fn defragment(_request: pb::DefragmentRequest) -> pb::DefragmentResponse {
        pb::DefragmentResponse { header: None }
    }

    pub(super) async fn hash(
        &self,
        call: Call,
        _request: pb::HashRequest,
    ) -> Result<pb::HashResponse, Status> {
        let hash = self.backend().hash(0, call.timeout).await.map_err(error::status)?;
        Ok(pb::HashResponse { header: Some(self.current_header()), hash: hash.hash })
    }

    pub(super) async fn hash_kv(
        &self,
        call: Call,
        request: pb::HashKvRequest,
    ) -> Result<pb::HashKvResponse, Status> {
        let hash =
            self.backend().hash(request.revision, call.timeout).await.map_err(error::status)?;
        Ok(pb::HashKvResponse {
            header: Some(self.current_header()),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.revision,
        })
    }

    /// Moves the sequencer. As in etcd the request must come to the node that has it.
    pub(super) async fn move_leader(
        &self,
        call: Call,
        request: pb::MoveLeaderRequest,
    ) -> Result<pb::MoveLeaderResponse, Status> {
        let vitals = self.backend().vitals();
        if vitals.sequencer() != Some(vitals.node()) {
            return Err(error::not_leader());
        }
        check_transferee(&self.backend().view().nodes, request.target_id)?;
        if request.target_id != vitals.node().0 {
            let to = NodeId(request.target_id);
            self.ask(call, Request::Admin(AdminOp::Transfer { range: META_RANGE, to })).await?;
        }
        Ok(pb::MoveLeaderResponse { header: None })
    }
}

fn alarm_member((node, alarm): (NodeId, AlarmKind)) -> pb::AlarmMember {
    let alarm = match alarm {
        AlarmKind::None => pb::AlarmType::None,
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    };
    pb::AlarmMember { member_id: node.0, alarm: alarm.into() }
}

/// etcd's name of an alarm.
pub(crate) fn alarm_name(alarm: AlarmKind) -> &'static str {
    match alarm {
        AlarmKind::None => "NONE",
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}
