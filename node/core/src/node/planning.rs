//! When the planner is asked, what it is shown, and that its steps are asked for.
//!
//! The meta range's leader looks at all ranges only if something has changed that matters for where
//! copies go, as long as there is something to do, and once in a while to be sure: with very many ranges
//! a look is work.
//!
//! Invariants: nothing is remembered that a plan depends on; whatever changes a plan leads to a look
//! within [`PLAN_MS`], or [`LOOK_MS`] if its news was lost.

use super::Node;
use super::routing::Owner;
use crate::command::MetaChange;
use crate::descriptor::{NodeRecord, RangeDescriptor};
use crate::effects::Millis;
use crate::ids::{META_RANGE, NodeId};
use crate::level::Level;
use crate::message::RangeRequest;
use crate::planner::{self, NodeSight, Plan, RangeSight, Step, Survey};

/// Pause between two looks at the directory.
const PLAN_MS: Millis = 300;
/// The same while copies are made, which wait for it after each of their steps: as long as there are no
/// more ranges than [`FEW_RANGES`].
const STEP_MS: Millis = 100;
/// With more ranges a look costs too much to be taken so often.
const FEW_RANGES: usize = 1_000;
/// Between two looks for copies that would be better off elsewhere, as long as there are none.
const SPREAD_MS: Millis = 2_000;
/// Between two looks if nothing has happened.
const LOOK_MS: Millis = 30_000;

/// What is known of the last look.
#[derive(Debug, Default)]
pub(super) struct Planning {
    /// When it is time for the next one.
    at: Millis,
    /// When to look also for copies that would be better off elsewhere.
    spread_at: Millis,
    /// When to look whatever happens.
    look_at: Millis,
    /// The directory has changed since.
    changed: bool,
    /// Nobody has looked since the last change whether copies are better off elsewhere.
    spread_owed: bool,
    /// Who answered.
    answering: Vec<NodeId>,
    /// What came of it.
    plan: Plan,
}

impl Planning {
    /// Something has changed that may matter for where copies go.
    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    /// The last plan.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Does a change of the meta range matter for where copies go?
    pub(super) fn concerns(change: &MetaChange) -> bool {
        match change {
            MetaChange::Register { .. }
            | MetaChange::Join { .. }
            | MetaChange::Announce(_)
            | MetaChange::SetNodeState { .. }
            | MetaChange::Condemn { .. }
            | MetaChange::Retire { .. }
            | MetaChange::Move { .. }
            | MetaChange::MoveEnded { .. }
            | MetaChange::DrainFor { .. }
            | MetaChange::DrainExpired { .. }
            | MetaChange::Want { .. }
            | MetaChange::Merge(_)
            | MetaChange::MergeEnded(_)
            | MetaChange::Absorb { .. }
            | MetaChange::Facts { .. }
            | MetaChange::Domain { .. }
            | MetaChange::Room { .. }
            | MetaChange::SetPolicy { .. }
            | MetaChange::RemovePolicy { .. } => true,
            MetaChange::Reserve { .. }
            | MetaChange::Handover { .. }
            | MetaChange::Takeover { .. }
            | MetaChange::AllocateRange
            | MetaChange::AllocateCut
            | MetaChange::Raise { .. }
            | MetaChange::Pin { .. }
            | MetaChange::LeaseGrant { .. }
            | MetaChange::LeaseRevoking { .. }
            | MetaChange::LeaseRemoved { .. }
            | MetaChange::LeaseAttach { .. }
            | MetaChange::Compact { .. }
            | MetaChange::Alarm { .. }
            | MetaChange::Commit { .. }
            | MetaChange::Settle { .. }
            | MetaChange::Forget { .. }
            | MetaChange::Checked(_) => false,
        }
    }
}

impl Node {
    /// Looks for nodes whose fate has changed, for ranges with replicas on nodes that are to lose them,
    /// with too few or too many, and for copies to spread.
    pub(super) fn plan_members(&mut self) {
        let now = self.now;
        if now < self.planning.at {
            return;
        }
        self.planning.at = now + PLAN_MS;
        self.publish_meta_members();
        self.plan_nodes();
        self.end_moves();
        self.cut_at_bounds();
        let nodes = self.meta.nodes().keys().copied();
        let answering: Vec<NodeId> = nodes.filter(|node| self.answers(*node)).collect();
        let known = &self.planning;
        let news = known.changed || known.answering != answering || now >= known.look_at;
        let owed = known.spread_owed || news;
        let spread = owed && now >= known.spread_at;
        if !news && !spread && known.plan.steps.is_empty() {
            return;
        }
        let plan = planner::plan(&Survey { spread, ..self.survey() });
        let done = spread && plan.steps.is_empty();
        let spread_at = if done { now + SPREAD_MS } else { known.spread_at };
        let steps = plan.steps.clone();
        let soon = !steps.is_empty() && self.meta.ranges().len() <= FEW_RANGES;
        self.planning = Planning {
            at: now + if soon { STEP_MS } else { PLAN_MS },
            spread_at,
            look_at: now + LOOK_MS,
            changed: false,
            spread_owed: owed && !done,
            answering,
            plan,
        };
        // What they lead to at once is news for the next look.
        for Step { range, add, remove, swap, generation, .. } in steps {
            let body = match (add, remove) {
                (Some(add), Some(remove)) if swap => {
                    RangeRequest::SwapVoters { add, remove, generation }
                }
                (add, remove) => RangeRequest::ChangeReplicas { add, remove, generation },
            };
            self.internal_request(Owner::Nobody, range, body);
        }
    }

    /// Learns of a range from a peer or a replica here, maybe earlier than by the meta range's log.
    pub(super) fn learn(&mut self, descriptor: &RangeDescriptor) {
        if self.meta.learn(descriptor) {
            self.planning.changed();
        }
    }

    /// What the planner is shown.
    pub(super) fn survey(&self) -> Survey<'_> {
        let sight = |record: &NodeRecord| NodeSight {
            state: record.state,
            answers: self.answers(record.id),
            facts: self.meta.facts_of(record.id),
        };
        let nodes = self.meta.nodes().values();
        Survey {
            nodes: nodes.map(|record| (record.id, sight(record))).collect(),
            ranges: self.meta.ranges().values().map(|range| self.sight(range)).collect(),
            copies_max: self.meta.most_copies(),
            spread: false,
            swaps: self.meta.level() >= Level::VOTERS,
        }
    }

    pub(super) fn sight<'a>(&self, descriptor: &'a RangeDescriptor) -> RangeSight<'a> {
        let leader = match descriptor.id {
            // Its leader registers only when its members have changed.
            META_RANGE => self.meta_leader(),
            range => self.meta.registration(range).map(|registered| registered.node),
        };
        RangeSight {
            descriptor,
            leader,
            wanted: self.meta.copies_meant(descriptor),
            way: self.move_step(descriptor).or_else(|| self.together_step(descriptor)),
            merging: self.meta.merges().of(descriptor.id).is_some(),
        }
    }
}
