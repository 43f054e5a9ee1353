//! The pair of connections to one peer: each side sends on the one it dialled.
//!
//! ```text
//!            dial ok                        peer's dial accepted
//!   (none) ----------> out only   (none) ------------------------> in only
//!        \____________ out and in: a *session* ____________________/
//! ```
//!
//! Invariants: a session is up while both connections stand; whichever breaks takes the other with
//! it, so that both sides see the end and the streams inside start anew together. Messages are sent
//! and delivered only within a session, in order. The queue is bounded: above the first bound what
//! Raft repeats by itself is dropped, above the second the session ends. No session is with a peer that would
//! not understand what is said in the cluster.

use super::frame::{FRAME_BYTES_MAX, FrameBuilder, FrameReader, decode_messages};
use super::hello::{self, Agreed, Hello};
use super::least::Least;
use super::stream::{PeerStream, PeerTls, Wrote};
use super::{Local, PeerEvents};
use holdfast_core::error::Error;
use holdfast_core::ids::NodeId;
use holdfast_core::level::Level;
use holdfast_core::message::{Message, Outcome};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// Queued bytes above which raft messages and hints are dropped: Raft sends them again.
const QUEUE_BYTES_SHED: usize = 32 << 20;

/// Queued bytes above which the session ends: what is lost must be noticed.
const QUEUE_BYTES_MAX: usize = 128 << 20;

/// A frame that reached this size is sent, and the next one begun.
const FRAME_BYTES_SOFT: usize = 1 << 20;

/// Wait after the first failed dial; doubles up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Wait after one of the two said that it does not want to hear of the other.
const BACKOFF_REFUSED: Duration = Duration::from_secs(5);

/// After so many sessions in a row that broke within [`SHORT_SESSION`] something is wrong that
/// connecting again at once does not heal.
const SHORT_SESSIONS_MAX: u32 = 3;
const SHORT_SESSION: Duration = Duration::from_millis(100);

/// A peer that says nothing for so long, not even a heartbeat, is as good as unconnected.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long an accepted connection may wait until the one in the other direction stands.
const PAIRING_MAX: Duration = Duration::from_secs(10);

/// Everything about the connections to one peer.
pub(super) struct Link {
    peer: NodeId,
    local: Arc<Local>,
    tls: PeerTls,
    least: Arc<Least>,
    events: Arc<dyn PeerEvents>,
    state: Mutex<State>,
    changed: Condvar,
    /// `state.queued`, readable without the lock.
    queued: AtomicUsize,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
struct State {
    address: String,
    out: Option<Outgoing>,
    incoming: Option<Incoming>,
    /// Number of the present session, or of the last one.
    session: u64,
    up: bool,
    /// Frames to send; the first `sent` bytes of the first are gone already.
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    sent: usize,
    /// The link's thread is writing, so nobody else may.
    writing: bool,
    /// Dial without waiting.
    dial_now: bool,
    /// A session was lost and "refused" has not been told since.
    tell_refused: bool,
    last_incoming: u64,
    /// When the present session began.
    up_since: Option<Instant>,
    /// Sessions in a row that broke at once.
    short_sessions: u32,
    stopped: bool,
}

struct Outgoing {
    stream: Arc<PeerStream>,
    incarnation: u64,
    level: Level,
}

struct Incoming {
    number: u64,
    stream: Arc<PeerStream>,
    incarnation: u64,
}

/// What the link's thread does next.
enum Job {
    Dial(String),
    Write(Arc<PeerStream>, Vec<u8>, usize),
    Stop,
}

impl Link {
    /// A link to `peer` at `address`; its thread dials until [`Link::stop`].
    pub(super) fn start(
        peer: NodeId,
        address: String,
        local: Arc<Local>,
        (tls, least): (PeerTls, Arc<Least>),
        events: Arc<dyn PeerEvents>,
    ) -> Arc<Self> {
        let state = State { address, ..State::default() };
        let link = Arc::new(Self {
            peer,
            local,
            tls,
            least,
            events,
            state: Mutex::new(state),
            changed: Condvar::new(),
            queued: AtomicUsize::new(0),
        });
        let running = Arc::clone(&link);
        super::spawn(format!("peer-{}", peer.0), move || running.run());
        link
    }

    /// Where the peer is now.
    pub(super) fn set_address(&self, address: &str) {
        let mut state = self.state.lock();
        if state.address != address {
            address.clone_into(&mut state.address);
            state.dial_now = true;
            self.changed.notify_all();
        }
    }

    /// Where the peer is.
    pub(super) fn address(&self) -> String {
        self.state.lock().address.clone()
    }

    /// Ends the link for good.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        self.end_session(&mut state);
    }

    /// More is asked of peers: ends a session with one that does not have it.
    pub(super) fn check_level(&self) {
        let mut state = self.state.lock();
        let Some(level) = state.out.as_ref().map(|out| out.level) else { return };
        if let Some(reason) = self.least.objection(&self.peer.to_string(), level) {
            warn!(peer = %self.peer, "disconnecting from peer: {reason}");
            self.end_session(&mut state);
        }
    }

    /// Bytes that wait for the peer.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Sends messages in order, if a session is up; never waits.
    pub(super) fn send(&self, messages: impl Iterator<Item = Message>, builder: &mut FrameBuilder) {
        if !self.state.lock().up {
            return;
        }
        let shed = self.queued() > QUEUE_BYTES_SHED;
        for message in messages {
            if shed && is_repeated(&message) {
                continue;
            }
            if !builder.push(&message) {
                self.oversized(message, builder);
            }
            if builder.len() >= FRAME_BYTES_SOFT {
                self.send_frame(builder);
            }
        }
        self.send_frame(builder);
    }

    /// A message larger than a frame: an answer becomes an error, anything else cannot be.
    fn oversized(&self, message: Message, builder: &mut FrameBuilder) {
        if let Message::Reply { token, .. } = message {
            let outcome = Outcome::Done(Err(Error::TooLarge));
            self.send_frame(builder);
            assert!(builder.push(&Message::Reply { token, outcome }), "a small message fits");
        } else {
            warn!(peer = %self.peer, "a message above {FRAME_BYTES_MAX} bytes was dropped");
        }
    }

    fn send_frame(&self, builder: &mut FrameBuilder) {
        let Some(frame) = builder.finish() else { return };
        let mut state = self.state.lock();
        if !state.up {
            return;
        }
        if state.queue.is_empty() && !state.writing {
            let out = state.out.as_ref().expect("a session has both connections");
            match out.stream.write_now(&frame) {
                Ok(Wrote::All) => return builder.recycle(frame),
                Ok(Wrote::Part(written)) => state.sent = written,
                Err(error) => return self.broke(&mut state, &error),
            }
        }
        state.queued += frame.len();
        state.queue.push_back(frame);
        self.queued.store(state.queued, Ordering::Relaxed);
        if state.queued > QUEUE_BYTES_MAX {
            warn!(peer = %self.peer, queued = state.queued, "peer does not keep up: disconnecting");
            self.end_session(&mut state);
        } else {
            self.changed.notify_all();
        }
    }

    /// The link's thread: dials, and writes what could not be written at once.
    fn run(&self) {
        let mut backoff = BACKOFF_MIN;
        let mut last_error = String::new();
        loop {
            match self.next_job(&mut backoff) {
                Job::Stop => return,
                Job::Write(stream, frame, sent) => self.write(&stream, &frame, sent),
                Job::Dial(address) => match self.dial(&address) {
                    Ok(()) => last_error.clear(),
                    Err(error) => {
                        let text = error.to_string();
                        if hello::is_removed(&error) {
                            self.events.removed();
                        }
                        if error.kind() == io::ErrorKind::PermissionDenied && text != last_error {
                            warn!(peer = %self.peer, address, "peer refuses this node: {text}");
                        } else if error.kind() == io::ErrorKind::Unsupported && text != last_error {
                            warn!(peer = %self.peer, address, "this node refuses peer: {text}");
                        } else if error.kind() == io::ErrorKind::InvalidData && text != last_error {
                            // Not the protocol, or not a certificate, that either side wants.
                            warn!(peer = %self.peer, address, "cannot talk to peer: {text}");
                        } else {
                            debug!(peer = %self.peer, address, "cannot connect: {text}");
                        }
                        last_error = text;
                        if is_refusal(error.kind()) {
                            backoff = BACKOFF_REFUSED;
                        }
                        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
                        self.wait_to_dial(refused, &mut backoff);
                    }
                },
            }
        }
    }

    fn next_job(&self, backoff: &mut Duration) -> Job {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return Job::Stop;
            }
            let Some(out) = &state.out else {
                if state.short_sessions >= SHORT_SESSIONS_MAX {
                    state.short_sessions = 0;
                    let until = Instant::now() + BACKOFF_MAX;
                    while !state.stopped && !self.changed.wait_until(&mut state, until).timed_out()
                    {
                    }
                    continue;
                }
                state.dial_now = false;
                return Job::Dial(state.address.clone());
            };
            if state.up {
                *backoff = BACKOFF_MIN;
            }
            let stream = Arc::clone(&out.stream);
            if let Some(frame) = state.queue.pop_front() {
                state.writing = true;
                return Job::Write(stream, frame, std::mem::take(&mut state.sent));
            }
            self.changed.wait(&mut state);
        }
    }

    fn write(&self, stream: &Arc<PeerStream>, frame: &[u8], sent: usize) {
        let mut socket = &**stream;
        let written = socket.write_all(&frame[sent..]).and_then(|()| socket.flush());
        let mut state = self.state.lock();
        state.writing = false;
        let current = state.out.as_ref().is_some_and(|out| Arc::ptr_eq(&out.stream, stream));
        if !current {
            return;
        }
        match written {
            Ok(()) => {
                state.queued -= frame.len();
                self.queued.store(state.queued, Ordering::Relaxed);
            }
            Err(error) => self.broke(&mut state, &error),
        }
    }

    fn dial(&self, address: &str) -> io::Result<()> {
        let stream = PeerStream::dial(address, self.tls.as_deref())?;
        let hello = Hello { to: Some(self.peer), ..self.local.hello() };
        let agreed = hello::greet(&stream, &hello)?;
        let mut state = self.state.lock();
        if state.stopped {
            return Ok(());
        }
        let Agreed { incarnation, level, .. } = agreed;
        if let Some(reason) = self.least.objection(&self.peer.to_string(), level) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        state.out = Some(Outgoing { stream: Arc::new(stream), incarnation, level });
        self.pair_up(&mut state);
        Ok(())
    }

    /// After a failed dial: tells of a refusal, then waits.
    fn wait_to_dial(&self, refused: bool, backoff: &mut Duration) {
        let mut state = self.state.lock();
        if refused && std::mem::take(&mut state.tell_refused) {
            self.events.lost(self.peer, true);
        }
        let until = Instant::now() + *backoff;
        *backoff = (*backoff * 2).min(BACKOFF_MAX);
        while !state.dial_now && !state.stopped {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Takes over a connection that the peer dialled, and reads it until it ends.
    pub(super) fn read(&self, stream: PeerStream, hello: &Hello) {
        let stream = Arc::new(stream);
        let number = self.install(&stream, hello);
        if let Some(session) = self.wait_for_session(number) {
            let error = self.read_messages(&stream, session);
            debug!(peer = %self.peer, "connection from peer ended: {error}");
        }
        stream.close();
        let mut state = self.state.lock();
        if state.incoming.as_ref().is_some_and(|incoming| incoming.number == number) {
            self.end_session(&mut state);
        }
    }

    fn install(&self, stream: &Arc<PeerStream>, hello: &Hello) -> u64 {
        let mut state = self.state.lock();
        if state.incoming.is_some() {
            self.end_session(&mut state);
        }
        if state.stopped {
            stream.close();
        }
        state.last_incoming += 1;
        let number = state.last_incoming;
        let incarnation = hello.incarnation;
        state.incoming = Some(Incoming { number, stream: Arc::clone(stream), incarnation });
        if !hello.address.is_empty() {
            hello.address.clone_into(&mut state.address);
        }
        state.dial_now = true;
        self.pair_up(&mut state);
        self.changed.notify_all();
        number
    }

    fn wait_for_session(&self, number: u64) -> Option<u64> {
        let until = Instant::now() + PAIRING_MAX;
        let mut state = self.state.lock();
        loop {
            let mine = state.incoming.as_ref().is_some_and(|incoming| incoming.number == number);
            if !mine || state.stopped {
                return None;
            }
            if state.up {
                return Some(state.session);
            }
            if self.changed.wait_until(&mut state, until).timed_out() {
                return None;
            }
        }
    }

    fn read_messages(&self, stream: &PeerStream, session: u64) -> io::Error {
        let mut reader = FrameReader::default();
        let mut source = stream;
        let mut read = || -> io::Result<()> {
            stream.set_read_timeout(SILENCE_MAX)?;
            loop {
                let mut batch = Vec::new();
                let payload = reader.read(&mut source)?;
                let mut bytes = payload.len();
                decode_messages(payload, &mut batch)?;
                while let Some(payload) = reader.read_buffered()? {
                    bytes += payload.len();
                    decode_messages(payload, &mut batch)?;
                }
                if !self.events.messages(self.peer, session, batch, bytes) {
                    return Err(io::Error::other("this node is stopping"));
                }
            }
        };
        read().expect_err("reading only ends with an error")
    }

    /// Starts a session if both connections stand and lead to the same process.
    fn pair_up(&self, state: &mut MutexGuard<'_, State>) {
        let (Some(out), Some(incoming)) = (&state.out, &state.incoming) else { return };
        if out.incarnation != incoming.incarnation {
            // One of the two leads to a process that is gone. The dialled one can be replaced.
            out.stream.close();
            state.out = None;
            state.dial_now = true;
            self.changed.notify_all();
            return;
        }
        let level = out.level;
        state.session += 1;
        state.up_since = Some(Instant::now());
        state.up = true;
        state.tell_refused = false;
        info!(peer = %self.peer, address = state.address, "peer connected");
        self.events.connected(self.peer, state.session, level);
        self.changed.notify_all();
    }

    fn broke(&self, state: &mut MutexGuard<'_, State>, error: &io::Error) {
        debug!(peer = %self.peer, "connection to peer broke: {error}");
        self.end_session(state);
    }

    /// Closes both connections, forgets what was queued, and has the link dial at once.
    fn end_session(&self, state: &mut MutexGuard<'_, State>) {
        if let Some(out) = state.out.take() {
            out.stream.close();
        }
        if let Some(incoming) = state.incoming.take() {
            incoming.stream.close();
        }
        state.queue.clear();
        state.queued = 0;
        state.sent = 0;
        self.queued.store(0, Ordering::Relaxed);
        state.dial_now = true;
        if std::mem::take(&mut state.up) {
            let short = state.up_since.is_some_and(|since| since.elapsed() < SHORT_SESSION);
            state.short_sessions = if short { state.short_sessions + 1 } else { 0 };
            info!(peer = %self.peer, "peer disconnected");
            state.tell_refused = true;
            self.events.lost(self.peer, false);
        }
        self.changed.notify_all();
    }
}

/// Does either side not want to talk to the other?
fn is_refusal(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
}

/// True for messages that may get lost at any time: their sender repeats them by itself.
fn is_repeated(message: &Message) -> bool {
    matches!(
        message,
        Message::Raft { .. }
            | Message::Heartbeat { .. }
            | Message::SequencerHint { .. }
            | Message::Loads(_)
    )
}
