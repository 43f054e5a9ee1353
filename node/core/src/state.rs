//! The state that a node keeps on disk, as the core sees it: versions of keys, read through a
//! small trait, and batches of changes to make.
//!
//! Invariant: the core never writes. What it decides leaves as [`ApplyBatch`]; the edge makes a
//! batch visible to [`StateReads`] before the core's next step.

use crate::ids::{Index, LeaseId, RangeId, Revision, Term};
use crate::key::Span;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// One version of one key. `value = None` is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The revision that made this version.
    pub mod_revision: Revision,
    /// Which change of that revision, from 0.
    pub sub: u32,
    /// The revision that created the key (a tombstone keeps the one it ended).
    pub create_revision: Revision,
    /// Number of changes since creation; 0 for a tombstone.
    pub version: i64,
    /// The attached client lease, or 0.
    pub lease: LeaseId,
    /// The value, or `None` for a deletion.
    pub value: Option<Bytes>,
}

/// One change to one key, complete: replicas apply it without reading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mutation {
    /// The key.
    pub key: Bytes,
    /// The new version; its `mod_revision` is the command's revision.
    pub version: Version,
    /// The lease that the version before was attached to, or 0: to be detached.
    pub prev_lease: LeaseId,
}

/// A row of a range's own system state (dedup table, descriptor, meta records).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemRow {
    /// Key inside the range's system rows.
    pub key: Bytes,
    /// New content, or `None` to delete.
    pub value: Option<Bytes>,
}

/// Changes of one range at one applied index, in order. The edge makes all of it visible at once
/// and stores `applied` with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyBatch {
    /// The range.
    pub range: RangeId,
    /// The log position reached with this batch.
    pub applied: Applied,
    /// Changed keys, in (revision, sub) order.
    pub mutations: Vec<Mutation>,
    /// Changed system rows.
    pub system: Vec<SystemRow>,
}

/// How far a range has been applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Log index.
    pub index: Index,
    /// Term of the entry at that index.
    pub term: Term,
}

/// Read access to the applied state of one node. All methods see every batch applied so far.
///
/// Spans of different ranges of one node never overlap, so keys need no range prefix; system rows
/// belong to a range.
pub trait StateReads {
    /// The newest version of `key`, tombstones included.
    fn latest(&self, key: &[u8]) -> Option<Version>;

    /// The newest version of `key` with `mod_revision <= revision`, tombstones included.
    fn at(&self, key: &[u8], revision: Revision) -> Option<Version>;

    /// Visits, in key order, each live key in `span` at `revision` (no tombstones), until `visit`
    /// breaks. Values are left empty when `values` is false (they need not be read from disk).
    fn scan(
        &self,
        span: &Span,
        revision: Revision,
        values: bool,
        visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    );

    /// Visits every version in `span` with `from <= mod_revision <= to`, tombstones included, in
    /// (revision, sub) order, until `visit` breaks. Used to catch a watch up.
    fn history(
        &self,
        span: &Span,
        from: Revision,
        to: Revision,
        visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    );

    /// Keys in `span` attached to `lease` now, in key order.
    fn lease_keys(&self, lease: LeaseId, span: &Span) -> Vec<Bytes>;

    /// All system rows of a range, in key order.
    fn system_rows(&self, range: RangeId) -> Vec<(Bytes, Bytes)>;

    /// Is the state of a range here, whole? False from before its first key is taken away.
    fn holds(&self, range: RangeId) -> bool {
        !self.system_rows(range).is_empty()
    }
}

/// Everything above any revision: reads the newest state.
pub const REVISION_MAX: Revision = Revision::MAX;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// No keys, and the system rows of each range.
    #[derive(Default)]
    pub(crate) struct Rows(pub(crate) BTreeMap<RangeId, Vec<(Bytes, Bytes)>>);

    impl StateReads for Rows {
        fn latest(&self, _: &[u8]) -> Option<Version> {
            None
        }

        fn at(&self, _: &[u8], _: Revision) -> Option<Version> {
            None
        }

        fn scan(
            &self,
            _: &Span,
            _: Revision,
            _: bool,
            _: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
        ) {
        }

        fn history(
            &self,
            _: &Span,
            _: Revision,
            _: Revision,
            _: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
        ) {
        }

        fn lease_keys(&self, _: LeaseId, _: &Span) -> Vec<Bytes> {
            Vec::new()
        }

        fn system_rows(&self, range: RangeId) -> Vec<(Bytes, Bytes)> {
            self.0.get(&range).cloned().unwrap_or_default()
        }
    }
}
