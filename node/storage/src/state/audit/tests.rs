//! An audit gives one hash for one history, whatever happened to it since, or none.

use super::Audited;
use crate::state::model::{Generator, Model, RANGES};
use crate::state::{State, StateOptions};
use holdfast_core::key::Span;
use tempfile::TempDir;

fn open(dir: &TempDir) -> State {
    let options = StateOptions { memtable_bytes: 4 << 10, cache_bytes: 1 << 20 };
    State::open(&dir.path().join("state"), options).unwrap()
}

/// Two nodes with the same hundred changes.
fn two() -> ([TempDir; 2], [State; 2], Model, Generator) {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let states = [open(&dirs[0]), open(&dirs[1])];
    let (mut model, mut generator) = (Model::default(), Generator::new(7));
    generator.keys = 12;
    grow(&states.each_ref()[..], &mut model, &mut generator);
    (dirs, states, model, generator)
}

fn grow(states: &[&State], model: &mut Model, generator: &mut Generator) {
    for _ in 0..100 {
        let batch = generator.batch(model);
        model.apply(&batch);
        for state in states {
            state.apply(std::slice::from_ref(&batch));
        }
    }
}

#[test]
fn what_comes_later_makes_no_difference() {
    let (_dirs, [one, two], mut model, mut generator) = two();
    let (revision, compacted) = (generator.revision, generator.revision - 40);
    two.flush().unwrap();
    while !two.prune(compacted - 10, 1000).unwrap() {}
    let audits = [&one, &two].map(|state| state.audit(Span::all(), revision, compacted));
    grow(&[&one], &mut model, &mut generator);
    one.flush().unwrap();
    // It is held back where it would take what is to be hashed.
    assert!(!one.prune(generator.revision, 1_000_000).unwrap());
    let [first, second] = audits.map(|audit| audit.run(|_| {}));
    assert_eq!(first, second);
    assert!(matches!(first, Audited::Hash(_)));
    assert!(one.prune(generator.revision, 1_000_000).unwrap());
    let mut bytes = 0;
    let short = two.audit(Span::all(), revision - 1, compacted).run(|some| bytes += some);
    assert!(matches!(short, Audited::Hash(_)));
    assert_ne!(short, second);
    assert!(bytes > 0);
}

#[test]
fn history_that_is_gone_is_no_difference() {
    let (_dirs, [one, _two], _model, generator) = two();
    one.flush().unwrap();
    while !one.prune(generator.revision - 10, 1000).unwrap() {}
    let audit = one.audit(Span::all(), generator.revision, generator.revision - 11);
    assert_eq!(audit.run(|_| {}), Audited::Pruned(generator.revision - 10));
}

#[test]
fn keys_that_are_taken_away_disturb_it() {
    let (_dirs, [one, two], _model, generator) = two();
    let revision = generator.revision;
    let spans = RANGES.map(Generator::span);
    let wanted = two.audit(spans[0].clone(), revision, 0).run(|_| {});
    let audits = [0, 1].map(|own| one.audit(spans[own].clone(), revision, 0));
    one.wipe(RANGES[1], &[spans[1].clone()]).unwrap();
    let [kept, taken] = audits.map(|audit| audit.run(|_| {}));
    assert_eq!(kept, wanted);
    assert_eq!(taken, Audited::Disturbed);
}
