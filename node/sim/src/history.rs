//! What really happened: every change by its revision, as the nodes applied it.
//!
//! Invariants: a revision means the same changes on every node, in every life; revisions of one
//! range are applied in order.

use bytes::Bytes;
use holdfast_core::effects::Millis;
use holdfast_core::ids::{RangeId, Revision};
use holdfast_core::key::Span;
use holdfast_core::request::KeyValue;
use holdfast_core::state::{ApplyBatch, Mutation, Version};
use std::collections::BTreeMap;

/// The changes of one revision.
#[derive(Clone, Debug)]
pub struct Change {
    /// When the first node applied the first of them, in the world's time.
    pub at: Millis,
    /// They, in order.
    pub mutations: Vec<Mutation>,
    /// Those that each range made.
    parts: BTreeMap<RangeId, Vec<Mutation>>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct History {
    changes: BTreeMap<Revision, Change>,
    keys: BTreeMap<Bytes, Vec<Version>>,
}

impl History {
    /// A node applies a batch.
    ///
    /// # Errors
    /// It contradicts what is known.
    pub fn applied(&mut self, batch: &ApplyBatch, now: Millis) -> Result<(), String> {
        for of_revision in
            batch.mutations.chunk_by(|a, b| a.version.mod_revision == b.version.mod_revision)
        {
            let revision = of_revision[0].version.mod_revision;
            let known = self.changes.get(&revision).and_then(|known| known.parts.get(&batch.range));
            match known {
                Some(known) if known == of_revision => {}
                Some(known) => {
                    return Err(format!(
                        "revision {revision} of {} is {known:?} for one node and {of_revision:?} \
                         for another",
                        batch.range
                    ));
                }
                None => self.learn(revision, batch.range, of_revision, now),
            }
        }
        Ok(())
    }

    fn learn(&mut self, revision: Revision, range: RangeId, mutations: &[Mutation], at: Millis) {
        for mutation in mutations {
            let versions = self.keys.entry(mutation.key.clone()).or_default();
            let place = versions.partition_point(|version| {
                (version.mod_revision, version.sub) < (revision, mutation.version.sub)
            });
            versions.insert(place, mutation.version.clone());
        }
        let change = self.changes.entry(revision).or_insert_with(|| Change {
            at,
            mutations: Vec::new(),
            parts: BTreeMap::new(),
        });
        change.parts.insert(range, mutations.to_vec());
        change.mutations.extend_from_slice(mutations);
        change.mutations.sort_by_key(|mutation| mutation.version.sub);
    }

    /// All changes, by revision.
    pub fn changes(&self) -> &BTreeMap<Revision, Change> {
        &self.changes
    }

    /// The newest revision that changed something.
    pub fn last(&self) -> Revision {
        self.changes.last_key_value().map_or(1, |(revision, _)| *revision)
    }

    /// A key at a revision, if it was there.
    pub fn at(&self, key: &[u8], revision: Revision) -> Option<KeyValue> {
        let (key, versions) = self.keys.get_key_value(key)?;
        let upto = versions.partition_point(|version| version.mod_revision <= revision);
        key_value(key, versions[..upto].last()?)
    }

    /// All keys of a span at a revision.
    pub fn scan(&self, span: &Span, revision: Revision) -> Vec<KeyValue> {
        self.keys
            .range(span.start.clone()..)
            .take_while(|(key, _)| span.end.as_ref().is_none_or(|end| *key < end))
            .filter_map(|(key, versions)| {
                let upto = versions.partition_point(|version| version.mod_revision <= revision);
                key_value(key, versions[..upto].last()?)
            })
            .collect()
    }
}

/// A version as a key-value; `None` for a tombstone.
pub fn key_value(key: &Bytes, version: &Version) -> Option<KeyValue> {
    Some(KeyValue {
        key: key.clone(),
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
        version: version.version,
        value: version.value.clone()?,
        lease: version.lease,
    })
}
