//! One connection between two nodes. The only place that knows whether it is encrypted.
//!
//! Invariant: after the handshake a connection is used in one direction only (apart from the
//! acknowledgement that ends a snapshot), so reading and writing threads never share one; the lock
//! of an encrypted one is therefore held while its thread waits for the socket.

use super::frame::invalid;
use super::session::Session;
use crate::tls::{PEER_PROTOCOL, Tls};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConnection, Connection};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// How long a dial may take. A live peer in the same cluster answers in milliseconds.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one write may make no progress before the connection counts as broken: a peer that
/// reads nothing for so long is dead or paused.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the other side may be silent in a TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest first message of a TLS handshake.
const CLIENT_HELLO_MAX: usize = 32 << 10;

/// One connection between two nodes.
#[derive(Debug)]
pub(super) struct PeerStream {
    socket: TcpStream,
    tls: Option<Box<Mutex<Session>>>,
}

/// How far a write came that did not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// Everything is on its way.
    All,
    /// So many bytes need not be written again; the rest has to be, and then a flush.
    Part(usize),
}

/// What was accepted.
pub(super) enum Accepted {
    /// A node.
    Peer(PeerStream),
    /// Somebody who wants to speak HTTP/2 over TLS, and what was read of him so far.
    Http2(TcpStream, Vec<u8>),
}

impl PeerStream {
    /// Connects to `host:port`, trying each address of the host. With TLS, the other side must show
    /// a trusted certificate for the host.
    pub(super) fn dial(address: &str, tls: Option<&Tls>) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for target in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&target, DIAL_TIMEOUT) {
                Ok(socket) => {
                    let mut stream = Self::new(socket)?;
                    if let Some(tls) = tls {
                        stream.encrypt(address, tls)?;
                    }
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Wraps a connection without TLS.
    pub(super) fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self { socket, tls: None })
    }

    /// Finds out who dialled, as far as TLS tells.
    pub(super) fn accept(socket: TcpStream, tls: Option<&Tls>) -> io::Result<Accepted> {
        let mut stream = Self::new(socket)?;
        let Some(tls) = tls else { return Ok(Accepted::Peer(stream)) };
        stream.socket.set_read_timeout(Some(TLS_TIMEOUT))?;
        let mut acceptor = Acceptor::default();
        let mut seen = Vec::new();
        let mut piece = [0; 4096];
        let hello = loop {
            let read = (&stream.socket).read(&mut piece)?;
            if read == 0 || seen.len() + read > CLIENT_HELLO_MAX {
                return Err(invalid("no TLS handshake"));
            }
            seen.extend_from_slice(&piece[..read]);
            let mut rest = &piece[..read];
            while !rest.is_empty() {
                acceptor.read_tls(&mut rest)?;
            }
            match acceptor.accept() {
                Ok(Some(hello)) => break hello,
                Ok(None) => {}
                Err((error, mut alert)) => {
                    alert.write_all(&mut &stream.socket)?;
                    return Err(invalid(error.to_string()));
                }
            }
        };
        let wants = |protocol: &[u8]| {
            hello.client_hello().alpn().is_some_and(|mut all| all.any(|wanted| wanted == protocol))
        };
        if wants(b"h2") && !wants(PEER_PROTOCOL) {
            stream.socket.set_read_timeout(None)?;
            return Ok(Accepted::Http2(stream.socket, seen));
        }
        let connection = hello.into_connection(tls.server()).map_err(|(error, mut alert)| {
            match alert.write_all(&mut &stream.socket) {
                Ok(()) => invalid(error.to_string()),
                Err(error) => error,
            }
        })?;
        stream.shake_hands(connection.into())?;
        Ok(Accepted::Peer(stream))
    }

    fn encrypt(&mut self, address: &str, tls: &Tls) -> io::Result<()> {
        let config = tls.client().expect("the peers' side dials");
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|error| invalid(format!("{host}: {error}")))?;
        let connection =
            ClientConnection::new(config, name).map_err(|error| invalid(error.to_string()))?;
        self.socket.set_read_timeout(Some(TLS_TIMEOUT))?;
        self.shake_hands(connection.into())
    }

    fn shake_hands(&mut self, mut connection: Connection) -> io::Result<()> {
        while connection.is_handshaking() {
            connection.complete_io(&mut &self.socket)?;
        }
        self.tls = Some(Box::new(Mutex::new(Session::new(connection))));
        Ok(())
    }

    /// The longest wait for bytes; then a read fails.
    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(timeout))
    }

    /// Writes what the socket takes without waiting.
    pub(super) fn write_now(&self, bytes: &[u8]) -> io::Result<Wrote> {
        if let Some(tls) = &self.tls {
            return tls.lock().write_now(&mut Unwaiting(&self.socket), bytes);
        }
        match Unwaiting(&self.socket).write(bytes) {
            Ok(written) if written == bytes.len() => Ok(Wrote::All),
            Ok(written) => Ok(Wrote::Part(written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Wrote::Part(0)),
            Err(error) => Err(error),
        }
    }

    /// Ends both directions, waking whoever reads or writes.
    pub(super) fn close(&self) {
        // An error says that it is closed already.
        drop(self.socket.shutdown(Shutdown::Both));
    }
}

impl Read for &PeerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => (&self.socket).read(buffer),
            Some(tls) => tls.lock().read(&mut &self.socket, buffer),
        }
    }
}

impl Write for &PeerStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => (&self.socket).write(buffer),
            Some(tls) => tls.lock().write(&mut &self.socket, buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &self.tls {
            None => Ok(()),
            Some(tls) => tls.lock().flush(&mut &self.socket),
        }
    }
}

/// Writes to a socket without waiting.
struct Unwaiting<'a>(&'a TcpStream);

impl Write for Unwaiting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.0.as_raw_fd(), bytes, flags) {
            Ok(written) => Ok(written),
            Err(Errno::EINTR) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// TLS between nodes, or none.
pub type PeerTls = Option<Arc<Tls>>;
