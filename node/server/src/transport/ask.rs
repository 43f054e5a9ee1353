//! Questions to the meta range from outside a session: of a node with an empty disk that wants an
//! id, and of a started node that tells where it is.

use super::PeerEvents;
use super::frame::{FrameReader, invalid, write_frame};
use super::hello::{self, Hello, Purpose};
use super::stream::PeerStream;
use holdfast_core::ids::NodeId;
use holdfast_core::message::{InternalReply, MetaRequest};
use std::io;
use std::time::Duration;

/// How long the asked node may take: it may have to wait for an election.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the node at `address`. Only the meta range's leader answers; others refuse.
///
/// # Errors
/// No connection, a refusal, or no answer in time.
pub fn ask(address: &str, cluster: u64, request: &MetaRequest) -> io::Result<InternalReply> {
    let stream = PeerStream::dial(address)?;
    let hello = Hello { purpose: Purpose::Ask, ..Hello::new(cluster, NodeId(0), 0, "") };
    hello::greet(&stream, &hello)?;
    stream.set_read_timeout(PATIENCE)?;
    let payload = postcard::to_stdvec(request).expect("requests have no unencodable parts");
    write_frame(&mut &stream, &payload)?;
    let mut reader = FrameReader::default();
    let answer: Result<InternalReply, String> =
        postcard::from_bytes(reader.read(&mut &stream)?).map_err(malformed)?;
    answer.map_err(io::Error::other)
}

/// Answers one question.
pub(super) fn answer(stream: &PeerStream, events: &dyn PeerEvents) -> io::Result<()> {
    let mut reader = FrameReader::default();
    let request: MetaRequest =
        postcard::from_bytes(reader.read(&mut &*stream)?).map_err(malformed)?;
    let answer = match request {
        MetaRequest::Join { .. } | MetaRequest::Announce { .. } => events.asked(request),
        _ => Err("only join requests and announcements are taken here".to_owned()),
    };
    let payload = postcard::to_stdvec(&answer).expect("answers have no unencodable parts");
    write_frame(&mut &*stream, &payload)
}

fn malformed(error: postcard::Error) -> io::Error {
    invalid(format!("malformed question or answer: {error}"))
}
