//! Copies that differ are found, named and raised as an alarm; those that do not, are not.

use super::cluster::{Cluster, wait_for};
use super::history::connect;
use bytes::Bytes;
use holdfast_core::ids::RangeId;
use holdfast_core::state::{ApplyBatch, Mutation, Version};
use holdfast_proto::etcdserverpb::alarm_request::AlarmAction;
use holdfast_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast_proto::etcdserverpb::{AlarmRequest, AlarmType, PutRequest};
use holdfast_storage::State;
use holdfast_storage::state::StateOptions;
use serde_json::{Value, json};
use std::process::Output;
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

fn put(cluster: &Cluster, key: &'static str) {
    let runtime = Runtime::new().unwrap();
    let mut client = connect(&runtime, &cluster.endpoint(1));
    let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(b"value"));
    let put = PutRequest { key, value, ..PutRequest::default() };
    runtime.block_on(client.put(put)).unwrap();
}

/// What `etcdctl alarm list` prints: member and kind.
fn alarms(cluster: &Cluster) -> Vec<(u64, AlarmType)> {
    let runtime = Runtime::new().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.endpoint(2))).unwrap();
    runtime.block_on(async {
        let mut client = MaintenanceClient::connect(endpoint).await.unwrap();
        let get = AlarmRequest { action: AlarmAction::Get.into(), ..AlarmRequest::default() };
        let answer = client.alarm(get).await.unwrap().into_inner();
        answer.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm())).collect()
    })
}

fn check(cluster: &Cluster, more: &[&str]) -> (Option<i32>, Value) {
    let arguments = ["check", "-o", "json", "--timeout", "30s"];
    let Output { status, stdout, .. } = cluster.command(&[&arguments[..], more].concat());
    (status.code(), serde_json::from_slice(&stdout).unwrap_or(Value::Null))
}

#[test]
fn a_copy_with_a_row_too_many_is_found_and_named() {
    let mut cluster = Cluster::start(&["--split-keys", "m"]);
    cluster.wait_full();
    for key in ["a", "b", "n", "z"] {
        put(&cluster, key);
    }
    let (code, found) = check(&cluster, &[]);
    assert_eq!(code, Some(0), "{found}");
    let ranges = found["ranges"].as_array().unwrap();
    assert_eq!(ranges.len(), 3);
    assert!(ranges.iter().all(|range| range["result"] == "Equal"), "{found}");

    // A row appears that nobody wrote, as if the disk had brought it back.
    cluster.kill(3);
    let range = RangeId(3);
    let state = cluster.node_directory(3).join("state.redb");
    let state = State::open(&state, StateOptions::default()).unwrap();
    let version = Version {
        mod_revision: 2,
        sub: 900,
        create_revision: 2,
        version: 1,
        lease: 0,
        value: Some(Bytes::from_static(b"ghost")),
    };
    let key = Bytes::from_static(b"o");
    state.apply(&[ApplyBatch {
        range,
        applied: state.applied(range).expect("it has a copy"),
        mutations: vec![Mutation { key, version, prev_lease: 0 }],
        system: Vec::new(),
    }]);
    state.flush().unwrap();
    drop(state);

    // With a copy away, the others cannot be told equal, and nobody is accused.
    let (code, found) = check(&cluster, &["--range", "3"]);
    assert_eq!((code, &found["ranges"][0]["result"]), (Some(3), &json!("Incomplete")));

    cluster.rejoin(3);
    cluster.wait_full();
    let (code, found) = check(&cluster, &[]);
    assert_eq!(code, Some(1), "{found}");
    let result = |range: &Value| (range["range"].clone(), range["diverged"].clone());
    let results: Vec<_> = found["ranges"].as_array().unwrap().iter().map(result).collect();
    assert!(results.contains(&(json!(3), json!([3]))), "{results:?}");
    assert!(results.contains(&(json!(2), json!([]))), "{results:?}");

    wait_for("the alarm", || cluster.status()["diverged"] != json!([]));
    let status = cluster.status();
    assert_eq!(status["diverged"][0]["range"], 3);
    assert_eq!(status["diverged"][0]["nodes"], json!([3]));
    assert_eq!(status["protection"], "Degraded");
    assert_eq!(alarms(&cluster), [(3, AlarmType::Corrupt)]);
    let log = std::fs::read_to_string(cluster.node_directory(1).join("log")).unwrap();
    assert!(log.contains("replicas differ"), "{log}");
    // It goes on serving.
    put(&cluster, "n");
    let (code, _) = check(&cluster, &["--range", "99"]);
    assert_eq!(code, Some(3));
}
