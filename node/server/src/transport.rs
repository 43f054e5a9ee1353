//! Connections between nodes: sessions that carry messages, streams that carry snapshots, and
//! questions of nodes that are no peers yet.
//!
//! Threads: one a peer that dials and writes what a socket would not take at once, one a peer that
//! reads, one that accepts. [`Transport::send`] never waits and usually writes to the socket itself,
//! so that a message costs no wake-up on this side.
//!
//! Invariants: see `transport/link.rs` for sessions. Nodes of different clusters never exchange
//! anything but their greetings.

mod ask;

mod frame;

mod hello;

mod least;

mod link;

mod listener;

mod pace;

mod pieces;

mod session;

mod snapshot;

mod stream;

mod throttle;

mod waiting;

pub use ask::{Founder, Standing, Standings, ask, ask_report, ask_to_form};
pub use pace::Limits as SnapshotRates;
pub use snapshot::{Part, SnapshotReceiver, SnapshotSender};
pub use stream::PeerTls;
pub use throttle::{Flow, Pacer};
pub use waiting::Waiting;

use frame::FrameBuilder;
use hello::{Hello, Purpose};
use holdfast_core::ids::NodeId;
use holdfast_core::level::Level;
use holdfast_core::message::{InternalReply, Message, MetaRequest};
use least::Least;
use link::Link;
use parking_lot::Mutex;
use pieces::Pieces;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use stream::PeerStream;

/// Who this node is to its peers.
#[derive(Clone, Debug)]
pub struct Local {
    /// Its cluster.
    pub cluster: u64,
    /// Its id.
    pub node: NodeId,
    /// Changes when the process starts again.
    pub incarnation: u64,
    /// `host:port` where peers reach it.
    pub address: String,
}

impl Local {
    fn hello(&self) -> Hello {
        Hello::new(self.cluster, self.node, self.incarnation, &self.address)
    }
}

/// What the transport tells. `connected` and `lost` are called with a lock held and must not wait.
pub trait PeerEvents: Send + Sync + 'static {
    /// A session began: everything in it comes after this, with its number.
    fn connected(&self, peer: NodeId, session: u64, level: Level);

    /// The session ended; or, when `refused`, it turned out after the end that nothing listens at
    /// the peer's address any more.
    fn lost(&self, peer: NodeId, refused: bool);

    /// A node of the cluster says that this one was removed for good.
    fn removed(&self);

    /// Messages arrived in a session; may wait. False ends the session.
    fn messages(&self, peer: NodeId, session: u64, batch: Vec<Message>, bytes: usize) -> bool;

    /// A snapshot begins to arrive; called on a thread of its own, which may wait.
    fn snapshot(&self, from: NodeId, receiver: SnapshotReceiver) -> io::Result<()>;

    /// A node asks the meta range from outside a session: to join, or to tell where it is. Called
    /// on a thread of its own, which may wait.
    fn asked(&self, request: MetaRequest) -> Result<InternalReply, String>;

    /// Another node wants to know what this one knows: in whatever form nodes of this version use.
    fn report(&self) -> Vec<u8>;
}

/// Takes connections that want to speak HTTP/2 over TLS on the peers' port, with what was read of
/// them already; must not wait.
pub type OnHttp2 = dyn Fn(TcpStream, Vec<u8>) + Send + Sync;

/// How a node talks to its peers.
pub struct Settings {
    /// Encrypts every connection, and lets only nodes with a trusted certificate in.
    pub tls: PeerTls,
    /// What peers must understand; see [`Transport::require`].
    pub least: Level,
    /// Snapshot bytes a second, sent and received.
    pub snapshot_rates: SnapshotRates,
    /// Answers nodes that want to form the cluster.
    pub standings: Box<Standings>,
    /// Takes connections of administrators; only with TLS.
    pub on_http2: Box<OnHttp2>,
}

/// All connections of this node to others.
pub struct Transport {
    shared: Arc<Shared>,
    listen_address: std::net::SocketAddr,
    builder: Mutex<FrameBuilder>,
}

struct Shared {
    local: Arc<Local>,
    events: Arc<dyn PeerEvents>,
    tls: PeerTls,
    least: Arc<Least>,
    standings: Box<Standings>,
    on_http2: Box<OnHttp2>,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    tombstoned: Mutex<BTreeSet<NodeId>>,
    counts: listener::Counts,
    pacer: Arc<Pacer>,
    pieces: Arc<Pieces>,
    /// Refusals that were logged, so that each is logged once.
    refusals: Mutex<BTreeSet<String>>,
    stopped: AtomicBool,
}

/// Different refusals that are logged.
const REFUSALS_LOGGED_MAX: usize = 1000;

impl Transport {
    /// Starts to accept peers at `listener`.
    pub fn start(
        local: Local,
        listener: TcpListener,
        settings: Settings,
        events: Arc<dyn PeerEvents>,
    ) -> io::Result<Self> {
        let Settings { tls, least, snapshot_rates, standings, on_http2 } = settings;
        let listen_address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            local: Arc::new(local),
            events,
            tls,
            least: Arc::new(Least::new(least)),
            standings,
            on_http2,
            links: Mutex::default(),
            tombstoned: Mutex::default(),
            counts: listener::Counts::default(),
            pacer: Pacer::new(snapshot_rates),
            pieces: Arc::default(),
            refusals: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        spawn("peer-listen".to_owned(), move || listener::run(&listener, &accepting));
        Ok(Self { shared, listen_address, builder: Mutex::default() })
    }

    /// Makes a peer known, or tells where it is now.
    pub fn set_peer(&self, peer: NodeId, address: &str) {
        if peer != self.shared.local.node && !self.shared.is_tombstoned(peer) {
            self.shared.link_or_add(peer, address).set_address(address);
        }
    }

    /// Where every known peer is.
    pub fn peers(&self) -> Vec<(NodeId, String)> {
        let links = self.shared.links.lock();
        links.iter().map(|(peer, link)| (*peer, link.address())).collect()
    }

    /// Talks from now on only with nodes that understand this, and lets no others join.
    pub fn require(&self, level: Level) {
        if self.shared.least.raise(level) {
            for link in self.shared.links.lock().values() {
                link.check_level();
            }
        }
    }

    /// Takes no new connection of a node any more: it was removed from the cluster for good.
    pub fn refuse(&self, peer: NodeId) {
        self.shared.tombstoned.lock().insert(peer);
    }

    /// Ends all connections with a node that is refused.
    pub fn end(&self, peer: NodeId) {
        let link = self.shared.links.lock().remove(&peer);
        if let Some(link) = link {
            link.stop();
        }
    }

    /// Sends messages to a peer in order, if there is a session; never waits.
    pub fn send(&self, peer: NodeId, messages: impl Iterator<Item = Message>) {
        let link = self.shared.links.lock().get(&peer).cloned();
        if let Some(link) = link {
            link.send(messages, &mut self.builder.lock());
        }
    }

    /// Bytes that wait for each peer.
    pub fn queued(&self) -> Vec<(NodeId, usize)> {
        let links = self.shared.links.lock();
        links.iter().map(|(peer, link)| (*peer, link.queued())).collect()
    }

    /// What decides how fast snapshots flow.
    pub fn pacer(&self) -> &Arc<Pacer> {
        &self.shared.pacer
    }

    /// Opens a stream for one snapshot; waits for the peer.
    pub fn open_snapshot(&self, peer: NodeId) -> io::Result<SnapshotSender> {
        let link = self.shared.links.lock().get(&peer).cloned();
        let link = link.ok_or_else(|| io::Error::other(format!("node {peer} is not known")))?;
        let stream = PeerStream::dial(&link.address(), self.shared.tls.as_deref())?;
        let purpose = Purpose::Snapshot;
        let hello = Hello { to: Some(peer), purpose, ..self.shared.local.hello() };
        let agreed = hello::greet(&stream, &hello)?;
        if let Some(reason) = self.shared.least.objection(&peer.to_string(), agreed.level) {
            return Err(io::Error::other(reason));
        }
        SnapshotSender::new(stream, Arc::clone(&self.shared.pacer))
    }

    /// Ends all connections and stops to accept.
    pub fn stop(&self) {
        if self.shared.stopped.swap(true, Ordering::SeqCst) {
            return;
        }
        let links = std::mem::take(&mut *self.shared.links.lock());
        for link in links.values() {
            link.stop();
        }
        // Wakes the accepting thread; if this fails it is awake already.
        drop(TcpStream::connect(self.listen_address));
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn link_or_add(&self, peer: NodeId, address: &str) -> Arc<Link> {
        let mut links = self.links.lock();
        let link = links.entry(peer).or_insert_with(|| {
            let (local, events) = (Arc::clone(&self.local), Arc::clone(&self.events));
            let (tls, least) = (self.tls.clone(), Arc::clone(&self.least));
            Link::start(peer, address.to_owned(), local, (tls, least), events)
        });
        if self.is_stopped() {
            link.stop();
        }
        Arc::clone(link)
    }

    fn is_tombstoned(&self, peer: NodeId) -> bool {
        self.tombstoned.lock().contains(&peer)
    }

    /// True the first time.
    fn is_new_refusal(&self, refusal: String) -> bool {
        let mut refusals = self.refusals.lock();
        refusals.len() < REFUSALS_LOGGED_MAX && refusals.insert(refusal)
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

/// Starts a thread that is never joined: it ends with the connection that it serves.
fn spawn(name: String, work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .name(name)
        .spawn(work)
        .expect("the operating system can start a thread");
}

#[cfg(test)]
mod tests;
