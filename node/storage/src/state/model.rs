//! The state as a plain list, and a generator of changes, for tests.

use crate::state::State;
use crate::state::codec::{HEAD_LEN, LogRow, POSITION_LEN, Position};
use crate::state::parts::part_key;
use bytes::Bytes;
use holdfast_core::ids::{LeaseId, RangeId, Revision};
use holdfast_core::key::Span;
use holdfast_core::state::{Applied, ApplyBatch, Mutation, StateReads, SystemRow, Version};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Everything that was ever applied.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub versions: BTreeMap<(Revision, u32), (Bytes, Version)>,
    pub system: BTreeMap<(RangeId, Bytes), Bytes>,
    pub applied: BTreeMap<RangeId, Applied>,
}

impl Model {
    pub fn apply(&mut self, batch: &ApplyBatch) {
        for Mutation { key, version, prev_lease: _ } in &batch.mutations {
            let at = (version.mod_revision, version.sub);
            self.versions.insert(at, (key.clone(), version.clone()));
        }
        for SystemRow { key, value } in &batch.system {
            match value {
                Some(value) => self.system.insert((batch.range, key.clone()), value.clone()),
                None => self.system.remove(&(batch.range, key.clone())),
            };
        }
        self.applied.insert(batch.range, batch.applied);
    }

    pub fn at(&self, key: &[u8], revision: Revision) -> Option<Version> {
        let newest = self
            .versions
            .range(..=(revision, u32::MAX))
            .rev()
            .find(|(_, (of, _))| of.as_ref() == key)?;
        Some(newest.1.1.clone())
    }

    pub fn scan(&self, span: &Span, revision: Revision) -> Vec<(Bytes, Version)> {
        let mut found = BTreeMap::new();
        for (key, version) in self.versions.range(..=(revision, u32::MAX)).map(|(_, v)| v) {
            if span.contains(key) {
                found.insert(key.clone(), version.clone());
            }
        }
        found.into_iter().filter(|(_, version)| version.value.is_some()).collect()
    }

    pub fn history(&self, span: &Span, from: Revision, to: Revision) -> Vec<(Bytes, Version)> {
        if from > to {
            return Vec::new();
        }
        self.versions
            .range((from, 0)..=(to, u32::MAX))
            .filter(|(_, (key, _))| span.contains(key))
            .map(|(_, change)| change.clone())
            .collect()
    }

    pub fn lease_keys(&self, lease: LeaseId, span: &Span) -> Vec<Bytes> {
        let live = self.scan(span, Revision::MAX);
        live.into_iter().filter(|(_, v)| v.lease == lease).map(|(key, _)| key).collect()
    }

    pub fn system_rows(&self, range: RangeId) -> Vec<(Bytes, Bytes)> {
        self.system
            .iter()
            .filter(|((of, _), _)| *of == range)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }

    pub fn keys(&self) -> Vec<Bytes> {
        let mut keys: Vec<Bytes> = self.versions.values().map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// What a compaction at `compact` hides is forgotten, as if it had never been.
    pub fn compact(&mut self, compact: Revision) {
        let mut newest: BTreeMap<Bytes, (Revision, u32)> = BTreeMap::new();
        let mut hidden = Vec::new();
        for (at, (key, version)) in self.versions.range(..=(compact, u32::MAX)) {
            hidden.extend(newest.insert(key.clone(), *at));
            if version.value.is_none() && version.mod_revision < compact {
                hidden.extend(newest.remove(key));
            }
        }
        for at in hidden {
            self.versions.remove(&at);
        }
    }
}

/// Makes changes such as the core makes: ranges split the keys, each range's revisions grow.
pub struct Generator {
    pub rng: ChaCha8Rng,
    pub revision: Revision,
    pub next_index: BTreeMap<RangeId, u64>,
    /// Fewer keys have longer histories.
    pub keys: u32,
    /// How often a value is a large one.
    pub large: f64,
}

pub const RANGES: [RangeId; 2] = [RangeId(3), RangeId(4)];

impl Generator {
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let keys = *[3, 40, 2000].get(rng.random_range(0..3)).unwrap();
        Self { rng, revision: 1, next_index: BTreeMap::new(), keys, large: 0.04 }
    }

    /// A key, of the first range if `number` is even.
    pub fn key(number: u32) -> Bytes {
        // Awkward keys: zero bytes, prefixes of each other.
        let side = if number.is_multiple_of(2) { b'a' } else { b'n' };
        let mut key = vec![side];
        key.extend((0..number % 5).map(|step| if step % 2 == 0 { 0 } else { 0xff }));
        key.extend_from_slice((number / 10).to_string().as_bytes());
        key.into()
    }

    /// The span of a range of [`RANGES`].
    pub fn span(range: RangeId) -> Span {
        let middle = Bytes::from_static(b"m");
        if range == RANGES[0] {
            Span { start: Bytes::new(), end: Some(middle) }
        } else {
            Span { start: middle, end: None }
        }
    }

    pub fn batch(&mut self, model: &Model) -> ApplyBatch {
        let side = self.rng.random_range(0..2_u32);
        let range = RANGES[side as usize];
        let index = self.next_index.entry(range).or_default();
        *index += 1;
        let applied = Applied { index: *index, term: 1 + *index / 100 };
        let mut mutations: Vec<Mutation> = Vec::new();
        for _ in 0..self.rng.random_range(0..4) {
            self.revision += i64::from(self.rng.random_range(1..3_u32));
            for sub in 0..self.rng.random_range(1..3) {
                let key = Self::key(self.rng.random_range(0..self.keys) * 2 + side);
                let seen = mutations.iter().rev().find(|mutation| mutation.key == key);
                if seen.is_some_and(|seen| seen.version.mod_revision == self.revision) {
                    continue;
                }
                let before = seen
                    .map(|mutation| mutation.version.clone())
                    .or_else(|| model.at(&key, Revision::MAX));
                mutations.push(self.mutation(key, sub, before));
            }
        }
        let system = (0..self.rng.random_range(0..2))
            .map(|_| SystemRow {
                key: Bytes::from(self.rng.random_range(0..5_u32).to_string()),
                value: self.rng.random_bool(0.7).then(|| Bytes::from(index_text(applied))),
            })
            .collect();
        ApplyBatch { range, applied, mutations, system }
    }

    /// Mostly short; no two alike, and no two places of one.
    fn value(&mut self) -> Bytes {
        let length = if self.rng.random_bool(self.large) {
            LARGE[self.rng.random_range(0..LARGE.len())] - self.rng.random_range(0..200)
        } else {
            self.rng.random_range(0..60)
        };
        let mut value = vec![self.revision as u8; length];
        value.chunks_mut(1000).enumerate().for_each(|(at, chunk)| chunk[0] = at as u8);
        value.into()
    }

    fn mutation(&mut self, key: Bytes, sub: u32, before: Option<Version>) -> Mutation {
        let live = before.filter(|version| version.value.is_some());
        let prev_lease = live.as_ref().map_or(0, |version| version.lease);
        let mut version = Version {
            mod_revision: self.revision,
            sub,
            create_revision: live.as_ref().map_or(self.revision, |v| v.create_revision),
            version: live.as_ref().map_or(1, |v| v.version + 1),
            lease: i64::from(self.rng.random_range(0..4_u32)) - 1,
            value: None,
        };
        if live.is_some() && self.rng.random_bool(0.3) {
            version.version = 0;
            version.lease = 0;
        } else {
            version.value = Some(self.value());
        }
        Mutation { key, version, prev_lease }
    }
}

/// Lengths of large values: with one part, several, large and small ones, and, the second, none.
const LARGE: [usize; 5] = [5000, 8000, 13_000, 40_000, LARGEST];
/// The longest value of a [`Generator`], bytes.
pub const LARGEST: usize = 140_000;

/// Asserts that the parts in the file are those that its log names, and that the size in use is that
/// of all rows.
pub fn assert_no_orphans(state: &State) {
    let disk = state.shared.inner.read().disk.clone();
    let heads = disk.heads(b"", None, usize::MAX);
    let mut bytes: usize = heads.iter().map(|(key, _)| key.len() + HEAD_LEN).sum();
    let mut named = Vec::new();
    for (position, row) in disk.changes(Position::MIN, Revision::MAX) {
        bytes += POSITION_LEN + row.value().len();
        let count = LogRow::decode(position, row.value()).parts.count;
        named.extend((0..count).map(|number| part_key(position, number)));
    }
    let found = disk.part_rows();
    bytes += found.iter().map(|(key, length)| key.len() + length).sum::<usize>();
    assert_eq!(found.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), named);
    assert_eq!(state.size_in_use(), bytes as u64);
}

fn index_text(applied: Applied) -> String {
    format!("row of {}", applied.index)
}

pub fn collect_scan(
    state: &dyn StateReads,
    span: &Span,
    revision: Revision,
) -> Vec<(Bytes, Version)> {
    let mut found = Vec::new();
    state.scan(span, revision, true, &mut |key, version| {
        found.push((key, version));
        ControlFlow::Continue(())
    });
    found
}

/// Asserts that `state` reads as `model`, at revisions from `compact` on. A tombstone below may be
/// there or not.
pub fn assert_same(state: &dyn StateReads, model: &Model, compact: Revision, rng: &mut ChaCha8Rng) {
    let newest = model.versions.keys().next_back().map_or(1, |at| at.0).max(compact);
    let seen = |version: Option<Version>| {
        version.filter(|version| version.value.is_some() || version.mod_revision >= compact)
    };
    for key in model.keys() {
        let (found, wanted) = (state.latest(&key), model.at(&key, Revision::MAX));
        assert_eq!(seen(found), seen(wanted), "latest of {key:?}");
    }
    assert_eq!(state.latest(b"no such key"), None);
    for revision in [compact, newest, rng.random_range(compact..=newest)] {
        for key in model.keys() {
            let (found, wanted) = (state.at(&key, revision), model.at(&key, revision));
            assert_eq!(seen(found), seen(wanted), "{key:?} at {revision}");
        }
        let (low, high) = (rng.random_range(0..80), rng.random_range(0..80));
        let some = Span { start: Generator::key(low), end: Some(Generator::key(high)) };
        for span in [Span::all(), Generator::span(RANGES[0]), some] {
            let found = collect_scan(state, &span, revision);
            assert_eq!(found, model.scan(&span, revision), "scan of {span} at {revision}");
            let mut changes = Vec::new();
            state.history(&span, compact + 1, revision, &mut |key, version| {
                changes.push((key, version));
                ControlFlow::Continue(())
            });
            assert_eq!(changes, model.history(&span, compact + 1, revision), "{span}");
        }
    }
    for lease in -1..3 {
        if lease != 0 {
            let found = state.lease_keys(lease, &Span::all());
            assert_eq!(found, model.lease_keys(lease, &Span::all()), "lease {lease}");
        }
    }
    for range in RANGES {
        assert_eq!(state.system_rows(range), model.system_rows(range));
    }
}
