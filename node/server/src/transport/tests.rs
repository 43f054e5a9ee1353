//! Two or more transports on loopback sockets.

mod levels;

use super::*;
use crate::tls::tests::{Authority, files};
use crate::tls::{Side, Tls};
use bytes::Bytes;
use holdfast_core::ids::{RangeId, ReplicaId};
use holdfast_core::level::Level;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// A node of an older version.
const OLDER: NodeId = NodeId(9);

#[derive(Debug, PartialEq)]
enum Seen {
    Removed,
    Connected(NodeId),
    Lost(NodeId, bool),
    Messages(NodeId, Vec<Message>),
    Snapshot(NodeId, Vec<u8>, Message),
}

struct Recorder(Mutex<Sender<Seen>>);

impl Recorder {
    fn see(&self, seen: Seen) -> bool {
        self.0.lock().send(seen).is_ok()
    }
}

impl PeerEvents for Recorder {
    fn connected(&self, peer: NodeId, _session: u64, level: Level) {
        assert_eq!(level, if peer == OLDER { Level::FIRST } else { Level::NEWEST });
        self.see(Seen::Connected(peer));
    }

    fn lost(&self, peer: NodeId, refused: bool) {
        self.see(Seen::Lost(peer, refused));
    }

    fn removed(&self) {
        self.see(Seen::Removed);
    }

    fn messages(&self, peer: NodeId, _session: u64, batch: Vec<Message>, _bytes: usize) -> bool {
        self.see(Seen::Messages(peer, batch))
    }

    fn snapshot(&self, from: NodeId, mut receiver: SnapshotReceiver) -> io::Result<()> {
        let mut data = Vec::new();
        let end = loop {
            match receiver.receive()? {
                Part::Data(piece) => data.extend_from_slice(&piece),
                Part::End(message) => break *message,
            }
        };
        self.see(Seen::Snapshot(from, data, end));
        receiver.acknowledge()
    }

    fn asked(&self, request: MetaRequest) -> Result<InternalReply, String> {
        match request {
            MetaRequest::Join { name, .. } if name == "new" => {
                Ok(InternalReply::Joined { cluster: 7, node: NodeId(4), peers: Vec::new() })
            }
            _ => Err("who are you".to_owned()),
        }
    }

    fn report(&self) -> Vec<u8> {
        b"report".to_vec()
    }
}

struct Peer {
    transport: Transport,
    seen: Receiver<Seen>,
    address: String,
}

impl Peer {
    fn start(cluster: u64, node: u64, incarnation: u64) -> Self {
        Self::start_at("127.0.0.1:0", cluster, node, incarnation)
    }

    fn start_at(address: &str, cluster: u64, node: u64, incarnation: u64) -> Self {
        Self::start_with(address, cluster, node, incarnation, None)
    }

    fn start_with(address: &str, cluster: u64, node: u64, incarnation: u64, tls: PeerTls) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, seen) = channel();
        let local = Local { cluster, node: NodeId(node), incarnation, address: address.clone() };
        let events = Arc::new(Recorder(Mutex::new(sender)));
        let settings = Settings {
            tls,
            least: Level::default(),
            snapshot_rates: SnapshotRates { most: 1 << 30, least: 1 << 30 },
            standings: Box::new(|_| Standing::Formed { nonce: Some(5), plan: 6 }),
            on_http2: Box::new(|_, _| {}),
        };
        let transport = Transport::start(local, listener, settings, events).unwrap();
        Self { transport, seen, address }
    }

    fn next(&self) -> Seen {
        self.seen.recv_timeout(Duration::from_secs(20)).expect("something happens")
    }

    /// Waits for `count` messages.
    fn messages(&self, count: usize) -> Vec<Message> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next() {
                Seen::Messages(_, batch) => all.extend(batch),
                other => panic!("expected messages, not {other:?}"),
            }
        }
        all
    }
}

fn numbered(number: u64, size: usize) -> Message {
    let data = Bytes::from(vec![0; size]);
    Message::Raft { range: RangeId(number), from: ReplicaId(1), to: ReplicaId(2), data }
}

fn pair() -> (Peer, Peer) {
    introduce(Peer::start(7, 1, 10), Peer::start(7, 2, 20))
}

/// Two nodes whose certificates are of one authority.
fn encrypted_pair(authority: &Authority) -> (Peer, Peer) {
    let [one, two] = [1, 2].map(|node| {
        Peer::start_with("127.0.0.1:0", 7, node, node * 10, Some(certified(authority)))
    });
    introduce(one, two)
}

fn certified(authority: &Authority) -> Arc<Tls> {
    let directory = tempfile::tempdir().unwrap();
    authority.write(directory.path());
    Arc::new(Tls::load(files("peer-", directory.path()), Side::Peer).unwrap())
}

fn introduce(one: Peer, two: Peer) -> (Peer, Peer) {
    one.transport.set_peer(NodeId(2), &two.address);
    assert_eq!(one.next(), Seen::Connected(NodeId(2)));
    assert_eq!(two.next(), Seen::Connected(NodeId(1)), "the dialled node learns the address");
    (one, two)
}

#[test]
fn messages_arrive_in_order_in_both_directions_however_many() {
    many_messages(pair());
}

#[test]
fn messages_arrive_in_order_when_encrypted() {
    many_messages(encrypted_pair(&Authority::new("one")));
}

fn many_messages((one, two): (Peer, Peer)) {
    let count = 3000;
    for number in 0..count {
        one.transport.send(NodeId(2), std::iter::once(numbered(number, number as usize * 10)));
    }
    two.transport.send(NodeId(1), (0..count).map(|number| numbered(number, 1)));
    for peer in [&one, &two] {
        let numbers = peer.messages(count as usize).into_iter().map(|message| match message {
            Message::Raft { range, .. } => range.0,
            other => panic!("{other:?}"),
        });
        assert!(numbers.eq(0..count));
    }
}

#[test]
fn a_peer_that_goes_is_lost_then_refused_then_back() {
    let (one, two) = pair();
    let address = two.address.clone();
    drop(two);
    assert_eq!(one.next(), Seen::Lost(NodeId(2), false));
    assert_eq!(one.next(), Seen::Lost(NodeId(2), true));
    let two = Peer::start_at(&address, 7, 2, 21);
    two.transport.set_peer(NodeId(1), &one.address);
    assert_eq!(one.next(), Seen::Connected(NodeId(2)));
    assert_eq!(two.next(), Seen::Connected(NodeId(1)));
    one.transport.send(NodeId(2), std::iter::once(numbered(5, 5)));
    assert_eq!(two.messages(1), [numbered(5, 5)]);
}

#[test]
fn other_clusters_and_removed_nodes_are_refused() {
    let (one, two) = pair();
    let stranger = Peer::start(8, 3, 30);
    stranger.transport.set_peer(NodeId(1), &one.address);
    one.transport.set_peer(NodeId(3), &stranger.address);
    one.transport.refuse(NodeId(2));
    one.transport.end(NodeId(2));
    assert_eq!(one.next(), Seen::Lost(NodeId(2), false));
    assert_eq!(two.next(), Seen::Lost(NodeId(1), false));
    let silence = Duration::from_millis(300);
    assert!(stranger.seen.recv_timeout(silence).is_err());
    assert_eq!(two.next(), Seen::Removed, "it is refused, not unreachable");
    assert!(one.seen.try_recv().is_err());
}

#[test]
fn only_nodes_with_a_trusted_certificate_are_talked_to() {
    let authority = Authority::new("one");
    let (one, two) = encrypted_pair(&authority);
    let start = |node, tls| Peer::start_with("127.0.0.1:0", 7, node, node * 10, tls);
    let strangers = [start(3, None), start(4, Some(certified(&Authority::new("other"))))];
    for (stranger, node) in strangers.iter().zip([NodeId(3), NodeId(4)]) {
        stranger.transport.set_peer(NodeId(1), &one.address);
        one.transport.set_peer(node, &stranger.address);
        assert!(ask_report(&one.address, None, 7).is_err());
    }
    let silence = Duration::from_millis(500);
    assert!(one.seen.recv_timeout(silence).is_err());
    assert!(strangers.iter().all(|stranger| stranger.seen.try_recv().is_err()));

    let trusted = certified(&authority);
    assert_eq!(ask_report(&one.address, Some(&trusted), 7).unwrap(), b"report");
    let port = one.address.rsplit_once(':').unwrap().1;
    let by_name = format!("localhost:{port}");
    assert_eq!(ask_report(&by_name, Some(&trusted), 7).unwrap(), b"report");
    // The certificate does not name this address, which leads to the same listener.
    let other_name = format!("127.1:{port}");
    assert!(ask_report(&other_name, Some(&trusted), 7).is_err());
    drop(two);
}

#[test]
fn a_founder_is_answered() {
    let one = Peer::start(7, 1, 10);
    let founder = Founder { name: "b".to_owned(), to: "a".to_owned(), nonce: 3, plan: 6 };
    let formed = Standing::Formed { nonce: Some(5), plan: 6 };
    assert_eq!(ask_to_form(&one.address, None, 7, &founder).unwrap(), formed);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let empty = |founder: &Founder| Standing::Empty { nonce: founder.nonce + 1, plan: 6 };
    let waiting = Waiting::start(listener, 7, None, Box::new(empty)).unwrap();
    let standing = ask_to_form(&address, None, 7, &founder).unwrap();
    assert_eq!(standing, Standing::Empty { nonce: 4, plan: 6 });
    let stranger = ask_to_form(&address, None, 8, &founder).unwrap_err();
    assert_eq!(stranger.kind(), io::ErrorKind::PermissionDenied);
    assert!(ask_report(&address, None, 7).is_err(), "there is nothing to tell yet");
    waiting.stop().local_addr().unwrap();
}

#[test]
fn a_snapshot_arrives_whole_and_is_acknowledged() {
    a_snapshot(pair());
}

#[test]
fn a_snapshot_arrives_whole_when_encrypted() {
    a_snapshot(encrypted_pair(&Authority::new("one")));
}

fn a_snapshot((one, two): (Peer, Peer)) {
    let mut sender = one.transport.open_snapshot(NodeId(2)).unwrap();
    let data: Vec<u8> = (0..5_000_000_u32).map(|number| number as u8).collect();
    for piece in data.chunks(1 << 20) {
        let fill = |frame: &mut Vec<u8>| {
            frame.extend_from_slice(piece);
            true
        };
        assert_eq!(sender.send(fill).unwrap(), Some(piece.len()));
    }
    assert_eq!(sender.send(|_| false).unwrap(), None);
    sender.finish(&numbered(1, 1)).unwrap();
    assert_eq!(two.next(), Seen::Snapshot(NodeId(1), data, numbered(1, 1)));
    assert!(one.transport.open_snapshot(NodeId(9)).is_err());
}

#[test]
fn a_node_without_an_id_is_answered_or_told_why_not() {
    let one = Peer::start(7, 1, 10);
    let join = |name: &str| MetaRequest::Join {
        name: name.to_owned(),
        peer_address: "h:1".to_owned(),
        client_address: "h:2".to_owned(),
        http_address: "h:3".to_owned(),
        nonce: 1,
    };
    let joined = ask(&one.address, None, 7, &join("new")).unwrap();
    assert!(matches!(joined, InternalReply::Joined { node: NodeId(4), .. }));
    let refused = ask(&one.address, None, 7, &join("other")).unwrap_err();
    assert_eq!(refused.to_string(), "who are you");
    let stranger = ask(&one.address, None, 8, &join("new")).unwrap_err();
    assert_eq!(stranger.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn a_peer_that_does_not_read_loses_repeated_messages_then_the_session() {
    deaf_peer(pair(), &None);
}

#[test]
fn a_peer_that_does_not_read_costs_no_more_when_encrypted() {
    let authority = Authority::new("one");
    deaf_peer(encrypted_pair(&authority), &Some(certified(&authority)));
}

fn deaf_peer((one, _two): (Peer, Peer), tls: &PeerTls) {
    // The events of `two` are recorded without bound, so block its reading differently: a listener
    // that accepts and greets but never reads.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let one_address = one.address.clone();
    let tls = tls.clone();
    let deaf = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let Ok(stream::Accepted::Peer(incoming)) = PeerStream::accept(stream, tls.as_deref())
        else {
            panic!("a peer dials");
        };
        let hello = hello::hear(&incoming).unwrap();
        hello::accept(&incoming, &hello, NodeId(3), 30).unwrap();
        let back = PeerStream::dial(&one_address, tls.as_deref()).unwrap();
        let mine = Hello::new(7, NodeId(3), 30, "");
        hello::greet(&back, &mine).unwrap();
        (incoming, back)
    });
    one.transport.set_peer(NodeId(3), &address);
    assert_eq!(one.next(), Seen::Connected(NodeId(3)));
    let _held = deaf.join().unwrap();
    // Raft messages are shed: the queue stays bounded and the session stays up.
    for number in 0..100 {
        one.transport.send(NodeId(3), std::iter::once(numbered(number, 1 << 20)));
    }
    assert!(one.seen.try_recv().is_err());
    let session = holdfast_core::message::SessionId { incarnation: 5, number: 1 };
    let stop = Message::SequencerRefused { session };
    assert!(one.transport.queued().iter().all(|(_, queued)| *queued < 40 << 20));
    // What must not be lost ends the session instead.
    let big = Message::SequencerAnswer {
        session,
        first: 0,
        answers: vec![holdfast_core::message::SequencerReply::Fenced; 1 << 20],
        compacted: 0,
    };
    for _ in 0..120 {
        one.transport.send(NodeId(3), [big.clone(), stop.clone()].into_iter());
    }
    assert_eq!(one.next(), Seen::Lost(NodeId(3), false));
}
