//! Frames: `length u32 LE | crc32 u32 LE | payload`. The payload of a message frame is any number
//! of `length u32 LE | encoded message`.
//!
//! Invariant: a frame is read whole and checked before anything in it is believed.

use super::pieces::Piece;
use holdfast_core::message::{self, Message};
use std::io::{self, Read, Write};

/// Bytes before the payload.
const HEADER_BYTES: usize = 8;

/// Bytes of the largest frame. A message is at most a command, an answer or a batch of log
/// entries; the largest are answers to range reads, which the sender bounds by this.
pub(super) const FRAME_BYTES_MAX: usize = 256 << 20;

/// Bytes to ask the socket for at once.
const READ_BYTES: usize = 64 << 10;

/// The most that is read at once of a frame whose length is not known to be right.
const READ_AT_ONCE_BYTES: usize = 1 << 20;

/// A buffer that grew beyond this is given back once it is empty.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// A buffer of this size is never too large.
const BUFFER_BYTES_LEAST: usize = 2 * READ_BYTES;

/// Frames, one after the other, that need a quarter of their buffer at most, until it is given back.
const SMALL_FRAMES: u32 = 64;

/// How well a buffer fits what it is used for: one that grew in a busy hour is not kept for ever.
#[derive(Debug, Default)]
struct Fit {
    small: u32,
}

impl Fit {
    /// It was used for so many bytes. False if it has been too large for a while.
    fn used(&mut self, bytes: usize, capacity: usize) -> bool {
        if capacity <= BUFFER_BYTES_LEAST || bytes > capacity / 4 {
            self.small = 0;
        } else {
            self.small += 1;
        }
        if self.small >= SMALL_FRAMES {
            self.small = 0;
            return false;
        }
        capacity <= BUFFER_BYTES_KEPT
    }
}

/// A message frame being filled.
#[derive(Debug, Default)]
pub(super) struct FrameBuilder {
    bytes: Vec<u8>,
    fit: Fit,
}

impl FrameBuilder {
    /// Appends a message. Returns false, changing nothing, if the frame would be too large.
    pub(super) fn push(&mut self, message: &Message) -> bool {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_BYTES, 0);
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes = message::encode_into(message, std::mem::take(&mut self.bytes));
        if self.bytes.len() - HEADER_BYTES > FRAME_BYTES_MAX {
            self.bytes.truncate(start);
            return false;
        }
        let length = (self.bytes.len() - start - 4) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        true
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The finished frame, or `None` if it is empty. The builder starts anew.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
        if self.bytes.len() <= HEADER_BYTES {
            self.bytes.clear();
            return None;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        seal(&mut bytes);
        Some(bytes)
    }

    /// Takes back the memory of a frame that was written.
    pub(super) fn recycle(&mut self, mut frame: Vec<u8>) {
        let fits = self.fit.used(frame.len(), frame.capacity());
        if self.bytes.capacity() == 0 && fits {
            frame.clear();
            self.bytes = frame;
        }
    }
}

fn seal(frame: &mut [u8]) {
    let length = (frame.len() - HEADER_BYTES) as u32;
    let crc = crc32fast::hash(&frame[HEADER_BYTES..]);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Writes `payload` as one frame.
pub(super) fn write_frame(writer: &mut impl Write, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.resize(HEADER_BYTES, 0);
    frame.extend_from_slice(payload);
    seal(&mut frame);
    writer.write_all(&frame)
}

/// Replaces what is in `frame` by one whose payload is the byte `kind` and what `fill` appends. Its memory is
/// used again, unless it has grown large. Returns how many bytes were appended, or `None` when `fill` says
/// by false that there is nothing more.
pub(super) fn fill_frame(
    frame: &mut Vec<u8>,
    kind: u8,
    fill: impl FnOnce(&mut Vec<u8>) -> bool,
) -> Option<usize> {
    if frame.capacity() > BUFFER_BYTES_KEPT {
        *frame = Vec::new();
    }
    frame.clear();
    frame.resize(HEADER_BYTES, 0);
    frame.push(kind);
    if !fill(frame) {
        return None;
    }
    seal(frame);
    Some(frame.len() - HEADER_BYTES - 1)
}

/// Reads one frame from a connection that is read through no buffer; `piece` gives memory for a payload of
/// that length.
pub(super) fn read_frame(
    reader: &mut impl Read,
    piece: impl FnOnce(usize) -> Piece,
) -> io::Result<Piece> {
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header)?;
    let length = payload_length(header[..4].try_into().expect("four bytes were sliced"))?;
    let crc = u32::from_le_bytes(header[4..].try_into().expect("four bytes were sliced"));
    // The length is not checked yet: memory is only taken for what came.
    let mut piece = piece(length.min(READ_AT_ONCE_BYTES));
    let payload = &mut piece.bytes;
    let mut read = 0;
    while read < length {
        let more = (read + READ_AT_ONCE_BYTES).min(length);
        // Memory that is used again need not be filled with zeros first.
        payload.resize(more, 0);
        reader.read_exact(&mut payload[read..])?;
        read = more;
    }
    payload.truncate(length);
    check(payload, crc)?;
    Ok(piece)
}

fn check(payload: &[u8], crc: u32) -> io::Result<()> {
    if crc32fast::hash(payload) != crc {
        return Err(invalid("a frame was damaged on its way"));
    }
    Ok(())
}

/// The length of a payload as a header tells it.
fn payload_length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(invalid(format!("a frame of {length} bytes is larger than allowed")));
    }
    Ok(length)
}

/// Reads frames from a connection through a buffer.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: Vec<u8>,
    fit: Fit,
    /// Bytes of `buffer` that hold data are `start..end`.
    start: usize,
    end: usize,
}

impl FrameReader {
    /// The payload of the next frame, waiting for it.
    pub(super) fn read<'a>(&'a mut self, reader: &mut impl Read) -> io::Result<&'a [u8]> {
        loop {
            if let Some(length) = self.whole()? {
                return self.take(length);
            }
            self.fill(reader)?;
        }
    }

    /// The payload of the next frame if all of it has been received already.
    pub(super) fn read_buffered(&mut self) -> io::Result<Option<&[u8]>> {
        match self.whole()? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    /// Length of the payload at the start of the buffer, if all of it is there.
    fn whole(&self) -> io::Result<Option<usize>> {
        let data = &self.buffer[self.start..self.end];
        let Some(header) = data.first_chunk::<4>() else { return Ok(None) };
        let length = payload_length(*header)?;
        Ok((data.len() >= HEADER_BYTES + length).then_some(length))
    }

    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let payload_start = self.start + HEADER_BYTES;
        let header = &self.buffer[self.start + 4..payload_start];
        let crc = u32::from_le_bytes(header.try_into().expect("four bytes were sliced"));
        self.start = payload_start + length;
        let payload = &self.buffer[payload_start..payload_start + length];
        check(payload, crc)?;
        Ok(payload)
    }

    fn fill(&mut self, reader: &mut impl Read) -> io::Result<()> {
        if self.start == self.end {
            let fits = self.fit.used(self.end, self.buffer.len());
            (self.start, self.end) = (0, 0);
            if !fits {
                self.buffer = Vec::new();
            }
        }
        if self.buffer.len() - self.end < READ_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            // Doubling keeps the copying of a large frame linear.
            let wanted = (self.end + READ_BYTES).max(self.end * 2);
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
        }
        match reader.read(&mut self.buffer[self.end..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }
}

/// Decodes the messages of a frame's payload into `into`.
pub(super) fn decode_messages(mut payload: &[u8], into: &mut Vec<Message>) -> io::Result<()> {
    while let Some((length, rest)) = payload.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (encoded, rest) =
            rest.split_at_checked(length).ok_or_else(|| invalid("a message is cut off"))?;
        into.push(message::decode(encoded).map_err(invalid)?);
        payload = rest;
    }
    if payload.is_empty() { Ok(()) } else { Err(invalid("a message is cut off")) }
}

/// An error for bytes that make no sense.
pub(super) fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

#[cfg(test)]
mod tests {
    use super::super::pieces::Pieces;
    use super::*;
    use bytes::Bytes;
    use holdfast_core::ids::{RangeId, ReplicaId};
    use std::sync::Arc;

    fn raft(size: usize) -> Message {
        Message::Raft {
            range: RangeId(7),
            from: ReplicaId(1),
            to: ReplicaId(2),
            data: Bytes::from(vec![9; size]),
        }
    }

    #[test]
    fn messages_come_out_as_they_went_in_whatever_the_pieces() {
        let mut sent = Vec::new();
        let mut stream = Vec::new();
        let mut builder = FrameBuilder::default();
        for size in [0, 1, 100, 70_000, 3_000_000, 5] {
            let message = raft(size);
            assert!(builder.push(&message));
            sent.push(message);
            if size % 2 == 0 {
                stream.extend(builder.finish().unwrap());
            }
        }
        stream.extend(builder.finish().unwrap());
        assert_eq!(builder.finish(), None);

        let mut received = Vec::new();
        let mut reader = FrameReader::default();
        let mut source = Trickle { bytes: &stream, step: 1 };
        while received.len() < sent.len() {
            decode_messages(reader.read(&mut source).unwrap(), &mut received).unwrap();
            while let Some(payload) = reader.read_buffered().unwrap() {
                decode_messages(payload, &mut received).unwrap();
            }
        }
        assert_eq!(received, sent);
        assert!(reader.read(&mut source).is_err(), "the end of the stream is an error");
    }

    #[test]
    fn buffers_that_grew_in_a_busy_hour_are_given_back() {
        let mut builder = FrameBuilder::default();
        let mut reader = FrameReader::default();
        let mut pass = |size| {
            assert!(builder.push(&raft(size)));
            let frame = builder.finish().unwrap();
            assert!(!reader.read(&mut frame.as_slice()).unwrap().is_empty());
            builder.recycle(frame);
            (builder.bytes.capacity(), reader.buffer.len())
        };
        let large = pass(700_000);
        assert!(large.0 > 700_000 && large.1 > 700_000, "{large:?}");
        assert_eq!(pass(100), large, "the next frame may be large again");
        for _ in 1..2 * SMALL_FRAMES {
            pass(100);
        }
        let small = pass(100);
        assert!(small.0 < 10_000 && small.1 <= BUFFER_BYTES_LEAST, "{small:?}");
    }

    #[test]
    fn pieces_come_out_as_they_went_in() {
        let receiving = Arc::new(Pieces::default()).enter();
        let mut frame = Vec::new();
        // Smaller than the one before, larger, empty, and larger than what is read at once.
        for size in [70_000, 100, 80_000, 0, 3_000_000, 5] {
            let content: Vec<u8> = (0..size).map(|number: u32| number as u8).collect();
            let length = fill_frame(&mut frame, 1, |frame| {
                frame.extend_from_slice(&content);
                true
            });
            assert_eq!(length, Some(content.len()));
            let mut source = Trickle { bytes: &frame, step: 1 };
            let piece = read_frame(&mut source, |length| receiving.piece(length)).unwrap();
            assert_eq!((piece.bytes[0], &piece.bytes[1..]), (1, content.as_slice()));
            *frame.last_mut().unwrap() ^= 1;
            assert!(read_frame(&mut frame.as_slice(), |length| receiving.piece(length)).is_err());
        }
        assert_eq!(fill_frame(&mut frame, 1, |_| false), None);
        let huge = [0xff; 16];
        assert!(read_frame(&mut huge.as_slice(), |length| receiving.piece(length)).is_err());
        let short = [100, 0, 0, 0, 1, 1, 1, 1, 1];
        assert!(read_frame(&mut short.as_slice(), |length| receiving.piece(length)).is_err());
    }

    #[test]
    fn damage_is_noticed() {
        let mut builder = FrameBuilder::default();
        assert!(builder.push(&raft(100)));
        let mut frame = builder.finish().unwrap();
        *frame.last_mut().unwrap() ^= 1;
        assert!(FrameReader::default().read(&mut frame.as_slice()).is_err());

        let huge = [0xff; 16];
        assert!(FrameReader::default().read(&mut huge.as_slice()).is_err());
        assert!(decode_messages(&[200, 0, 0, 0, 1], &mut Vec::new()).is_err());
        assert!(decode_messages(&[1, 0], &mut Vec::new()).is_err());
    }

    /// Gives ever longer pieces.
    struct Trickle<'a> {
        bytes: &'a [u8],
        step: usize,
    }

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.step.min(self.bytes.len()).min(buffer.len());
            self.step = self.step * 3 % 100_000 + 1;
            buffer[..length].copy_from_slice(&self.bytes[..length]);
            self.bytes = &self.bytes[length..];
            Ok(length)
        }
    }
}
