//! The policies of the resource, and what nodes fail together with.
//!
//! Invariants: pure; a policy stands in the status before the cluster is asked for it, and until the cluster
//! has it no more; one that never stood there is left alone; at most one policy is changed a look, and none
//! while something is done to a node; a node's failure domain is told only where it is known.

use super::Context;
use super::guards::{self, Refusal};
use super::operations::{Decided, Outcome};
use crate::api::placement::{
    FailureDomainMode, Policy, PolicyState, PolicyStatus, Refused, prefix_bytes,
};
use crate::api::status::{HoldfastClusterStatus, OperationType};
use crate::observe::{Member, PolicyView, Report};
use crate::plan::Notice;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;

/// So many nodes are told at most in one look.
const TELL_AT_MOST: usize = 8;
/// Policies that the cluster takes, that of all keys among them.
const CLUSTER_MAX: usize = 100;

/// What is to be said to the cluster. Doing it twice is doing it once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placing {
    /// What nodes fail together with: number and domain.
    pub domains: Vec<(u64, String)>,
    /// At most one policy.
    pub change: Option<Change>,
}

/// A change of the cluster's policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Give the ranges under a prefix so many copies.
    Set {
        /// First bytes of their keys.
        prefix: Vec<u8>,
        /// How many.
        replicas: u32,
        /// Also fewer than the cluster was formed with.
        allow_fewer: bool,
    },
    /// Give them as many as those around them.
    Remove {
        /// As it was set.
        prefix: Vec<u8>,
    },
}

impl Placing {
    /// There is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty() && self.change.is_none()
    }
}

impl Change {
    /// First bytes of the keys that it is about.
    pub fn prefix(&self) -> &[u8] {
        match self {
            Self::Set { prefix, .. } | Self::Remove { prefix } => prefix,
        }
    }
}

/// The most copies that any range of the cluster is to have: as many nodes have to be there.
pub(super) fn copies_needed(context: &Context<'_>) -> i32 {
    let report = context.observed.report.as_ref();
    let policies = report.and_then(|report| report.policies.as_ref()).into_iter().flatten();
    policies.map(|policy| policy.replicas).max().unwrap_or(0).max(context.spec.replicas)
}

/// Decides what is to be said; the spec is valid and not paused.
pub(super) fn place(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) -> Placing {
    take_over(&context.spec.placement.policies, status);
    if !status.bootstrapped {
        return Placing::default();
    }
    Placing { domains: domains(context, status), change: policies(context, status, decided) }
}

/// What the spec names is the resource's from now on, and what was stays so until it is removed.
fn take_over(wanted: &[Policy], status: &mut HoldfastClusterStatus) {
    let mut own: BTreeMap<Vec<u8>, PolicyStatus> = BTreeMap::new();
    for policy in std::mem::take(&mut status.placement.policies) {
        // Whatever cannot be read was never asked for.
        if let Ok(bytes) = prefix_bytes(&policy.prefix) {
            own.insert(bytes, policy);
        }
    }
    let mut all = BTreeMap::new();
    for policy in wanted {
        let Ok(bytes) = prefix_bytes(&policy.prefix) else { continue };
        let before = own.remove(&bytes);
        let same = before.filter(|before| {
            before.replicas == policy.replicas && before.state != PolicyState::Removing
        });
        let now = PolicyStatus {
            prefix: policy.prefix.clone(),
            replicas: policy.replicas,
            state: same.as_ref().map_or(PolicyState::Pending, |same| same.state),
            ranges: same.as_ref().and_then(|same| same.ranges),
            complete: same.as_ref().and_then(|same| same.complete),
            refused: same.and_then(|same| same.refused),
        };
        all.insert(bytes, now);
    }
    for (bytes, before) in own {
        // Why it was not set is no reason not to remove it.
        let refused = before.refused.filter(|_| before.state == PolicyState::Removing);
        all.insert(bytes, PolicyStatus { state: PolicyState::Removing, refused, ..before });
    }
    status.placement.policies = all.into_values().collect();
}

/// The next change of a policy. What is new comes before what goes, so that keys which change their policy
/// do not lose copies in between; unless there is no room.
fn policies(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) -> Option<Change> {
    let report = context.observed.report.as_ref()?;
    let wanted = wanted(&context.spec.placement.policies);
    let seen = report.policies.as_ref().map(|all| seen(all));
    // What was said before is good enough to show, and not to forget anything.
    let certain = guards::confirmed(context).is_ok() && report.has_quorum();
    status.placement.policies.retain_mut(|own| {
        let Ok(bytes) = prefix_bytes(&own.prefix) else { return false };
        let view = seen.as_ref().map(|seen| seen.get(&bytes));
        match wanted.get(&bytes) {
            Some(policy) => {
                follow(policy, view.flatten(), own);
                true
            }
            // One that was never seen may have been taken on just now.
            None => !(certain && matches!(view, Some(None)) && own.ranges.is_some()),
        }
    });
    let full = report.policies.as_ref().is_some_and(|all| all.len() >= CLUSTER_MAX);
    let due = |own: &&PolicyStatus| {
        matches!(own.state, PolicyState::Pending | PolicyState::Refused | PolicyState::Removing)
    };
    let mut due: Vec<&PolicyStatus> = status.placement.policies.iter().filter(due).collect();
    due.sort_by_key(|own| (own.state == PolicyState::Removing) != full);
    let mut change = None;
    for own in due {
        let Ok(bytes) = prefix_bytes(&own.prefix) else { continue };
        let policy = wanted.get(&bytes).copied();
        let what = if policy.is_some() { "SetPolicy" } else { "RemovePolicy" };
        match may_change(context, report, policy, own, decided) {
            Err(refusal) => decided.hold(what, &own.prefix, refusal),
            Ok(()) if change.is_none() => {
                change = Some(match policy {
                    Some(policy) => Change::Set {
                        prefix: bytes,
                        replicas: policy.replicas.unsigned_abs(),
                        allow_fewer: policy.allow_fewer,
                    },
                    None => Change::Remove { prefix: bytes },
                });
            }
            // One after the other.
            Ok(()) => {}
        }
    }
    change
}

/// The policies of the spec by their prefixes.
fn wanted(policies: &[Policy]) -> BTreeMap<Vec<u8>, &Policy> {
    let read =
        policies.iter().filter_map(|policy| Some((prefix_bytes(&policy.prefix).ok()?, policy)));
    read.collect()
}

/// The policies of the cluster by their prefixes; that of all keys has none.
fn seen(policies: &[PolicyView]) -> BTreeMap<Vec<u8>, &PolicyView> {
    let read =
        policies.iter().filter_map(|policy| Some((prefix_bytes(&policy.prefix).ok()?, policy)));
    read.collect()
}

/// How far a policy of the spec is.
fn follow(wanted: &Policy, seen: Option<&&PolicyView>, own: &mut PolicyStatus) {
    let stands = seen.filter(|seen| seen.replicas == wanted.replicas);
    (own.ranges, own.complete) = match stands {
        Some(seen) => (Some(seen.ranges), Some(seen.complete)),
        None => (None, None),
    };
    own.state = match stands {
        Some(seen) if seen.ranges > 0 && seen.complete == seen.ranges => PolicyState::Met,
        Some(_) => PolicyState::Copying,
        None if own.refused.as_ref().is_some_and(|it| it.refusals > 0) => PolicyState::Refused,
        None => PolicyState::Pending,
    };
    if stands.is_some() {
        own.refused = None;
    }
}

/// Whether the cluster may be asked now.
fn may_change(
    context: &Context<'_>,
    report: &Report,
    policy: Option<&Policy>,
    own: &PolicyStatus,
    decided: &Decided,
) -> Result<(), Refusal> {
    guards::confirmed(context)?;
    guards::quorum(context)?;
    if report.policies.is_none() {
        let why = "the nodes are of a version that does not tell its policies: update spec.image";
        return Err(("NodesTooOld", why.to_owned()));
    }
    if let Some(policy) = policy {
        enough_nodes(report, policy)?;
    }
    // One that goes may be what a lost node's copies wait for.
    let heals = |kind| policy.is_none() && kind == OperationType::Reprotect;
    if let Some(operation) = decided.operation.as_ref().filter(|it| !heals(it.kind)) {
        let (kind, pod) = (operation.kind, &operation.pod);
        return Err(("OtherOperation", format!("{kind:?} of {pod} is under way")));
    }
    if decided.action.is_some() {
        return Err(("OtherOperation", "something is done to a node".to_owned()));
    }
    match &own.refused {
        Some(Refused { message, retry_at: Some(at), .. }) if at.0 > context.now => {
            Err(("Refused", format!("{message}; it is asked again at {}", at.0)))
        }
        _ => Ok(()),
    }
}

/// Every node answers, since an older one would stop at a policy, and there are as many as copies.
fn enough_nodes(report: &Report, policy: &Policy) -> Result<(), Refusal> {
    let silent = |member: &&Member| !member.is_alive() && member.state != "Joining";
    if let Some(silent) = report.nodes.iter().find(silent) {
        let why = format!("store {} of {} does not answer", silent.id, silent.name);
        return Err(("StoreNotHealthy", why));
    }
    let stay = report.nodes.iter().filter(|member| member.state != "Leaving").count();
    if stay < policy.replicas.unsigned_abs() as usize {
        let why = format!("{stay} nodes are there, and it asks for {} copies", policy.replicas);
        return Err(("TooFewNodes", why));
    }
    Ok(())
}

/// Nodes that are to be told what they fail together with.
fn domains(context: &Context<'_>, status: &mut HoldfastClusterStatus) -> Vec<(u64, String)> {
    let Some(report) = &context.observed.report else { return vec![] };
    // An older node would stop at it, so all have to say that they are not.
    let all_answer = report.nodes.iter().all(Member::is_alive);
    if !all_answer || guards::confirmed(context).is_err() || !report.has_quorum() {
        return vec![];
    }
    let news = context.stores.iter().filter_map(|store| {
        let member = report.member(&store.pod)?;
        let domain = domain(context, &store.pod)?;
        let told = member.names_failure_domain == Some(false) && member.failure_domain != domain;
        told.then_some((member.id, domain))
    });
    let news: Vec<(u64, String)> = news.take(TELL_AT_MOST).collect();
    let refused = &mut status.placement.failure_domain_refused;
    if news.is_empty() {
        *refused = None;
    }
    let retry_at = refused.as_ref().and_then(|refused| refused.retry_at.as_ref());
    if retry_at.is_some_and(|at| at.0 > context.now) { vec![] } else { news }
}

/// What the node in a pod fails together with; nothing if nobody knows.
fn domain(context: &Context<'_>, pod: &str) -> Option<String> {
    let pod = context.observed.pods.get(pod).filter(|pod| !pod.terminating)?;
    if context.spec.placement.failure_domain.mode == FailureDomainMode::None {
        return Some(String::new());
    }
    let host = context.observed.hosts.as_ref()?.get(pod.host.as_ref()?)?;
    Some(host.domain.clone().unwrap_or_default())
}

/// Writes down how a change of a policy went.
pub fn absorb_change(
    status: &mut HoldfastClusterStatus,
    change: &Change,
    outcome: Outcome,
    now: Timestamp,
) {
    let is_it = |own: &&mut PolicyStatus| {
        prefix_bytes(&own.prefix).is_ok_and(|bytes| bytes == change.prefix())
    };
    let Some(own) = status.placement.policies.iter_mut().find(is_it) else { return };
    let removal = matches!(change, Change::Remove { .. });
    let gone = matches!(&outcome, Outcome::Refused(why) if why.contains("there is no policy"));
    if removal && (gone || matches!(outcome, Outcome::Accepted(_))) {
        // The next report that does not show it is the end of it.
        own.ranges = Some(0);
        own.refused = None;
        return;
    }
    own.refused = refused(own.refused.take(), outcome, now);
    if !removal && own.refused.as_ref().is_some_and(|it| it.refusals > 0) {
        own.state = PolicyState::Refused;
    }
}

/// Writes down how the telling of a failure domain went.
pub fn absorb_domain(status: &mut HoldfastClusterStatus, outcome: Outcome, now: Timestamp) {
    let before = status.placement.failure_domain_refused.take();
    status.placement.failure_domain_refused = refused(before, outcome, now);
}

fn refused(before: Option<Refused>, outcome: Outcome, now: Timestamp) -> Option<Refused> {
    let refusals = before.map_or(0, |before| before.refusals);
    let plain = |message: &str| message.trim_start_matches("holdfast: ").to_owned();
    match outcome {
        Outcome::Accepted(_) => None,
        Outcome::Refused(message) => Some(Refused {
            message: plain(&message),
            retry_at: Some(Time(guards::retry_at(refusals, now))),
            refusals: refusals.saturating_add(1),
        }),
        Outcome::Failed(message) => Some(Refused { message, retry_at: None, refusals }),
    }
}

/// What of the spec's policies does not stand in the cluster yet, as a sentence.
pub fn pending(status: &HoldfastClusterStatus) -> Option<String> {
    let one = status.placement.policies.iter().find_map(|own| {
        let what = match own.state {
            PolicyState::Pending | PolicyState::Refused => "is not set yet",
            PolicyState::Removing => "is not removed yet",
            PolicyState::Copying | PolicyState::Met => return None,
        };
        Some((own, what))
    });
    let (own, what) = one?;
    let name = format!("/{}", own.prefix);
    let blocked = status
        .blocked_by
        .iter()
        .find(|blocked| blocked.action.ends_with(&name) && blocked.action.contains("Policy/"));
    let why =
        blocked.map(|blocked| &blocked.message).or_else(|| Some(&own.refused.as_ref()?.message));
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    Some(format!("the policy of {} {what}{why}", own.prefix))
}

/// What comes next about policies that the cluster has, as a sentence.
pub(super) fn next(status: &HoldfastClusterStatus) -> Option<String> {
    if let Some(pending) = pending(status) {
        return Some(format!("ask the cluster: {pending}"));
    }
    let copying = |own: &&PolicyStatus| own.state == PolicyState::Copying;
    let own = status.placement.policies.iter().find(copying)?;
    Some(format!("wait until all ranges under {} have {} copies", own.prefix, own.replicas))
}

/// What became of policies, for Events.
pub fn notices(before: &HoldfastClusterStatus, after: &HoldfastClusterStatus) -> Vec<Notice> {
    let find = |status: &HoldfastClusterStatus, prefix: &str| {
        status.placement.policies.iter().find(|own| own.prefix == prefix).cloned()
    };
    let mut notices = Vec::new();
    for own in &after.placement.policies {
        let old = find(before, &own.prefix);
        let prefix = &own.prefix;
        let why = |own: &PolicyStatus| own.refused.as_ref().map(|it| it.message.clone());
        if own.refused.as_ref().is_some_and(|it| it.refusals > 0)
            && why(own) != old.as_ref().and_then(why)
        {
            let note = format!("the policy of {prefix}: {}", why(own).unwrap_or_default());
            notices.push(Notice { warning: true, reason: "PolicyRefused", note });
        }
        let met = |own: &PolicyStatus| own.state == PolicyState::Met;
        if met(own) && !old.as_ref().is_some_and(met) {
            let note = format!("all ranges under {prefix} have {} copies", own.replicas);
            notices.push(Notice { warning: false, reason: "PolicyMet", note });
        }
    }
    for old in &before.placement.policies {
        if old.state == PolicyState::Removing && find(after, &old.prefix).is_none() {
            let note =
                format!("keys under {} have as many copies as those around them", old.prefix);
            notices.push(Notice { warning: false, reason: "PolicyRemoved", note });
        }
    }
    notices
}

/// Something about policies is still on its way.
pub(super) fn is_moving(status: &HoldfastClusterStatus) -> bool {
    status.placement.policies.iter().any(|own| own.state != PolicyState::Met)
}

#[cfg(test)]
mod tests;
