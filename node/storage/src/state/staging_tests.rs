//! Staged raft snapshots stay in memory up to a bound, go to a file beyond it, and leave nothing.

use super::model::{Generator, Model, RANGES, assert_same};
use super::*;
use crate::seeds::seeds;
use bytes::Bytes;
use holdfast_core::key::Span;
use rand::Rng;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No memory is taken and no file is left.
pub fn assert_nothing_staged(state: &State) {
    assert_eq!(state.shared.staged.used(), 0, "memory of staged raft snapshots");
    assert_eq!(files(state), 0, "files of staged raft snapshots");
}

fn files(state: &State) -> usize {
    std::fs::read_dir(state.staging_dir()).map_or(0, Iterator::count)
}

fn open(dir: &TempDir) -> State {
    let options = StateOptions { memtable_bytes: 4 << 10, cache_bytes: 1 << 20 };
    State::open(&dir.path().join("state"), options).unwrap()
}

/// A state with something in each range, and the stream of the first one.
fn filled(dir: &TempDir, seed: u64) -> (State, Model, Generator, Vec<Bytes>, Applied) {
    let state = open(dir);
    let (mut model, mut generator) = (Model::default(), Generator::new(seed));
    for _ in 0..100 {
        let batch = generator.batch(&model);
        model.apply(&batch);
        state.apply(&[batch]);
    }
    let pinned = state.pin(RANGES[0], &Generator::span(RANGES[0])).unwrap().unwrap();
    let (chunks, applied) = (pinned.chunks().collect(), pinned.applied());
    (state, model, generator, chunks, applied)
}

fn push_all(mut staging: Staging, chunks: &[Bytes]) {
    for chunk in chunks {
        staging.push(chunk).unwrap();
    }
    staging.finish().unwrap();
}

fn size(chunks: &[Bytes]) -> usize {
    chunks.iter().map(|chunk| chunk.len() + 64).sum()
}

#[test]
fn what_fits_is_in_memory_and_the_rest_in_a_file() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (_, _, _, chunks, _) = filled(&dirs[0], 3);
    let state = open(&dirs[1]);
    state.shared.staged.set_limit(size(&chunks) * 3 / 2);
    let stage = |number| {
        push_all(state.stage(number), &chunks);
    };
    stage(1);
    assert_eq!((state.shared.staged.used(), files(&state)), (size(&chunks), 0));
    stage(2);
    assert_eq!((state.shared.staged.used(), files(&state)), (size(&chunks), 1));
    state.discard(1).unwrap();
    assert_eq!((state.shared.staged.used(), files(&state)), (0, 1));
    stage(3);
    assert_eq!((state.shared.staged.used(), files(&state)), (size(&chunks), 1));
    state.discard(2).unwrap();
    state.discard(3).unwrap();
    assert_nothing_staged(&state);
}

#[test]
fn room_is_awaited_while_something_complete_will_make_it() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (_, _, _, chunks, _) = filled(&dirs[0], 3);
    let state = open(&dirs[1]);
    state.shared.staged.set_limit(size(&chunks) * 11 / 10);
    let waited = |longest: Duration| {
        let start = Instant::now();
        state.await_staging_room(longest);
        start.elapsed()
    };
    let (moment, long) = (Duration::from_millis(20), Duration::from_mins(10));
    let mut unfinished = state.stage(1);
    for chunk in &chunks {
        assert!(waited(long) < long, "nothing is complete, so nothing will make room");
        unfinished.push(chunk).unwrap();
    }
    unfinished.finish().unwrap();
    assert!(waited(moment) >= moment);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waited(long));
        state.discard(1).unwrap();
        assert!(waiting.join().unwrap() < long);
    });
    assert_nothing_staged(&state);
}

/// A copy that is cut short is not installed, and neither way of staging it keeps anything.
#[test]
fn a_truncated_stage_is_refused() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (_, _, _, chunks, applied) = filled(&dirs[0], 3);
    let state = open(&dirs[1]);
    push_all(state.stage(1), &chunks);
    state.shared.staged.truncate(1);
    let error = state.install(1, RANGES[0], applied, &[]).unwrap_err();
    assert!(error.to_string().contains("ends early"), "{error}");
    assert_eq!(state.applied(RANGES[0]), None);
    assert_nothing_staged(&state);
}

/// Whatever comes of them, and in whatever order.
#[test]
fn all_memory_is_given_back() {
    let mut spilled = 0;
    for seed in seeds(20) {
        println!("seed {seed}");
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let (_source, model, mut generator, chunks, applied) = filled(&dirs[0], seed);
        let state = open(&dirs[1]);
        let limit = generator.rng.random_range(0..size(&chunks) * 4);
        state.shared.staged.set_limit(limit);
        let mut coming: Vec<(u64, Staging, usize)> = Vec::new();
        let mut complete: Vec<u64> = Vec::new();
        let mut installed = false;
        for number in 1..60 {
            match generator.rng.random_range(0..6) {
                0 | 1 => coming.push((number, state.stage(number), 0)),
                2 | 3 if !coming.is_empty() => {
                    let place = generator.rng.random_range(0..coming.len());
                    let (number, mut staging, next) = coming.swap_remove(place);
                    let until = generator.rng.random_range(next..=chunks.len());
                    chunks[next..until].iter().for_each(|chunk| staging.push(chunk).unwrap());
                    if until < chunks.len() {
                        coming.push((number, staging, until));
                    } else {
                        staging.finish().unwrap();
                        complete.push(number);
                    }
                }
                // The connection broke, the stream was damaged, or it ended early.
                4 if !coming.is_empty() => {
                    let (_, mut staging, next) = coming.pop().unwrap();
                    if next > 0 && generator.rng.random_bool(0.5) {
                        assert!(staging.push(&chunks[0]).is_err());
                    }
                    if generator.rng.random_bool(0.5) {
                        assert!(staging.finish().is_err());
                    }
                }
                _ => {
                    let Some(number) = complete.pop() else { continue };
                    if generator.rng.random_bool(0.5) {
                        state.discard(number).unwrap();
                    } else {
                        // The first finds nothing of the range, the others replace it.
                        let span = Generator::span(RANGES[0]);
                        state.install(number, RANGES[0], applied, &[span]).unwrap();
                        installed = true;
                    }
                }
            }
            assert!(state.shared.staged.used() <= limit);
            spilled += files(&state);
        }
        drop(coming);
        for number in complete {
            state.discard(number).unwrap();
        }
        assert_nothing_staged(&state);
        if installed {
            let mut wanted = Model::default();
            let span: Span = Generator::span(RANGES[0]);
            wanted.versions = model.versions.clone();
            wanted.versions.retain(|_, (key, _)| span.contains(key));
            wanted.system = model.system.clone();
            wanted.system.retain(|(range, _), _| *range == RANGES[0]);
            wanted.applied.insert(RANGES[0], applied);
            assert_same(&state, &wanted, 0, &mut generator.rng);
        }
    }
    assert!(spilled > 0);
}
