//! What a client asks next.

use crate::oracle::{header, value_of};
use bytes::Bytes;
use holdfast_core::effects::Millis;
use holdfast_core::error::Error;
use holdfast_core::ids::{LeaseId, Revision};
use holdfast_core::request::{
    Compare, CompareResult, CompareTarget, DeleteOp, Op, OpResult, PutOp, RangeOp, Request,
    Response, SortOrder, TxnOp,
};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// The keys, apart from those of bulk transactions. Ranges are cut between them.
const KEYS: [&str; 14] =
    ["k0", "k1", "k1a", "k2", "k3", "k3a", "k4", "k5", "k6", "k6a", "k7", "k8", "k9", "k9a"];

/// Intervals that are read and deleted.
const INTERVALS: [(&str, &str); 6] =
    [("k0", "k2"), ("k2", "k7"), ("k1", "k1z"), ("k", "l"), ("\0", "\0"), ("k6", "\0")];

/// Keys of one bulk transaction: more than may be listed in the log for one deletion.
const BULK: usize = 520;

/// How far back reads at a revision go.
const BACK: Revision = 60;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    seen: Revision,
    compacted: Revision,
    /// The revision of each key, as last seen.
    keys: BTreeMap<Bytes, Revision>,
    next_lease: LeaseId,
    leases: Vec<LeaseId>,
    bulk: bool,
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Chooser {
    pub(super) fn seen(&self) -> Revision {
        self.seen
    }

    pub(super) fn choose(&mut self, id: u64, rng: &mut ChaCha8Rng) -> Request {
        match rng.random_range(0..1000) {
            0..300 => Request::Kv(put(key(rng), id, rng, 0)),
            300..420 => {
                let (key, range_end) = (key(rng), Bytes::new());
                Request::Kv(Op::Range(RangeOp { key, range_end, ..RangeOp::default() }))
            }
            420..520 => Request::Kv(Op::Range(interval(rng))),
            520..580 => {
                let delete =
                    DeleteOp { key: key(rng), prev_kv: rng.random(), ..DeleteOp::default() };
                Request::Kv(Op::Delete(delete))
            }
            580..600 => Request::Kv(self.delete_some(rng)),
            600..720 => Request::Kv(self.swap(id, rng)),
            720..745 => Request::Kv(several(id, rng)),
            745..760 => Request::Kv(self.everywhere(id, rng)),
            760..780 => Request::Kv(read_several(rng)),
            780..840 => Request::Kv(self.read_back(rng)),
            840..880 => {
                let mut range = if rng.random() {
                    interval(rng)
                } else {
                    RangeOp { key: key(rng), ..RangeOp::default() }
                };
                range.serializable = true;
                Request::Kv(Op::Range(range))
            }
            880..984 => self.lease(id, rng),
            984..992 => {
                let back = rng.random_range(0..BACK);
                Request::Compact { revision: (self.seen - back).max(1) }
            }
            992..998 => Request::CurrentRevision,
            _ => {
                self.bulk = true;
                Request::Kv(bulk(id))
            }
        }
    }

    /// What was asked changes what may be asked later.
    pub(super) fn asked(&mut self, request: &Request, _now: Millis) {
        match request {
            Request::Compact { revision } => self.compacted = self.compacted.max(*revision),
            Request::LeaseRevoke { id } => self.leases.retain(|lease| lease != id),
            _ => {}
        }
    }

    pub(super) fn answered(
        &mut self,
        request: &Request,
        result: &Result<Response, Error>,
        _now: Millis,
    ) {
        let Ok(response) = result else { return };
        if let Some(revision) = header(response) {
            self.seen = self.seen.max(revision);
        }
        match response {
            Response::LeaseGrant { id, .. } => self.leases.push(*id),
            Response::LeaseKeepAlive { id, ttl: 0 } => self.leases.retain(|lease| lease != id),
            Response::Kv { revision, result: OpResult::Put { .. } } => {
                if let Request::Kv(Op::Put(put)) = request {
                    self.keys.insert(put.key.clone(), *revision);
                }
            }
            Response::Kv { result: OpResult::Range(found), .. } => {
                for kv in &found.kvs {
                    self.keys.insert(kv.key.clone(), kv.mod_revision);
                }
            }
            _ => {}
        }
    }

    /// Compare and swap on what was last seen, with the present key in the answer otherwise.
    fn swap(&self, id: u64, rng: &mut ChaCha8Rng) -> Op {
        let key = key(rng);
        let seen = self.keys.get(&key).copied().unwrap_or(0);
        let target = match rng.random_range(0..6) {
            0 => CompareTarget::Version(rng.random_range(0..4)),
            1 => CompareTarget::Create(seen),
            2 => CompareTarget::Mod(self.seen + rng.random_range(0..3)),
            _ => CompareTarget::Mod(seen),
        };
        let result = if rng.random_bool(0.8) {
            CompareResult::Equal
        } else {
            *[CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual]
                .choose(rng)
                .expect("not empty")
        };
        let read = Op::Range(RangeOp { key: key.clone(), ..RangeOp::default() });
        let mut success = vec![put(key.clone(), id, rng, 0)];
        if rng.random() {
            success.insert(rng.random_range(0..=1), read.clone());
        }
        let compare = Compare { key, range_end: Bytes::new(), result, target };
        let failure = if rng.random_bool(0.9) { vec![read] } else { Vec::new() };
        Op::Txn(TxnOp { compare: vec![compare], success, failure })
    }

    fn delete_some(&mut self, rng: &mut ChaCha8Rng) -> Op {
        if std::mem::take(&mut self.bulk) {
            return Op::Delete(DeleteOp {
                key: text("k5/"),
                range_end: text("k50"),
                prev_kv: rng.random_bool(0.3),
            });
        }
        // Some inside one range as long as nobody cuts there, some over several.
        let (key, range_end) =
            *[("k0", "k2"), ("k3", "k5"), ("k1", "k1z"), ("k1", "k7"), ("k6", "\0")]
                .choose(rng)
                .expect("not empty");
        Op::Delete(DeleteOp { key: text(key), range_end: text(range_end), prev_kv: rng.random() })
    }

    /// A transaction over keys that lie anywhere: compares, reads, puts with and without a lease,
    /// deletions of keys and intervals.
    fn everywhere(&self, id: u64, rng: &mut ChaCha8Rng) -> Op {
        let compares = rng.random_range(0..3);
        let compare = (0..compares)
            .map(|_| {
                let key = key(rng);
                let seen = self.keys.get(&key).copied().unwrap_or(0);
                let (result, target) = match rng.random_range(0..4) {
                    0 => (CompareResult::Greater, CompareTarget::Version(0)),
                    1 => (CompareResult::Less, CompareTarget::Mod(self.seen + 1)),
                    2 => (CompareResult::Equal, CompareTarget::Create(seen)),
                    _ => (CompareResult::Equal, CompareTarget::Mod(seen)),
                };
                Compare { key, range_end: Bytes::new(), result, target }
            })
            .collect();
        let branch = |rng: &mut ChaCha8Rng| {
            let mut ops = Vec::new();
            let mut put_keys: Vec<Bytes> = Vec::new();
            for _ in 0..rng.random_range(1..5) {
                let key = key(rng);
                match rng.random_range(0..10) {
                    0..5 => {
                        // etcd refuses two puts of one key.
                        if !put_keys.contains(&key) {
                            put_keys.push(key.clone());
                            let lease = self.leases.choose(rng).copied();
                            let lease = lease.filter(|_| rng.random_bool(0.2)).unwrap_or(0);
                            ops.push(put(key, id, rng, lease));
                        }
                    }
                    5..7 => ops.push(Op::Delete(DeleteOp {
                        key,
                        prev_kv: rng.random(),
                        ..DeleteOp::default()
                    })),
                    7 => {
                        let (key, end) = *INTERVALS.choose(rng).expect("not empty");
                        ops.push(Op::Delete(DeleteOp {
                            key: text(key),
                            range_end: text(end),
                            prev_kv: rng.random(),
                        }));
                    }
                    8 => ops.push(Op::Range(RangeOp { key, ..RangeOp::default() })),
                    _ => ops.push(Op::Range(interval(rng))),
                }
            }
            ops
        };
        let (success, failure) = (branch(rng), branch(rng));
        Op::Txn(TxnOp { compare, success, failure })
    }

    fn read_back(&self, rng: &mut ChaCha8Rng) -> Op {
        let mut range = if rng.random() {
            interval(rng)
        } else {
            RangeOp { key: key(rng), ..RangeOp::default() }
        };
        range.revision = (self.seen - rng.random_range(-1..BACK)).max(1);
        Op::Range(range)
    }

    fn lease(&mut self, id: u64, rng: &mut ChaCha8Rng) -> Request {
        let known = self.leases.choose(rng).copied();
        match (known, rng.random_range(0..10)) {
            (None, _) | (_, 0) => {
                self.next_lease += 1;
                Request::LeaseGrant { id: self.next_lease, ttl: rng.random_range(2..12) }
            }
            (Some(lease), 1..6) => Request::Kv(put(key(rng), id, rng, lease)),
            (Some(lease), 6..9) => Request::LeaseKeepAlive { id: lease },
            (Some(lease), _) => Request::LeaseRevoke { id: lease },
        }
    }
}

fn key(rng: &mut ChaCha8Rng) -> Bytes {
    text(KEYS.choose(rng).expect("not empty"))
}

fn put(key: Bytes, id: u64, rng: &mut ChaCha8Rng, lease: LeaseId) -> Op {
    let ballast = if rng.random_bool(0.02) { 2000 } else { 0 };
    Op::Put(PutOp {
        key,
        value: value_of(id, ballast),
        lease,
        prev_kv: rng.random_bool(0.3),
        ..PutOp::default()
    })
}

fn interval(rng: &mut ChaCha8Rng) -> RangeOp {
    let (key, range_end) = *INTERVALS.choose(rng).expect("not empty");
    let limit = if rng.random_bool(0.3) { rng.random_range(1..6) } else { 0 };
    let sort_order = if rng.random_bool(0.1) { SortOrder::Descend } else { SortOrder::None };
    RangeOp {
        key: text(key),
        range_end: text(range_end),
        limit,
        sort_order,
        count_only: rng.random_bool(0.1),
        keys_only: rng.random_bool(0.1),
        ..RangeOp::default()
    }
}

/// A transaction over neighbours, which may or may not be of one range.
fn several(id: u64, rng: &mut ChaCha8Rng) -> Op {
    let first = rng.random_range(0..KEYS.len() - 1);
    let (one, two) = (text(KEYS[first]), text(KEYS[first + 1]));
    let mut success = vec![
        put(one.clone(), id, rng, 0),
        Op::Delete(DeleteOp { key: two.clone(), prev_kv: rng.random(), ..DeleteOp::default() }),
    ];
    if rng.random() {
        success.push(put(two, id, rng, 0));
    }
    if rng.random() {
        success.reverse();
    }
    if rng.random() {
        success.push(Op::Range(RangeOp { key: one, ..RangeOp::default() }));
    }
    Op::Txn(TxnOp { success, ..TxnOp::default() })
}

/// A transaction that only reads, anywhere.
fn read_several(rng: &mut ChaCha8Rng) -> Op {
    let compare = Compare {
        key: key(rng),
        range_end: Bytes::new(),
        result: CompareResult::Greater,
        target: CompareTarget::Version(rng.random_range(0..4)),
    };
    let read = |rng: &mut ChaCha8Rng| {
        let (key, range_end) = *INTERVALS.choose(rng).expect("not empty");
        Op::Range(RangeOp { key: text(key), range_end: text(range_end), ..RangeOp::default() })
    };
    let single = Op::Range(RangeOp { key: key(rng), ..RangeOp::default() });
    Op::Txn(TxnOp {
        compare: vec![compare],
        success: vec![read(rng), single.clone()],
        failure: vec![single, read(rng)],
    })
}

fn bulk(id: u64) -> Op {
    let success = (0..BULK)
        .map(|number| {
            Op::Put(PutOp {
                key: text(&format!("k5/{number}")),
                value: value_of(id, 0),
                ..PutOp::default()
            })
        })
        .collect();
    Op::Txn(TxnOp { success, ..TxnOp::default() })
}
