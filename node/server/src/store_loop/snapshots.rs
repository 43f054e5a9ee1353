//! Raft snapshots: building and sending, receiving and installing, off the store loop.
//!
//! Invariants: what changes the state (build, install, destroy) is done in the order in which the
//! core asked for it, by one thread; streams run beside it, a few at a time. A failed write to the
//! state ends the process.

use super::mail::{Inbox, Mail, SnapshotSink};
use super::turns::Turns;
use crate::priority::background;
use crate::shutdown::{chain, fatal};
use crate::transport::{Part, SnapshotReceiver, Transport};
use crossbeam_channel::{Receiver, Sender, unbounded};
use holdfast_core::effects::{Input, SnapshotEffect};
use holdfast_core::group::snapshot_position;
use holdfast_core::ids::{NodeId, RangeId, ReplicaId};
use holdfast_core::message::Message;
use holdfast_storage::State;
use holdfast_storage::state::PinnedSnapshot;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Snapshots that are sent at the same time. The rate is shared, so more would only make each
/// slower.
const STREAMS: usize = 2;

/// A pinned state that nobody asked to stream is let go after this: it keeps disk space.
const PIN_MAX: Duration = Duration::from_mins(1);

/// What to do.
pub(super) type Job = SnapshotEffect;

/// Bytes of a range that were sent to a node, while that is about to get a copy. Whoever reads it
/// forgets what is over.
pub(super) type Sent = Arc<Mutex<BTreeMap<(RangeId, NodeId), u64>>>;

/// What it takes.
#[derive(Clone)]
pub(super) struct Tools {
    pub state: State,
    pub transport: Arc<Transport>,
    pub inbox: Inbox,
    pub sent: Sent,
}

/// A state that waits to be streamed.
struct Pinned {
    range: RangeId,
    to: ReplicaId,
    snapshot: PinnedSnapshot,
    since: Instant,
}

/// One snapshot to send.
struct Stream {
    range: RangeId,
    to: ReplicaId,
    node: NodeId,
    message: Message,
    pinned: Option<PinnedSnapshot>,
}

/// Starts the threads; they end when the sender is dropped.
pub(super) fn start(tools: &Tools) -> io::Result<Sender<Job>> {
    let (jobs_sender, jobs) = unbounded();
    let (streams_sender, streams) = unbounded();
    for number in 0..STREAMS {
        let (tools, streams) = (tools.clone(), streams.clone());
        std::thread::Builder::new().name(format!("stream-{number}")).spawn(move || {
            background();
            send_streams(&tools, &streams);
        })?;
    }
    let tools = tools.clone();
    std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || {
        background();
        run(&tools, &jobs, &streams_sender);
    })?;
    Ok(jobs_sender)
}

fn run(tools: &Tools, jobs: &Receiver<Job>, streams: &Sender<Stream>) {
    let mut pinned: Vec<Pinned> = Vec::new();
    for job in jobs {
        pinned.retain(|one| one.since.elapsed() < PIN_MAX);
        match job {
            SnapshotEffect::Build { range, to, span } => {
                let built = tools.state.pin(range, &span).unwrap_or_else(|error| {
                    fatal(&chain(&error));
                });
                let applied = built.as_ref().map(PinnedSnapshot::applied);
                if let Some(snapshot) = built {
                    pinned.push(Pinned { range, to, snapshot, since: Instant::now() });
                }
                tell(&tools.inbox, Input::SnapshotBuilt { range, to, applied });
            }
            SnapshotEffect::Stream { range, to, node, message } => {
                // More than one may have been built; the message says which is meant.
                let position = snapshot_position(&message);
                let mine = pinned.iter().position(|one| {
                    (one.range, one.to) == (range, to) && Some(one.snapshot.applied()) == position
                });
                let pinned = mine.map(|place| pinned.swap_remove(place).snapshot);
                let stream = Stream { range, to, node, message, pinned };
                streams.send(stream).expect("the streaming threads live as long as this one");
            }
            SnapshotEffect::Install { range, staged, applied, clear } => {
                let install = || tools.state.install(staged, range, applied, &clear);
                if let Err(error) = tools.transport.pacer().installing(install) {
                    fatal(&chain(&error));
                }
                info!(%range, index = applied.index, "raft snapshot installed");
                tell(&tools.inbox, Input::SnapshotInstalled { range });
            }
            SnapshotEffect::Discard { staged } => {
                if let Err(error) = tools.state.discard(staged) {
                    warn!(
                        "a raft snapshot of no use stays until the next start: {}",
                        chain(&error)
                    );
                }
            }
            SnapshotEffect::Destroy { range, clear } => {
                if let Err(error) = tools.state.wipe(range, &clear) {
                    fatal(&chain(&error));
                }
                info!(%range, "replica removed");
            }
        }
    }
}

fn send_streams(tools: &Tools, streams: &Receiver<Stream>) {
    for stream in streams {
        let (range, to, node) = (stream.range, stream.to, stream.node);
        let sent = send(tools, stream);
        match &sent {
            Ok(()) => info!(%range, %node, "raft snapshot sent"),
            Err(error) => warn!(%range, %node, "raft snapshot not sent: {error}"),
        }
        tell(&tools.inbox, Input::SnapshotSent { range, to, ok: sent.is_ok() });
    }
}

fn send(tools: &Tools, stream: Stream) -> io::Result<()> {
    let pinned = stream.pinned.ok_or_else(|| io::Error::other("its state was let go"))?;
    let mut sender = tools.transport.open_snapshot(stream.node)?;
    let (mut chunks, mut bytes) = (pinned.chunks(), 0);
    while let Some(length) = sender.send(|chunk| chunks.fill(chunk))? {
        bytes += length as u64;
        tools.sent.lock().insert((stream.range, stream.node), bytes);
    }
    sender.finish(&stream.message)
}

/// What takes raft snapshots that arrive.
pub fn receive(state: &State, inbox: &Inbox) -> Box<SnapshotSink> {
    let (state, inbox) = (state.clone(), Arc::clone(inbox));
    let last_staged = AtomicU64::new(0);
    let turns = Arc::new(Turns::default());
    // Each has a place of its own, so they come in side by side: a sender that had to wait for
    // another's end would take this node for dead.
    Box::new(move |from, mut receiver: SnapshotReceiver| {
        background();
        let staged = last_staged.fetch_add(1, Ordering::Relaxed) + 1;
        let (mut staging, turn) = (state.stage(staged), turns.enter());
        let message = loop {
            turn.wait(|longest| state.await_staging_room(longest));
            match receiver.receive()? {
                Part::Data(piece) => staging.push(&piece).map_err(io::Error::other)?,
                Part::End(message) => break *message,
            }
        };
        drop(turn);
        let (_, position) = staging.finish().map_err(io::Error::other)?;
        if snapshot_position(&message) != Some(position) {
            state.discard(staged).map_err(io::Error::other)?;
            return Err(io::Error::other("the message is about another position than the data"));
        }
        tell(&inbox, Input::SnapshotStaged { from, message, staged });
        receiver.acknowledge()
    })
}

fn tell(inbox: &Inbox, input: Input) {
    inbox.post(Mail::Input(Box::new(input)));
}
