//! The log keeps what it was told, across restarts, cuts and removals.

use super::*;
use raft_engine::Result as EngineResult;
use tempfile::TempDir;

const RANGE: RangeId = RangeId(7);

fn entry(index: Index, term: u64, data: &[u8]) -> Entry {
    Entry { index, term, data: data.to_vec().into(), ..Entry::default() }
}

fn append(first: Index, last: Index, term: u64) -> LogWrite {
    LogWrite {
        range: RANGE,
        entries: (first..=last).map(|index| entry(index, term, b"payload")).collect(),
        ..LogWrite::default()
    }
}

fn truncate(index: Index, term: u64) -> LogWrite {
    LogWrite { range: RANGE, truncate: Some(Applied { index, term }), ..LogWrite::default() }
}

fn reopen(log: RaftLog, dir: &TempDir) -> RaftLog {
    drop(log);
    open(dir)
}

fn open(dir: &TempDir) -> RaftLog {
    RaftLog::open(dir.path(), &LogOptions::default()).unwrap()
}

#[test]
fn entries_and_hard_state_survive_a_restart() -> EngineResult<()> {
    let dir = TempDir::new()?;
    let log = open(&dir);
    assert!(log.boot(RANGE).unwrap().is_none());
    let mut write = append(1, 9, 2);
    write.hard_state = Some(HardState { term: 2, vote: 3, commit: 4, ..HardState::default() });
    log.write([&write], true).unwrap();
    // A conflicting tail replaces what was there.
    log.write([&append(6, 7, 3)], true).unwrap();
    let log = reopen(log, &dir);
    let boot = log.boot(RANGE).unwrap().unwrap();
    assert_eq!((boot.hard_state.vote, boot.last_index), (3, 7));
    let entries = log.entries(RANGE, 5, 8, u64::MAX);
    assert_eq!(
        entries.iter().map(|e| (e.index, e.term)).collect::<Vec<_>>(),
        [(5, 2), (6, 3), (7, 3)]
    );
    assert_eq!(log.entries(RANGE, 1, 8, 1).len(), 1, "at least one entry whatever the limit");
    assert_eq!(log.ranges().unwrap(), [RANGE]);
    Ok(())
}

#[test]
fn truncation_keeps_index_and_term() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    log.write([&append(1, 9, 2)], true).unwrap();
    log.write([&truncate(4, 2)], true).unwrap();
    let log = reopen(log, &dir);
    let boot = log.boot(RANGE).unwrap().unwrap();
    assert_eq!((boot.truncated, boot.last_index), (Applied { index: 4, term: 2 }, 9));
    assert_eq!(log.entries(RANGE, 5, 10, u64::MAX).len(), 5);
}

#[test]
fn truncation_beyond_the_end_starts_the_log_anew() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    log.write([&append(1, 9, 2)], true).unwrap();
    log.write([&truncate(100, 5)], true).unwrap();
    assert_eq!(log.boot(RANGE).unwrap().unwrap().last_index, 100);
    let log = reopen(log, &dir);
    assert_eq!(log.boot(RANGE).unwrap().unwrap().last_index, 100);
    log.write([&append(101, 102, 5)], true).unwrap();
    let log = reopen(log, &dir);
    let boot = log.boot(RANGE).unwrap().unwrap();
    assert_eq!((boot.truncated, boot.last_index), (Applied { index: 100, term: 5 }, 102));
    assert_eq!(log.entries(RANGE, 101, 103, u64::MAX).len(), 2);
}

#[test]
fn truncation_and_entries_in_one_write() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    let mut write = append(1, 9, 2);
    write.truncate = Some(Applied { index: 3, term: 2 });
    log.write([&write], true).unwrap();
    let boot = log.boot(RANGE).unwrap().unwrap();
    assert_eq!((boot.truncated.index, boot.last_index), (3, 9));
    assert_eq!(log.entries(RANGE, 4, 10, u64::MAX).len(), 6);
}

#[test]
fn a_destroyed_range_is_gone_and_may_come_back() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    log.write([&append(1, 9, 2)], true).unwrap();
    log.write([&LogWrite { range: RANGE, destroy: true, ..LogWrite::default() }], true).unwrap();
    let log = reopen(log, &dir);
    assert!(log.boot(RANGE).unwrap().is_none());
    assert!(log.ranges().unwrap().is_empty());
    log.write([&append(21, 22, 6)], true).unwrap();
    let log = reopen(log, &dir);
    assert_eq!(log.boot(RANGE).unwrap().unwrap().last_index, 22);
}

#[test]
fn a_removed_replica_is_remembered_whatever_becomes_of_the_log() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    let removed =
        LogWrite { range: RANGE, removed: Some(ReplicaId(3)), destroy: true, ..append(1, 9, 2) };
    log.write([&LogWrite { entries: Vec::new(), ..removed }], true).unwrap();
    let log = reopen(log, &dir);
    let boot = log.boot(RANGE).unwrap().unwrap();
    assert_eq!((boot.removed, boot.has_log()), (ReplicaId(3), false));
    assert_eq!(log.ranges().unwrap(), [RANGE]);
    // Another replica of the range comes, by a raft snapshot.
    log.write([&LogWrite { destroy: true, ..append(21, 22, 6) }], true).unwrap();
    let log = reopen(log, &dir);
    let boot = log.boot(RANGE).unwrap().unwrap();
    assert_eq!((boot.removed, boot.last_index), (ReplicaId(3), 22));
    assert_eq!(log.ranges().unwrap(), [RANGE]);
}

#[test]
fn purging_frees_space_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions { file_bytes: 64 << 10, purge_from_bytes: 128 << 10 };
    let log = RaftLog::open(dir.path(), &options).unwrap();
    let quiet = LogWrite {
        range: RangeId(8),
        entries: vec![entry(1, 1, b"kept")],
        hard_state: Some(HardState { term: 1, ..HardState::default() }),
        ..LogWrite::default()
    };
    log.write([&quiet], true).unwrap();
    for first in (1..4000).step_by(100) {
        let mut write = append(first, first + 99, 1);
        for entry in &mut write.entries {
            entry.data = vec![7; 200].into();
        }
        write.truncate = (first > 1).then(|| Applied { index: first - 1, term: 1 });
        log.write([&write], false).unwrap();
        log.purge().unwrap();
    }
    assert!(log.bytes() < 400 << 10, "{} bytes", log.bytes());
    drop(log);
    let log = RaftLog::open(dir.path(), &options).unwrap();
    assert_eq!(&log.entries(RangeId(8), 1, 2, u64::MAX)[0].data[..], b"kept");
    assert_eq!(log.boot(RangeId(8)).unwrap().unwrap().hard_state.term, 1);
    let boot = log.boot(RANGE).unwrap().unwrap();
    assert_eq!(
        log.entries(RANGE, boot.truncated.index + 1, boot.last_index + 1, u64::MAX).len(),
        100
    );
}

fn vote(vote: u64) -> HardState {
    HardState { term: 2, vote, commit: 9, ..HardState::default() }
}

#[test]
fn a_log_without_entries_has_no_group() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    let mut write = append(1, 9, 2);
    write.hard_state = Some(vote(3));
    log.write([&write, &LogWrite { range: RangeId(8), ..append(1, 2, 1) }], true).unwrap();
    assert_eq!(log.engine.raft_groups(), [OWN_GROUP, RANGE.0, 8]);
    log.write([&truncate(9, 2)], false).unwrap();
    assert_eq!(log.engine.raft_groups(), [OWN_GROUP, 8]);
    // A vote alone does not change that.
    log.write([&LogWrite { range: RANGE, hard_state: Some(vote(1)), ..LogWrite::default() }], true)
        .unwrap();
    let log = reopen(log, &dir);
    assert_eq!(log.engine.raft_groups(), [OWN_GROUP, 8]);
    assert_eq!(log.ranges().unwrap(), [RANGE, RangeId(8)]);
    let boot = log.boot(RANGE).unwrap().unwrap();
    let end = Applied { index: 9, term: 2 };
    assert_eq!((boot.truncated, boot.last_index, boot.hard_state), (end, 9, vote(1)));
    // It goes on where it was.
    log.write([&append(10, 10, 4)], true).unwrap();
    let log = reopen(log, &dir);
    let boot = log.boot(RANGE).unwrap().unwrap();
    assert_eq!((boot.truncated, boot.last_index, boot.hard_state), (end, 10, vote(1)));
    assert_eq!(log.entries(RANGE, 10, 11, u64::MAX)[0].term, 4);
    assert!(Parked::all(&log.engine).unwrap().is_empty());
}

#[test]
fn what_one_write_says_of_a_range_counts_in_order() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    let destroy = LogWrite { range: RANGE, destroy: true, ..LogWrite::default() };
    log.write([&append(1, 9, 2), &truncate(9, 2)], true).unwrap();
    assert_eq!(log.boot(RANGE).unwrap().unwrap().truncated.index, 9);
    log.write([&truncate(9, 2), &append(10, 11, 2), &truncate(10, 2)], true).unwrap();
    let log = reopen(log, &dir);
    let boot = log.boot(RANGE).unwrap().unwrap();
    assert_eq!((boot.truncated.index, boot.last_index), (10, 11));
    log.write([&truncate(11, 2), &destroy], true).unwrap();
    let log = reopen(log, &dir);
    assert!(log.boot(RANGE).unwrap().is_none());
    let snapshot = LogWrite { destroy: true, hard_state: Some(vote(2)), ..truncate(20, 3) };
    log.write([&append(1, 2, 2), &snapshot], true).unwrap();
    let log = reopen(log, &dir);
    let boot = log.boot(RANGE).unwrap().unwrap();
    assert_eq!((boot.truncated.index, boot.last_index), (20, 20));
    assert_eq!(boot.hard_state, vote(2));
}

#[test]
fn what_comes_back_of_a_parked_range_goes_again() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    log.write([&append(1, 9, 2)], true).unwrap();
    let parked = Parked { hard_state: vote(3), truncated: Applied { index: 20, term: 2 } };
    let mut batch = LogBatch::default();
    batch.put(OWN_GROUP, b"parked/\0\0\0\0\0\0\0\x07".to_vec(), parked.encode()).unwrap();
    log.engine.write(&mut batch, true).unwrap();
    let log = reopen(log, &dir);
    assert_eq!(log.engine.raft_groups(), [OWN_GROUP]);
    assert_eq!(log.boot(RANGE).unwrap().unwrap().last_index, 20);
}

#[test]
fn the_format_before_this_one_is_taken_over_and_a_later_one_is_not() {
    let dir = TempDir::new().unwrap();
    let log = open(&dir);
    log.write([&append(1, 9, 2)], true).unwrap();
    let say = |log: &RaftLog, format: u64| {
        let mut batch = LogBatch::default();
        let row = format.to_be_bytes().to_vec();
        batch.put(OWN_GROUP, FORMAT_KEY.to_vec(), row).unwrap();
        log.engine.write(&mut batch, true).unwrap();
    };
    say(&log, 1);
    let log = reopen(log, &dir);
    assert_eq!(log.engine.get(OWN_GROUP, FORMAT_KEY).unwrap(), FORMAT.to_be_bytes());
    assert_eq!(log.boot(RANGE).unwrap().unwrap().last_index, 9);
    drop(log);
    for unknown in [0, FORMAT + 1] {
        let dir = TempDir::new().unwrap();
        let log = open(&dir);
        say(&log, unknown);
        drop(log);
        let error = RaftLog::open(dir.path(), &LogOptions::default()).err().unwrap();
        assert!(matches!(error, StorageError::Format { found, .. } if found == unknown), "{error}");
    }
}

#[test]
#[should_panic(expected = "lost entry 1")]
fn a_missing_entry_stops_the_process() {
    let dir = TempDir::new().unwrap();
    open(&dir).entries(RANGE, 1, 2, u64::MAX);
}
