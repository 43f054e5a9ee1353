//! Raft snapshots between nodes: a connection of its own for each, so that a large one delays
//! nothing else.
//!
//! Layout after the handshake: frames that begin with 0 (a piece of data) or 1 (the message that
//! completes the snapshot); the receiver answers the latter with one frame: 1 once everything is
//! staged. Invariant: memory is bounded by one piece on each side.

use super::frame::{FrameReader, invalid, refill_frame, write_frame};
use super::stream::PeerStream;
use super::throttle::Pacer;
use holdfast_core::message::{self, Message};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// First byte of a frame with data.
const DATA: u8 = 0;

/// First byte of the frame that ends a snapshot; also the receiver's "staged".
const END: u8 = 1;

/// How long the other side may take for its part: staging may be disk work.
const PATIENCE: Duration = Duration::from_mins(1);

/// The sending side of one snapshot.
#[derive(Debug)]
pub struct SnapshotSender {
    stream: PeerStream,
    pacer: Arc<Pacer>,
    frame: Vec<u8>,
}

impl SnapshotSender {
    pub(super) fn new(stream: PeerStream, pacer: Arc<Pacer>) -> io::Result<Self> {
        stream.set_read_timeout(PATIENCE)?;
        Ok(Self { stream, pacer, frame: Vec::new() })
    }

    /// Sends one piece of at most a few MiB, waiting as the pace says.
    pub fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        self.pacer.send(piece.len());
        refill_frame(&mut self.frame, &[&[DATA], piece]);
        (&self.stream).write_all(&self.frame)
    }

    /// Sends the message that completes the snapshot and waits until all of it is staged there.
    pub fn finish(self, message: &Message) -> io::Result<()> {
        let frame = message::encode_into(message, vec![END]);
        write_frame(&mut &self.stream, &frame)?;
        match FrameReader::default().read(&mut &self.stream)? {
            [END] => Ok(()),
            _ => Err(invalid("the receiver answered nonsense")),
        }
    }
}

/// What a receiver gets.
#[derive(Debug)]
pub enum Part<'a> {
    /// The next piece of data, as it was sent.
    Data(&'a [u8]),
    /// That was all; this message completes the snapshot.
    End(Box<Message>),
}

/// The receiving side of one snapshot.
#[derive(Debug)]
pub struct SnapshotReceiver {
    stream: PeerStream,
    reader: FrameReader,
    pacer: Arc<Pacer>,
}

impl SnapshotReceiver {
    pub(super) fn new(stream: PeerStream, pacer: Arc<Pacer>) -> io::Result<Self> {
        stream.set_read_timeout(PATIENCE)?;
        Ok(Self { stream, reader: FrameReader::default(), pacer })
    }

    /// The next part, waiting as the pace says: a sender that is faster waits for its connection.
    pub fn receive(&mut self) -> io::Result<Part<'_>> {
        match self.reader.read(&mut &self.stream)?.split_first() {
            Some((&DATA, piece)) => {
                self.pacer.receive(piece.len());
                Ok(Part::Data(piece))
            }
            Some((&END, encoded)) => {
                Ok(Part::End(Box::new(message::decode(encoded).map_err(invalid)?)))
            }
            _ => Err(invalid("the sender sent nonsense")),
        }
    }

    /// Says that everything is staged.
    pub fn acknowledge(self) -> io::Result<()> {
        write_frame(&mut &self.stream, &[END])
    }
}
