//! Clusters that are formed while nodes come late, die, and lose their disks.

use super::nodes::{Nodes, http};
use std::time::{Duration, Instant};

fn founders(members: u64) -> Vec<(u64, String)> {
    (1..=members).map(|node| (node, format!("node-{node}"))).collect()
}

#[test]
fn nobody_forms_a_cluster_before_everybody_is_there() {
    let mut nodes = Nodes::new(3);
    nodes.start(1);
    nodes.start(2);
    nodes.wait("node 1 to tell what it waits for", || {
        http(&nodes.http(1), "/readyz").contains("node-3 does not answer")
    });
    assert!(http(&nodes.http(1), "/livez").starts_with("HTTP/1.1 200"), "it must not be killed");
    // Longer than formation takes when all are there.
    std::thread::sleep(Duration::from_millis(1500));
    for node in [1, 2] {
        assert!(!nodes.data(node).join("identity.json").exists());
    }
    nodes.start(3);
    nodes.wait_ready(&[1, 2, 3]);
    assert_eq!(nodes.ids(&nodes.client(3)), founders(3));
}

#[test]
fn a_node_alone_waits_for_nobody() {
    let mut nodes = Nodes::new(1);
    let start = Instant::now();
    nodes.start(1);
    nodes.wait_ready(&[1]);
    println!("ready after {:?}", start.elapsed());
    assert_eq!(nodes.ids(&nodes.client(1)), founders(1));
}

#[test]
fn an_emptied_disk_joins_as_a_new_node_even_if_it_is_told_to_form() {
    let mut nodes = Nodes::new(3);
    (1..=3).for_each(|node| nodes.start(node));
    nodes.wait_ready(&[1, 2, 3]);
    nodes.empty(2);
    nodes.start(2);
    nodes.wait_ready(&[2]);
    let expected = [(1, "node-1"), (3, "node-3"), (4, "node-2")];
    let expected = expected.map(|(id, name)| (id, name.to_owned()));
    nodes.wait("the node to be a new one", || nodes.ids(&nodes.client(1)) == expected);
    // And it stays the new one.
    nodes.kill(2);
    nodes.start(2);
    nodes.wait_ready(&[2]);
    assert_eq!(nodes.ids(&nodes.client(2)), expected);
}

#[test]
fn two_of_three_emptied_disks_form_nothing_new() {
    let mut nodes = Nodes::new(3);
    (1..=3).for_each(|node| nodes.start(node));
    nodes.wait_ready(&[1, 2, 3]);
    nodes.empty(1);
    nodes.empty(2);
    nodes.start(1);
    nodes.start(2);
    for node in [1, 2] {
        nodes.wait("the emptied nodes to know what they are", || {
            std::fs::read_to_string(nodes.data(node).join("start.json"))
                .is_ok_and(|text| text.contains("joining"))
        });
    }
    // There is no majority that could let them in, and they must not make one.
    std::thread::sleep(Duration::from_secs(1));
    for node in [1, 2] {
        assert!(!nodes.data(node).join("identity.json").exists());
        assert!(!nodes.is_ready(node));
    }
}

#[test]
fn formation_goes_on_after_a_kill_at_any_point() {
    let points: [(&str, &str); 6] = [
        ("start.json", "forming"),
        ("start.json", "formed"),
        ("identity.json", ""),
        ("raft", ""),
        ("state.redb", ""),
        ("formed", ""),
    ];
    for (file, content) in points {
        let mut nodes = Nodes::new(3);
        (1..=3).for_each(|node| nodes.start(node));
        let path = nodes.data(2).join(file);
        let until = Instant::now() + Duration::from_secs(30);
        // Not a polite wait: the moment is short.
        while !path.exists()
            || !(content.is_empty()
                || std::fs::read_to_string(&path).is_ok_and(|text| text.contains(content)))
        {
            assert!(Instant::now() < until, "{file} {content} never came");
        }
        nodes.kill(2);
        let found: Vec<String> = ["identity.json", "raft", "state.redb", "formed"]
            .iter()
            .filter(|name| nodes.data(2).join(name).exists())
            .map(ToString::to_string)
            .collect();
        println!("killed at {file} {content}: on its disk were {found:?}");
        // What an operator says from then on; the disk knows better.
        nodes.start_as(2, if content.is_empty() { "existing" } else { "new" });
        nodes.wait_ready(&[1, 2, 3]);
        assert_eq!(nodes.ids(&nodes.client(1)), founders(3), "killed at {file} {content}");
    }
}
