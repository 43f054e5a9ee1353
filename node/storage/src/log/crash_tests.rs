//! After a loss of power the log is what it was after some write, at or after the last synced one.

use super::*;
use crate::seeds::seeds;
use holdfast_core::effects::LogReads;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use tempfile::TempDir;

const RANGES: std::ops::Range<u64> = 1..4;

/// One range as it should be.
#[derive(Clone, Debug, Default, PartialEq)]
struct Range {
    commit: u64,
    vote: u64,
    truncated: Applied,
    /// Index, term, length, first byte.
    entries: Vec<(Index, u64, usize, u8)>,
}

type Model = BTreeMap<u64, Range>;

/// Reads all of the log, on a new thread: the engine keeps the last block that a thread read, and
/// would not notice that it is another after a crash and a new start in the same process.
fn read(log: &RaftLog) -> Model {
    let range = |boot: ReplicaBoot| {
        let (low, high) = (boot.truncated.index + 1, boot.last_index + 1);
        let entries = log.entries(boot.range, low, high, u64::MAX);
        let entries = entries
            .into_iter()
            .map(|e| (e.index, e.term, e.data.len(), e.data.first().copied().unwrap_or(0)))
            .collect();
        let HardState { commit, vote, .. } = boot.hard_state;
        (boot.range.0, Range { commit, vote, truncated: boot.truncated, entries })
    };
    let all = || {
        log.ranges()
            .unwrap()
            .into_iter()
            .filter_map(|of| log.boot(of).unwrap())
            .map(range)
            .collect()
    };
    std::thread::scope(|scope| scope.spawn(all).join().unwrap())
}

/// What each possible log says about the ranges of which `found` is not it.
fn differences(found: &Model, possible: &[Model]) -> String {
    let mut text = String::new();
    for (number, model) in possible.iter().enumerate() {
        for range in RANGES {
            let (found, wanted) = (found.get(&range), model.get(&range));
            if found != wanted {
                writeln!(text, "possible {number}, range {range}: {found:?}\n not {wanted:?}")
                    .expect("a string takes everything");
            }
        }
    }
    text
}

fn change(rng: &mut ChaCha8Rng, model: &mut Model, step: u64) -> LogWrite {
    let number = rng.random_range(RANGES);
    let mut write = LogWrite { range: RangeId(number), ..LogWrite::default() };
    if rng.random_bool(0.02) && model.remove(&number).is_some() {
        write.destroy = true;
        return write;
    }
    let range = model.entry(number).or_default();
    let last = range.entries.last().map_or(range.truncated.index, |entry| entry.0);
    if rng.random_bool(0.2) {
        let index = match rng.random_range(0..6) {
            // A raft snapshot replaces the log.
            0 => last + rng.random_range(1..50),
            // The range rests.
            1 | 2 if last > 0 => last,
            _ => rng.random_range(range.truncated.index..=last),
        };
        let entry = range.entries.iter().find(|entry| entry.0 == index);
        let term = if index == range.truncated.index { range.truncated.term } else { step };
        range.truncated = Applied { index, term: entry.map_or(term, |entry| entry.1) };
        range.entries.retain(|entry| entry.0 > index);
        write.truncate = Some(range.truncated);
    }
    let first = range.entries.first().map_or(range.truncated.index + 1, |entry| entry.0);
    let last = range.entries.last().map_or(range.truncated.index, |entry| entry.0);
    let from = if rng.random_bool(0.1) { rng.random_range(first..=last + 1) } else { last + 1 };
    let count = rng.random_range(0..6_u64).saturating_sub(2);
    if count > 0 {
        range.entries.truncate((from - first) as usize);
    }
    for index in from..from + count {
        let size = if rng.random_bool(0.02) { 20_000 } else { rng.random_range(0..300) };
        let data = vec![step as u8; size];
        let first = data.first().copied().unwrap_or(0);
        write.entries.push(Entry { index, term: step, data: data.into(), ..Entry::default() });
        range.entries.push((index, step, size, first));
    }
    let nothing = write.entries.is_empty() && write.truncate.is_none();
    if nothing || rng.random_bool(0.5) {
        (range.commit, range.vote) = (step, step % 7);
        let (commit, vote) = (range.commit, range.vote);
        write.hard_state = Some(HardState { commit, vote, term: 1, ..HardState::default() });
    }
    write
}

#[test]
fn acknowledged_writes_survive_a_loss_of_power() {
    for seed in seeds(40) {
        println!("seed {seed}");
        let dir = TempDir::new().unwrap();
        let disk = FaultyDisk::new(seed);
        let options = LogOptions { file_bytes: 16 << 10, purge_from_bytes: 32 << 10 };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut step = 0;
        let mut possible = vec![Model::new()];
        for _ in 0..8 {
            let log = RaftLog::open_faulty(dir.path(), &options, &disk).unwrap();
            let found = read(&log);
            assert!(possible.contains(&found), "{}", differences(&found, &possible));
            let mut model = found;
            possible = vec![model.clone()];
            for _ in 0..rng.random_range(1..60) {
                step += 1;
                let sync = rng.random_bool(0.3);
                let count = rng.random_range(1..4);
                let writes: Vec<_> =
                    (0..count).map(|_| change(&mut rng, &mut model, step)).collect();
                let syncs = disk.syncs();
                log.write(&writes, sync).unwrap();
                if sync || writes.iter().any(|write| !write.entries.is_empty()) {
                    assert!(disk.syncs() > syncs);
                    possible.clear();
                }
                possible.push(model.clone());
                if rng.random_bool(0.1) {
                    log.purge().unwrap();
                }
                assert_eq!(read(&log), model);
            }
            disk.crash().unwrap();
        }
    }
}

#[test]
fn a_failed_write_is_told_once_and_then_all_are_refused() {
    let dir = TempDir::new().unwrap();
    let disk = FaultyDisk::new(1);
    let log = RaftLog::open_faulty(dir.path(), &LogOptions::default(), &disk).unwrap();
    let vote = |vote| LogWrite {
        range: RangeId(1),
        hard_state: Some(HardState { vote, ..HardState::default() }),
        ..LogWrite::default()
    };
    log.write([&vote(1)], true).unwrap();
    let kept = read(&log);
    assert_eq!(kept[&1].vote, 1);
    disk.fail_after(0);
    let error = log.write([&vote(2)], false).unwrap_err();
    assert!(matches!(error, StorageError::Log { .. }), "{error}");
    disk.fail_after(1000);
    let error = log.write([&vote(3)], true).unwrap_err();
    assert!(matches!(error, StorageError::Poisoned { .. }), "{error}");
    disk.crash().unwrap();
    drop(log);
    let log = RaftLog::open_faulty(dir.path(), &LogOptions::default(), &disk).unwrap();
    assert_eq!(read(&log), kept);
}

#[test]
#[should_panic(expected = "injected disk failure")]
fn a_failed_fsync_stops_the_process() {
    let dir = TempDir::new().unwrap();
    let disk = FaultyDisk::new(1);
    let log = RaftLog::open_faulty(dir.path(), &LogOptions::default(), &disk).unwrap();
    // Dropping it would sync once more and panic again.
    let log = std::mem::ManuallyDrop::new(log);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let write = change(&mut rng, &mut Model::new(), 1);
    // The write itself succeeds.
    disk.fail_after(2);
    log.write([&write], true).unwrap();
    log.write([&write], true).unwrap();
}
