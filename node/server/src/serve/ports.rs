//! The three listeners. Ports are taken at the very start, so that a port in use is told before
//! anything is touched, and opened only when somebody answers there: until then connections are
//! refused, and clients and peers look elsewhere.

use crate::cli::Failure;
use crate::config::Config;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket, lookup_host};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Ports that are taken but not open.
pub(super) struct Ports {
    client: TcpSocket,
    peer: TcpSocket,
    http: TcpSocket,
}

/// Open ports.
pub(super) struct Listeners {
    pub client: TcpListener,
    pub peer: std::net::TcpListener,
    pub http: TcpListener,
}

impl Ports {
    /// Takes the ports.
    pub(super) async fn reserve(config: &Config) -> Result<Self, Failure> {
        Ok(Self {
            client: reserve("client-listen", &config.client_listen).await?,
            peer: reserve("peer-listen", &config.peer_listen).await?,
            http: reserve("http-listen", &config.http_listen).await?,
        })
    }

    /// Opens the ports.
    pub(super) fn listen(self) -> io::Result<Listeners> {
        let peer = self.peer.listen(BACKLOG)?.into_std()?;
        // Peers have threads of their own, which wait.
        peer.set_nonblocking(false)?;
        Ok(Listeners {
            client: self.client.listen(BACKLOG)?,
            peer,
            http: self.http.listen(BACKLOG)?,
        })
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
