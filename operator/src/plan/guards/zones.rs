//! Whether a whole zone went away at once: then it is the zone, or the network to it, and not its
//! machines. What is cut off usually comes back with all its data, and making the copies of a whole zone anew
//! would fill the others for nothing.
//!
//! Invariants: pure; a zone of one node says nothing, its loss looks like that of the node; a node whose
//! machine was declared gone is no riddle.

use super::{Context, Refusal};
use crate::api::spec::ZoneLoss;
use crate::api::status::Store;
use crate::plan::health::BACK;
use std::collections::BTreeMap;

/// The guard for zones does not hold.
pub const ZONE_AWAY: &str = "ZoneAway";

/// G4, second half: no zone of two or more nodes went away as a whole, unless the spec says that this is as
/// good as lost.
pub fn no_zone_away(context: &Context<'_>) -> Result<(), Refusal> {
    if context.spec.reprotection.zone_loss == ZoneLoss::Act {
        return Ok(());
    }
    let mut zones: BTreeMap<&str, Vec<&Store>> = BTreeMap::new();
    for store in context.stores.iter().filter(|store| store.served && !super::gone(context, store))
    {
        zones.entry(store.zone.as_deref().unwrap_or_default()).or_default().push(store);
    }
    // Where there is only one, nothing tells it from the rest.
    if zones.len() < 2 {
        return Ok(());
    }
    let away = zones.into_iter().find(|(zone, stores)| {
        !zone.is_empty()
            && stores.len() > 1
            && at_once(context, stores)
            && stores.iter().any(|store| !machine_gone(context, store))
    });
    match away {
        Some((zone, stores)) => Err((
            ZONE_AWAY,
            format!(
                "all {} nodes in zone {zone} went away at once: the zone, or the network to it, is waited for; if it is gone for good, delete its Kubernetes nodes or taint them out-of-service, or set spec.reprotection.zoneLoss to Act",
                stores.len()
            ),
        )),
        None => Ok(()),
    }
}

/// All are away, and went within one delay: those that failed further apart failed on their own.
fn at_once(context: &Context<'_>, stores: &[&Store]) -> bool {
    let mut times = Vec::new();
    for store in stores {
        match &store.down_since {
            Some(since) if store.reason.as_deref() != Some(BACK) => times.push(since.0),
            _ => return false,
        }
    }
    let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else { return false };
    last.duration_since(*first).unsigned_abs() <= context.delay
}

fn machine_gone(context: &Context<'_>, store: &Store) -> bool {
    let (Some(hosts), Some(name)) = (&context.observed.hosts, &store.node) else { return false };
    hosts.get(name).is_none_or(|host| host.out_of_service)
}
