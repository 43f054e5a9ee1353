//! What is done when a majority is gone for good, by explicit consent: a state machine over
//! `status.recovery`.
//!
//! ```text
//!  Requested ─► Examining ─► Reported ─consent─► Stopping ─► Recovering ─► Replacing ─► Starting ─► Done
//!      ▲            └► Failed    │     (ranges: ──────────────►  │   └──────────────────► )
//!      └──── looked at again ◄───┴─── what was shown has changed ┘
//! ```
//!
//! Invariants: pure; nothing is changed on a volume, and no volume is given up, before `acceptDataLoss` is
//! the digest of the report in the status; that report holds the UIDs of everything that is given up; at
//! most one step a loop, and everything that it needs stands in the status first; whatever has been begun
//! is told from what is seen, so that any operator goes on with it; until `Recovering`, taking the request
//! back takes everything back.

use super::Notice;
use super::guards::Refusal;
use super::health::whole_seconds;
use crate::api::recovery::{
    Recovery, RecoveryMode, RecoveryPhase, RecoveryReport, RecoveryStatus, VolumeGivenUp,
};
use crate::api::status::Operation;
use crate::build::names;
use crate::observe::recovery::{Ended, RecoveryPod, Summary, Verdict};
use crate::observe::{Member, Observed, PodView};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// So many pods may end without a word, one after the other.
const SILENT: i32 = 3;

/// What a recovery does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start the pod that looks at the volume, or changes it.
    StartPod {
        /// Its name.
        name: String,
        /// The Kubernetes node on which the volume is in use.
        host: Option<String>,
        /// It changes the volume; otherwise it only looks.
        write: bool,
    },
    /// Stop a node: that pod waits for its volume.
    StopNode {
        /// The node's pod.
        pod: String,
        /// Its UID.
        uid: String,
    },
    /// Give up a volume.
    DeleteVolume {
        /// Its pod.
        pod: String,
        /// The claim's UID.
        uid: String,
    },
    /// Keep what a pod has printed.
    Keep {
        /// The pod that looked at a volume or changed it.
        pod: String,
        /// Its UID.
        uid: String,
        /// The ConfigMap.
        config_map: String,
    },
    /// Remove a pod that has ended, or is not wanted any more.
    RemovePod {
        /// Its name.
        pod: String,
        /// Its UID.
        uid: String,
    },
}

/// What is seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// What is asked for.
    pub request: Option<&'a Recovery>,
    /// What is there.
    pub observed: &'a Observed,
    /// The nodes formed a cluster.
    pub bootstrapped: bool,
    /// How many pods there are to be.
    pub pods: i32,
    /// What else is under way.
    pub operation: Option<&'a Operation>,
    /// Now.
    pub now: Timestamp,
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decided {
    /// The new state.
    pub status: Option<RecoveryStatus>,
    /// Something to do, once that is written.
    pub step: Option<Step>,
    /// What to tell.
    pub notices: Vec<Notice>,
    /// What is held back.
    pub blocked: Option<(String, Refusal)>,
    /// What else was under way is not any more.
    pub supersedes: bool,
    /// These pods get new volumes: what their nodes were is forgotten.
    pub renewed: Vec<String>,
}

impl Decided {
    /// Nothing else may be done to nodes.
    pub fn disturbs(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.phase.disturbs())
    }

    /// No pod is to run.
    pub fn stops_all(&self) -> bool {
        self.status.as_ref().is_some_and(|status| {
            status.mode == RecoveryMode::WholeCluster
                && matches!(
                    status.phase,
                    RecoveryPhase::Stopping | RecoveryPhase::Recovering | RecoveryPhase::Replacing
                )
        })
    }

    fn tell(&mut self, warning: bool, reason: &'static str, note: String) {
        self.notices.push(Notice { warning, reason, note });
    }
}

/// The next state.
pub fn step(previous: Option<&RecoveryStatus>, seen: Seen<'_>) -> Decided {
    let mut decided = Decided::default();
    let current = match (previous, seen.request) {
        (None, None) => None,
        (None, Some(request)) => Some(asked(request, seen.now)),
        (Some(status), _) if status.phase.executes() => Some(status.clone()),
        (Some(status), Some(request)) if is_for(status, request) => Some(status.clone()),
        (Some(status), request) if status.phase.ended() => match request {
            Some(request) if request.id != status.id => Some(asked(request, seen.now)),
            // What was lost is told until the next one; what came to nothing is not.
            _ => (status.phase == RecoveryPhase::Done || request.is_some()).then(|| status.clone()),
        },
        (Some(status), _) => {
            let note = format!("recovery {} was taken back; nothing was given up", status.id);
            decided.tell(false, "RecoveryCancelled", note);
            None
        }
    };
    let Some(status) = current else {
        decided.step = stray(None, seen);
        return decided;
    };
    decided.step = stray(Some(&status), seen);
    let mut machine = Machine { seen, status, decided };
    machine.go_on();
    let Machine { status, mut decided, .. } = machine;
    decided.status = Some(status);
    decided
}

fn asked(request: &Recovery, now: Timestamp) -> RecoveryStatus {
    RecoveryStatus {
        id: request.id.clone(),
        from: request.from.clone(),
        mode: request.mode,
        ranges: request.ranges.clone(),
        empty_lost_ranges: request.empty_lost_ranges,
        phase: RecoveryPhase::Requested,
        since: Time(whole_seconds(now)),
        message: String::new(),
        pod: None,
        pods: 0,
        silent: 0,
        stopped_uid: None,
        report: None,
    }
}

fn is_for(status: &RecoveryStatus, request: &Recovery) -> bool {
    let same = status.from == request.from
        && status.mode == request.mode
        && status.ranges == request.ranges
        && status.empty_lost_ranges == request.empty_lost_ranges;
    status.id == request.id && (same || status.phase.ended())
}

/// A pod of an earlier look, or of a request that was taken back.
fn stray(status: Option<&RecoveryStatus>, seen: Seen<'_>) -> Option<Step> {
    let current = status.and_then(|status| status.pod.as_deref());
    let mut others = seen
        .observed
        .recovery_pods
        .iter()
        .filter(|(name, pod)| Some(name.as_str()) != current && !pod.terminating);
    others.next().map(|(name, pod)| Step::RemovePod { pod: name.clone(), uid: pod.uid.clone() })
}

struct Machine<'a> {
    seen: Seen<'a>,
    status: RecoveryStatus,
    decided: Decided,
}

impl<'a> Machine<'a> {
    fn go_on(&mut self) {
        match self.status.phase {
            RecoveryPhase::Requested => self.requested(),
            RecoveryPhase::Examining => self.examining(),
            RecoveryPhase::Reported => self.reported(),
            RecoveryPhase::Stopping => self.stopping(),
            RecoveryPhase::Recovering => self.recovering(),
            RecoveryPhase::Replacing => self.replacing(),
            RecoveryPhase::Starting => self.starting(),
            RecoveryPhase::Done | RecoveryPhase::Failed => self.tidy(),
        }
    }

    fn say(&mut self, message: impl Into<String>) {
        self.status.message = message.into();
    }

    fn enter(&mut self, phase: RecoveryPhase, message: impl Into<String>) {
        self.status.phase = phase;
        self.status.since = Time(whole_seconds(self.seen.now));
        self.say(message);
    }

    fn hold(&mut self, refusal: Refusal) {
        self.say(refusal.1.clone());
        self.decided.blocked = Some((format!("Recover/{}", self.status.from), refusal));
    }

    fn fail(&mut self, message: String) {
        let note = format!("recovery {}: {message}", self.status.id);
        self.decided.tell(true, "RecoveryFailed", note);
        self.enter(RecoveryPhase::Failed, message);
    }

    fn own_pod(&self) -> Option<&'a PodView> {
        self.seen.observed.pods.get(&self.status.from)
    }

    /// The next pod that looks at the volume or changes it.
    fn next_pod(&mut self, write: bool) {
        self.status.pods += 1;
        let name = names::recovery_pod(self.seen.cluster, &self.status.id, write, self.status.pods);
        self.status.pod = Some(name);
        self.status.stopped_uid = self.own_pod().map(|pod| pod.uid.clone());
    }

    fn requested(&mut self) {
        if let Err(refusal) = may_begin(&self.status, self.seen) {
            self.hold(refusal);
            return;
        }
        self.status.silent = 0;
        self.next_pod(false);
        let from = self.status.from.clone();
        self.enter(
            RecoveryPhase::Examining,
            format!("{from} stops for a moment, to look at its volume"),
        );
    }

    /// Starts the pod, stops the node that is in its way, and returns how the pod has ended.
    fn run_pod(&mut self, write: bool) -> Option<Ended> {
        let name = self.status.pod.clone()?;
        let Some(pod) = self.seen.observed.recovery_pods.get(&name) else {
            let host = self.own_pod().and_then(|pod| pod.host.clone());
            self.step(Step::StartPod { name, host, write });
            return None;
        };
        if let Some(ended) = &pod.ended {
            return Some(ended.clone());
        }
        if pod.terminating {
            return Some(Ended { verdict: None, why: "it was deleted".to_owned() });
        }
        if !pod.running {
            let why = pod.trouble.as_deref().unwrap_or("it starts");
            self.say(format!("waits for pod {name}: {why}"));
            return None;
        }
        // One that came after it may have been first at the volume.
        let own = self.own_pod().map(|own| own.uid.clone());
        self.status.stopped_uid = self.status.stopped_uid.take().or(own);
        let uid = self.status.stopped_uid.clone();
        let stops = self.own_pod().filter(|own| Some(&own.uid) == uid.as_ref() && !own.terminating);
        if let (Some(_), Some(uid)) = (stops, uid) {
            self.step(Step::StopNode { pod: self.status.from.clone(), uid });
        }
        self.say(format!("waits for the end of pod {name}"));
        None
    }

    /// Something that is not about an old pod goes first.
    fn step(&mut self, step: Step) {
        self.decided.step = Some(step);
    }

    /// Another pod, if one has ended without a word that counts; not for ever.
    fn again(&mut self, write: bool, why: &str) {
        self.status.silent += 1;
        let name = self.status.pod.clone().unwrap_or_default();
        if self.status.silent < SILENT {
            self.next_pod(write);
            self.say(format!("pod {name} has ended without a result ({why}): tried again"));
        } else {
            self.fail(format!("pod {name} has ended without a result, as those before it: {why}"));
        }
    }

    fn examining(&mut self) {
        let Some(ended) = self.run_pod(false) else { return };
        let Some(verdict) = ended.verdict else { return self.again(false, &ended.why) };
        let refused = verdict.refusal.as_deref();
        match (&verdict.report, refused, &verdict.failure) {
            // All pods are stopped before anything is changed.
            (Some(found), None | Some("Running"), _) => {
                let report = self.report(found, &verdict);
                self.status.silent = 0;
                let (from, digest) = (&self.status.from, &report.digest);
                let note = format!("recovery from {from}, report {digest}: {}", in_short(&report));
                self.decided.tell(true, "RecoveryReported", note);
                self.status.report = Some(report);
                let wait = self.awaits();
                self.enter(RecoveryPhase::Reported, wait);
            }
            (_, None, Some(failure)) => self.again(false, failure),
            (_, _, failure) => {
                self.fail(failure.clone().unwrap_or_else(|| "the volume has no report".to_owned()));
            }
        }
    }

    fn report(&self, found: &Summary, verdict: &Verdict) -> RecoveryReport {
        let volume = self.seen.observed.volumes.get(&self.status.from);
        let mut report = RecoveryReport {
            digest: String::new(),
            store_digest: found.digest.clone(),
            kept_ranges: found.kept,
            old_copies: found.old,
            lost_parts: found.lost_spans,
            lost: verdict.lost.clone(),
            gone: verdict.gone.clone(),
            running: verdict.running.clone(),
            meta_term: found.term,
            meta_entry: found.entry,
            revision: found.revision,
            compacted: found.compacted,
            volume_uid: volume.map(|volume| volume.uid.clone()).unwrap_or_default(),
            volumes_given_up: given_up(&self.status, self.seen),
            config_map: names::recovery_report(self.seen.cluster, &self.status.id, false),
        };
        report.digest = digest(&self.status, &report);
        report
    }

    fn awaits(&self) -> String {
        let Some(report) = &self.status.report else { return String::new() };
        let digest = &report.digest;
        let wrong = self.seen.request.and_then(|request| request.accept_data_loss.as_deref());
        match wrong {
            Some(wrong) => format!(
                "acceptDataLoss is {wrong}, but the report is {digest}: read status.recovery.report and ConfigMap {}",
                report.config_map
            ),
            None => format!(
                "{}. Read ConfigMap {}; then consent with spec.recovery.acceptDataLoss: {digest}",
                in_short(report),
                report.config_map
            ),
        }
    }

    fn reported(&mut self) {
        self.tidy();
        let Some(report) = self.status.report.clone() else {
            return self.enter(RecoveryPhase::Requested, "there is no report");
        };
        let given = self.seen.request.and_then(|request| request.accept_data_loss.as_deref());
        if given != Some(report.digest.as_str()) {
            let wait = self.awaits();
            return self.say(wait);
        }
        if let Err(refusal) = may_begin(&self.status, self.seen) {
            return self.hold(refusal);
        }
        let volume = self.seen.observed.volumes.get(&self.status.from);
        let same = volume.is_some_and(|volume| volume.uid == report.volume_uid)
            && given_up(&self.status, self.seen) == report.volumes_given_up;
        if !same {
            let why = "the volumes are not those of the report any more: it is looked again";
            return self.enter(RecoveryPhase::Requested, why);
        }
        self.status.silent = 0;
        let id = &self.status.id;
        let note =
            format!("recovery {id} by consent to report {}: {}", report.digest, in_short(&report));
        self.decided.tell(true, "RecoveryStarted", note);
        if self.status.mode == RecoveryMode::WholeCluster {
            self.decided.supersedes = true;
            self.enter(RecoveryPhase::Stopping, "all pods stop");
        } else {
            self.next_pod(true);
            self.enter(
                RecoveryPhase::Recovering,
                format!("{} stops for a moment", self.status.from),
            );
        }
    }

    fn stopping(&mut self) {
        let observed = self.seen.observed;
        let asked = observed.stateful_set.as_ref().is_some_and(|set| set.replicas == 0);
        let Some((name, pod)) = observed.pods.iter().next() else {
            if asked {
                self.next_pod(true);
                self.enter(
                    RecoveryPhase::Recovering,
                    "all pods have stopped; the volume is changed",
                );
            }
            return;
        };
        let host = pod.host.as_deref().unwrap_or_default();
        let silent = !host.is_empty() && !host_is_ready(observed, pod);
        self.say(if silent {
            format!(
                "{name} may still run on Kubernetes node {host}, which does not answer: if that is gone for \
                 good, delete it, or taint it node.kubernetes.io/out-of-service=gone:NoExecute"
            )
        } else {
            format!("waits until {name} has stopped")
        });
    }

    fn recovering(&mut self) {
        let Some(ended) = self.run_pod(true) else { return };
        let Some(verdict) = ended.verdict else { return self.again(true, &ended.why) };
        if verdict.done {
            self.status.silent = 0;
            if self.status.mode == RecoveryMode::WholeCluster {
                self.enter(RecoveryPhase::Replacing, "the volumes that were given up are deleted");
            } else {
                self.enter(RecoveryPhase::Starting, format!("waits for {}", self.status.from));
            }
            return;
        }
        let failure = verdict.failure.unwrap_or_else(|| "no reason was given".to_owned());
        match verdict.refusal.as_deref() {
            Some("Outdated") => {
                self.status.report = None;
                let note = format!("recovery {}: {failure}", self.status.id);
                self.decided.tell(true, "RecoveryReportOutdated", note);
                self.enter(RecoveryPhase::Requested, "the report is outdated: it is looked again");
            }
            Some(_) => self.fail(format!("nothing was changed: {failure}")),
            None => self.again(true, &failure),
        }
    }

    fn replacing(&mut self) {
        let report = self.status.report.clone().unwrap_or_default();
        let volumes = &self.seen.observed.volumes;
        let left = report.volumes_given_up.iter().find_map(|gone| {
            let volume = volumes.get(&gone.pod)?;
            // Never the one that everything goes on with.
            let same = volume.uid == gone.volume_uid && gone.pod != self.status.from;
            same.then_some((gone, volume.terminating))
        });
        match left {
            Some((gone, false)) => {
                let VolumeGivenUp { pod, volume_uid } = gone.clone();
                self.say(format!("the volume of {pod} is deleted"));
                self.step(Step::DeleteVolume { pod, uid: volume_uid });
            }
            Some((gone, true)) => {
                self.say(format!("waits until the volume claim of {} is gone", gone.pod));
                self.tidy();
            }
            None => {
                let renewed = report.volumes_given_up.into_iter().map(|gone| gone.pod);
                self.decided.renewed = renewed.collect();
                self.enter(RecoveryPhase::Starting, format!("waits for {}", self.status.from));
            }
        }
    }

    fn starting(&mut self) {
        self.tidy();
        let from = &self.status.from;
        let report = self.seen.observed.report.as_ref();
        let serves = report.is_some_and(|report| {
            report.has_quorum() && report.member(from).is_some_and(Member::is_alive)
        });
        if !serves || !self.own_pod().is_some_and(|pod| pod.ready && !pod.terminating) {
            return;
        }
        let lost = self.status.report.as_ref().map(in_short).unwrap_or_default();
        let note = format!("recovery {} is done: {lost}", self.status.id);
        self.decided.tell(true, "RecoveryDone", note);
        self.enter(
            RecoveryPhase::Done,
            format!("it is served again, from what {from} had: {lost}"),
        );
    }

    /// What the pod has printed is kept, and the pod removed.
    fn tidy(&mut self) {
        let Some(name) = self.status.pod.clone() else { return };
        let Some(pod) = self.seen.observed.recovery_pods.get(&name) else { return };
        let RecoveryPod { uid, terminating: false, ended: Some(_), .. } = pod.clone() else {
            return;
        };
        let after = self.status.phase != RecoveryPhase::Reported;
        let config_map = names::recovery_report(self.seen.cluster, &self.status.id, after);
        self.step(if self.seen.observed.kept_reports.get(&config_map) == Some(&uid) {
            Step::RemovePod { pod: name, uid }
        } else {
            Step::Keep { pod: name, uid, config_map }
        });
    }
}

/// What has to hold before a volume is looked at, and again before it is changed.
fn may_begin(status: &RecoveryStatus, seen: Seen<'_>) -> Result<(), Refusal> {
    let observed = seen.observed;
    let from = &status.from;
    if !seen.bootstrapped {
        return Err(("NotFormed", "the nodes have not formed a cluster yet".to_owned()));
    }
    let ordinal = names::ordinal(seen.cluster, from);
    if !ordinal.is_some_and(|ordinal| (0..seen.pods).contains(&ordinal)) {
        let last = names::pod(seen.cluster, seen.pods - 1);
        let first = names::pod(seen.cluster, 0);
        return Err((
            "UnknownPod",
            format!("recovery.from is {from}: it is one of {first} to {last}"),
        ));
    }
    if !observed.volumes.get(from).is_some_and(|volume| volume.bound && !volume.terminating) {
        let claim = names::volume_claim(from);
        return Err(("VolumeGone", format!("volume claim {claim} has no volume to go on with")));
    }
    let report = observed.report.as_ref();
    if status.mode == RecoveryMode::WholeCluster {
        // A pod is ready only if its node sees a majority of the meta range.
        let ready = observed
            .pods
            .iter()
            .find(|(_, pod)| pod.ready && !pod.terminating && host_is_ready(observed, pod));
        if let Some((pod, _)) = ready {
            let why = format!(
                "{pod} is ready, so it sees a majority of the nodes: nothing is lost for good"
            );
            return Err(("MajorityThere", why));
        }
        if let Some(report) = report.filter(|report| report.has_quorum()) {
            let (alive, all) = (report.alive(), report.places());
            let why = format!(
                "{alive} of {all} nodes answer: that is a majority. Mode Ranges recovers single ranges"
            );
            return Err(("MajorityThere", why));
        }
        return Ok(());
    }
    let Some(report) = report else {
        return Err(("StatusStale", "no node tells how the cluster is".to_owned()));
    };
    if !report.has_quorum() {
        let (alive, all) = (report.alive(), report.places());
        let why = format!("only {alive} of {all} nodes answer: mode WholeCluster is for that");
        return Err(("NoQuorum", why));
    }
    if report.ranges.unavailable == 0 {
        return Err((
            "MajorityThere",
            "every range has a majority: nothing is lost for good".to_owned(),
        ));
    }
    match seen.operation {
        Some(other) => {
            Err(("OtherOperation", format!("{:?} of {} is under way", other.kind, other.pod)))
        }
        None => Ok(()),
    }
}

fn host_is_ready(observed: &Observed, pod: &PodView) -> bool {
    let hosts = observed.hosts.as_ref();
    match (hosts, &pod.host) {
        (Some(hosts), Some(host)) => hosts.get(host).is_some_and(|host| host.ready),
        _ => true,
    }
}

/// The claims that are deleted: all but the one that everything goes on with.
fn given_up(status: &RecoveryStatus, seen: Seen<'_>) -> Vec<VolumeGivenUp> {
    if status.mode != RecoveryMode::WholeCluster {
        return vec![];
    }
    let pods = (0..seen.pods).map(|ordinal| names::pod(seen.cluster, ordinal));
    pods.filter(|pod| *pod != status.from)
        .filter_map(|pod| {
            let volume_uid = seen.observed.volumes.get(&pod)?.uid.clone();
            Some(VolumeGivenUp { pod, volume_uid })
        })
        .collect()
}

/// Twelve hex digits that stand for what is consented to.
fn digest(status: &RecoveryStatus, report: &RecoveryReport) -> String {
    let what = serde_json::json!([
        status.from,
        status.mode,
        status.ranges,
        status.empty_lost_ranges,
        report.store_digest,
        report.volume_uid,
        report.volumes_given_up,
    ]);
    Sha256::digest(what.to_string()).iter().take(6).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes everything");
        hex
    })
}

/// What is kept and lost, in a sentence.
pub fn in_short(report: &RecoveryReport) -> String {
    let mut text = format!("{} ranges go on", report.kept_ranges);
    let mut say = |part: String| write!(text, "{part}").expect("a string takes everything");
    if report.old_copies > 0 {
        say(format!(" ({} from copies that may be old)", report.old_copies));
    }
    if report.lost_parts > 0 {
        say(format!(", {} parts of the keys are lost", report.lost_parts));
    }
    if report.gone.is_empty() {
        say("; what the lost copies alone had is lost".to_owned());
    } else {
        say(format!("; gone for ever: {}", report.gone.join(", ")));
    }
    if !report.running.is_empty() {
        say(format!(" (of these run: {})", report.running.join(", ")));
    }
    if !report.volumes_given_up.is_empty() {
        let pods: Vec<&str> =
            report.volumes_given_up.iter().map(|gone| gone.pod.as_str()).collect();
        say(format!("; volumes deleted: {}", pods.join(", ")));
    }
    text
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
