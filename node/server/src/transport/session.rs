//! The encryption of one connection between nodes: bytes in, bytes out, over any socket.
//!
//! Invariant: memory is bounded by a few TLS records each way, because whoever writes waits for the
//! socket and whoever reads takes everything decrypted before more is read.

use super::frame::invalid;
use super::stream::Wrote;
use rustls::Connection;
use std::fmt;
use std::io::{self, Read, Write};

/// Encrypted bytes to ask the socket for at once.
const READ_BYTES: usize = 64 << 10;

/// An established TLS connection without its socket.
pub(super) struct Session {
    connection: Connection,
    /// Encrypted bytes from the socket are `start..end`.
    received: Vec<u8>,
    start: usize,
    end: usize,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, received: Vec::new(), start: 0, end: 0 }
    }

    /// Reads decrypted bytes, waiting for the socket if there are none.
    pub(super) fn read(&mut self, socket: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if self.start == self.end {
                if self.received.is_empty() {
                    self.received.resize(READ_BYTES, 0);
                }
                (self.start, self.end) = (0, socket.read(&mut self.received)?);
            }
            let mut rest = &self.received[self.start..self.end];
            // Nothing received is the end of the stream, which the reader then tells.
            self.start += self.connection.read_tls(&mut rest)?;
            let state = self
                .connection
                .process_new_packets()
                .map_err(|error| invalid(error.to_string()))?;
            if state.peer_has_closed() && state.plaintext_bytes_to_read() == 0 {
                return Ok(0);
            }
        }
    }

    /// Takes some of the bytes, and writes them.
    pub(super) fn write(&mut self, socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
        self.flush(socket)?;
        let taken = self.connection.writer().write(bytes)?;
        self.flush(socket)?;
        Ok(taken)
    }

    /// Writes everything that was taken.
    pub(super) fn flush(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(socket)?;
        }
        Ok(())
    }

    /// Writes as long as the socket does not make us wait.
    pub(super) fn write_now(&mut self, socket: &mut impl Write, bytes: &[u8]) -> io::Result<Wrote> {
        let mut taken = 0;
        loop {
            match self.flush(socket) {
                Ok(()) if taken == bytes.len() => return Ok(Wrote::All),
                Ok(()) => taken += self.connection.writer().write(&bytes[taken..])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Wrote::Part(taken));
                }
                Err(error) => return Err(error),
            }
        }
    }
}
