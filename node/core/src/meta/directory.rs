//! The directory: which range holds which keys, and who may serve it.
//!
//! Invariants: a descriptor gives way only to one of a higher generation; a range's registered term
//! never goes back. What peers tell is for routing only: applying an entry does not depend on it.

use super::{MetaState, row};
use crate::descriptor::{RangeDescriptor, Registration};
use crate::ids::{META_RANGE, RangeId};
use crate::state::SystemRow;
use std::ops::Bound;
use std::sync::Arc;

impl MetaState {
    /// The range that holds `key` (never the meta range).
    pub fn range_of(&self, key: &[u8]) -> Option<&RangeDescriptor> {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let (_, id) = self.by_start.range::<[u8], _>(upto).next_back()?;
        self.ranges.get(id).map(Arc::as_ref)
    }

    /// The ranges that `span` touches, in key order, without a gap between them: each goes on to
    /// where the next one starts, the last one to the end of all keys. A parent may not know of its
    /// cut yet; or it does, and nobody has told of the child. Whoever is asked for keys that are
    /// not its own says so, while a gap would be taken for keys that are not there.
    pub fn ranges_in(&self, span: &crate::key::Span) -> Vec<RangeDescriptor> {
        let mut found = Vec::new();
        let Some(first) = self.range_of(&span.start) else { return found };
        let from = first.span.start.clone();
        let mut ranges = self.by_start.range(from..).peekable();
        while let Some((start, id)) = ranges.next() {
            if span.end.as_ref().is_some_and(|end| start >= end) && *start > span.start {
                break;
            }
            let mut range = RangeDescriptor::clone(&self.ranges[id]);
            range.span.end = ranges.peek().map(|(next, _)| (*next).clone());
            if range.span.overlaps(span) {
                found.push(range);
            }
        }
        found
    }

    /// Learns of a newer descriptor from a peer. Only for routing; not durable. True if it is news.
    pub fn learn(&mut self, descriptor: &RangeDescriptor) -> bool {
        let newer = self
            .ranges
            .get(&descriptor.id)
            .is_none_or(|known| known.generation < descriptor.generation);
        let news = newer && descriptor.id != META_RANGE && !self.is_gone(descriptor.id);
        if news {
            self.set_range(descriptor.clone());
        }
        news
    }

    pub(super) fn set_range(&mut self, range: RangeDescriptor) {
        if range.id != META_RANGE {
            self.by_start.insert(range.span.start.clone(), range.id);
        }
        self.ranges.insert(range.id, Arc::new(range));
    }

    /// A descriptor came by the log.
    pub(super) fn log_range(&mut self, descriptor: &RangeDescriptor, rows: &mut Vec<SystemRow>) {
        row(rows, b'R', descriptor.id.0, Some(descriptor));
        self.logged.insert(descriptor.id, descriptor.generation);
        let known = self.ranges.get(&descriptor.id).map(|range| range.generation);
        if known.is_none_or(|known| known <= descriptor.generation) {
            self.set_range(descriptor.clone());
        }
    }

    pub(super) fn register(
        &mut self,
        descriptor: &RangeDescriptor,
        new: Registration,
        parent: Option<(RangeId, u64)>,
        rows: &mut Vec<SystemRow>,
    ) {
        let id = descriptor.id;
        if self.logged.get(&id).is_none_or(|known| *known < descriptor.generation) {
            self.log_range(descriptor, rows);
        }
        let old = self.registrations.get(&id).copied();
        let merged = match old {
            Some(old) if old.term > new.term => old,
            Some(old) => Registration { generation: old.generation.max(new.generation), ..new },
            None => new,
        };
        row(rows, b'G', id.0, Some(&merged));
        self.registrations.insert(id, merged);
        if let Some((parent, generation)) = parent {
            // A leader of the parent that has not applied the cut must not serve any more.
            if let Some(registration) = self.registrations.get_mut(&parent) {
                registration.generation = registration.generation.max(generation);
                row(rows, b'G', parent.0, Some(&*registration));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Span;
    use bytes::Bytes;

    fn range(id: u64, start: &'static str, end: Option<&'static str>) -> RangeDescriptor {
        let end = end.map(|end| Bytes::from_static(end.as_bytes()));
        RangeDescriptor {
            id: RangeId(id),
            span: Span { start: Bytes::from_static(start.as_bytes()), end },
            generation: id,
            replicas: Vec::new(),
            next_replica: 1,
        }
    }

    /// A range that ends where nobody is known to go on was cut, and the child is not known yet.
    #[test]
    fn there_is_no_gap() {
        let mut meta = MetaState::default();
        for known in [range(2, "", Some("c")), range(3, "d", Some("f"))] {
            meta.learn(&known);
        }
        let all = meta.ranges_in(&Span::all());
        assert_eq!(all, [range(2, "", Some("d")), range(3, "d", None)]);
        let gap = Span { start: Bytes::from_static(b"g"), end: None };
        assert_eq!(meta.ranges_in(&gap), [range(3, "d", None)]);
    }
}
