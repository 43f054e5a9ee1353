//! Hashes ranges for consistency checks, one at a time and slowly.
//!
//! Invariants: history is kept from the moment at which the loop hands a task over; a node that has
//! too much to hash says so at once, and the check goes on without it.

use super::mail::{Inbox, Mail};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use holdfast_core::check::{FORMAT, Finding, HashTask};
use holdfast_core::effects::Input;
use holdfast_storage::State;
use holdfast_storage::state::{Audit, Audited};
use std::time::{Duration, Instant};
use tracing::debug;

/// Ranges that wait to be hashed: each node compares one at a time, so more would be a mistake.
const WAITING_MAX: usize = 64;

/// A task, with the history that it needs.
struct Job(HashTask, Audit);

/// Where tasks go.
pub(super) struct Hasher {
    state: State,
    inbox: Inbox,
    jobs: Sender<Job>,
}

impl Hasher {
    /// Starts the thread, which hashes at most `rate` bytes a second; it ends when this is dropped.
    pub(super) fn start(state: &State, inbox: &Inbox, rate: u64) -> std::io::Result<Self> {
        let (jobs, received) = bounded(WAITING_MAX);
        let answers = inbox.clone();
        std::thread::Builder::new()
            .name("check".to_owned())
            .spawn(move || run(&answers, &received, rate.max(1)))?;
        Ok(Self { state: state.clone(), inbox: inbox.clone(), jobs })
    }

    /// Takes a task. What is applied from now on makes no difference to it.
    pub(super) fn take(&self, task: HashTask) {
        let holdfast_core::check::Checkpoint { revision, compacted, .. } = task.checkpoint;
        let audit = self.state.audit(task.span.clone(), revision, compacted);
        if let Err(TrySendError::Full(Job(task, _)) | TrySendError::Disconnected(Job(task, _))) =
            self.jobs.try_send(Job(task, audit))
        {
            answer(&self.inbox, &task, Finding::Disturbed);
        }
    }
}

fn run(inbox: &Inbox, jobs: &Receiver<Job>, rate: u64) {
    for Job(task, audit) in jobs {
        let start = Instant::now();
        let mut bytes = 0;
        let audited = audit.run(|some| {
            bytes += some;
            let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        });
        debug!(range = %task.range, index = task.index, bytes, ?audited, "hashed");
        let finding = match audited {
            Audited::Hash(keys) => {
                Finding::Hash { format: FORMAT, keys, bookkeeping: task.bookkeeping }
            }
            Audited::Pruned(upto) => Finding::Pruned(upto),
            Audited::Disturbed => Finding::Disturbed,
        };
        answer(inbox, &task, finding);
    }
}

fn answer(inbox: &Inbox, task: &HashTask, finding: Finding) {
    let input = Input::Hashed { to: task.checkpoint.leader, found: task.found(finding) };
    inbox.post(Mail::Input(Box::new(input)));
}
