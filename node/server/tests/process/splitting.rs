//! Ranges that grow are cut and spread, and nobody notices: writes, transactions over keys that lie in
//! several ranges by then, and a node that is killed while it goes on.

use super::cluster::{Cluster, wait_for};
use super::history::Load;
use holdfast_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use holdfast_proto::etcdserverpb::kv_client::KvClient;
use holdfast_proto::etcdserverpb::request_op::Request;
use holdfast_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use std::collections::BTreeSet;
use tonic::transport::Channel;

const KEYS: [&str; 5] = ["fill/0100", "fill/0700", "fill/1300", "fill/1900", "other"];
/// Keys of the filling, each with a value of a kibibyte.
const FILL: usize = 2_400;

fn put(key: String, value: Vec<u8>) -> PutRequest {
    PutRequest { key: key.into_bytes().into(), value: value.into(), ..PutRequest::default() }
}

/// Writes the filling, eight keys at a time in one transaction, each transaction over all of it.
async fn fill(mut client: KvClient<Channel>, from: usize, to: usize) {
    let stripes = 8;
    for number in from..to {
        let success = (0..stripes)
            .map(|stripe| {
                let key = format!("fill/{:04}/data", stripe * (FILL / stripes) + number);
                RequestOp { request: Some(Request::RequestPut(put(key, vec![b'x'; 1024]))) }
            })
            .collect();
        client.txn(TxnRequest { success, ..TxnRequest::default() }).await.unwrap();
    }
}

fn ranges(cluster: &Cluster) -> u64 {
    cluster.status()["ranges"]["total"].as_u64().unwrap()
}

#[test]
fn a_range_that_grows_is_cut_and_spread_without_a_failed_request() {
    let mut cluster = Cluster::start(&["--split-size", "256KiB"]);
    let before = ranges(&cluster);
    let load = Load::start(&[cluster.endpoint(1), cluster.endpoint(2)], &KEYS);
    load.wait_progress(50);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client =
        runtime.block_on(KvClient::connect(format!("http://{}", cluster.endpoint(1)))).unwrap();
    let per_stripe = FILL / 8;
    runtime.block_on(fill(client.clone(), 0, per_stripe / 2));
    wait_for("the first cuts", || ranges(&cluster) >= before + 2);
    cluster.kill(3);
    runtime.block_on(fill(client.clone(), per_stripe / 2, per_stripe));
    wait_for("more cuts", || ranges(&cluster) >= before + 5);
    cluster.rejoin(3);
    cluster.wait_full();
    wait_for("leaders to be spread", || {
        let status = cluster.status();
        let nodes = status["nodes"].as_array().unwrap();
        let leading: BTreeSet<u64> = nodes
            .iter()
            .filter(|node| node["leaders"].as_u64().is_some_and(|leaders| leaders > 0))
            .filter_map(|node| node["id"].as_u64())
            .collect();
        leading.len() == 3
    });
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);

    // Everything is there, and can be changed and removed as one.
    runtime.block_on(async {
        let mut client = client;
        let all = RangeRequest {
            key: "fill/".into(),
            range_end: "fill0".into(),
            count_only: true,
            ..RangeRequest::default()
        };
        let found = client.range(all.clone()).await.unwrap().into_inner();
        assert_eq!(found.count, FILL as i64 + 4);
        let first = "fill/0000/data";
        let compare = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Version.into(),
            key: first.into(),
            target_union: Some(TargetUnion::Version(1)),
            ..Compare::default()
        };
        let swap = TxnRequest {
            compare: vec![compare],
            success: [first, "fill/2399/data"]
                .map(|key| RequestOp {
                    request: Some(Request::RequestPut(put(key.to_owned(), b"y".to_vec()))),
                })
                .to_vec(),
            ..TxnRequest::default()
        };
        assert!(client.txn(swap.clone()).await.unwrap().into_inner().succeeded);
        assert!(!client.txn(swap).await.unwrap().into_inner().succeeded);
        let delete = DeleteRangeRequest {
            key: "fill/".into(),
            range_end: "fill0".into(),
            ..DeleteRangeRequest::default()
        };
        let deleted = client.delete_range(delete).await.unwrap().into_inner();
        assert_eq!(deleted.deleted, found.count);
        assert_eq!(client.range(all).await.unwrap().into_inner().count, 0);
    });
}
