//! Memory of the pieces of raft snapshots that are received, to be used again: a new page of memory costs
//! more than what is done with a page that was there.
//!
//! Invariants: what is kept for later, together with what is in use, is at most [`BYTES_MAX`]; nothing is kept
//! once no snapshot is received and no piece of one is in use.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

/// Of memory in use and of memory that is kept, together, bytes. Beyond it, what is not in use any more is
/// given back at once. As much as staged snapshots may take, so that all of it is used again.
const BYTES_MAX: usize = 160 << 20;

/// Memory comes in multiples of this many bytes, since pieces are of nearly the same size.
const STEP: usize = 16 << 10;

/// A piece may have memory for so many more bytes than it needs.
const SLACK: usize = 4 * STEP;

/// All memory of pieces of a node.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// Not in use.
    idle: Vec<Vec<u8>>,
    idle_bytes: usize,
    /// In use.
    pieces: usize,
    used_bytes: usize,
    /// Snapshots that are received.
    receivers: usize,
}

impl Memory {
    fn tidy(&mut self) {
        if self.pieces == 0 && self.receivers == 0 {
            (self.idle, self.idle_bytes) = (Vec::new(), 0);
        }
    }
}

impl Pieces {
    /// One more snapshot is received, until this is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Receiving {
        self.memory.lock().receivers += 1;
        Receiving(Arc::clone(self))
    }
}

/// A snapshot that is received.
#[derive(Debug)]
pub(super) struct Receiving(Arc<Pieces>);

impl Receiving {
    /// Memory for a piece of about so many bytes, with whatever was in it.
    pub(super) fn piece(&self, bytes: usize) -> Piece {
        let mut memory = self.0.memory.lock();
        let idle = memory.idle.pop();
        memory.idle_bytes -= idle.as_ref().map_or(0, Vec::capacity);
        let fits = |idle: &Vec<u8>| (bytes..=bytes + SLACK).contains(&idle.capacity());
        let buffer =
            idle.filter(fits).unwrap_or_else(|| Vec::with_capacity(bytes.next_multiple_of(STEP)));
        memory.pieces += 1;
        let counted = buffer.capacity();
        memory.used_bytes += counted;
        Piece { bytes: buffer, counted, pieces: Arc::clone(&self.0) }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut memory = self.0.memory.lock();
        memory.receivers -= 1;
        memory.tidy();
    }
}

/// A piece. Its memory is used again when it is dropped.
#[derive(Debug)]
pub(super) struct Piece {
    /// What is in it.
    pub(super) bytes: Vec<u8>,
    /// How much of it is counted.
    counted: usize,
    pieces: Arc<Pieces>,
}

impl Piece {
    /// The piece, to be shared and never changed again.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut memory = self.pieces.memory.lock();
        memory.pieces -= 1;
        memory.used_bytes -= self.counted;
        if memory.used_bytes + memory.idle_bytes + bytes.capacity() <= BYTES_MAX {
            memory.idle_bytes += bytes.capacity();
            memory.idle.push(bytes);
        }
        memory.tidy();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pieces: &Pieces) -> (usize, usize) {
        let memory = pieces.memory.lock();
        (memory.idle.len(), memory.idle_bytes)
    }

    #[test]
    fn memory_is_used_again_while_snapshots_flow_and_given_back_after_that() {
        let pieces = Arc::new(Pieces::default());
        let (one, two) = (pieces.enter(), pieces.enter());
        let mut first = one.piece(100_000);
        first.bytes.resize(100_000, 7);
        let place = first.bytes.as_ptr();
        let shared = first.freeze();
        let part = shared.slice(1..10);
        drop(shared);
        assert_eq!((kept(&pieces), part.as_ref()), ((0, 0), [7; 9].as_slice()));
        drop(part);
        assert_eq!(kept(&pieces), (1, 7 * STEP));
        let again = two.piece(90_000);
        assert_eq!((again.bytes.as_ptr(), kept(&pieces)), (place, (0, 0)));
        drop((one, two));
        drop(again);
        assert_eq!(kept(&pieces), (0, 0), "nothing flows any more");
    }

    #[test]
    fn memory_that_does_not_fit_or_is_too_much_is_not_kept() {
        let pieces = Arc::new(Pieces::default());
        let receiving = pieces.enter();
        drop(receiving.piece(10 * STEP));
        drop(receiving.piece(STEP));
        assert_eq!(kept(&pieces), (1, STEP));
        let large = receiving.piece(BYTES_MAX - STEP);
        assert_eq!(kept(&pieces), (0, 0));
        drop(receiving.piece(STEP));
        assert_eq!(kept(&pieces), (1, STEP));
        let one_too_many = receiving.piece(2 * STEP);
        drop(one_too_many);
        assert_eq!(kept(&pieces), (0, 0));
        drop((large, receiving));
        assert_eq!(kept(&pieces), (0, 0));
    }
}
