//! Accepts connections of peers, hears who they are, and hands them on.
//!
//! Invariant: a stranger costs one short-lived thread at most, and their number is bounded.

use super::ask;
use super::hello::{self, Hello, Purpose};
use super::snapshot::SnapshotReceiver;
use super::stream::{Accepted, PeerStream};
use super::{Shared, spawn};
use holdfast_core::ids::NodeId;
use holdfast_core::level::Level;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tracing::{debug, warn};

/// Connections that may be in their handshake, asking, or sending snapshots at the same time.
const SIDE_CONNECTIONS_MAX: usize = 64;

/// Snapshots that may be received at the same time: each has a disk to write.
const SNAPSHOTS_MAX: usize = 8;

/// Wait after a failed accept, which means that the process has no file handles left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are not part of a session, by kind.
#[derive(Debug, Default)]
pub(super) struct Counts {
    side: AtomicUsize,
    snapshots: AtomicUsize,
}

/// Accepts until the transport is stopped.
pub(super) fn run(listener: &TcpListener, shared: &Arc<Shared>) {
    accept_until(listener, &|| shared.is_stopped(), |stream| {
        if shared.counts.side.fetch_add(1, Ordering::Relaxed) >= SIDE_CONNECTIONS_MAX {
            shared.counts.side.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let shared = Arc::clone(shared);
        spawn("peer-accept".to_owned(), move || {
            if let Err(error) = welcome(stream, &shared) {
                debug!("connection to the peer listener failed: {error}");
            }
        });
    });
}

/// Accepts until told that it is enough: looked at after each connection.
pub(super) fn accept_until(
    listener: &TcpListener,
    enough: &dyn Fn() -> bool,
    mut take: impl FnMut(TcpStream),
) {
    loop {
        let accepted = listener.accept();
        if enough() {
            return;
        }
        match accepted {
            Ok((stream, _from)) => take(stream),
            Err(error) => {
                warn!("cannot accept a peer connection: {error}");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn welcome(stream: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let side = Counted::new(shared, |counts| &counts.side);
    let from = stream.peer_addr()?.ip();
    match PeerStream::accept(stream, shared.tls.as_deref()) {
        Ok(Accepted::Peer(stream)) => handle(stream, side, shared),
        Ok(Accepted::Http2(stream, seen)) => {
            (shared.on_http2)(stream, seen);
            Ok(())
        }
        Err(error) => {
            // Ports are scanned; a certificate that is not trusted is worth a line.
            let told = error.kind() == io::ErrorKind::InvalidData;
            if told && shared.is_new_refusal(format!("{from} {error}")) {
                warn!(%from, "refused a peer connection: {error}");
            }
            Err(error)
        }
    }
}

fn handle(stream: PeerStream, side: Counted<'_>, shared: &Arc<Shared>) -> io::Result<()> {
    let hello = hello::hear(&stream)?;
    let local = &shared.local;
    if let Some(reason) = objection(&hello, shared) {
        if shared.is_new_refusal(format!("{} {reason}", hello.node)) {
            let address = &hello.address;
            warn!(from = %hello.node, address, "refused a peer connection: {reason}");
        }
        return hello::refuse(&stream, &reason);
    }
    if hello.purpose != Purpose::Ask && shared.is_tombstoned(hello.node) {
        if shared.is_new_refusal(format!("{} removed", hello.node)) {
            warn!(from = %hello.node, "refused a node that was removed from the cluster for good");
        }
        return hello::refuse_for_ever(&stream);
    }
    match hello.purpose {
        Purpose::Messages => {
            hello::accept(&stream, &hello, local.node, local.incarnation)?;
            drop(side);
            shared.link_or_add(hello.node, &hello.address).read(stream, &hello);
            Ok(())
        }
        Purpose::Snapshot => {
            let snapshots = Counted::entered(shared, |counts| &counts.snapshots);
            if snapshots.count() > SNAPSHOTS_MAX {
                return hello::refuse(&stream, "too many snapshots at the same time");
            }
            hello::accept(&stream, &hello, local.node, local.incarnation)?;
            let receiver =
                SnapshotReceiver::new(stream, Arc::clone(&shared.pacer), &shared.pieces)?;
            shared.events.snapshot(hello.node, receiver)
        }
        Purpose::Ask => {
            hello::accept(&stream, &hello, local.node, local.incarnation)?;
            ask::answer(&stream, &*shared.events)
        }
        Purpose::Form => {
            hello::accept(&stream, &hello, local.node, local.incarnation)?;
            ask::answer_founder(&stream, &*shared.standings)
        }
        Purpose::Report => {
            hello::accept(&stream, &hello, local.node, local.incarnation)?;
            ask::answer_report(&stream, &*shared.events)
        }
    }
}

fn objection(hello: &Hello, shared: &Shared) -> Option<String> {
    let local = &shared.local;
    if let Some(reason) = hello.objection(local.cluster, local.node) {
        return Some(reason);
    }
    // What other nodes say of themselves is nothing that an older one would stop at.
    if matches!(hello.purpose, Purpose::Form | Purpose::Report) {
        return None;
    }
    let who = match hello.node {
        NodeId(0) => "the node that asks".to_owned(),
        node => node.to_string(),
    };
    if let Some(reason) = shared.least.objection(&who, Level(hello.version)) {
        return Some(reason);
    }
    if hello.purpose == Purpose::Ask {
        return None;
    }
    if hello.node == NodeId(0) || hello.node == local.node {
        return Some(format!("node id {} cannot be the sender's", hello.node));
    }
    None
}

/// Counts a connection while it lives.
struct Counted<'a> {
    shared: &'a Shared,
    counter: fn(&Counts) -> &AtomicUsize,
}

impl<'a> Counted<'a> {
    /// One that was counted already.
    fn new(shared: &'a Shared, counter: fn(&Counts) -> &AtomicUsize) -> Self {
        Self { shared, counter }
    }

    /// One more.
    fn entered(shared: &'a Shared, counter: fn(&Counts) -> &AtomicUsize) -> Self {
        counter(&shared.counts).fetch_add(1, Ordering::Relaxed);
        Self { shared, counter }
    }

    fn count(&self) -> usize {
        (self.counter)(&self.shared.counts).load(Ordering::Relaxed)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        (self.counter)(&self.shared.counts).fetch_sub(1, Ordering::Relaxed);
    }
}
