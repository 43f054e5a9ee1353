//! Files of older formats are read, and brought to this one.

use super::codec::{
    Facts, HEAD_LEN, LogRow, POSITION_LEN, encode_head, history_key, lease_key, system_key,
};
use super::model::{Generator, Model, RANGES, assert_no_orphans, assert_same};
use super::parts::{PART_KEY_LEN, Parts};
use super::rows::{Link, write_log};
use super::tables::{
    APPLIED, FORMAT, HEADS, HISTORY, JOBS, LEASES, LOG, META, META_FORMAT, META_LIVE_BYTES, PARTS,
    SYSTEM,
};
use super::*;
use bytes::Bytes;
use holdfast_core::key::Span;
use redb::{ReadableDatabase, TableHandle};
use tempfile::TempDir;

fn open(path: &Path) -> Result<State> {
    State::open(path, StateOptions { memtable_bytes: 4 << 10, cache_bytes: 1 << 20 })
}

/// Versions of the model with the ones before, in the order of changes.
fn links(model: &Model) -> Vec<Link<'_>> {
    let mut newest: BTreeMap<&Bytes, Position> = BTreeMap::new();
    model
        .versions
        .values()
        .map(|(key, version)| {
            let position = Position::of(version);
            Link { position, previous: newest.insert(key, position), key, version }
        })
        .collect()
}

/// A file as format 1 had it: no table of parts, every value in its row of the log.
fn old_file(path: &Path, model: &Model) {
    let database = Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert(META_FORMAT, 1).unwrap();
        let mut heads = transaction.open_table(HEADS).unwrap();
        let mut log = transaction.open_table(LOG).unwrap();
        let mut history = transaction.open_table(HISTORY).unwrap();
        let mut leases = transaction.open_table(LEASES).unwrap();
        let mut system = transaction.open_table(SYSTEM).unwrap();
        let mut applied = transaction.open_table(APPLIED).unwrap();
        transaction.open_table(JOBS).unwrap();
        let mut bytes = 0;
        for Link { position, previous, key, version } in links(model) {
            let (facts, parts) = (Facts::of(version), Parts::default());
            let value = version.value.as_deref().unwrap_or_default();
            let mut row = Vec::new();
            LogRow { facts, previous, key, parts, value }.encode(&mut row);
            bytes += row.len() + POSITION_LEN;
            log.insert(&position.encode(), row.as_slice()).unwrap();
            if heads.insert(key.as_ref(), &encode_head(key, &facts)).unwrap().is_none() {
                bytes += key.len() + HEAD_LEN;
            }
            if position.is_marked() {
                history.insert(history_key(key, position).as_slice(), ()).unwrap();
            }
        }
        for key in model.keys() {
            let newest = model.at(&key, i64::MAX).filter(|version| version.lease != 0);
            if let Some(version) = newest {
                leases.insert(lease_key(version.lease, &key).as_slice(), ()).unwrap();
            }
        }
        for ((range, key), value) in &model.system {
            system.insert(system_key(*range, key).as_slice(), value.as_ref()).unwrap();
        }
        for (range, position) in &model.applied {
            applied.insert(range.0, (position.index, position.term)).unwrap();
        }
        meta.insert(META_LIVE_BYTES, bytes as u64).unwrap();
    }
    transaction.commit().unwrap();
}

fn grow(generator: &mut Generator, model: &mut Model, count: usize, state: Option<&State>) {
    for _ in 0..count {
        let batch = generator.batch(model);
        model.apply(&batch);
        if let Some(state) = state {
            state.apply(&[batch]);
        }
    }
}

#[test]
fn a_file_without_parts_is_taken_over() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state");
    let (mut model, mut generator) = (Model::default(), Generator::new(4));
    (generator.keys, generator.large) = (40, 0.3);
    grow(&mut generator, &mut model, 60, None);
    old_file(&path, &model);
    let state = open(&path).unwrap();
    assert_no_orphans(&state);
    assert!(state.shared.inner.read().disk.part_rows().is_empty(), "rows stay as they are");
    assert_same(&state, &model, 0, &mut generator.rng);
    // It goes on with parts, and old rows are sent, overwritten and pruned as others are.
    grow(&mut generator, &mut model, 60, Some(&state));
    state.flush().unwrap();
    assert!(!state.shared.inner.read().disk.part_rows().is_empty());
    assert_no_orphans(&state);
    let other_dir = TempDir::new().unwrap();
    let other = open(&other_dir.path().join("state")).unwrap();
    for range in RANGES {
        let span = Generator::span(range);
        let pinned = state.pin(range, &span).unwrap().unwrap();
        let mut staging = other.stage(1);
        pinned.chunks().for_each(|chunk| staging.push(&chunk).unwrap());
        staging.finish().unwrap();
        other.install(1, range, pinned.applied(), &[span]).unwrap();
    }
    assert_same(&other, &model, 0, &mut generator.rng);
    assert_no_orphans(&other);
    let span = [Span::all()];
    assert_eq!(state.hash(&span, generator.revision, 0), other.hash(&span, generator.revision, 0));
    let compact = generator.revision;
    while !state.prune(compact, 50).unwrap() {}
    assert_no_orphans(&state);
    assert_same(&state, &model, compact, &mut generator.rng);
    drop(state);
    assert_same(&open(&path).unwrap(), &model, compact, &mut generator.rng);
}

/// What an interrupted install wrote is replaced, however it was cut.
#[test]
fn rows_that_are_there_are_replaced_with_their_parts() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state");
    let (mut model, mut generator) = (Model::default(), Generator::new(5));
    (generator.keys, generator.large) = (40, 0.3);
    grow(&mut generator, &mut model, 60, None);
    old_file(&path, &model);
    let state = open(&path).unwrap();
    for round in 0..3 {
        if round == 2 {
            // As if values had been cut into more parts before.
            let split = |transaction: &redb::WriteTransaction| {
                let mut log = transaction.open_table(LOG)?;
                let mut parts = transaction.open_table(PARTS)?;
                for Link { position, previous, key, version } in links(&model) {
                    let value = version.value.as_deref().unwrap_or_default();
                    let pieces: Vec<&[u8]> = value.chunks(3000).collect();
                    let mut row = Vec::new();
                    for (number, piece) in (0..).zip(&pieces) {
                        let key = parts::part_key(position, number);
                        parts::encode_part(&key, piece, &mut row);
                        parts.insert(&key, row.as_slice())?;
                    }
                    let lengths: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
                    let (facts, told) = (Facts::of(version), Parts::of(&lengths));
                    row.clear();
                    LogRow { facts, previous, parts: told, key, value: b"" }.encode(&mut row);
                    log.insert(&position.encode(), row.as_slice())?;
                }
                Ok(())
            };
            let before = state.size_in_use();
            state.change(split, |_| {}).unwrap();
            assert_same(&state, &model, 0, &mut generator.rng);
            recount(&state);
            assert_ne!(state.size_in_use(), before);
            assert_no_orphans(&state);
        }
        state.change(|transaction| write_log(transaction, &links(&model)), |_| {}).unwrap();
        assert_no_orphans(&state);
        assert_same(&state, &model, 0, &mut generator.rng);
    }
}

/// Sets the size in use to that of all rows.
fn recount(state: &State) {
    let disk = state.shared.inner.read().disk.clone();
    let heads = disk.heads(b"", None, usize::MAX);
    let log: usize = disk
        .changes(Position::MIN, i64::MAX)
        .map(|(_, row)| POSITION_LEN + row.value().len())
        .sum();
    let parts: usize = disk.part_rows().iter().map(|(_, length)| PART_KEY_LEN + length).sum();
    let heads: usize = heads.iter().map(|(key, _)| key.len() + HEAD_LEN).sum();
    let bytes = (heads + log + parts) as u64;
    let set = |transaction: &redb::WriteTransaction| {
        transaction.open_table(META)?.insert(META_LIVE_BYTES, bytes)?;
        Ok(())
    };
    state.change(set, |_| {}).unwrap();
}

/// An older version refuses the file: it looks at nothing before the number of the format.
#[test]
fn the_number_of_the_format_changes_with_the_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state");
    old_file(&path, &Model::default());
    drop(open(&path).unwrap());
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_read().unwrap();
    let found = transaction.open_table(META).unwrap().get(META_FORMAT).unwrap().unwrap().value();
    assert_eq!((found, FORMAT), (2, 2));
    assert!(transaction.list_tables().unwrap().any(|table| table.name() == PARTS.name()));
}

#[test]
fn an_unknown_format_is_refused() {
    for (found, says) in [
        (Some(99), "the state file has format 99; this version reads formats up to 2"),
        (Some(0), "the state file is corrupt: it does not say which format it has"),
        (None, "the state file is corrupt: it does not say which format it has"),
    ] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("state");
        drop(open(&path).unwrap());
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut meta = transaction.open_table(META).unwrap();
            match found {
                Some(found) => meta.insert(META_FORMAT, found).unwrap(),
                None => meta.remove(META_FORMAT).unwrap(),
            };
        }
        transaction.commit().unwrap();
        drop(database);
        assert_eq!(open(&path).err().unwrap().to_string(), says);
    }
}
