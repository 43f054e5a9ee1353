//! The KV service.

use super::grpc::Call;
use super::{Gateway, check, convert, error};
use holdfast_core::error::Error;
use holdfast_core::ids::Revision;
use holdfast_core::request::{AlarmKind, Op, OpResult, Request, Response};
use holdfast_proto::etcdserverpb as pb;
use tonic::Status;

impl Gateway {
    pub(super) async fn range(
        &self,
        call: Call,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Status> {
        check::range(&request)?;
        match self.key_value(call, Op::Range(convert::range_op(request))).await? {
            (revision, OpResult::Range(result)) => {
                Ok(convert::range_response(self.header(revision), result))
            }
            _ => Err(error::unexpected_answer()),
        }
    }

    pub(super) async fn put(
        &self,
        call: Call,
        request: pb::PutRequest,
    ) -> Result<pb::PutResponse, Status> {
        check::put(&request)?;
        check::size(&request, self.config().limits)?;
        self.require_room(call).await?;
        match self.key_value(call, Op::Put(convert::put_op(request))).await? {
            (revision, OpResult::Put { prev_kv }) => {
                Ok(convert::put_response(self.header(revision), prev_kv))
            }
            _ => Err(error::unexpected_answer()),
        }
    }

    pub(super) async fn delete_range(
        &self,
        call: Call,
        request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        check::delete_range(&request)?;
        check::size(&request, self.config().limits)?;
        match self.key_value(call, Op::Delete(convert::delete_op(request))).await? {
            (revision, OpResult::Delete { deleted, prev_kvs }) => {
                Ok(convert::delete_response(self.header(revision), deleted, prev_kvs))
            }
            _ => Err(error::unexpected_answer()),
        }
    }

    pub(super) async fn txn(
        &self,
        call: Call,
        request: pb::TxnRequest,
    ) -> Result<pb::TxnResponse, Status> {
        check::txn(&request, self.config().limits)?;
        check::size(&request, self.config().limits)?;
        let op = Op::Txn(convert::txn_op(request));
        if puts(&op) {
            self.require_room(call).await?;
        }
        match self.key_value(call, op).await? {
            (revision, OpResult::Txn { succeeded, results }) => {
                Ok(convert::txn_response(self.header(revision), succeeded, results))
            }
            _ => Err(error::unexpected_answer()),
        }
    }

    /// `physical` makes no difference: history is removed in the background in small steps, and
    /// nothing that is compacted can be read from the moment of the answer.
    pub(super) async fn compact(
        &self,
        call: Call,
        request: pb::CompactionRequest,
    ) -> Result<pb::CompactionResponse, Status> {
        let request = Request::Compact { revision: request.revision };
        match self.ask(call, request).await? {
            Response::Compact { revision } => {
                Ok(pb::CompactionResponse { header: Some(self.header(revision)) })
            }
            _ => Err(error::unexpected_answer()),
        }
    }

    /// As in etcd, an alarm about room stops what takes room on every node. Before it is told, the
    /// meta range is asked: whoever cleared the alarm through another node may write here at once.
    pub(super) async fn require_room(&self, call: Call) -> Result<(), Status> {
        if !self.backend().vitals().no_space() {
            return Ok(());
        }
        let raised = self.raised_alarms(call).await?;
        let no_space = raised.iter().any(|(_, alarm)| *alarm == AlarmKind::NoSpace);
        if no_space { Err(error::no_space()) } else { Ok(()) }
    }

    async fn key_value(&self, call: Call, op: Op) -> Result<(Revision, OpResult), Status> {
        self.require_leader(call)?;
        let linearizable = linearizable_twin(&op);
        let mut answer = self.backend().call(Request::Kv(op), call.timeout).await;
        if let (Err(Error::FutureRevision), Some(op)) = (&answer, linearizable) {
            answer = self.backend().call(Request::Kv(op), call.timeout).await;
        }
        match answer.map_err(error::status)? {
            Response::Kv { revision, result } => Ok((revision, result)),
            _ => Err(error::unexpected_answer()),
        }
    }
}

/// Whether some branch puts a key.
fn puts(op: &Op) -> bool {
    match op {
        Op::Put(_) => true,
        Op::Range(_) | Op::Delete(_) => false,
        Op::Txn(txn) => txn.success.iter().chain(&txn.failure).any(puts),
    }
}

/// For a read that may be stale but names a revision: the same read, not stale. The replica that
/// is asked first may not have that revision yet although this node has told it to its client
/// (Go's software transactional memory reads like that); what was true at a revision is the same
/// everywhere.
fn linearizable_twin(op: &Op) -> Option<Op> {
    let names_revision = |op: &Op| matches!(op, Op::Range(range) if range.revision > 0);
    let wanted = op.is_serializable()
        && match op {
            Op::Range(_) => names_revision(op),
            Op::Txn(txn) => txn.success.iter().chain(&txn.failure).any(names_revision),
            Op::Put(_) | Op::Delete(_) => false,
        };
    if !wanted {
        return None;
    }
    let mut twin = op.clone();
    match &mut twin {
        Op::Range(range) => range.serializable = false,
        Op::Txn(txn) => {
            for op in txn.success.iter_mut().chain(&mut txn.failure) {
                if let Op::Range(range) = op {
                    range.serializable = false;
                }
            }
        }
        Op::Put(_) | Op::Delete(_) => {}
    }
    Some(twin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::request::{PutOp, RangeOp, TxnOp};

    fn read(serializable: bool, revision: Revision) -> Op {
        Op::Range(RangeOp { key: "k".into(), serializable, revision, ..RangeOp::default() })
    }

    #[test]
    fn only_stale_reads_at_a_revision_have_a_twin() {
        assert_eq!(linearizable_twin(&read(true, 0)), None);
        assert_eq!(linearizable_twin(&read(false, 7)), None);
        assert_eq!(linearizable_twin(&read(true, 7)), Some(read(false, 7)));
        let txn = |op| Op::Txn(TxnOp { success: vec![op], ..TxnOp::default() });
        assert_eq!(linearizable_twin(&txn(read(true, 7))), Some(txn(read(false, 7))));
        assert_eq!(linearizable_twin(&txn(Op::Put(PutOp::default()))), None);
    }

    #[test]
    fn puts_are_found_in_every_branch() {
        let put = Op::Put(PutOp::default());
        let inner = Op::Txn(TxnOp { failure: vec![put], ..TxnOp::default() });
        assert!(puts(&Op::Txn(TxnOp { success: vec![inner], ..TxnOp::default() })));
        assert!(!puts(&Op::Txn(TxnOp { success: vec![read(false, 0)], ..TxnOp::default() })));
    }
}
