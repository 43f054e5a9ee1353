//! A pod gets a new, empty volume: because its node is dead for ever, or because it is lost and only the
//! node that comes with the new volume can take its copies.
//!
//! Invariants: pure; a volume is named by its UID, so that another one of the same name is left alone; a
//! volume whose node is not dead is given up only under [`guards::replace_first`], which is checked again
//! until the volume is on its way out; that it was given up stays in the status until the cluster has
//! declared its node dead.

use super::guards;
use super::operations::{self, Decided};
use super::{Action, Context};
use crate::api::status::{
    GivenUp, HoldfastClusterStatus, Operation, OperationType, Parked, Store, StoreState,
};
use crate::observe::{Member, Report, VolumeView};

/// Only a node that the cluster declared dead for ever loses its volume.
pub(super) fn begin(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    let dead: Vec<&Store> =
        context.stores.iter().filter(|store| is_tombstoned(context, status, store)).collect();
    for store in dead {
        let due = guards::replacement_due(context, store)
            .and_then(|()| guards::confirmed(context))
            .and_then(|()| guards::quorum(context))
            .and_then(|()| guards::clock(context));
        if let Err(refusal) = due {
            decided.hold("Replace", &store.pod, refusal);
            continue;
        }
        let Some(volume) = context.observed.volumes.get(&store.pod) else { continue };
        let id = store.store_id;
        start(context, status, decided, (&store.pod, id), volume, None);
        return;
    }
}

/// Gives a lost node a new volume before its copies are made anew, if that is the only way and safe.
pub(super) fn begin_first(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
    store: &Store,
) -> bool {
    let Some(store_id) = store.store_id else { return false };
    let host = match guards::replace_first(context, store) {
        Ok(host) => host,
        // That no node is to spare says more than that the policy waits.
        Err((guard, _)) if POLICY.contains(&guard) => return false,
        Err(refusal) => {
            decided.hold("Replace", &store.pod, refusal);
            return false;
        }
    };
    // One that is not bound is new already, and waits for a Kubernetes node.
    let volume = context.observed.volumes.get(&store.pod).filter(|it| it.bound && !it.terminating);
    let Some(volume) = volume else { return false };
    status.given_up.push(GivenUp {
        pod: store.pod.clone(),
        store_id,
        volume_uid: volume.uid.clone(),
    });
    start(context, status, decided, (&store.pod, Some(store_id)), volume, host);
    true
}

/// Refusals that only say that nobody declared the volume lost.
const POLICY: [&str; 4] = ["ManualReplacement", "NodeExists", "NodesUnreadable", "NodeUnknown"];

/// Carries on until the volume is gone; what is given up while others still count on it only as long as
/// its guards hold.
pub(super) fn go_on(
    context: &Context<'_>,
    operation: Operation,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    let name = operation.pod.clone();
    let volume = context.observed.volumes.get(&name);
    let Some(old) = volume.filter(|volume| Some(&volume.uid) == operation.uid.as_ref()) else {
        decided.tell(false, "PodReplaced", format!("{name} has a new volume"));
        return;
    };
    let first = status.given_up.iter().any(|gone| gone.volume_uid == old.uid);
    let mut gone_host = None;
    if first && !old.terminating {
        let store = context.stores.iter().find(|store| store.pod == name);
        match store.map(|store| guards::replace_first(context, store)) {
            Some(Ok(host)) => gone_host = host,
            refused => {
                status.given_up.retain(|gone| gone.volume_uid != old.uid);
                let note = format!("{name} keeps its volume for now");
                decided.tell(false, "ReplacementCancelled", note);
                if let Some(Err(refusal)) = refused {
                    decided.hold("Replace", &name, refusal);
                }
                return;
            }
        }
    }
    // The claim goes when no pod uses it any more.
    let pod = context.observed.pods.get(&name).filter(|pod| !pod.terminating);
    if first && old.terminating && pod.is_some_and(|pod| pod.ready || serves(context, &operation)) {
        // It is back after all, on a volume that is lost with its pod: then the others come first.
        if let Err(refusal) = guards::spared(context, &name) {
            decided.hold("Replace", &name, refusal);
            decided.operation = Some(operation);
            return;
        }
    }
    let action = Action::Replace {
        pod: name,
        pod_uid: pod.map(|pod| pod.uid.clone()),
        volume_uid: (!old.terminating).then(|| old.uid.clone()),
        gone_host,
    };
    let something = !old.terminating || pod.is_some();
    decided.operation = Some(operation);
    decided.action = something.then_some(action);
}

fn serves(context: &Context<'_>, operation: &Operation) -> bool {
    let report = context.observed.report.as_ref();
    let member = operation.store_id.and_then(|id| report?.by_id(id));
    member.is_some_and(Member::is_alive)
}

/// Forgets what was given up once the cluster has declared it dead.
pub(super) fn forget_dead(
    report: Option<&Report>,
    status: &mut HoldfastClusterStatus,
) -> Vec<GivenUp> {
    let Some(report) = report.filter(|report| report.has_quorum()) else { return vec![] };
    let (stay, dead) = std::mem::take(&mut status.given_up)
        .into_iter()
        .partition::<Vec<_>, _>(|gone| report.by_id(gone.store_id).is_some());
    status.given_up = stay;
    dead
}

fn start(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
    (name, store_id): (&str, Option<i64>),
    volume: &VolumeView,
    gone_host: Option<String>,
) {
    let uid = Some(volume.uid.clone());
    let operation = operations::new(context, status, OperationType::Replace, name, store_id, uid);
    let pod = context.observed.pods.get(name).filter(|pod| !pod.terminating);
    let action = Action::Replace {
        pod: name.to_owned(),
        pod_uid: pod.map(|pod| pod.uid.clone()),
        volume_uid: (!volume.terminating).then(|| volume.uid.clone()),
        gone_host,
    };
    decided.tell(
        true,
        "ReplacementStarted",
        format!("{name} gets a new volume; volume claim {} is given up", volume.uid),
    );
    decided.start(operation, action);
}

/// Replaces the volume of a node that was drained and has left for good, if that very volume is still
/// there. The cluster does not know the node any more, and it had no copies when it went.
pub(super) fn dead_volume(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
    parked: &Parked,
) -> bool {
    let volume = context.observed.volumes.get(&parked.pod);
    let Some(volume) = volume.filter(|volume| Some(&volume.uid) == parked.volume_uid.as_ref())
    else {
        return false;
    };
    if context.observed.report.as_ref().is_none_or(|report| report.member(&parked.pod).is_some()) {
        return false;
    }
    let id = Some(parked.store_id);
    start(context, status, decided, (&parked.pod, id), volume, None);
    true
}

/// The status says so, or the cluster does: a fresh report that knows other nodes, but not this one.
fn is_tombstoned(context: &Context<'_>, status: &HoldfastClusterStatus, store: &Store) -> bool {
    let before = status.stores.iter().find(|before| before.pod == store.pod);
    let marked = before.is_some_and(|before| before.state == StoreState::Tombstoned);
    let gone = match (&context.observed.report, store.store_id) {
        (Some(report), Some(id)) => {
            report.by_id(id).is_none() && report.member(&store.pod).is_none()
        }
        _ => false,
    };
    // Whoever serves is not dead, whatever is said.
    let serves = context.observed.pods.get(&store.pod).is_some_and(|pod| pod.ready);
    marked && gone && !serves
}
