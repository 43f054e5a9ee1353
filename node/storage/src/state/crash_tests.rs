//! After a loss of power the state is exactly that of the durable applied positions.

use super::model::{Generator, Model, RANGES, assert_no_orphans, assert_same};
use super::staging_tests::assert_nothing_staged;
use super::*;
use crate::faulty::FaultyDisk;
use crate::seeds::seeds;
use holdfast_core::ids::RangeId;
use rand::Rng;
use tempfile::TempDir;

fn open(dir: &TempDir, disk: &FaultyDisk) -> Result<State> {
    let options = StateOptions { memtable_bytes: 4 << 10, cache_bytes: 1 << 20 };
    let path = dir.path().join("state");
    State::open_with_backend(&path, options, disk.backend(&path).unwrap())
}

/// The batches up to the durable position of each range, in order.
fn replay(batches: &[ApplyBatch], durable: &[(RangeId, Applied)]) -> (Model, Vec<ApplyBatch>) {
    let mut model = Model::default();
    let mut rest = Vec::new();
    for batch in batches {
        let position = durable.iter().find(|(range, _)| *range == batch.range);
        if position.is_some_and(|(_, applied)| batch.applied.index <= applied.index) {
            model.apply(batch);
        } else {
            rest.push(batch.clone());
        }
    }
    (model, rest)
}

#[test]
fn the_state_at_the_durable_positions_survives_a_loss_of_power() {
    for seed in seeds(25) {
        println!("seed {seed}");
        let dir = TempDir::new().unwrap();
        let disk = FaultyDisk::new(seed);
        let mut generator = Generator::new(seed);
        let mut batches: Vec<ApplyBatch> = Vec::new();
        let mut model = Model::default();
        let mut flushed: Vec<(RangeId, Applied)> = Vec::new();
        let mut compact = 0;
        drop(open(&dir, &disk).unwrap());
        for _ in 0..6 {
            // The disk may fail while the last crash is being repaired.
            if generator.rng.random_bool(0.3) {
                disk.fail_after(generator.rng.random_range(0..40));
                drop(open(&dir, &disk));
                disk.crash().unwrap();
            }
            let state = open(&dir, &disk).unwrap();
            let durable = state.durable_applied();
            for (range, applied) in &flushed {
                let found = durable.iter().find(|(found, _)| found == range);
                assert!(found.is_some_and(|(_, found)| found.index >= applied.index));
            }
            assert_no_orphans(&state);
            let (kept, lost) = replay(&batches, &durable);
            assert_same(&state, &kept, compact, &mut generator.rng);
            // The raft log replays the rest.
            state.apply(&lost);
            assert_same(&state, &model, compact, &mut generator.rng);
            if generator.rng.random_bool(0.5) {
                disk.fail_after(generator.rng.random_range(1..80));
            }
            for _ in 0..generator.rng.random_range(1..150) {
                let batch = generator.batch(&model);
                model.apply(&batch);
                batches.push(batch.clone());
                state.apply(&[batch]);
                if generator.rng.random_bool(0.05) || state.wants_flush() {
                    match state.flush() {
                        Ok(_) => flushed = state.durable_applied(),
                        Err(_) => break,
                    }
                }
                if generator.rng.random_bool(0.02) {
                    compact = generator.rng.random_range(compact..=generator.revision);
                }
                if generator.rng.random_bool(0.05) && state.prune(compact, 50).is_err() {
                    assert!(matches!(state.flush(), Err(StorageError::Poisoned { .. })));
                    break;
                }
            }
            disk.crash().unwrap();
        }
    }
}

/// An install is done again, or was never begun; a wipe as well.
#[test]
fn an_interrupted_install_is_done_again_or_never_began() {
    let (mut again, mut never, mut fresh_never, mut whole) = (0, 0, 0, 0);
    for seed in seeds(60) {
        println!("seed {seed}");
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let disk = FaultyDisk::new(seed);
        let (mut model, mut generator) = (Model::default(), Generator::new(seed));
        let source = open(&dirs[0], &FaultyDisk::new(seed)).unwrap();
        let mut state = open(&dirs[1], &disk).unwrap();
        let mut before = Model::default();
        // Half of the time nothing of the range is there yet, as when a copy is made anew.
        let fresh = generator.rng.random_bool(0.5);
        for step in 0..200 {
            let batch = generator.batch(&model);
            model.apply(&batch);
            source.apply(std::slice::from_ref(&batch));
            if step < 50 && !(fresh && batch.range == RANGES[0]) {
                before.apply(&batch);
                state.apply(&[batch]);
            }
        }
        state.flush().unwrap();
        let range = RANGES[0];
        let span = Generator::span(range);
        let pinned = source.pin(range, &span).unwrap().unwrap();
        let wipe = generator.rng.random_bool(0.3);
        if generator.rng.random_bool(0.5) {
            state.shared.staged.set_limit(generator.rng.random_range(0..60_000));
        }
        let mut staging = state.stage(9);
        pinned.chunks().for_each(|chunk| staging.push(&chunk).unwrap());
        staging.finish().unwrap();
        disk.fail_after(generator.rng.random_range(0..60));
        let outcome = if wipe {
            state.wipe(range, std::slice::from_ref(&span))
        } else {
            state.install(9, range, pinned.applied(), std::slice::from_ref(&span))
        };
        // A crash in the middle of doing it again makes no difference either.
        for _ in 0..3 {
            drop(state);
            disk.crash().unwrap();
            disk.fail_after(generator.rng.random_range(0..60));
            drop(open(&dirs[1], &disk));
            disk.crash().unwrap();
            state = open(&dirs[1], &disk).unwrap();
        }
        let applied = state.applied(range);
        let in_range = |model: &mut Model, keep: bool| {
            model.versions.retain(|_, (key, _)| span.contains(key) == keep);
            model.system.retain(|(of, _), _| (*of == range) == keep);
        };
        let mut wanted = before.clone();
        if applied == before.applied.get(&range).copied() && outcome.is_err() {
            never += 1;
            fresh_never += usize::from(fresh && !wipe);
        } else {
            in_range(&mut wanted, false);
            if wipe {
                assert_eq!(applied, None);
            } else {
                assert_eq!(applied, Some(pinned.applied()));
                let mut installed = model.clone();
                in_range(&mut installed, true);
                wanted.versions.extend(installed.versions);
                wanted.system.extend(installed.system);
            }
            if outcome.is_ok() { whole += 1 } else { again += 1 }
        }
        assert_nothing_staged(&state);
        assert_no_orphans(&state);
        assert_same(&state, &wanted, 0, &mut generator.rng);
    }
    println!("{again} done again, {never} never began, {whole} not interrupted");
    assert!(again > 0 && never > fresh_never && fresh_never > 0 && whole > 0);
}
