//! Random histories of a recovery: users that consent, err and change their minds, pods that end as they
//! like, an operator that dies between any two of its writes.

use super::super::fixture::Fixture;
use super::tests::{ask, carry_out, lost};
use super::*;
use crate::observe::recovery::{Ended, Summary, Verdict};
use crate::observe::{PodView, VolumeView};
use crate::plan::plan;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Happens {
    /// The operator runs one loop and dies after so many of its two writes.
    Loop(u8),
    /// The pod of the recovery goes on: it runs, then it ends, well or not.
    Pod(u8),
    /// Somebody consents to what stands in the status now, or to something else.
    Consent(bool),
    TakeBack,
    Ask(u8),
    /// Kubernetes starts and stops pods as the StatefulSet says.
    Controller,
    /// A claim is deleted and made anew by somebody else.
    NewVolume(i32),
    /// What is on the volume changes.
    Changes,
    /// The majority is back, or gone again.
    Majority(bool),
    Pass(i64),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        12 => (0..3u8).prop_map(Happens::Loop),
        8 => (0..8u8).prop_map(Happens::Pod),
        4 => (0..4u8).prop_map(|at| Happens::Consent(at > 0)),
        1 => Just(Happens::TakeBack),
        1 => (0..3u8).prop_map(Happens::Ask),
        8 => Just(Happens::Controller),
        1 => (0..3i32).prop_map(Happens::NewVolume),
        1 => Just(Happens::Changes),
        1 => any::<bool>().prop_map(Happens::Majority),
        2 => (1..900i64).prop_map(Happens::Pass),
    ]
}

struct World {
    fixture: Fixture,
    /// How many pods Kubernetes was told to run.
    replicas: i32,
    /// What is on the volume: changes make another.
    state: u32,
    /// Digests that somebody has read and consented to.
    consents: BTreeSet<String>,
    /// The volume was changed, by consent.
    recovered: bool,
    volumes: u32,
}

impl World {
    fn new() -> Self {
        Self {
            fixture: lost(),
            replicas: 3,
            state: 0,
            consents: BTreeSet::new(),
            recovered: false,
            volumes: 0,
        }
    }

    fn recovery(&self) -> Option<&RecoveryStatus> {
        self.fixture.status().recovery.as_ref()
    }

    fn happen(&mut self, what: &Happens) {
        match what {
            Happens::Loop(writes) => self.operate(*writes),
            Happens::Pod(how) => self.pod(*how),
            Happens::Consent(right) => {
                let read = self.recovery().and_then(|it| it.report.clone()).map(|it| it.digest);
                let Some(request) = &mut self.fixture.cluster.spec.recovery else { return };
                let said = read.filter(|_| *right);
                self.consents.extend(said.clone());
                request.accept_data_loss = Some(said.unwrap_or_else(|| "wrong".to_owned()));
            }
            Happens::TakeBack => self.fixture.cluster.spec.recovery = None,
            Happens::Ask(id) => ask(&mut self.fixture, json!({"id": format!("r{id}")})),
            Happens::Controller => self.control(),
            Happens::NewVolume(at) => {
                self.volumes += 1;
                let uid = format!("new-{}", self.volumes);
                let volume = VolumeView { uid, bound: true, ..VolumeView::default() };
                self.fixture.observed.volumes.insert(names::pod("demo", *at), volume);
            }
            Happens::Changes => self.state += 1,
            Happens::Majority(there) => {
                for pod in self.fixture.observed.pods.values_mut() {
                    pod.ready = *there;
                }
            }
            Happens::Pass(seconds) => {
                self.fixture.pass(*seconds);
            }
        }
    }

    fn operate(&mut self, writes: u8) {
        let fixture = &mut self.fixture;
        let plan = plan(&fixture.cluster, &fixture.observed, true, fixture.now);
        let disturbs =
            plan.status.recovery.as_ref().is_some_and(|recovery| recovery.phase.disturbs());
        assert!(
            plan.action.is_none() || plan.recovery.is_none() && !disturbs,
            "two things at once"
        );
        if writes < 1 {
            return;
        }
        fixture.cluster.status = Some(plan.status.clone());
        self.replicas = if plan.stopped { 0 } else { plan.status.nodes };
        if writes < 2 {
            return;
        }
        let Some(step) = plan.recovery else { return };
        let recovery = plan.status.recovery.as_ref();
        match &step {
            Step::StartPod { write: true, .. } => {
                let report = recovery.unwrap().report.as_ref().unwrap();
                assert!(self.consents.contains(&report.digest), "nobody has consented");
                assert!(self.fixture.observed.pods.is_empty(), "somebody runs");
                assert_eq!(self.replicas, 0);
            }
            Step::DeleteVolume { pod, uid } => {
                let recovery = recovery.unwrap();
                let report = recovery.report.as_ref().unwrap();
                assert!(self.consents.contains(&report.digest), "nobody has consented");
                assert!(self.recovered, "what is left was not gone on with");
                assert_ne!(*pod, recovery.from);
                assert!(
                    report
                        .volumes_given_up
                        .iter()
                        .any(|it| it.pod == *pod && it.volume_uid == *uid)
                );
                assert_eq!(self.replicas, 0);
            }
            Step::StopNode { pod, .. } => assert_eq!(*pod, recovery.unwrap().from),
            _ => {}
        }
        carry_out(&mut self.fixture, &step);
    }

    /// The tool in the pod, as it is: it compares what it finds with what it was told to expect.
    fn pod(&mut self, how: u8) {
        let Some(recovery) = self.recovery().cloned() else { return };
        let Some(name) = recovery.pod.clone() else { return };
        let found = format!("store-{}", self.state);
        let runs = !self.fixture.observed.pods.is_empty();
        let Some(pod) = self.fixture.observed.recovery_pods.get_mut(&name) else { return };
        if pod.ended.is_some() {
            return;
        }
        let write = name.contains("-run");
        let report = Summary { digest: found.clone(), kept: 2, ..Summary::default() };
        let mut verdict = Verdict { version: 1, report: Some(report), ..Verdict::default() };
        let refuse = |verdict: &mut Verdict, why: &str| {
            verdict.refusal = Some(why.to_owned());
            verdict.failure = Some(why.to_owned());
        };
        match how {
            0 => {
                pod.running = true;
                return;
            }
            1 => {
                pod.ended = Some(Ended { verdict: None, why: "evicted".to_owned() });
                return;
            }
            2 => refuse(&mut verdict, "Unclear"),
            _ if self.recovered && !write => {
                verdict.report = None;
                refuse(&mut verdict, "Nothing");
            }
            _ if write && runs => refuse(&mut verdict, "Running"),
            _ if write && self.recovered => verdict.done = true,
            _ if write && recovery.report.as_ref().is_some_and(|it| it.store_digest == found) => {
                verdict.done = true;
                self.recovered = true;
            }
            _ if write => refuse(&mut verdict, "Outdated"),
            _ => {}
        }
        pod.ended = Some(Ended { verdict: Some(verdict), why: String::new() });
    }

    fn control(&mut self) {
        let observed = &mut self.fixture.observed;
        observed.stateful_set.as_mut().unwrap().replicas = self.replicas;
        if self.replicas == 0 {
            observed.pods.clear();
            observed.report = None;
            return;
        }
        for at in 0..self.replicas {
            let name = names::pod("demo", at);
            let fresh = PodView { uid: format!("{name}-{}", self.volumes), ..PodView::default() };
            observed.pods.entry(name.clone()).or_insert(fresh);
            observed.volumes.entry(name).or_insert_with(|| {
                self.volumes += 1;
                let uid = format!("new-{}", self.volumes);
                VolumeView { uid, bound: true, ..VolumeView::default() }
            });
        }
        if self.recovered && self.recovery().is_none_or(|it| !it.phase.disturbs()) {
            let well = Fixture::new(3).observed;
            self.fixture.observed.report = well.report;
            for pod in self.fixture.observed.pods.values_mut() {
                pod.ready = true;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_given_up_without_consent_and_a_fair_world_ends_it(
        history in proptest::collection::vec(happens(), 1..80),
    ) {
        let mut world = World::new();
        ask(&mut world.fixture, json!({"id": "r0"}));
        for what in &history {
            world.happen(what);
            let volumes = &world.fixture.observed.volumes;
            prop_assert!(volumes.contains_key("demo-1"));
        }
        // From now on everything goes as it should.
        if !world.recovered && world.recovery().is_none_or(|it| !it.phase.executes()) {
            ask(&mut world.fixture, json!({"id": "last"}));
            world.happen(&Happens::Majority(false));
        }
        for _ in 0..60 {
            world.happen(&Happens::Loop(2));
            world.happen(&Happens::Controller);
            if !world.recovered {
                world.happen(&Happens::Majority(false));
            }
            world.happen(&Happens::Pod(7));
            if world.recovery().is_some_and(|it| it.phase == RecoveryPhase::Reported) {
                world.happen(&Happens::Consent(true));
            }
        }
        let ended = world.recovery().is_none_or(|it| it.phase.ended() || world.recovered);
        prop_assert!(ended, "{:#?}", world.recovery());
        prop_assert_eq!(world.replicas, 3, "pods stay stopped: {:#?}", world.recovery());
    }
}
