//! Copies by key prefix and over failure domains, on real processes and under load.

use super::cluster::{Cluster, wait_for};
use super::history::Load;
use serde_json::Value;

const FIVE: [&str; 6] = ["--nodes", "5", "--split-keys", "g,p", "--failure-domains", "a,a,b,c,c"];

/// Start and nodes of the voters of every data range.
fn ranges(cluster: &Cluster) -> Vec<(String, Vec<u64>)> {
    ranges_of(cluster, "data")
}

/// The same of the meta range, or of all others.
fn ranges_of(cluster: &Cluster, kind: &str) -> Vec<(String, Vec<u64>)> {
    let output = cluster.command(&["ranges", "-o", "json"]);
    let ranges: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = ranges["ranges"].as_array().unwrap();
    let data = all.iter().filter(|range| range["kind"] == kind);
    let nodes = |range: &Value| {
        let replicas = range["replicas"].as_array().unwrap().iter();
        let voters = replicas.filter(|replica| replica["kind"] == "voter");
        voters.map(|replica| replica["node"].as_u64().unwrap()).collect()
    };
    data.map(|range| (range["start"].as_str().unwrap().to_owned(), nodes(range))).collect()
}

fn says(cluster: &Cluster, arguments: &[&str]) -> (bool, String) {
    let output = cluster.command(arguments);
    let words = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&words).into_owned())
}

fn checked(cluster: &Cluster) {
    wait_for("nothing to be wrong", || says(cluster, &["ranges", "--check"]).0);
}

#[test]
fn copies_follow_prefixes_and_failure_domains() {
    let cluster = Cluster::start(&FIVE);
    cluster.wait_full();
    let domain = |node: &u64| ["a", "a", "b", "c", "c"][*node as usize - 1];
    // One copy in each failure domain, though the cluster was formed before it knew of them.
    wait_for("copies in all failure domains", || {
        ranges(&cluster).iter().all(|(_, nodes)| {
            let mut domains: Vec<&str> = nodes.iter().map(domain).collect();
            domains.sort_unstable();
            domains == ["a", "b", "c"]
        })
    });
    checked(&cluster);
    assert_eq!(domains(&cluster), ["a", "a", "b", "c", "c"]);
    // What a node was started with is its own.
    let (fine, words) = says(&cluster, &["placement", "domain", "--node", "3", "--name", "z"]);
    assert!(!fine && words.contains("was started with --failure-domain \"b\""), "{words}");

    let load = Load::start(&cluster.endpoints(), &["a", "h", "k/1", "k/2", "z"]);
    load.wait_progress(50);
    let set = ["placement", "set", "--prefix", "k/", "--replicas"];
    for (more, part) in
        [(&["7"][..], "more than the 5 nodes"), (&["4"], "odd"), (&["1"], "--allow-fewer")]
    {
        let (fine, words) = says(&cluster, &[&set[..], more].concat());
        assert!(!fine && words.contains(part), "{words}");
    }
    let (fine, words) = says(&cluster, &[&set[..], &["5", "--wait", "--timeout", "50s"]].concat());
    assert!(fine, "{words}");
    let under = |prefix: &str| {
        let all = ranges(&cluster);
        all.into_iter().find(|(start, _)| start == prefix).map_or(0, |(_, nodes)| nodes.len())
    };
    assert_eq!((under("g"), under("k/"), under("k0"), under("p")), (3, 5, 3, 3));
    checked(&cluster);
    let (_, list) = says(&cluster, &["placement", "list"]);
    assert!(list.lines().any(|line| line.starts_with("k/") && line.contains('5')), "{list}");

    let (fine, words) =
        says(&cluster, &[&set[..], &["1", "--allow-fewer", "--wait", "--timeout", "50s"]].concat());
    assert!(fine, "{words}");
    assert_eq!(under("k/"), 1);
    let (fine, words) = says(&cluster, &["placement", "remove", "--prefix", "k/"]);
    assert!(fine, "{words}");
    wait_for("three copies again", || under("k/") == 3);
    checked(&cluster);
    load.wait_progress(50);
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
}

/// The failure domain of each node, by its number.
fn domains(cluster: &Cluster) -> Vec<String> {
    let output = cluster.command(&["nodes", "-o", "json"]);
    let nodes: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut nodes = nodes["nodes"].as_array().unwrap().clone();
    nodes.sort_by_key(|node| node["id"].as_u64());
    nodes.iter().map(|node| node["failureDomain"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nodes_are_told_what_they_fail_together_with_and_keep_it() {
    let mut cluster = Cluster::start(&["--nodes", "5", "--split-keys", "g,p"]);
    cluster.wait_full();
    let told = ["a", "a", "b", "c", "c"];
    // Once is enough, though nodes tell of their disks at the same time.
    for (node, domain) in (1..).zip(told) {
        let node = node.to_string();
        wait_for("a node to be told", || {
            says(&cluster, &["placement", "domain", "--node", &node, "--name", domain]).0
        });
    }
    wait_for("every node to be known by its domain", || domains(&cluster) == told);
    wait_for("copies in all failure domains", || {
        ranges(&cluster).iter().all(|(_, nodes)| {
            let mut domains: Vec<&str> = nodes.iter().map(|it| told[*it as usize - 1]).collect();
            domains.sort_unstable();
            domains == ["a", "b", "c"]
        })
    });
    checked(&cluster);
    // What it was told is not its own, and survives it.
    cluster.kill(4);
    cluster.rejoin(4);
    cluster.wait_full();
    let own = |node: usize| {
        let status = cluster.status();
        let nodes = status["nodes"].as_array().unwrap().iter();
        let mut found =
            nodes.filter(|it| it["id"] == node).map(|it| it["namesFailureDomain"].clone());
        found.next().unwrap()
    };
    assert_eq!(own(4), false);
    assert_eq!(domains(&cluster), told);
    let (fine, words) = says(&cluster, &["placement", "domain", "--node", "9", "--name", "a"]);
    assert!(!fine && words.contains("must answer"), "{words}");
    let (fine, words) = says(&cluster, &["placement", "domain", "--node", "1", "--name", "a,b"]);
    assert!(!fine && words.contains("no space or comma"), "{words}");
}

/// With four nodes three of the meta range's copies count, two of them in one failure domain, as the nodes
/// are told when they have formed a cluster: one changes places with the fourth, and no client notices.
#[test]
fn voters_of_the_meta_range_part_once_failure_domains_are_told() {
    let cluster = Cluster::start(&["--nodes", "4", "--split-keys", "g,p"]);
    cluster.wait_full();
    let voters = || {
        let mut voters = ranges_of(&cluster, "meta").remove(0).1;
        voters.sort_unstable();
        voters
    };
    assert_eq!(voters(), [1, 2, 3]);
    let load = Load::start(&cluster.endpoints(), &["a", "h", "z"]);
    load.wait_progress(50);
    for (node, domain) in [("1", "a"), ("2", "a"), ("3", "b"), ("4", "c")] {
        wait_for("a node to be told", || {
            says(&cluster, &["placement", "domain", "--node", node, "--name", domain]).0
        });
    }
    wait_for("a voter in each failure domain", || {
        let voters = voters();
        voters == [1, 3, 4] || voters == [2, 3, 4]
    });
    checked(&cluster);
    load.wait_progress(50);
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
}
