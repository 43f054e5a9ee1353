//! The boundary between the gateway and the store loop: calls in, answers and watch news out.
//!
//! The gateway runs on tokio threads, the store loop on its own thread. Between them is one
//! function that hands a [`BackendCall`] over without blocking (the edge decides which channel that
//! is), one oneshot per request for the answer, and one bounded buffer per watch stream.
//!
//! Invariants:
//! - Every [`BackendCall::Request`] is answered once, by its deadline, unless it was abandoned.
//!   Should the loop hang, the gateway gives up [`LOOP_GRACE`] later by itself.
//! - A dropped [`Backend::call`] future sends [`BackendCall::Abandon`]; a dropped [`Watches`] sends
//!   [`BackendCall::CancelWatch`] for each of its watches.
//! - [`WatchSink::push`] never blocks and never holds more than [`WATCH_BUFFER_BYTES_MAX`].

mod view;
mod watches;

pub use view::{Details, RangeView, View, Vitals};
pub use watches::{TooSlow, WATCH_BUFFER_BYTES_MAX, WatchSink, Watches};

use holdfast_core::effects::{ClientToken, WatchToken};
use holdfast_core::error::Error;
use holdfast_core::ids::Revision;
use holdfast_core::key::Span;
use holdfast_core::request::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Requests of this gateway that may wait for an answer at the same time. More are refused with
/// "too many requests": each holds its keys and values in memory, and an answer that comes after
/// the deadline helps nobody.
pub const IN_FLIGHT_MAX: usize = 50_000;

/// How long after a request's deadline the gateway stops waiting for the store loop, which answers
/// by the deadline unless it hangs.
pub const LOOP_GRACE: Duration = Duration::from_millis(500);

/// What the gateway asks of the store loop's edge.
#[derive(Debug)]
pub enum BackendCall {
    /// Step [`holdfast_core::effects::Input::Request`]; later send the core's reply.
    Request {
        /// Names the request; unique in the life of the process.
        token: ClientToken,
        /// When the client gives up.
        deadline: Instant,
        /// What it asks.
        request: Request,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Response, Error>>,
    },
    /// The client went away: drop its `reply` and step [`holdfast_core::effects::Input::Abandon`].
    Abandon {
        /// The request.
        token: ClientToken,
    },
    /// Step [`holdfast_core::effects::Input::WatchCreate`], and push each effect of this token into
    /// `sink`. If the sink refuses one, forget it and step a `WatchCancel`.
    Watch {
        /// Names the watch; unique in the life of the process.
        token: WatchToken,
        /// Its keys.
        span: Span,
        /// First revision wanted; 0 is "what comes from now on".
        start: Revision,
        /// With the previous value of each change.
        prev_kv: bool,
        /// Where its news goes.
        sink: WatchSink,
    },
    /// Forget the sink and step [`holdfast_core::effects::Input::WatchCancel`].
    CancelWatch {
        /// The watch.
        token: WatchToken,
    },
    /// Fingerprint of the key-value state of this node, computed off the loop's thread.
    Hash {
        /// At this revision; 0 is the newest that this node has in full.
        revision: Revision,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<KvHash, Error>>,
    },
    /// Answer at once, from the loop's own thread: shows that the loop is alive.
    Ping {
        /// Where the answer goes.
        reply: oneshot::Sender<()>,
    },
}

/// Fingerprint of the state at a revision (etcd `HashKV`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvHash {
    /// Equal on nodes whose data is equal for the same two revisions below.
    pub hash: u32,
    /// The revision it was computed at.
    pub revision: Revision,
    /// History below this was gone.
    pub compact_revision: Revision,
}

/// The store, as the gateway's services see it. Clones share everything.
#[derive(Clone)]
pub struct Backend {
    inner: Arc<Inner>,
}

struct Inner {
    hand_over: Box<dyn Fn(BackendCall) -> bool + Send + Sync>,
    next_token: AtomicU64,
    in_flight: AtomicUsize,
    vitals: Arc<Vitals>,
}

impl Backend {
    /// A backend that hands its calls to `hand_over`, which must not block, and returns false once
    /// nobody drains them any more. The edge keeps the other end of `vitals` up to date.
    pub fn new(
        vitals: Arc<Vitals>,
        hand_over: impl Fn(BackendCall) -> bool + Send + Sync + 'static,
    ) -> Self {
        let inner = Inner {
            hand_over: Box::new(hand_over),
            next_token: AtomicU64::new(1),
            in_flight: AtomicUsize::new(0),
            vitals,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What this node knows that changes with every write; reading it takes no lock.
    pub fn vitals(&self) -> &Vitals {
        &self.inner.vitals
    }

    /// What this node knows about nodes, ranges and alarms, as last published.
    pub fn view(&self) -> Arc<View> {
        self.inner.vitals.view()
    }

    /// Asks the store and waits for the answer.
    ///
    /// # Errors
    /// Those of the core; `TooManyRequests` above [`IN_FLIGHT_MAX`], `Stopped` when the store loop
    /// is gone, `TimedOut` if it does not answer in time.
    pub async fn call(&self, request: Request, timeout: Duration) -> Result<Response, Error> {
        let token = self.next_token();
        let deadline = Instant::now() + timeout;
        let (reply, answer) = oneshot::channel();
        let mut waiting = Waiting::enter(self, token)?;
        if !self.hand_over(BackendCall::Request { token, deadline, request, reply }) {
            return Err(Error::Stopped);
        }
        waiting.handed_over = true;
        let answer = tokio::time::timeout_at((deadline + LOOP_GRACE).into(), answer).await;
        match answer {
            Ok(outcome) => {
                waiting.handed_over = false;
                outcome.unwrap_or(Err(Error::Stopped))
            }
            Err(_elapsed) => Err(Error::TimedOut),
        }
    }

    /// The state's fingerprint at `revision` (0: now).
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` if it cannot be computed there, `Stopped`, `TimedOut`.
    pub async fn hash(&self, revision: Revision, timeout: Duration) -> Result<KvHash, Error> {
        let (reply, answer) = oneshot::channel();
        if !self.hand_over(BackendCall::Hash { revision, reply }) {
            return Err(Error::Stopped);
        }
        match tokio::time::timeout(timeout, answer).await {
            Ok(outcome) => outcome.unwrap_or(Err(Error::Stopped)),
            Err(_elapsed) => Err(Error::TimedOut),
        }
    }

    /// True if the store loop answers within `timeout`.
    pub async fn is_alive(&self, timeout: Duration) -> bool {
        let (reply, answer) = oneshot::channel();
        self.hand_over(BackendCall::Ping { reply })
            && matches!(tokio::time::timeout(timeout, answer).await, Ok(Ok(())))
    }

    /// The watches of one client stream, none yet.
    pub fn watches(&self) -> Watches {
        Watches::new(self.clone())
    }

    fn next_token(&self) -> u64 {
        self.inner.next_token.fetch_add(1, Ordering::Relaxed)
    }

    fn hand_over(&self, call: BackendCall) -> bool {
        (self.inner.hand_over)(call)
    }
}

/// Counts a request as waiting while it lives; if it is dropped between hand-over and answer, the
/// store loop hears of it.
struct Waiting<'a> {
    backend: &'a Backend,
    token: ClientToken,
    handed_over: bool,
}

impl<'a> Waiting<'a> {
    fn enter(backend: &'a Backend, token: ClientToken) -> Result<Self, Error> {
        if backend.inner.in_flight.fetch_add(1, Ordering::Relaxed) >= IN_FLIGHT_MAX {
            backend.inner.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::TooManyRequests);
        }
        Ok(Self { backend, token, handed_over: false })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.backend.inner.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.handed_over {
            // If the loop is gone, nobody needs to hear of it.
            self.backend.hand_over(BackendCall::Abandon { token: self.token });
        }
    }
}
