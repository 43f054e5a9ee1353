//! How long a large state takes to open after a crash, and to send and install as a raft snapshot.
//!
//! `large_state fill DIR MIB` fills a state and dies without closing it, `large_state open DIR`
//! opens it, `large_state copy DIR` installs all of it in a second state below DIR. Each prints its
//! time and the most memory that the process held.

use bytes::Bytes;
use holdfast_core::ids::RangeId;
use holdfast_core::key::Span;
use holdfast_core::state::{Applied, ApplyBatch, Mutation, Version};
use holdfast_storage::{State, StateOptions};
use nix::sys::resource::{UsageWho, getrusage};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

const VALUE_BYTES: usize = 512;
const RANGE: RangeId = RangeId(2);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let start = Instant::now();
    match arguments.as_slice() {
        [_, "fill", dir, mib] => fill(Path::new(dir), mib.parse()?)?,
        [_, "open", dir] => drop(open(Path::new(dir))?),
        [_, "copy", dir] => copy(Path::new(dir))?,
        _ => return Err("fill DIR MIB, open DIR or copy DIR".into()),
    }
    report(arguments[1], start)?;
    if arguments[1] == "fill" {
        std::process::abort();
    }
    Ok(())
}

/// Prints the wall time since `start`, and CPU time and memory of the process so far.
fn report(what: &str, start: Instant) -> Result<(), Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let cpu = usage.user_time() + usage.system_time();
    let cpu = cpu.tv_sec() as f64 + cpu.tv_usec() as f64 / 1e6;
    let (wall, memory) = (start.elapsed().as_secs_f64(), usage.max_rss() / 1024);
    println!("{what}: {wall:.2} s; process: {cpu:.2} s CPU, at most {memory} MiB");
    Ok(())
}

fn open(dir: &Path) -> Result<State, Box<dyn Error>> {
    std::fs::create_dir_all(dir)?;
    Ok(State::open(&dir.join("state.redb"), StateOptions::default())?)
}

fn fill(dir: &Path, mib: u64) -> Result<(), Box<dyn Error>> {
    let state = open(dir)?;
    let puts = (mib << 20) / VALUE_BYTES as u64;
    for index in 1..=puts / 100 {
        let mutations = (0..100).map(|step| put(index * 100 + step)).collect();
        let applied = Applied { index, term: 1 };
        state.apply(&[ApplyBatch { range: RANGE, applied, mutations, system: Vec::new() }]);
        if state.wants_flush() {
            state.flush()?;
        }
    }
    state.flush()?;
    println!(
        "{} MiB in the file, {} in use",
        state.size_on_disk()? >> 20,
        state.size_in_use() >> 20
    );
    std::mem::forget(state);
    Ok(())
}

fn copy(dir: &Path) -> Result<(), Box<dyn Error>> {
    let (source, target) = (open(dir)?, open(&dir.join("copy"))?);
    let start = Instant::now();
    let pinned = source.pin(RANGE, &Span::all())?.ok_or("the source is empty")?;
    let mut staging = target.stage(1);
    for chunk in pinned.chunks() {
        staging.push(&chunk)?;
    }
    let (range, applied) = staging.finish()?;
    report("sent and staged", start)?;
    target.install(1, range, applied, &[Span::all()])?;
    report("installed", start)?;
    let hashes = [&source, &target].map(|state| state.hash(&[Span::all()], i64::MAX, 0));
    println!(
        "hashes equal: {}, after {:.2} s",
        hashes[0] == hashes[1],
        start.elapsed().as_secs_f64()
    );
    target.wipe(range, &[Span::all()])?;
    report("wiped", start)?;
    Ok(())
}

fn put(revision: u64) -> Mutation {
    let version = Version {
        mod_revision: revision as i64,
        sub: 0,
        create_revision: revision as i64,
        version: 1,
        lease: 0,
        value: Some(vec![revision as u8; VALUE_BYTES].into()),
    };
    let key: Bytes = revision.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec().into();
    Mutation { key, version, prev_lease: 0 }
}
