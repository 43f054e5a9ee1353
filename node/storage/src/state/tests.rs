//! The state reads as a plain list of changes does, whatever is in memory and what on disk.

use super::model::{Generator, Model, assert_same};
use super::*;
use rand::Rng;
use tempfile::TempDir;

fn small() -> StateOptions {
    StateOptions { memtable_bytes: 4 << 10, cache_bytes: 1 << 20 }
}

fn open(dir: &TempDir) -> State {
    State::open(&dir.path().join("state"), small()).unwrap()
}

/// Random histories; each seed is printed so that a failure can be replayed.
#[test]
fn reads_as_the_model_does() {
    for seed in seeds(12) {
        println!("seed {seed}");
        let dir = TempDir::new().unwrap();
        let mut state = open(&dir);
        let mut model = Model::default();
        let mut generator = Generator::new(seed);
        for step in 0..600 {
            let batch = generator.batch(&model);
            model.apply(&batch);
            state.apply(&[batch]);
            if generator.rng.random_bool(0.01) || state.wants_flush() {
                state.flush().unwrap();
            }
            if step % 100 == 99 {
                if generator.rng.random_bool(0.3) {
                    state.flush().unwrap();
                    drop(state);
                    state = open(&dir);
                }
                assert_same(&state, &model, 0, &mut generator.rng);
            }
        }
        state.flush().unwrap();
        assert_eq!(state.durable_applied(), model.applied.clone().into_iter().collect::<Vec<_>>());
        assert_same(&state, &model, 0, &mut generator.rng);
    }
}

/// Some fixed seeds and one fresh one.
pub fn seeds(count: u64) -> Vec<u64> {
    (1..count).chain([rand::random()]).collect()
}

#[test]
fn an_unknown_format_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state");
    drop(open(&dir));
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(tables::META).unwrap().insert(tables::META_FORMAT, 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = State::open(&path, small()).err().unwrap();
    assert_eq!(error.to_string(), "the state file has format 99; this version reads format 1 only");
}

#[test]
fn a_file_that_is_no_state_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state");
    std::fs::write(&path, b"something else entirely").unwrap();
    assert!(State::open(&path, small()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"something else entirely");
}
