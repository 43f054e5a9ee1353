//! Nodes of older versions, played by hand.

use super::*;

const CLUSTER: u64 = 7;

fn dial(to: &Peer) -> PeerStream {
    PeerStream::dial(&to.address, None).unwrap()
}

fn hello(node: u64, level: Level, purpose: Purpose) -> Hello {
    Hello { version: level.0, purpose, ..Hello::new(CLUSTER, NodeId(node), 30, "") }
}

/// Takes one connection, as a node of an older version that calls itself [`OLDER`].
fn taken(listener: &TcpListener) -> PeerStream {
    let (stream, _) = listener.accept().unwrap();
    let Ok(stream::Accepted::Peer(stream)) = PeerStream::accept(stream, None) else {
        panic!("a peer dials");
    };
    let heard = Hello { version: Level::FIRST.0, ..hello::hear(&stream).unwrap() };
    hello::accept(&stream, &heard, OLDER, 30).unwrap();
    stream
}

#[test]
fn an_older_node_is_told_why_it_is_refused_and_what_to_do() {
    let one = Peer::start(CLUSTER, 1, 10);
    let greet = |node, level, purpose| hello::greet(&dial(&one), &hello(node, level, purpose));
    // As long as nothing is used that it does not know.
    assert!(greet(OLDER.0, Level::FIRST, Purpose::Snapshot).is_ok());
    one.transport.require(Level::SHAPING);
    for (node, purpose, who) in [
        (OLDER.0, Purpose::Messages, "n9"),
        (OLDER.0, Purpose::Snapshot, "n9"),
        (0, Purpose::Ask, "the node that asks"),
    ] {
        let refused = greet(node, Level::FIRST, purpose).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let text = refused.to_string();
        assert!(text.starts_with("the cluster has gone over to level 2 for good"), "{text}");
        assert!(text.contains("knows level 1 only"), "{text}");
        assert!(
            text.ends_with(&format!("start {who} with the version of the other nodes")),
            "{text}"
        );
    }
    // It may ask what this node is.
    assert!(greet(0, Level::FIRST, Purpose::Form).is_ok());
    assert!(greet(0, Level::FIRST, Purpose::Report).is_ok());
    // One of this version and one of a later version.
    for level in [Level::SHAPING, Level(Level::NEWEST.0 + 1)] {
        assert!(greet(OLDER.0, level, Purpose::Snapshot).is_ok());
        assert!(greet(0, level, Purpose::Ask).is_ok());
    }
    // What was asked is not taken back.
    one.transport.require(Level::FIRST);
    assert!(greet(0, Level::FIRST, Purpose::Ask).is_err());
}

#[test]
fn an_older_node_that_is_dialled_is_not_talked_to() {
    let one = Peer::start(CLUSTER, 1, 10);
    one.transport.require(Level::SHAPING);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    one.transport.set_peer(OLDER, &listener.local_addr().unwrap().to_string());
    let stream = taken(&listener);
    assert_eq!(io::Read::read(&mut &stream, &mut [0]).unwrap(), 0, "it hangs up");
    // Nor is it sent a snapshot.
    let answering = std::thread::spawn(move || taken(&listener));
    let Err(refused) = one.transport.open_snapshot(OLDER) else {
        panic!("it would not understand");
    };
    assert!(refused.to_string().contains("n9 runs an older version"), "{refused}");
    answering.join().unwrap();
    assert!(one.seen.try_recv().is_err());
}

#[test]
fn a_session_with_an_older_node_ends_when_more_is_asked() {
    let (one, two) = pair();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    one.transport.set_peer(OLDER, &listener.local_addr().unwrap().to_string());
    let taken = taken(&listener);
    let back = dial(&one);
    hello::greet(&back, &hello(OLDER.0, Level::FIRST, Purpose::Messages)).unwrap();
    assert_eq!(one.next(), Seen::Connected(OLDER));
    one.transport.require(Level::SHAPING);
    assert_eq!(one.next(), Seen::Lost(OLDER, false));
    drop((taken, back));
    // Others stay.
    one.transport.send(NodeId(2), std::iter::once(numbered(1, 1)));
    assert_eq!(two.messages(1), [numbered(1, 1)]);
}
