//! Random histories of a small model of Kubernetes and of the nodes: what must hold after every step,
//! and that everything comes to rest once the world is well again. The operator crashes between any
//! two of its writes.
//!
//! The world is kept no kinder than it is: reports get old, a pod may look ready whose node is not
//! there, and the cluster refuses what the real one does.

use super::fixture::{Fixture, host, member, well};
use super::operations::{Outcome, absorb, ordinal_of};
use super::placement::absorb_change;
use super::scale::DRAIN_TTL;
use super::{Action, Plan, plan};
use crate::api::spec::ReplacementPolicy;
use crate::api::status::{Phase, Store, StoreState};
use crate::build::names;
use crate::observe::{FRESH, HostView, Report};
use jiff::Timestamp;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What happens to the world.
#[derive(Clone, Debug)]
enum Happens {
    Kill(i32),
    Heal(i32),
    FrontEnd(i32),
    Cordon(i32),
    HostGone(i32),
    /// All machines of a zone are silent at once.
    ZoneCut(i32),
    /// As `HostGone`, and the disk with it, for ever.
    Lost(i32),
    /// Kubernetes says that a pod is ready, as it was when its host was heard last, whatever it is.
    Echo(i32),
    Blind,
    Sighted,
    Pass(i64),
    Nodes(i32),
    Template,
    Progress,
    /// The resource asks for so many copies of some keys, or not any more.
    Policy(Option<i32>),
    /// The operator runs one loop and dies after so many of its three writes.
    Loop(u8),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => (0..7i32).prop_map(Happens::Kill),
        4 => (0..7i32).prop_map(Happens::Heal),
        1 => (0..7i32).prop_map(Happens::FrontEnd),
        1 => (0..7i32).prop_map(Happens::Cordon),
        1 => (0..7i32).prop_map(Happens::HostGone),
        2 => (0..7i32).prop_map(Happens::Lost),
        1 => (0..3i32).prop_map(Happens::ZoneCut),
        1 => (0..7i32).prop_map(Happens::Echo),
        1 => Just(Happens::Blind),
        2 => Just(Happens::Sighted),
        5 => (1..900i64).prop_map(Happens::Pass),
        2 => (3..7i32).prop_map(Happens::Nodes),
        1 => Just(Happens::Template),
        3 => Just(Happens::Progress),
        2 => prop::option::of(prop::sample::select(vec![1, 3, 5])).prop_map(Happens::Policy),
        15 => (0..4u8).prop_map(Happens::Loop),
    ]
}

/// The machine of a pod, in one of so many zones.
fn host_in(zones: i32, ordinal: i32) -> HostView {
    let zone = (zones > 0).then(|| format!("zone-{}", ordinal % zones));
    HostView { zone, ..well() }
}

struct World {
    fixture: Fixture,
    /// What the nodes would say, if they were asked.
    truth: Report,
    /// They cannot be asked.
    blind: bool,
    /// What they said last, as this operator remembers it.
    heard: Option<(Timestamp, Report)>,
    next_member: u64,
    revision: u32,
    condemned: BTreeSet<u64>,
    /// Requests for reprotection that were taken on.
    operations: BTreeSet<String>,
    leaving: BTreeSet<u64>,
    /// When drains end by themselves.
    drains: BTreeMap<u64, Timestamp>,
    /// Nodes that answer again, but whose copies lack what was written meanwhile.
    behind: BTreeSet<u64>,
    /// Whose disk a volume is, by UID.
    disks: BTreeMap<String, u64>,
    /// Volumes that nobody will ever see again, by UID.
    lost: BTreeSet<String>,
    /// How many zones there are; 0: machines do not tell.
    zones: i32,
    /// Pods of a zone that went away as a whole while all was well, as long as it is so.
    cut: BTreeSet<String>,
}

impl World {
    fn new(nodes: i32, policy: ReplacementPolicy, zones: i32) -> Self {
        let mut fixture = Fixture::new(nodes);
        fixture.cluster.spec.replacement.policy = policy;
        for (ordinal, view) in (0..).zip(fixture.observed.hosts.as_mut().unwrap().values_mut()) {
            *view = host_in(zones, ordinal);
        }
        fixture.settle();
        let mut truth = fixture.observed.report.clone().unwrap();
        truth.policies.get_or_insert_default().push(placing::by_hand());
        Self {
            fixture,
            truth,
            blind: false,
            heard: None,
            next_member: 100,
            revision: 1,
            condemned: BTreeSet::new(),
            operations: BTreeSet::new(),
            leaving: BTreeSet::new(),
            drains: BTreeMap::new(),
            behind: BTreeSet::new(),
            disks: (0..nodes).map(|at| (format!("pvc-{at}"), at as u64 + 1)).collect(),
            lost: BTreeSet::new(),
            zones,
            cut: BTreeSet::new(),
        }
    }

    fn happen(&mut self, what: Happens) {
        let now = self.fixture.now;
        if !matches!(what, Happens::Blind | Happens::Sighted | Happens::Pass(_) | Happens::Loop(_))
        {
            self.cut.clear();
        }
        match what {
            Happens::Kill(ordinal) => {
                let name = names::pod("demo", ordinal);
                if self.fixture.observed.pods.contains_key(&name) {
                    self.fixture.unready(ordinal);
                    self.set_member(&name, "Down");
                }
            }
            Happens::Heal(ordinal) => self.heal(ordinal),
            Happens::FrontEnd(ordinal) => {
                if self.fixture.observed.pods.contains_key(&names::pod("demo", ordinal)) {
                    self.fixture.unready(ordinal);
                    self.fixture.pod(ordinal).running = true;
                }
            }
            Happens::Cordon(ordinal) => {
                if let Some(view) = self.hosts().get_mut(&host(ordinal)) {
                    view.cordoned = !view.cordoned;
                }
            }
            Happens::HostGone(ordinal) => {
                self.hosts().remove(&host(ordinal));
                self.happen(Happens::Kill(ordinal));
            }
            Happens::Lost(ordinal) => self.lose(ordinal),
            Happens::ZoneCut(zone) => self.cut_zone(zone),
            Happens::Echo(ordinal) => {
                if let Some(pod) = self.fixture.observed.pods.get_mut(&names::pod("demo", ordinal))
                {
                    pod.ready = true;
                    pod.running = true;
                    pod.ready_changed = Some(now);
                }
            }
            Happens::Blind => self.blind = true,
            Happens::Sighted => self.blind = false,
            Happens::Pass(seconds) => {
                self.fixture.now = now + jiff::SignedDuration::from_secs(seconds);
                self.end_drains();
            }
            Happens::Nodes(nodes) => {
                self.fixture.cluster.spec.nodes = nodes;
                // The API server would refuse it otherwise.
                let policies = &mut self.fixture.cluster.spec.placement.policies;
                policies.retain(|policy| policy.replicas <= nodes);
            }
            Happens::Policy(copies) => self.ask_for_copies(copies),
            Happens::Template => self.revision += 1,
            Happens::Progress => self.progress(),
            Happens::Loop(writes) => self.operate(writes),
        }
    }

    /// Nobody has asked for them again: those nodes are in service.
    fn end_drains(&mut self) {
        let now = self.fixture.now;
        let over: Vec<u64> =
            self.drains.iter().filter(|(_, at)| **at <= now).map(|(node, _)| *node).collect();
        for node in over {
            self.drains.remove(&node);
            self.leaving.remove(&node);
            self.turn(node, "Draining", "Up");
        }
    }

    fn hosts(&mut self) -> &mut BTreeMap<String, HostView> {
        self.fixture.observed.hosts.as_mut().unwrap()
    }

    fn set_member(&mut self, name: &str, state: &str) {
        for member in self.truth.nodes.iter_mut().filter(|member| member.name == name) {
            if !self.condemned.contains(&member.id) {
                state.clone_into(&mut member.state);
            }
        }
    }

    fn cut_zone(&mut self, zone: i32) {
        if zone >= self.zones {
            return;
        }
        let status = self.fixture.cluster.status.as_ref().unwrap();
        let up = |name: &str| self.truth.member(name).is_some_and(|member| member.state == "Up");
        let well = |store: &Store| store.state == StoreState::Healthy && up(&store.pod);
        let all_well = status.operation.is_none() && status.stores.iter().all(well);
        let inside: BTreeSet<String> = status
            .stores
            .iter()
            .filter(|store| names::ordinal("demo", &store.pod).unwrap() % self.zones == zone)
            .map(|store| store.pod.clone())
            .collect();
        let hosts = self.fixture.observed.hosts.as_ref().unwrap();
        let told = (0..status.nodes).all(|ordinal| hosts.contains_key(&host(ordinal)));
        for name in &inside {
            self.happen(Happens::Kill(names::ordinal("demo", name).unwrap()));
        }
        if all_well && told && self.zones > 1 && inside.len() > 1 {
            self.cut = inside;
        }
    }

    /// The machine and its disk are gone for ever; never so many that no majority of all disks is left.
    fn lose(&mut self, ordinal: i32) {
        let name = names::pod("demo", ordinal);
        let Some(volume) = self.fixture.observed.volumes.get(&name) else { return };
        let uid = volume.uid.clone();
        let volumes = &self.fixture.observed.volumes;
        let has_disk = |member: &crate::observe::Member| {
            let own = volumes.get(&member.name).filter(|volume| !volume.terminating);
            own.is_some_and(|own| {
                self.disks.get(&own.uid) == Some(&member.id) && !self.lost.contains(&own.uid)
            })
        };
        // Nor while nodes come or go that the operator has not heard of: more of them than stay could be
        // away for ever.
        let status = self.fixture.cluster.status.as_ref().unwrap();
        let pods = self.fixture.observed.stateful_set.as_ref().unwrap().replicas;
        if pods != status.nodes || pods as usize != self.truth.nodes.len() {
            return;
        }
        // Nor one that never served: there is nothing on it, and a human has to see to its pod.
        let id = self.disks.get(&uid).map(|id| *id as i64);
        let is_own = |row: &Store| row.pod == name && row.served && row.store_id == id;
        let served = id.is_some() && status.stores.iter().any(is_own);
        if !served || !self.truth.nodes.iter().all(has_disk) {
            return;
        }
        self.lost.insert(uid);
        self.happen(Happens::HostGone(ordinal));
    }

    /// The disk that a pod finds was lost.
    fn is_lost(&self, name: &str) -> bool {
        let volume = self.fixture.observed.volumes.get(name);
        volume.is_some_and(|volume| self.lost.contains(&volume.uid))
    }

    fn heal(&mut self, ordinal: i32) {
        let name = names::pod("demo", ordinal);
        if self.is_lost(&name) {
            return;
        }
        let view = host_in(self.zones, ordinal);
        self.hosts().insert(host(ordinal), view);
        if !self.fixture.observed.pods.contains_key(&name) {
            return;
        }
        self.fixture.pod(ordinal).host = Some(host(ordinal));
        let volume = self.fixture.observed.volumes.get_mut(&name).unwrap();
        volume.bound = true;
        let uid = volume.uid.clone();
        if self.is_tombstoned_disk(&name) {
            // Its process is refused and ends.
            if self.fixture.pod(ordinal).ready {
                self.fixture.unready(ordinal);
            }
            return;
        }
        let now = self.fixture.now;
        if !self.fixture.pod(ordinal).ready {
            self.fixture.pod(ordinal).ready = true;
            self.fixture.pod(ordinal).ready_changed = Some(now);
        }
        self.fixture.pod(ordinal).running = true;
        let id = self.disks.get(&uid).copied();
        if let Some(member) = self.truth.nodes.iter_mut().find(|it| Some(it.id) == id) {
            if !member.is_alive() {
                let leaves = self.leaving.contains(&member.id);
                let state = if leaves { "Draining" } else { "Up" };
                state.clone_into(&mut member.state);
                self.behind.insert(member.id);
            }
            self.condemned.remove(&member.id);
        } else {
            self.truth.nodes.push(member(self.next_member, ordinal));
            self.disks.insert(uid, self.next_member);
            self.next_member += 1;
        }
    }

    /// A disk whose node the cluster declared dead: its process is refused.
    fn is_tombstoned_disk(&self, name: &str) -> bool {
        self.fixture.observed.volumes.get(name).is_some_and(|volume| self.is_dead(&volume.uid))
    }

    /// A volume whose node the cluster has declared dead.
    fn is_dead(&self, uid: &str) -> bool {
        self.disks.get(uid).is_some_and(|id| self.truth.by_id(*id as i64).is_none())
    }

    /// How many nodes can take copies, but for one.
    fn spare(&self, node: u64) -> usize {
        self.truth.nodes.iter().filter(|member| member.state == "Up" && member.id != node).count()
    }

    /// The data plane does what it was asked to, if most of its nodes answer.
    fn progress(&mut self) {
        if self.truth.alive() * 2 <= self.truth.nodes.len() {
            return;
        }
        self.behind.clear();
        self.make_copies();
        // Whoever leaves and holds nothing any more is gone for good.
        for member in self.truth.nodes.clone() {
            if self.leaving.contains(&member.id) && member.ranges == 0 {
                self.truth.nodes.retain(|other| other.id != member.id);
            }
        }
        for at in 0..self.truth.nodes.len() {
            let id = self.truth.nodes[at].id;
            if self.leaving.contains(&id) && self.spare(id) >= self.copies() {
                self.truth.nodes[at].ranges = 0;
            }
        }
        let condemned = self.condemned.clone();
        for member in self.truth.nodes.clone() {
            let spare = self.spare(member.id) >= self.copies();
            if condemned.contains(&member.id) && !member.is_alive() && spare {
                self.condemned.remove(&member.id);
                self.truth.nodes.retain(|other| other.id != member.id);
            }
        }
    }

    /// What is seen, and what Kubernetes' own controllers do.
    fn look(&mut self) {
        let alive = self.truth.alive();
        let all = alive == self.truth.nodes.len() && self.behind.is_empty();
        self.truth.ranges.fully_replicated = if all { 10 } else { 3 };
        self.truth.ranges.unavailable = i64::from(alive * 2 <= self.truth.nodes.len());
        let now = self.fixture.now;
        if !self.blind {
            self.heard = Some((now, self.truth.clone()));
        }
        self.heard.take_if(|(at, _)| now.duration_since(*at).unsigned_abs() > FRESH);
        self.fixture.observed.report = self.heard.as_ref().map(|(_, report)| report.clone());
        self.fixture.observed.report_error = self.blind.then(|| "no answer in time".to_owned());
        let set = self.fixture.observed.stateful_set.as_mut().unwrap();
        set.update_revision = Some(format!("r{}", self.revision));
        let replicas = set.replicas;
        for ordinal in 0..replicas {
            if !self.fixture.observed.pods.contains_key(&names::pod("demo", ordinal)) {
                let volume =
                    self.fixture.observed.volumes.get(&names::pod("demo", ordinal)).cloned();
                self.fixture.add_pod(ordinal);
                let revision = format!("r{}", self.revision);
                let now = self.fixture.now;
                let pod = self.fixture.pod(ordinal);
                pod.uid = format!("{}-{}", pod.uid, now.as_nanosecond());
                pod.revision = Some(revision);
                pod.ready = false;
                pod.running = false;
                pod.ready_changed = Some(now);
                if let Some(volume) = volume.filter(|volume| !volume.terminating) {
                    self.fixture.observed.volumes.insert(names::pod("demo", ordinal), volume);
                } else {
                    let volumes = &mut self.fixture.observed.volumes;
                    let volume = volumes.get_mut(&names::pod("demo", ordinal)).unwrap();
                    volume.uid = format!("pvc-{ordinal}-{}", now.as_nanosecond());
                    // A local disk is chosen with the Kubernetes node.
                    volume.bound = false;
                }
                if !self.hosts().contains_key(&host(ordinal)) {
                    self.fixture.pod(ordinal).host = None;
                }
            }
        }
        let beyond = |name: &String| names::ordinal("demo", name).unwrap() >= replicas;
        let gone: Vec<String> =
            self.fixture.observed.pods.keys().filter(|it| beyond(it)).cloned().collect();
        for name in gone {
            self.fixture.observed.pods.remove(&name);
            self.set_member(&name, "Down");
        }
    }

    fn operate(&mut self, writes: u8) {
        self.run(writes);
        if writes < 3 {
            self.heard = None;
        }
    }

    fn run(&mut self, writes: u8) {
        self.look();
        let before = self.fixture.cluster.clone();
        let decided = plan(&before, &self.fixture.observed, true, self.fixture.now);
        self.check(&decided);
        if writes == 0 {
            return;
        }
        self.fixture.cluster.status = Some(decided.status.clone());
        // The same once more, from what was written: the same action, nothing new to write.
        let again = plan(&self.fixture.cluster, &self.fixture.observed, true, self.fixture.now);
        if decided.status.operation.is_some() && decided.action.is_some() {
            assert_eq!(again.action, decided.action, "the action stands in the status");
        }
        if writes == 1 {
            return;
        }
        self.fixture.observed.stateful_set.as_mut().unwrap().replicas = decided.status.nodes;
        self.fixture.change_gateway(&decided);
        let now = self.fixture.now;
        if let Some(action) = decided.action {
            let outcome = self.carry_out(action);
            if writes > 2 {
                absorb(self.fixture.cluster.status.as_mut().unwrap(), outcome, now);
            }
        }
        if let Some(change) = decided.placing.change {
            let outcome = self.change_policy(&change);
            if writes > 2 {
                let status = self.fixture.cluster.status.as_mut().unwrap();
                absorb_change(status, &change, outcome, now);
            }
        }
    }

    fn carry_out(&mut self, action: Action) -> Outcome {
        let asks = !matches!(action, Action::DeletePod { .. } | Action::Replace { .. });
        if asks && (self.blind || self.truth.alive() * 2 <= self.truth.nodes.len()) {
            return Outcome::Failed("no answer in time".to_owned());
        }
        match action {
            Action::Drain { node } if self.spare(node) < self.copies() => {
                return Outcome::Refused("no spare node".to_owned());
            }
            Action::Drain { node } => {
                self.turn(node, "Up", "Draining");
                self.leaving.insert(node);
                self.drains.insert(node, self.fixture.now + DRAIN_TTL);
            }
            Action::Undrain { node } if self.truth.by_id(node as i64).is_none() => {
                return Outcome::Refused("it is gone for good".to_owned());
            }
            Action::Undrain { node } => {
                self.turn(node, "Draining", "Up");
                self.leaving.remove(&node);
                self.drains.remove(&node);
            }
            Action::Reprotect { node, operation, .. } => {
                if let Err(reason) = self.condemn(node, operation) {
                    return Outcome::Refused(reason.to_owned());
                }
            }
            Action::DeletePod { pod, uid } => {
                if self.fixture.observed.pods.get(&pod).is_some_and(|view| view.uid == uid) {
                    self.fixture.observed.pods.remove(&pod);
                    self.set_member(&pod, "Down");
                }
            }
            Action::Replace { gone_host: Some(host), .. } if self.hosts().contains_key(&host) => {
                return Outcome::Refused("the Kubernetes node exists".to_owned());
            }
            Action::Replace { pod, pod_uid, volume_uid, .. } => {
                let volume = self.fixture.observed.volumes.get_mut(&pod);
                if let Some(volume) = volume.filter(|it| Some(&it.uid) == volume_uid.as_ref()) {
                    volume.terminating = true;
                }
                let view = self.fixture.observed.pods.get(&pod);
                if view.is_some_and(|view| Some(&view.uid) == pod_uid.as_ref()) {
                    self.fixture.observed.pods.remove(&pod);
                }
            }
        }
        Outcome::Accepted(String::new())
    }

    /// The cluster's own guards.
    fn condemn(&mut self, node: u64, operation: String) -> Result<(), &'static str> {
        let known = self.operations.contains(&operation);
        match self.truth.by_id(node as i64) {
            _ if known => return Ok(()),
            None => return Err("it is gone for good already"),
            Some(member) if member.is_alive() => return Err("it answers: nothing is lost"),
            Some(_) if self.spare(node) < self.copies() => return Err("no spare node"),
            Some(_) => {}
        }
        self.operations.insert(operation);
        self.condemned.insert(node);
        for member in self.truth.nodes.iter_mut().filter(|member| member.id == node) {
            "Condemned".clone_into(&mut member.state);
        }
        Ok(())
    }

    fn turn(&mut self, node: u64, from: &str, to: &str) {
        for member in &mut self.truth.nodes {
            if member.id == node && member.state == from {
                to.clone_into(&mut member.state);
                member.ranges = if to == "Up" { 6 } else { member.ranges };
            }
        }
    }

    /// What must hold whatever happened before.
    fn check(&self, plan: &Plan) {
        assert!(plan.requeue > Duration::ZERO && plan.requeue <= Duration::from_secs(10));
        let old = self.fixture.cluster.status.as_ref().unwrap();
        let seen = self.fixture.observed.report.as_ref();
        let members = self.truth.nodes.len();
        if plan.action.is_some() {
            assert!(plan.status.operation.is_some(), "an action without its intent: {plan:?}");
        }
        if plan.status.nodes < old.nodes {
            assert_eq!(plan.action, None, "two disruptive things at once");
            assert_eq!(old.nodes - plan.status.nodes, 1);
            let name = names::pod("demo", plan.status.nodes);
            let empty = self.truth.nodes.iter().all(|it| it.name != name || it.ranges == 0);
            assert!(empty && seen.is_some(), "{name} is taken away with what it holds");
        }
        for change in plan.gateway.iter().filter(|change| change.wanted) {
            let stays = ordinal_of(&change.pod).is_some_and(|it| it < plan.status.nodes);
            assert!(stays, "clients are sent to {}, which was taken away", change.pod);
        }
        Self::check_placing(plan);
        match &plan.action {
            Some(Action::Reprotect { node, .. }) => {
                let member = self.truth.nodes.iter().find(|member| member.id == *node);
                assert!(self.cut.is_empty(), "a zone that was cut off is given up: {:?}", self.cut);
                assert!(member.is_none_or(|it| !it.is_alive()), "a living node is given up");
                assert!(seen.is_some_and(Report::has_quorum), "given up without a majority");
                let unavailable = seen.map_or(0, |seen| seen.ranges.unavailable);
                assert_eq!(unavailable, 0);
            }
            Some(Action::Replace { volume_uid: Some(uid), gone_host, .. })
                if !self.is_dead(uid) =>
            {
                let host = gone_host.as_ref().expect("a volume goes whose node is not dead");
                let hosts = self.fixture.observed.hosts.as_ref().unwrap();
                assert!(!hosts.contains_key(host), "the machine of {uid} is there");
                let id = self.disks[uid];
                let member = self.truth.by_id(id as i64).unwrap();
                assert!(!member.is_alive(), "a living node loses its disk: {uid}");
                assert!(self.spare(id) < self.copies(), "others could take the copies of {uid}");
                let others = self.truth.nodes.iter().filter(|member| member.is_alive()).count();
                assert!(others >= 2, "given up without a majority of the copies");
                assert!(seen.is_some_and(|seen| seen.ranges.unavailable == 0));
                assert!(seen.is_some_and(Report::has_quorum), "given up without a majority");
            }
            Some(Action::Drain { .. }) => {
                let pod = &plan.status.operation.as_ref().unwrap().pod;
                let view = self.fixture.observed.pods.get(pod);
                // Asked again is not begun.
                let again = old.operation.as_ref().is_some_and(|it| it.phase != Phase::Intended);
                assert!(
                    again || view.is_none_or(|view| !view.ready || !view.in_gateway),
                    "{pod} is drained while clients are sent to it"
                );
            }
            Some(Action::DeletePod { pod, .. }) => {
                let alive = self.truth.nodes.iter().filter(|it| it.is_alive());
                let others = alive.filter(|member| member.name != *pod).count();
                let member = self.truth.member(pod).filter(|member| member.is_alive());
                assert!(
                    member.is_none() || others * 2 > members,
                    "{pod} is needed for the majority"
                );
                assert!(
                    member.is_none() || self.behind.is_empty(),
                    "{pod} may have the only complete copies"
                );
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_and_all_ends_well(
        nodes in 3..7i32,
        policy in prop_oneof![
            Just(ReplacementPolicy::WhenNodeGone),
            Just(ReplacementPolicy::AfterReprotect),
        ],
        zones in 0..4i32,
        history in prop::collection::vec(happens(), 1..60),
    ) {
        ends_well_in(zones, nodes, policy, history);
    }
}

/// The same where machines do not tell their zones.
fn ends_well(nodes: i32, policy: ReplacementPolicy, history: Vec<Happens>) {
    ends_well_in(0, nodes, policy, history);
}

/// Lives through a history, and a quiet time after it.
fn ends_well_in(zones: i32, nodes: i32, policy: ReplacementPolicy, history: Vec<Happens>) {
    let mut world = World::new(nodes, policy, zones);
    for event in history {
        world.happen(event);
    }
    // The world is well again.
    world.blind = false;
    let mut quiet = 0;
    for _ in 0..400 {
        for ordinal in 0..9 {
            let name = names::pod("demo", ordinal);
            if world.is_lost(&name) || world.is_tombstoned_disk(&name) {
                // Its host really is gone, so that it can be replaced.
                world.hosts().remove(&host(ordinal));
                world.happen(Happens::Kill(ordinal));
            } else {
                world.heal(ordinal);
            }
        }
        world.progress();
        let before = world.fixture.cluster.status.clone();
        world.operate(3);
        world.happen(Happens::Pass(35));
        // A refused request is made again in a while.
        let operation = world.fixture.status().operation.as_ref();
        let refused = world.fixture.status().placement.policies.iter();
        let refused = refused.filter_map(|own| own.refused.as_ref()?.retry_at.as_ref());
        let retries = operation.and_then(|it| it.retry_at.as_ref()).into_iter().chain(refused);
        let stores = world.fixture.status().stores.iter();
        let due = stores.filter_map(|store| store.act_at.as_ref()).chain(retries);
        let waits = due.into_iter().any(|at| at.0 > world.fixture.now);
        let same = before == world.fixture.cluster.status;
        quiet = if same && !waits { quiet + 1 } else { 0 };
        if quiet > 2 {
            break;
        }
    }
    let status = world.fixture.status();
    assert!(status.operation.is_none(), "still busy: {status:#?}");
    assert_eq!(status.nodes, world.fixture.cluster.spec.nodes, "{status:#?}");
    for store in &status.stores {
        assert_eq!(store.state, StoreState::Healthy, "{store:#?}");
    }
    assert_eq!(status.updated_nodes, status.nodes, "{status:#?} {:#?}", world.truth);
    let pods = &world.fixture.observed.pods;
    assert!(pods.values().all(|pod| pod.in_gateway), "{pods:#?}");
    world.check_policies();
}

mod histories;
mod placing;
