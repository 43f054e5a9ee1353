//! Readers on other threads see each revision whole while it is applied, flushed and pruned under
//! them.

use super::*;
use bytes::Bytes;
use holdfast_core::ids::{RangeId, Revision};
use holdfast_core::key::Span;
use holdfast_core::state::{Mutation, StateReads, Version};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use tempfile::TempDir;

/// Enough for several chunks of a scan.
const KEYS: u32 = 1500;
const ROUNDS: i64 = 60;

fn key(number: u32) -> Bytes {
    format!("key {number:05}").into_bytes().into()
}

/// Writes all keys, each round at one revision.
fn round(revision: Revision) -> ApplyBatch {
    let mutations = (0..KEYS)
        .map(|number| {
            let version = Version {
                mod_revision: revision,
                sub: number,
                create_revision: 2,
                version: revision - 1,
                lease: 0,
                value: Some(revision.to_string().into_bytes().into()),
            };
            Mutation { key: key(number), version, prev_lease: 0 }
        })
        .collect();
    let applied = Applied { index: revision as u64, term: 1 };
    ApplyBatch { range: RangeId(2), applied, mutations, system: Vec::new() }
}

#[test]
fn a_scan_sees_one_revision_whatever_goes_on() {
    let dir = TempDir::new().unwrap();
    let options = StateOptions { memtable_bytes: 64 << 10, cache_bytes: 4 << 20 };
    let state = State::open(&dir.path().join("state"), options).unwrap();
    state.apply(&[round(2)]);
    let (newest, done) = (AtomicI64::new(2), AtomicBool::new(false));
    let (state, newest, done) = (&state, &newest, &done);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    let revision = newest.load(Ordering::Acquire) - reader;
                    let _pin = state.pin_revision(revision);
                    if revision < 2 || revision < newest.load(Ordering::Acquire) - 3 {
                        continue;
                    }
                    let mut count = 0;
                    state.scan(&Span::all(), revision, true, &mut |key, version| {
                        assert_eq!(
                            (version.mod_revision, version.sub),
                            (revision, count),
                            "{key:?}"
                        );
                        assert_eq!(version.value.unwrap(), revision.to_string().as_bytes());
                        count += 1;
                        ControlFlow::Continue(())
                    });
                    assert_eq!(count, KEYS);
                    let mut changes = 0;
                    state.history(&Span::all(), revision, revision, &mut |_, version| {
                        assert_eq!(version.sub, changes);
                        changes += 1;
                        ControlFlow::Continue(())
                    });
                    assert_eq!(changes, KEYS);
                    assert!(state.facts(&key(7)).unwrap().position.revision >= revision);
                }
            });
        }
        scope.spawn(move || {
            while !done.load(Ordering::Acquire) {
                state.flush().unwrap();
                // The pins are what keeps the readers' revisions: four behind is a close race.
                state.prune(newest.load(Ordering::Acquire) - 4, 2000).unwrap();
            }
        });
        for revision in 3..ROUNDS {
            state.apply(&[round(revision)]);
            newest.store(revision, Ordering::Release);
            while state.is_congested() {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Release);
    });
}
