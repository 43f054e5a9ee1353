//! The peers' port of a node that has no identity yet: it answers the other founders and nobody else.
//!
//! Invariant: whoever wants anything else finds the connection closed, as if nothing listened, and
//! tries again.

use super::ask::{self, Standings};
use super::hello::{self, Purpose};
use super::listener::accept_until;
use super::spawn;
use super::stream::{Accepted, PeerStream, PeerTls};
use holdfast_core::ids::NodeId;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use tracing::{debug, warn};

/// Connections that are answered at the same time.
const CONNECTIONS_MAX: usize = 64;

/// Answers founders until it is stopped.
pub struct Waiting {
    shared: Arc<Shared>,
    listen_address: std::net::SocketAddr,
    accepting: JoinHandle<TcpListener>,
}

struct Shared {
    cluster: u64,
    tls: PeerTls,
    standings: Box<Standings>,
    stopped: AtomicBool,
    open: AtomicUsize,
}

impl Waiting {
    /// Starts to answer at `listener`.
    ///
    /// # Errors
    /// The operating system has no thread for it.
    pub fn start(
        listener: TcpListener,
        cluster: u64,
        tls: PeerTls,
        standings: Box<Standings>,
    ) -> io::Result<Self> {
        let listen_address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            cluster,
            tls,
            standings,
            stopped: AtomicBool::new(false),
            open: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        let accepting =
            std::thread::Builder::new().name("peer-listen".to_owned()).spawn(move || {
                let enough = || accepting.stopped.load(Ordering::SeqCst);
                accept_until(&listener, &enough, |stream| accepting.take(stream));
                listener
            })?;
        Ok(Self { shared, listen_address, accepting })
    }

    /// Stops to answer and gives the port back, open all the time: what waits there is served by
    /// whoever accepts next.
    pub fn stop(self) -> TcpListener {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; if this fails it is awake already.
        drop(TcpStream::connect(self.listen_address));
        self.accepting.join().expect("a panic ends the process")
    }
}

impl Shared {
    fn take(self: &Arc<Self>, stream: TcpStream) {
        if self.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let shared = Arc::clone(self);
        spawn("peer-accept".to_owned(), move || {
            match shared.answer(stream) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    warn!("refused a peer connection: {error}");
                }
                Err(error) => debug!("connection to the peer listener failed: {error}"),
                Ok(()) => {}
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn answer(&self, stream: TcpStream) -> io::Result<()> {
        let Accepted::Peer(stream) = PeerStream::accept(stream, self.tls.as_deref())? else {
            return Ok(());
        };
        let hello = hello::hear(&stream)?;
        if hello.purpose != Purpose::Form {
            return Ok(());
        }
        if let Some(reason) = hello.objection(self.cluster, NodeId(0)) {
            return hello::refuse(&stream, &reason);
        }
        hello::accept(&stream, &hello, NodeId(0), 0)?;
        ask::answer_founder(&stream, &*self.standings)
    }
}
