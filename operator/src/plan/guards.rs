//! What has to hold before the copies of a lost node are made anew: the guards, in order. The first
//! that does not hold is shown.
//!
//! Invariant: pure, and every doubt counts against acting. The cluster checks again by itself; these
//! keep the operator from even asking.

mod room;
mod zones;

use super::Context;
use crate::api::spec::{ReplacementPolicy, ReprotectionMode};
use crate::api::status::{Store, StoreState};
use crate::observe::{Member, Report};
use crate::validate::percent;
use jiff::{SignedDuration, Timestamp};

/// Clocks of operators may differ by this much.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(5);

/// No node could take more copies.
pub const NO_SPARE: &str = "NoSpareStore";

/// A guard that does not hold: its name, and why, as a sentence.
pub type Refusal = (&'static str, String);

/// Checks all guards for making the copies of `store` anew.
pub fn reprotect(context: &Context<'_>, store: &Store) -> Result<(), Refusal> {
    warmed_up(context)?;
    confirmed(context)?;
    quorum(context)?;
    zones::no_zone_away(context)?;
    few_unhealthy(context)?;
    nothing_else(context)?;
    spare_store(context, store)?;
    room::room(context, store)?;
    wanted(context)?;
    clock(context)
}

/// Checks what has to hold before a lost node gets a new volume although its copies are nowhere else yet,
/// because nobody could take them but the node that comes with that volume: as many nodes as copies.
/// Returns the Kubernetes node that has to be gone still when it is done, unless a human decided.
///
/// # Errors
/// The first guard that does not hold.
pub fn replace_first(context: &Context<'_>, store: &Store) -> Result<Option<String>, Refusal> {
    warmed_up(context)?;
    confirmed(context)?;
    quorum(context)?;
    zones::no_zone_away(context)?;
    few_unhealthy(context)?;
    nothing_else(context)?;
    overdue(context, store)?;
    if spare_store(context, store).is_ok() {
        return Err(("SpareStore", format!("other nodes can take the copies of {}", store.pod)));
    }
    others_well(context, store)?;
    let host = gone_for_good(context, store)?;
    wanted(context)?;
    clock(context)?;
    Ok(host)
}

/// It is away, and the delay is over.
fn overdue(context: &Context<'_>, store: &Store) -> Result<(), Refusal> {
    match &store.act_at {
        Some(at) if at.0 <= context.now => Ok(()),
        Some(at) => Err(("WaitingDelay", format!("{} has until {} to come back", store.pod, at.0))),
        None => Err(("StoreAlive", format!("{} is not away", store.pod))),
    }
}

/// Nobody else is unwell or silent: the others have to do without the volume that is given up.
fn others_well(context: &Context<'_>, store: &Store) -> Result<(), Refusal> {
    let Some(report) = &context.observed.report else { return confirmed(context) };
    let unwell = context.stores.iter().find(|other| {
        // One that never served, or that is gone for good, has nothing that anybody relies on.
        let counts = other.served && other.store_id.is_some_and(|id| report.by_id(id).is_some());
        let well = other.state == StoreState::Healthy && other.reason.is_none();
        other.pod != store.pod && counts && !well
    });
    if let Some(other) = unwell {
        return Err(("StoreNotHealthy", format!("{} is {:?}", other.pod, other.state)));
    }
    let silent = report.nodes.iter().find(|member| {
        let itself = Some(member.id as i64) == store.store_id;
        !(itself || member.given_up || member.is_alive() || member.state == "Joining")
    });
    match silent {
        Some(node) => {
            Err(("StoreNotHealthy", format!("store {} of {} does not answer", node.id, node.name)))
        }
        None => Ok(()),
    }
}

/// G1: this operator has watched the cluster for long enough.
pub fn warmed_up(context: &Context<'_>) -> Result<(), Refusal> {
    let wanted = context.observe_for;
    if context.observed.report.is_some() && context.observed.fresh_for < wanted {
        return Err((
            "OperatorWarmup",
            format!("the operator watches the cluster for {} s first", wanted.as_secs()),
        ));
    }
    Ok(())
}

/// G2: the nodes say how they are.
pub fn confirmed(context: &Context<'_>) -> Result<(), Refusal> {
    if context.observed.report.is_none() {
        let why = context.observed.report_error.as_deref().unwrap_or("no node was asked yet");
        return Err(("StatusStale", format!("no node tells how the cluster is: {why}")));
    }
    // What they said before is good enough to show, and to stop a clock, but not to act on.
    if let Some(why) = &context.observed.report_error {
        return Err(("StatusStale", format!("no node tells just now how the cluster is: {why}")));
    }
    Ok(())
}

/// G3: the cluster can decide, and serves every range without the node.
pub fn quorum(context: &Context<'_>) -> Result<(), Refusal> {
    let Some(report) = &context.observed.report else { return confirmed(context) };
    if !report.has_quorum() {
        return Err((
            "NoQuorum",
            format!("only {} of {} nodes answer", report.alive(), report.places()),
        ));
    }
    if report.ranges.unavailable > 0 {
        return Err((
            "NoQuorum",
            format!("{} ranges have no majority; a human has to decide", report.ranges.unavailable),
        ));
    }
    Ok(())
}

/// G4: too many nodes at once are the network's fault. Those that are gone for good, or that the cluster
/// never knew, are not: they are accounted for, and only wait for a new volume.
pub fn few_unhealthy(context: &Context<'_>) -> Result<(), Refusal> {
    let unhealthy = context
        .stores
        .iter()
        .filter(|store| !gone(context, store))
        .filter(|store| {
            !matches!(store.state, StoreState::Healthy | StoreState::Pending | StoreState::Leaving)
                || store.reason.is_some()
        })
        .count();
    let share = percent(&context.spec.reprotection.max_unhealthy).unwrap_or(0) as usize;
    let allowed = (context.stores.len() * share / 100).max(1);
    if unhealthy > allowed {
        return Err((
            "TooManyUnhealthy",
            format!("{unhealthy} nodes are unwell at once, more than {allowed}"),
        ));
    }
    Ok(())
}

/// It is accounted for: the cluster knows that it can never come back, or never knew it.
fn gone(context: &Context<'_>, store: &Store) -> bool {
    match (&context.observed.report, store.store_id) {
        (Some(report), Some(id)) => report.by_id(id).is_none(),
        (Some(report), None) => report.member(&store.pod).is_none(),
        (None, _) => false,
    }
}

/// G5 and G8: one thing at a time, also with restarts.
pub fn nothing_else(context: &Context<'_>) -> Result<(), Refusal> {
    match context.operation {
        Some(operation) => Err((
            "OtherOperation",
            format!("{:?} of {} is under way", operation.kind, operation.pod),
        )),
        None => Ok(()),
    }
}

/// G6: some node can take the copies.
pub fn spare_store(context: &Context<'_>, store: &Store) -> Result<(), Refusal> {
    let Some(report) = &context.observed.report else { return confirmed(context) };
    let able = report
        .nodes
        .iter()
        .filter(|member| member.state == "Up" && Some(member.id as i64) != store.store_id)
        .count();
    let copies = super::placement::copies_needed(context);
    if able >= copies as usize {
        return Ok(());
    }
    let way_out = if report
        .nodes
        .iter()
        .any(|it| it.given_up && Some(it.id as i64) == store.store_id)
    {
        format!("waits until {} joins with its new volume", store.pod)
    } else {
        let host = store.node.as_deref().unwrap_or("it is on");
        format!(
            "raise nodes; or, if Kubernetes node {host} is gone for good, delete it or taint it out-of-service; or ask for a new volume with the annotation {}={}",
            crate::api::REPLACE_ANNOTATION,
            store.pod
        )
    };
    let why = format!("{able} nodes are up for {copies} copies of each range: {way_out}");
    Err((NO_SPARE, why))
}

/// G7: nobody asked for peace.
fn wanted(context: &Context<'_>) -> Result<(), Refusal> {
    match context.spec.reprotection.mode {
        _ if context.spec.paused => Err(("Paused", "spec.paused is true".to_owned())),
        ReprotectionMode::Observe => {
            Err(("ObserveMode", "spec.reprotection.mode is Observe".to_owned()))
        }
        ReprotectionMode::Off => Err(("Off", "spec.reprotection.mode is Off".to_owned())),
        ReprotectionMode::Auto => Ok(()),
    }
}

/// G9: no time that was written down lies ahead.
pub fn clock(context: &Context<'_>) -> Result<(), Refusal> {
    if context.newest_time.is_some_and(|time| time > context.now + CLOCK_SKEW) {
        return Err((
            "ClockWentBack",
            "times in the status lie ahead of this operator's clock".to_owned(),
        ));
    }
    Ok(())
}

/// Every node is well, but for those in `except`, every range has all copies, and nothing else goes on:
/// what planned disruptions wait for.
pub fn calm(context: &Context<'_>, except: &[&str]) -> Result<(), Refusal> {
    confirmed(context)?;
    quorum(context)?;
    nothing_else(context)?;
    clock(context)?;
    let unwell = context.stores.iter().find(|store| {
        !except.contains(&store.pod.as_str())
            && (store.state != StoreState::Healthy || store.reason.is_some())
    });
    if let Some(store) = unwell {
        return Err(("StoreNotHealthy", format!("{} is {:?}", store.pod, store.state)));
    }
    let Some(report) = &context.observed.report else { return confirmed(context) };
    // One without a pod, or about to lose it, counts for majorities too.
    let has_place = |name: &str| context.stores.iter().any(|store| store.pod == name);
    let silent = report.nodes.iter().find(|node| {
        let well = node.is_alive() && has_place(&node.name);
        !well && node.state != "Joining" && !except.contains(&node.name.as_str())
    });
    if let Some(node) = silent {
        return Err((
            "StoreNotHealthy",
            format!("store {} of {} does not answer or has no pod", node.id, node.name),
        ));
    }
    if except.is_empty() { complete(report) } else { Ok(()) }
}

/// Every range has all its copies.
fn complete(report: &Report) -> Result<(), Refusal> {
    let missing = report.ranges.total - report.ranges.fully_replicated;
    if missing > 0 {
        return Err(("FullyReplicated", format!("{missing} ranges lack a copy")));
    }
    Ok(())
}

/// The node in this pod may be away for a moment: everything else is calm, and if it answers, then no
/// range lacks a copy, and most nodes answer also without it. Its own pod need not be ready.
pub fn spared(context: &Context<'_>, pod: &str) -> Result<(), Refusal> {
    let unready = context.observed.pods.get(pod).is_some_and(|view| !view.ready);
    calm(context, if unready { std::slice::from_ref(&pod) } else { &[] })?;
    let Some(report) = &context.observed.report else { return confirmed(context) };
    if !report.member(pod).is_some_and(Member::is_alive) {
        return Ok(());
    }
    complete(report)?;
    let others =
        report.nodes.iter().filter(|member| member.is_alive() && member.name != pod).count();
    let all = report.nodes.len().max(context.stores.len());
    // Of one or two, none is ever spared by the rest.
    if all > 2 && others * 2 <= all {
        return Err(("NoQuorum", format!("without {pod} only {others} of {all} nodes answer")));
    }
    Ok(())
}

/// Whether policy or a request says that the pod of a dead node gets a new volume.
pub fn replacement_due(context: &Context<'_>, store: &Store) -> Result<(), Refusal> {
    if context.replace_request.as_deref() == Some(store.pod.as_str()) {
        return Ok(());
    }
    match context.spec.replacement.policy {
        ReplacementPolicy::AfterReprotect => Ok(()),
        ReplacementPolicy::Manual => Err(manual(store)),
        ReplacementPolicy::WhenNodeGone => host_gone(context, store).map(drop),
    }
}

/// Whether the volume of a node that is not dead yet will never be seen again: a request says so, or
/// Kubernetes does and the policy goes by that.
fn gone_for_good(context: &Context<'_>, store: &Store) -> Result<Option<String>, Refusal> {
    if context.replace_request.as_deref() == Some(store.pod.as_str()) {
        return Ok(None);
    }
    match context.spec.replacement.policy {
        ReplacementPolicy::Manual => Err(manual(store)),
        ReplacementPolicy::WhenNodeGone | ReplacementPolicy::AfterReprotect => {
            host_gone(context, store).map(Some)
        }
    }
}

fn manual(store: &Store) -> Refusal {
    let annotation = crate::api::REPLACE_ANNOTATION;
    ("ManualReplacement", format!("waits for the annotation {annotation}={}", store.pod))
}

/// The Kubernetes node of the pod, if it does not exist any more or is declared out of service.
fn host_gone(context: &Context<'_>, store: &Store) -> Result<String, Refusal> {
    let Some(hosts) = &context.observed.hosts else {
        return Err((
            "NodesUnreadable",
            "the operator may not read Kubernetes nodes, so it cannot tell that one is gone"
                .to_owned(),
        ));
    };
    let Some(name) = &store.node else {
        return Err(("NodeUnknown", format!("{} has no Kubernetes node", store.pod)));
    };
    match hosts.get(name) {
        Some(host) if !host.out_of_service => Err((
            "NodeExists",
            format!("Kubernetes node {name} still exists: {} may come back", store.pod),
        )),
        _ => Ok(name.clone()),
    }
}

/// When a refused request is made again: later each time.
pub fn retry_at(refusals: i32, now: Timestamp) -> Timestamp {
    let seconds = 15_i64 << refusals.clamp(0, 5);
    super::health::whole_seconds(now) + SignedDuration::from_secs(seconds)
}
