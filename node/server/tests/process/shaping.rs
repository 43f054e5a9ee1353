//! A range with much load is cut, and what was cut is merged again when the load is over. Nobody notices
//! either.

use super::cluster::{Cluster, wait_for};
use super::history::Load;
use holdfast_proto::etcdserverpb::PutRequest;
use holdfast_proto::etcdserverpb::kv_client::KvClient;
use std::time::{Duration, Instant};

const KEYS: [&str; 12] = [
    "hot/00", "hot/01", "hot/02", "hot/03", "hot/04", "hot/05", "hot/06", "hot/07", "hot/08",
    "hot/09", "hot/10", "hot/11",
];
/// So rarely that a range with it has next to no load.
const RARELY: Duration = Duration::from_secs(1);

fn ranges(cluster: &Cluster) -> u64 {
    cluster.status()["ranges"]["total"].as_u64().unwrap()
}

#[test]
fn a_hot_range_is_cut_and_merged_again_without_a_failed_request() {
    let arguments = ["--split-load", "40", "--merge-after", "3s"];
    let cluster = Cluster::start(&arguments);
    let before = ranges(&cluster) + 1;
    assert!(cluster.command(&["split", "by-hand"]).status.success());
    wait_for("the cut by hand", || ranges(&cluster) == before);
    let load = Load::start(&[cluster.endpoint(1), cluster.endpoint(2)], &KEYS);
    wait_for("a cut by load", || ranges(&cluster) >= before + 2);
    load.wait_progress(500);
    assert!(ranges(&cluster) >= before + 2, "nothing is merged while the load goes on");
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let endpoint = format!("http://{}", cluster.endpoint(3));
    let mut client = runtime.block_on(KvClient::connect(endpoint)).unwrap();
    let mut next = Instant::now();
    let mut number = 0;
    wait_for("merges", || {
        if Instant::now() >= next {
            next += RARELY;
            number += 1;
            let key = KEYS[number % KEYS.len()].into();
            let put = PutRequest { key, value: "v".into(), ..PutRequest::default() };
            runtime.block_on(client.put(put)).unwrap();
        }
        ranges(&cluster) == before
    });
    cluster.wait_full();
}
