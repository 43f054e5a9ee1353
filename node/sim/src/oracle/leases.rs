//! Client leases: one that is kept alive does not vanish; one that is revoked takes its keys along.

use super::{Moment, OpRecord, Oracle};
use crate::history::{Change, History};
use holdfast_core::effects::Millis;
use holdfast_core::ids::{LeaseId, Revision};
use holdfast_core::request::{Request, Response};
use std::collections::BTreeMap;

/// How far clocks may run ahead in the life of a lease: drift, and jumps too small to be noticed.
const SLACK_MS: Millis = 1_500;

/// The lease whose end made this change: every key was attached to it, and none of the range's
/// attached keys stayed.
pub(super) fn ended(history: &History, revision: Revision, change: &Change) -> Option<LeaseId> {
    let mut lease = None;
    for mutation in &change.mutations {
        if mutation.version.value.is_some() {
            return None;
        }
        let before = history.at(&mutation.key, revision - 1)?;
        if before.lease == 0 || lease.is_some_and(|lease| lease != before.lease) {
            return None;
        }
        lease = Some(before.lease);
    }
    lease
}

/// Everything that clients did with one lease.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// The first call to grant it.
    granted: Option<u64>,
    ttl_ms: Millis,
    /// Up to when it must live, by what clients were told.
    alive_until: Millis,
    /// The first call to revoke it, and when.
    revoked: Option<Moment>,
    /// The revision at which it was told to be gone.
    gone_at: Option<Revision>,
}

impl Life {
    /// True if the lease may end then.
    pub(super) fn may_end(&self, at: Millis) -> bool {
        self.revoked.is_some_and(|revoked| revoked.at <= at) || at + SLACK_MS >= self.alive_until
    }
}

pub(super) fn lives(oracle: &Oracle) -> BTreeMap<LeaseId, Life> {
    let mut lives: BTreeMap<LeaseId, Life> = BTreeMap::new();
    for record in &oracle.ops {
        let answer = record.returned.as_ref().map(|(_, result)| result);
        match record.request {
            Request::LeaseGrant { id, ttl } => {
                let life = lives.entry(id).or_default();
                life.granted.get_or_insert(record.invoked.order);
                life.ttl_ms = ttl as Millis * 1000;
                if matches!(answer, Some(Ok(_))) {
                    life.alive_until = life.alive_until.max(record.invoked.at + life.ttl_ms);
                }
            }
            Request::LeaseKeepAlive { id } => {
                let life = lives.entry(id).or_default();
                if matches!(answer, Some(Ok(Response::LeaseKeepAlive { ttl, .. })) if *ttl > 0) {
                    life.alive_until = life.alive_until.max(record.invoked.at + life.ttl_ms);
                }
            }
            Request::LeaseRevoke { id } => {
                let life = lives.entry(id).or_default();
                life.revoked.get_or_insert(record.invoked);
                if let Some(Ok(Response::LeaseRevoke { revision })) = answer {
                    life.gone_at.get_or_insert(*revision);
                }
            }
            _ => {}
        }
    }
    lives
}

/// True if an operation may find that the lease does not exist.
pub(super) fn may_be_missing(oracle: &Oracle, record: &OpRecord, lease: LeaseId) -> bool {
    let lives = lives(oracle);
    let Some(life) = lives.get(&lease) else { return true };
    let Some((end, _)) = &record.returned else { return true };
    let granted_before = oracle.ops.iter().any(|other| {
        matches!(other.request, Request::LeaseGrant { id, .. } if id == lease)
            && matches!(&other.returned, Some((moment, Ok(_)))
                if moment.order < record.invoked.order)
    });
    !granted_before
        || life.revoked.is_some_and(|revoked| revoked < *end)
        || end.at + SLACK_MS >= life.alive_until
}

pub(super) fn check(oracle: &Oracle, history: &History) -> Result<(), String> {
    let lives = lives(oracle);
    for (revision, change) in history.changes() {
        for mutation in change.mutations.iter().filter(|m| m.version.lease != 0) {
            let lease = mutation.version.lease;
            let life = lives.get(&lease);
            if life.is_none_or(|life| life.granted.is_none()) {
                return Err(format!("revision {revision} attaches to {lease}, never granted"));
            }
            if life.and_then(|life| life.gone_at).is_some_and(|gone| gone < *revision) {
                return Err(format!("revision {revision} attaches to {lease}, gone before"));
            }
        }
    }
    for (lease, life) in &lives {
        let Some(gone) = life.gone_at else { continue };
        let all = holdfast_core::key::Span::all();
        if let Some(kv) = history.scan(&all, gone).into_iter().find(|kv| kv.lease == *lease) {
            return Err(format!("lease {lease} was gone at {gone}, but not its {kv:?}"));
        }
    }
    for record in &oracle.ops {
        if let Request::LeaseKeepAlive { id } = record.request
            && let Some((_, Ok(Response::LeaseKeepAlive { ttl: 0, .. }))) = &record.returned
            && !may_be_missing(oracle, record, id)
        {
            return Err(format!("the lease was alive: {record:?}"));
        }
    }
    Ok(())
}
