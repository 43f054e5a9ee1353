//! Conditions: what the status says in one word, and why in one sentence.
//!
//! Invariants: every condition is there from the first time on; `Stalled` and `Reconciling` are never
//! both true (kstatus would see only one); a time changes only when the condition does; `Unknown` is
//! said when nobody knows.

mod recovery;

use crate::api::HoldfastCluster;
use crate::api::status::{HoldfastClusterStatus, OperationType, Phase, Store, StoreState};
use crate::observe::{Observed, PodView, Report};
use crate::plan::health::{PROBE_MISMATCH, STORE_WEDGED, whole_seconds};
use crate::plan::{Notice, Plan, placement};
use crate::tls::Certificate;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What went wrong besides the cluster's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Broken rules of the spec.
    pub invalid: Vec<String>,
    /// An object could not be applied: a reason for conditions, and a sentence.
    pub apply: Option<(String, String)>,
    /// The certificates could not be made.
    pub tls: Option<String>,
}

/// A condition without its times.
struct Verdict {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

/// The status to write: the plan's, with conditions.
pub fn finish(
    cluster: &HoldfastCluster,
    plan: &Plan,
    observed: &Observed,
    trouble: &Trouble,
    certificates: &[Certificate],
    now: Timestamp,
) -> HoldfastClusterStatus {
    let mut status = plan.status.clone();
    let generation = cluster.metadata.generation;
    status.observed_generation = generation;
    let stalled = stalled(&status, observed, trouble);
    let moving = moving(cluster, &status, observed, trouble);
    let available = available(&status, observed);
    let verdicts = [
        ready(&stalled, &moving, &available),
        reconciling(&stalled, &moving),
        verdict("Stalled", stalled.clone(), "Progressing", "nothing needs a human"),
        progressing(&stalled, &moving),
        fully_replicated(cluster, &status, observed),
        degraded(&status),
        reprotecting(&status),
        held(plan),
        recovery::recovering(&status),
        certificates_ready(trouble, observed, certificates, now),
        Verdict {
            kind: "Paused",
            status: if cluster.spec.paused { TRUE } else { FALSE },
            reason: if cluster.spec.paused { "PausedBySpec" } else { "NotPaused" }.to_owned(),
            message: if cluster.spec.paused {
                "spec.paused is true: nothing but this status is written".to_owned()
            } else {
                String::new()
            },
        },
    ];
    let before = cluster.status.clone().unwrap_or_default().conditions;
    let mut conditions: Vec<Condition> = verdicts
        .into_iter()
        .chain([available])
        .map(|verdict| stamp(verdict, &before, generation, now))
        .collect();
    conditions.sort_by(|left, right| left.type_.cmp(&right.type_));
    status.conditions = conditions;
    status
}

/// What became of conditions, for Events.
pub fn notices(before: &HoldfastClusterStatus, after: &HoldfastClusterStatus) -> Vec<Notice> {
    let find = |status: &HoldfastClusterStatus, kind: &str| {
        status.conditions.iter().find(|condition| condition.type_ == kind).cloned()
    };
    let mut notices = Vec::new();
    let mut turned = |kind: &str, to: &str, warning: bool, reason: &'static str| {
        let (Some(old), Some(new)) = (find(before, kind), find(after, kind)) else { return };
        let changed = old.status != new.status || (to == TRUE && old.reason != new.reason);
        if changed && new.status == to {
            notices.push(Notice { warning, reason, note: new.message });
        }
    };
    turned("ReprotectionHeld", TRUE, true, "ReprotectionHeld");
    turned("Stalled", TRUE, true, "Stalled");
    turned("Available", FALSE, true, "RangesUnavailable");
    turned("FullyReplicated", FALSE, true, "UnderReplicated");
    if before.bootstrapped {
        turned("FullyReplicated", TRUE, false, "FullProtectionRestored");
    }
    notices.dedup_by_key(|notice| notice.reason);
    notices.extend(placement::notices(before, after));
    notices
}

fn stamp(
    verdict: Verdict,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let old = before.iter().find(|condition| condition.type_ == verdict.kind);
    let since = old
        .filter(|condition| condition.status == verdict.status)
        .map_or_else(|| Time(whole_seconds(now)), |old| old.last_transition_time.clone());
    Condition {
        type_: verdict.kind.to_owned(),
        status: verdict.status.to_owned(),
        reason: verdict.reason,
        message: verdict.message,
        last_transition_time: since,
        observed_generation: generation,
    }
}

type Because = Option<(String, String)>;

/// True with a reason, or false with the given one.
fn verdict(kind: &'static str, because: Because, else_reason: &str, else_message: &str) -> Verdict {
    match because {
        Some((reason, message)) => Verdict { kind, status: TRUE, reason, message },
        None => Verdict {
            kind,
            status: FALSE,
            reason: else_reason.to_owned(),
            message: else_message.to_owned(),
        },
    }
}

#[allow(clippy::unnecessary_wraps, reason = "every use is an arm of an optional reason")]
fn because(reason: &str, message: impl Into<String>) -> Because {
    Some((reason.to_owned(), message.into()))
}

/// Why nothing goes on without a human.
fn stalled(status: &HoldfastClusterStatus, observed: &Observed, trouble: &Trouble) -> Because {
    if !trouble.invalid.is_empty() {
        return because("InvalidSpec", trouble.invalid.join("; "));
    }
    if let Some((reason, message)) = &trouble.apply {
        return because(reason, message.clone());
    }
    if let Some(message) = &trouble.tls {
        return because("CertificateFailed", message.clone());
    }
    if let Some(why) = recovery::waits_for_people(status) {
        return Some(why);
    }
    let recovers = status.recovery_under_way().is_some();
    let lost =
        !recovers && observed.report.as_ref().is_some_and(|report| report.ranges.unavailable > 0);
    let away = status.stores.iter().filter(|store| store.act_at.is_some());
    let late = away
        .filter(|store| store.reason.as_deref() != Some(PROBE_MISMATCH))
        .any(|store| store.down_since.is_some() && store.act_at.is_some());
    if status.bootstrapped && lost && late {
        return because(
            "QuorumLost",
            "some ranges have lost the majority of their copies; they come back with their nodes. If those \
             are gone for good: spec.recovery",
        );
    }
    status.stores.iter().find_map(|store| {
        let pod = observed.pods.get(&store.pod)?;
        stuck(store, pod, observed)
    })
}

/// Why a pod does not start, if it does not and nobody but a human can change that.
fn stuck(store: &Store, pod: &PodView, observed: &Observed) -> Because {
    if pod.ready {
        return None;
    }
    let name = &store.pod;
    if let Some((reason, message)) = &pod.waiting {
        match reason.as_str() {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                return because("ImagePullFailed", format!("{name}: {reason}: {message}"));
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                return because("ContainerFailed", format!("{name}: {reason}: {message}"));
            }
            "CrashLoopBackOff" => {
                return stops(name, pod.last_words.as_deref().unwrap_or_default());
            }
            _ => {}
        }
    }
    // A pod that has served waits for its Kubernetes node: that is a failure, not a mistake.
    if store.served {
        return None;
    }
    if let Some(volume) = observed.volumes.get(name).filter(|volume| !volume.bound)
        && pod.unschedulable.is_some()
    {
        let class = volume.class.as_deref().unwrap_or("(default)");
        let why = pod.unschedulable.as_deref().unwrap_or_default();
        return because(
            "VolumePending",
            format!("the volume of {name} is not bound; storage class {class}: {why}"),
        );
    }
    let why = pod.unschedulable.as_deref()?;
    because("Unschedulable", format!("{name} fits on no Kubernetes node: {why}"))
}

/// Why a node that is started again and again stops: the last thing that it said.
fn stops(pod: &str, words: &str) -> Because {
    let line = words.trim().lines().last().unwrap_or_default();
    let line = line.trim_start_matches("holdfast-node: ");
    let line = &line[line.floor_char_boundary(line.len().saturating_sub(600))..];
    // As holdfast-node says it; an end-to-end test sees that it still does.
    if line.contains("belongs to") && line.contains("not to cluster") {
        return because(
            "StorageIdentityMismatch",
            format!(
                "the volume of {pod} holds the data of another cluster, which stays as it is: {line}"
            ),
        );
    }
    if line.contains("gone for good") {
        return because(
            "StorageIdentityMismatch",
            format!("the volume of {pod} is that of a node that was given up: {line}"),
        );
    }
    because("CrashLooping", format!("{pod} stops again and again: {line}"))
}

/// What of the spec is not carried out yet.
fn moving(
    cluster: &HoldfastCluster,
    status: &HoldfastClusterStatus,
    observed: &Observed,
    trouble: &Trouble,
) -> Because {
    if !trouble.invalid.is_empty() {
        return None;
    }
    if !status.bootstrapped {
        return because(
            "Creating",
            format!(
                "{} of {} pods are ready; they form the cluster together",
                status.ready_nodes, status.nodes
            ),
        );
    }
    if let Some(recovery) = status.recovery.as_ref().filter(|it| recovery::runs(it)) {
        return because("Recovering", recovery.message.clone());
    }
    if let Some(operation) = &status.operation {
        match operation.kind {
            OperationType::ScaleDown => {
                return because("Scaling", format!("{} is drained", operation.pod));
            }
            OperationType::Restart => {
                return because("RollingOut", format!("{} is made anew", operation.pod));
            }
            _ => {}
        }
    }
    let starting: Vec<&str> = status
        .stores
        .iter()
        .filter(|store| store.state == StoreState::Pending)
        .map(|store| store.pod.as_str())
        .collect();
    if !starting.is_empty() {
        return because("Scaling", format!("{} joins", starting.join(", ")));
    }
    if status.nodes != cluster.spec.nodes {
        return because("Scaling", format!("{} nodes become {}", status.nodes, cluster.spec.nodes));
    }
    let known = observed.stateful_set.as_ref().is_some_and(|set| set.update_revision.is_some());
    let present = status.stores.iter().filter(|store| observed.pods.contains_key(&store.pod));
    let outdated = present.count() as i32 - status.updated_nodes;
    if known && outdated > 0 {
        return because(
            "RollingOut",
            format!("{outdated} pods are still made from the older template"),
        );
    }
    placement::pending(status).and_then(|message| because("Placing", message))
}

/// What the nodes say, or what is to be said of `kind` as long as they say nothing.
fn reported<'a>(
    kind: &'static str,
    status: &HoldfastClusterStatus,
    observed: &'a Observed,
) -> Result<&'a Report, Verdict> {
    let (status, reason, message) = match &observed.report {
        _ if !status.bootstrapped => {
            (FALSE, "Bootstrapping", "the nodes have not formed the cluster yet".to_owned())
        }
        None => (
            UNKNOWN,
            "StatusUnknown",
            observed.report_error.clone().unwrap_or_else(|| "no node was asked yet".to_owned()),
        ),
        Some(report) => return Ok(report),
    };
    Err(Verdict { kind, status, reason: reason.to_owned(), message })
}

fn available(status: &HoldfastClusterStatus, observed: &Observed) -> Verdict {
    let kind = "Available";
    let report = match reported(kind, status, observed) {
        Ok(report) => report,
        Err(verdict) => return verdict,
    };
    let counts = report.ranges;
    let (status, reason, message) = if counts.unavailable > 0 || counts.total == 0 {
        (
            FALSE,
            "RangesUnavailable",
            format!(
                "{} of {} ranges have no majority of their copies",
                counts.unavailable, counts.total
            ),
        )
    } else if !report.has_quorum() {
        (
            FALSE,
            "MetaRangeUnavailable",
            format!("{} of {} nodes answer", report.alive(), report.places()),
        )
    } else {
        (
            TRUE,
            "AllRangesAvailable",
            format!("all {} ranges have a majority of their copies", counts.total),
        )
    };
    Verdict { kind, status, reason: reason.to_owned(), message }
}

fn ready(stalled: &Because, moving: &Because, available: &Verdict) -> Verdict {
    let kind = "Ready";
    let say =
        |status, (reason, message): (String, String)| Verdict { kind, status, reason, message };
    if available.status == UNKNOWN {
        return say(UNKNOWN, (available.reason.clone(), available.message.clone()));
    }
    if let Some(why) = stalled {
        return say(FALSE, why.clone());
    }
    if available.status == FALSE {
        return say(FALSE, (available.reason.clone(), available.message.clone()));
    }
    match moving {
        Some(why) => say(FALSE, why.clone()),
        None => say(TRUE, ("Ready".to_owned(), available.message.clone())),
    }
}

fn reconciling(stalled: &Because, moving: &Because) -> Verdict {
    let moving = moving.clone().filter(|_| stalled.is_none());
    verdict("Reconciling", moving, "UpToDate", "the spec is carried out")
}

fn progressing(stalled: &Because, moving: &Because) -> Verdict {
    let moving = moving.clone().filter(|_| stalled.is_none());
    verdict("Progressing", moving, "Idle", "nothing is rolled out or scaled")
}

fn fully_replicated(
    cluster: &HoldfastCluster,
    status: &HoldfastClusterStatus,
    observed: &Observed,
) -> Verdict {
    let kind = "FullyReplicated";
    let report = match reported(kind, status, observed) {
        Ok(report) => report,
        Err(verdict) => return verdict,
    };
    let counts = report.ranges;
    let missing = counts.total - counts.fully_replicated;
    let (status, reason, message) = if counts.total > 0 && missing == 0 {
        (TRUE, "FullyReplicated", format!("all {} ranges have all copies", counts.total))
    } else {
        let few = report.alive() < cluster.spec.replicas as usize;
        let reason = if few { "TooFewStores" } else { "UnderReplicated" };
        (FALSE, reason, format!("{missing} of {} ranges lack a copy", counts.total))
    };
    Verdict { kind, status, reason: reason.to_owned(), message }
}

fn degraded(status: &HoldfastClusterStatus) -> Verdict {
    let odd = status.stores.iter().find_map(|store| {
        let pod = &store.pod;
        match (store.state, store.reason.as_deref()) {
            (_, Some(PROBE_MISMATCH)) => because(
                "ProbeMismatch",
                format!("{pod} is not ready for clients, but the other nodes hear it"),
            ),
            (_, Some(STORE_WEDGED)) => because(
                "StoreWedged",
                format!("{pod} is ready for clients, but the other nodes do not hear it"),
            ),
            (StoreState::Pending | StoreState::Healthy | StoreState::Leaving, _) => None,
            (state, _) => {
                let since = store
                    .down_since
                    .as_ref()
                    .map_or_else(String::new, |since| format!(" since {}", since.0));
                because("StoreDown", format!("{pod} is {state:?}{since}"))
            }
        }
    });
    verdict("Degraded", odd, "AllWell", "every node is well")
}

fn reprotecting(status: &HoldfastClusterStatus) -> Verdict {
    let running = status.operation.as_ref().filter(|operation| {
        operation.kind == OperationType::Reprotect && operation.phase == Phase::Accepted
    });
    let copying = status.protection.as_ref().filter(|it| it.state == "Reprotecting");
    let end = status.protection.as_ref().and_then(|it| it.estimated_end.as_ref());
    let when = end.map_or_else(
        || "until when is not known yet".to_owned(),
        |end| format!("until about {}", end.0),
    );
    let why = match (running, copying) {
        (Some(operation), _) => because(
            "StoreDown",
            format!("the copies of {} are made anew on other nodes, {when}", operation.pod),
        ),
        (None, Some(_)) => because("Copying", format!("copies of ranges are being made, {when}")),
        (None, None) => None,
    };
    verdict("Reprotecting", why, "Idle", "no copies are being made")
}

fn held(plan: &Plan) -> Verdict {
    verdict("ReprotectionHeld", plan.held.clone(), "NothingDue", "no node is away")
}

fn certificates_ready(
    trouble: &Trouble,
    observed: &Observed,
    certificates: &[Certificate],
    now: Timestamp,
) -> Verdict {
    let kind = "CertificatesReady";
    let say = |status, reason: &str, message: String| Verdict {
        kind,
        status,
        reason: reason.to_owned(),
        message,
    };
    if let Some(message) = &trouble.tls {
        return say(FALSE, "IssuerFailed", message.clone());
    }
    let Some(first) = certificates
        .iter()
        .filter_map(|it| Some((it.not_after?, it)))
        .min_by_key(|(end, certificate)| (*end, certificate.secret.clone()))
    else {
        return say(UNKNOWN, "NotIssued", "no certificates yet".to_owned());
    };
    let (end, certificate) = first;
    let left = end.duration_since(now);
    if left <= SignedDuration::ZERO {
        return say(FALSE, "Expired", format!("{} ended at {end}", certificate.secret));
    }
    if !observed.old_certificates.is_empty() {
        let pods = observed.old_certificates.join(", ");
        let why = "Kubernetes hands new ones to running pods within two minutes";
        return say(FALSE, "NotLoaded", format!("{pods} still shows the one of before: {why}"));
    }
    if !observed.unseen_certificates.is_empty() {
        let pods = observed.unseen_certificates.join(", ");
        return say(UNKNOWN, "NotSeen", format!("{pods} does not answer the operator"));
    }
    say(
        TRUE,
        "Loaded",
        format!("every ready pod has them; {} ends first, {end}", certificate.secret),
    )
}

#[cfg(test)]
mod tests;
