//! The applied state of a simulated node: every version of every key, in memory, and what of it
//! would survive a crash.
//!
//! Invariants: a flush makes durable what was applied when it began, positions included; a raft
//! snapshot replaces a range as a whole.

use bytes::Bytes;
use holdfast_core::check::{FORMAT, Finding, Fingerprint, HashTask};
use holdfast_core::ids::{LeaseId, RangeId, Revision};
use holdfast_core::key::Span;
use holdfast_core::state::{Applied, ApplyBatch, StateReads, SystemRow, Version};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::ops::{Bound, ControlFlow};

/// Everything a node knows of one range, as a raft snapshot carries it.
#[derive(Clone, Debug)]
pub struct RangeImage {
    /// The range.
    pub range: RangeId,
    /// The log position it stands for.
    pub applied: Applied,
    /// Fingerprint of all changes up to there.
    pub digest: u64,
    /// Versions, oldest first for each key.
    pub versions: Vec<(Bytes, Vec<Version>)>,
    /// System rows.
    pub system: Vec<(Bytes, Bytes)>,
}

/// One change of the files.
#[derive(Clone, Debug)]
enum Change {
    Batch(ApplyBatch),
    Install(RangeImage, Vec<Span>),
    Destroy(RangeId, Vec<Span>),
    /// A sabotage: a version of a key is gone.
    Lose(Bytes, Revision),
}

/// The state at one moment.
#[derive(Clone, Debug, Default)]
pub struct Files {
    versions: BTreeMap<Bytes, Vec<Version>>,
    leased: BTreeSet<(LeaseId, Bytes)>,
    system: BTreeMap<(RangeId, Bytes), Bytes>,
    applied: BTreeMap<RangeId, Applied>,
    digests: BTreeMap<RangeId, u64>,
}

fn bounds(span: &Span) -> (Bound<&Bytes>, Bound<&Bytes>) {
    (Bound::Included(&span.start), span.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded))
}

impl Files {
    fn change(&mut self, change: &Change) {
        match change {
            Change::Batch(batch) => self.batch(batch),
            Change::Install(image, clear) => {
                self.destroy(image.range, clear);
                self.applied.insert(image.range, image.applied);
                self.digests.insert(image.range, image.digest);
                for (key, versions) in &image.versions {
                    if let Some(last) = versions.last().filter(|last| last.lease != 0) {
                        self.leased.insert((last.lease, key.clone()));
                    }
                    self.versions.insert(key.clone(), versions.clone());
                }
                for (key, value) in &image.system {
                    self.system.insert((image.range, key.clone()), value.clone());
                }
            }
            Change::Destroy(range, clear) => self.destroy(*range, clear),
            Change::Lose(key, revision) => {
                if let Some(versions) = self.versions.get_mut(key) {
                    versions.retain(|version| version.mod_revision != *revision);
                }
            }
        }
    }

    fn destroy(&mut self, range: RangeId, clear: &[Span]) {
        self.applied.remove(&range);
        self.digests.remove(&range);
        self.system.retain(|(owner, _), _| *owner != range);
        for span in clear.iter().filter(|span| !span.is_empty()) {
            let keys: Vec<Bytes> =
                self.versions.range::<Bytes, _>(bounds(span)).map(|(key, _)| key.clone()).collect();
            for key in keys {
                self.versions.remove(&key);
            }
            self.leased.retain(|(_, key)| !span.contains(key));
        }
    }

    fn batch(&mut self, batch: &ApplyBatch) {
        let ApplyBatch { range, applied, mutations, system } = batch;
        let mut digest = self.digests.get(range).copied().unwrap_or_default();
        for mutation in mutations {
            let mut hasher = DefaultHasher::new();
            digest.hash(&mut hasher);
            mutation.key.hash(&mut hasher);
            let Version { mod_revision, sub, create_revision, version, lease, value } =
                &mutation.version;
            (mod_revision, sub, create_revision, version, lease, value).hash(&mut hasher);
            digest = hasher.finish();
            if mutation.prev_lease != 0 {
                self.leased.remove(&(mutation.prev_lease, mutation.key.clone()));
            }
            if mutation.version.lease != 0 {
                self.leased.insert((mutation.version.lease, mutation.key.clone()));
            }
            let versions = self.versions.entry(mutation.key.clone()).or_default();
            if let Some(last) = versions.last() {
                assert!(
                    (last.mod_revision, last.sub) < (*mod_revision, *sub),
                    "{range}: key {:?} goes from revision {} to {mod_revision}",
                    mutation.key,
                    last.mod_revision,
                );
            }
            versions.push(mutation.version.clone());
        }
        self.digests.insert(*range, digest);
        for SystemRow { key, value } in system {
            let place = (*range, key.clone());
            match value {
                Some(value) => self.system.insert(place, value.clone()),
                None => self.system.remove(&place),
            };
        }
        self.applied.insert(*range, *applied);
    }

    /// Position of a range.
    pub fn applied(&self, range: RangeId) -> Option<Applied> {
        self.applied.get(&range).copied()
    }

    /// Fingerprint of all changes of a range up to its applied position.
    pub fn digest(&self, range: RangeId) -> u64 {
        self.digests.get(&range).copied().unwrap_or_default()
    }

    /// Positions of all ranges.
    pub fn positions(&self) -> impl Iterator<Item = (RangeId, Applied)> + '_ {
        self.applied.iter().map(|(range, applied)| (*range, *applied))
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct StateDisk {
    memory: Files,
    durable: Files,
    /// Changes in `memory` and not in `durable`.
    ahead: Vec<Change>,
}

impl StateDisk {
    /// Makes a batch visible.
    pub fn apply(&mut self, batch: ApplyBatch) {
        self.make(Change::Batch(batch));
    }

    /// Replaces a range by a raft snapshot, durably.
    pub fn install(&mut self, image: RangeImage, clear: Vec<Span>) {
        self.make(Change::Install(image, clear));
        self.flush(usize::MAX);
    }

    /// Deletes a range.
    pub fn destroy(&mut self, range: RangeId, clear: Vec<Span>) {
        self.make(Change::Destroy(range, clear));
    }

    /// A sabotage: the version of a key that was written at a revision is gone.
    pub fn lose(&mut self, key: Bytes, revision: Revision) {
        self.make(Change::Lose(key, revision));
    }

    /// What a replica says of a checkpoint. Nothing is ever pruned here; what a compaction hides is
    /// not hashed all the same.
    pub fn check(&self, task: &HashTask) -> Finding {
        let HashTask { span, checkpoint, bookkeeping, .. } = task;
        let mut keys = 0_u64;
        let versions = &self.memory.versions;
        let found = (!span.is_empty()).then(|| versions.range::<Bytes, _>(bounds(span)));
        for (key, versions) in found.into_iter().flatten() {
            let mut replaced = false;
            let below = versions.iter().rev();
            let below = below.skip_while(|version| version.mod_revision > checkpoint.revision);
            for version in below.take_while(|version| {
                let seen =
                    !std::mem::replace(&mut replaced, version.mod_revision <= checkpoint.compacted);
                seen && (version.value.is_some() || version.mod_revision >= checkpoint.compacted)
            }) {
                let mut hash = Fingerprint::default();
                hash.value(&(key, version));
                keys = keys.wrapping_add(hash.finish());
            }
        }
        Finding::Hash { format: FORMAT, keys, bookkeeping: *bookkeeping }
    }

    fn make(&mut self, change: Change) {
        self.memory.change(&change);
        self.ahead.push(change);
    }

    /// How many changes are not durable.
    pub fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// Makes the first `count` changes durable.
    pub fn flush(&mut self, count: usize) {
        for change in self.ahead.drain(..count.min(self.ahead.len())) {
            self.durable.change(&change);
        }
    }

    /// The power goes.
    pub fn crash(&mut self) {
        self.ahead.clear();
        self.memory = self.durable.clone();
    }

    /// What reads see.
    pub fn memory(&self) -> &Files {
        &self.memory
    }

    /// What would survive a crash.
    pub fn durable(&self) -> &Files {
        &self.durable
    }

    /// A sabotage: what reads would see had nothing been applied since the last flush.
    #[must_use]
    pub fn old(&self) -> Self {
        let memory = self.durable.clone();
        Self { memory, ..Self::default() }
    }

    /// Copies a range for a raft snapshot.
    pub fn image(&self, range: RangeId, span: &Span) -> Option<RangeImage> {
        let files = &self.memory;
        let versions = if span.is_empty() {
            Vec::new()
        } else {
            files
                .versions
                .range::<Bytes, _>(bounds(span))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        Some(RangeImage {
            range,
            applied: files.applied(range)?,
            digest: files.digest(range),
            versions,
            system: self.system_rows(range),
        })
    }
}

impl StateReads for StateDisk {
    fn latest(&self, key: &[u8]) -> Option<Version> {
        self.memory.versions.get(key)?.last().cloned()
    }

    fn at(&self, key: &[u8], revision: Revision) -> Option<Version> {
        at(self.memory.versions.get(key)?, revision).cloned()
    }

    fn scan(
        &self,
        span: &Span,
        revision: Revision,
        values: bool,
        visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
        if span.is_empty() {
            return;
        }
        for (key, versions) in self.memory.versions.range::<Bytes, _>(bounds(span)) {
            let Some(version) = at(versions, revision).filter(|found| found.value.is_some()) else {
                continue;
            };
            let mut version = version.clone();
            if !values {
                version.value = Some(Bytes::new());
            }
            if visit(key.clone(), version).is_break() {
                return;
            }
        }
    }

    fn history(
        &self,
        span: &Span,
        from: Revision,
        to: Revision,
        visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
        if span.is_empty() {
            return;
        }
        let mut found: Vec<(&Bytes, &Version)> = Vec::new();
        for (key, versions) in self.memory.versions.range::<Bytes, _>(bounds(span)) {
            let wanted = versions.iter().filter(|v| (from..=to).contains(&v.mod_revision));
            found.extend(wanted.map(|version| (key, version)));
        }
        found.sort_by_key(|(_, version)| (version.mod_revision, version.sub));
        for (key, version) in found {
            if visit(key.clone(), version.clone()).is_break() {
                return;
            }
        }
    }

    fn lease_keys(&self, lease: LeaseId, span: &Span) -> Vec<Bytes> {
        let from = (lease, Bytes::new());
        self.memory
            .leased
            .range(from..)
            .take_while(|(owner, _)| *owner == lease)
            .filter(|(_, key)| span.contains(key))
            .map(|(_, key)| key.clone())
            .collect()
    }

    fn system_rows(&self, range: RangeId) -> Vec<(Bytes, Bytes)> {
        self.memory
            .system
            .range((range, Bytes::new())..)
            .take_while(|((owner, _), _)| *owner == range)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// The newest of `versions` at or below a revision.
fn at(versions: &[Version], revision: Revision) -> Option<&Version> {
    let upto = versions.partition_point(|version| version.mod_revision <= revision);
    versions[..upto].last()
}
