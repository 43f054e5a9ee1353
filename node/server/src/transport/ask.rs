//! Questions from outside a session, each on a connection of its own: to the meta range, of a node
//! with an empty disk that wants an id, and of a started node that tells where it is; between nodes
//! that form a cluster; and for what a node knows.

use super::PeerEvents;
use super::frame::{FrameReader, invalid, write_frame};
use super::hello::{self, Hello, Purpose};
use super::stream::PeerStream;
use crate::tls::Tls;
use holdfast_core::ids::NodeId;
use holdfast_core::message::{InternalReply, MetaRequest};
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;

/// How long the asked node may take: it may have to wait for an election.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the node at `address`. Only the meta range's leader answers; others refuse.
///
/// # Errors
/// No connection, a refusal, or no answer in time.
pub fn ask(
    address: &str,
    tls: Option<&Tls>,
    cluster: u64,
    request: &MetaRequest,
) -> io::Result<InternalReply> {
    let answer: Result<InternalReply, String> =
        exchange(address, tls, cluster, Purpose::Ask, request)?;
    answer.map_err(io::Error::other)
}

/// What a node with an empty disk tells of itself when it wants to form a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// Its name.
    pub name: String,
    /// The name of the node that it believes to ask.
    pub to: String,
    /// What its disk was marked with when it was found empty.
    pub nonce: u64,
    /// Stands for everything that all founders must have been given alike.
    pub plan: u64,
}

/// What another one answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Its disk was empty as well, and it has not formed a cluster yet.
    Empty {
        /// What its disk was marked with.
        nonce: u64,
        /// As in [`Founder`].
        plan: u64,
    },
    /// It belongs to a cluster that was formed.
    Formed {
        /// What the asking node's disk was marked with when the cluster was formed, if it was one
        /// of the founders.
        nonce: Option<u64>,
        /// As in [`Founder`].
        plan: u64,
    },
    /// Its disk is empty, and it waits to be let into a running cluster, as a new node.
    Joining,
    /// It is another node than the one that was to be asked.
    Other {
        /// Its name.
        name: String,
    },
}

/// Answers founders.
pub type Standings = dyn Fn(&Founder) -> Standing + Send + Sync;

/// Asks the node at `address` whether it forms the cluster with this one.
///
/// # Errors
/// No connection, a refusal, or no answer in time.
pub fn ask_to_form(
    address: &str,
    tls: Option<&Tls>,
    cluster: u64,
    founder: &Founder,
) -> io::Result<Standing> {
    exchange(address, tls, cluster, Purpose::Form, founder)
}

/// Asks the node at `address` for what it knows.
///
/// # Errors
/// No connection, a refusal, or no answer in time.
pub fn ask_report(address: &str, tls: Option<&Tls>, cluster: u64) -> io::Result<Vec<u8>> {
    exchange(address, tls, cluster, Purpose::Report, &())
}

fn exchange<Q: Serialize, A: for<'a> Deserialize<'a>>(
    address: &str,
    tls: Option<&Tls>,
    cluster: u64,
    purpose: Purpose,
    question: &Q,
) -> io::Result<A> {
    let stream = PeerStream::dial(address, tls)?;
    let hello = Hello { purpose, ..Hello::new(cluster, NodeId(0), 0, "") };
    hello::greet(&stream, &hello)?;
    stream.set_read_timeout(PATIENCE)?;
    let payload = postcard::to_stdvec(question).expect("questions have no unencodable parts");
    write_frame(&mut &stream, &payload)?;
    let mut reader = FrameReader::default();
    postcard::from_bytes(reader.read(&mut &stream)?).map_err(malformed)
}

/// Answers a founder.
pub(super) fn answer_founder(stream: &PeerStream, standings: &Standings) -> io::Result<()> {
    let mut reader = FrameReader::default();
    let founder: Founder = postcard::from_bytes(reader.read(&mut &*stream)?).map_err(malformed)?;
    reply(stream, &standings(&founder))
}

/// Answers with what this node knows.
pub(super) fn answer_report(stream: &PeerStream, events: &dyn PeerEvents) -> io::Result<()> {
    FrameReader::default().read(&mut &*stream)?;
    reply(stream, &events.report())
}

fn reply(stream: &PeerStream, answer: &impl Serialize) -> io::Result<()> {
    let payload = postcard::to_stdvec(answer).expect("answers have no unencodable parts");
    write_frame(&mut &*stream, &payload)
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
    reply(stream, &answer)
}

fn malformed(error: postcard::Error) -> io::Error {
    invalid(format!("malformed question or answer: {error}"))
}
