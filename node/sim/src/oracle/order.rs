//! Revisions respect real time: what returned before a call is at or below what the call sees, and
//! below what it writes.

use super::writes::Owner;
use super::{OpRecord, Oracle, header};
use holdfast_core::error::Error;
use holdfast_core::ids::Revision;
use holdfast_core::request::{Op, Response};
use std::collections::BTreeMap;

enum Step<'a> {
    Call(&'a OpRecord),
    Return(&'a OpRecord),
    /// A watch was told that everything up to here is there.
    Told(Revision),
    /// A watch without a start was asked for: it must not begin before what was seen.
    WatchCall(usize),
}

/// Everything in the order in which it happened.
fn steps(oracle: &Oracle) -> Vec<(u64, Step<'_>)> {
    let mut steps: Vec<(u64, Step<'_>)> = Vec::new();
    for record in &oracle.ops {
        steps.push((record.invoked.order, Step::Call(record)));
        if let Some((moment, _)) = &record.returned {
            steps.push((moment.order, Step::Return(record)));
        }
    }
    for (place, watch) in oracle.watches.iter().enumerate() {
        steps.push((watch.invoked.order, Step::WatchCall(place)));
        for (moment, revision) in &watch.told {
            steps.push((moment.order, Step::Told(*revision)));
        }
    }
    steps.sort_by_key(|(order, _)| *order);
    steps
}

/// The newest revision that anybody had seen when each operation was called, by operation.
pub(super) fn floors(oracle: &Oracle) -> BTreeMap<u64, Revision> {
    let mut floor: Revision = 1;
    let mut floors = BTreeMap::new();
    for (_, step) in steps(oracle) {
        match step {
            Step::Call(record) => {
                floors.insert(record.id, floor);
            }
            Step::Return(record) => {
                if let Some((_, Ok(response))) = &record.returned {
                    floor = floor.max(header(response).unwrap_or(0));
                }
            }
            Step::Told(revision) => floor = floor.max(revision),
            Step::WatchCall(_) => {}
        }
    }
    floors
}

pub(super) fn check(oracle: &Oracle, owners: &BTreeMap<Revision, Owner>) -> Result<(), String> {
    let mut wrote: BTreeMap<u64, Revision> = BTreeMap::new();
    for (revision, owner) in owners {
        if let Owner::Op(id) = owner {
            wrote.insert(*id, *revision);
        }
    }
    let floors = floors(oracle);
    let mut floor: Revision = 1;
    for (_, step) in steps(oracle) {
        match step {
            Step::Call(record) => {
                // Also those whose outcome stayed open must not reach back in time.
                if let Some(revision) = wrote.get(&record.id)
                    && *revision <= floor
                {
                    return Err(format!(
                        "wrote at {revision} although {floor} had been seen before: {record:?}"
                    ));
                }
            }
            Step::Return(record) => {
                let before = floors[&record.id];
                check_return(record, before)?;
                if let Some((_, Ok(response))) = &record.returned
                    && let Some(revision) = header(response)
                {
                    floor = floor.max(revision);
                }
            }
            Step::Told(revision) => floor = floor.max(revision),
            Step::WatchCall(place) => {
                let watch = &oracle.watches[place];
                if let Some(created) = watch.created
                    && created < floor
                {
                    return Err(format!("watch begins at {created} below {floor}: {watch:?}"));
                }
            }
        }
    }
    Ok(())
}

fn check_return(record: &OpRecord, floor: Revision) -> Result<(), String> {
    let stale = match (record.op(), &record.returned) {
        (Some(op), Some((_, Ok(Response::Kv { revision, .. })))) => {
            !op.is_serializable() && *revision < floor
        }
        (Some(Op::Range(range)), Some((_, Err(Error::FutureRevision)))) => range.revision <= floor,
        (None, Some((_, Ok(response)))) => {
            header(response).is_some_and(|revision| revision < floor)
        }
        _ => false,
    };
    if stale { Err(format!("stale: {floor} had been seen before {record:?}")) } else { Ok(()) }
}
