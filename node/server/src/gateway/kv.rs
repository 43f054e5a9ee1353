//! The KV service.

use super::grpc::Call;
use super::{Gateway, check, convert, error};
use holdfast_core::ids::Revision;
use holdfast_core::request::{Op, OpResult, Request, Response};
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
        check::size(&request)?;
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
        check::size(&request)?;
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
        check::txn(&request)?;
        check::size(&request)?;
        match self.key_value(call, Op::Txn(convert::txn_op(request)?)).await? {
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

    async fn key_value(&self, call: Call, op: Op) -> Result<(Revision, OpResult), Status> {
        match self.ask(call, Request::Kv(op)).await? {
            Response::Kv { revision, result } => Ok((revision, result)),
            _ => Err(error::unexpected_answer()),
        }
    }
}
