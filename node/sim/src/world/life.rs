//! A node of the world: disks that outlive its processes, and the process that runs now.

use super::{Event, Happening, NodeEvent, Options, World};
use crate::clock::Clock;
use crate::disk::state::RangeImage;
use crate::disk::{LogDisk, StateDisk};
use crate::invariants::Sight;
use crate::sabotage::Sabotage;
use holdfast_core::bootstrap::Plan;
use holdfast_core::descriptor::NodeState;
use holdfast_core::effects::Millis;
use holdfast_core::ids::{Index, NodeId, RangeId};
use holdfast_core::key::Span;
use holdfast_core::node::{Config, Node};
use holdfast_core::state::ApplyBatch;
use rand::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A raft snapshot being installed.
#[derive(Debug)]
pub(crate) struct Install {
    pub image: RangeImage,
    pub clear: Vec<Span>,
}

/// See the module.
pub struct SimNode {
    /// Its id.
    pub id: NodeId,
    /// Counts its processes.
    pub life: u64,
    /// The process, if one runs.
    pub core: Option<Node>,
    /// The raft log.
    pub log: LogDisk,
    /// The applied state.
    pub state: StateDisk,
    /// Its clock.
    pub clock: Clock,
    /// It does not run, but exists.
    pub paused: bool,
    pub(crate) deferred: VecDeque<NodeEvent>,
    pub(crate) tick_deferred: bool,
    pub(crate) sessions: BTreeMap<NodeId, u64>,
    pub(crate) turn_due: bool,
    pub(crate) turns: u64,
    pub(crate) disk_busy_until: Millis,
    pub(crate) handed_over: bool,
    pub(crate) pins: BTreeMap<(RangeId, Index), RangeImage>,
    pub(crate) staged: BTreeMap<u64, RangeImage>,
    pub(crate) next_staged: u64,
    /// The cluster has removed it for good.
    pub(crate) removed: bool,
    /// A restart is planned.
    pub(crate) starting: bool,
    pub(crate) stopping: bool,
    /// A sabotage: batches that are not visible yet.
    pub(crate) late: Vec<ApplyBatch>,
}

impl SimNode {
    /// A node with the disks of a new cluster, not running.
    pub(crate) fn formatted(id: NodeId, plan: &Plan) -> Self {
        let (persist, batches) = plan.initial_state(id);
        let log = LogDisk::default();
        log.persist(persist);
        log.carry_out();
        let mut state = StateDisk::default();
        for batch in batches {
            state.apply(batch);
        }
        state.flush(usize::MAX);
        Self { log, state, starting: true, ..Self::empty(id) }
    }

    /// A node with empty disks, not running.
    pub(crate) fn empty(id: NodeId) -> Self {
        Self {
            id,
            life: 0,
            core: None,
            log: LogDisk::default(),
            state: StateDisk::default(),
            clock: Clock::new(1, 0, 1_000_000),
            paused: false,
            deferred: VecDeque::new(),
            tick_deferred: false,
            sessions: BTreeMap::new(),
            turn_due: false,
            turns: 0,
            disk_busy_until: 0,
            handed_over: false,
            pins: BTreeMap::new(),
            staged: BTreeMap::new(),
            next_staged: 1,
            removed: false,
            starting: false,
            stopping: false,
            late: Vec::new(),
        }
    }

    /// True if a process runs (it may be paused).
    pub fn is_up(&self) -> bool {
        self.core.is_some()
    }

    /// True if its process was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }
}

impl World {
    /// Starts a node's process from its disks.
    pub(super) fn start(&mut self, node: NodeId) {
        let clock = self.new_clock();
        let now = self.now;
        let incarnation = self.next_incarnation;
        self.next_incarnation += 1;
        let Options { election_ms, log_budget, split_bytes, .. } = self.options;
        let Options { check_every_ms, shaping, sabotage, .. } = self.options;
        let sim = self.sim(node);
        sim.starting = false;
        if sim.core.is_some() || sim.removed {
            return;
        }
        sim.life += 1;
        sim.clock = clock;
        let mut config = Config::new(node, incarnation);
        config.election_ms = election_ms;
        config.log_budget = log_budget;
        config.split_bytes = split_bytes;
        config.check_every_ms = check_every_ms;
        config.shaping = shaping;
        let mut boots = sim.log.boots();
        for boot in &mut boots {
            boot.applied = sim.state.memory().applied(boot.range).unwrap_or_default();
        }
        if sabotage == Some(Sabotage::EarlyPersisted) {
            sim.log.lie();
        }
        let own_now = sim.clock.at(now);
        let core = Node::new(config, own_now, Arc::new(sim.log.clone()), &sim.state, boots)
            .expect("a node can read what it wrote");
        sim.core = Some(core);
        sim.turn_due = false;
        self.checks.see(&self.nodes, &Sight::Started { node });
        self.post(node, 0, NodeEvent::Tick);
        self.plan_flush(node);
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|id| *id != node).collect();
        for other in others {
            let after = self.rng.random_range(1..20);
            self.schedule(after, Event::Connect(node, other));
        }
        if self.options.verbose {
            println!("{now} {node} starts, life {}", self.nodes[&node].life);
        }
    }

    /// Ends a node's process. With `power`, the disks lose what was not synced; without, the
    /// operating system goes on and writes it all.
    pub fn crash(&mut self, node: NodeId, power: bool) {
        let sim = self.sim(node);
        if sim.core.take().is_none() {
            return;
        }
        sim.life += 1;
        sim.paused = false;
        sim.deferred.clear();
        sim.tick_deferred = false;
        sim.sessions.clear();
        sim.turn_due = false;
        sim.handed_over = false;
        sim.stopping = false;
        sim.pins.clear();
        sim.staged.clear();
        sim.late.clear();
        sim.disk_busy_until = 0;
        let at_risk = sim.log.at_risk();
        let kept = if power { self.rng.random_range(0..=at_risk) } else { at_risk };
        let sim = self.sim(node);
        sim.log.crash(kept);
        sim.state.crash();
        self.coverage.crashes += 1;
        self.coverage.lost_writes += (at_risk - kept) as u64;
        self.checks.see(&self.nodes, &Sight::Crashed { node });
        self.happenings.push_back(Happening::Crashed(node));
        if self.options.verbose {
            println!("{} {node} ends, {kept} of {at_risk} writes kept", self.now);
        }
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|id| *id != node).collect();
        for other in others {
            self.end_session(node, other, !power);
        }
    }

    /// Ends a node's process as soon as it leads nothing (or after a while), then starts it again.
    pub fn restart_after_shutdown(&mut self, node: NodeId) {
        let life = self.nodes[&node].life;
        let after = self.rng.random_range(100..2_000);
        self.schedule(after, Event::Stop(node, life));
    }

    pub(super) fn stop(&mut self, node: NodeId, life: u64) {
        if self.nodes[&node].life == life {
            self.crash(node, false);
            let after = self.rng.random_range(10..2_000);
            self.restart(node, after);
        }
    }

    /// Ends nodes that the cluster has removed for good: a node that says so refuses them, and
    /// they stop.
    pub(super) fn end_removed(&mut self, told_by: NodeId) {
        let Some(status) = self.status(told_by) else { return };
        for record in status.nodes {
            let gone = record.state == NodeState::Tombstoned && record.id != told_by;
            if gone && !self.nodes[&record.id].removed {
                self.sim(record.id).removed = true;
                self.crash(record.id, false);
            }
        }
    }

    /// Starts a node's process after a while.
    pub fn restart(&mut self, node: NodeId, after: Millis) {
        let sim = self.sim(node);
        if sim.core.is_none() && !sim.starting && !sim.removed {
            sim.starting = true;
            self.schedule(after, Event::Start(node));
        }
    }
}
