//! Searches the protocol model: the documented protocol has no counterexample within the bounds
//! of any scenario, and every deliberately wrong variant has one.
//!
//! The second half is what makes the first worth something: a model that cannot fail shows
//! nothing. Run with `--nocapture` to see the numbers of states and the counterexamples.

use std::fmt::{Debug, Write};

use holdfast_sim::model::{Protocol, Scenario, Variant};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// Fewer distinct states than this would mean that a scenario lost what it is for.
const STATES_MIN: usize = 10_000;

/// Searches everything within the bounds of the scenario.
fn holds(scenario: Scenario) {
    let name = scenario.name;
    let search = Protocol::new(Variant::Right, scenario)
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_dfs()
        .join();
    let states = search.unique_state_count();
    println!(
        "{name}: {states} states, {} steps, depth {}",
        search.state_count(),
        search.max_depth()
    );
    for property in search.model().properties() {
        let found = search.discovery(property.name);
        match (&property.expectation, found) {
            (Expectation::Always | Expectation::Eventually, None)
            | (Expectation::Sometimes, Some(_)) => {}
            (Expectation::Sometimes, None) => {
                panic!("{name}: nothing ever shows that {}", property.name);
            }
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                panic!("{name}: not true that {}:\n{}", property.name, list(&path.into_actions()));
            }
        }
    }
    assert!(search.is_done(), "{name}: the search was cut short");
    assert!(states >= STATES_MIN, "{name}: only {states} states");
}

/// Searches until the first counterexample to `expected`, which is among the shortest there are.
fn fails(variant: Variant, scenario: Scenario, expected: &'static str) {
    let search = Protocol::new(variant, scenario)
        .checker()
        .finish_when(HasDiscoveries::AnyOf([expected].into()))
        .spawn_bfs()
        .join();
    let name = search.model().scenario.name;
    let Some(path) = search.discovery(expected) else {
        let others: Vec<_> = search.discoveries().into_keys().collect();
        panic!("{variant:?} in {name}: \"{expected}\" was not broken, but found: {others:?}");
    };
    let states = search.unique_state_count();
    let steps = list(&path.into_actions());
    println!("{variant:?} in {name}: not true that {expected} ({states} states):\n{steps}");
}

/// One step a line.
fn list(actions: &[impl Debug]) -> String {
    let mut lines = String::new();
    for (number, action) in (1..).zip(actions) {
        writeln!(lines, "{number:5}. {action:?}").expect("a string takes everything");
    }
    lines
}

const ACKNOWLEDGED: &str = "acknowledged writes survive";
const AT_MOST_ONCE: &str = "a request takes effect at most once";
const COMPARE: &str = "a transaction sees what precedes it";
const IN_PLACE: &str = "a write was evaluated on what precedes it";
const LEASE: &str = "a removed lease has no keys";
const READS: &str = "a read at a revision finds exactly its writes";
const REAL_TIME: &str = "answers are in real-time order";
const UNIQUE: &str = "a revision belongs to one change";
const WATCH: &str = "a watch misses nothing it promised";
const WHOLE: &str = "a transaction is whole or absent";

#[test]
fn order_holds() {
    holds(Scenario::order());
}

#[test]
fn hand_over_holds() {
    holds(Scenario::hand_over());
}

#[test]
fn pipeline_holds() {
    holds(Scenario::pipeline());
}

#[test]
fn requests_hold() {
    holds(Scenario::requests());
}

#[test]
fn watch_holds() {
    holds(Scenario::watch());
}

#[test]
fn watch_takeover_holds() {
    holds(Scenario::watch_takeover());
}

#[test]
fn transaction_holds() {
    holds(Scenario::transaction());
}

#[test]
fn transaction_failover_holds() {
    holds(Scenario::transaction_failover());
}

#[test]
fn transaction_contended_holds() {
    holds(Scenario::transaction_contended());
}

#[test]
fn transaction_watch_holds() {
    holds(Scenario::transaction_watch());
}

#[test]
fn client_lease_holds() {
    holds(Scenario::client_lease());
}

#[test]
#[ignore = "takes minutes; run it after a change of the model or the protocol"]
fn wide_searches_hold() {
    for scenario in Scenario::wide() {
        holds(scenario);
    }
}

#[test]
fn without_fencing_an_old_leaseholder_reads_stale() {
    fails(Variant::NoFencing, Scenario::order(), READS);
}

#[test]
fn acknowledging_before_durable_loses_writes() {
    fails(Variant::AckBeforeDurable, Scenario::pipeline(), ACKNOWLEDGED);
}

#[test]
fn retrying_without_a_record_executes_twice() {
    fails(Variant::RetryWithoutRecord, Scenario::requests(), AT_MOST_ONCE);
}

#[test]
fn forgetting_what_is_settled_executes_twice() {
    fails(Variant::SettledCopyExecuted, Scenario::requests(), AT_MOST_ONCE);
}

#[test]
fn an_unconfirmed_sequencer_breaks_real_time_order() {
    fails(Variant::StaleSequencerGrants, Scenario::order(), REAL_TIME);
}

#[test]
fn a_round_before_numbering_breaks_real_time_order() {
    fails(Variant::RoundBeforeNumbering, Scenario::order(), REAL_TIME);
}

#[test]
fn a_successor_inside_the_block_grants_twice() {
    fails(Variant::TakeoverInsideBlock, Scenario::order(), UNIQUE);
}

#[test]
fn granting_after_the_hand_over_grants_twice() {
    fails(Variant::GrantAfterHandover, Scenario::hand_over(), UNIQUE);
}

#[test]
fn a_forwarded_hand_over_grants_twice() {
    fails(Variant::ForwardedHandover, Scenario::hand_over(), UNIQUE);
}

#[test]
fn late_answers_break_the_watermark() {
    fails(Variant::SessionAnswersAcceptedLate, Scenario::watch(), WATCH);
}

#[test]
fn resending_in_another_order_breaks_compares() {
    fails(Variant::ResendReordered, Scenario::pipeline(), IN_PLACE);
}

#[test]
fn a_watermark_over_a_grant_loses_events() {
    fails(Variant::WatermarkIgnoresGrant, Scenario::watch(), WATCH);
}

#[test]
fn a_borrowed_watermark_loses_events() {
    fails(Variant::WatermarkBorrowed, Scenario::watch(), WATCH);
}

#[test]
fn ignoring_intents_tears_reads() {
    fails(Variant::IntentIgnored, Scenario::transaction_failover(), WHOLE);
}

#[test]
fn ignoring_intents_loses_events() {
    fails(Variant::IntentIgnored, Scenario::transaction_watch(), WATCH);
}

#[test]
fn deciding_without_a_log_commits_half() {
    fails(Variant::CoordinatorCrashCommitsHalf, Scenario::transaction(), WHOLE);
}

#[test]
fn preparing_ahead_of_the_queue_breaks_compares() {
    fails(Variant::PrepareOvertakesQueued, Scenario::transaction(), COMPARE);
}

#[test]
fn attaching_after_the_grant_leaves_keys() {
    fails(Variant::AttachedAfterGrant, Scenario::client_lease(), LEASE);
}

#[test]
fn deleting_ahead_of_the_queue_leaves_keys() {
    fails(Variant::DeletionOvertakesQueued, Scenario::client_lease(), LEASE);
}

#[test]
fn finding_nothing_to_delete_unfenced_leaves_keys() {
    fails(Variant::ClearedUnfenced, Scenario::client_lease(), LEASE);
}
