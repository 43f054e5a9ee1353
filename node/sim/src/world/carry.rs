//! Carries out what a node's core asks for, in the order of its contract.

use super::life::Install;
use super::{Event, Happening, NodeEvent, Stream, World};
use crate::invariants::Sight;
use crate::sabotage::Sabotage;
use holdfast_core::effects::{Effects, Input, Millis, Persist, SnapshotEffect, WatchEffect};
use holdfast_core::feed;
use holdfast_core::group::decode_raft;
use holdfast_core::ids::{META_RANGE, NodeId, RangeId, ReplicaId};
use holdfast_core::key::Span;
use holdfast_core::measure;
use holdfast_core::message::{Message, Outcome};
use holdfast_core::read::{Origin, ReadTask, ReadWork};
use holdfast_core::replica::merging::absorbed_in;
use holdfast_core::state::{ApplyBatch, Mutation};
use rand::Rng;

/// Longest time that a read waits for its thread.
const READ_MS_MAX: Millis = 3;
/// Longest time that a raft snapshot takes to be pinned, streamed or installed.
const SNAPSHOT_MS_MAX: Millis = 200;
/// Pins kept of a range; an older one is forgotten, and its stream fails.
const PINS_MAX: usize = 4;

impl World {
    /// Gives the inputs that came of it at once.
    pub(super) fn carry_out(&mut self, node: NodeId, effects: Effects) -> Vec<Input> {
        let Effects {
            send,
            persist,
            apply,
            snapshots,
            hashes,
            reads,
            replies,
            watch,
            handed_over,
            again: _,
            peers: _,
        } = effects;
        let mut follow_up = Vec::new();
        for (to, message) in send {
            self.checks.see(&self.nodes, &Sight::Sent { from: node, to, message: &message });
            self.transmit(node, to, &message);
        }
        for persist in persist {
            self.persist(node, persist);
        }
        let mut apply = apply;
        if self.options.sabotage == Some(Sabotage::LateApply) {
            apply = std::mem::replace(&mut self.sim(node).late, apply);
        }
        for batch in apply {
            self.apply(node, batch);
        }
        for effect in snapshots {
            self.snapshot(node, effect);
        }
        for task in hashes {
            self.coverage.hashes += 1;
            let finding = self.nodes[&node].state.check(&task);
            let to = task.checkpoint.leader;
            follow_up.push(Input::Hashed { to, found: task.found(finding) });
        }
        for task in reads {
            if task.is_small() && self.rng.random_bool(0.9) {
                follow_up.extend(self.finish_read(node, &task));
            } else {
                let after = self.rng.random_range(0..=READ_MS_MAX);
                self.post(node, after, NodeEvent::Read(Box::new(task)));
            }
        }
        for (token, result) in replies {
            self.checks.see(&self.nodes, &Sight::Replied { node, result: &result });
            self.happenings.push_back(Happening::Reply { node, token, result });
        }
        for mut news in watch {
            if self.options.sabotage == Some(Sabotage::LostEvents)
                && let WatchEffect::Events { events, .. } = &mut news
                && self.rng.random_ratio(1, 100)
            {
                events.pop();
            }
            self.checks.see(&self.nodes, &Sight::Watch { node, news: &news });
            self.happenings.push_back(Happening::Watch { node, news });
        }
        self.sim(node).handed_over |= handed_over;
        self.checks.see(&self.nodes, &Sight::TurnEnds);
        follow_up
    }

    fn apply(&mut self, node: NodeId, mut batch: ApplyBatch) {
        self.checks.see(&self.nodes, &Sight::Applying { node, batch: &batch });
        self.mix(batch.applied.index);
        let range = batch.range;
        if batch.system.iter().any(|row| !absorbed_in(row).is_empty()) {
            self.coverage.merges += 1;
        }
        if self.options.sabotage == Some(Sabotage::LostApply)
            && node == NodeId(2)
            && self.rng.random_ratio(1, 100)
        {
            batch.mutations.clear();
        }
        let lost = (self.options.sabotage == Some(Sabotage::LostRow)
            && node == NodeId(2)
            && self.rng.random_ratio(1, 20))
        .then(|| batch.mutations.last().cloned())
        .flatten();
        self.sim(node).state.apply(batch);
        if let Some(Mutation { key, version, .. }) = lost {
            self.sim(node).state.lose(key, version.mod_revision);
        }
        self.checks.see(&self.nodes, &Sight::Applied { node, range });
        if range == META_RANGE {
            self.end_removed(node);
        }
    }

    pub(super) fn run_read(&mut self, node: NodeId, task: ReadTask) {
        if let Some(input) = self.finish_read(node, &task) {
            self.step(node, input);
        }
    }

    fn finish_read(&mut self, node: NodeId, task: &ReadTask) -> Option<Input> {
        let state = &self.nodes[&node].state;
        if let ReadWork::Feed { feed, span, from, to, prev_kv, compacted } = &task.work {
            let (events, through) = feed::scan(span, *from, *to, *prev_kv, *compacted, state);
            return Some(Input::FeedScanned { feed: *feed, events, through });
        }
        if let ReadWork::Measure { range, generation, span } = &task.work {
            let measure = measure::measure(span, state);
            return Some(Input::Measured { range: *range, generation: *generation, measure });
        }
        let result = if self.options.sabotage == Some(Sabotage::OldReads) {
            task.run(&state.old())
        } else {
            task.run(state)
        };
        match task.origin {
            Origin::Client(token) => {
                self.checks.see(&self.nodes, &Sight::Replied { node, result: &result });
                self.happenings.push_back(Happening::Reply { node, token, result });
                None
            }
            Origin::Remote { node: to, token } => {
                let message = Message::Reply { token, outcome: Outcome::Done(result) };
                self.transmit(node, to, &message);
                None
            }
            Origin::Gather { gather, part } => Some(Input::ReadDone { gather, part, result }),
            Origin::None => None,
        }
    }

    // The log.

    fn persist(&mut self, node: NodeId, persist: Persist) {
        self.checks.see(&self.nodes, &Sight::Persisting { node, persist: &persist });
        let disk = self.options.disk;
        let slow = disk.slow_one_in > 0 && self.rng.random_ratio(1, disk.slow_one_in);
        let time = if slow {
            self.coverage.slow_syncs += 1;
            self.rng.random_range(disk.sync_max..=disk.slow_max)
        } else {
            self.rng.random_range(0..=disk.sync_max)
        };
        let now = self.now;
        let sim = self.sim(node);
        sim.disk_busy_until = sim.disk_busy_until.max(now) + time;
        let (at, life) = (sim.disk_busy_until, sim.life);
        sim.log.persist(persist);
        self.schedule_at(at, Event::LogWritten(node, life));
    }

    pub(super) fn log_written(&mut self, node: NodeId, life: u64) {
        let sim = self.sim(node);
        if sim.life != life {
            return;
        }
        if let Some(sequence) = sim.log.carry_out() {
            self.post(node, 0, NodeEvent::Input(Box::new(Input::Persisted { sequence })));
        }
    }

    // The state.

    pub(super) fn plan_flush(&mut self, node: NodeId) {
        let after = self.rng.random_range(10..=self.options.disk.flush_max.max(10));
        self.post(node, after, NodeEvent::Flush);
    }

    pub(super) fn start_flush(&mut self, node: NodeId) {
        let sim = &self.nodes[&node];
        let (count, life) = (sim.state.ahead(), sim.life);
        let after = self.rng.random_range(0..50);
        self.schedule(after, Event::Flushed(node, life, count));
        self.plan_flush(node);
    }

    pub(super) fn flushed(&mut self, node: NodeId, life: u64, count: usize) {
        let sim = self.sim(node);
        if sim.life != life {
            return;
        }
        sim.state.flush(count);
        self.tell_durable(node);
    }

    fn tell_durable(&mut self, node: NodeId) {
        let positions = self.nodes[&node].state.durable().positions();
        let applied = positions.map(|(range, applied)| (range, applied.index)).collect();
        self.post(node, 0, NodeEvent::Input(Box::new(Input::StateDurable { applied })));
    }

    // Raft snapshots.

    fn snapshot(&mut self, node: NodeId, effect: SnapshotEffect) {
        match effect {
            SnapshotEffect::Build { range, to, span } => self.pin(node, range, to, &span),
            SnapshotEffect::Stream { range, to, node: target, message } => {
                self.stream(node, range, to, target, message);
            }
            SnapshotEffect::Install { range, staged, applied, clear } => {
                let image = self.sim(node).staged.remove(&staged);
                let image = image.expect("the core installs what was staged, once");
                assert_eq!((image.range, image.applied), (range, applied), "the staged snapshot");
                let after = self.rng.random_range(0..=SNAPSHOT_MS_MAX);
                let install = Install { image, clear };
                self.post(node, after, NodeEvent::Install(Box::new(install)));
            }
            SnapshotEffect::Discard { staged } => {
                let image = self.sim(node).staged.remove(&staged);
                assert!(image.is_some(), "the core gives up what was staged, once");
            }
            SnapshotEffect::Destroy { range, clear } => {
                self.sim(node).state.destroy(range, clear);
            }
        }
    }

    fn pin(&mut self, node: NodeId, range: RangeId, to: ReplicaId, span: &Span) {
        let image = self.nodes[&node].state.image(range, span);
        let failed = self.drop_one_in > 0 && self.rng.random_ratio(1, 8);
        let image = image.filter(|_| !failed);
        let applied = image.as_ref().map(|image| image.applied);
        if let Some(image) = image {
            let sim = self.sim(node);
            sim.pins.insert((range, image.applied.index), image);
            while sim.pins.keys().filter(|(of, _)| *of == range).count() > PINS_MAX {
                let oldest = sim.pins.keys().find(|(of, _)| *of == range).copied();
                sim.pins.remove(&oldest.expect("counted above"));
            }
        }
        let after = self.rng.random_range(0..=SNAPSHOT_MS_MAX);
        let input = Input::SnapshotBuilt { range, to, applied };
        self.post(node, after, NodeEvent::Input(Box::new(input)));
    }

    fn stream(
        &mut self,
        from: NodeId,
        range: RangeId,
        replica: ReplicaId,
        to: NodeId,
        message: Message,
    ) {
        let index = match &message {
            Message::Raft { data, .. } => {
                let raft = decode_raft(data).expect("the core's own message");
                raft.get_snapshot().get_metadata().index
            }
            _ => unreachable!("a stream ends with a raft message"),
        };
        let image = self.nodes[&from].pins.get(&(range, index)).cloned();
        let (from_life, to_life) = (self.nodes[&from].life, self.nodes[&to].life);
        let after = self.rng.random_range(1..=SNAPSHOT_MS_MAX);
        let stream = Stream { from, from_life, to, to_life, replica, image, range, message };
        self.schedule(after, Event::Streamed(Box::new(stream)));
    }

    pub(super) fn streamed(&mut self, stream: Stream) {
        let Stream { from, from_life, to, to_life, replica, image, range, message } = stream;
        let alive = self.nodes[&from].life == from_life
            && self.nodes[&from].is_up()
            && self.nodes[&to].life == to_life
            && self.nodes[&to].is_up();
        let open = self.network.is_open(from, to)
            && self.network.is_open(to, from)
            && !self.nodes[&to].paused;
        let unlucky = self.drop_one_in > 0 && self.rng.random_ratio(1, 8);
        let image = image.filter(|_| alive && open && !unlucky);
        let ok = image.is_some();
        if let Some(image) = image {
            self.coverage.snapshots += 1;
            let sim = self.sim(to);
            let staged = sim.next_staged;
            sim.next_staged += 1;
            sim.staged.insert(staged, image);
            let input = Input::SnapshotStaged { from, message, staged };
            self.post(to, 0, NodeEvent::Input(Box::new(input)));
        } else {
            self.coverage.snapshot_failures += 1;
        }
        if self.nodes[&from].life == from_life {
            let after = self.rng.random_range(0..5);
            let input = Input::SnapshotSent { range, to: replica, ok };
            self.post(from, after, NodeEvent::Input(Box::new(input)));
        }
    }

    pub(super) fn installed(&mut self, node: NodeId, install: Install) {
        let range = install.image.range;
        self.checks.see(&self.nodes, &Sight::Installing { node, image: &install.image });
        self.sim(node).state.install(install.image, install.clear);
        self.checks.see(&self.nodes, &Sight::Applied { node, range });
        self.step(node, Input::SnapshotInstalled { range });
    }
}
