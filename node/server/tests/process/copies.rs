//! Clusters with one copy and with five: what they survive, and what those who lack a majority are told.

use super::cluster::{Cluster, run_to_end, wait_for};
use super::history::{Load, connect};
use bytes::Bytes;
use holdfast_proto::etcdserverpb::PutRequest;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Puts a key through node 1, with all the time in the world; how it ended, and after how long.
fn put(cluster: &Cluster, key: &'static str) -> (Result<(), tonic::Status>, Duration) {
    let runtime = Runtime::new().unwrap();
    let mut client = connect(&runtime, &cluster.endpoint(1));
    let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(b"value"));
    let mut put = tonic::Request::new(PutRequest { key, value, ..PutRequest::default() });
    put.set_timeout(Duration::from_mins(1));
    let start = Instant::now();
    let answer = runtime.block_on(client.put(put)).map(|_| ());
    (answer, start.elapsed())
}

#[test]
fn five_copies_survive_two_nodes() {
    let cluster = Cluster::start(&["--nodes", "5", "--replicas", "5", "--split-keys", "m"]);
    cluster.wait_full();
    let endpoints = [1, 2, 3].map(|node| cluster.endpoint(node));
    let load = Load::start(&endpoints, &["a", "z"]);
    load.wait_progress(50);
    cluster.kill(5);
    cluster.kill(4);
    load.wait_progress(100);
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(cluster.status()["protection"], "Degraded");
}

/// Who has lost its only copy is told so soon, by name; everybody else is served.
#[test]
fn one_copy_serves_without_the_others_and_says_what_is_missing() {
    let cluster = Cluster::start(&["--nodes", "3", "--replicas", "1", "--split-keys", "g,p"]);
    cluster.wait_full();
    for key in ["a", "h", "z"] {
        put(&cluster, key).0.unwrap();
    }
    // Range 4, from "p" on, is on node 3 alone.
    cluster.kill(3);
    wait_for("the loss to be noticed", || cluster.status()["protection"] == "Unavailable");
    let (answer, took) = put(&cluster, "z");
    let error = answer.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable);
    for part in ["no majority", "r4", "\"p\"", "n3", "other ranges are served"] {
        assert!(error.message().contains(part), "{part}: {}", error.message());
    }
    assert!(took < Duration::from_secs(20), "it took {took:?} of a minute");
    // From then on it is certain.
    let (answer, took) = put(&cluster, "z");
    assert_eq!(answer.unwrap_err().code(), tonic::Code::Unavailable);
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    put(&cluster, "a").0.unwrap();
    put(&cluster, "h").0.unwrap();
}

#[test]
fn copies_that_make_no_sense_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    for (nodes, replicas, part) in
        [("3", "5", "more than the 3 nodes"), ("4", "2", "odd"), ("9", "9", "at most 7")]
    {
        let flags = ["dev", "--data", data, "--nodes", nodes, "--replicas", replicas];
        let (code, words) = run_to_end(&flags);
        assert_eq!(code, 2, "{words}");
        assert!(words.contains(part), "{words}");
    }
}
