//! The watches of one client stream, and the bounded buffer between them and the store loop.
//!
//! Invariant: the store loop never waits for a client. A stream whose buffer is full is over: the
//! client gets an error and resumes from the last revision it saw.

use super::{Backend, BackendCall};
use holdfast_core::effects::{Event, WatchEffect, WatchToken};
use holdfast_core::ids::Revision;
use holdfast_core::key::Span;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Bytes of undelivered news that one client stream may leave in a node's memory. Enough for a
/// burst of a thousand changes of the largest common objects; a thousand stuck clients are a
/// configuration error that keepalive ends.
pub const WATCH_BUFFER_BYTES_MAX: usize = 16 << 20;

/// What one effect costs beside its keys and values.
const EFFECT_OVERHEAD: usize = 64;

/// The store loop's end of the buffer of one client stream. Clones share it.
#[derive(Clone, Debug)]
pub struct WatchSink {
    news: mpsc::UnboundedSender<WatchEffect>,
    fill: Arc<Fill>,
}

#[derive(Debug, Default)]
struct Fill {
    bytes: AtomicUsize,
    overflowed: AtomicBool,
}

impl WatchSink {
    /// Hands one effect to the client's stream, without blocking. False if the stream is gone or
    /// was too slow: the watch is over.
    #[must_use]
    pub fn push(&self, effect: WatchEffect) -> bool {
        if self.fill.overflowed.load(Ordering::Relaxed) {
            return false;
        }
        let size = effect_size(&effect);
        let before = self.fill.bytes.fetch_add(size, Ordering::Relaxed);
        // One effect larger than the whole bound must pass an empty buffer.
        if before > 0 && before + size > WATCH_BUFFER_BYTES_MAX {
            self.fill.overflowed.store(true, Ordering::Relaxed);
            return false;
        }
        self.news.send(effect).is_ok()
    }
}

/// The watches of one client stream. Dropping it cancels them.
pub struct Watches {
    backend: Backend,
    sink: WatchSink,
    news: mpsc::UnboundedReceiver<WatchEffect>,
    live: BTreeSet<WatchToken>,
}

/// The client read too slowly; its stream must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSlow;

impl Watches {
    pub(super) fn new(backend: Backend) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        let sink = WatchSink { news: sender, fill: Arc::default() };
        Self { backend, sink, news, live: BTreeSet::new() }
    }

    /// Starts a watch and names it. If the store loop is gone nothing will ever come.
    pub fn create(&mut self, span: Span, start: Revision, prev_kv: bool) -> WatchToken {
        let token = self.backend.next_token();
        let sink = self.sink.clone();
        self.live.insert(token);
        self.backend.hand_over(BackendCall::Watch { token, span, start, prev_kv, sink });
        token
    }

    /// Ends a watch. News that is under way may still come out of [`Watches::poll_news`].
    pub fn cancel(&mut self, token: WatchToken) {
        if self.live.remove(&token) {
            self.backend.hand_over(BackendCall::CancelWatch { token });
        }
    }

    /// Notes that the store ended a watch by itself.
    pub fn ended(&mut self, token: WatchToken) {
        self.live.remove(&token);
    }

    /// The next news of any of the watches.
    ///
    /// # Errors
    /// [`TooSlow`] once the buffer was full.
    pub fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<Result<WatchEffect, TooSlow>> {
        if self.sink.fill.overflowed.load(Ordering::Relaxed) {
            return Poll::Ready(Err(TooSlow));
        }
        let effect = std::task::ready!(self.news.poll_recv(context))
            .expect("self holds a sender, so the channel is open");
        self.sink.fill.bytes.fetch_sub(effect_size(&effect), Ordering::Relaxed);
        Poll::Ready(Ok(effect))
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        for &token in &self.live {
            self.backend.hand_over(BackendCall::CancelWatch { token });
        }
    }
}

/// Bytes that an event takes in memory, about.
pub(crate) fn event_size(event: &Event) -> usize {
    let kv =
        |kv: &holdfast_core::request::KeyValue| kv.key.len() + kv.value.len() + EFFECT_OVERHEAD;
    kv(&event.kv) + event.prev_kv.as_ref().map_or(0, kv)
}

fn effect_size(effect: &WatchEffect) -> usize {
    match effect {
        WatchEffect::Created { .. } | WatchEffect::Compacted { .. } => EFFECT_OVERHEAD,
        WatchEffect::Events { events, .. } => {
            EFFECT_OVERHEAD + events.iter().map(event_size).sum::<usize>()
        }
    }
}
