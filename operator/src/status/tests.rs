//! What the status says in every situation, and that tools which know kstatus agree.

use super::*;
use crate::observe::Progress;
use crate::plan::fixture::Fixture;
use serde_json::Value;

/// The published rules of kstatus for custom resources, written down once more.
fn kstatus(object: &Value) -> &'static str {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating";
    }
    let (generation, observed) =
        (&object["metadata"]["generation"], &object["status"]["observedGeneration"]);
    if !observed.is_null() && generation != observed {
        return "InProgress";
    }
    let empty = vec![];
    let conditions = object["status"]["conditions"].as_array().unwrap_or(&empty);
    for condition in conditions {
        match (condition["type"].as_str(), condition["status"].as_str()) {
            (Some("Reconciling"), Some("True")) => return "InProgress",
            (Some("Stalled"), Some("True")) => return "Failed",
            _ => {}
        }
    }
    match conditions.iter().find(|it| it["type"] == "Ready").map(|it| it["status"].as_str()) {
        Some(Some("True")) | None => "Current",
        Some(_) => "InProgress",
    }
}

struct Seen {
    status: HoldfastClusterStatus,
    object: Value,
}

impl Seen {
    fn is(&self, kind: &str) -> (&str, &str) {
        let condition = self.status.conditions.iter().find(|it| it.type_ == kind).unwrap();
        (&condition.status, &condition.reason)
    }
}

fn finish_with(fixture: &mut Fixture, trouble: &Trouble) -> Seen {
    let plan = fixture.settle();
    let certificate = Certificate {
        secret: "demo-ca".to_owned(),
        not_after: Timestamp::from_second(crate::plan::fixture::START + 100_000_000).ok(),
    };
    let status =
        finish(&fixture.cluster, &plan, &fixture.observed, trouble, &[certificate], fixture.now);
    let mut object = serde_json::to_value(&fixture.cluster).unwrap();
    object["status"] = serde_json::to_value(&status).unwrap();
    fixture.cluster.status = Some(status.clone());
    Seen { status, object }
}

fn look(fixture: &mut Fixture) -> Seen {
    finish_with(fixture, &Trouble::default())
}

#[test]
fn well() {
    let seen = look(&mut Fixture::new(3));
    for (kind, status, reason) in [
        ("Ready", "True", "Ready"),
        ("Available", "True", "AllRangesAvailable"),
        ("FullyReplicated", "True", "FullyReplicated"),
        ("Reconciling", "False", "UpToDate"),
        ("Stalled", "False", "Progressing"),
        ("Progressing", "False", "Idle"),
        ("Degraded", "False", "AllWell"),
        ("Reprotecting", "False", "Idle"),
        ("ReprotectionHeld", "False", "NothingDue"),
        ("CertificatesReady", "True", "Loaded"),
        ("Paused", "False", "NotPaused"),
    ] {
        assert_eq!(seen.is(kind), (status, reason), "{kind}");
    }
    assert_eq!(kstatus(&seen.object), "Current");
    assert_eq!(seen.status.observed_generation, Some(1));
}

#[test]
fn creating() {
    let mut fixture = Fixture::new(3);
    fixture.cluster.status = None;
    fixture.observed = Observed::default();
    let seen = look(&mut fixture);
    assert_eq!(seen.is("Ready"), ("False", "Bootstrapping"));
    assert_eq!(seen.is("Reconciling"), ("True", "Creating"));
    assert_eq!(kstatus(&seen.object), "InProgress");
    // Nothing more changes just because time passes.
    fixture.pass(100);
    assert_eq!(look(&mut fixture).status, seen.status);
}

#[test]
fn a_lost_pod_leaves_it_ready_but_degraded() {
    let mut fixture = Fixture::new(3);
    look(&mut fixture);
    fixture.kill(1);
    let seen = look(&mut fixture);
    assert_eq!(seen.is("Ready"), ("True", "Ready"));
    assert_eq!(seen.is("Degraded"), ("True", "StoreDown"));
    assert_eq!(seen.is("FullyReplicated"), ("False", "TooFewStores"));
    assert_eq!(seen.is("ReprotectionHeld"), ("True", "WaitingDelay"));
    assert_eq!(kstatus(&seen.object), "Current");
    // Later the delay is over, and no node is left to take the copies.
    fixture.pass(600);
    let seen = look(&mut fixture);
    assert_eq!(seen.is("ReprotectionHeld"), ("True", "NoSpareStore"));
    assert!(seen.status.next.contains("NoSpareStore"), "{}", seen.status.next);
}

#[test]
fn the_end_of_copying_is_told_without_writing_all_the_time() {
    let mut fixture = Fixture::new(5);
    look(&mut fixture);
    fixture.report().protection = "Reprotecting".to_owned();
    let message = |seen: &Seen| {
        let conditions = seen.status.conditions.iter();
        conditions.clone().find(|it| it.type_ == "Reprotecting").unwrap().message.clone()
    };
    let unknown = look(&mut fixture);
    assert_eq!(unknown.is("Reprotecting"), ("True", "Copying"));
    assert!(message(&unknown).ends_with("until when is not known yet"), "{}", message(&unknown));
    fixture.report().reprotection = Some(Progress { seconds_left: Some(100) });
    let known = look(&mut fixture);
    let end = known.status.protection.clone().unwrap().estimated_end.unwrap();
    assert!(message(&known).ends_with(&format!("until about {}", end.0)));
    // As foretold: nothing to write.
    for left in [90, 75, 60] {
        fixture.pass(13);
        fixture.report().reprotection = Some(Progress { seconds_left: Some(left) });
        assert_eq!(look(&mut fixture).status, known.status);
    }
    fixture.report().protection = "Full".to_owned();
    fixture.report().reprotection = None;
    let over = look(&mut fixture);
    assert_eq!(over.status.protection.clone().unwrap().estimated_end, None);
}

#[test]
fn unknown_is_said_and_is_not_down() {
    let mut fixture = Fixture::new(3);
    look(&mut fixture);
    fixture.observed.report = None;
    fixture.observed.report_error = Some("demo-0: no answer in time".to_owned());
    let seen = look(&mut fixture);
    for kind in ["Ready", "Available", "FullyReplicated"] {
        assert_eq!(seen.is(kind), ("Unknown", "StatusUnknown"), "{kind}");
    }
    assert_eq!(seen.is("Degraded").0, "False");
    assert_eq!(seen.status.ranges, None);
    assert_eq!(kstatus(&seen.object), "InProgress");
}

#[test]
fn lost_ranges() {
    let mut fixture = Fixture::new(3);
    look(&mut fixture);
    fixture.kill(0);
    fixture.kill(1);
    fixture.report().ranges.unavailable = 4;
    let seen = look(&mut fixture);
    assert_eq!(seen.is("Available"), ("False", "RangesUnavailable"));
    assert_eq!(seen.is("Stalled"), ("True", "QuorumLost"));
    assert_eq!(seen.is("Ready"), ("False", "QuorumLost"));
    assert_eq!(kstatus(&seen.object), "Failed");
}

#[test]
fn an_invalid_spec_is_stalled_while_the_cluster_runs_on() {
    let mut fixture = Fixture::new(3);
    let trouble = Trouble { invalid: vec!["nodes (2) ...".to_owned()], ..Trouble::default() };
    let seen = finish_with(&mut fixture, &trouble);
    assert_eq!(seen.is("Stalled"), ("True", "InvalidSpec"));
    assert_eq!(seen.is("Reconciling").0, "False");
    assert_eq!(seen.is("Available").0, "True");
    assert_eq!(kstatus(&seen.object), "Failed");
}

#[test]
fn missing_rights_are_said() {
    let mut fixture = Fixture::new(3);
    let why = ("Forbidden".to_owned(), "cannot apply Service demo-gateway: ...".to_owned());
    let trouble = Trouble { apply: Some(why), ..Trouble::default() };
    let seen = finish_with(&mut fixture, &trouble);
    assert_eq!(seen.is("Stalled"), ("True", "Forbidden"));
}

#[test]
fn why_pods_do_not_start_is_said() {
    type Break = fn(&mut PodView);
    let rows: [(&str, Break); 5] = [
        ("ImagePullFailed", |pod| {
            pod.waiting = Some(("ImagePullBackOff".to_owned(), "no such image".to_owned()));
        }),
        ("CrashLooping", |pod| {
            pod.waiting = Some(("CrashLoopBackOff".to_owned(), String::new()));
            pod.last_words = Some("--replicas 3 is more than".to_owned());
        }),
        ("StorageIdentityMismatch", |pod| {
            pod.waiting = Some(("CrashLoopBackOff".to_owned(), String::new()));
            let log = "{\"level\":\"INFO\"}\nholdfast-node: data directory /d belongs to node n1 of \
                       cluster 1f, not to cluster 2e\n";
            pod.last_words = Some(log.to_owned());
        }),
        ("StorageIdentityMismatch", |pod| {
            pod.waiting = Some(("CrashLoopBackOff".to_owned(), String::new()));
            pod.last_words = Some("holdfast-node: this node is gone for good: its ...".to_owned());
        }),
        ("Unschedulable", |pod| pod.unschedulable = Some("0/3 nodes are available".to_owned())),
    ];
    for (reason, breaks) in rows {
        let mut fixture = Fixture::new(3);
        fixture.cluster.status = None;
        fixture.observed.report = None;
        fixture.observed.stateful_set.as_mut().unwrap().bootstrapped = false;
        for ordinal in 0..3 {
            fixture.unready(ordinal);
        }
        breaks(fixture.pod(1));
        let seen = look(&mut fixture);
        assert_eq!(seen.is("Stalled"), ("True", reason));
        assert_eq!(seen.is("Reconciling").0, "False");
        assert_eq!(kstatus(&seen.object), "Failed");
    }
}

#[test]
fn an_unbound_volume_is_said() {
    let mut fixture = Fixture::new(3);
    fixture.cluster.status = None;
    fixture.observed.report = None;
    fixture.observed.stateful_set.as_mut().unwrap().bootstrapped = false;
    fixture.unready(0);
    fixture.pod(0).unschedulable = Some("unbound immediate PersistentVolumeClaims".to_owned());
    let volume = fixture.observed.volumes.get_mut("demo-0").unwrap();
    volume.bound = false;
    volume.class = Some("nosuch".to_owned());
    let seen = look(&mut fixture);
    assert_eq!(seen.is("Stalled"), ("True", "VolumePending"));
}

#[test]
fn scaling_and_rolling_are_in_progress() {
    let mut fixture = Fixture::new(5);
    look(&mut fixture);
    fixture.cluster.spec.nodes = 4;
    let seen = look(&mut fixture);
    assert_eq!(seen.is("Reconciling"), ("True", "Scaling"));
    assert_eq!(kstatus(&seen.object), "InProgress");

    let mut fixture = Fixture::new(3);
    look(&mut fixture);
    fixture.observed.stateful_set.as_mut().unwrap().update_revision = Some("r2".to_owned());
    let seen = look(&mut fixture);
    assert_eq!(seen.is("Reconciling"), ("True", "RollingOut"));
    assert_eq!(seen.is("Progressing"), ("True", "RollingOut"));
}

#[test]
fn an_old_observation_is_in_progress() {
    let mut fixture = Fixture::new(3);
    let mut seen = look(&mut fixture);
    seen.object["metadata"]["generation"] = 2.into();
    assert_eq!(kstatus(&seen.object), "InProgress");
}

#[test]
fn full_protection_restored_is_told_once() {
    let mut fixture = Fixture::new(3);
    let full = look(&mut fixture).status;
    fixture.kill(1);
    let less = look(&mut fixture).status;
    let reasons = |before: &HoldfastClusterStatus, after: &HoldfastClusterStatus| {
        notices(before, after).iter().map(|notice| notice.reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&less, &full), ["FullProtectionRestored"]);
    assert!(reasons(&full, &full).is_empty());
    assert_eq!(reasons(&full, &less), ["ReprotectionHeld", "UnderReplicated"]);
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let mut fixture = Fixture::new(3);
    let first = look(&mut fixture).status;
    fixture.pass(1000);
    assert_eq!(look(&mut fixture).status, first);
}
