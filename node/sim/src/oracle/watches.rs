//! Watches are ordered, unique, complete, atomic, and their progress is exact.
//!
//! All of it is one comparison: what a watch was given up to the revision that it was promised is
//! what really happened in its span, no more, no less, in that order. A watch that goes on elsewhere
//! starts right after what it was promised, so resuming loses nothing either.

use super::{Moment, Oracle};
use crate::history::{History, key_value};
use holdfast_core::effects::{Event, WatchEffect, WatchToken};
use holdfast_core::ids::{NodeId, Revision};
use holdfast_core::key::Span;
use holdfast_core::request::KeyValue;

/// One watch on one gateway.
#[derive(Clone, Debug)]
pub struct WatchRecord {
    /// The gateway.
    pub gateway: NodeId,
    /// Its name there.
    pub token: WatchToken,
    /// Its keys.
    pub span: Span,
    /// First revision wanted; 0 is from now on.
    pub start: Revision,
    /// Previous values wanted.
    pub prev_kv: bool,
    /// When it was asked for.
    pub invoked: Moment,
    /// The current revision that it was told at first.
    pub created: Option<Revision>,
    /// What it was given.
    pub events: Vec<Event>,
    /// Complete up to here.
    pub through: Revision,
    /// When it was told what.
    pub told: Vec<(Moment, Revision)>,
    /// It ended because history up to here was gone.
    pub compacted: Option<Revision>,
    /// Nobody listens any more.
    pub ended: bool,
}

impl WatchRecord {
    /// First revision that it has to give.
    pub fn first(&self) -> Option<Revision> {
        if self.start > 0 { Some(self.start) } else { self.created.map(|created| created + 1) }
    }

    /// Where one that continues it has to start.
    pub fn next(&self) -> Revision {
        self.first().map_or(self.start, |first| first.max(self.through + 1))
    }

    /// News came.
    ///
    /// # Errors
    /// They contradict what was said before.
    pub fn news(&mut self, moment: Moment, news: &WatchEffect) -> Result<(), String> {
        match news {
            WatchEffect::Created { revision, .. } => {
                if self.created.replace(*revision).is_some() {
                    return Err(format!("created twice: {self:?}"));
                }
                self.told.push((moment, *revision));
            }
            WatchEffect::Events { events, through, .. } => {
                let wrong = self.created.is_none()
                    || *through <= self.through
                    || events.iter().any(|event| {
                        event.kv.mod_revision <= self.through || event.kv.mod_revision > *through
                    });
                if wrong {
                    return Err(format!(
                        "events {events:?} through {through} after {}: {self:?}",
                        self.through
                    ));
                }
                self.through = *through;
                self.events.extend(events.iter().cloned());
                self.told.push((moment, *through));
            }
            WatchEffect::Compacted { compact_revision, .. } => {
                self.compacted = Some(*compact_revision);
                self.ended = true;
            }
        }
        Ok(())
    }

    pub(super) fn check(&self, oracle: &Oracle, history: &History) -> Result<(), String> {
        if let Some(compacted) = self.compacted {
            let asked = oracle.compactions().any(|(_, revision)| revision == compacted);
            if !asked || self.next() >= compacted {
                return Err(format!("ended by compaction {compacted} without reason: {self:?}"));
            }
        }
        let Some(first) = self.first() else { return Ok(()) };
        if self.through < first {
            return Ok(());
        }
        // A previous value below a compaction may be gone.
        let compacted = oracle.compactions().map(|(_, revision)| revision).max().unwrap_or(0);
        let mut given = self.events.iter();
        for (revision, change) in history.changes().range(first..=self.through) {
            for mutation in change.mutations.iter().filter(|m| self.span.contains(&m.key)) {
                let mut wanted = self.event(history, *revision, mutation);
                let found = given.next();
                if found.is_some_and(|found| found.prev_kv.is_none()) && *revision <= compacted {
                    wanted.prev_kv = None;
                }
                if found != Some(&wanted) {
                    return Err(format!(
                        "watch on {} from {first} through {} gave {found:?} instead of {wanted:?} \
                         (gateway {}, token {})",
                        self.span, self.through, self.gateway, self.token
                    ));
                }
            }
        }
        match given.next() {
            Some(more) => Err(format!("watch gave {more:?}, which never happened: {self:?}")),
            None => Ok(()),
        }
    }

    fn event(
        &self,
        history: &History,
        revision: Revision,
        mutation: &holdfast_core::state::Mutation,
    ) -> Event {
        let key = &mutation.key;
        let kv = key_value(key, &mutation.version);
        let put = kv.is_some();
        let gone = KeyValue { key: key.clone(), mod_revision: revision, ..KeyValue::default() };
        let prev_kv = if self.prev_kv { history.at(key, revision - 1) } else { None };
        Event { put, kv: kv.unwrap_or(gone), prev_kv, sub: mutation.version.sub }
    }
}
