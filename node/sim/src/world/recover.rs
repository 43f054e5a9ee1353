//! What is left of a world when a majority of its disks is gone: another world, of one of its nodes.
//!
//! The checks start anew: they know what has happened in a cluster, and this is another one, which
//! may have lost some of it. What must have survived the driver compares.

use super::{Event, NodeEvent, Options, SimNode, World};
use crate::invariants::Checks;
use holdfast_core::effects::{Input, Persist, ReplicaBoot};
use holdfast_core::ids::{META_RANGE, NodeId, RangeId, RequestId};
use holdfast_core::message::{Message, MetaRequest, RangeRequest, RoutedRequest};
use holdfast_core::node::recovery::{Consent, Recovery, to_the_end};
use holdfast_core::node::{Config, Node};
use std::sync::Arc;

impl World {
    fn boots_of(&self, node: NodeId) -> Vec<ReplicaBoot> {
        let sim = &self.nodes[&node];
        let mut boots = sim.log.boots();
        for boot in &mut boots {
            boot.applied = sim.state.memory().applied(boot.range).unwrap_or_default();
        }
        boots
    }

    /// Plans the recovery of a node that does not run, on copies of its disks.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn plan_recovery(&mut self, node: NodeId, consent: Consent) -> Result<Recovery, String> {
        let durable = self.nodes[&node].state.clone();
        let boots = self.boots_of(node);
        let sim = self.sim(node);
        let log = Arc::new(sim.log.clone());
        let mut core =
            Node::new(Config::new(node, 0), 0, log, &sim.state, to_the_end(&boots, None))?;
        let leftovers = core.leftovers();
        if !leftovers.is_empty() {
            for (range, span) in leftovers {
                sim.state.destroy(range, vec![span]);
            }
            sim.state.flush(usize::MAX);
            return self.plan_recovery(node, consent);
        }
        while let Some(batches) = core.replay(&sim.state) {
            for batch in batches {
                sim.state.apply(batch);
            }
        }
        let plan = core.recover(&boots, consent);
        if plan.is_err() {
            self.sim(node).state = durable;
        }
        plan
    }

    /// Recovers single ranges of a node that does not run, from the copies there.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn recover_ranges(
        &mut self,
        node: NodeId,
        ranges: &[RangeId],
        consent: Consent,
    ) -> Result<Recovery, String> {
        let boots = self.boots_of(node);
        let sim = self.sim(node);
        let log = Arc::new(sim.log.clone());
        let ends = to_the_end(&boots, Some(ranges));
        let mut core = Node::new(Config::new(node, 0), 0, log, &sim.state, ends)?;
        for (range, span) in core.leftovers() {
            sim.state.destroy(range, vec![span]);
        }
        while let Some(batches) = core.replay(&sim.state) {
            for batch in batches {
                sim.state.apply(batch);
            }
        }
        let mut plan = core.recover_ranges(&boots, ranges, consent)?;
        let writes = std::mem::take(&mut plan.log);
        sim.log.persist(Persist { sequence: 0, sync: true, writes });
        sim.log.carry_out();
        for batch in std::mem::take(&mut plan.state) {
            sim.state.apply(batch);
        }
        sim.state.flush(usize::MAX);
        // What the lost copies alone had is no reason to complain any more.
        self.checks = Checks::after_loss();
        Ok(plan)
    }

    /// The first part of a recovery, and a crash before the second.
    pub fn recover_half(&mut self, node: NodeId, plan: Recovery) {
        let sim = self.sim(node);
        sim.log.persist(Persist { sequence: 0, sync: true, writes: plan.log });
        sim.log.carry_out();
        sim.state.crash();
    }

    /// Carries a recovery out; what is left is a world of that node. So many nodes with empty disks
    /// are about to join it.
    #[must_use]
    pub fn recovered(mut self, node: NodeId, plan: Recovery, joining: u64) -> Self {
        let mut sim = self.nodes.remove(&node).expect("it is there");
        for writes in [plan.log, plan.clean] {
            sim.log.persist(Persist { sequence: 0, sync: true, writes });
            sim.log.carry_out();
        }
        for batch in plan.state {
            sim.state.apply(batch);
        }
        sim.state.flush(usize::MAX);
        sim.starting = true;
        let options = Options { replicas: 1, ..self.options.clone() };
        let mut world = Self::new(options);
        world.checks = Checks::new();
        world.queue.clear();
        world.now = self.now;
        world.next_incarnation = self.next_incarnation;
        world.nodes = [(node, sim)].into();
        for gone in plan.report.gone {
            let mut gone = SimNode::empty(gone.id);
            gone.removed = true;
            world.nodes.insert(gone.id, gone);
        }
        let first = self.options.nodes + 1 + 100;
        for id in (first..first + joining).map(NodeId) {
            world.nodes.insert(id, SimNode::empty(id));
        }
        world.schedule(0, Event::Start(node));
        world
    }

    /// A node that waits to join asks `of` to be let in, and starts.
    pub fn join(&mut self, id: NodeId, of: NodeId) {
        let request = MetaRequest::Join {
            name: format!("node-{}", id.0),
            peer_address: format!("node-{}:1", id.0),
            client_address: format!("node-{}:2", id.0),
            http_address: format!("node-{}:3", id.0),
            nonce: id.0,
        };
        let request = RoutedRequest {
            token: id.0,
            range: META_RANGE,
            id: RequestId { gateway: id.0, sequence: 1 },
            settled_below: 0,
            body: RangeRequest::Meta(request),
        };
        let message = Message::Request(Box::new(request));
        let input = Input::Message { from: id, message };
        self.post(of, 0, NodeEvent::Input(Box::new(input)));
        self.restart(id, 1_000);
    }
}
