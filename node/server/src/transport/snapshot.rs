//! Raft snapshots between nodes: a connection of its own for each, so that a large one delays
//! nothing else.
//!
//! Layout after the handshake: frames that begin with 0 (a piece of data) or 1 (the message that
//! completes the snapshot); the receiver answers the latter with one frame: 1 once everything is
//! staged. Invariant: memory is bounded by one piece on each side, and what the receiver's user keeps.

use super::frame::{FrameReader, fill_frame, invalid, read_frame, write_frame};
use super::pieces::{Pieces, Receiving};
use super::stream::PeerStream;
use super::throttle::Pacer;
use bytes::Bytes;
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

    /// Sends the piece of at most a few MiB that `fill` appends to what it is given, waiting as the pace says.
    /// Returns its length in bytes; `None` if there is none, which `fill` says by false.
    pub fn send(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> bool) -> io::Result<Option<usize>> {
        let Some(length) = fill_frame(&mut self.frame, DATA, fill) else { return Ok(None) };
        self.pacer.send(length);
        (&self.stream).write_all(&self.frame)?;
        Ok(Some(length))
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
pub enum Part {
    /// The next piece of data, as it was sent. To keep it is to keep no more than it.
    Data(Bytes),
    /// That was all; this message completes the snapshot.
    End(Box<Message>),
}

/// The receiving side of one snapshot.
#[derive(Debug)]
pub struct SnapshotReceiver {
    stream: PeerStream,
    receiving: Receiving,
    pacer: Arc<Pacer>,
}

impl SnapshotReceiver {
    pub(super) fn new(
        stream: PeerStream,
        pacer: Arc<Pacer>,
        pieces: &Arc<Pieces>,
    ) -> io::Result<Self> {
        stream.set_read_timeout(PATIENCE)?;
        Ok(Self { stream, receiving: pieces.enter(), pacer })
    }

    /// The next part, waiting as the pace says: a sender that is faster waits for its connection.
    pub fn receive(&mut self) -> io::Result<Part> {
        let payload =
            read_frame(&mut &self.stream, |length| self.receiving.piece(length))?.freeze();
        match payload.first() {
            Some(&DATA) => {
                let piece = payload.slice(1..);
                self.pacer.receive(piece.len());
                Ok(Part::Data(piece))
            }
            Some(&END) => Ok(Part::End(Box::new(message::decode(&payload[1..]).map_err(invalid)?))),
            _ => Err(invalid("the sender sent nonsense")),
        }
    }

    /// Says that everything is staged.
    pub fn acknowledge(self) -> io::Result<()> {
        write_frame(&mut &self.stream, &[END])
    }
}
