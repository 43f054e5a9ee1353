//! Between the wire's messages and the core's requests and answers. Keys and values are moved.
//!
//! Invariant: requests have passed `check.rs`, so converting them cannot fail.

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
pub(super) fn txn_op(request: pb::TxnRequest) -> TxnOp {
    TxnOp {
        compare: request.compare.into_iter().filter_map(compare).collect(),
        success: request.success.into_iter().map(op).collect(),
        failure: request.failure.into_iter().map(op).collect(),
    }
}

fn op(operation: pb::RequestOp) -> Op {
    match operation.request.expect("check::txn refuses an operation that is none") {
        Request::RequestRange(request) => Op::Range(range_op(request)),
        Request::RequestPut(request) => Op::Put(put_op(request)),
        Request::RequestDeleteRange(request) => Op::Delete(delete_op(request)),
        Request::RequestTxn(request) => Op::Txn(txn_op(request)),
    }
}

/// As in etcd, the target counts; a value given for another target counts as zero. `None` is a
/// compare that always holds: in etcd, an unknown target is always equal, and an unknown result
/// always holds once the target exists.
fn compare(compare: pb::Compare) -> Option<Compare> {
    use pb::compare::{CompareResult as WireResult, CompareTarget as WireTarget};
    let result = WireResult::try_from(compare.result).ok().map(|result| match result {
        WireResult::Equal => CompareResult::Equal,
        WireResult::Greater => CompareResult::Greater,
        WireResult::Less => CompareResult::Less,
        WireResult::NotEqual => CompareResult::NotEqual,
    });
    let given = compare.target_union;
    let target = WireTarget::try_from(compare.target).ok().map(|target| match target {
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
    });
    // No version is below zero; every key that is there has one above.
    let never = (CompareTarget::Version(-1), CompareResult::Equal);
    let exists = (CompareTarget::Version(0), CompareResult::Greater);
    let (target, result) = match (target, result) {
        (Some(target), Some(result)) => (target, result),
        (Some(CompareTarget::Value(_)), None) => exists,
        (Some(_), None) | (None, None | Some(CompareResult::Equal)) => return None,
        (None, Some(_)) => never,
    };
    Some(Compare { key: compare.key, range_end: compare.range_end, result, target })
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

/// Headers inside a transaction carry the revision only; that of a nested one is empty.
fn response_op((revision, result): (Revision, OpResult)) -> pb::ResponseOp {
    let header = pb::ResponseHeader { revision, ..Default::default() };
    let response = match result {
        OpResult::Range(result) => Response::ResponseRange(range_response(header, result)),
        OpResult::Put { prev_kv } => Response::ResponsePut(put_response(header, prev_kv)),
        OpResult::Delete { deleted, prev_kvs } => {
            Response::ResponseDeleteRange(delete_response(header, deleted, prev_kvs))
        }
        OpResult::Txn { succeeded, results } => {
            let header = pb::ResponseHeader::default();
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
    }

    #[test]
    fn unknown_kinds_of_compare_are_taken_as_in_etcd() {
        let wire = |target, result| pb::Compare { target, result, ..Default::default() };
        let less = pb::compare::CompareResult::Less.into();
        let value = pb::compare::CompareTarget::Value.into();
        assert_eq!(compare(wire(9, 0)), None, "always equal");
        assert_eq!(compare(wire(0, 9)), None, "always holds");
        let never = compare(wire(9, less)).expect("never less");
        assert_eq!(
            (never.target, never.result),
            (CompareTarget::Version(-1), CompareResult::Equal)
        );
        let exists = compare(wire(value, 9)).expect("only a key that is there has a value");
        assert_eq!(
            (exists.target, exists.result),
            (CompareTarget::Version(0), CompareResult::Greater)
        );
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
