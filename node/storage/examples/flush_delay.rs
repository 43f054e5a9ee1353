//! How much flushes of the state delay the syncs of the raft log on the same disk.
//!
//! One thread writes batches of ten entries to the log as fast as it can and applies them; another
//! flushes whenever the memtable is full. Prints the latency of the log writes.

use holdfast_core::effects::LogWrite;
use holdfast_core::ids::RangeId;
use holdfast_core::state::{Applied, ApplyBatch, Mutation, Version};
use holdfast_storage::{LogOptions, RaftLog, State, StateOptions};
use raft::eraftpb::Entry;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RANGE: RangeId = RangeId(2);
const BATCH: u64 = 10;
const TIME: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| "/tmp".to_owned()))?;
    let log = RaftLog::open(&dir.path().join("raft"), &LogOptions::default())?;
    let state = State::open(&dir.path().join("state"), StateOptions::default())?;
    let (done, flushing, flushes) =
        (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let mut quiet = Vec::new();
    let mut busy = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                if state.wants_flush() {
                    flushing.store(true, Ordering::Release);
                    let start = Instant::now();
                    state.flush().expect("the disk works");
                    println!("flush took {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
                    flushing.store(false, Ordering::Release);
                    flushes.fetch_add(1, Ordering::AcqRel);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let start = Instant::now();
        let mut turn = 0;
        while start.elapsed() < TIME {
            let entries = (0..BATCH)
                .map(|step| Entry {
                    index: turn * BATCH + step + 1,
                    term: 1,
                    data: vec![step as u8; 300].into(),
                    ..Entry::default()
                })
                .collect();
            let write = LogWrite { range: RANGE, entries, ..LogWrite::default() };
            let was_flushing = flushing.load(Ordering::Acquire);
            let begin = Instant::now();
            log.write([&write], true).expect("the disk works");
            let latency = begin.elapsed();
            if was_flushing {
                busy.push(latency);
            } else {
                quiet.push(latency);
            }
            turn += 1;
            let mutations = (0..BATCH).map(|step| put(turn * BATCH + step)).collect();
            let applied = Applied { index: turn, term: 1 };
            state.apply(&[ApplyBatch { range: RANGE, applied, mutations, system: Vec::new() }]);
        }
        done.store(true, Ordering::Release);
    });
    println!("{} flushes", flushes.load(Ordering::Acquire));
    report("no flush", quiet);
    report("during a flush", busy);
    Ok(())
}

fn report(what: &str, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let at = |part: f64| {
        let place = (latencies.len() as f64 * part) as usize;
        latencies.get(place.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    println!(
        "{what}: {} writes, median {:?}, 99 % {:?}, 99.9 % {:?}, longest {:?}",
        latencies.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

fn put(revision: u64) -> Mutation {
    let version = Version {
        mod_revision: revision as i64,
        sub: 0,
        create_revision: revision as i64,
        version: 1,
        lease: 0,
        value: Some(vec![revision as u8; 256].into()),
    };
    let number = revision.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000_000;
    let key = format!("{number:016}").into_bytes().into();
    Mutation { key, version, prev_lease: 0 }
}
