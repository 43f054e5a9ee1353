//! Client leases: granted, attached to, revoked.
//!
//! Invariants: nothing attaches to a lease that is being revoked; every range that may hold keys of a
//! lease is in its record.

use super::{MetaAnswer, MetaState, row};
use crate::command::MetaChange;
use crate::error::Error;
use crate::ids::{LeaseId, RangeId};
use crate::message::InternalReply;
use crate::request::Response;
use crate::state::SystemRow;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A client lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Seconds granted.
    pub ttl: i64,
    /// Its keys are being deleted; nothing attaches any more.
    pub revoking: bool,
    /// Ranges that may hold keys attached to it.
    pub ranges: BTreeSet<RangeId>,
}

impl MetaState {
    /// Do all these client leases exist, so that keys may be attached to them?
    pub fn grants(&self, leases: &[(LeaseId, RangeId)]) -> bool {
        let lives = |lease| self.leases.get(lease).is_some_and(|record| !record.revoking);
        leases.iter().all(|(lease, _)| lives(lease))
    }

    /// A range that was cut off another may hold keys of the same leases. Only the first word of
    /// it counts: later its own attachments are logged.
    pub(super) fn inherit_leases(&mut self, from: RangeId, to: RangeId, rows: &mut Vec<SystemRow>) {
        if self.registrations.contains_key(&to) || self.is_gone(to) {
            return;
        }
        self.inherit_wanted(from, to, rows);
        for (id, lease) in &mut self.leases {
            if lease.ranges.contains(&from) && lease.ranges.insert(to) {
                row(rows, b'L', *id as u64, Some(&*lease));
            }
        }
    }

    pub(super) fn change_lease(
        &mut self,
        change: &MetaChange,
        rows: &mut Vec<SystemRow>,
    ) -> MetaAnswer {
        let ok = MetaAnswer::Internal(InternalReply::Ok);
        match change {
            MetaChange::LeaseGrant { id, ttl } => {
                if self.leases.contains_key(id) {
                    return MetaAnswer::Client(Err(Error::LeaseExists));
                }
                let lease = LeaseRecord { ttl: *ttl, revoking: false, ranges: BTreeSet::new() };
                row(rows, b'L', *id as u64, Some(&lease));
                self.leases.insert(*id, lease);
                MetaAnswer::Client(Ok(Response::LeaseGrant { id: *id, ttl: *ttl }))
            }
            MetaChange::LeaseRevoking { id } => match self.leases.get_mut(id) {
                Some(lease) if !lease.revoking => {
                    lease.revoking = true;
                    row(rows, b'L', *id as u64, Some(&*lease));
                    ok
                }
                Some(_) => ok,
                None => MetaAnswer::Client(Err(Error::LeaseNotFound)),
            },
            MetaChange::LeaseRemoved { id } => {
                if self.leases.remove(id).is_some() {
                    row::<LeaseRecord>(rows, b'L', *id as u64, None);
                }
                MetaAnswer::Client(Ok(Response::LeaseRevoke { revision: 0 }))
            }
            MetaChange::LeaseAttach { id, range } => {
                if let Some(lease) = self.leases.get_mut(id)
                    && !lease.revoking
                    && lease.ranges.insert(*range)
                {
                    row(rows, b'L', *id as u64, Some(&*lease));
                }
                ok
            }
            _ => unreachable!("called for lease changes only"),
        }
    }
}
