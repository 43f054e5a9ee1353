//! Threads that run reads too large for the store loop.
//!
//! Invariant: a read is a pure function of the state at a revision, so it may run at any time after
//! the loop let it go. Their number is bounded by the requests that gateways let in.

use super::mail::{Inbox, Mail};
use crate::gateway::backend::KvHash;
use crossbeam_channel::{Receiver, Sender, unbounded};
use holdfast_core::effects::Input;
use holdfast_core::error::Error;
use holdfast_core::feed;
use holdfast_core::ids::Revision;
use holdfast_core::key::Span;
use holdfast_core::measure;
use holdfast_core::message::{Message, Outcome};
use holdfast_core::read::{Origin, ReadTask, ReadWork};
use holdfast_core::request::Response;
use holdfast_storage::State;
use holdfast_storage::state::RevisionPin;
use tokio::sync::oneshot;

/// Threads that read: as many as can help when the state is in memory.
const THREADS: usize = 2;

/// The answer to a local client.
pub(super) type Reply = oneshot::Sender<Result<Response, Error>>;

/// One thing to do.
pub(super) enum Job {
    /// A read; `reply` is there if a local client waits for it.
    Read(ReadTask, RevisionPin, Option<Reply>),
    /// The fingerprint of the state.
    Hash {
        /// At this revision.
        revision: Revision,
        /// History below this is gone.
        compacted: Revision,
        /// Keeps it so until it is done.
        pin: RevisionPin,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<KvHash, Error>>,
    },
}

/// Starts the threads; they end when the sender is dropped.
pub(super) fn start(state: &State, inbox: &Inbox) -> std::io::Result<Sender<Job>> {
    let (sender, jobs) = unbounded();
    for number in 0..THREADS {
        let (state, inbox, jobs) = (state.clone(), inbox.clone(), jobs.clone());
        std::thread::Builder::new()
            .name(format!("reader-{number}"))
            .spawn(move || run(&state, &inbox, &jobs))?;
    }
    Ok(sender)
}

fn run(state: &State, inbox: &Inbox, jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Read(task, _pin, reply) => read(&task, reply, state, inbox),
            Job::Hash { revision, compacted, pin: _pin, reply } => {
                let hash = state.hash(&[Span::all()], revision, compacted);
                let hash = (hash ^ (hash >> 32)) as u32;
                // The client may be gone.
                drop(reply.send(Ok(KvHash { hash, revision, compact_revision: compacted })));
            }
        }
    }
}

fn read(task: &ReadTask, reply: Option<Reply>, state: &State, inbox: &Inbox) {
    if let ReadWork::Feed { feed, span, from, to, prev_kv, compacted } = &task.work {
        let (events, through) = feed::scan(span, *from, *to, *prev_kv, *compacted, state);
        let input = Input::FeedScanned { feed: *feed, events, through };
        inbox.post(Mail::Input(Box::new(input)));
        return;
    }
    if let ReadWork::Measure { range, generation, span } = &task.work {
        let measure = measure::measure(span, state);
        let input = Input::Measured { range: *range, generation: *generation, measure };
        inbox.post(Mail::Input(Box::new(input)));
        return;
    }
    let result = task.run(state);
    if let Some(reply) = reply {
        // The client may be gone.
        drop(reply.send(result));
        return;
    }
    match deliver(task.origin, result) {
        Delivery::Nobody => {}
        Delivery::Send { to, message } => {
            inbox.post(Mail::Send { to, message: Box::new(message) });
        }
        Delivery::Input(input) => {
            inbox.post(Mail::Input(Box::new(input)));
        }
    }
}

/// Where an answer goes that is not for a local client.
pub(super) enum Delivery {
    Nobody,
    Send { to: holdfast_core::ids::NodeId, message: Message },
    Input(Input),
}

pub(super) fn deliver(origin: Origin, result: Result<Response, Error>) -> Delivery {
    match origin {
        Origin::Remote { node, token } => Delivery::Send {
            to: node,
            message: Message::Reply { token, outcome: Outcome::Done(result) },
        },
        Origin::Gather { gather, part } => {
            Delivery::Input(Input::ReadDone { gather, part, result })
        }
        Origin::Client(_) | Origin::None => Delivery::Nobody,
    }
}
