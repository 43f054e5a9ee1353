//! What to do next: `plan(resource, observed, now)`, pure.
//!
//! Invariants: at most one disruptive action a loop, and none unless its intent stands in the status
//! first; an unknown state leads to no disruptive action; the same input gives the same plan; every
//! plan says when to look again.

mod estimate;
pub mod guards;
pub mod health;
pub mod operations;
pub mod placement;
pub mod recovery;
mod replace;
pub mod scale;

use crate::api::spec::{HoldfastClusterSpec, ReprotectionMode};
use crate::api::status::{
    Blocked, HoldfastClusterStatus, Operation, Protection, Ranges, Store, StoreState,
};
use crate::api::{HoldfastCluster, REPLACE_ANNOTATION};
use crate::build::{names, pod};
use crate::observe::Observed;
use health::{Delays, Seen, whole_seconds};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use std::collections::BTreeMap;
use std::time::Duration;

/// Something that disturbs a node. Its intent is in the status as an [`Operation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the cluster to make the copies of a node anew elsewhere.
    Reprotect {
        /// The node.
        node: u64,
        /// The operation's id.
        operation: String,
        /// Its epoch.
        epoch: u64,
    },
    /// Ask the cluster to move everything away from a node, for [`scale::DRAIN_TTL`] at a time.
    Drain {
        /// The node.
        node: u64,
    },
    /// Take that back.
    Undrain {
        /// The node.
        node: u64,
    },
    /// Delete a pod, so that it is made anew.
    DeletePod {
        /// Its name.
        pod: String,
        /// Its UID; another pod of this name is left alone.
        uid: String,
    },
    /// Delete a pod's volume claim, then the pod.
    Replace {
        /// Its name.
        pod: String,
        /// The UID of the pod, if there is one.
        pod_uid: Option<String>,
        /// The UID of the claim, if it still has to be deleted.
        volume_uid: Option<String>,
        /// The Kubernetes node that has to be gone at that very moment, if the cluster still counts on
        /// the volume.
        gone_host: Option<String>,
    },
}

/// Something worth an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// True for a warning.
    pub warning: bool,
    /// `ReprotectionStarted` and so on.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

/// Whether the gateway sends clients to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InGateway {
    /// Its name.
    pub pod: String,
    /// Its UID; another pod of this name is left alone.
    pub uid: String,
    /// Whether it does.
    pub wanted: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The status to write before anything is done; its conditions are those of before.
    pub status: HoldfastClusterStatus,
    /// Pods that the gateway is to send clients to, or not to any more; before the action.
    pub gateway: Vec<InGateway>,
    /// At most one disruptive action, to be done once the status is written.
    pub action: Option<Action>,
    /// The next step of a recovery, to be done once the status is written; never besides an action.
    pub recovery: Option<recovery::Step>,
    /// A recovery keeps all pods from running.
    pub stopped: bool,
    /// What to say to the cluster about where copies go, once the status is written.
    pub placing: placement::Placing,
    /// What to tell.
    pub notices: Vec<Notice>,
    /// Look again after this time.
    pub requeue: Duration,
    /// Every range is known to have all its copies.
    pub fully_replicated: bool,
    /// What is due but held: the guard and a sentence.
    pub held: Option<(String, String)>,
}

/// Everything that guards and decisions read.
#[derive(Debug)]
pub struct Context<'a> {
    /// What is asked for.
    pub spec: &'a HoldfastClusterSpec,
    /// What is there.
    pub observed: &'a Observed,
    /// Now.
    pub now: Timestamp,
    /// All nodes with their new states.
    pub stores: Vec<Store>,
    /// What is under way.
    pub operation: Option<&'a Operation>,
    /// The newest time in the status.
    pub newest_time: Option<Timestamp>,
    /// `spec.reprotection.observeFor`.
    pub observe_for: Duration,
    /// `spec.reprotection.delay`.
    pub delay: Duration,
    /// The pod that somebody wants to have a new volume.
    pub replace_request: Option<String>,
    /// How many pods there are to be now.
    pub pods: i32,
}

/// How soon to look again while something moves. What has not moved for long is looked at less often, a
/// tenth of that time: clusters that never form must not take turns from those that live, and what
/// Kubernetes notices wakes a reconcile anyway.
const SOON: Duration = Duration::from_secs(3);
/// How soon to look again while nothing does.
const CALM: Duration = Duration::from_secs(10);

/// Decides. `valid` is false while the spec breaks a rule: then only the state is followed.
pub fn plan(cluster: &HoldfastCluster, observed: &Observed, valid: bool, now: Timestamp) -> Plan {
    let previous = cluster.status.clone().unwrap_or_default();
    let name = cluster.name_any();
    let mut status = previous.clone();
    status.selector = names::selector_text(&name);
    status.template_revision.get_or_insert(pod::CURRENT_REVISION);
    let mut notices = Vec::new();
    for dead in replace::forget_dead(observed.report.as_ref(), &mut status) {
        let note = format!("store {} of {} is gone for ever", dead.store_id, dead.pod);
        notices.push(Notice { warning: false, reason: "StoreTombstoned", note });
    }
    let observed = observed.without_volumes(&status.given_up);
    let observed = observed.as_ref();
    if valid {
        foundation(cluster, observed, &mut status);
        latch(observed, &mut status, &mut notices);
    }
    let pods = if valid { scale::up(&cluster.spec, &status) } else { status.nodes };
    status.nodes = pods;
    counts(&name, observed, &mut status);
    report(observed, &previous, now, &mut status);

    let delays = Delays {
        delay: cluster.spec.reprotection.delay.or(Duration::from_mins(10)),
        drain_delay: cluster.spec.reprotection.drain_delay.or(Duration::from_mins(30)),
        armed: cluster.spec.reprotection.mode != ReprotectionMode::Off,
    };
    let acts = valid && !cluster.spec.paused;
    let recovery = recover(cluster, observed, &mut status, acts, now);
    let stores = if recovery.stops_all() {
        // Nobody is away: they were told to stop.
        previous.stores.clone()
    } else {
        let known = without(&previous, &recovery.renewed);
        stores(&name, pods, &known, observed, delays, now)
    };
    let operation = status.operation.take().filter(|_| !recovery.supersedes);
    let mut context = Context {
        spec: &cluster.spec,
        observed,
        now,
        stores,
        operation: None,
        newest_time: newest_time(&previous),
        observe_for: cluster.spec.reprotection.observe_for.or(Duration::from_mins(1)),
        delay: delays.delay,
        replace_request: cluster.annotations().get(REPLACE_ANNOTATION).cloned(),
        pods,
    };
    let mut decided = operations::Decided::default();
    let busy = operation.is_some() || recovery.disturbs();
    if recovery.disturbs() {
        decided.operation = operation;
    } else if let Some(operation) = operation {
        operations::go_on(&context, operation, &mut status, &mut decided);
    }
    let under_way = decided.operation.clone();
    // What an operation has changed is looked at once more before the next begins.
    if !busy && acts {
        operations::begin(&context, &mut status, &mut decided);
    } else if decided.operation.is_some() {
        context.operation = under_way.as_ref();
        decided.blocked.retain(|(action, _)| !action.starts_with("Reprotect/"));
        decided.blocked.extend(operations::due_but_busy(&context));
    }
    if !acts {
        decided.action = None;
    }
    let step = recovery.step.clone().filter(|_| acts && decided.action.is_none());
    decided.blocked.extend(recovery.blocked.clone());
    let placing = if acts && !recovery.disturbs() && step.is_none() {
        placement::place(&context, &mut status, &mut decided)
    } else {
        placement::Placing::default()
    };
    notices.append(&mut decided.notices);
    notices.extend(recovery.notices.iter().cloned());
    health_notices(&previous, &context.stores, &mut notices);
    let mut stores = context.stores;
    operations::mark(&mut stores, &previous, observed, decided.operation.as_ref());
    status.stores = stores;
    status.operation = decided.operation;
    status.blocked_by = blocked(&previous, decided.blocked, now);
    let fully_replicated = observed.report.as_ref().is_some_and(|report| {
        report.ranges.total > 0 && report.ranges.fully_replicated == report.ranges.total
    });
    status.next = next(&cluster.spec, &status, observed, valid, fully_replicated);
    let phase = |status: &HoldfastClusterStatus| status.recovery.as_ref().map(|it| it.phase);
    let moves = decided.action.is_some()
        || step.is_some()
        || !placing.is_empty()
        || phase(&previous) != phase(&status)
        || previous.operation.is_some() != status.operation.is_some();
    let requeue = requeue(&status, observed, moves, fully_replicated, now);
    let held = held(&status);
    let gateway = if acts { scale::gateway(observed, &status) } else { vec![] };
    Plan {
        status,
        gateway,
        action: decided.action,
        recovery: step,
        stopped: recovery.stops_all(),
        placing,
        notices,
        requeue,
        fully_replicated,
        held,
    }
}

/// Goes on with a recovery; while nothing may be done, it stays as it is.
fn recover(
    cluster: &HoldfastCluster,
    observed: &Observed,
    status: &mut HoldfastClusterStatus,
    acts: bool,
    now: Timestamp,
) -> recovery::Decided {
    let previous = status.recovery.take();
    let decided = if acts {
        let seen = recovery::Seen {
            cluster: &cluster.name_any(),
            request: cluster.spec.recovery.as_ref(),
            observed,
            bootstrapped: status.bootstrapped,
            pods: status.nodes,
            operation: status.operation.as_ref(),
            now,
        };
        recovery::step(previous.as_ref(), seen)
    } else {
        recovery::Decided { status: previous, ..recovery::Decided::default() }
    };
    status.recovery.clone_from(&decided.status);
    decided
}

/// The same without what is known of nodes that are gone for ever.
fn without<'a>(
    status: &'a HoldfastClusterStatus,
    pods: &[String],
) -> std::borrow::Cow<'a, HoldfastClusterStatus> {
    let mut status = std::borrow::Cow::Borrowed(status);
    if !pods.is_empty() {
        status.to_mut().stores.retain(|store| !pods.contains(&store.pod));
    }
    status
}

/// What a cluster is founded with, decided once.
fn foundation(cluster: &HoldfastCluster, observed: &Observed, status: &mut HoldfastClusterStatus) {
    let live = observed.stateful_set.as_ref();
    if status.bootstrap_nodes.is_none() {
        // A status that was lost, for example because the resource was restored from a backup.
        let known = live.and_then(|live| live.bootstrap_nodes);
        status.bootstrap_nodes = Some(known.unwrap_or(cluster.spec.nodes));
        status.bootstrapped |= live.is_some_and(|live| live.bootstrapped);
        if status.nodes == 0 {
            status.nodes = live.map_or(0, |live| live.replicas);
        }
    }
}

/// From the first time that the nodes say that they are a cluster, they are one for ever.
fn latch(observed: &Observed, status: &mut HoldfastClusterStatus, notices: &mut Vec<Notice>) {
    let Some(report) = &observed.report else { return };
    if report.cluster.is_empty() || report.ranges.total == 0 || !report.has_quorum() {
        return;
    }
    if !status.bootstrapped {
        status.bootstrapped = true;
        notices.push(Notice {
            warning: false,
            reason: "Bootstrapped",
            note: format!("{} nodes formed cluster {}", report.nodes.len(), report.cluster),
        });
    }
    status.cluster_id.get_or_insert_with(|| report.cluster.clone());
}

fn counts(name: &str, observed: &Observed, status: &mut HoldfastClusterStatus) {
    let wanted = observed.stateful_set.as_ref().and_then(|set| set.update_revision.as_deref());
    let mine =
        (0..status.nodes).filter_map(|ordinal| observed.pods.get(&names::pod(name, ordinal)));
    let (mut ready, mut updated) = (0, 0);
    for pod in mine {
        ready += i32::from(pod.ready && !pod.terminating);
        updated += i32::from(wanted.is_some() && pod.revision.as_deref() == wanted);
    }
    status.ready_nodes = ready;
    if wanted.is_some() || observed.stateful_set.is_none() {
        status.updated_nodes = updated;
    }
}

fn report(
    observed: &Observed,
    previous: &HoldfastClusterStatus,
    now: Timestamp,
    status: &mut HoldfastClusterStatus,
) {
    let mut seconds_left = None;
    let (state, bytes) = match &observed.report {
        Some(report) => {
            let counts = report.ranges;
            status.ranges = Some(Ranges {
                total: counts.total,
                available: counts.total - counts.unavailable,
                fully_replicated: counts.fully_replicated,
                under_replicated: counts.total - counts.fully_replicated,
                unavailable: counts.unavailable,
            });
            seconds_left = report.reprotection.and_then(|progress| progress.seconds_left);
            (report.protection.clone(), report.bytes_remaining)
        }
        None => {
            status.ranges = None;
            ("Unknown".to_owned(), 0)
        }
    };
    let step = 16 << 20;
    let bytes_remaining = bytes.div_ceil(step) as i64 * step as i64;
    let since = match &previous.protection {
        Some(before) if before.state == state => before.since.clone(),
        _ => Some(Time(whole_seconds(now))),
    };
    let told = previous.protection.as_ref().and_then(|before| before.estimated_end.as_ref());
    let estimated_end = estimate::end(told.map(|told| told.0), seconds_left, now).map(Time);
    status.protection = Some(Protection { state, since, bytes_remaining, estimated_end });
}

fn stores(
    name: &str,
    pods: i32,
    previous: &HoldfastClusterStatus,
    observed: &Observed,
    delays: Delays,
    now: Timestamp,
) -> Vec<Store> {
    let known: BTreeMap<&str, &Store> =
        previous.stores.iter().map(|store| (store.pod.as_str(), store)).collect();
    (0..pods)
        .map(|ordinal| {
            let pod_name = names::pod(name, ordinal);
            let fresh = Store { pod: pod_name.clone(), ..Store::default() };
            let before = known.get(pod_name.as_str()).map_or(&fresh, |store| *store);
            let pod = observed.pods.get(&pod_name);
            let host_name = pod.and_then(|pod| pod.host.as_ref()).or(before.node.as_ref());
            let seen = Seen {
                pod,
                host: host_name.and_then(|host| observed.hosts.as_ref()?.get(host)),
                member: observed.report.as_ref().map(|report| report.member(&pod_name)),
            };
            health::step(before, seen, delays, now)
        })
        .collect()
}

fn newest_time(status: &HoldfastClusterStatus) -> Option<Timestamp> {
    let down = status.stores.iter().filter_map(|store| store.down_since.as_ref());
    let operation = status.operation.iter().map(|operation| &operation.started_at);
    let blocked = status.blocked_by.iter().map(|blocked| &blocked.since);
    down.chain(operation).chain(blocked).map(|time| time.0).max()
}

fn health_notices(previous: &HoldfastClusterStatus, stores: &[Store], notices: &mut Vec<Notice>) {
    let is_down = |store: &Store| store.down_since.is_some();
    for store in stores {
        let Some(before) = previous.stores.iter().find(|before| before.pod == store.pod) else {
            continue;
        };
        if is_down(store) && !is_down(before) {
            let until = store.act_at.as_ref().map_or_else(String::new, |at| {
                format!("; its copies are made anew at {} unless it comes back", at.0)
            });
            notices.push(Notice {
                warning: true,
                reason: "StoreDown",
                note: format!("{} is away{until}", store.pod),
            });
        } else if is_down(before) && !is_down(store) && store.state == StoreState::Healthy {
            notices.push(Notice {
                warning: false,
                reason: "StoreRecovered",
                note: format!("{} is back", store.pod),
            });
        }
    }
}

fn blocked(
    previous: &HoldfastClusterStatus,
    due: Vec<(String, guards::Refusal)>,
    now: Timestamp,
) -> Vec<Blocked> {
    due.into_iter()
        .map(|(action, (guard, message))| {
            let before =
                previous.blocked_by.iter().find(|old| old.action == action && old.guard == guard);
            let since =
                before.map_or_else(|| Time(whole_seconds(now)), |before| before.since.clone());
            Blocked { action, guard: guard.to_owned(), message, since }
        })
        .collect()
}

fn held(status: &HoldfastClusterStatus) -> Option<(String, String)> {
    let due = |blocked: &&Blocked| blocked.action.starts_with("Reprotect/");
    if let Some(blocked) = status.blocked_by.iter().find(due) {
        return Some((blocked.guard.clone(), format!("{}: {}", blocked.action, blocked.message)));
    }
    if let Some(operation) = &status.operation
        && operation.phase == crate::api::status::Phase::Refused
    {
        let message = operation.message.clone().unwrap_or_default();
        return Some(("Refused".to_owned(), format!("the cluster refuses: {message}")));
    }
    let waiting = status.stores.iter().filter(|store| store.act_at.is_some());
    let first = waiting.min_by_key(|store| store.act_at.as_ref().map(|at| at.0))?;
    let reason = if first.state == StoreState::Draining { "NodeDraining" } else { "WaitingDelay" };
    let at = first.act_at.as_ref()?.0;
    Some((reason.to_owned(), format!("{} has until {at} to come back", first.pod)))
}

fn next(
    spec: &HoldfastClusterSpec,
    status: &HoldfastClusterStatus,
    observed: &Observed,
    valid: bool,
    fully_replicated: bool,
) -> String {
    if !valid {
        return "wait until the spec is corrected".to_owned();
    }
    if spec.paused {
        return "nothing while spec.paused is true".to_owned();
    }
    if let Some(recovery) = status.recovery_under_way() {
        return format!("recovery {}, {:?}: {}", recovery.id, recovery.phase, recovery.message);
    }
    if let Some(operation) = &status.operation {
        return operations::next(operation, status);
    }
    let waiting = status.stores.iter().filter(|store| store.act_at.is_some());
    if let Some(store) = waiting.min_by_key(|store| store.act_at.as_ref().map(|at| at.0)) {
        let at = store.act_at.as_ref().map(|at| at.0.to_string()).unwrap_or_default();
        return match status.blocked_by.first() {
            Some(blocked) => {
                format!("{} once {} allows it: {}", blocked.action, blocked.guard, blocked.message)
            }
            None => format!("make the copies of {} anew at {at} unless it comes back", store.pod),
        };
    }
    if let Some(blocked) = status.blocked_by.first() {
        return format!("{} once {} allows it: {}", blocked.action, blocked.guard, blocked.message);
    }
    if !status.bootstrapped {
        return format!("wait until {} pods formed the cluster", status.nodes);
    }
    if status.ready_nodes < status.nodes {
        return format!("wait until all {} pods are ready", status.nodes);
    }
    if observed.report.is_none() {
        return "ask the nodes again how they are".to_owned();
    }
    if let Some(next) = placement::next(status) {
        return next;
    }
    if !fully_replicated {
        return "wait until every range has all its copies".to_owned();
    }
    "nothing to do".to_owned()
}

fn requeue(
    status: &HoldfastClusterStatus,
    observed: &Observed,
    acts: bool,
    fully_replicated: bool,
    now: Timestamp,
) -> Duration {
    if acts {
        return Duration::from_secs(1);
    }
    let recovers = status.recovery_under_way().is_some();
    let moving = recovers
        || status.operation.is_some()
        || !status.bootstrapped
        || observed.report.is_none()
        || !fully_replicated
        || status.ready_nodes < status.nodes
        || placement::is_moving(status)
        || status.stores.iter().any(|store| store.state != StoreState::Healthy);
    let mut wait = if moving { (observed.quiet_for / 10).clamp(SOON, CALM) } else { CALM };
    for at in status.stores.iter().filter_map(|store| store.act_at.as_ref()) {
        if at.0 > now {
            let left = at.0.duration_since(now).unsigned_abs();
            wait = wait.min(left.max(Duration::from_millis(200)));
        }
    }
    wait
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
