//! One connection between two nodes. The only place that knows it is plain TCP: encryption slots
//! in here.
//!
//! Invariant: after the handshake a connection is used in one direction only (apart from the
//! acknowledgement that ends a snapshot), so reading and writing threads never share one.

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// How long a dial may take. A live peer in the same cluster answers in milliseconds.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one write may make no progress before the connection counts as broken: a peer that
/// reads nothing for so long is dead or paused.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection between two nodes.
#[derive(Debug)]
pub(super) struct PeerStream(TcpStream);

impl PeerStream {
    /// Connects to `host:port`, trying each address of the host.
    pub(super) fn dial(address: &str) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for target in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&target, DIAL_TIMEOUT) {
                Ok(stream) => return Self::new(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Wraps an accepted connection.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self(stream))
    }

    /// The longest wait for bytes; then a read fails.
    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(timeout))
    }

    /// Writes what the socket takes without waiting: 0 if it takes nothing now.
    pub(super) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.0.as_raw_fd(), bytes, flags) {
            Ok(written) => Ok(written),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends both directions, waking whoever reads or writes.
    pub(super) fn close(&self) {
        // An error says that it is closed already.
        drop(self.0.shutdown(Shutdown::Both));
    }
}

impl Read for &PeerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
}

impl Write for &PeerStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&self.0).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
