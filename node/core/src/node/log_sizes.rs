//! How much log this node keeps, and which part of it may stay: one budget for all ranges together.
//!
//! Invariants: an entry counts at least [`ENTRY_MIN`], since memory is kept for each; what was there at
//! the start counts as entries of that size, so after a restart up to twice the budget may be kept, until
//! it was cut once.

use crate::ids::{Index, RangeId};
use std::collections::BTreeMap;

/// What an entry counts at least, bytes.
const ENTRY_MIN: u64 = 512;

/// What a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// What its entries are on average, bytes.
    pub average: u64,
    /// How many of them may stay for members that are behind.
    pub most: Index,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LogSizes {
    sizes: BTreeMap<RangeId, u64>,
    total: u64,
}

impl LogSizes {
    /// So many entries were there at the start.
    pub(super) fn found(&mut self, range: RangeId, entries: Index) {
        self.set(range, entries.saturating_mul(ENTRY_MIN));
    }

    /// These were written; each is so many bytes long.
    pub(super) fn written(&mut self, range: RangeId, entries: impl Iterator<Item = usize>) {
        let more: u64 = entries.map(|bytes| ENTRY_MIN.max(bytes as u64)).sum();
        if more > 0 {
            self.set(range, self.size(range).saturating_add(more));
        }
    }

    /// Of `held` entries `left` are left.
    pub(super) fn cut(&mut self, range: RangeId, held: Index, left: Index) {
        self.set(range, part(self.size(range), left, held));
    }

    /// The log of a range is gone, or begins anew.
    pub(super) fn forget(&mut self, range: RangeId) {
        self.set(range, 0);
    }

    /// What a log of `held` entries may keep.
    pub(super) fn share(&self, range: RangeId, held: Index, budget: u64) -> Share {
        let average = (self.size(range) / held.max(1)).max(ENTRY_MIN);
        let most = if self.total <= budget { Index::MAX } else { part(held, budget, self.total) };
        Share { average, most }
    }

    /// The logs that take most, together far more than the budget: they are cut even if nothing was
    /// written to them. Empty if that is not so.
    pub(super) fn too_large(&self, budget: u64) -> Vec<RangeId> {
        if self.total <= budget.saturating_add(budget / 8) {
            return Vec::new();
        }
        let even = self.total / self.sizes.len().max(1) as u64;
        let large = self.sizes.iter().filter(|(_, size)| **size >= even);
        large.map(|(range, _)| *range).collect()
    }

    /// What a log takes, bytes.
    pub(super) fn size(&self, range: RangeId) -> u64 {
        self.sizes.get(&range).copied().unwrap_or(0)
    }

    fn set(&mut self, range: RangeId, size: u64) {
        let before =
            if size == 0 { self.sizes.remove(&range) } else { self.sizes.insert(range, size) };
        self.total = self.total - before.unwrap_or(0) + size;
    }
}

/// `all * some / of`, rounded down.
fn part(all: u64, some: u64, of: u64) -> u64 {
    u64::try_from(u128::from(all) * u128::from(some) / u128::from(of.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RangeId = RangeId(2);
    const B: RangeId = RangeId(3);

    #[test]
    fn all_ranges_share_one_budget() {
        let mut logs = LogSizes::default();
        logs.written(A, [8_000; 100].into_iter());
        assert_eq!(logs.share(A, 100, 1_000_000), Share { average: 8_000, most: Index::MAX });
        logs.written(B, [10; 1_000].into_iter());
        // 800,000 and 512,000 bytes: each keeps the same part.
        assert_eq!(logs.share(A, 100, 656_000), Share { average: 8_000, most: 50 });
        assert_eq!(logs.share(B, 1_000, 656_000), Share { average: 512, most: 500 });
        logs.cut(A, 100, 50);
        logs.cut(B, 1_000, 500);
        assert_eq!(logs.share(A, 50, 656_000).most, Index::MAX, "it fits now");
        logs.forget(A);
        assert_eq!(logs.total, 256_000);
        logs.found(B, 7);
        assert_eq!((logs.total, logs.size(A)), (7 * 512, 0));
    }

    #[test]
    fn logs_that_nobody_writes_to_are_cut_as_well_when_they_take_most() {
        let mut logs = LogSizes::default();
        logs.written(A, [1_000; 900].into_iter());
        logs.written(B, [1_000; 100].into_iter());
        assert!(logs.too_large(1_000_000).is_empty());
        assert_eq!(logs.too_large(500_000), [A]);
    }
}
