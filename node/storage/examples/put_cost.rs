//! What a put costs this crate: CPU time of the process and wall time, for the raft log and for the
//! state with its flushes.
//!
//! `cargo run --release -p holdfast-storage --example put_cost -- [PUTS] [KEYS]`
//!
//! Keys are 16 random bytes out of KEYS (default 1,000,000), values 256 bytes. The second half of
//! the puts is measured, so that the tables have their size by then.

use bytes::Bytes;
use holdfast_core::effects::LogWrite;
use holdfast_core::ids::RangeId;
use holdfast_core::state::{Applied, ApplyBatch, Mutation, StateReads, Version};
use holdfast_storage::{LogOptions, RaftLog, State, StateOptions};
use nix::sys::resource::{UsageWho, getrusage};
use raft::eraftpb::Entry;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::error::Error;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 256;
const RANGE: RangeId = RangeId(2);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let puts: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let keys: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    for batch in [1, 10, 100] {
        log(&dir.path().join(format!("raft-{batch}")), batch)?;
    }
    for batch in [10, 100] {
        state(&dir.path().join(format!("state-{batch}")), puts, keys, batch)?;
    }
    Ok(())
}

fn log(dir: &std::path::Path, batch: u64) -> Result<(), Box<dyn Error>> {
    let log = RaftLog::open(dir, &LogOptions::default())?;
    let turns = 3000;
    let clock = Clock::start()?;
    for turn in 0..turns {
        let entries = (0..batch)
            .map(|step| Entry {
                index: turn * batch + step + 1,
                term: 1,
                data: vec![step as u8; VALUE_BYTES + 44].into(),
                ..Entry::default()
            })
            .collect();
        let write = LogWrite { range: RANGE, entries, ..LogWrite::default() };
        log.write([&write], true)?;
    }
    clock.stop(&format!("raft log, batches of {batch}, one fsync each"), turns * batch)
}

fn state(path: &std::path::Path, puts: u64, keys: u64, batch: u64) -> Result<(), Box<dyn Error>> {
    let state = State::open(path, StateOptions::default())?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut index = 0;
    let mut in_flush = Duration::ZERO;
    let mut apply_only = Duration::ZERO;
    for (measured, puts) in [(false, puts / 2), (true, puts / 2)] {
        let clock = Clock::start()?;
        let mut flushes = 0;
        let mut prepare = Duration::ZERO;
        for _ in 0..puts / batch {
            let before = cpu()?;
            index += 1;
            let mutations = (0..batch)
                .map(|step| {
                    put(random_key(rng.random_range(0..keys)), (index * batch + step) as i64)
                })
                .collect();
            let applied = Applied { index, term: 1 };
            let batch = ApplyBatch { range: RANGE, applied, mutations, system: Vec::new() };
            let made = cpu()?;
            prepare += made.saturating_sub(before);
            state.apply(&[batch]);
            apply_only += cpu()?.saturating_sub(made);
            if state.wants_flush() {
                let before = cpu()?;
                state.flush()?;
                in_flush += cpu()?.saturating_sub(before);
                flushes += 1;
            }
        }
        let before = cpu()?;
        state.flush()?;
        in_flush += cpu()?.saturating_sub(before);
        if measured {
            clock.stop(&format!("state, batches of {batch}, {flushes} flushes"), puts)?;
            println!(
                "    apply {:.2} µs, flush {:.2} µs CPU a put (making the batches {:.2})",
                micros(apply_only, puts),
                micros(in_flush, puts),
                micros(prepare, puts)
            );
        }
        in_flush = Duration::ZERO;
        apply_only = Duration::ZERO;
    }
    println!("    file {} MiB", state.size_on_disk()? >> 20);
    let clock = Clock::start()?;
    let reads = 200_000;
    for _ in 0..reads {
        std::hint::black_box(state.facts(&random_key(rng.random_range(0..keys))));
    }
    clock.stop("facts of a random key on disk", reads)?;
    let clock = Clock::start()?;
    for _ in 0..reads {
        std::hint::black_box(state.latest(&random_key(rng.random_range(0..keys))));
    }
    clock.stop("latest of a random key on disk", reads)?;
    Ok(())
}

fn put(key: Bytes, revision: i64) -> Mutation {
    let version = Version {
        mod_revision: revision,
        sub: 0,
        create_revision: revision,
        version: 1,
        lease: 0,
        value: Some(vec![revision as u8; VALUE_BYTES].into()),
    };
    Mutation { key, version, prev_lease: 0 }
}

fn random_key(number: u64) -> Bytes {
    let mixed = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    mixed.rotate_left(61).to_be_bytes().to_vec().into()
}

struct Clock {
    cpu: Duration,
    wall: Instant,
}

impl Clock {
    fn start() -> Result<Self, Box<dyn Error>> {
        Ok(Self { cpu: cpu()?, wall: Instant::now() })
    }

    fn stop(&self, what: &str, count: u64) -> Result<(), Box<dyn Error>> {
        let (cpu, wall) = (cpu()?.saturating_sub(self.cpu), self.wall.elapsed());
        println!(
            "{what}: {:.2} µs CPU, {:.2} µs wall each, {:.0} a second",
            micros(cpu, count),
            micros(wall, count),
            count as f64 / wall.as_secs_f64()
        );
        Ok(())
    }
}

fn micros(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

/// User and system time of the process so far.
fn cpu() -> Result<Duration, Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |time: nix::sys::time::TimeVal| {
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64)
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}
