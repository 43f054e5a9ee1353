//! What clients see of a node that has lost the others, when it is the only one that they reach.

use super::history::connect;
use super::nodes::Nodes;
use holdfast_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast_proto::etcdserverpb::watch_client::WatchClient;
use holdfast_proto::etcdserverpb::watch_request::RequestUnion;
use holdfast_proto::etcdserverpb::{
    PutRequest, StatusRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};

/// As [`Nodes`] starts them, with five elections of 500 ms.
const CUT_OFF: Duration = Duration::from_millis(2_500);

/// What HTTP/2 frames are for, of those that matter here.
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const ACKNOWLEDGED: u8 = 1;

/// An HTTP/2 connection that asks for nothing. Its thread tells what the server sends: "go away", with the
/// code of the reason, and then, when the connection has ended, nothing more.
fn idle_connection(endpoint: &str) -> Receiver<u32> {
    let mut stream = TcpStream::connect(endpoint).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let (sender, told) = channel();
    std::thread::spawn(move || {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).unwrap();
            match head[3] {
                SETTINGS if head[4] & ACKNOWLEDGED == 0 => {
                    stream.write_all(&[0, 0, 0, SETTINGS, ACKNOWLEDGED, 0, 0, 0, 0]).unwrap();
                }
                PING if head[4] & ACKNOWLEDGED == 0 => {
                    stream.write_all(&[0, 0, 8, PING, ACKNOWLEDGED, 0, 0, 0, 0]).unwrap();
                    stream.write_all(&payload).unwrap();
                }
                GO_AWAY => {
                    let code = payload[4..8].try_into().unwrap();
                    sender.send(u32::from_be_bytes(code)).unwrap();
                }
                _ => {}
            }
        }
    });
    told
}

/// A client of one node, for everything.
struct Client {
    runtime: Runtime,
    endpoint: String,
    channel: Channel,
}

impl Client {
    fn new(endpoint: String) -> Self {
        let runtime = Runtime::new().unwrap();
        let inside = runtime.enter();
        let channel = Endpoint::from_shared(format!("http://{endpoint}")).unwrap().connect_lazy();
        drop(inside);
        Self { runtime, endpoint, channel }
    }

    fn sequencer(&self) -> u64 {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.status(StatusRequest {})).unwrap();
        answer.into_inner().leader
    }

    /// On a connection of its own; its revision.
    fn put(&self, value: &str) -> Result<i64, tonic::Status> {
        let mut request = tonic::Request::new(PutRequest {
            key: "k".into(),
            value: value.to_owned().into(),
            ..PutRequest::default()
        });
        request.set_timeout(Duration::from_secs(20));
        let mut client = connect(&self.runtime, &self.endpoint);
        let answer = self.runtime.block_on(client.put(request))?;
        Ok(answer.into_inner().header.unwrap().revision)
    }

    /// A watch from a revision on, as clients resume one. Not one that requires a leader.
    fn watch(&self, start_revision: i64) -> Watch<'_> {
        let create = WatchCreateRequest { key: "k".into(), start_revision, ..Default::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let mut client = WatchClient::new(self.channel.clone());
        let stream = self.runtime.block_on(async {
            let open = tokio_stream::iter([request]).chain(tokio_stream::pending());
            client.watch(open).await.unwrap().into_inner()
        });
        let mut watch = Watch { runtime: &self.runtime, stream };
        assert!(watch.next().unwrap().created);
        watch
    }
}

struct Watch<'a> {
    runtime: &'a Runtime,
    stream: tonic::Streaming<WatchResponse>,
}

impl Watch<'_> {
    fn next(&mut self) -> Result<WatchResponse, tonic::Status> {
        let news = async {
            tokio::time::timeout(super::cluster::PATIENCE, self.stream.message()).await.unwrap()
        };
        self.runtime.block_on(news).map(|news| news.expect("no end without a reason"))
    }

    /// The values of the next events.
    fn values(&mut self) -> Vec<String> {
        let news = self.next().unwrap();
        let values = news.events.into_iter().map(|event| event.kv.unwrap().value.to_vec());
        values.map(|value| String::from_utf8(value).unwrap()).collect()
    }
}

#[test]
fn clients_of_a_node_without_a_majority_are_sent_away_and_nothing_is_missed() {
    let mut nodes = Nodes::new(3);
    (1..=3).for_each(|node| nodes.start(node));
    nodes.wait_ready(&[1, 2, 3]);
    let sequencer = Client::new(nodes.client(1)).sequencer() as usize;
    // The node that the client reaches is another one.
    let own = sequencer % 3 + 1;
    let last = own % 3 + 1;
    let client = Client::new(nodes.client(own));
    let mut watch = client.watch(0);
    let idle = idle_connection(&nodes.client(own));
    client.put("1").unwrap();
    assert_eq!(watch.values(), ["1"]);

    // An election: nobody is sent away.
    nodes.signal(sequencer, Signal::SIGSTOP);
    nodes.wait("another sequencer", || {
        client.sequencer() != sequencer as u64 && client.sequencer() != 0 && nodes.is_ready(own)
    });
    let seen = client.put("2").unwrap();
    assert_eq!(watch.values(), ["2"]);
    assert_eq!(idle.try_recv(), Err(TryRecvError::Empty));
    assert!(!nodes.log(own).contains("clients are sent elsewhere"));

    // The majority: clients are told, and their connections and streams end.
    nodes.signal(last, Signal::SIGSTOP);
    let begun = Instant::now();
    assert_eq!(idle.recv_timeout(super::cluster::PATIENCE), Ok(0), "no error");
    assert!(begun.elapsed() >= CUT_OFF, "{:?}", begun.elapsed());
    let status = watch.next().unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().starts_with("holdfast: this node sees no majority"), "{status}");
    while idle.recv_timeout(super::cluster::PATIENCE).is_ok() {}
    assert!(nodes.log(own).contains("clients are sent elsewhere"));

    // Who comes again is told why it is not served, and is kept for a while.
    let begun = Instant::now();
    let idle = idle_connection(&nodes.client(own));
    let refused = client.put("3").unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(refused.message().contains("has no majority"), "{refused}");
    assert_eq!(idle.recv_timeout(super::cluster::PATIENCE), Ok(0), "no error");
    assert!(begun.elapsed() >= 2 * CUT_OFF, "{:?}", begun.elapsed());

    // It is back: everything is served, and connections stay.
    for node in [sequencer, last] {
        nodes.signal(node, Signal::SIGCONT);
    }
    nodes.wait_ready(&[1, 2, 3]);
    let idle = idle_connection(&nodes.client(own));
    client.put("4").unwrap();
    let mut watch = client.watch(seen + 1);
    assert_eq!(watch.values(), ["4"]);
    client.put("5").unwrap();
    assert_eq!(watch.values(), ["5"]);
    assert_eq!(idle.try_recv(), Err(TryRecvError::Empty));
}
