//! Between the wire's messages and the core's requests and answers. Keys and values are moved.
//!
//! Invariant: requests have passed `check.rs`, so what is converted here cannot fail, except for
//! enum values that no etcd client sends.

use super::error;
use holdfast_core::effects::Event;
use holdfast_core::ids::Revision;
use holdfast_core::request::{
    Compare, CompareResult, CompareTarget, DeleteOp, KeyValue, Op, OpResult, PutOp, RangeOp,
    RangeResult, SortOrder, SortTarget, TxnOp,
};
use holdfast_proto::etcdserverpb as pb;
use holdfast_proto::mvccpb;
use pb::compare::TargetUnion;
use pb::request_op::Request;
use pb::response_op::Response;
use tonic::Status;

/// A range read.
pub(super) fn range_op(request: pb::RangeRequest) -> RangeOp {
    use pb::range_request as wire;
    let sort_order = match request.sort_order() {
        wire::SortOrder::None => SortOrder::None,
        wire::SortOrder::Ascend => SortOrder::Ascend,
        wire::SortOrder::Descend => SortOrder::Descend,
    };
    let sort_target = match request.sort_target() {
        wire::SortTarget::Key => SortTarget::Key,
        wire::SortTarget::Version => SortTarget::Version,
        wire::SortTarget::Create => SortTarget::Create,
        wire::SortTarget::Mod => SortTarget::Mod,
        wire::SortTarget::Value => SortTarget::Value,
    };
    RangeOp {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order,
        sort_target,
        serializable: request.serializable,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    }
}

/// A put.
pub(super) fn put_op(request: pb::PutRequest) -> PutOp {
    PutOp {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

/// A deletion.
pub(super) fn delete_op(request: pb::DeleteRangeRequest) -> DeleteOp {
    DeleteOp { key: request.key, range_end: request.range_end, prev_kv: request.prev_kv }
}

/// A transaction.
pub(super) fn txn_op(request: pb::TxnRequest) -> Result<TxnOp, Status> {
    Ok(TxnOp {
        compare: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: request.success.into_iter().map(op).collect::<Result<_, _>>()?,
        failure: request.failure.into_iter().map(op).collect::<Result<_, _>>()?,
    })
}

fn op(operation: pb::RequestOp) -> Result<Op, Status> {
    Ok(match operation.request.ok_or_else(error::key_not_found)? {
        Request::RequestRange(request) => Op::Range(range_op(request)),
        Request::RequestPut(request) => Op::Put(put_op(request)),
        Request::RequestDeleteRange(request) => Op::Delete(delete_op(request)),
        Request::RequestTxn(request) => Op::Txn(txn_op(request)?),
    })
}

/// As in etcd, the target counts; a value given for another target counts as zero.
fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult as WireResult, CompareTarget as WireTarget};
    let unknown = |_| Status::invalid_argument("holdfast: unknown kind of compare");
    let result = match WireResult::try_from(compare.result).map_err(unknown)? {
        WireResult::Equal => CompareResult::Equal,
        WireResult::Greater => CompareResult::Greater,
        WireResult::Less => CompareResult::Less,
        WireResult::NotEqual => CompareResult::NotEqual,
    };
    let given = compare.target_union;
    let target = match WireTarget::try_from(compare.target).map_err(unknown)? {
        WireTarget::Version => CompareTarget::Version(match given {
            Some(TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        WireTarget::Create => CompareTarget::Create(match given {
            Some(TargetUnion::CreateRevision(revision)) => revision,
            _ => 0,
        }),
        WireTarget::Mod => CompareTarget::Mod(match given {
            Some(TargetUnion::ModRevision(revision)) => revision,
            _ => 0,
        }),
        WireTarget::Value => CompareTarget::Value(match given {
            Some(TargetUnion::Value(value)) => value,
            _ => bytes::Bytes::new(),
        }),
        WireTarget::Lease => CompareTarget::Lease(match given {
            Some(TargetUnion::Lease(lease)) => lease,
            _ => 0,
        }),
    };
    Ok(Compare { key: compare.key, range_end: compare.range_end, result, target })
}

/// One key.
pub(super) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// One change.
pub(super) fn event(event: Event) -> mvccpb::Event {
    let kind =
        if event.put { mvccpb::event::EventType::Put } else { mvccpb::event::EventType::Delete };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(event.kv)),
        prev_kv: event.prev_kv.map(key_value),
    }
}

/// The answer to a range read.
pub(super) fn range_response(header: pb::ResponseHeader, result: RangeResult) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: result.kvs.into_iter().map(key_value).collect(),
        more: result.more,
        count: result.count,
    }
}

/// The answer to a put.
pub(super) fn put_response(
    header: pb::ResponseHeader,
    prev_kv: Option<KeyValue>,
) -> pb::PutResponse {
    pb::PutResponse { header: Some(header), prev_kv: prev_kv.map(key_value) }
}

/// The answer to a deletion.
pub(super) fn delete_response(
    header: pb::ResponseHeader,
    deleted: i64,
    prev_kvs: Vec<KeyValue>,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(header),
        deleted,
        prev_kvs: prev_kvs.into_iter().map(key_value).collect(),
    }
}

/// The answer to a transaction.
pub(super) fn txn_response(
    header: pb::ResponseHeader,
    succeeded: bool,
    results: Vec<(Revision, OpResult)>,
) -> pb::TxnResponse {
    let responses = results.into_iter().map(response_op).collect();
    pb::TxnResponse { header: Some(header), succeeded, responses }
}

/// Headers inside a transaction carry the revision only.
fn response_op((revision, result): (Revision, OpResult)) -> pb::ResponseOp {
    let header = pb::ResponseHeader { revision, ..Default::default() };
    let response = match result {
        OpResult::Range(result) => Response::ResponseRange(range_response(header, result)),
        OpResult::Put { prev_kv } => Response::ResponsePut(put_response(header, prev_kv)),
        OpResult::Delete { deleted, prev_kvs } => {
            Response::ResponseDeleteRange(delete_response(header, deleted, prev_kvs))
        }
        OpResult::Txn { succeeded, results } => {
            Response::ResponseTxn(txn_response(header, succeeded, results))
        }
    };
    pb::ResponseOp { response: Some(response) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compare_takes_the_value_of_its_target_only() {
        let wire = pb::Compare {
            result: pb::compare::CompareResult::Greater.into(),
            target: pb::compare::CompareTarget::Mod.into(),
            key: "k".into(),
            range_end: "\0".into(),
            target_union: Some(TargetUnion::Version(7)),
        };
        let converted = compare(wire.clone()).expect("known kinds");
        assert_eq!(converted.target, CompareTarget::Mod(0));
        assert_eq!(converted.result, CompareResult::Greater);
        let right = pb::Compare { target_union: Some(TargetUnion::ModRevision(7)), ..wire.clone() };
        assert_eq!(compare(right).expect("known kinds").target, CompareTarget::Mod(7));
        assert!(compare(pb::Compare { result: 77, ..wire }).is_err());
    }

    #[test]
    fn headers_inside_a_transaction_carry_the_revision_only() {
        let results = vec![(9, OpResult::Put { prev_kv: None })];
        let answer = txn_response(pb::ResponseHeader::default(), true, results);
        let Some(Response::ResponsePut(put)) = &answer.responses[0].response else {
            panic!("a put");
        };
        let header = pb::ResponseHeader { revision: 9, ..Default::default() };
        assert_eq!(put.header, Some(header));
    }

    #[test]
    fn a_deletion_is_sent_as_one() {
        let kv = KeyValue { key: "k".into(), mod_revision: 4, ..KeyValue::default() };
        let sent = event(Event { put: false, kv, prev_kv: None, sub: 0 });
        assert_eq!(sent.r#type(), mvccpb::event::EventType::Delete);
        assert_eq!(sent.kv.expect("always there").mod_revision, 4);
    }
}
