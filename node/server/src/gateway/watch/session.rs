//! The state of one watch stream: requests and news in, responses out.
//!
//! Invariants:
//! - A watch's first response is `created`, its last `canceled`; nothing else comes outside them.
//! - Progress at R is told only when every event at or below R has been told on this stream, by
//!   every watch concerned; it never goes back, and never comes before a watch's start revision.

use super::fragment;
use crate::gateway::backend::{TooSlow, Watches};
use crate::gateway::{Gateway, error};
use bytes::Bytes;
use holdfast_core::effects::{Event, WatchEffect, WatchToken};
use holdfast_core::ids::Revision;
use holdfast_core::key::Span;
use holdfast_proto::etcdserverpb as pb;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;
use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll};
use tonic::Status;

/// The id in a response that belongs to no watch or to all.
const NO_WATCH: i64 = -1;

/// One stream's watches.
pub(super) struct Session {
    gateway: Gateway,
    watches: Watches,
    by_id: BTreeMap<i64, WatchToken>,
    by_token: BTreeMap<WatchToken, Watcher>,
    next_id: i64,
    out: VecDeque<pb::WatchResponse>,
    progress: ProgressRequests,
}

/// One watch.
struct Watcher {
    id: i64,
    /// First revision wanted; 0 is "from now on".
    start: Revision,
    /// Every event at or below this has been sent.
    through: Revision,
    /// The current revision when it was created; `None` before that.
    created_at: Option<Revision>,
    /// The client wants to hear of progress now and then.
    progress_notify: bool,
    /// No event was sent since the last progress tick.
    quiet: bool,
    fragment: bool,
    wanted: Wanted,
}

/// The kinds of event that a client did not filter out.
struct Wanted {
    puts: bool,
    deletes: bool,
}

impl Watcher {
    /// It stands, has seen all that was there when it was created, and has reached its start.
    fn is_synced(&self) -> bool {
        self.created_at.is_some_and(|created| self.through >= created) && self.through >= self.start
    }

    fn wants(&self, event: &Event) -> bool {
        if event.put { self.wanted.puts } else { self.wanted.deletes }
    }
}

/// Progress that the client asked for and has not been told yet.
#[derive(Default)]
struct ProgressRequests {
    /// The revision that the oldest open question needs.
    oldest: Option<Revision>,
    /// The revision that the newest needs, if there are several.
    newest: Option<Revision>,
    /// What was told last.
    told: Revision,
}

impl Session {
    pub(super) fn new(gateway: Gateway) -> Self {
        Self {
            watches: gateway.backend().watches(),
            gateway,
            by_id: BTreeMap::new(),
            by_token: BTreeMap::new(),
            next_id: 0,
            out: VecDeque::new(),
            progress: ProgressRequests::default(),
        }
    }

    /// The next response to send, if there is one.
    pub(super) fn next_response(&mut self) -> Option<pb::WatchResponse> {
        self.out.pop_front()
    }

    /// Takes in the next news of the store.
    ///
    /// # Errors
    /// The client read too slowly: it may resume, so the code is one that etcd's client retries.
    pub(super) fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let news = std::task::ready!(self.watches.poll_news(context));
        Poll::Ready(match news {
            Ok(effect) => {
                self.on_effect(effect);
                Ok(())
            }
            Err(TooSlow) => Err(Status::unavailable(
                "holdfast: the watch stream was read too slowly; resume after the last revision \
                 received",
            )),
        })
    }

    pub(super) fn on_request(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})) => {
                self.progress.ask(self.gateway.backend().vitals().revision());
                self.tell_progress();
            }
            // As in etcd, what is not understood is passed over.
            None => {}
        }
    }

    /// Tells watches that asked for it, and had no events since the last tick, how far they are.
    pub(super) fn on_progress_tick(&mut self) {
        for watcher in self.by_token.values_mut().filter(|watcher| watcher.progress_notify) {
            if watcher.quiet && watcher.is_synced() {
                let header = self.gateway.header(watcher.through);
                self.out.push_back(pb::WatchResponse {
                    header: Some(header),
                    watch_id: watcher.id,
                    ..Default::default()
                });
            }
            watcher.quiet = true;
        }
    }

    fn create(&mut self, request: pb::WatchCreateRequest) {
        let mut key = request.key;
        if key.is_empty() {
            key = Bytes::from_static(b"\0");
        }
        let span = Span::from_etcd(&key, &request.range_end);
        let refusal = if request.start_revision < 0 {
            Some(error::compacted().message().to_owned())
        } else if request.watch_id != 0 && self.by_id.contains_key(&request.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream".to_owned())
        } else if span.is_empty() {
            Some("mvcc: watcher range is empty".to_owned())
        } else {
            None
        };
        if let Some(cancel_reason) = refusal {
            self.out.push_back(pb::WatchResponse {
                header: Some(self.gateway.current_header()),
                watch_id: NO_WATCH,
                created: true,
                canceled: true,
                cancel_reason,
                ..Default::default()
            });
            return;
        }
        let id = if request.watch_id == 0 { self.free_id() } else { request.watch_id };
        let start = request.start_revision;
        let filters_out = |kind: FilterType| request.filters.contains(&i32::from(kind));
        let watcher = Watcher {
            id,
            start,
            through: 0,
            created_at: None,
            progress_notify: request.progress_notify,
            quiet: true,
            fragment: request.fragment,
            wanted: Wanted {
                puts: !filters_out(FilterType::Noput),
                deletes: !filters_out(FilterType::Nodelete),
            },
        };
        let token = self.watches.create(span, start, request.prev_kv);
        self.by_id.insert(id, token);
        self.by_token.insert(token, watcher);
    }

    fn free_id(&mut self) -> i64 {
        while self.by_id.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn cancel(&mut self, id: i64) {
        // As in etcd, an unknown id is passed over in silence.
        let Some(token) = self.by_id.remove(&id) else { return };
        self.watches.cancel(token);
        self.end(token, 0);
    }

    fn on_effect(&mut self, effect: WatchEffect) {
        match effect {
            WatchEffect::Created { token, revision } => {
                self.announce(token, revision);
                self.tell_progress();
            }
            WatchEffect::Events { token, events, through } => self.events(token, events, through),
            WatchEffect::Compacted { token, compact_revision } => {
                self.watches.ended(token);
                if let Some(watcher) = self.by_token.get(&token) {
                    self.by_id.remove(&watcher.id);
                    self.end(token, compact_revision);
                }
            }
        }
    }

    /// Says that a watch stands, once.
    fn announce(&mut self, token: WatchToken, revision: Revision) {
        let Some(watcher) = self.by_token.get_mut(&token) else { return };
        if watcher.created_at.is_some() {
            return;
        }
        watcher.created_at = Some(revision);
        watcher.through =
            if watcher.start == 0 { revision } else { revision.min(watcher.start - 1) };
        self.out.push_back(pb::WatchResponse {
            header: Some(self.gateway.header(revision)),
            watch_id: watcher.id,
            created: true,
            ..Default::default()
        });
    }

    fn events(&mut self, token: WatchToken, mut events: Vec<Event>, through: Revision) {
        // News of a watch that was canceled meanwhile.
        let Some(watcher) = self.by_token.get_mut(&token) else { return };
        debug_assert!(watcher.created_at.is_some(), "the store announces a watch first");
        debug_assert!(events.iter().all(|event| event.kv.mod_revision > watcher.through));
        watcher.through = watcher.through.max(through);
        events.retain(|event| watcher.wants(event));
        let (id, fragment) = (watcher.id, watcher.fragment);
        let bytes_max = self.gateway.config().limits.message_bytes();
        if !events.is_empty() {
            watcher.quiet = false;
            for (batch, complete_through) in fragment::batches(events, through) {
                let response = pb::WatchResponse {
                    header: Some(self.gateway.header(complete_through)),
                    watch_id: id,
                    ..Default::default()
                };
                fragment::send(&response, batch, fragment.then_some(bytes_max), &mut self.out);
            }
        }
        self.tell_progress();
    }

    /// Says that a watch is over; `compact_revision` is 0 if its client ended it.
    fn end(&mut self, token: WatchToken, compact_revision: Revision) {
        let current = self.gateway.backend().vitals().revision();
        self.announce(token, current);
        let Some(watcher) = self.by_token.remove(&token) else { return };
        let mut header = self.gateway.header(current);
        if compact_revision != 0 {
            // As in etcd: this response is not about the present.
            header.revision = 0;
        }
        self.out.push_back(pb::WatchResponse {
            header: Some(header),
            watch_id: watcher.id,
            canceled: true,
            compact_revision,
            ..Default::default()
        });
        self.tell_progress();
    }

    /// Answers what the client asked about progress, if all watches are far enough. As in etcd, a
    /// stream without watches is not answered.
    fn tell_progress(&mut self) {
        if self.progress.oldest.is_none() {
            return;
        }
        let watchers = || self.by_token.values();
        if !watchers().all(Watcher::is_synced) {
            return;
        }
        let reached = watchers().map(|watcher| watcher.through).min();
        // A watch of the future must not hear of anything before its start.
        let Some(reached) = reached.filter(|&reached| watchers().all(|w| w.start <= reached))
        else {
            return;
        };
        if self.progress.answer(reached) {
            self.out.push_back(pb::WatchResponse {
                header: Some(self.gateway.header(reached)),
                watch_id: NO_WATCH,
                ..Default::default()
            });
        }
    }
}

impl ProgressRequests {
    /// The client asks while `current` is the newest revision known.
    fn ask(&mut self, current: Revision) {
        if self.oldest.is_none() {
            self.oldest = Some(current);
        } else {
            self.newest = Some(current);
        }
    }

    /// True if `reached` answers the oldest question, which is then settled.
    fn answer(&mut self, reached: Revision) -> bool {
        let answers = self.oldest.is_some_and(|wanted| reached >= wanted) && reached >= self.told;
        if answers {
            self.told = reached;
            self.oldest = self.newest.take().filter(|&wanted| wanted > reached);
        }
        answers
    }
}

#[cfg(test)]
mod tests;
