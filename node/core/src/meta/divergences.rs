//! What the meta range remembers of replicas that differ.
//!
//! Invariant: a node has the alarm as long as one of its replicas is known to differ, or nobody has
//! taken notice.

use super::{MetaState, row};
use crate::check::Divergence;
use crate::request::AlarmKind;
use crate::state::SystemRow;

impl MetaState {
    /// Replicas of a range differ, or do not any more: the alarm of their nodes follows.
    pub(super) fn checked(&mut self, found: &Divergence, rows: &mut Vec<SystemRow>) {
        let range = found.range;
        let before = self.divergences.remove(&range);
        for old in before.iter().flat_map(|before| &before.replicas) {
            let still = self.divergences.values().flat_map(|other| &other.replicas);
            if !still.into_iter().any(|other| other.node == old.node) {
                self.scalars.alarms.remove(&(old.node, AlarmKind::Corrupt));
            }
        }
        if found.replicas.is_empty() {
            row::<Divergence>(rows, b'D', range.0, None);
        } else {
            let alarms = found.replicas.iter().map(|own| (own.node, AlarmKind::Corrupt));
            self.scalars.alarms.extend(alarms);
            row(rows, b'D', range.0, Some(found));
            self.divergences.insert(range, found.clone());
        }
        self.scalars_row(rows);
    }

    /// Whoever disarms the alarm has taken notice: what no node has an alarm for is forgotten, until
    /// the next check finds it again.
    pub(super) fn forgive(&mut self, rows: &mut Vec<SystemRow>) {
        let alarms = &self.scalars.alarms;
        self.divergences.retain(|range, divergence| {
            let mut nodes = divergence.replicas.iter().map(|own| own.node);
            let keep = nodes.any(|node| alarms.contains(&(node, AlarmKind::Corrupt)));
            if !keep {
                row::<Divergence>(rows, b'D', range.0, None);
            }
            keep
        });
    }
}
