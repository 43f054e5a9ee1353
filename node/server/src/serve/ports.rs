//! The three listeners. Ports are taken at the very start, so that a port in use is told before
//! anything is touched, and opened only when somebody answers there: until then connections are
//! refused, and clients and peers look elsewhere. Probes are answered at once; peers earlier than
//! clients if the cluster is yet to be formed.

use crate::cli::Failure;
use crate::config::Config;
use crate::transport::Waiting;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket, lookup_host};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Ports that are taken, and some of them open.
pub(super) struct Ports {
    client: TcpSocket,
    peer: PeerPort,
}

enum PeerPort {
    Taken(TcpSocket),
    Answering(Waiting),
    /// Only inside the methods here, or after one of them failed.
    Gone,
}

/// Open ports.
pub(super) struct Listeners {
    pub client: TcpListener,
    pub peer: std::net::TcpListener,
}

impl Ports {
    /// Takes the ports, and opens the one of the HTTP endpoints.
    pub(super) async fn reserve(config: &Config) -> Result<(Self, TcpListener), Failure> {
        let client = reserve("client-listen", &config.client_listen).await?;
        let peer = reserve("peer-listen", &config.peer_listen).await?;
        let http = reserve("http-listen", &config.http_listen)
            .await?
            .listen(BACKLOG)
            .map_err(|error| Failure::broken(format!("cannot listen: {error}")))?;
        Ok((Self { client, peer: PeerPort::Taken(peer) }, http))
    }

    /// Opens the peers' port.
    pub(super) fn open_peer(&mut self) -> io::Result<std::net::TcpListener> {
        match std::mem::replace(&mut self.peer, PeerPort::Gone) {
            PeerPort::Taken(socket) => {
                let listener = socket.listen(BACKLOG)?.into_std()?;
                // Peers have threads of their own, which wait.
                listener.set_nonblocking(false)?;
                Ok(listener)
            }
            PeerPort::Answering(waiting) => Ok(waiting.stop()),
            PeerPort::Gone => Err(io::Error::other("the peers' port is gone")),
        }
    }

    /// The peers' port is answered until somebody else opens it.
    pub(super) fn answer_peers(&mut self, waiting: Waiting) {
        self.peer = PeerPort::Answering(waiting);
    }

    /// Opens the ports.
    pub(super) fn listen(mut self) -> io::Result<Listeners> {
        let peer = self.open_peer()?;
        Ok(Listeners { client: self.client.listen(BACKLOG)?, peer })
    }
}

async fn reserve(flag: &str, address: &str) -> Result<TcpSocket, Failure> {
    let failed =
        |error: io::Error| Failure::usage(format!("cannot use --{flag} {address}: {error}"));
    let target = lookup_host(address)
        .await
        .map_err(failed)?
        .next()
        .ok_or_else(|| failed(io::Error::other("the name has no address")))?;
    bind(target).map_err(failed)
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A port whose last connections are still dying is free.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}
