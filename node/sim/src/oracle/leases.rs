//! Client leases: one that is kept alive does not vanish; one that is revoked takes its keys along.

use super::writes::Owner;
use super::{OpRecord, Oracle};
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
struct Life {
    /// The first call to grant it.
    granted: Option<u64>,
    ttl_ms: Millis,
    /// Up to when it must live, by what clients were told.
    alive_until: Millis,
    /// The first call to revoke it.
    revoked: Option<u64>,
    /// Revisions at which it was told to be gone.
    gone_at: Option<Revision>,
}

fn lives(oracle: &Oracle) -> BTreeMap<LeaseId, Life> {
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
                life.revoked.get_or_insert(record.invoked.order);
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
        || life.revoked.is_some_and(|revoked| revoked < end.order)
        || end.at + SLACK_MS >= life.alive_until
}

pub(super) fn check(
    oracle: &Oracle,
    history: &History,
    owners: &BTreeMap<Revision, Owner>,
) -> Result<(), String> {
    let lives = lives(oracle);
    for (revision, change) in history.changes() {
        if let Some(Owner::Lease(lease)) = owners.get(revision) {
            check_end(oracle, *revision, change, *lease, &lives)?;
        }
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

fn check_end(
    oracle: &Oracle,
    revision: Revision,
    change: &Change,
    lease: LeaseId,
    lives: &BTreeMap<LeaseId, Life>,
) -> Result<(), String> {
    let Some(life) = lives.get(&lease) else {
        return Err(format!("revision {revision} ends lease {lease}, never granted"));
    };
    let revoked = oracle.ops.iter().any(|record| {
        matches!(record.request, Request::LeaseRevoke { id } if id == lease)
            && record.invoked.at <= change.at
    });
    if !revoked && change.at + SLACK_MS < life.alive_until {
        return Err(format!(
            "lease {lease} ended at {} (revision {revision}) although kept alive until {}: {:?}",
            change.at, life.alive_until, life
        ));
    }
    Ok(())
}
