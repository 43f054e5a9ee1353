//! Watches: feeds at the leaseholder, their merge at the gateway.
//!
//! ```text
//!   range 2 (leaseholder A) ── events + watermark ──┐
//!   range 3 (leaseholder B) ── events + watermark ──┤ merge: release up to the least watermark
//!   range 4 (leaseholder A) ── events + watermark ──┘──► watch
//! ```
//!
//! Invariants: a feed sends each event of its span once, in (revision, sub) order; after it has
//! said `through = W`, no event at or below W follows; a watch releases whole revisions, and only
//! up to the least `through` of its parts; a part that has to start again does so right after what
//! it has received, so nothing is lost or repeated.

use super::{Asked, Node};
use crate::effects::{Event, Millis, WatchEffect, WatchToken};
use crate::feed::{self, FeedId, FeedStart};
use crate::ids::{META_RANGE, NodeId, RangeId, Revision};
use crate::key::Span;
use crate::message::Message;
use crate::read::{Origin, ReadTask, ReadWork};
use crate::replica::Subscriber;
use crate::request::KeyValue;
use crate::state::{ApplyBatch, Mutation, StateReads};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Pause before a part that found no leaseholder is tried again.
const RETRY_MS: Millis = 20;

/// The part of a watch that one range serves.
#[derive(Debug)]
struct Part {
    span: Span,
    /// The feed, while subscribed, and where.
    feed: Option<(u64, NodeId, RangeId)>,
    retry_at: Millis,
    /// Everything up to here has been received.
    through: Revision,
    events: VecDeque<Event>,
}

/// A local watch.
#[derive(Debug)]
struct Watch {
    span: Span,
    start: Revision,
    prev_kv: bool,
    parts: Vec<Part>,
    /// Told to the client.
    through: Revision,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watching {
    next_feed: u64,
    watches: BTreeMap<WatchToken, Watch>,
    feeds: BTreeMap<u64, WatchToken>,
    /// Parts without a feed.
    unsubscribed: BTreeSet<WatchToken>,
    /// Ranges led here that have subscribers, and some that have had them lately: looking at all
    /// replicas at every tick would cost a node with very many more than its work.
    watched: BTreeSet<RangeId>,
    /// Ranges led here whose watermark may have moved.
    pub(super) moved: BTreeSet<RangeId>,
    pub(super) hints_wanted: bool,
    /// The newest revision that the sequencer has hinted at.
    pub(super) hinted: Revision,
}

impl Watching {
    /// `first`: where this run starts to count its feeds (see [`Router::new`]).
    ///
    /// [`Router::new`]: super::routing::Router::new
    pub(super) fn new(first: u64) -> Self {
        Self { next_feed: first, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.watches.len()
    }
}

impl Node {
    // The gateway's side.

    pub(super) fn watch_create(
        &mut self,
        token: WatchToken,
        span: Span,
        start: Revision,
        prev_kv: bool,
    ) {
        let watch = Watch { span, start, prev_kv, parts: Vec::new(), through: 0 };
        self.watching.watches.insert(token, watch);
        self.ask_current(Asked::Watch(token));
    }

    pub(super) fn watch_cancel(&mut self, token: WatchToken) {
        self.watching.unsubscribed.remove(&token);
        let Some(watch) = self.watching.watches.remove(&token) else { return };
        for part in watch.parts {
            self.stop_feed(&part);
        }
    }

    fn stop_feed(&mut self, part: &Part) {
        if let Some((number, node, _)) = part.feed {
            self.watching.feeds.remove(&number);
            let feed = FeedId { gateway: self.config.node, number };
            self.send(node, Message::FeedStop { feed });
        }
    }

    /// The current revision is known: the watch stands.
    pub(super) fn watch_start(&mut self, token: WatchToken, current: Revision) {
        let compacted = self.session.compacted();
        let Some(watch) = self.watching.watches.get_mut(&token) else { return };
        self.effects.watch.push(WatchEffect::Created { token, revision: current });
        if watch.start <= 0 {
            watch.start = current + 1;
        }
        if watch.start < compacted {
            self.watching.watches.remove(&token);
            self.effects.watch.push(WatchEffect::Compacted { token, compact_revision: compacted });
            return;
        }
        watch.through = watch.start - 1;
        watch.parts = vec![Part {
            span: watch.span.clone(),
            feed: None,
            retry_at: 0,
            through: watch.start - 1,
            events: VecDeque::new(),
        }];
        self.subscribe_parts(token);
    }

    /// Subscribes the parts of a watch that have no feed, cutting them along ranges.
    fn subscribe_parts(&mut self, token: WatchToken) {
        let now = self.now;
        let Some(watch) = self.watching.watches.get_mut(&token) else { return };
        let prev_kv = watch.prev_kv;
        let parts = std::mem::take(&mut watch.parts);
        let mut whole = Vec::new();
        let mut start = Vec::new();
        let mut left = false;
        for part in parts {
            if part.feed.is_some() || part.retry_at > now {
                left |= part.feed.is_none();
                whole.push(part);
                continue;
            }
            let ranges = self.meta.ranges_in(&part.span);
            let mut events = Some(part.events);
            for range in ranges {
                let Some(span) = range.span.intersect(&part.span) else { continue };
                let target = self.leaseholder_of(range.id).filter(|node| {
                    *node == self.config.node
                        || self.peers.get(node).is_some_and(|peer| peer.connected)
                });
                let mut piece = Part {
                    // What was received already stays in front; the first piece keeps it.
                    events: events.take().unwrap_or_default(),
                    feed: None,
                    retry_at: now + RETRY_MS,
                    through: part.through,
                    span: span.clone(),
                };
                if let Some(node) = target {
                    self.watching.next_feed += 1;
                    let number = self.watching.next_feed;
                    self.watching.feeds.insert(number, token);
                    piece.feed = Some((number, node, range.id));
                    start.push((
                        node,
                        FeedStart {
                            feed: FeedId { gateway: self.config.node, number },
                            range: range.id,
                            span,
                            from: part.through + 1,
                            prev_kv,
                        },
                    ));
                } else {
                    left = true;
                }
                whole.push(piece);
            }
            if let Some(events) = events {
                // No range known for it yet.
                left = true;
                whole.push(Part {
                    events,
                    feed: None,
                    retry_at: now + RETRY_MS,
                    through: part.through,
                    span: part.span,
                });
            }
        }
        if let Some(watch) = self.watching.watches.get_mut(&token) {
            watch.parts = whole;
        }
        if left {
            self.watching.unsubscribed.insert(token);
        } else {
            self.watching.unsubscribed.remove(&token);
        }
        for (node, message) in start {
            self.send(node, Message::FeedStart(message));
        }
    }

    pub(super) fn feed_events(&mut self, feed: FeedId, events: Vec<Event>, through: Revision) {
        let Some(token) = self.watching.feeds.get(&feed.number).copied() else { return };
        let Some(watch) = self.watching.watches.get_mut(&token) else { return };
        let part = watch
            .parts
            .iter_mut()
            .find(|part| part.feed.is_some_and(|(number, ..)| number == feed.number));
        let Some(part) = part else { return };
        assert!(
            events.iter().all(|event| event.kv.mod_revision > part.through),
            "a feed sent an event below what it had promised"
        );
        part.events.extend(events);
        part.through = part.through.max(through);
        self.release(token);
    }

    /// Gives the client everything up to the least promise of the parts.
    fn release(&mut self, token: WatchToken) {
        let Some(watch) = self.watching.watches.get_mut(&token) else { return };
        let Some(through) = watch.parts.iter().map(|part| part.through).min() else { return };
        if through <= watch.through {
            return;
        }
        watch.through = through;
        let mut events = Vec::new();
        for part in &mut watch.parts {
            while part.events.front().is_some_and(|event| event.kv.mod_revision <= through) {
                events.extend(part.events.pop_front());
            }
        }
        if watch.parts.len() > 1 {
            events.sort_by_key(|event| (event.kv.mod_revision, event.sub));
        }
        if through >= watch.start {
            self.effects.watch.push(WatchEffect::Events { token, events, through });
        }
    }

    pub(super) fn feed_ended(&mut self, feed: FeedId, compacted: Option<Revision>) {
        let Some(token) = self.watching.feeds.remove(&feed.number) else { return };
        if let Some(compact_revision) = compacted {
            self.watch_cancel(token);
            self.effects.watch.push(WatchEffect::Compacted { token, compact_revision });
            return;
        }
        let now = self.now;
        let Some(watch) = self.watching.watches.get_mut(&token) else { return };
        for part in &mut watch.parts {
            if part.feed.is_some_and(|(number, ..)| number == feed.number) {
                part.feed = None;
                part.retry_at = now + RETRY_MS;
            }
        }
        self.watching.unsubscribed.insert(token);
    }

    /// Feeds from a node that was lost (or came back) start again.
    pub(super) fn watch_peer_changed(&mut self, node: NodeId) {
        self.end_feeds(|_, at, _| at == node);
    }

    /// The lease of a range is at `node` now: feeds from elsewhere start again there.
    pub(super) fn watch_range_moved(&mut self, range: RangeId, node: NodeId) {
        self.end_feeds(|_, at, of| of == range && at != node);
    }

    fn end_feeds(&mut self, ends: impl Fn(u64, NodeId, RangeId) -> bool) {
        let mut stopped = Vec::new();
        for (token, watch) in &mut self.watching.watches {
            for part in &mut watch.parts {
                if let Some((number, node, range)) = part.feed
                    && ends(number, node, range)
                {
                    part.feed = None;
                    part.retry_at = 0;
                    stopped.push((*token, number, node));
                }
            }
        }
        for (token, number, node) in stopped {
            self.watching.feeds.remove(&number);
            self.watching.unsubscribed.insert(token);
            let feed = FeedId { gateway: self.config.node, number };
            self.send(node, Message::FeedStop { feed });
        }
    }

    pub(super) fn watch_tick(&mut self) {
        for token in std::mem::take(&mut self.watching.unsubscribed) {
            self.subscribe_parts(token);
        }
        let replicas = &self.replicas;
        self.watching.watched.retain(|range| {
            replicas.get(range).is_some_and(|replica| !replica.seldom.subscribers.is_empty())
        });
        let wanted = !self.watching.watched.is_empty();
        if wanted != self.watching.hints_wanted
            && let Some(sequencer) = self.session.sequencer()
        {
            self.watching.hints_wanted = wanted;
            self.send(sequencer, Message::WantHints(wanted));
        }
    }

    // The leaseholder's side.

    pub(super) fn feed_start(&mut self, from: NodeId, start: FeedStart) {
        let ended = Message::FeedEnded { feed: start.feed, compacted: None };
        let holds = self.replicas.get(&start.range).is_some_and(|replica| {
            replica.holds_lease()
                && replica.descriptor.as_ref().is_some_and(|own| own.span.covers(&start.span))
        });
        if !holds {
            return self.send(from, ended);
        }
        let compacted = self.session.compacted().max(self.meta.compacted());
        if start.from < compacted {
            let message = Message::FeedEnded { feed: start.feed, compacted: Some(compacted) };
            return self.send(from, message);
        }
        let Some(replica) = self.replicas.get_mut(&start.range) else { return };
        self.watching.watched.insert(start.range);
        replica.seldom.subscribers.insert(
            start.feed,
            Subscriber {
                span: start.span,
                next: start.from,
                prev_kv: start.prev_kv,
                scanning: false,
                told: 0,
            },
        );
        self.scan_if_behind(start.range, start.feed);
        self.ask_watermark(start.range);
        self.watching.moved.insert(start.range);
    }

    pub(super) fn feed_stop(&mut self, feed: FeedId) {
        for range in &self.watching.watched {
            let replica = self.replicas.get_mut(range);
            if let Some(seldom) = replica.and_then(|replica| replica.seldom.there()) {
                seldom.subscribers.remove(&feed);
            }
        }
    }

    fn scan_if_behind(&mut self, range: RangeId, feed: FeedId) {
        let compacted = self.session.compacted().max(self.meta.compacted());
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let applied = replica.revision;
        let Some(subscriber) = replica.subscriber(&feed) else { return };
        subscriber.scanning = subscriber.next <= applied;
        if subscriber.scanning {
            let work = ReadWork::Feed {
                feed,
                span: subscriber.span.clone(),
                from: subscriber.next,
                to: applied,
                prev_kv: subscriber.prev_kv,
                compacted,
            };
            self.effects.reads.push(ReadTask { origin: Origin::None, work });
        }
    }

    pub(super) fn feed_scanned(&mut self, feed: FeedId, events: Vec<Event>, through: Revision) {
        let mut range = None;
        let mut overtaken = false;
        let compacted = self.session.compacted().max(self.meta.compacted());
        for (id, replica) in self.replicas.iter_mut() {
            if let Some(subscriber) = replica.subscriber(&feed) {
                if subscriber.next < compacted {
                    // Compaction overtook the scan: it may have missed something.
                    replica.seldom.subscribers.remove(&feed);
                    overtaken = true;
                    break;
                }
                subscriber.next = through + 1;
                subscriber.told = through;
                range = Some(*id);
            }
        }
        if overtaken {
            let ended = Message::FeedEnded { feed, compacted: Some(compacted) };
            return self.send(feed.gateway, ended);
        }
        if let Some(range) = range {
            self.send(feed.gateway, Message::FeedEvents { feed, events, through });
            self.scan_if_behind(range, feed);
            self.watching.moved.insert(range);
        }
    }

    /// Sends what a batch changes to those who watch. Called before the batch is visible.
    pub(super) fn publish(&mut self, range: RangeId, batch: &ApplyBatch, state: &dyn StateReads) {
        let compacted = self.meta.compacted();
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        if replica.seldom.subscribers.is_empty() {
            return;
        }
        self.watching.moved.insert(range);
        if batch.mutations.is_empty() {
            return;
        }
        let through = replica.revision;
        let mut send = Vec::new();
        for (feed, subscriber) in
            replica.seldom.there().into_iter().flat_map(|seldom| &mut seldom.subscribers)
        {
            if subscriber.scanning {
                continue;
            }
            let mut events = Vec::new();
            for (place, mutation) in batch.mutations.iter().enumerate() {
                if mutation.version.mod_revision >= subscriber.next
                    && subscriber.span.contains(&mutation.key)
                {
                    let prev = (subscriber.prev_kv && mutation.version.mod_revision > compacted)
                        .then(|| before(mutation, &batch.mutations[..place], state))
                        .flatten();
                    events.push(feed::event(&mutation.key, &mutation.version, prev));
                }
            }
            if !events.is_empty() {
                subscriber.next = through + 1;
                subscriber.told = through;
                send.push((feed.gateway, Message::FeedEvents { feed: *feed, events, through }));
            }
        }
        for (to, message) in send {
            self.send(to, message);
        }
    }

    /// Tells watermarks that moved.
    pub(super) fn flush_watermarks(&mut self) {
        for range in std::mem::take(&mut self.watching.moved) {
            let Some(replica) = self.replicas.get_mut(&range) else { continue };
            if !replica.holds_lease() {
                continue;
            }
            let closed = replica.leaseholder.watermark().max(replica.revision);
            let mut send = Vec::new();
            for (feed, subscriber) in
                replica.seldom.there().into_iter().flat_map(|seldom| &mut seldom.subscribers)
            {
                if !subscriber.scanning && subscriber.told < closed {
                    subscriber.told = closed;
                    subscriber.next = subscriber.next.max(closed + 1);
                    let through = closed;
                    send.push((
                        feed.gateway,
                        Message::FeedEvents { feed: *feed, events: Vec::new(), through },
                    ));
                }
            }
            for (to, message) in send {
                self.send(to, message);
            }
        }
    }

    /// The sequencer's counter moved: idle ranges with subscribers may raise their watermark.
    pub(super) fn hinted(&mut self, revision: Revision, _state: &dyn StateReads) {
        self.watching.hinted = self.watching.hinted.max(revision);
        let lags = |range: &RangeId| {
            self.replicas.get(range).is_some_and(|replica| {
                !replica.seldom.subscribers.is_empty()
                    && replica.leaseholder.watermark().max(replica.revision) < revision
            })
        };
        let watched = self.watching.watched.iter().copied();
        let behind: Vec<RangeId> =
            watched.filter(|range| *range != META_RANGE && lags(range)).collect();
        for range in behind {
            self.ask_watermark(range);
        }
    }
}

/// The key as it was before a mutation, if it was there.
fn before(mutation: &Mutation, earlier: &[Mutation], state: &dyn StateReads) -> Option<KeyValue> {
    let key: &Bytes = &mutation.key;
    let revision = mutation.version.mod_revision;
    let in_batch = earlier
        .iter()
        .rev()
        .find(|other| other.key == *key && other.version.mod_revision < revision);
    match in_batch {
        Some(other) => feed::to_kv(key, &other.version),
        None => state.at(key, revision - 1).and_then(|version| feed::to_kv(key, &version)),
    }
}
