//! Policies in the model: what the cluster makes of them, and what must hold.

use super::World;
use crate::api::placement::{Policy, PolicyState};
use crate::api::status::OperationType;
use crate::observe::PolicyView;
use crate::plan::Plan;
use crate::plan::operations::Outcome;
use crate::plan::placement::Change;

/// The prefix that the resource names.
const NAMED: &str = "named/";

/// A policy that somebody set by command: nothing of the operator's.
pub(super) fn by_hand() -> PolicyView {
    PolicyView { prefix: "by-hand/".to_owned(), replicas: 3, ranges: 1, complete: 1 }
}

impl World {
    fn policies(&mut self) -> &mut Vec<PolicyView> {
        self.truth.policies.as_mut().unwrap()
    }

    /// The most copies that any range is to have.
    pub(super) fn copies(&self) -> usize {
        let policies = self.truth.policies.iter().flatten();
        policies.map(|policy| policy.replicas as usize).max().unwrap_or(0)
    }

    /// The resource asks for them, unless the API server would refuse that.
    pub(super) fn ask_for_copies(&mut self, copies: Option<i32>) {
        let spec = &mut self.fixture.cluster.spec;
        let nodes = spec.nodes;
        let policy = |replicas| Policy { prefix: NAMED.to_owned(), replicas, allow_fewer: true };
        spec.placement.policies =
            copies.filter(|copies| *copies <= nodes).map(policy).into_iter().collect();
    }

    pub(super) fn make_copies(&mut self) {
        for policy in self.policies() {
            policy.ranges = policy.ranges.max(1);
            policy.complete = policy.ranges;
        }
    }

    /// The cluster's own rules.
    pub(super) fn change_policy(&mut self, change: &Change) -> Outcome {
        if self.blind || self.truth.alive() * 2 <= self.truth.nodes.len() {
            return Outcome::Failed("no answer in time".to_owned());
        }
        assert_eq!(change.prefix(), NAMED.as_bytes(), "that is not the resource's");
        let nodes = &self.truth.nodes;
        let stay = nodes.iter().filter(|it| !self.leaving.contains(&it.id)).count();
        let all_answer = nodes.iter().all(crate::observe::Member::is_alive);
        let known = self.policies().iter().any(|policy| policy.prefix == NAMED);
        match change {
            Change::Set { .. } if !all_answer => {
                return Outcome::Refused("one does not answer".to_owned());
            }
            Change::Set { replicas, .. } if *replicas as usize > stay => {
                return Outcome::Refused("more than there are nodes".to_owned());
            }
            Change::Remove { .. } if !known => {
                return Outcome::Refused("there is no policy for it".to_owned());
            }
            _ => {}
        }
        self.policies().retain(|policy| policy.prefix != NAMED);
        if let Change::Set { replicas, .. } = change {
            let replicas = *replicas as i32;
            let policy = PolicyView { prefix: NAMED.to_owned(), replicas, ..Default::default() };
            self.policies().push(policy);
        }
        Outcome::Accepted(String::new())
    }

    /// What must hold of what is asked.
    pub(super) fn check_placing(plan: &Plan) {
        let Some(change) = &plan.placing.change else { return };
        assert_eq!(plan.action, None, "two things at once");
        let operation = plan.status.operation.as_ref();
        let busy = operation.is_some_and(|it| it.kind != OperationType::Reprotect);
        assert!(!busy, "a policy is changed while something is done to a node");
        let own = &plan.status.placement.policies;
        assert!(
            own.iter().any(|own| own.prefix.as_bytes() == change.prefix()),
            "a change without its intent: {change:?}"
        );
    }

    /// All ended well: the cluster has what the resource asks for, and what others set.
    pub(super) fn check_policies(&self) {
        let wanted = &self.fixture.cluster.spec.placement.policies;
        let all = self.truth.policies.as_ref().unwrap();
        let named = all.iter().find(|policy| policy.prefix == NAMED).map(|it| it.replicas);
        let status = &self.fixture.status().placement;
        assert_eq!(named, wanted.first().map(|policy| policy.replicas), "{status:#?}");
        assert!(all.contains(&by_hand()), "{all:?}");
        assert_eq!(status.policies.len(), wanted.len(), "{status:#?}");
        assert!(status.policies.iter().all(|own| own.state == PolicyState::Met), "{status:#?}");
    }
}
