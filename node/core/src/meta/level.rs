//! The cluster's level: what all of its nodes understand. See [`crate::level`].
//!
//! Invariants: it never goes back; a build that does not know it stops.

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

    /// # Panics
    /// If this build does not know the level: what follows in the log may be what it cannot read.
    pub(super) fn raise(&mut self, level: Level, rows: &mut Vec<SystemRow>) {
        level.check_known().unwrap_or_else(|reason| panic!("{reason}"));
        if level > self.level {
            self.level = level;
            row(rows, ROW, 0, Some(&level));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{MetaChange, MetaEntry};
    use crate::ids::RequestId;

    const LATER: Level = Level(Level::NEWEST.0 + 1);

    #[test]
    #[should_panic(expected = "start this node with the version of the other nodes")]
    fn a_build_stops_where_the_log_goes_over_to_what_it_does_not_know() {
        let change = MetaChange::Raise { level: LATER };
        MetaState::default()
            .apply(&MetaEntry { id: RequestId::default(), change }, &mut Vec::new());
    }

    #[test]
    fn a_build_does_not_start_on_what_it_does_not_know() {
        let key = [ROW, 0, 0, 0, 0, 0, 0, 0, 0];
        let load = |level: Level| {
            let value = postcard::to_stdvec(&level).expect("encodable");
            MetaState::load([(&key[..], &value[..])].into_iter())
        };
        assert_eq!(load(Level::NEWEST).expect("known").level(), Level::NEWEST);
        let reason = load(LATER).expect_err("of a later build");
        assert!(reason.contains("start this node with the version of the other nodes"), "{reason}");
    }
}
