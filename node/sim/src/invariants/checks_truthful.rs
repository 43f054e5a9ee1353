//! A consistency check finds a difference only if there is one: under faults that break no promise of
//! the disks, never. It is how a row that is lost (a sabotage) is noticed, too.

use super::{Invariant, Nodes, Sight};

/// Looks at what nodes know of differences.
#[derive(Debug, Default)]
pub struct ChecksTruthful;

impl Invariant for ChecksTruthful {
    fn name(&self) -> &'static str {
        "checks truthful"
    }

    fn see(&mut self, _nodes: &Nodes, sight: &Sight<'_>) -> Result<(), String> {
        let Sight::Status { node, status } = sight else { return Ok(()) };
        match status.divergences.first() {
            Some(divergence) => Err(format!("{node} knows of {divergence:?}")),
            None => Ok(()),
        }
    }
}
