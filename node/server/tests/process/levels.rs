//! A node of an older version that comes to a cluster of this one, played by hand.

use super::history::connect;
use super::nodes::Nodes;
use holdfast_core::level::Level;
use holdfast_proto::etcdserverpb::RangeRequest;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use tokio::runtime::Runtime;

const MAGIC: &[u8; 8] = b"HOLDFAST";

/// What it knows, and what nodes of this version know.
const OLDER: u16 = Level::NEWEST.0 - 1;
const THIS: u16 = Level::NEWEST.0;

/// What a connection is for: messages of a member, or a question of a node that wants to join.
const MESSAGES: u32 = 0;
const ASK: u32 = 2;

/// Greets a node as a node of some version does; the reason of a refusal, if it is one.
fn greet(address: &str, cluster: u64, level: u16, purpose: u32) -> io::Result<Option<String>> {
    let nobody: Option<u64> = None;
    let node = if purpose == ASK { 0_u64 } else { 9 };
    let hello = (level, cluster, node, 1_u64, nobody, purpose, "127.0.0.1:1");
    let hello = postcard::to_stdvec(&hello).unwrap();
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(MAGIC)?;
    stream.write_all(&u32::try_from(hello.len()).unwrap().to_le_bytes())?;
    stream.write_all(&crc32fast::hash(&hello).to_le_bytes())?;
    stream.write_all(&hello)?;
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let length = u32::from_le_bytes(head[8..12].try_into().unwrap());
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer)?;
    let (refused, rest) = answer.split_first().unwrap();
    Ok((*refused == 1).then(|| postcard::from_bytes(rest).unwrap()))
}

#[test]
fn an_older_node_is_refused_by_every_node_once_all_of_them_are_newer() {
    let runtime = Runtime::new().unwrap();
    let mut nodes = Nodes::new(3);
    (1..=3).for_each(|node| nodes.start(node));
    nodes.wait_ready(&[1, 2, 3]);
    let request = RangeRequest { key: b"k".to_vec().into(), ..RangeRequest::default() };
    let answer = runtime.block_on(connect(&runtime, &nodes.client(1)).range(request)).unwrap();
    let cluster = answer.into_inner().header.unwrap().cluster_id;

    for node in 1..=3 {
        let address = nodes.peer(node);
        for (purpose, who) in [(ASK, "the node that asks"), (MESSAGES, "n9")] {
            let mut said = None;
            nodes.wait("an older node to be refused", || {
                said = greet(&address, cluster, OLDER, purpose).unwrap();
                said.is_some()
            });
            let said = said.unwrap();
            let wanted = format!("the cluster has gone over to level {THIS} for good");
            assert!(said.starts_with(&wanted), "{said}");
            assert!(said.ends_with(&format!("start {who} with the version of the other nodes")));
            assert!(nodes.log(node).contains(&said), "it says so itself");
        }
        assert_eq!(greet(&address, cluster, THIS, ASK).unwrap(), None);
    }
}
