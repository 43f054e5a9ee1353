//! Two of three nodes are gone for good: what is left goes on, by explicit consent, and becomes whole
//! again.

use super::cluster::NODE;
use super::history::connect;
use super::nodes::Nodes;
use bytes::Bytes;
use holdfast_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const KEYS: u64 = 60;

fn key(number: u64) -> Bytes {
    format!("{}{number}", ["a", "h", "t"][number as usize % 3]).into_bytes().into()
}

fn put(runtime: &Runtime, address: &str, number: u64) -> Result<i64, tonic::Status> {
    let mut client = connect(runtime, address);
    let value = number.to_string().into_bytes().into();
    let put = PutRequest { key: key(number), value, ..PutRequest::default() };
    let answer = runtime.block_on(client.put(put))?.into_inner();
    Ok(answer.header.unwrap().revision)
}

/// All keys with their values, and the revision at which they were read.
fn all(runtime: &Runtime, address: &str) -> (Vec<(Bytes, Bytes)>, i64) {
    let end = Bytes::from_static(b"\0");
    let read = RangeRequest { key: end.clone(), range_end: end, ..RangeRequest::default() };
    let answer = runtime.block_on(connect(runtime, address).range(read)).unwrap().into_inner();
    let keys = answer.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
    (keys, answer.header.unwrap().revision)
}

/// Runs `recover` on a node's directory: exit code, and all its words.
fn recover(nodes: &Nodes, node: usize, flags: &[&str]) -> (i32, String) {
    let data = nodes.data(node);
    let output = Command::new(NODE).args(["recover", "--data"]).arg(data).args(flags).output();
    let output = output.unwrap();
    let words = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(words).unwrap())
}

/// What is printed, line by line, must hold each of these parts.
fn says(answer: &(i32, String), code: i32, parts: &[&str]) {
    println!("{}", answer.1);
    assert_eq!(answer.0, code, "{}", answer.1);
    for part in parts {
        assert!(answer.1.contains(part), "{part:?} is not in {}", answer.1);
    }
}

#[test]
fn one_of_three_nodes_goes_on_alone_and_becomes_whole_again() {
    let runtime = Runtime::new().unwrap();
    let mut nodes = Nodes::new(3);
    nodes.flags = vec!["--split-keys=g,n".to_owned()];
    (1..=3).for_each(|node| nodes.start(node));
    nodes.wait_ready(&[1, 2, 3]);
    let mut newest = 0;
    for number in 0..KEYS {
        newest = put(&runtime, &nodes.client(1), number).unwrap();
    }
    let gone = DeleteRangeRequest { key: key(0), ..DeleteRangeRequest::default() };
    runtime.block_on(connect(&runtime, &nodes.client(1)).delete_range(gone)).unwrap();
    let whole = ["status", "--wait", "Full"];
    assert!(nodes.command(&nodes.client(1), &whole).status.success());
    let (before, _) = all(&runtime, &nodes.client(1));
    assert_eq!(before.len() as u64, KEYS - 1);

    let consent = ["--i-accept-data-loss"];
    says(&recover(&nodes, 3, &consent), 2, &["in use by process"]);
    // One node that is stopped is no reason.
    nodes.kill(3);
    says(&recover(&nodes, 3, &consent), 2, &["answers at", "it is not gone"]);
    nodes.start(3);
    nodes.wait_ready(&[3]);
    assert!(nodes.command(&nodes.client(3), &whole).status.success());

    // Two of three disks are gone. Who asks the third is told so, at once when it is certain.
    let old = nodes.directory.path().join("old");
    nodes.kill(1);
    std::fs::rename(nodes.data(1), &old).unwrap();
    nodes.empty(2);
    nodes.wait("the loss to be certain", || {
        let start = Instant::now();
        let error = put(&runtime, &nodes.client(3), 1).unwrap_err();
        error.message().contains("no majority") && start.elapsed() < Duration::from_secs(1)
    });
    // It may wait for the node to stop, as on Kubernetes.
    let waiting = Command::new(NODE)
        .args(["recover", "--dry-run", "--wait", "1m", "--data"])
        .arg(nodes.data(3))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    nodes.kill(3);
    let waited = waiting.wait_with_output().unwrap();
    let waited = (waited.status.code().unwrap_or(-1), String::from_utf8(waited.stdout).unwrap());

    let parts = ["n3 becomes the whole cluster", "n1 (node-1), n2 (node-2)", "3 copies again"];
    says(&waited, 0, &parts);
    let digest = waited.1.lines().find_map(|line| line.strip_prefix("Digest of this report: "));
    let digest = digest.unwrap();
    says(&recover(&nodes, 3, &["--dry-run"]), 0, &parts);
    says(&recover(&nodes, 3, &[]), 2, &["nothing was changed"]);
    says(&recover(&nodes, 3, &[&consent[..], &["--bump-revision", "5"]].concat()), 2, &["1000000"]);
    // Consent to another report is none.
    let said = nodes.directory.path().join("verdict");
    let verdict = || -> Value { serde_json::from_slice(&std::fs::read(&said).unwrap()).unwrap() };
    let request = |expected: &str, id: &str| {
        let said = said.to_str().unwrap();
        let flags = ["--expect", expected, "--once", id, "--verdict", said];
        recover(&nodes, 3, &[&consent[..], &flags].concat())
    };
    says(&request("0123456789ab", "a"), 2, &["nothing was changed", digest]);
    assert_eq!(verdict()["refusal"], "Outdated");
    assert_eq!(verdict()["report"]["digest"], *digest);
    says(&request(digest, "a"), 0, &["Done"]);
    assert_eq!(verdict()["done"], true);
    assert_eq!(verdict()["gone"].as_array().unwrap().len(), 2);
    // The same request once more is done, another one has nothing to do.
    says(&request(digest, "a"), 0, &["carried out already"]);
    assert_eq!(
        (&verdict()["done"], &verdict()["already"]),
        (&Value::Bool(true), &Value::Bool(true))
    );
    says(&request(digest, "b"), 2, &["nothing to recover"]);
    assert_eq!(verdict()["refusal"], "Nothing");
    // The tool died after the change, before it had written that down: the disk tells.
    let mark = nodes.data(3).join("recovered.json");
    let begun =
        std::fs::read_to_string(&mark).unwrap().replace("\"done\": true", "\"done\": false");
    std::fs::write(&mark, &begun).unwrap();
    says(&request(digest, "a"), 0, &["carried out already"]);
    assert!(std::fs::read_to_string(&mark).unwrap().contains("\"done\": true"));

    nodes.start(3);
    nodes.wait_ready(&[3]);
    let (after, revision) = all(&runtime, &nodes.client(3));
    assert_eq!(after, before, "node 3 had everything");
    assert!(revision > newest + 1_000_000, "{revision}");
    assert!(put(&runtime, &nodes.client(3), KEYS).unwrap() > revision);
    assert!(!nodes.command(&nodes.client(3), &["status"]).status.success(), "one copy is not Full");

    // The old disk comes too late.
    std::fs::rename(&old, nodes.data(1)).unwrap();
    nodes.start(1);
    nodes.wait("the old disk to be refused", || nodes.log(1).contains("gone for good"));
    nodes.empty(1);

    nodes.start(1);
    nodes.start(2);
    nodes.wait_ready(&[1, 2, 3]);
    let answer = nodes.command(&nodes.client(1), &whole);
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let ranges = nodes.command(&nodes.client(1), &["ranges", "--check"]);
    assert!(ranges.status.success(), "{}", String::from_utf8_lossy(&ranges.stdout));
    assert!(nodes.ids(&nodes.client(1)).iter().all(|(id, _)| *id == 3 || *id > 100));

    // Three copies again: the one that was left is not needed any more.
    nodes.kill(3);
    // Whatever became of the node since, the request is done.
    says(
        &recover(&nodes, 3, &[&consent[..], &["--once", "a"]].concat()),
        0,
        &["carried out already"],
    );
    let left = nodes.client(2);
    nodes.wait("writes without node 3", || put(&runtime, &left, KEYS + 1).is_ok());
    let (after, _) = all(&runtime, &left);
    assert_eq!(after.len() as u64, KEYS + 1);
    assert!(before.iter().all(|pair| after.contains(pair)));
}

/// Five nodes and one range, on three of them, of which two are gone: the others have the meta range.
#[test]
fn a_range_goes_on_from_its_last_copy() {
    let runtime = Runtime::new().unwrap();
    let mut nodes = Nodes::new(5);
    (1..=5).for_each(|node| nodes.start(node));
    nodes.wait_ready(&[1, 2, 3, 4, 5]);
    let whole = ["status", "--wait", "Full"];
    assert!(nodes.command(&nodes.client(1), &whole).status.success());
    for number in 0..KEYS {
        put(&runtime, &nodes.client(1), number).unwrap();
    }
    assert!(nodes.command(&nodes.client(1), &whole).status.success());
    let (before, newest) = all(&runtime, &nodes.client(4));
    let copies = |nodes: &Nodes, asked: usize| -> Vec<(u64, bool)> {
        let output = nodes.command(&nodes.client(asked), &["ranges", "-o", "json"]);
        let ranges: Value = serde_json::from_slice(&output.stdout).unwrap();
        let ranges = ranges["ranges"].as_array().or_else(|| ranges.as_array()).unwrap();
        let data = ranges.iter().find(|range| range["kind"] == "data").unwrap();
        let copies = data["replicas"].as_array().unwrap().iter();
        let copy =
            |copy: &Value| (copy["node"].as_u64().unwrap(), copy["caughtUp"].as_bool().unwrap());
        copies.map(copy).collect()
    };
    let has: Vec<usize> =
        copies(&nodes, 1).iter().map(|(node, _)| usize::try_from(*node).unwrap()).collect();
    let [kept, first, second] = has[..] else { panic!("{has:?}") };
    let asked = (1..=5).find(|node| !has.contains(node)).unwrap();

    let consent = ["--range", "2", "--i-accept-data-loss"];
    nodes.empty(first);
    nodes.kill(kept);
    says(&recover(&nodes, kept, &consent), 2, &["2 of 3 copies of r2 are there"]);
    nodes.start(kept);
    nodes.wait_ready(&[kept]);
    nodes.empty(second);
    nodes.wait("the loss to be certain", || {
        let error = put(&runtime, &nodes.client(asked), 1).unwrap_err();
        error.message().contains("r2") && error.message().contains("no majority")
    });
    nodes.kill(kept);
    says(&recover(&nodes, kept, &["--range", "2", "--dry-run"]), 0, &["r2", "3 copies again"]);
    says(&recover(&nodes, kept, &["--range", "7"]), 2, &["there is no range r7"]);
    says(&recover(&nodes, kept, &["--i-accept-data-loss"]), 2, &["it is not gone"]);
    says(&recover(&nodes, kept, &consent), 0, &["Done"]);
    says(&recover(&nodes, kept, &consent), 2, &["nothing to recover"]);
    nodes.start(kept);
    nodes.wait_ready(&[kept]);
    nodes.wait("the range to be served", || put(&runtime, &nodes.client(asked), KEYS).is_ok());
    let (after, revision) = all(&runtime, &nodes.client(asked));
    assert!(revision > newest);
    assert!(before.iter().all(|pair| after.contains(pair)), "node {kept} had everything");
    // On those that are left, without any of those that are gone.
    nodes.wait("three copies", || {
        let copies = copies(&nodes, asked);
        copies.len() == 3
            && copies.iter().all(|(node, caught_up)| {
                *caught_up && ![first as u64, second as u64].contains(node)
            })
    });
}
