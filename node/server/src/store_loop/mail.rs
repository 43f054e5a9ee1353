//! What a store loop is told, and how the transport tells it.

use crate::gateway::backend::BackendCall;
use crate::mailbox::Mailbox;
use crate::transport::{PeerEvents, SnapshotReceiver};
use holdfast_core::effects::Input;
use holdfast_core::ids::NodeId;
use holdfast_core::level::Level;
use holdfast_core::message::{InternalReply, Message, MetaRequest};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// How long an asker waits for its answer before it asks another node.
const ASK_PATIENCE: Duration = Duration::from_secs(8);

/// One piece of mail for a store loop.
#[derive(Debug)]
pub enum Mail {
    /// From the gateway.
    Client(BackendCall),
    /// Messages of a peer, in order.
    Peer {
        /// The sender.
        from: NodeId,
        /// The session they came in.
        session: u64,
        /// They.
        batch: Vec<Message>,
    },
    /// A session with a peer began.
    Connected {
        /// The peer.
        peer: NodeId,
        /// The session's number.
        session: u64,
        /// What the peer and this node understand.
        level: Level,
    },
    /// A session with a peer ended.
    Lost {
        /// The peer.
        peer: NodeId,
        /// Nothing listens there.
        refused: bool,
    },
    /// Something that the core is told as it is.
    Input(Box<Input>),
    /// A message that a helper thread made for a peer.
    Send {
        /// The peer.
        to: NodeId,
        /// What to say.
        message: Box<Message>,
    },
    /// A node asks the meta range from outside.
    Asked {
        /// What.
        request: MetaRequest,
        /// Where the answer goes.
        reply: SyncSender<Result<InternalReply, String>>,
    },
    /// The log is durable up to this write.
    Persisted {
        /// Its number.
        sequence: u64,
    },
    /// Another node says that this one was removed from the cluster for good.
    Removed,
    /// End the loop.
    Stop,
}

/// A store loop's mailbox.
pub type Inbox = Arc<Mailbox<Mail>>;

/// Receives one raft snapshot: stages it and tells the loop.
pub type SnapshotSink = dyn Fn(NodeId, SnapshotReceiver) -> io::Result<()> + Send + Sync;

/// Tells what this node knows.
pub type Report = dyn Fn() -> Vec<u8> + Send + Sync;

/// Puts what the transport tells into a mailbox.
pub struct PeerMail {
    inbox: Inbox,
    snapshots: Box<SnapshotSink>,
    report: Box<Report>,
}

impl PeerMail {
    /// Into `inbox`; snapshots go to `snapshots`, and whoever asks gets what `report` tells.
    pub fn new(inbox: Inbox, snapshots: Box<SnapshotSink>, report: Box<Report>) -> Self {
        Self { inbox, snapshots, report }
    }
}

impl PeerEvents for PeerMail {
    fn connected(&self, peer: NodeId, session: u64, level: Level) {
        self.inbox.post(Mail::Connected { peer, session, level });
    }

    fn lost(&self, peer: NodeId, refused: bool) {
        self.inbox.post(Mail::Lost { peer, refused });
    }

    fn removed(&self) {
        self.inbox.post(Mail::Removed);
    }

    fn messages(&self, from: NodeId, session: u64, batch: Vec<Message>, bytes: usize) -> bool {
        self.inbox.post_when_room(Mail::Peer { from, session, batch }, bytes)
    }

    fn snapshot(&self, from: NodeId, receiver: SnapshotReceiver) -> io::Result<()> {
        (self.snapshots)(from, receiver)
    }

    fn asked(&self, request: MetaRequest) -> Result<InternalReply, String> {
        ask(&self.inbox, request)
    }

    fn report(&self) -> Vec<u8> {
        (self.report)()
    }
}

/// Asks the meta range through this node, which must lead it; waits.
///
/// # Errors
/// This node does not lead the meta range, or did not answer in time.
pub fn ask(inbox: &Inbox, request: MetaRequest) -> Result<InternalReply, String> {
    let (reply, answer) = sync_channel(1);
    if !inbox.post(Mail::Asked { request, reply }) {
        return Err("this node is stopping".to_owned());
    }
    answer
        .recv_timeout(ASK_PATIENCE)
        .unwrap_or_else(|_| Err("the cluster did not answer in time".to_owned()))
}
