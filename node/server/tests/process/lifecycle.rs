//! A cluster's ordinary life: formed, used through every node, stopped, started, split, drained.

use super::cluster::{Cluster, wait_for};
use super::history::{Load, connect};
use holdfast_proto::etcdserverpb::{PutRequest, RangeRequest};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use tokio::runtime::Runtime;

fn put(runtime: &Runtime, endpoint: &str, key: &str, value: &str) {
    let request = PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        ..PutRequest::default()
    };
    runtime.block_on(connect(runtime, endpoint).put(request)).unwrap();
}

fn get(runtime: &Runtime, endpoint: &str, key: &str) -> Option<String> {
    let request = RangeRequest { key: key.as_bytes().to_vec().into(), ..RangeRequest::default() };
    let answer = runtime.block_on(connect(runtime, endpoint).range(request)).unwrap();
    let kv = answer.into_inner().kvs.into_iter().next()?;
    Some(String::from_utf8(kv.value.to_vec()).unwrap())
}

fn http(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn every_node_serves_every_range_and_nothing_is_lost_by_a_restart() {
    let runtime = Runtime::new().unwrap();
    let mut cluster = Cluster::start(&["--split-keys", "g,n,t"]);
    cluster.wait_full();
    assert!(cluster.status()["ranges"]["total"].as_u64().unwrap() >= 4);

    let keys = ["apple", "grape", "orange", "tomato"];
    for node in 1..=3 {
        for key in keys {
            put(&runtime, &cluster.endpoint(node), key, &format!("{key} of node {node}"));
            for reader in 1..=3 {
                let value = get(&runtime, &cluster.endpoint(reader), key);
                assert_eq!(value.unwrap(), format!("{key} of node {node}"));
            }
        }
    }
    for node in 1..=3_u16 {
        let port = cluster.ports.base + 10 * (node - 1) + 2;
        for path in ["/livez", "/readyz", "/health", "/version"] {
            assert!(http(port, path).starts_with("HTTP/1.1 200"), "node {node} {path}");
        }
        assert!(http(port, "/metrics").contains("etcd_server_has_leader 1"));
    }

    cluster.stop();
    assert!(!cluster.node_directory(1).join("pid").exists());
    cluster.run(&[]);
    for key in keys {
        let value = get(&runtime, &cluster.endpoint(2), key);
        assert_eq!(value.unwrap(), format!("{key} of node 3"));
    }
    cluster.stop();
}

#[test]
fn ranges_are_split_transferred_and_drained_under_load_without_a_failed_write() {
    let cluster = Cluster::start(&[]);
    cluster.wait_full();
    let load = Load::start(&cluster.endpoints(), &["a", "b", "x", "y"]);
    load.wait_progress(50);

    let before = cluster.status()["ranges"]["total"].as_u64().unwrap();
    let split = cluster.command(&["split", "m"]);
    assert!(split.status.success(), "{}", String::from_utf8_lossy(&split.stderr));
    wait_for("the new range", || cluster.status()["ranges"]["total"].as_u64() == Some(before + 1));
    load.wait_progress(50);

    let number = cluster.busiest();
    let busiest = number.to_string();
    let drain = cluster.command(&["drain", &busiest]);
    assert!(drain.status.success(), "{}", String::from_utf8_lossy(&drain.stderr));
    wait_for("the drained node to lead nothing", || {
        let status = cluster.status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().any(|node: &Value| {
            node["id"].as_u64() == Some(number as u64) && node["leaders"].as_u64() == Some(0)
        })
    });
    load.wait_progress(50);
    assert!(cluster.command(&["undrain", &busiest]).status.success());
    load.wait_progress(50);

    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    cluster.wait_full();
}
