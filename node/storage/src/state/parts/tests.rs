//! How values are cut, and that the file is as small as that promises.

use super::*;
use crate::state::codec::{Facts, LogRow};
use crate::state::model::assert_no_orphans;
use crate::state::tables::{LOG, PARTS};
use crate::state::{State, StateOptions};
use bytes::Bytes;
use holdfast_core::ids::RangeId;
use holdfast_core::state::{Applied, ApplyBatch, Mutation, StateReads, Version};
use redb::{ReadableDatabase, ReadableTableMetadata};
use tempfile::TempDir;

/// Lengths at which something about the cutting changes, and their neighbours.
fn boundaries(head: usize) -> Vec<usize> {
    let fits = PAGE - LEAF_HEADER - LEAF_ENTRY - POSITION_LEN - head;
    let mut lengths = vec![0, 1, PAGE / 2, PAGE, fits, 3 << 19, 2 << 20];
    for order in 0..=ORDER_MAX {
        for count in 1..4 {
            let parts = part_bytes(order) * count;
            let row = block(order) * count - LEAF_HEADER - LEAF_ENTRY - POSITION_LEN - head;
            lengths.extend([
                parts,
                parts + fits,
                parts + fits - Parts::LEN,
                row,
                block(order) * count,
            ]);
        }
    }
    let mut around: Vec<usize> =
        lengths.iter().flat_map(|length| length.saturating_sub(1)..=length + 1).collect();
    around.sort_unstable();
    around.dedup();
    around
}

/// What a value takes in the file by the lengths of its parts.
fn taken(head: usize, length: usize) -> usize {
    let lengths = cut(head, length);
    let told = if lengths.is_empty() { 0 } else { Parts::LEN };
    let blocks: usize = lengths
        .iter()
        .map(|part| {
            let order = (0..=ORDER_MAX).find(|order| part_bytes(*order) >= *part).unwrap();
            assert!(part_bytes(order) == *part || order == 0, "a part fills its block");
            block(order)
        })
        .sum();
    blocks + log_row(head + told + length - lengths.iter().sum::<usize>())
}

#[test]
fn a_value_takes_little_more_than_its_size() {
    for head in [30, 60, 300] {
        let fits = PAGE - LEAF_HEADER - LEAF_ENTRY - POSITION_LEN - head;
        let lengths = (0..300 << 10).step_by(7).chain(boundaries(head)).chain([64 << 20]);
        for length in lengths {
            if length <= fits {
                assert!(cut(head, length).is_empty(), "{length}");
                continue;
            }
            // Of a page and a half, the half has a page of its own: two halves rarely meet.
            let most = if length < 6600 { 1.35 } else { 1.25 };
            let factor = taken(head, length) as f64 / (head + length) as f64;
            assert!(factor <= most, "{length} takes {factor}");
        }
    }
}

#[test]
fn what_fits_its_pages_is_not_cut() {
    for length in [3000, 8000, 16_000, 60 << 10, 64_000] {
        assert_eq!(cut(50, length), [0_usize; 0], "{length}");
    }
    assert_eq!(cut(50, 64 << 10), [part_bytes(ORDER_MAX)]);
    // No key is cut, and a value beside a long one is only if that helps.
    assert_eq!(cut(100_000, 3000), [0_usize; 0]);
}

#[test]
fn a_damaged_part_is_noticed() {
    let key = part_key(Position { revision: 7, sub: 1 }, 2);
    let mut row = Vec::new();
    encode_part(&key, b"some bytes", &mut row);
    assert_eq!(decode_part(&key, &row), Some(&b"some bytes"[..]));
    assert_eq!(decode_part(&part_key(Position { revision: 7, sub: 1 }, 3), &row), None);
    row[6] ^= 1;
    assert_eq!(decode_part(&key, &row), None);
    assert_eq!(decode_part(&key, b"abc"), None);
}

fn put(revision: i64, value: Vec<u8>) -> ApplyBatch {
    let version = Version {
        mod_revision: revision,
        sub: 0,
        create_revision: revision,
        version: 1,
        lease: 0,
        value: Some(value.into()),
    };
    let mutation = Mutation { key: key(revision), version, prev_lease: 0 };
    let applied = Applied { index: revision as u64, term: 1 };
    ApplyBatch { range: RangeId(2), applied, mutations: vec![mutation], system: Vec::new() }
}

fn key(revision: i64) -> Bytes {
    format!("key {revision:08}").into_bytes().into()
}

fn value(revision: i64, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at * at + revision as usize) as u8).collect()
}

fn open(dir: &TempDir) -> State {
    State::open(&dir.path().join("state"), StateOptions::default()).unwrap()
}

/// What the pages of versions and their parts take, bytes.
fn pages(state: &State) -> u64 {
    let transaction = state.shared.database.begin_read().unwrap();
    let log = transaction.open_table(LOG).unwrap().stats().unwrap();
    let parts = transaction.open_table(PARTS).unwrap().stats().unwrap();
    let sizes = [log, parts]
        .map(|stats| stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes());
    sizes.iter().sum()
}

/// The constants above are those of redb.
#[test]
fn the_file_takes_what_cutting_promises() {
    for length in [5 << 10, 12 << 10, 17 << 10, 33 << 10, 64 << 10, 65 << 10, 200 << 10, 513 << 10]
    {
        let dir = TempDir::new().unwrap();
        let state = open(&dir);
        let count = (4 << 20) / length as i64 + 2;
        for revision in 1..=count {
            state.apply(&[put(revision, value(revision, length))]);
            if revision % 50 == 0 {
                state.flush().unwrap();
            }
        }
        state.flush().unwrap();
        let taken = pages(&state);
        let data = (length as u64) * count as u64;
        let factor = taken as f64 / data as f64;
        println!("{length}: {factor:.3} in {} parts", cut(30, length).len());
        assert!(factor < 1.15, "{length} takes {factor}");
    }
}

#[test]
fn values_at_every_boundary_read_back_and_go() {
    let head = head_len(&key(1));
    let dir = TempDir::new().unwrap();
    let mut state = open(&dir);
    let lengths: Vec<usize> = boundaries(head).into_iter().chain([5 << 20]).collect();
    for (revision, length) in (1..).zip(&lengths) {
        state.apply(&[put(revision, value(revision, *length))]);
    }
    state.flush().unwrap();
    assert_no_orphans(&state);
    let check = |state: &State| {
        for (revision, length) in (1..).zip(&lengths) {
            let found = state.latest(&key(revision)).unwrap().value.unwrap();
            assert!(found == value(revision, *length), "of {length} bytes");
        }
    };
    check(&state);
    drop(state);
    state = open(&dir);
    check(&state);
    assert!(lengths.iter().any(|length| cut(head, *length).len() > 20));
    // Deleted and pruned, nothing is left.
    let last = lengths.len() as i64;
    for revision in 1..=last {
        let mut batch = put(revision, Vec::new());
        batch.applied.index += last as u64;
        batch.mutations[0].version.mod_revision += last;
        batch.mutations[0].version.value = None;
        state.apply(&[batch]);
    }
    state.flush().unwrap();
    assert!(state.prune(2 * last + 1, usize::MAX).unwrap());
    assert_no_orphans(&state);
    assert_eq!(state.size_in_use(), 0);
}

/// Length of the row of a version of [`put`], beside its value.
fn head_len(key: &Bytes) -> usize {
    let version = put(1, Vec::new()).mutations.remove(0).version;
    let (facts, previous, parts) = (Facts::of(&version), None, Parts::default());
    LogRow { facts, previous, key, parts, value: b"" }.head_len()
}
