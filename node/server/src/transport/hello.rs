//! The handshake: who speaks, to whom, of which cluster, in which version, and what for.
//!
//! Layout: `magic`, then one frame with [`Hello`]; back comes `magic` and one frame with
//! [`Welcome`]. Both are postcard; fields and variants are only ever appended.
//!
//! Invariant: nothing else is read from a connection before both sides know that they belong to
//! one cluster and speak one version.

use super::frame::{FrameReader, invalid, write_frame};
use super::stream::PeerStream;
use holdfast_core::ids::NodeId;
use holdfast_core::level::Level;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::time::Duration;

/// First bytes of every connection, so that a stray client is told from a peer.
const MAGIC: &[u8; 8] = b"HOLDFAST";

/// The newest protocol spoken here: what this build understands of messages and log entries.
const VERSION: u16 = Level::NEWEST.0;

/// The oldest protocol understood here.
const VERSION_OLDEST: u16 = 1;

/// How long the other side may take for its part.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// Batches of messages from the dialling node.
    Messages,
    /// One raft snapshot from the dialling node.
    Snapshot,
    /// One question to the meta range; the sender need not have an id yet.
    Ask,
    /// One question of a node with an empty disk that wants to form the cluster.
    Form,
    /// One question for what the listening node knows.
    Report,
}

/// What the dialling side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The newest version it speaks.
    pub version: u16,
    /// Its cluster.
    pub cluster: u64,
    /// Its id; 0 when it has none.
    pub node: NodeId,
    /// Changes when its process starts again.
    pub incarnation: u64,
    /// Whom it believes to reach; `None` for whoever listens.
    pub to: Option<NodeId>,
    /// What for.
    pub purpose: Purpose,
    /// `host:port` of its own peer listener.
    pub address: String,
}

/// What the listening side answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Welcome {
    /// Speak.
    Accepted {
        /// The version to speak.
        version: u16,
        /// The listening node.
        node: NodeId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// Go away, for this reason.
    Refused(String),
    /// Go away for ever: the sender was removed from the cluster.
    Removed,
}

/// The node that greets was removed from the cluster, says a node of the cluster.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this node was removed from the cluster for good")]
struct Removed;

/// What two sides agreed on, as the dialling side sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// The listening node.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: u64,
    /// What both understand.
    pub level: Level,
}

impl Hello {
    /// A greeting in the newest version.
    pub(super) fn new(cluster: u64, node: NodeId, incarnation: u64, address: &str) -> Self {
        Self {
            version: VERSION,
            cluster,
            node,
            incarnation,
            to: None,
            purpose: Purpose::Messages,
            address: address.to_owned(),
        }
    }

    /// Why this node must not talk to the sender, if there is a reason.
    pub(super) fn objection(&self, cluster: u64, node: NodeId) -> Option<String> {
        if self.cluster != cluster {
            return Some(format!(
                "cluster {:016x} is not {cluster:016x}: another --cluster-token?",
                self.cluster
            ));
        }
        if self.version < VERSION_OLDEST {
            return Some(format!(
                "protocol version {} is older than {VERSION_OLDEST}, the oldest understood",
                self.version
            ));
        }
        match self.to {
            Some(to) if to != node => Some(format!("this is node {node}, not {to}")),
            _ => None,
        }
    }
}

/// Greets as the dialling side.
///
/// # Errors
/// A refusal comes as [`io::ErrorKind::PermissionDenied`] with the reason as text, or with
/// [`Removed`] inside.
pub(super) fn greet(stream: &PeerStream, hello: &Hello) -> io::Result<Agreed> {
    stream.set_read_timeout(HANDSHAKE_TIMEOUT)?;
    send(stream, hello)?;
    match receive::<Welcome>(stream)? {
        Welcome::Accepted { version, node, incarnation } => {
            if !(VERSION_OLDEST..=VERSION).contains(&version) {
                return Err(invalid(format!("the peer chose protocol version {version}")));
            }
            Ok(Agreed { node, incarnation, level: Level(version) })
        }
        Welcome::Refused(reason) => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
        Welcome::Removed => Err(io::Error::new(io::ErrorKind::PermissionDenied, Removed)),
    }
}

/// Does a failed greeting say that this node was removed?
pub(super) fn is_removed(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Removed>()).is_some()
}

/// Hears the greeting as the listening side.
pub(super) fn hear(stream: &PeerStream) -> io::Result<Hello> {
    stream.set_read_timeout(HANDSHAKE_TIMEOUT)?;
    receive(stream)
}

/// Answers a greeting with "speak".
pub(super) fn accept(
    stream: &PeerStream,
    hello: &Hello,
    node: NodeId,
    incarnation: u64,
) -> io::Result<()> {
    let version = hello.version.min(VERSION);
    send(stream, &Welcome::Accepted { version, node, incarnation })
}

/// Answers a greeting with "go away".
pub(super) fn refuse(stream: &PeerStream, reason: &str) -> io::Result<()> {
    send(stream, &Welcome::Refused(reason.to_owned()))
}

/// Answers the greeting of a node that is gone for good.
pub(super) fn refuse_for_ever(stream: &PeerStream) -> io::Result<()> {
    send(stream, &Welcome::Removed)
}

fn send(mut stream: &PeerStream, value: &impl Serialize) -> io::Result<()> {
    stream.write_all(MAGIC)?;
    let payload = postcard::to_stdvec(value).expect("greetings have no unencodable parts");
    write_frame(&mut stream, &payload)
}

/// Reads exactly the greeting, byte by byte where its length is unknown, so that nothing that
/// follows it is swallowed by a buffer.
fn receive<T: for<'a> Deserialize<'a>>(mut stream: &PeerStream) -> io::Result<T> {
    let mut start = [0; 16];
    stream.read_exact(&mut start)?;
    if &start[..8] != MAGIC {
        return Err(invalid("the other side does not speak this protocol"));
    }
    let length = u32::from_le_bytes(start[8..12].try_into().expect("four bytes were sliced"));
    if length > 4096 {
        return Err(invalid("the greeting is too long"));
    }
    let mut frame = start[8..].to_vec();
    frame.resize(8 + length as usize, 0);
    stream.read_exact(&mut frame[8..])?;
    let mut reader = FrameReader::default();
    let payload = reader.read(&mut frame.as_slice())?;
    postcard::from_bytes(payload).map_err(|error| invalid(format!("malformed greeting: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objections_name_the_reason() {
        let hello = Hello::new(7, NodeId(1), 1, "h:1");
        assert_eq!(hello.objection(7, NodeId(2)), None);
        assert!(hello.objection(8, NodeId(2)).unwrap().contains("--cluster-token"));
        let to = Hello { to: Some(NodeId(3)), ..hello.clone() };
        assert!(to.objection(7, NodeId(2)).unwrap().contains("not n3"));
        let old = Hello { version: 0, ..hello };
        assert!(old.objection(7, NodeId(2)).unwrap().contains("older"));
    }
}
