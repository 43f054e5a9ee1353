//! Clients: what they ask, of whom, and how they go on after failures.
//!
//! Invariants: a client has one operation under way at a time; every value names the operation that
//! writes it; a client that lost its gateway does not know what became of its operation.

mod choose;

mod watchers;

pub use watchers::Watchers;

use crate::oracle::Oracle;
use crate::world::World;
use choose::Chooser;
use holdfast_core::effects::{ClientToken, Millis};
use holdfast_core::error::Error;
use holdfast_core::ids::NodeId;
use holdfast_core::request::{Request, Response};
use rand::Rng;
use std::collections::BTreeMap;

/// How long after its deadline a client stops waiting for a gateway that does not answer at all.
const PATIENCE_MS: Millis = 300;

/// An operation under way.
#[derive(Clone, Copy, Debug)]
struct Under {
    op: u64,
    node: NodeId,
    token: ClientToken,
    gives_up: Millis,
}

/// All clients of a run.
pub struct Workload {
    /// What they saw.
    pub oracle: Oracle,
    clients: Vec<Option<Under>>,
    tokens: BTreeMap<ClientToken, usize>,
    chooser: Chooser,
    /// No new operations.
    pub stopped: bool,
    think_max: Millis,
}

impl Workload {
    /// So many clients, each pausing for up to `think_max` between operations.
    pub fn new(clients: usize, think_max: Millis) -> Self {
        Self {
            oracle: Oracle::default(),
            clients: vec![None; clients],
            tokens: BTreeMap::new(),
            chooser: Chooser::default(),
            stopped: false,
            think_max,
        }
    }

    /// How many clients there are: their timers are named from 0.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// True if nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.clients.iter().all(Option::is_none)
    }

    /// A client's timer is due.
    pub fn due(&mut self, client: usize, world: &mut World) {
        let now = world.now();
        if let Some(under) = self.clients[client] {
            if now < under.gives_up {
                return;
            }
            // It never hears of it again.
            self.tokens.remove(&under.token);
            self.clients[client] = None;
        }
        if self.stopped {
            return;
        }
        let nodes = world.nodes().len() as u64;
        let node = NodeId(world.rng().random_range(1..=nodes));
        let timeout = world.rng().random_range(200..4_000);
        let id = self.oracle.next_id();
        let request = self.chooser.choose(id, world.rng());
        let Some(token) = world.request(node, timeout, request.clone()) else {
            // Connection refused: certainly nothing happened. Another gateway, a little later.
            world.timer(10, client as u64);
            return;
        };
        self.chooser.asked(&request, now);
        let op = self.oracle.invoke(node, request, now);
        let gives_up = now + timeout + PATIENCE_MS;
        self.tokens.insert(token, client);
        self.clients[client] = Some(Under { op, node, token, gives_up });
        world.timer(timeout + PATIENCE_MS, client as u64);
    }

    /// An answer came.
    pub fn reply(
        &mut self,
        token: ClientToken,
        result: Result<Response, Error>,
        world: &mut World,
    ) {
        let Some(client) = self.tokens.remove(&token) else { return };
        let Some(under) = self.clients[client].take() else { return };
        self.chooser.answered(&self.oracle.ops[under.op as usize].request, &result, world.now());
        self.oracle.answered(under.op, result, world.now());
        self.think(client, world);
    }

    /// A gateway is gone.
    pub fn crashed(&mut self, node: NodeId, world: &mut World) {
        for client in 0..self.clients.len() {
            if let Some(under) = self.clients[client].filter(|under| under.node == node) {
                self.tokens.remove(&under.token);
                self.clients[client] = None;
                self.think(client, world);
            }
        }
    }

    fn think(&mut self, client: usize, world: &mut World) {
        let after = world.rng().random_range(0..=self.think_max);
        world.timer(after, client as u64);
    }

    /// Asks one thing outside of the clients' own plans; the answer comes by [`Self::reply`].
    pub fn ask(
        &mut self,
        node: NodeId,
        timeout: Millis,
        request: Request,
        world: &mut World,
    ) -> Option<u64> {
        let token = world.request(node, timeout, request.clone())?;
        let op = self.oracle.invoke(node, request, world.now());
        let gives_up = world.now() + timeout + PATIENCE_MS;
        self.clients.push(Some(Under { op, node, token, gives_up }));
        self.tokens.insert(token, self.clients.len() - 1);
        Some(op)
    }

    /// The newest revision that any client has seen.
    pub fn seen(&self) -> i64 {
        self.chooser.seen()
    }
}
