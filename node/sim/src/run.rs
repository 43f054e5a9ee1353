//! One run: a cluster under load and faults, then without faults, then judged.
//!
//! ```text
//!   chaos: safety is checked at every step ──► heal ──► liveness within bounds ──► judgement
//! ```

use crate::convergence;
use crate::nemesis::{Nemesis, Temper};
use crate::oracle::value_of;
use crate::workload::{Watchers, Workload};
use crate::world::{Coverage, Happening, Options, World};
use bytes::Bytes;
use holdfast_core::bootstrap;
use holdfast_core::descriptor::{ReplicaKind, Room};
use holdfast_core::effects::Millis;
use holdfast_core::ids::{META_RANGE, NodeId};
use holdfast_core::node::Shaping;
use holdfast_core::request::{AdminOp, Op, PutOp, RangeOp, Request, Response};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Clients of a run, and watching ones.
const CLIENTS: usize = 6;
const WATCHERS: usize = 5;

/// Mixed into the seed for what is decided before the world begins.
const SHAPE: u64 = 0x5eed;
/// The same, for how the cluster shapes its ranges by itself.
const SHAPING: u64 = 0x10ad;
/// Smaller seeds leave that out: what they found, they found without it.
const SHAPING_FROM: u64 = 10_000_000;

const WATCHER_TIMERS: u64 = 1 << 20;
const NEMESIS_TIMER: u64 = 1 << 21;
const MERGE_TIMER: u64 = 1 << 22;
const POLICY_TIMER: u64 = 1 << 23;

/// After the last fault, every range has a leader within this. Five elections, and the time that
/// a request sent to nowhere takes to be sent again.
const LED_MS: Millis = 12_000;
/// Then leaders are where they belong, replicas equal, watches complete.
const SETTLED_MS: Millis = 20_000;
/// Then copies are made until all ranges have as many as policies say: a few hundred steps at worst.
const COPIES_MS: Millis = 60_000;
/// As long as ranges are being cut, leaders may take so many times [`SETTLED_MS`].
const CUTTING_ROUNDS: u32 = 6;

/// What a run is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The world.
    pub options: Options,
    /// How long the faults go on, in milliseconds.
    pub chaos_ms: Millis,
    /// At most so many events of faults and load.
    pub steps_max: u64,
    /// No faults.
    pub calm: bool,
    /// Longest pause between two merges that are asked for; 0 is none.
    pub merges_ms: Millis,
    /// Longest pause between two changes of placement policies, or of what nodes say of themselves; 0 is
    /// none.
    pub policies_ms: Millis,
}

impl Plan {
    /// A run of this seed, which also decides about the size of the cluster.
    pub fn new(seed: u64) -> Self {
        let mut options = Options::new(seed);
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ SHAPE);
        options.nodes = *[3, 3, 3, 3, 3, 4, 5, 5, 1].choose(&mut rng).expect("not empty");
        let cuts: &[&'static str] = match rng.random_range(0..4) {
            0 => &[],
            1 => &["k1", "k2", "k4", "k5/3", "k7", "k8"],
            _ => &["k3", "k6"],
        };
        options.split_keys = cuts.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
        // Entries of a log that are kept for members that are behind: many, or so few that an
        // absent member needs a raft snapshot.
        let kept = *[2_000, 100, 10].choose(&mut rng).expect("not empty");
        options.log_budget = kept * 512;
        // Ranges that are cut by themselves, as long as there are keys to cut between.
        options.split_bytes = *[0, 0, 100, 1_000].choose(&mut rng).expect("not empty");
        options.check_every_ms = 2_000;
        options.election_ms = *[1000, 1000, 500].choose(&mut rng).expect("not empty");
        let merges_ms = *[0, 500, 500, 3_000].choose(&mut rng).expect("not empty");
        let policies_ms = *[0, 0, 500, 2_000, 8_000].choose(&mut rng).expect("not empty");
        let (chaos_ms, steps_max) = (15_000, u64::MAX);
        if seed >= SHAPING_FROM {
            shape(&mut options);
        }
        Self { options, chaos_ms, steps_max, calm: false, merges_ms, policies_ms }
    }
}

/// Cuts by load and merges all the time, in half of the runs.
fn shape(options: &mut Options) {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed ^ SHAPING);
    if rng.random() {
        return;
    }
    // Else most ranges would soon have one key, and stay as large as they are.
    if rng.random_ratio(3, 4) {
        options.split_bytes = 0;
    }
    options.shaping = Shaping {
        split_load: *[0, 1, 2, 5].choose(&mut rng).expect("not empty"),
        load_lasts_ms: *[0, 200, 1_000].choose(&mut rng).expect("not empty"),
        load_rests_ms: 500,
        // Also so that every load is one and none: cuts and merges without end.
        quiet_load: *[1, 1_000].choose(&mut rng).expect("not empty"),
        merge_after_ms: *[0, 300, 300, 1_000].choose(&mut rng).expect("not empty"),
        rank_every_ms: *[0, 200, 1_000].choose(&mut rng).expect("not empty"),
        ranks_loads_after_ms: *[0, 1_000, 5_000].choose(&mut rng).expect("not empty"),
    };
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Fingerprint of everything that happened.
    pub trace: u64,
    /// What happened how often.
    pub coverage: Coverage,
    /// Operations of clients.
    pub operations: usize,
    /// Of which were answered with success.
    pub succeeded: usize,
    /// Revisions that changed something.
    pub revisions: usize,
    /// Watches.
    pub watches: usize,
    /// The world's time at the end.
    pub virtual_ms: Millis,
    /// What is wrong, if anything.
    pub violation: Option<String>,
}

struct Run {
    world: World,
    workload: Workload,
    watchers: Watchers,
    nemesis: Nemesis,
    merges_ms: Millis,
    policies_ms: Millis,
}

/// Runs a plan; a panic of the core (or of the world) is a violation too.
pub fn run_caught(plan: Plan) -> Report {
    let seed = plan.options.seed;
    std::panic::catch_unwind(|| run(plan)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        Report {
            seed,
            trace: 0,
            coverage: Coverage::default(),
            operations: 0,
            succeeded: 0,
            revisions: 0,
            watches: 0,
            virtual_ms: 0,
            violation: Some(format!("panic: {message}")),
        }
    })
}

/// Runs a plan.
pub fn run(plan: Plan) -> Report {
    let seed = plan.options.seed;
    let mut world = World::new(plan.options);
    let temper = if plan.calm { Temper::calm() } else { Temper::draw(&mut world) };
    let think_max = if world.rng().random() { 20 } else { 200 };
    let mut run = Run {
        workload: Workload::new(CLIENTS, think_max),
        watchers: Watchers::new(WATCHERS, WATCHER_TIMERS),
        nemesis: Nemesis::new(temper, NEMESIS_TIMER),
        merges_ms: plan.merges_ms,
        policies_ms: plan.policies_ms,
        world,
    };
    if plan.merges_ms > 0 {
        run.world.timer(plan.merges_ms, MERGE_TIMER);
    }
    if plan.policies_ms > 0 {
        run.world.timer(plan.policies_ms, POLICY_TIMER);
    }
    let mut violation = run.all(plan.chaos_ms, plan.steps_max).err();
    if violation.is_none() {
        violation = run.workload.oracle.judge(&run.world.checks.history).err();
    }
    run.world.coverage.swapped = swapped(&run.world);
    let nodes: Vec<NodeId> = run.world.nodes().keys().copied().collect();
    for node in nodes {
        let Some(status) = run.world.status(node) else { continue };
        run.world.coverage.cuts_by_load += status.counters.cuts_by_load;
        run.world.coverage.own_merges += status.counters.merges_begun;
    }
    let ops = &run.workload.oracle.ops;
    Report {
        seed,
        trace: run.world.trace(),
        coverage: run.world.coverage,
        operations: ops.len(),
        succeeded: ops.iter().filter(|op| matches!(op.returned, Some((_, Ok(_))))).count(),
        revisions: run.world.checks.history.changes().len(),
        watches: run.workload.oracle.watches.len(),
        virtual_ms: run.world.now(),
        violation,
    }
}

/// See [`Coverage::swapped`].
fn swapped(world: &World) -> u64 {
    let first = bootstrap::meta_voters(world.nodes().len(), world.options.replicas) as u64;
    let statuses = world.nodes().keys().filter_map(|node| world.status(*node));
    let mut ranges = statuses.flat_map(|status| status.ranges);
    let meta = ranges.find(|range| range.descriptor.id == META_RANGE);
    meta.map_or(0, |meta| {
        let learners =
            meta.descriptor.replicas.iter().filter(|own| own.kind == ReplicaKind::Learner);
        learners.filter(|own| own.replica.0 <= first).count() as u64
    })
}

impl Run {
    fn all(&mut self, chaos_ms: Millis, steps_max: u64) -> Result<(), String> {
        for client in 0..CLIENTS as u64 {
            self.world.timer(client, client);
        }
        for watcher in 0..WATCHERS as u64 {
            self.world.timer(500 + watcher, WATCHER_TIMERS + watcher);
        }
        let first = self.world.rng().random_range(0..3_000);
        self.world.timer(first, NEMESIS_TIMER);
        let end = self.world.now() + chaos_ms;
        while self.world.now() < end && self.world.coverage.events < steps_max {
            self.step()?;
        }
        self.nemesis.heal(&mut self.world);
        self.until(LED_MS, "a leader for every range", |run| convergence::led(&run.world))?;
        self.make_room()?;
        self.time(2_000)?;
        self.workload.stopped = true;
        self.watchers.stopped = true;
        self.every_node_serves()?;
        self.until(SETTLED_MS, "clients without work", |run| {
            if run.workload.is_idle() { Ok(()) } else { Err("some wait".to_owned()) }
        })?;
        // What was asked for before the end of the faults may have come only now.
        self.make_room()?;
        self.leaders_settle()?;
        self.until(COPIES_MS, "full set of copies", |run| convergence::complete(&run.world))?;
        self.until(SETTLED_MS, "no locked range", |run| convergence::free(&run.world))?;
        let shaping = self.world.options.shaping;
        if shaping.rank_every_ms > 0 && shaping.counts() {
            self.until(SETTLED_MS, "even leaders", |run| convergence::even(&run.world))?;
        }
        self.until(SETTLED_MS, "equal replicas", |run| convergence::equal(&run.world))?;
        self.until(SETTLED_MS, "empty staging places", |run| convergence::unstaged(&run.world))?;
        let before = convergence::checks(&self.world);
        self.until(SETTLED_MS, "consistency checks", |run| {
            convergence::checked(&run.world, &before)
        })?;
        self.until(SETTLED_MS, "complete watches", |run| {
            let last = run.world.checks.history.last();
            let behind = run
                .watchers
                .live(&run.workload.oracle)
                .find(|watch| watch.through < last && watch.next() <= last);
            behind.map_or(Ok(()), |watch| Err(format!("{last} is missing: {watch:?}")))
        })
    }

    /// Disks are emptied: with too little room for copies, no cluster is whole again.
    fn make_room(&mut self) -> Result<(), String> {
        let mut found = Err(String::new());
        for _ in 0..10 {
            found = convergence::roomy(&self.world);
            if found.is_ok() {
                break;
            }
            for (node, _) in convergence::facts(&self.world) {
                let op = AdminOp::Room { node, room: Room::Plenty };
                self.world.request(node, 2_000, Request::Admin(op));
            }
            self.time(1_000)?;
        }
        found.map_err(|why| format!("no room: {why}"))
    }

    /// A write into each range and a read of everything, through each node.
    fn every_node_serves(&mut self) -> Result<(), String> {
        let nodes: Vec<NodeId> = self.world.nodes().keys().copied().collect();
        for node in nodes {
            if let Err(why) = self.serves(node)
                // One that was told to leave may do so only now, when its last copy is elsewhere.
                && !self.world.node(node).removed
            {
                return Err(why);
            }
        }
        Ok(())
    }

    fn serves(&mut self, node: NodeId) -> Result<(), String> {
        let all = Bytes::from_static(b"\0");
        let read = RangeOp { key: all.clone(), range_end: all, ..RangeOp::default() };
        for key in ["k0", "k1a", "k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9"] {
            let key = Bytes::from_static(key.as_bytes());
            let value = value_of(self.workload.oracle.next_id(), 0);
            self.must_succeed(node, Op::Put(PutOp { key, value, ..PutOp::default() }))?;
        }
        self.must_succeed(node, Op::Range(read))
    }

    fn must_succeed(&mut self, node: NodeId, op: Op) -> Result<(), String> {
        let id = self
            .workload
            .ask(node, 5_000, Request::Kv(op), &mut self.world)
            .ok_or_else(|| format!("{node} does not run"))? as usize;
        self.until(6_000, "an answer", |run| match &run.workload.oracle.ops[id].returned {
            Some(_) => Ok(()),
            None => Err(format!("{:?}", run.workload.oracle.ops[id])),
        })?;
        let record = &self.workload.oracle.ops[id];
        if matches!(record.returned, Some((_, Ok(Response::Kv { .. })))) {
            return Ok(());
        }
        Err(format!("after the faults: {record:?}"))
    }

    fn time(&mut self, millis: Millis) -> Result<(), String> {
        let end = self.world.now() + millis;
        while self.world.now() < end {
            self.step()?;
        }
        Ok(())
    }

    fn until(
        &mut self,
        bound: Millis,
        what: &str,
        holds: impl Fn(&Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let end = self.world.now() + bound;
        loop {
            match holds(self) {
                Ok(()) => return Ok(()),
                Err(why) if self.world.now() >= end => {
                    return Err(format!("no {what} after {bound} ms: {why}"));
                }
                Err(_) => self.time(20)?,
            }
        }
    }

    /// Leaders are where they belong. The time that it may take starts anew as long as ranges are
    /// being cut: the leader of each new one has to go there.
    fn leaders_settle(&mut self) -> Result<(), String> {
        let mut rounds = 0;
        loop {
            let newest = convergence::newest_range(&self.world);
            let settled = self.until(SETTLED_MS, "leaders in their places", |run| {
                convergence::balanced(&run.world)?;
                convergence::led(&run.world)
            });
            rounds += 1;
            if settled.is_ok()
                || rounds == CUTTING_ROUNDS
                || self.world.checks.violation().is_some()
                || convergence::newest_range(&self.world) == newest
            {
                return settled;
            }
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let alive = self.world.advance();
        while let Some(happening) = self.world.happening() {
            self.happened(happening);
        }
        match self.world.checks.violation() {
            Some(violation) => Err(format!("{} ms: {violation}", self.world.now())),
            None if alive => Ok(()),
            None => Err("the world stands still".to_owned()),
        }
    }

    fn happened(&mut self, happening: Happening) {
        let Self { world, workload, watchers, nemesis, .. } = self;
        match happening {
            Happening::Reply { token, result, .. } => workload.reply(token, result, world),
            Happening::Watch { news, .. } => watchers.news(&news, &mut workload.oracle, world),
            Happening::Crashed(node) => {
                workload.crashed(node, world);
                watchers.crashed(node, &mut workload.oracle, world);
            }
            Happening::Timer(NEMESIS_TIMER) => nemesis.due(world),
            Happening::Timer(MERGE_TIMER | POLICY_TIMER) if nemesis.stopped => {}
            Happening::Timer(MERGE_TIMER) => {
                let after = world.rng().random_range(1..=self.merges_ms);
                world.timer(after, MERGE_TIMER);
                Nemesis::merge(world);
            }
            Happening::Timer(POLICY_TIMER) => {
                let after = world.rng().random_range(1..=self.policies_ms);
                world.timer(after, POLICY_TIMER);
                Nemesis::place(world);
            }
            Happening::Timer(name) if name >= WATCHER_TIMERS => {
                let seen = workload.seen();
                let watcher = (name - WATCHER_TIMERS) as usize;
                watchers.due(watcher, seen, &mut workload.oracle, world);
            }
            Happening::Timer(name) => workload.due(name as usize, world),
        }
    }
}
