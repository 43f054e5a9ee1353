//! Clients that watch: they follow a span, and go on elsewhere when their gateway is gone.

use crate::oracle::{Oracle, WatchRecord};
use crate::world::World;
use bytes::Bytes;
use holdfast_core::effects::{Millis, WatchEffect};
use holdfast_core::ids::{NodeId, Revision};
use holdfast_core::key::Span;
use rand::Rng;
use rand::seq::IndexedRandom;
use std::collections::BTreeMap;

/// Longest time that a watcher stays with a gateway.
const STAY_MS_MAX: Millis = 6_000;

/// How far back a new watch starts at most.
const BACK: Revision = 40;

/// Spans watched.
const SPANS: [(&str, &str); 5] = [("", ""), ("k1", "k2"), ("k2", "k7"), ("k4", "k4\0"), ("k6", "")];

/// All watching clients of a run. Their timers are named from `first_timer`.
pub struct Watchers {
    first_timer: u64,
    /// The record of each one's present watch.
    present: Vec<Option<usize>>,
    tokens: BTreeMap<u64, usize>,
    /// They stay where they are.
    pub stopped: bool,
}

impl Watchers {
    /// So many of them.
    pub fn new(count: usize, first_timer: u64) -> Self {
        Self { first_timer, present: vec![None; count], tokens: BTreeMap::new(), stopped: false }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.present.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// A watcher's timer is due: it goes elsewhere.
    pub fn due(&mut self, watcher: usize, seen: Revision, oracle: &mut Oracle, world: &mut World) {
        let before = self.present[watcher];
        let alive = before.is_some_and(|record| !oracle.watches[record].ended);
        if self.stopped && alive {
            return;
        }
        let nodes = world.nodes().len() as u64;
        let gateway = NodeId(world.rng().random_range(1..=nodes));
        let resumes = before.filter(|record| {
            oracle.watches[*record].compacted.is_none() && world.rng().random_bool(0.8)
        });
        let (span, start, prev_kv) = match resumes {
            Some(record) => {
                let record = &oracle.watches[record];
                (record.span.clone(), record.next(), record.prev_kv)
            }
            None => {
                let (start, end) = *SPANS.choose(world.rng()).expect("not empty");
                let end = (!end.is_empty()).then(|| Bytes::from_static(end.as_bytes()));
                let span = Span { start: Bytes::from_static(start.as_bytes()), end };
                let back = world.rng().random_range(0..BACK);
                let from = if world.rng().random() { 0 } else { (seen - back).max(1) };
                (span, from, world.rng().random())
            }
        };
        let Some(token) = world.watch(gateway, span.clone(), start, prev_kv) else {
            world.timer(20, self.first_timer + watcher as u64);
            return;
        };
        if let Some(record) = before.filter(|_| alive) {
            let (node, token) = (oracle.watches[record].gateway, oracle.watches[record].token);
            oracle.watches[record].ended = true;
            self.tokens.remove(&token);
            if world.node(node).is_up() {
                world.cancel_watch(node, token);
            }
        }
        let invoked = oracle.moment(world.now());
        oracle.watches.push(WatchRecord {
            gateway,
            token,
            span,
            start,
            prev_kv,
            invoked,
            created: None,
            events: Vec::new(),
            through: 0,
            told: Vec::new(),
            compacted: None,
            ended: false,
        });
        let record = oracle.watches.len() - 1;
        self.present[watcher] = Some(record);
        self.tokens.insert(token, record);
        let after = world.rng().random_range(100..STAY_MS_MAX);
        world.timer(after, self.first_timer + watcher as u64);
    }

    /// News came.
    pub fn news(&mut self, news: &WatchEffect, oracle: &mut Oracle, world: &mut World) {
        let token = match news {
            WatchEffect::Created { token, .. }
            | WatchEffect::Events { token, .. }
            | WatchEffect::Compacted { token, .. } => *token,
        };
        let Some(record) = self.tokens.get(&token).copied() else { return };
        let moment = oracle.moment(world.now());
        if let Err(why) = oracle.watches[record].news(moment, news) {
            world.checks.fail(format!("watch: {why}"));
        }
        if oracle.watches[record].ended {
            self.again(record, world);
        }
    }

    fn again(&mut self, record: usize, world: &mut World) {
        if let Some(watcher) = self.present.iter().position(|present| *present == Some(record)) {
            world.timer(20, self.first_timer + watcher as u64);
        }
    }

    /// A gateway is gone.
    pub fn crashed(&mut self, node: NodeId, oracle: &mut Oracle, world: &mut World) {
        for watcher in 0..self.present.len() {
            let Some(record) = self.present[watcher] else { continue };
            if oracle.watches[record].gateway == node && !oracle.watches[record].ended {
                oracle.watches[record].ended = true;
                self.tokens.remove(&oracle.watches[record].token);
                self.again(record, world);
            }
        }
    }

    /// Watches that somebody listens to.
    pub fn live<'a>(&'a self, oracle: &'a Oracle) -> impl Iterator<Item = &'a WatchRecord> {
        self.present
            .iter()
            .flatten()
            .map(|record| &oracle.watches[*record])
            .filter(|record| !record.ended)
    }
}
