//! The thread that writes the raft log: everything that waits goes into one write with one fsync.
//!
//! Invariants: writes keep their order; `Persisted` follows only what is durable; a failed write
//! ends the process.

use super::mail::{Inbox, Mail};
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::shutdown::{chain, fatal};
use crate::transport::Pacer;
use holdfast_core::effects::Persist;
use holdfast_storage::RaftLog;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Far enough away to be never; the mailbox wants a time.
const IDLE: Duration = Duration::from_hours(1);

/// Room for so many writes is kept for the next time.
const WRITES_KEPT: usize = 256;

/// What the thread is asked.
#[derive(Debug)]
pub(super) enum Job {
    /// Write.
    Write(Persist),
    /// End, after what was asked before.
    Stop,
}

/// Where writes are queued.
pub(super) type Queue = Arc<Mailbox<Job>>;

/// Starts the thread.
pub(super) fn start(
    log: Arc<RaftLog>,
    queue: Queue,
    inbox: Inbox,
    metrics: Arc<Metrics>,
    pacer: Arc<Pacer>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || run(&log, &queue, &inbox, &metrics, &pacer))
}

fn run(log: &RaftLog, queue: &Queue, inbox: &Inbox, metrics: &Metrics, pacer: &Pacer) {
    let mut jobs = Vec::new();
    let mut writes = Vec::new();
    loop {
        queue.take(&mut jobs, Instant::now() + IDLE);
        let mut sequence = None;
        let mut sync = false;
        let mut stop = false;
        for job in jobs.drain(..) {
            match job {
                Job::Write(persist) => {
                    sequence = Some(persist.sequence);
                    sync |= persist.sync;
                    writes.extend(persist.writes);
                }
                Job::Stop => stop = true,
            }
        }
        if let Some(sequence) = sequence {
            let start = Instant::now();
            if let Err(error) = log.write(&writes, sync) {
                fatal(&chain(&error));
            }
            let took = start.elapsed();
            metrics.log_write(writes.len(), sync, took);
            if sync {
                pacer.log_written(took);
            }
            writes.clear();
            writes.shrink_to(WRITES_KEPT);
            inbox.post(Mail::Persisted { sequence });
        }
        if stop {
            return;
        }
    }
}
