//! Which ranges begin at a cut that nobody asked for: these, and no others, the cluster may merge with
//! their left neighbours again, unless somebody asks for the same cut later.
//!
//! Invariants: a range is one of them from before it exists, or never; one that is not known here was
//! cut by hand. What becomes of no range (the cut failed) is forgotten after a while.

use super::{MetaState, row};
use crate::check::Fingerprint;
use crate::descriptor::RangeDescriptor;
use crate::error::Error;
use crate::ids::RangeId;
use crate::request::Response;
use crate::state::SystemRow;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Rows of these ranges.
pub(super) const ROW: u8 = b'U';
/// A cut that has not happened when so many other ids have been given does not happen.
const UNUSED_MAX: u64 = 1024;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Automatic(BTreeSet<RangeId>);

impl Automatic {
    pub(super) fn load(&mut self, range: RangeId) {
        self.0.insert(range);
    }

    /// Adds nothing where there is nothing: as before there were any.
    pub(super) fn hash(&self, hash: &mut Fingerprint) {
        if !self.0.is_empty() {
            hash.value(&self.0);
        }
    }

    pub(super) fn forget(&mut self, range: RangeId, rows: &mut Vec<SystemRow>) {
        if self.0.remove(&range) {
            row::<bool>(rows, ROW, range.0, None);
        }
    }
}

impl MetaState {
    /// This id is for a range that is cut off by itself.
    pub(super) fn mark_automatic(&mut self, range: RangeId, rows: &mut Vec<SystemRow>) {
        self.automatic.0.insert(range);
        row(rows, ROW, range.0, Some(&true));
        let old = self.automatic.0.iter().take_while(|old| old.0 + UNUSED_MAX < range.0);
        let unused: Vec<RangeId> =
            old.filter(|old| !self.logged.contains_key(old)).copied().collect();
        for old in unused {
            self.automatic.forget(old, rows);
        }
    }

    /// Does the range begin at a cut that nobody asked for?
    pub fn is_automatic(&self, range: RangeId) -> bool {
        self.automatic.0.contains(&range)
    }

    /// Somebody wants the range to begin where it does.
    ///
    /// # Errors
    /// The reason why it cannot be promised.
    pub(super) fn pin(
        &mut self,
        range: RangeId,
        rows: &mut Vec<SystemRow>,
    ) -> Result<Response, Error> {
        if !self.logged.contains_key(&range) {
            return Err(Error::Refused(format!("there is no range {range}")));
        }
        if self.merges.of(range).is_some_and(|merge| merge.right == range) {
            let error = format!("{range} is being taken in by its left neighbour: try again");
            return Err(Error::Refused(error));
        }
        self.automatic.forget(range, rows);
        let message = format!(
            "{range} starts there already, as the cluster has cut by itself: from now on it is not merged \
             with its left neighbour again, but by hand"
        );
        Ok(Response::Admin { message })
    }

    /// The next range after `range`, by id, that begins at such a cut.
    pub fn automatic_after(&self, range: RangeId) -> Option<RangeId> {
        let after = (Bound::Excluded(range), Bound::Unbounded);
        self.automatic.0.range(after).next().copied()
    }

    /// The range that ends where this one begins.
    pub fn left_of(&self, range: &RangeDescriptor) -> Option<&RangeDescriptor> {
        let before = (Bound::Unbounded, Bound::Excluded(range.span.start.as_ref()));
        let (_, left) = self.by_start.range::<[u8], _>(before).next_back()?;
        self.ranges.get(left).map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{MetaChange, MetaEntry};
    use crate::ids::{META_RANGE, NodeId, RequestId};
    use crate::key::Span;
    use crate::meta::Merge;
    use bytes::Bytes;
    use std::collections::BTreeMap;

    fn range(id: RangeId, start: &'static str, end: Option<&'static str>) -> RangeDescriptor {
        let start = Bytes::from_static(start.as_bytes());
        let span = Span { start, end: end.map(|end| Bytes::from_static(end.as_bytes())) };
        RangeDescriptor { id, span, generation: 1, replicas: Vec::new(), next_replica: 1 }
    }

    fn apply(meta: &mut MetaState, rows: &mut Vec<SystemRow>, change: MetaChange) {
        meta.apply(&MetaEntry { id: RequestId::default(), change }, rows);
    }

    fn register(descriptor: RangeDescriptor) -> MetaChange {
        let (parent, cut_off) = (None, Vec::new());
        MetaChange::Register { descriptor, term: 1, node: NodeId(1), parent, cut_off }
    }

    fn loaded(rows: &[SystemRow]) -> MetaState {
        let mut kept = BTreeMap::new();
        for row in rows {
            kept.insert(row.key.clone(), row.value.clone());
        }
        let kept = kept.iter().filter_map(|(key, value)| Some((key.as_ref(), value.as_deref()?)));
        MetaState::load(kept).expect("readable")
    }

    #[test]
    fn only_cuts_that_nobody_asked_for_are_marked_and_for_as_long_as_they_last() {
        let ranges = vec![range(META_RANGE, "", Some("")), range(RangeId(2), "", None)];
        let mut meta = MetaState::initial(1, Vec::new(), ranges);
        let mut rows = meta.all_rows();
        let plain = meta.fingerprint();
        assert_eq!(meta.automatic_after(META_RANGE), None, "what is there at first is by hand");
        apply(&mut meta, &mut rows, MetaChange::AllocateRange);
        apply(&mut meta, &mut rows, MetaChange::AllocateCut);
        let (by_hand, cut) = (RangeId(3), RangeId(4));
        apply(&mut meta, &mut rows, register(range(by_hand, "m", Some("t"))));
        apply(&mut meta, &mut rows, register(range(cut, "t", None)));
        for meta in [&meta, &loaded(&rows)] {
            assert!(meta.is_automatic(cut) && !meta.is_automatic(by_hand));
            assert_eq!(meta.automatic_after(META_RANGE), Some(cut));
            assert_eq!(meta.automatic_after(cut), None);
            assert_eq!(meta.left_of(&meta.ranges()[&cut]).map(|left| left.id), Some(by_hand));
            assert_eq!(meta.left_of(&meta.ranges()[&RangeId(2)]), None);
            assert_ne!(meta.fingerprint(), plain);
        }
        let mut pinned = meta.clone();
        let mut its = rows.clone();
        apply(&mut pinned, &mut its, MetaChange::Pin { range: cut });
        assert!(!pinned.is_automatic(cut) && !loaded(&its).is_automatic(cut), "as by hand");
        let (left, right) = (by_hand, cut);
        let merge = Merge { left, right, generations: None };
        apply(&mut pinned, &mut its, MetaChange::Merge(merge));
        assert!(pinned.pin(cut, &mut its).is_err(), "it may be gone soon");
        assert!(pinned.pin(by_hand, &mut its).is_ok(), "that one stays");
        let gone = vec![cut];
        let whole = RangeDescriptor { generation: 2, ..range(by_hand, "m", None) };
        let absorb = MetaChange::Absorb { descriptor: whole, term: 2, node: NodeId(1), gone };
        apply(&mut meta, &mut rows, absorb);
        assert!(!meta.is_automatic(cut) && !loaded(&rows).is_automatic(cut));
    }

    #[test]
    fn cuts_that_never_happened_are_forgotten() {
        let ranges = vec![range(META_RANGE, "", Some("")), range(RangeId(2), "", None)];
        let mut meta = MetaState::initial(1, Vec::new(), ranges);
        let mut rows = meta.all_rows();
        apply(&mut meta, &mut rows, MetaChange::AllocateCut);
        apply(&mut meta, &mut rows, register(range(RangeId(3), "m", None)));
        for _ in 0..3 * UNUSED_MAX {
            apply(&mut meta, &mut rows, MetaChange::AllocateCut);
        }
        assert!(meta.is_automatic(RangeId(3)) && !meta.is_automatic(RangeId(4)));
        assert!(meta.automatic.0.len() as u64 <= UNUSED_MAX + 2);
        assert_eq!(loaded(&rows).automatic, meta.automatic);
    }
}
