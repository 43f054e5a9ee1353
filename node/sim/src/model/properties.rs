//! What must hold in every state, and what must happen in some.
//!
//! The numbers refer to the invariants in `docs/protocol.md`.

use stateright::Property;

use super::state::{
    DELETION, Entry, LeaseStage, Mask, Outcome, RANGES, Range, Revision, Standing, State,
    TRANSACTION, events,
};
use super::{Protocol, Request, Scenario, bit};

/// The properties that a scenario can break or reach.
pub(super) fn all(scenario: &Scenario) -> Vec<Property<Protocol>> {
    let mut properties: Vec<Property<Protocol>> = vec![
        Property::always("a revision belongs to one change", unique_revisions),
        Property::always("answers are in real-time order", |_, state: &State| !state.order_broken),
        Property::always("acknowledged writes survive", acknowledged_survive),
        Property::always("a request takes effect at most once", at_most_once),
        Property::always("a range's log is in revision order", log_in_order),
        Property::always("a write was evaluated on what precedes it", evaluated_in_place),
        Property::always("a read lies where it was evaluated", |_, state: &State| !state.misplaced),
        Property::always("a read at a revision finds exactly its writes", reads_exact),
        Property::sometimes("all requests are answered", |_, state: &State| {
            state.operations.iter().all(|operation| operation.finished)
        }),
    ];
    if scenario.budget.elections.iter().any(|&elections| elections > 0) {
        properties.push(Property::sometimes(
            "a new leaseholder's change takes effect",
            |_, state: &State| state.ranges.iter().any(answered_after_failover),
        ));
        properties.push(Property::sometimes(
            "an unfinished entry survives a failover",
            |_, state: &State| state.ranges.iter().any(tail_survived),
        ));
        properties.push(Property::sometimes(
            "the leader before is turned away",
            |_, state: &State| {
                let leaders = state.ranges.iter().flat_map(|range| &range.leaders);
                leaders.into_iter().any(|leader| leader.standing == Standing::Revoked)
            },
        ));
    }
    if scenario.budget.takeovers > 0 {
        properties.push(Property::sometimes(
            "a new sequencer's number is used",
            |_, state: &State| {
                state.sequencers.len() > 1 && highest(state) >= first_of_newest(state)
            },
        ));
    }
    if scenario.budget.handovers > 0 {
        properties.push(Property::sometimes("a hand-over leaves no hole", |_, state: &State| {
            let handed_over = state.sequencers.iter().rev().nth(1);
            handed_over
                .is_some_and(|old| old.handed_over && old.next > 2 && highest(state) >= old.next)
        }));
    }
    if scenario.budget.copies > 0 {
        properties
            .push(Property::sometimes("a settled copy is turned away", |_, state: &State| {
                state.copy_refused
            }));
    }
    if scenario.watch {
        properties.push(Property::always("a watch misses nothing it promised", watch_exact));
        properties.push(Property::sometimes("a watch releases everything", watch_complete));
    }
    if scenario.revocation {
        properties.push(Property::always("a removed lease has no keys", removed_has_no_keys));
        properties.push(Property::sometimes(
            "a lease is removed with its keys",
            |_, state: &State| {
                state.lease.stage == LeaseStage::Removed && state.ranges.iter().any(deleted_keys)
            },
        ));
        properties.push(Property::sometimes(
            "a write to an ending lease is refused",
            |_, state: &State| {
                state
                    .operations
                    .iter()
                    .any(|operation| operation.finished && operation.revision == 0)
            },
        ));
    }
    if scenario.transaction {
        properties.push(Property::always("a transaction is whole or absent", transaction_whole));
        properties.push(Property::always("a transaction sees what precedes it", compare_holds));
        properties.push(Property::sometimes(
            "a transaction outlives its coordinator",
            |_, state: &State| {
                let committed = matches!(state.meta.decision, Some(Outcome::Committed(_)));
                let silent = !state.transaction.alive && state.transaction.revision == 0;
                committed && silent && (0..RANGES).all(|range| resolved(state, range))
            },
        ));
        properties.push(Property::sometimes(
            "a waiting reader aborts a transaction",
            |_, state: &State| {
                state.meta.decision == Some(Outcome::Aborted)
                    && (0..RANGES).all(|range| resolved(state, range))
            },
        ));
    }
    properties
}

/// The writes of a range that are visible at a revision, as the durable logs say.
fn truth(state: &State, range: usize, revision: Revision) -> Mask {
    events(state.ranges[range].committed(), 0, revision) | state.decided(revision)
}

fn unique_revisions(_: &Protocol, state: &State) -> bool {
    let mut owner: [Mask; 32] = [0; 32];
    let logs = state.ranges.iter().flat_map(|range| &range.leaders).flat_map(|leader| &leader.log);
    let numbered = logs.filter_map(Entry::event).chain(match state.meta.decision {
        Some(Outcome::Committed(revision)) => Some((TRANSACTION, revision)),
        Some(Outcome::Aborted) | None => None,
    });
    for (event, revision) in numbered {
        let owner = &mut owner[usize::from(revision)];
        if *owner != 0 && *owner != event {
            return false;
        }
        *owner = event;
    }
    true
}

fn acknowledged_survive(model: &Protocol, state: &State) -> bool {
    model.scenario.requests.iter().zip(&state.operations).enumerate().all(
        |(index, (request, op))| {
            let Some(range) = request.write_range().filter(|_| op.finished) else { return true };
            let log = &state.ranges[range].current().log;
            if op.revision == 0 {
                // Refused: it must not have happened.
                return events(log, 0, Revision::MAX) & bit(index) == 0;
            }
            events(log, op.revision - 1, op.revision) & bit(index) != 0
        },
    )
}

fn at_most_once(_: &Protocol, state: &State) -> bool {
    state.ranges.iter().all(|range| {
        let mut seen: Mask = 0;
        range.committed().iter().filter_map(Entry::event).all(|(event, _)| {
            let first = seen & event == 0;
            seen |= event;
            first
        })
    })
}

fn log_in_order(_: &Protocol, state: &State) -> bool {
    state.ranges.iter().flat_map(|range| &range.leaders).all(|leader| {
        let revisions = || leader.log.iter().filter_map(Entry::write).map(|(_, revision)| revision);
        revisions().zip(revisions().skip(1)).all(|(earlier, later)| earlier < later)
    })
}

fn evaluated_in_place(_: &Protocol, state: &State) -> bool {
    state.ranges.iter().all(|range| {
        let mut before: Mask = 0;
        range.committed().iter().filter_map(Entry::write).all(|(write, _)| {
            let fits = write.base == before;
            before |= bit(write.operation);
            fits
        })
    })
}

fn reads_exact(model: &Protocol, state: &State) -> bool {
    model.scenario.requests.iter().zip(&state.operations).all(|(request, read)| {
        (0..RANGES)
            .filter(|&range| request.read_ranges() & read.served & bit(range) != 0)
            .all(|range| read.found[range] == truth(state, range, read.revision))
    })
}

fn watch_exact(_: &Protocol, state: &State) -> bool {
    (0..RANGES)
        .all(|range| state.watch.events[range] == truth(state, range, state.watch.watermark[range]))
}

fn watch_complete(model: &Protocol, state: &State) -> bool {
    let transaction = matches!(state.meta.decision, Some(Outcome::Committed(_)));
    state.operations.iter().all(|operation| operation.finished)
        && (transaction || !model.scenario.transaction)
        && highest(state) <= state.released()
}

fn transaction_whole(model: &Protocol, state: &State) -> bool {
    let ends = state.ranges.iter().flat_map(Range::committed).filter_map(|entry| match entry {
        Entry::Resolve(outcome) => Some(*outcome),
        Entry::NoOp | Entry::Write(..) | Entry::Prepare { .. } => None,
    });
    let agreed = ends.clone().all(|end| ends.clone().all(|other| other == end));
    let reads = model.scenario.requests.iter().zip(&state.operations);
    let mut whole = reads
        .filter(|(request, read)| **request == Request::ReadAll && read.finished)
        .map(|(_, read)| read.found.map(|found| found & TRANSACTION));
    agreed && whole.all(|found| found[0] == found[1])
}

/// The compare of the transaction, evaluated when it prepared, still holds at its revision.
fn compare_holds(model: &Protocol, state: &State) -> bool {
    let Some(Outcome::Committed(revision)) = state.meta.decision else { return true };
    let contended = model.scenario.requests.iter().enumerate().fold(0, |mask, (index, request)| {
        if matches!(request, Request::PutContended(_)) { mask | bit(index) } else { mask }
    });
    (0..RANGES).all(|range| {
        let log = state.ranges[range].committed();
        let mut prepares = log.iter().filter_map(|entry| match entry {
            Entry::Prepare { saw, .. } => Some(*saw),
            Entry::NoOp | Entry::Write(..) | Entry::Resolve(_) => None,
        });
        prepares.all(|saw| saw == events(log, 0, revision) & contended)
    })
}

/// No write that is attached to the lease is visible once the lease is gone.
fn removed_has_no_keys(model: &Protocol, state: &State) -> bool {
    let gone = state.lease.stage == LeaseStage::Removed;
    !gone || state.ranges.iter().all(|range| model.attached_keys(range.committed()) == 0)
}

fn deleted_keys(range: &Range) -> bool {
    let mut writes = range.committed().iter().filter_map(Entry::write);
    writes.any(|(write, _)| write.operation == DELETION)
}

fn resolved(state: &State, range: usize) -> bool {
    state.ranges[range].committed().iter().any(|entry| matches!(entry, Entry::Resolve(_)))
}

fn answered_after_failover(range: &Range) -> bool {
    let log = range.current().applied();
    let no_op = log.iter().position(|entry| *entry == Entry::NoOp);
    no_op.is_some_and(|at| log[at..].iter().any(|entry| entry.event().is_some()))
}

fn tail_survived(range: &Range) -> bool {
    range.leaders.windows(2).any(|pair| {
        let inherited = pair[1].log.iter().rposition(|entry| *entry == Entry::NoOp);
        inherited.is_some_and(|inherited| inherited > pair[0].committed)
    })
}

/// The highest revision of any committed change.
fn highest(state: &State) -> Revision {
    let logs = state.ranges.iter().flat_map(Range::committed);
    logs.filter_map(Entry::event).map(|(_, revision)| revision).max().unwrap_or(1)
}

/// Lower bound of what the newest sequencer grants.
fn first_of_newest(state: &State) -> Revision {
    state.sequencers.iter().rev().nth(1).map_or(2, |before| before.end.max(before.next))
}
