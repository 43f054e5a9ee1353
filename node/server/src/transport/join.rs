//! How a node with an empty disk asks a running cluster for an id, before it can be a peer.

use super::PeerEvents;
use super::frame::{FrameReader, invalid, write_frame};
use super::hello::{self, Hello, Purpose};
use super::stream::PeerStream;
use holdfast_core::ids::NodeId;
use holdfast_core::message::MetaRequest;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;

/// How long the asked node may take: it may have to wait for an election.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node's place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The cluster.
    pub cluster: u64,
    /// The new node's id, never used before.
    pub node: NodeId,
    /// Everybody's peer address.
    pub peers: Vec<(NodeId, String)>,
}

/// Asks the node at `address` to let a new node in; `request` is a [`MetaRequest::Join`].
///
/// # Errors
/// No connection, a refusal, or no answer in time.
pub fn ask(address: &str, cluster: u64, request: &MetaRequest) -> io::Result<Joined> {
    let stream = PeerStream::dial(address)?;
    let hello = Hello { purpose: Purpose::Join, ..Hello::new(cluster, NodeId(0), 0, "") };
    hello::greet(&stream, &hello)?;
    stream.set_read_timeout(PATIENCE)?;
    let payload = postcard::to_stdvec(request).expect("requests have no unencodable parts");
    write_frame(&mut &stream, &payload)?;
    let mut reader = FrameReader::default();
    let answer: Result<Joined, String> =
        postcard::from_bytes(reader.read(&mut &stream)?).map_err(malformed)?;
    answer.map_err(io::Error::other)
}

/// Answers one join request.
pub(super) fn answer(stream: &PeerStream, events: &dyn PeerEvents) -> io::Result<()> {
    let mut reader = FrameReader::default();
    let request: MetaRequest =
        postcard::from_bytes(reader.read(&mut &*stream)?).map_err(malformed)?;
    let answer = if matches!(request, MetaRequest::Join { .. }) {
        events.join(request)
    } else {
        Err("only join requests are taken here".to_owned())
    };
    let payload = postcard::to_stdvec(&answer).expect("answers have no unencodable parts");
    write_frame(&mut &*stream, &payload)
}

fn malformed(error: postcard::Error) -> io::Error {
    invalid(format!("malformed join message: {error}"))
}
