//! Rules that a key-value request must keep whatever the state is, with etcd's error for each.
//!
//! Invariant: no key is put twice at one revision. It may be put and then deleted, in the orders in
//! which etcd does not notice that.

use super::error;
use bytes::Bytes;
use holdfast_core::key::Span;
use holdfast_proto::etcdserverpb as pb;
use pb::request_op::Request;
use prost::Message;
use std::collections::BTreeSet;
use tonic::Status;

/// Bounds that may be configured, with etcd's names and defaults.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request that may become a log entry, in bytes (`--max-request-bytes`).
    pub request_bytes: usize,
    /// Operations in one list of a transaction, nested ones on top (`--max-txn-ops`).
    pub txn_operations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_bytes: 3 << 19, txn_operations: 128 }
    }
}

impl Limits {
    /// What the message around the largest request may take (as etcd's receive limit).
    pub(super) fn message_bytes(self) -> usize {
        self.request_bytes + (512 << 10)
    }
}

/// Checks a range read.
pub(super) fn range(request: &pb::RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(error::key_not_provided());
    }
    let order = pb::range_request::SortOrder::try_from(request.sort_order);
    let target = pb::range_request::SortTarget::try_from(request.sort_target);
    if order.is_err() || target.is_err() {
        return Err(error::invalid_sort_option());
    }
    Ok(())
}

/// Checks a put.
pub(super) fn put(request: &pb::PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(error::key_not_provided());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(error::value_provided());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(error::lease_provided());
    }
    Ok(())
}

/// Checks a deletion.
pub(super) fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() { Err(error::key_not_provided()) } else { Ok(()) }
}

/// Checks a transaction, nested ones included.
pub(super) fn txn(request: &pb::TxnRequest, limits: Limits) -> Result<(), Status> {
    operations(request, limits.txn_operations)?;
    // After the bound on operations, so that this cannot take long.
    Changes::of(&request.success)?;
    Changes::of(&request.failure)?;
    Ok(())
}

/// Checks that a request fits into a log entry.
pub(super) fn size(request: &impl Message, limits: Limits) -> Result<(), Status> {
    if request.encoded_len() > limits.request_bytes {
        Err(error::request_too_large())
    } else {
        Ok(())
    }
}

fn operations(request: &pb::TxnRequest, limit: usize) -> Result<(), Status> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    if longest > limit {
        return Err(error::too_many_operations());
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(error::key_not_provided());
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(nested)) => operations(nested, limit - longest)?,
            None => return Err(error::key_not_found()),
        }
    }
    Ok(())
}

/// What a list of operations may change, as far as etcd looks.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a Bytes>,
    deletes: Vec<Span>,
}

impl<'a> Changes<'a> {
    /// Collects them, and refuses a key that would be changed twice. The order is etcd's, and with
    /// it what goes unnoticed: deletions in a nested transaction after a put in an earlier one, and
    /// (see [`literal_span`]) open-ended deletions.
    fn of(operations: &'a [pb::RequestOp]) -> Result<Self, Status> {
        let mut all = Self::default();
        for operation in operations {
            if let Some(Request::RequestDeleteRange(delete)) = &operation.request {
                all.deletes.push(literal_span(delete));
            }
        }
        for operation in operations {
            if let Some(Request::RequestTxn(nested)) = &operation.request {
                // Only one of the two runs, so they may change the same keys.
                let (success, failure) = (Self::of(&nested.success)?, Self::of(&nested.failure)?);
                if success.puts.iter().chain(&failure.puts).any(|key| all.changes(key)) {
                    return Err(error::duplicate_key());
                }
                for branch in [success, failure] {
                    all.puts.extend(branch.puts);
                    all.deletes.extend(branch.deletes);
                }
            }
        }
        for operation in operations {
            if let Some(Request::RequestPut(put)) = &operation.request {
                if all.changes(&put.key) {
                    return Err(error::duplicate_key());
                }
                all.puts.insert(&put.key);
            }
        }
        Ok(all)
    }

    fn changes(&self, key: &Bytes) -> bool {
        self.puts.contains(key) || self.deletes.iter().any(|span| span.contains(key))
    }
}

/// The keys from `key` up to `range_end` in the order of bytes: as in etcd's check, an end of one
/// zero byte does not stand for "all keys from here" but makes the span empty.
fn literal_span(delete: &pb::DeleteRangeRequest) -> Span {
    if delete.range_end.is_empty() {
        Span::key(&delete.key)
    } else {
        Span { start: delete.key.clone(), end: Some(delete.range_end.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    fn put_op(key: &'static str) -> pb::RequestOp {
        operation(Request::RequestPut(pb::PutRequest { key: key.into(), ..Default::default() }))
    }

    fn delete_op(key: &'static str, end: &'static str) -> pb::RequestOp {
        operation(Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            prev_kv: false,
        }))
    }

    fn txn_op(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        operation(Request::RequestTxn(pb::TxnRequest { compare: Vec::new(), success, failure }))
    }

    fn check(success: Vec<pb::RequestOp>) -> Result<(), String> {
        txn(&pb::TxnRequest { success, ..Default::default() }, Limits::default())
            .map_err(|status| status.message().to_owned())
    }

    const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";

    #[test]
    fn a_key_that_is_changed_twice_is_refused() {
        let refused = [
            vec![put_op("a"), put_op("a")],
            vec![delete_op("a", "c"), put_op("b")],
            vec![put_op("b"), delete_op("a", "c")],
            vec![put_op("a"), txn_op(vec![put_op("a")], vec![])],
            vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![], vec![put_op("a")])],
            vec![txn_op(vec![delete_op("a", "")], vec![]), txn_op(vec![put_op("a")], vec![])],
            vec![txn_op(vec![put_op("a")], vec![]), delete_op("a", "")],
        ];
        for (case, operations) in refused.into_iter().enumerate() {
            assert_eq!(check(operations), Err(DUPLICATE.to_owned()), "case {case}");
        }
    }

    #[test]
    fn overlaps_that_etcd_accepts_are_fine() {
        let accepted = [
            vec![put_op("a"), put_op("b")],
            vec![delete_op("a", "m"), delete_op("c", "z")],
            vec![delete_op("a", "b"), put_op("b")],
            vec![put_op("b"), delete_op("a", "\0")],
            vec![delete_op("\0", "\0"), put_op("b")],
            vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![delete_op("a", "")], vec![])],
            vec![txn_op(vec![put_op("a")], vec![put_op("a"), delete_op("b", "c")])],
        ];
        for (case, operations) in accepted.into_iter().enumerate() {
            assert_eq!(check(operations), Ok(()), "case {case}");
        }
    }

    #[test]
    fn nested_transactions_get_what_is_left_of_the_bound() {
        let keys: Vec<&'static str> =
            (0..128).map(|i| &*Box::leak(format!("k{i:03}").into_boxed_str())).collect();
        let puts = |count: usize| keys[..count].iter().map(|key| put_op(key)).collect::<Vec<_>>();
        let too_many = Err("etcdserver: too many operations in txn request".to_owned());
        assert_eq!(check(puts(128)), Ok(()));
        assert_eq!(check([puts(128), vec![put_op("x")]].concat()), too_many);
        assert_eq!(check(vec![txn_op(puts(127), vec![])]), Ok(()));
        assert_eq!(check(vec![txn_op(puts(128), vec![])]), too_many);
    }

    #[test]
    fn empty_keys_and_operations_are_refused() {
        let no_key = "etcdserver: key is not provided".to_owned();
        assert_eq!(check(vec![put_op("")]), Err(no_key.clone()));
        assert_eq!(
            check(vec![pb::RequestOp { request: None }]),
            Err("etcdserver: key not found".to_owned())
        );
        let compare = vec![pb::Compare::default()];
        let answer = txn(&pb::TxnRequest { compare, ..Default::default() }, Limits::default());
        assert_eq!(answer.map_err(|status| status.message().to_owned()), Err(no_key));
    }

    #[test]
    fn put_options_that_contradict_are_refused() {
        let put_with = |request: pb::PutRequest| {
            put(&pb::PutRequest { key: "k".into(), ..request })
                .map_err(|status| status.message().to_owned())
        };
        let value = pb::PutRequest { ignore_value: true, value: "v".into(), ..Default::default() };
        assert_eq!(put_with(value), Err("etcdserver: value is provided".to_owned()));
        let lease = pb::PutRequest { ignore_lease: true, lease: 3, ..Default::default() };
        assert_eq!(put_with(lease), Err("etcdserver: lease is provided".to_owned()));
    }

    #[test]
    fn unknown_sort_options_are_refused() {
        let request = pb::RangeRequest { key: "k".into(), sort_order: 9, ..Default::default() };
        let answer = range(&request).map_err(|status| status.message().to_owned());
        assert_eq!(answer, Err("etcdserver: invalid sort option".to_owned()));
    }

    #[test]
    fn the_bound_on_size_is_exclusive() {
        let mut request = pb::PutRequest { key: "k".into(), ..Default::default() };
        let overhead = request.encoded_len() + 4;
        request.value = vec![0; Limits::default().request_bytes - overhead].into();
        assert_eq!(request.encoded_len(), Limits::default().request_bytes);
        assert!(size(&request, Limits::default()).is_ok());
        request.value = vec![0; Limits::default().request_bytes - overhead + 1].into();
        assert!(size(&request, Limits::default()).is_err());
    }
}
