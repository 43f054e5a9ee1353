//! How much the ranges do, for the meta range's leader: every node tells it of those that it leads.
//!
//! Kept in memory only, and not for long: what is not told again says nothing any more.
//!
//! Invariants: one message a node every two seconds, with a bounded number of ranges; none to a node of
//! a version that does not know it; nothing is kept of nodes that the cluster does not have.

use super::Node;
use crate::descriptor::NodeState;
use crate::effects::Millis;
use crate::ids::{META_RANGE, NodeId, RangeId};
use crate::level::Level;
use crate::message::{LoadReport, Message};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Between two reports.
const REPORT_MS: Millis = 2_000;
/// What was told so long ago says nothing any more.
const STALE_MS: Millis = 10_000;
/// Ranges in a report: those with the most requests.
const RANGES_MAX: usize = 64;

/// What nodes have reported, and when this one does next.
#[derive(Debug, Default)]
pub(super) struct Reports {
    report_at: Millis,
    known: BTreeMap<NodeId, (Millis, LoadReport)>,
}

/// Requests a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Loads {
    /// Of ranges that do much.
    pub(super) ranges: BTreeMap<RangeId, u64>,
    /// Of all other ranges that a node leads.
    pub(super) rest: BTreeMap<NodeId, u64>,
}

impl Node {
    /// Tells the meta range's leader of the ranges led here.
    pub(super) fn report_tick(&mut self) {
        let shaping = self.config.shaping;
        if !shaping.counts() || shaping.ranks_loads_after_ms == 0 {
            return;
        }
        if self.now < self.reports.report_at || self.meta.level() < Level::SHAPING {
            return;
        }
        let Some(to) = self.meta_leader().filter(|to| self.level_of(*to) >= Level::SHAPING) else {
            return;
        };
        self.reports.report_at = self.now + REPORT_MS;
        // What sleeps does nothing.
        let led = self.awake.iter().filter_map(|range| self.replicas.get(range));
        let led = led.filter(|replica| replica.range != META_RANGE && replica.holds_lease());
        let rates = led.map(|replica| (replica.range, replica.growth.load.rate()));
        let mut ranges: Vec<_> = rates.filter(|(_, rate)| *rate > 0).collect();
        ranges.sort_unstable_by_key(|(range, rate)| (Reverse(*rate), *range));
        let rest = ranges.iter().skip(RANGES_MAX).map(|(_, rate)| rate).sum();
        ranges.truncate(RANGES_MAX);
        self.send(to, Message::Loads(LoadReport { ranges, rest }));
    }

    /// A node has told what its ranges do.
    pub(super) fn reported(&mut self, from: NodeId, mut report: LoadReport) {
        if self.sequencer.is_active() && self.meta.nodes().contains_key(&from) {
            report.ranges.truncate(RANGES_MAX);
            self.reports.known.insert(from, (self.now, report));
            let nodes = self.meta.nodes();
            self.reports.known.retain(|node, _| nodes.contains_key(node));
        }
    }

    /// What all nodes in service have told lately; `None` if one has not, or if some range is not led
    /// by the one that should lead it: that is about to change.
    pub(super) fn loads(&self) -> Option<Loads> {
        let mut loads = Loads::default();
        for record in self.meta.nodes().values() {
            if record.state == NodeState::Tombstoned {
                continue;
            }
            let (at, report) = self.reports.known.get(&record.id)?;
            if *at + STALE_MS < self.now {
                return None;
            }
            loads.rest.insert(record.id, report.rest);
            for (range, rate) in &report.ranges {
                let Some(descriptor) = self.meta.ranges().get(range) else { continue };
                if descriptor.voters().next().is_some_and(|first| first.node != record.id) {
                    return None;
                }
                loads.ranges.insert(*range, *rate);
            }
        }
        Some(loads)
    }
}
