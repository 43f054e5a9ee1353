//! More nodes, and fewer.
//!
//! Invariants: pure; before the cluster is formed the number of pods is fixed; a pod is taken away only
//! when a fresh report says that its node has left for good, or never knew it; raising `nodes` again at any
//! time before that takes it all back.

use super::guards;
use super::operations::{self, Decided};
use super::{Action, Context, InGateway, placement, replace};
use crate::api::spec::HoldfastClusterSpec;
use crate::api::status::{
    HoldfastClusterStatus, Operation, OperationType, Parked, Phase, StoreState,
};
use crate::observe::Observed;
use jiff::SignedDuration;
use std::time::Duration;

/// How many pods there are to be now, as far as only adding is concerned.
pub(super) fn up(spec: &HoldfastClusterSpec, status: &HoldfastClusterStatus) -> i32 {
    let founders = status.bootstrap_nodes.unwrap_or(spec.nodes);
    if !status.bootstrapped {
        return founders.max(status.nodes);
    }
    let leaving =
        status.operation.iter().any(|operation| operation.kind == OperationType::ScaleDown);
    if leaving { status.nodes } else { status.nodes.max(spec.nodes) }
}

/// After so long a drain ends by itself, unless it is asked for once more: should the operator be gone, the
/// node leads again and keeps what it still has.
///
/// It has to outlast an operator that only stumbles. The longest that one is silent while it lives: the wait
/// after failed reconciles, 5 min and a quarter more at most (375 s), after which the renewal that was due
/// up to [`DRAIN_RENEW`] before (120 s) asks up to five nodes of 4 s each (20 s): 515 s. Another operator that
/// takes over needs less: 15 s until the Lease is free and the minute of `observeFor`. The rest, about as much
/// again, is for a Kubernetes node that has to fetch the operator's image first. Longer would keep a node
/// from leading for nothing.
pub const DRAIN_TTL: Duration = Duration::from_mins(15);
/// How often it is asked for once more.
pub const DRAIN_RENEW: SignedDuration = SignedDuration::from_mins(2);

/// Drains the node with the highest number, if there are to be fewer.
pub(super) fn begin_down(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    if !status.bootstrapped || context.pods <= context.spec.nodes {
        return;
    }
    let Some(victim) = context.stores.last() else { return };
    let (pod, victim_id) = (victim.pod.clone(), victim.store_id);
    if let Err(refusal) = may_shrink(context) {
        decided.hold("ScaleDown", &pod, refusal);
        return;
    }
    let report = context.observed.report.as_ref();
    let member = report.and_then(|report| report.member(&pod));
    let operation = operations::new(
        context,
        status,
        OperationType::ScaleDown,
        &pod,
        member.map(|member| member.id as i64).or(victim_id),
        None,
    );
    decided.tell(false, "ScaleDownStarted", format!("{pod} is drained and then taken away"));
    // It leaves the gateway first, and is drained when that is seen.
    decided.operation = Some(operation);
}

/// For so long a node goes on as it was after its pod was taken out of the gateway, until everybody who
/// sends clients knows.
const GATEWAY_PAUSE: SignedDuration = SignedDuration::from_secs(3);

/// The gateway does not send clients to it any more, as far as that takes.
fn out_of_gateway(context: &Context<'_>, operation: &Operation) -> bool {
    let pod = context.observed.pods.get(&operation.pod);
    let left = context.now.duration_since(operation.started_at.0);
    pod.is_none_or(|pod| !pod.ready || (!pod.in_gateway && left >= GATEWAY_PAUSE))
}

/// Pods whose place in the gateway is to change: the one that is drained leaves, and does not come back when
/// it was taken away but is still there. All others are in it.
pub(super) fn gateway(observed: &Observed, status: &HoldfastClusterStatus) -> Vec<InGateway> {
    let operation = status.operation.as_ref();
    let leaving = operation.filter(|operation| operation.kind == OperationType::ScaleDown);
    let pods = observed.pods.iter().filter(|(_, view)| !view.terminating);
    pods.filter_map(|(pod, view)| {
        let stays = operations::ordinal_of(pod).is_some_and(|ordinal| ordinal < status.nodes);
        let wanted = stays && leaving.is_none_or(|operation| operation.pod != *pod);
        let change = InGateway { pod: pod.clone(), uid: view.uid.clone(), wanted };
        (view.in_gateway != wanted).then_some(change)
    })
    .collect()
}

/// Waits until the node holds nothing, or takes it back.
pub(super) fn go_on(
    context: &Context<'_>,
    mut operation: Operation,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    let pod = operation.pod.clone();
    let ordinal = operations::ordinal_of(&pod).unwrap_or(i32::MAX);
    if context.pods <= ordinal {
        decided.tell(false, "ScaleDownCompleted", format!("{pod} is taken away"));
        return;
    }
    // It may have left for good already: then it goes first, and comes back as a new one.
    let report = context.observed.report.as_ref();
    let left = match (report, operation.store_id) {
        (Some(report), Some(id)) => report.by_id(id).is_none(),
        _ => false,
    };
    if context.spec.nodes > ordinal && report.is_some() && !left {
        decided.tell(false, "ScaleDownCancelled", format!("{pod} stays"));
        if let Some(id) = operation.store_id {
            let undrain =
                operations::new(context, status, OperationType::Undrain, &pod, Some(id), None);
            decided.start(undrain, Action::Undrain { node: id as u64 });
        }
        return;
    }
    let Some(report) = &context.observed.report else {
        decided.operation = Some(operation);
        return;
    };
    if !report.has_quorum() {
        decided.operation = Some(operation);
        return;
    }
    match report.member(&pod) {
        // It may have joined since the nodes answered last.
        None if !left && guards::confirmed(context).is_err() => {
            decided.operation = Some(operation);
        }
        None => take_away(context, &operation, status, decided),
        Some(_) if left => take_away(context, &operation, status, decided),
        Some(member) => {
            // It joined only after the operation began.
            operation.store_id.get_or_insert(member.id as i64);
            // Nothing is on its way yet, and somebody may need help more: it begins again later.
            let refused = operation.phase == Phase::Refused && member.state == "Up";
            if let Some(refusal) = may_shrink(context).err().filter(|_| refused) {
                decided.hold("ScaleDown", &pod, refusal);
                return;
            }
            // Somebody is lost whose copies only this one can take: it leaves when they are made.
            if member.is_alive() && operations::lacks_spare(context, &pod) {
                let id = Some(member.id as i64);
                decided.tell(false, "ScaleDownCancelled", format!("{pod} is needed for now"));
                let undrain =
                    operations::new(context, status, OperationType::Undrain, &pod, id, None);
                decided.start(undrain, Action::Undrain { node: member.id });
                return;
            }
            if operation.phase == Phase::Intended && !out_of_gateway(context, &operation) {
                decided.operation = Some(operation);
                return;
            }
            operations::retry(context, operation, decided, |operation| Action::Drain {
                node: operation.store_id.unwrap_or(0) as u64,
            });
        }
    }
}

fn take_away(
    context: &Context<'_>,
    operation: &Operation,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    status.nodes -= 1;
    park(context, operation, status);
    decided.tell(
        false,
        "ScaleDownCompleted",
        format!("{} holds nothing any more and is taken away; its volume stays", operation.pod),
    );
}

/// Remembers a node that was drained, with its volume.
pub(super) fn park(
    context: &Context<'_>,
    operation: &Operation,
    status: &mut HoldfastClusterStatus,
) {
    let Some(store_id) = operation.store_id else { return };
    status.parked.retain(|parked| parked.pod != operation.pod);
    let volume = context.observed.volumes.get(&operation.pod);
    let volume_uid = volume.map(|volume| volume.uid.clone());
    status.parked.push(Parked { pod: operation.pod.clone(), store_id, volume_uid });
}

/// Takes a node back that was drained by scaling down and is wanted again: either it still belongs to
/// the cluster and leads again, or it has left for good and its place needs an empty volume.
pub(super) fn begin_undrain(
    context: &Context<'_>,
    status: &mut HoldfastClusterStatus,
    decided: &mut Decided,
) {
    let Some(report) = &context.observed.report else { return };
    if guards::quorum(context).is_err() {
        return;
    }
    let wanted: Vec<Parked> = status
        .parked
        .iter()
        .filter(|parked| context.stores.iter().any(|store| store.pod == parked.pod))
        .filter(|parked| {
            operations::ordinal_of(&parked.pod).is_some_and(|at| at < context.spec.nodes)
        })
        .cloned()
        .collect();
    for parked in wanted {
        match report.by_id(parked.store_id) {
            Some(member) if ["Draining", "Leaving"].contains(&member.state.as_str()) => {
                let operation = operations::new(
                    context,
                    status,
                    OperationType::Undrain,
                    &parked.pod,
                    Some(parked.store_id),
                    None,
                );
                decided.start(operation, Action::Undrain { node: member.id });
                return;
            }
            Some(member) if ["Down", "Condemned"].contains(&member.state.as_str()) => {}
            None if replace::dead_volume(context, status, decided, &parked) => return,
            // It leads again, or came with another volume.
            _ => status.parked.retain(|other| *other != parked),
        }
    }
}

/// All is well, but for those that are to go anyway: they are no loss, so nobody waits for them.
fn may_shrink(context: &Context<'_>) -> Result<(), guards::Refusal> {
    let except: Vec<&str> = context
        .stores
        .iter()
        .skip(context.spec.nodes.max(0) as usize)
        .filter(|store| store.state != StoreState::Healthy)
        .map(|store| store.pod.as_str())
        .collect();
    enough_left(context)?;
    guards::calm(context, &except)
}

/// As many nodes stay, and are well, as a range has copies.
fn enough_left(context: &Context<'_>) -> Result<(), guards::Refusal> {
    let copies = placement::copies_needed(context);
    if context.pods - 1 < copies {
        let left = context.pods - 1;
        let why = format!("{left} nodes would be fewer than the {copies} copies of each range");
        // Set by the resource or by command; both can take it back.
        let way_out = if copies > context.spec.replicas {
            format!(" under a placement policy that asks for {copies}: remove that first")
        } else {
            String::new()
        };
        return Err(("TooFewNodes", why + &way_out));
    }
    let staying = &context.stores[..context.stores.len().saturating_sub(1)];
    let well = staying.iter().filter(|store| store.state == StoreState::Healthy).count();
    if well < copies.unsigned_abs() as usize {
        return Err(("TooFewNodes", format!("only {well} of the nodes that stay are well")));
    }
    Ok(())
}
