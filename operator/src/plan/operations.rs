//! Operations: begun one at a time, written down first, carried on by whichever operator comes next.
//!
//! Invariants: pure; an operation ends only when what it wanted is seen, or is not wanted any more;
//! doing its step twice is doing it once.

use super::guards::{self, Refusal};
use super::{Action, Context, Notice, replace, scale};
use crate::api::status::{
    HoldfastClusterStatus, Operation, OperationType, Phase, Store, StoreState,
};
use crate::build::names;
use crate::observe::Observed;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What was decided about operations.
#[derive(Debug, Default)]
pub struct Decided {
    /// What is under way now.
    pub operation: Option<Operation>,
    /// Its step, if one is due.
    pub action: Option<Action>,
    /// What is due but held.
    pub blocked: Vec<(String, Refusal)>,
    /// What to tell.
    pub notices: Vec<Notice>,
}

impl Decided {
    pub(super) fn start(&mut self, operation: Operation, action: Action) {
        self.operation = Some(operation);
        self.action = Some(action);
    }

    pub(super) fn hold(&mut self, what: &str, pod: &str, refusal: Refusal) {
        self.blocked.push((format!("{what}/{pod}"), refusal));
    }

    pub(super) fn tell(&mut self, warning: bool, reason: &'static str, note: String) {
        self.notices.push(Notice { warning, reason, note });
    }
}

/// A new operation with the next epoch.
pub(super) fn new(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    kind: OperationType,
    pod: &str,
    store_id: Option<i64>,
    uid: Option<String>,
) -> Operation {
    status.epoch += 1;
    let cluster = status.cluster_id.as_deref().unwrap_or("new");
    Operation {
        id: format!("{cluster}-{}", status.epoch),
        kind,
        pod: pod.to_owned(),
        store_id,
        uid,
        epoch: status.epoch,
        phase: Phase::Intended,
        started_at: Time(super::health::whole_seconds(context.now)),
        message: None,
        retry_at: None,
        refusals: 0,
    }
}

/// Carries on with what is under way.
pub(super) fn go_on(
    context: &Context<'_>,
    operation: Operation,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    match operation.kind {
        OperationType::Reprotect => reprotect(context, operation, decided),
        OperationType::ScaleDown => scale::go_on(context, operation, status, decided),
        OperationType::Undrain => {
            let report = context.observed.report.as_ref();
            let left = match (report, operation.store_id) {
                (Some(report), Some(id)) => report.by_id(id).is_none(),
                _ => false,
            };
            if left {
                // Too late: it has left for good, and its place needs an empty volume.
                scale::park(context, &operation, status);
            } else if report.is_none() || operation.phase != Phase::Accepted {
                // It ends when a report shows what became of it.
                retry(context, operation, decided, |operation| Action::Undrain {
                    node: operation.store_id.unwrap_or(0) as u64,
                });
            }
        }
        OperationType::Replace => replace::go_on(context, operation, status, decided),
        OperationType::Restart => {
            let same = context
                .observed
                .pods
                .get(&operation.pod)
                .filter(|pod| Some(&pod.uid) == operation.uid.as_ref());
            match same {
                Some(pod) if !pod.terminating => {
                    // What held when it was written down has to hold still; otherwise it is forgotten
                    // and begun again when everything is well.
                    let spared = guards::spared(context, &operation.pod);
                    if is_broken(context, &operation.pod) || spared.is_ok() {
                        let action =
                            Action::DeletePod { pod: operation.pod.clone(), uid: pod.uid.clone() };
                        decided.start(operation, action);
                    } else if let Err(refusal) = spared {
                        decided.hold("Restart", &operation.pod, refusal);
                    }
                }
                // It goes; whatever takes long from here on is a matter of health.
                _ => {}
            }
        }
    }
}

/// Asks again, at once after a fault in between, later after a refusal.
pub(super) fn retry(
    context: &Context<'_>,
    operation: Operation,
    decided: &mut Decided,
    action: impl FnOnce(&Operation) -> Action,
) {
    let due = match operation.phase {
        Phase::Intended => true,
        Phase::Refused => operation.retry_at.as_ref().is_none_or(|at| at.0 <= context.now),
        // A drain ends by itself if nobody asks for it once more.
        Phase::Accepted => {
            operation.kind == OperationType::ScaleDown
                && operation.retry_at.as_ref().is_none_or(|at| at.0 <= context.now)
        }
    };
    let action = due.then(|| action(&operation));
    decided.operation = Some(operation);
    decided.action = action;
}

fn reprotect(context: &Context<'_>, operation: Operation, decided: &mut Decided) {
    let store = context.stores.iter().find(|store| store.pod == operation.pod);
    let member = match (&context.observed.report, operation.store_id) {
        (Some(report), Some(id)) => Some(report.by_id(id)),
        _ => None,
    };
    let alive = member.flatten().is_some_and(crate::observe::Member::is_alive);
    let wanted = context.spec.reprotection.mode == crate::api::spec::ReprotectionMode::Auto;
    let pod = operation.pod.clone();
    // Seen, whether or not the answer to the request was: the cluster may have taken it on just before an
    // operator ended, and what it has done no guard can hold back any more.
    let quorum = context.observed.report.as_ref().is_some_and(crate::observe::Report::has_quorum);
    if member == Some(None) && quorum {
        decided.tell(
            false,
            "StoreTombstoned",
            format!("{pod} has no copies left and may never come back with this volume"),
        );
        return;
    }
    if alive || (!wanted && operation.phase != Phase::Accepted) {
        decided.tell(
            false,
            "ReprotectionCancelled",
            format!("{pod} is back, or its copies are not to be made anew any more"),
        );
        return;
    }
    // There may have been a spare node when it began. If only a new volume makes one, that comes first;
    // what the cluster has taken on goes on by itself then.
    let stuck =
        guards::spare_store(context, &Store { store_id: operation.store_id, ..Store::default() });
    if stuck.is_err()
        && condemned(context).iter().any(|it| guards::replace_first(context, it).is_ok())
    {
        decided.tell(true, "ReprotectionHeld", format!("no node can take the copies of {pod} yet"));
        return;
    }
    if operation.phase == Phase::Accepted {
        // It was back, which called the cluster's own work off, and is away again: that is asked anew.
        let again = member.flatten().is_some_and(|member| member.state == "Down");
        if !(again && quorum && guards::confirmed(context).is_ok()) {
            decided.operation = Some(operation);
        }
        return;
    }
    // What held when it was written down has to hold still.
    let about = Store {
        pod: pod.clone(),
        store_id: operation.store_id,
        ..store.cloned().unwrap_or_default()
    };
    if let Err(refusal) = guards::reprotect(context, &about) {
        decided.hold("Reprotect", &pod, refusal);
        decided.operation = Some(operation);
        return;
    }
    retry(context, operation, decided, |operation| Action::Reprotect {
        node: operation.store_id.unwrap_or(0) as u64,
        operation: operation.id.clone(),
        epoch: operation.epoch as u64,
    });
}

/// Begins what is due, if its guards hold: what heals comes first, then what repairs a broken
/// template, then what a user wants.
pub(super) fn begin(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    let steps: [fn(&Context<'_>, &mut HoldfastClusterStatus, &mut Decided); 7] = [
        begin_reprotect,
        give_up_superseded,
        replace::begin,
        scale::begin_undrain,
        restart_broken,
        scale::begin_down,
        roll,
    ];
    for step in steps {
        step(context, status, decided);
        if decided.operation.is_some() {
            return;
        }
    }
}

/// Lost nodes whose time is over, the longest lost first.
fn condemned<'a>(context: &'a Context<'_>) -> Vec<&'a Store> {
    let mut due: Vec<&Store> = context
        .stores
        .iter()
        .filter(|store| store.act_at.as_ref().is_some_and(|at| at.0 <= context.now))
        .collect();
    due.sort_by_key(|store| store.down_since.as_ref().map(|since| since.0));
    due
}

/// A node other than this one is lost for too long, and nobody can take its copies.
pub(super) fn lacks_spare(context: &Context<'_>, pod: &str) -> bool {
    let mut lost = condemned(context).into_iter().filter(|store| store.pod != pod);
    lost.any(|store| guards::spare_store(context, store).is_err())
}

/// What is due while something else is under way.
pub(super) fn due_but_busy(context: &Context<'_>) -> Vec<(String, Refusal)> {
    let own = |pod: &str| {
        context.operation.is_some_and(|operation| {
            operation.pod == pod && operation.kind == OperationType::Reprotect
        })
    };
    condemned(context)
        .into_iter()
        .filter_map(|store| {
            let refusal = if own(&store.pod) {
                let free = context.operation.is_some_and(|it| it.phase != Phase::Accepted);
                // Its own operation does not stand in its way.
                free.then(|| own_refusal(context, store)).flatten()
            } else {
                guards::nothing_else(context).err()
            };
            refusal.map(|refusal| (format!("Reprotect/{}", store.pod), refusal))
        })
        .collect()
}

fn own_refusal(context: &Context<'_>, store: &Store) -> Option<Refusal> {
    guards::reprotect(context, store).err().filter(|(guard, _)| *guard != "OtherOperation")
}

fn begin_reprotect(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    for store in condemned(context) {
        // A node that gave its copies away already has nothing to make anew.
        let before = status.stores.iter().find(|before| before.pod == store.pod);
        let gone = match (&context.observed.report, store.store_id) {
            (Some(report), Some(id)) => report.by_id(id).is_none(),
            _ => false,
        };
        if gone || before.is_some_and(|before| before.state == StoreState::Tombstoned) {
            continue;
        }
        let refusal = match guards::reprotect(context, store) {
            Err(refusal) if refusal.0 == guards::NO_SPARE => {
                if replace::begin_first(context, status, decided, store) {
                    return;
                }
                refusal
            }
            Err(refusal) => refusal,
            Ok(()) if store.store_id.is_none() => {
                ("StatusStale", format!("no node ever told the number of {}", store.pod))
            }
            Ok(()) => {
                let operation = new(
                    context,
                    status,
                    OperationType::Reprotect,
                    &store.pod,
                    store.store_id,
                    None,
                );
                let action = Action::Reprotect {
                    node: store.store_id.unwrap_or(0) as u64,
                    operation: operation.id.clone(),
                    epoch: operation.epoch as u64,
                };
                decided.tell(
                    true,
                    "ReprotectionStarted",
                    format!("{} is away for too long; its copies are made anew", store.pod),
                );
                decided.start(operation, action);
                return;
            }
        };
        decided.hold("Reprotect", &store.pod, refusal);
    }
}

/// A node whose disk was emptied lives on as another one, and one whose pod was taken away just when it
/// joined has no place at all. What they were can never come back, so nobody waits for it.
fn give_up_superseded(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    let Some(report) = &context.observed.report else { return };
    let has_place = |name: &str| {
        context.stores.iter().any(|store| store.pod == name)
            || context.observed.pods.contains_key(name)
    };
    let homeless =
        report.nodes.iter().filter(|node| node.state == "Down" && !has_place(&node.name));
    let Some(old) = report.superseded().chain(homeless).next() else { return };
    let (pod, id) = (old.name.clone(), Some(old.id as i64));
    let about = Store { pod: pod.clone(), store_id: id, ..Store::default() };
    if let Err(refusal) = guards::reprotect(context, &about) {
        decided.hold("Reprotect", &pod, refusal);
        return;
    }
    let operation = new(context, status, OperationType::Reprotect, &pod, id, None);
    if !has_place(&pod) && !old.given_up {
        // Should its pod be wanted again, then the disk that it finds is that of a dead node.
        scale::park(context, &operation, status);
    }
    let action = Action::Reprotect {
        node: old.id,
        operation: operation.id.clone(),
        epoch: operation.epoch as u64,
    };
    let note = format!("store {} of {pod} can never come back: its copies are made anew", old.id);
    decided.tell(true, "ReprotectionStarted", note);
    decided.start(operation, action);
}

/// A pod that is outdated and cannot start holds nobody up when it is made anew; but a correction of
/// its template has to reach it, or it would wait for ever.
fn restart_broken(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    let broken = outdated(context).into_iter().find(|name| is_broken(context, name));
    if let Some(name) = broken {
        restart(context, status, decided, &name, "it cannot start and its template has changed");
    }
}

/// The pod runs nothing, and nobody hears its node: to delete it disturbs nobody.
fn is_broken(context: &Context<'_>, name: &str) -> bool {
    let report = context.observed.report.as_ref();
    let alive =
        report.and_then(|report| report.member(name)).is_some_and(crate::observe::Member::is_alive);
    let pod = context.observed.pods.get(name);
    pod.is_some_and(|pod| !pod.ready && !pod.running && !alive)
}

/// Pods made from an older template are made anew, one by one, while everything else is well.
fn roll(context: &Context<'_>, status: &mut HoldfastClusterStatus, decided: &mut Decided) {
    let mut names = outdated(context);
    let ready = |name: &String| context.observed.pods.get(name).is_none_or(|pod| pod.ready);
    let leads = |name: &String| {
        let report = context.observed.report.as_ref();
        let id = report.and_then(|report| report.member(name)).map(|member| member.id);
        id.is_some() && id == report.and_then(|report| report.sequencer)
    };
    // One that is unwell is next, and is no reason to wait. The leader of the meta range is last: each
    // change of it is felt by everybody.
    names.sort_by_key(|name| (ready(name), ready(name) && leads(name)));
    let Some(name) = names.first() else { return };
    if let Err(refusal) = guards::spared(context, name) {
        decided.hold("Restart", name, refusal);
        return;
    }
    restart(context, status, decided, name, "its template has changed");
}

fn restart(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
    name: &str,
    why: &str,
) {
    let Some(pod) = context.observed.pods.get(name) else { return };
    let operation = new(context, status, OperationType::Restart, name, None, Some(pod.uid.clone()));
    let action = Action::DeletePod { pod: name.to_owned(), uid: pod.uid.clone() };
    decided.tell(false, "PodRestarted", format!("{name} is made anew: {why}"));
    decided.start(operation, action);
}

/// Pods of an older template, the highest number first.
fn outdated(context: &Context<'_>) -> Vec<String> {
    let set = context.observed.stateful_set.as_ref();
    let Some(wanted) = set.and_then(|set| set.update_revision.clone()) else { return vec![] };
    let cluster_pods = context.stores.iter().rev();
    cluster_pods
        .filter(|store| {
            context.observed.pods.get(&store.pod).is_some_and(|pod| {
                !pod.terminating
                    && pod.revision.as_ref().is_some_and(|revision| *revision != wanted)
            })
        })
        .map(|store| store.pod.clone())
        .collect()
}

/// States that come from operations rather than from health.
pub(super) fn mark(
    stores: &mut [Store],
    previous: &HoldfastClusterStatus,
    observed: &Observed,
    operation: Option<&Operation>,
) {
    for store in stores {
        let before = previous.stores.iter().find(|before| before.pod == store.pod);
        let unknown_to_cluster = match (&observed.report, store.store_id) {
            (Some(report), Some(id)) => report.by_id(id).is_none(),
            _ => false,
        };
        // One about what a pod was before says nothing about what it is.
        let about = |operation: &&Operation| {
            operation.pod == store.pod
                && (operation.kind != OperationType::Reprotect
                    || operation.store_id == store.store_id)
        };
        if let Some(operation) = operation.filter(about) {
            let state = match (operation.kind, operation.phase) {
                (OperationType::Reprotect, Phase::Accepted) => Some(StoreState::Reprotecting),
                (OperationType::Reprotect, _) => Some(StoreState::Condemned),
                (OperationType::Replace, _) => Some(StoreState::Replacing),
                // Dead stays dead, also on its way out.
                (OperationType::ScaleDown, _)
                    if before.is_some_and(|before| before.state == StoreState::Tombstoned) =>
                {
                    Some(StoreState::Tombstoned)
                }
                (OperationType::ScaleDown, _) => Some(StoreState::Leaving),
                (OperationType::Undrain | OperationType::Restart, _) => None,
            };
            store.state = state.unwrap_or(store.state);
            if state.is_some() && operation.kind != OperationType::ScaleDown {
                store.act_at = None;
            }
            // A restart does not make a dead node forgotten.
            if state.is_some() {
                continue;
            }
        }
        let Some(before) = before else { continue };
        let ended = matches!(
            before.state,
            StoreState::Reprotecting | StoreState::Tombstoned | StoreState::Condemned
        );
        let unproven = before.state == StoreState::Tombstoned && observed.report.is_none();
        if (ended && unknown_to_cluster) || unproven {
            store.state = StoreState::Tombstoned;
            store.act_at = None;
        } else if before.state == StoreState::Replacing
            && !keeps_volume(previous, observed, &store.pod)
            && store.down_since.is_some()
            && store.store_id == before.store_id
        {
            // A new volume is on its way; what comes is a new node that has not served yet.
            *store = Store {
                pod: store.pod.clone(),
                node: store.node.clone(),
                member: store.member.clone(),
                ..Store::default()
            };
        }
    }
}

/// A replacement that was begun was given up, and the volume is what it was.
fn keeps_volume(previous: &HoldfastClusterStatus, observed: &Observed, pod: &str) -> bool {
    let begun = previous.operation.as_ref();
    begun.filter(|it| it.kind == OperationType::Replace && it.pod == pod).is_some_and(|begun| {
        observed.volumes.get(pod).is_some_and(|volume| Some(&volume.uid) == begun.uid.as_ref())
    })
}

/// What comes next in an operation, as a sentence.
pub(super) fn next(operation: &Operation, status: &HoldfastClusterStatus) -> String {
    let pod = &operation.pod;
    let store = status.stores.iter().find(|store| store.pod == *pod);
    if let Some(blocked) = status.blocked_by.iter().find(|blocked| blocked.action.ends_with(pod)) {
        return format!("{} once {} allows it: {}", blocked.action, blocked.guard, blocked.message);
    }
    if let (Phase::Refused, Some(at)) = (operation.phase, &operation.retry_at) {
        let why = operation.message.as_deref().unwrap_or("no reason given");
        return format!("ask again at {} to {:?} {pod}: {why}", at.0, operation.kind);
    }
    match operation.kind {
        OperationType::Reprotect if operation.phase == Phase::Accepted => {
            let end = status.protection.as_ref().and_then(|it| it.estimated_end.as_ref());
            let when = end.map_or_else(String::new, |end| format!(", about {}", end.0));
            format!("wait until the other nodes have made the copies of {pod} anew{when}")
        }
        OperationType::Reprotect => format!("ask the cluster to make the copies of {pod} anew"),
        OperationType::ScaleDown if operation.phase == Phase::Intended => {
            format!("drain {pod} once the gateway sends no clients to it any more")
        }
        OperationType::ScaleDown => format!(
            "wait until {pod} holds no ranges (now {}), then take it away",
            store.map_or(0, |store| store.ranges)
        ),
        OperationType::Undrain => format!("let {pod} lead again"),
        OperationType::Replace => format!("give {pod} a new volume"),
        OperationType::Restart => format!("make {pod} anew"),
    }
}

/// How an action went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or taken on; with what was said.
    Accepted(String),
    /// The cluster, or Kubernetes, said no.
    Refused(String),
    /// Nobody knows; it is tried again.
    Failed(String),
}

/// Writes down how the action of the current operation went.
pub fn absorb(status: &mut HoldfastClusterStatus, outcome: Outcome, now: Timestamp) {
    let Some(operation) = &mut status.operation else { return };
    match outcome {
        Outcome::Accepted(message) => {
            operation.phase = Phase::Accepted;
            operation.message = (!message.is_empty()).then_some(message);
            operation.retry_at = (operation.kind == OperationType::ScaleDown)
                .then(|| Time(super::health::whole_seconds(now + scale::DRAIN_RENEW)));
        }
        Outcome::Refused(message) => {
            operation.phase = Phase::Refused;
            operation.retry_at = Some(Time(guards::retry_at(operation.refusals, now)));
            operation.refusals = operation.refusals.saturating_add(1);
            operation.message = Some(message);
        }
        Outcome::Failed(message) => operation.message = Some(message),
    }
}

/// The number in the name of a pod of this cluster.
pub(super) fn ordinal_of(pod: &str) -> Option<i32> {
    let (cluster, _) = pod.rsplit_once('-')?;
    names::ordinal(cluster, pod)
}
