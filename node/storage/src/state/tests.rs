//! The state reads as a plain list of changes does, whatever is in memory and what on disk.

use super::model::{Generator, LARGEST, Model, RANGES, assert_no_orphans, assert_same};
use super::staging_tests::assert_nothing_staged;
use super::*;
use crate::seeds::seeds;
use holdfast_core::key::Span;
use rand::Rng;
use tempfile::TempDir;

fn small() -> StateOptions {
    StateOptions { memtable_bytes: 4 << 10, cache_bytes: 1 << 20 }
}

fn open(dir: &TempDir) -> State {
    State::open(&dir.path().join("state"), small()).unwrap()
}

/// Random histories with flushes, compactions and restarts; each seed is printed so that a failure
/// can be replayed.
#[test]
fn reads_as_the_model_does() {
    for seed in seeds(12) {
        println!("seed {seed}");
        let dir = TempDir::new().unwrap();
        let mut state = open(&dir);
        let mut model = Model::default();
        let mut generator = Generator::new(seed);
        let mut compact = 0;
        for step in 0..600 {
            let batch = generator.batch(&model);
            model.apply(&batch);
            state.apply(&[batch]);
            if generator.rng.random_bool(0.01) || state.wants_flush() {
                state.flush().unwrap();
            }
            if generator.rng.random_bool(0.01) {
                compact = generator.rng.random_range(compact..=generator.revision);
            }
            if generator.rng.random_bool(0.05) {
                let budget = *[1, 10, 1000].get(generator.rng.random_range(0..3)).unwrap();
                state.prune(compact, budget).unwrap();
            }
            if step % 100 == 99 {
                if generator.rng.random_bool(0.3) {
                    state.flush().unwrap();
                    drop(state);
                    state = open(&dir);
                }
                assert_same(&state, &model, compact, &mut generator.rng);
            }
        }
        state.flush().unwrap();
        assert_eq!(state.durable_applied(), model.applied.clone().into_iter().collect::<Vec<_>>());
        assert_no_orphans(&state);
        assert_same(&state, &model, compact, &mut generator.rng);
    }
}

/// When all is flushed and pruned, exactly what the compaction leaves is in the file.
#[test]
fn pruning_leaves_nothing_hidden() {
    for seed in seeds(6) {
        println!("seed {seed}");
        let dir = TempDir::new().unwrap();
        let state = open(&dir);
        let (mut model, mut generator) = (Model::default(), Generator::new(seed));
        let mut pruned = 0;
        for _ in 0..5 {
            for _ in 0..60 {
                // A lagging range brings changes below what is pruned already.
                let batch = generator.batch(&model);
                model.apply(&batch);
                state.apply(&[batch]);
                if generator.rng.random_bool(0.1) {
                    state.flush().unwrap();
                    pruned = generator.revision - 1;
                    state.prune(pruned, 20).unwrap();
                }
            }
            let compact = generator.revision - i64::from(generator.rng.random_range(0..3_u32));
            let compact = compact.max(pruned);
            state.flush().unwrap();
            while !state.prune(compact, 7).unwrap() {}
            let mut left = model.clone();
            left.compact(compact);
            let disk = state.shared.inner.read().disk.clone();
            let rows: Vec<_> =
                disk.changes(Position::MIN, i64::MAX).map(|(position, _)| position).collect();
            let wanted: Vec<_> = left
                .versions
                .keys()
                .map(|(revision, sub)| Position { revision: *revision, sub: *sub })
                .collect();
            assert_eq!(rows, wanted);
            assert_eq!(disk.heads(b"", None, usize::MAX).len(), left.keys().len());
            let marks = disk.history_rows();
            assert!(marks.iter().all(|position| wanted.contains(position)), "{marks:?}");
            assert_no_orphans(&state);
        }
        let state_bytes = state.size_in_use();
        state.wipe(RANGES[0], &[Span::all()]).unwrap();
        assert_no_orphans(&state);
        assert!(state_bytes > 0 && state.size_in_use() == 0);
    }
}

#[test]
fn a_pin_holds_pruning_back() {
    let dir = TempDir::new().unwrap();
    let state = open(&dir);
    let (mut model, mut generator) = (Model::default(), Generator::new(3));
    for _ in 0..100 {
        let batch = generator.batch(&model);
        model.apply(&batch);
        state.apply(&[batch]);
    }
    state.flush().unwrap();
    let middle = generator.revision / 2;
    let pin = state.pin_revision(middle);
    let newer_pin = state.pin_revision(middle + 3);
    assert!(!state.prune(generator.revision, 1_000_000).unwrap());
    assert_same(&state, &model, middle, &mut generator.rng);
    drop((pin, newer_pin));
    assert!(state.prune(generator.revision, 1_000_000).unwrap());
}

/// What is flushed or pruned makes no difference to the hash; any change does.
#[test]
fn the_hash_depends_on_what_is_visible_only() {
    for seed in seeds(6) {
        println!("seed {seed}");
        let (mut model, mut generator) = (Model::default(), Generator::new(seed));
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let [one, two] = [open(&dirs[0]), open(&dirs[1])];
        for _ in 0..200 {
            let batch = generator.batch(&model);
            model.apply(&batch);
            one.apply(std::slice::from_ref(&batch));
            two.apply(&[batch]);
            if generator.rng.random_bool(0.05) {
                one.flush().unwrap();
            }
        }
        let compact = generator.revision - 20;
        one.prune(compact, 1_000_000).unwrap();
        let spans = [Generator::span(RANGES[0]), Generator::span(RANGES[1])];
        for revision in [compact, generator.revision - 3, generator.revision] {
            let hash = one.hash(&spans, revision, compact);
            assert_eq!(hash, two.hash(&[Span::all()], revision, compact));
        }
        let before = two.hash(&spans, i64::MAX, compact);
        loop {
            let batch = generator.batch(&model);
            model.apply(&batch);
            two.apply(std::slice::from_ref(&batch));
            if !batch.mutations.is_empty() {
                break;
            }
        }
        assert_ne!(two.hash(&spans, i64::MAX, compact), before);
    }
}

/// A replica that lags, or is new, gets all of a range by snapshot and goes on from there.
#[test]
fn a_snapshot_brings_the_same_state() {
    for seed in seeds(10) {
        println!("seed {seed}");
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let [source, target] = [open(&dirs[0]), open(&dirs[1])];
        let (mut model, mut generator) = (Model::default(), Generator::new(seed));
        let lagging_from = generator.rng.random_range(0..200);
        for step in 0..300 {
            let batch = generator.batch(&model);
            model.apply(&batch);
            source.apply(std::slice::from_ref(&batch));
            if step < lagging_from {
                target.apply(&[batch]);
            }
            if generator.rng.random_bool(0.02) {
                source.flush().unwrap();
            }
        }
        target.shared.staged.set_limit(generator.rng.random_range(0..60_000));
        let compact = generator.rng.random_range(1..generator.revision);
        if generator.rng.random_bool(0.5) {
            source.flush().unwrap();
            source.prune(compact, 500).unwrap();
        }
        if generator.rng.random_bool(0.5) {
            target.flush().unwrap();
            target.prune(compact, 500).unwrap();
        }
        for range in RANGES {
            let span = Generator::span(range);
            let pinned = source.pin(range, &span).unwrap().unwrap();
            assert_eq!(Some(&pinned.applied()), model.applied.get(&range));
            let mut staging = target.stage(range.0);
            for chunk in pinned.chunks() {
                assert!(chunk.len() < snapshot::CHUNK_BYTES + LARGEST + 1000);
                staging.push(&chunk).unwrap();
            }
            assert!(staging.is_complete());
            let (of, applied) = staging.finish().unwrap();
            assert_eq!((of, applied), (range, pinned.applied()));
            target.install(range.0, range, applied, &[span]).unwrap();
            assert_eq!(target.applied(range), Some(applied));
        }
        assert_nothing_staged(&target);
        assert_no_orphans(&target);
        assert_same(&target, &model, compact, &mut generator.rng);
        for _ in 0..50 {
            let batch = generator.batch(&model);
            model.apply(&batch);
            target.apply(&[batch]);
        }
        target.flush().unwrap();
        assert_eq!(target.flush().unwrap(), []);
        while !target.prune(compact, 100).unwrap() {}
        assert_no_orphans(&target);
        assert_same(&target, &model, compact, &mut generator.rng);
        drop(target);
        assert_same(&open(&dirs[1]), &model, compact, &mut generator.rng);
    }
}

#[test]
fn a_damaged_stream_is_refused() {
    let dir = TempDir::new().unwrap();
    let state = open(&dir);
    let (mut model, mut generator) = (Model::default(), Generator::new(2));
    for _ in 0..50 {
        let batch = generator.batch(&model);
        model.apply(&batch);
        state.apply(&[batch]);
    }
    let range = RANGES[0];
    let pinned = state.pin(range, &Generator::span(range)).unwrap().unwrap();
    let chunks: Vec<_> = pinned.chunks().collect();
    let mut damaged = chunks[2].to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    for (what, stream) in [
        ("lost", vec![chunks[0].clone(), chunks[2].clone()]),
        ("doubled", vec![chunks[0].clone(), chunks[0].clone()]),
        ("damaged", vec![chunks[0].clone(), chunks[1].clone(), damaged.into()]),
        ("short", vec![chunks[0].clone(), bytes::Bytes::from_static(b"abc")]),
    ] {
        let mut staging = state.stage(1);
        let refused = stream.iter().any(|chunk| staging.push(chunk).is_err());
        assert!(refused, "{what}");
        assert!(staging.finish().is_err());
    }
    let mut given_up = state.stage(2);
    for chunk in &chunks {
        given_up.push(chunk).unwrap();
    }
    given_up.finish().unwrap();
    state.discard(2).unwrap();
    assert!(state.discard(2).is_err(), "it is gone");
    let mut early = state.stage(1);
    early.push(&chunks[0]).unwrap();
    assert!(early.finish().unwrap_err().to_string().contains("ends early"));
    assert!(state.install(1, range, pinned.applied(), &[]).is_err());
    assert_same(&state, &model, 0, &mut generator.rng);
}

#[test]
fn a_file_that_is_no_state_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state");
    std::fs::write(&path, b"something else entirely").unwrap();
    assert!(State::open(&path, small()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"something else entirely");
    // Nor is one that lost everything, which must not be made anew either.
    std::fs::write(&path, b"").unwrap();
    assert!(State::open(&path, small()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"");
}
