//! The directory's part in merges: which are under way, and which ranges are gone.
//!
//! Invariants: of two neighbours at most one merge is under way, and none names a range that is gone;
//! a range that is gone never comes back into the directory, whoever speaks of it, and nobody may
//! serve it; what it was made of is said by where it went.

use super::{MetaState, row};
use crate::check::Divergence;
use crate::descriptor::{RangeDescriptor, Registration};
use crate::ids::{NodeId, RangeId, Term};
use crate::state::SystemRow;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Rows of merges under way, by the left range.
const MERGE_ROW: u8 = b'Y';
/// Rows of ranges that are gone.
const GONE_ROW: u8 = b'Z';

/// A merge under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// The range that stays.
    pub left: RangeId,
    /// The one that it takes in.
    pub right: RangeId,
    /// The generations of both from which it begins: while one of them lasts, it may happen. `None`
    /// while the right range's copies go to the nodes of the left one's.
    pub generations: Option<(u64, u64)>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merges {
    under_way: BTreeMap<RangeId, Merge>,
    gone: BTreeMap<RangeId, RangeId>,
}

impl Merges {
    /// Those under way, by the left range.
    pub fn under_way(&self) -> &BTreeMap<RangeId, Merge> {
        &self.under_way
    }

    /// The one that a range takes part in.
    pub fn of(&self, range: RangeId) -> Option<&Merge> {
        self.under_way.values().find(|merge| merge.left == range || merge.right == range)
    }

    /// Ranges that are gone, each with the one that took it in.
    pub fn gone(&self) -> &BTreeMap<RangeId, RangeId> {
        &self.gone
    }

    /// The range that has the keys of one that is gone, and those on the way there.
    pub fn way(&self, range: RangeId) -> impl Iterator<Item = RangeId> + '_ {
        let next = |range: &RangeId| self.gone.get(range).copied();
        std::iter::successors(next(&range), move |range| next(range))
    }

    /// Reads one of its rows.
    pub(super) fn load(&mut self, key: &[u8], value: &[u8]) -> Result<bool, String> {
        match key.first() {
            Some(&MERGE_ROW) => {
                let merge: Merge = read(value)?;
                self.under_way.insert(merge.left, merge);
            }
            Some(&GONE_ROW) => {
                let (range, into): (RangeId, RangeId) = read(value)?;
                self.gone.insert(range, into);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn end(&mut self, left: RangeId, rows: &mut Vec<SystemRow>) {
        self.under_way.remove(&left);
        row::<Merge>(rows, MERGE_ROW, left.0, None);
    }
}

fn read<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    postcard::from_bytes(value).map_err(|error| format!("malformed row of a merge: {error}"))
}

impl MetaState {
    /// Merges, and what is gone by them.
    pub fn merges(&self) -> &Merges {
        &self.merges
    }

    /// Was the range taken in by another?
    pub fn is_gone(&self, range: RangeId) -> bool {
        self.merges.gone.contains_key(&range)
    }

    /// A merge is asked for, or its generations are known now.
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn begin_merge(
        &mut self,
        merge: &Merge,
        rows: &mut Vec<SystemRow>,
    ) -> Result<(), String> {
        let Merge { left, right, .. } = *merge;
        for range in [left, right] {
            if !self.logged.contains_key(&range) {
                return Err(format!("there is no range {range}"));
            }
            if let Some(other) = self.merges.of(range)
                && (other.left, other.right) != (left, right)
            {
                return Err(format!("{range} takes part in another merge"));
            }
        }
        // One that has begun goes on with what it began with.
        if self.merges.under_way.get(&left).is_some_and(|known| known.generations.is_some()) {
            return Ok(());
        }
        row(rows, MERGE_ROW, left.0, Some(merge));
        self.merges.under_way.insert(left, *merge);
        Ok(())
    }

    pub(super) fn end_merge(&mut self, merge: &Merge, rows: &mut Vec<SystemRow>) {
        if self.merges.under_way.get(&merge.left) == Some(merge) {
            self.merges.end(merge.left, rows);
        }
    }

    /// A range has taken others in. In one step they are gone, nobody may serve them, and the leader
    /// of what they are now may.
    pub(super) fn absorb(
        &mut self,
        descriptor: &RangeDescriptor,
        (term, node): (Term, NodeId),
        gone: &[RangeId],
        rows: &mut Vec<SystemRow>,
    ) {
        let into = descriptor.id;
        for range in gone {
            if self.is_gone(*range) || *range == into {
                continue;
            }
            self.remove_range(*range, rows);
            row(rows, GONE_ROW, range.0, Some(&(*range, into)));
            self.merges.gone.insert(*range, into);
            for (id, lease) in &mut self.leases {
                if lease.ranges.remove(range) {
                    lease.ranges.insert(into);
                    row(rows, b'L', *id as u64, Some(&*lease));
                }
            }
            let over = self.merges.of(*range).map(|merge| merge.left);
            if let Some(left) = over {
                self.merges.end(left, rows);
            }
        }
        if !self.is_gone(into) {
            let generation = descriptor.generation;
            self.register(descriptor, Registration { term, node, generation }, None, rows);
        }
    }

    fn remove_range(&mut self, range: RangeId, rows: &mut Vec<SystemRow>) {
        if let Some(known) = self.ranges.remove(&range)
            && self.by_start.get(&known.span.start) == Some(&range)
        {
            self.by_start.remove(&known.span.start);
        }
        self.logged.remove(&range);
        row::<RangeDescriptor>(rows, b'R', range.0, None);
        self.registrations.remove(&range);
        row::<Registration>(rows, b'G', range.0, None);
        self.automatic.forget(range, rows);
        if self.moves.remove(&range).is_some() {
            row::<super::Move>(rows, b'M', range.0, None);
        }
        if let Some(known) = self.divergences.get(&range).cloned() {
            self.checked(&Divergence { replicas: Vec::new(), ..known }, rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{MetaChange, MetaEntry};
    use crate::ids::{META_RANGE, RequestId};
    use crate::key::Span;
    use bytes::Bytes;

    fn range(id: u64, start: &'static str, end: &'static str) -> RangeDescriptor {
        let span = Span {
            start: Bytes::from_static(start.as_bytes()),
            end: (!end.is_empty()).then(|| Bytes::from_static(end.as_bytes())),
        };
        RangeDescriptor {
            id: RangeId(id),
            span,
            generation: 1,
            replicas: Vec::new(),
            next_replica: 1,
        }
    }

    fn apply(meta: &mut MetaState, rows: &mut Vec<SystemRow>, change: MetaChange) {
        meta.apply(&MetaEntry { id: RequestId::default(), change }, rows);
    }

    fn registered(descriptor: RangeDescriptor, term: Term) -> MetaChange {
        let (parent, cut_off) = (None, Vec::new());
        MetaChange::Register { descriptor, term, node: NodeId(1), parent, cut_off }
    }

    #[test]
    fn what_is_gone_stays_gone() {
        let ranges = vec![
            RangeDescriptor { id: META_RANGE, ..range(1, "", "") },
            range(2, "", "m"),
            range(3, "m", ""),
        ];
        let mut meta = MetaState::initial(1, Vec::new(), ranges);
        let mut rows = meta.all_rows();
        apply(&mut meta, &mut rows, registered(range(3, "m", ""), 5));
        apply(&mut meta, &mut rows, MetaChange::LeaseGrant { id: 9, ttl: 10 });
        apply(&mut meta, &mut rows, MetaChange::LeaseAttach { id: 9, range: RangeId(3) });
        let merge = Merge { left: RangeId(2), right: RangeId(3), generations: Some((1, 1)) };
        apply(&mut meta, &mut rows, MetaChange::Merge(merge));
        assert_eq!(meta.merges().of(RangeId(3)), Some(&merge));
        let whole = RangeDescriptor { generation: 2, ..range(2, "", "") };
        let absorb = MetaChange::Absorb {
            descriptor: whole.clone(),
            term: 7,
            node: NodeId(1),
            gone: vec![RangeId(3)],
        };
        apply(&mut meta, &mut rows, absorb);
        // Late words of its leader, and of the other's from before.
        apply(&mut meta, &mut rows, registered(range(3, "m", ""), 6));
        apply(&mut meta, &mut rows, registered(range(2, "", "m"), 7));
        meta.learn(&range(3, "m", ""));
        let mut kept = BTreeMap::new();
        for row in rows {
            kept.insert(row.key, row.value);
        }
        let kept = kept.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let loaded = MetaState::load(kept.map(|(key, value)| (key.as_ref(), value.as_ref())));
        for meta in [&meta, &loaded.expect("readable")] {
            assert!(meta.is_gone(RangeId(3)) && meta.merges().under_way().is_empty());
            assert_eq!(meta.registration(RangeId(3)), None, "nobody may serve it");
            assert_eq!(meta.registration(RangeId(2)).map(|held| held.generation), Some(2));
            assert_eq!(meta.range_of(b"x"), Some(&whole));
            assert_eq!(meta.ranges_in(&Span::all()), std::slice::from_ref(&whole));
            assert!(meta.leases()[&9].ranges.iter().eq([&RangeId(2)]));
            assert!(meta.merges().way(RangeId(3)).eq([RangeId(2)]));
        }
    }
}
