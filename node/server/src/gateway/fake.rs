//! A store in memory for tests of the services: no ranges, no history, one thread.

use super::backend::{Backend, BackendCall, KvHash, View, Vitals, WatchSink};
use bytes::Bytes;
use holdfast_core::descriptor::{NodeRecord, NodeState};
use holdfast_core::effects::{Event, WatchEffect, WatchToken};
use holdfast_core::error::Error;
use holdfast_core::ids::{NodeId, Revision};
use holdfast_core::key::Span;
use holdfast_core::request::{
    AdminOp, KeyValue, Op, OpResult, RangeResult, Request, Response, SortOrder,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};

/// The key whose requests are never answered.
pub(super) const SILENT_KEY: &[u8] = b"silent";

/// Starts a store; it ends when the last clone of the backend is gone.
pub(super) fn start() -> Backend {
    let vitals = Arc::new(Vitals::new(0xc1, NodeId(7)));
    vitals.set_has_leader(true);
    vitals.set_sequencer(3, Some(NodeId(7)));
    let record = NodeRecord {
        id: NodeId(7),
        name: "node-7".to_owned(),
        peer_address: "127.0.0.1:2".to_owned(),
        client_address: "127.0.0.1:1".to_owned(),
        http_address: "127.0.0.1:3".to_owned(),
        state: NodeState::Up,
    };
    vitals.publish(View { nodes: vec![record], ..View::default() });
    let (sender, receiver) = mpsc::channel();
    let backend = Backend::new(vitals.clone(), move |call| sender.send(call).is_ok());
    std::thread::spawn(move || {
        let mut store = Store { vitals, revision: 1, ..Store::new() };
        while let Ok(call) = receiver.recv() {
            store.step(call);
        }
    });
    backend
}

struct Store {
    vitals: Arc<Vitals>,
    revision: Revision,
    keys: BTreeMap<Bytes, KeyValue>,
    leases: BTreeSet<i64>,
    watches: BTreeMap<WatchToken, (Span, WatchSink)>,
    silent: Vec<tokio::sync::oneshot::Sender<Result<Response, Error>>>,
}

impl Store {
    fn new() -> Self {
        Self {
            vitals: Arc::new(Vitals::new(0, NodeId(0))),
            revision: 0,
            keys: BTreeMap::new(),
            leases: BTreeSet::new(),
            watches: BTreeMap::new(),
            silent: Vec::new(),
        }
    }

    fn step(&mut self, call: BackendCall) {
        match call {
            BackendCall::Request { request: Request::Kv(Op::Range(range)), reply, .. }
                if range.key.as_ref() == SILENT_KEY =>
            {
                self.silent.push(reply);
            }
            BackendCall::Request { request, reply, .. } => {
                let answer = self.request(request);
                self.vitals.raise_revision(self.revision);
                reply.send(answer).ok();
            }
            BackendCall::Abandon { .. } => {}
            BackendCall::Watch { token, span, start: _, prev_kv: _, sink } => {
                if sink.push(WatchEffect::Created { token, revision: self.revision }) {
                    self.watches.insert(token, (span, sink));
                }
            }
            BackendCall::CancelWatch { token } => {
                self.watches.remove(&token);
            }
            BackendCall::Hash { revision, reply } => {
                let hash = KvHash { hash: 99, revision, compact_revision: 0 };
                reply.send(Ok(hash)).ok();
            }
            BackendCall::Ping { reply } => {
                reply.send(()).ok();
            }
        }
    }

    fn request(&mut self, request: Request) -> Result<Response, Error> {
        let revision = self.revision;
        Ok(match request {
            Request::Kv(op) => {
                let result = self.op(op)?;
                Response::Kv { revision: self.revision, result }
            }
            Request::LeaseGrant { id, ttl } => {
                if !self.leases.insert(id) {
                    return Err(Error::LeaseExists);
                }
                Response::LeaseGrant { id, ttl: ttl.max(2) }
            }
            Request::LeaseKeepAlive { id } => {
                let ttl = if self.leases.contains(&id) { 60 } else { 0 };
                Response::LeaseKeepAlive { id, ttl }
            }
            Request::LeaseRevoke { id } if self.leases.remove(&id) => {
                Response::LeaseRevoke { revision }
            }
            Request::LeaseRevoke { .. } => return Err(Error::LeaseNotFound),
            Request::LeaseTimeToLive { id, .. } => {
                let ttl = if self.leases.contains(&id) { 60 } else { -1 };
                Response::LeaseTimeToLive { id, ttl, granted_ttl: ttl.max(0), keys: Vec::new() }
            }
            Request::LeaseList => {
                Response::LeaseList { ids: self.leases.iter().copied().collect() }
            }
            Request::Compact { revision: wanted } if wanted > revision => {
                return Err(Error::FutureRevision);
            }
            Request::Compact { .. } => Response::Compact { revision },
            Request::CurrentRevision => Response::CurrentRevision { revision },
            Request::Alarm { .. } => Response::Alarm { alarms: Vec::new() },
            Request::Admin(AdminOp::Split { .. }) => Response::Admin { message: "cut".to_owned() },
            Request::Admin(_) => return Err(Error::Refused("not in this test".to_owned())),
        })
    }

    fn op(&mut self, op: Op) -> Result<OpResult, Error> {
        match op {
            Op::Range(range) => {
                let span = Span::from_etcd(&range.key, &range.range_end);
                let mut kvs: Vec<KeyValue> =
                    self.keys.values().filter(|kv| span.contains(&kv.key)).cloned().collect();
                if range.sort_order == SortOrder::Descend {
                    kvs.reverse();
                }
                Ok(OpResult::Range(RangeResult { count: kvs.len() as i64, kvs, more: false }))
            }
            Op::Put(put) => {
                self.revision += 1;
                let before = self.keys.get(&put.key).cloned();
                let kv = KeyValue {
                    key: put.key.clone(),
                    create_revision: before.as_ref().map_or(self.revision, |kv| kv.create_revision),
                    mod_revision: self.revision,
                    version: before.as_ref().map_or(1, |kv| kv.version + 1),
                    value: put.value,
                    lease: put.lease,
                };
                self.keys.insert(put.key, kv.clone());
                self.tell(&kv);
                Ok(OpResult::Put { prev_kv: before.filter(|_| put.prev_kv) })
            }
            Op::Delete(_) => Err(Error::TooLarge),
            Op::Txn(txn) => {
                let mut results = Vec::new();
                for op in txn.success {
                    let result = self.op(op)?;
                    results.push((self.revision, result));
                }
                Ok(OpResult::Txn { succeeded: true, results })
            }
        }
    }

    fn tell(&mut self, kv: &KeyValue) {
        let through = self.revision;
        self.watches.retain(|&token, (span, sink)| {
            let event = Event { put: true, kv: kv.clone(), prev_kv: None, sub: 0 };
            let events = if span.contains(&kv.key) { vec![event] } else { Vec::new() };
            sink.push(WatchEffect::Events { token, events, through })
        });
    }
}
