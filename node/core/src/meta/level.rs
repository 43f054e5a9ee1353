//! The cluster's level: what all of its nodes understand. See [`crate::level`].
//!
//! Invariant: it never goes back.

use super::{MetaState, row};
use crate::level::Level;
use crate::state::SystemRow;

/// Its row.
pub(super) const ROW: u8 = b'V';

impl MetaState {
    /// What every node understands: nothing newer may be in a message or in the log.
    pub fn level(&self) -> Level {
        self.level
    }

    pub(super) fn raise(&mut self, level: Level, rows: &mut Vec<SystemRow>) {
        if level > self.level {
            self.level = level;
            row(rows, ROW, 0, Some(&level));
        }
    }
}
