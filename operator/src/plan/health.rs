//! What the operator thinks of one node: pod health starts the clock, what the other nodes say can
//! only stop it.
//!
//! Invariants: pure; a pod that was never ready is not a failure; a node that others hear is never
//! counted as gone, whatever its probes say; the time since when it is away survives everything but
//! its own return.

use crate::api::status::{Store, StoreState};
use crate::observe::{HostView, Member, PodView};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;

/// How long a pod has to be ready again before its failure is forgotten.
pub const STABLE: Duration = Duration::from_secs(30);

/// The pod is not ready, but the node is heard by the others.
pub const PROBE_MISMATCH: &str = "ProbeMismatch";
/// The pod is ready, but the node is not heard by the others.
pub const STORE_WEDGED: &str = "StoreWedged";
/// The pod is ready again, but not for long enough.
pub const BACK: &str = "BackSince";

/// What is seen of one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    /// Its pod.
    pub pod: Option<&'a PodView>,
    /// The pod's Kubernetes node, as far as the operator may read it.
    pub host: Option<&'a HostView>,
    /// What the other nodes say: `None` if nobody knows, `Some(None)` if they do not know it.
    pub member: Option<Option<&'a Member>>,
}

impl Seen<'_> {
    /// The pod is there and can serve, and its Kubernetes node is not known to be silent.
    pub fn is_ready(&self) -> bool {
        self.pod.is_some_and(|pod| pod.ready && !pod.terminating)
            && self.host.is_none_or(|host| host.ready)
    }

    /// The other nodes hear it.
    pub fn is_alive(&self) -> bool {
        self.member.flatten().is_some_and(Member::is_alive)
    }
}

/// How long a node may be away.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// Usually.
    pub delay: Duration,
    /// While its Kubernetes node is cordoned.
    pub drain_delay: Duration,
    /// False: nothing is ever going to happen.
    pub armed: bool,
}

/// The next state of one node, operations aside.
pub fn step(previous: &Store, seen: Seen<'_>, delays: Delays, now: Timestamp) -> Store {
    let ready = seen.is_ready();
    let mut next = Store {
        pod: previous.pod.clone(),
        store_id: seen.member.flatten().map(|member| member.id as i64).or(previous.store_id),
        member: match seen.member {
            None => "Unknown".to_owned(),
            Some(None) => "Absent".to_owned(),
            Some(Some(member)) => member.state.clone(),
        },
        node: seen.pod.and_then(|pod| pod.host.clone()).or_else(|| previous.node.clone()),
        ranges: seen.member.flatten().map_or(previous.ranges, |member| member.ranges),
        leaders: seen.member.flatten().map_or(previous.leaders, |member| member.leaders),
        served: previous.served || ready,
        failure_domain: match seen.member.flatten() {
            Some(member) => Some(member.failure_domain.clone()).filter(|it| !it.is_empty()),
            None => previous.failure_domain.clone(),
        },
        ..Store::default()
    };
    // A machine that is gone was where it was.
    next.zone = match seen.host {
        Some(host) => host.zone.clone(),
        None => previous.zone.clone().filter(|_| next.node == previous.node),
    };
    if !next.served {
        next.state = StoreState::Pending;
    } else if ready {
        returned(&mut next, previous, seen, now);
    } else {
        away(&mut next, previous, seen, delays, now);
    }
    next
}

fn returned(next: &mut Store, previous: &Store, seen: Seen<'_>, now: Timestamp) {
    let since = seen.pod.and_then(|pod| pod.ready_changed).unwrap_or(now);
    let stable = now.duration_since(since).unsigned_abs() >= STABLE && since <= now;
    next.state = StoreState::Healthy;
    if previous.down_since.is_some() && !stable {
        next.state = StoreState::Suspect;
        next.down_since.clone_from(&previous.down_since);
        next.reason = Some(BACK.to_owned());
    } else if seen.member.is_some_and(|member| member.is_none_or(|it| it.state == "Down")) {
        next.reason = Some(STORE_WEDGED.to_owned());
    }
}

fn away(next: &mut Store, previous: &Store, seen: Seen<'_>, delays: Delays, now: Timestamp) {
    next.state = StoreState::Suspect;
    if seen.is_alive() {
        next.reason = Some(PROBE_MISMATCH.to_owned());
        return;
    }
    let was_alive = previous.reason.as_deref() == Some(PROBE_MISMATCH);
    let unready_since = seen
        .pod
        .filter(|pod| !pod.ready && !was_alive)
        .and_then(|pod| pod.ready_changed)
        .filter(|since| *since <= now);
    let since = match &previous.down_since {
        Some(since) => since.0,
        // Seconds are what the API keeps.
        None => whole_seconds(unready_since.unwrap_or(now)),
    };
    next.down_since = Some(Time(since));
    let draining = seen.host.is_some_and(|host| host.cordoned && !host.out_of_service);
    let delay = if draining { delays.drain_delay } else { delays.delay };
    if draining {
        next.state = StoreState::Draining;
    }
    if delays.armed {
        next.act_at = since.checked_add(delay).ok().map(Time);
    }
}

/// Times in the status have no fractions, so that they read back as they were written.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
