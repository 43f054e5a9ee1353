//! Judges what the clients saw, against what really happened.
//!
//! ```text
//!   ops, watches (with the order of calls and returns) ──┐
//!                                                        ├─► strict serializability, exactly once,
//!   history (changes by revision, as applied) ───────────┘   exact watches, leases
//! ```
//!
//! Revisions are the order of all operations, so the check takes linear time: a write at R must
//! give what it gives on the state at R - 1, a read with header S what it gives on the state at S,
//! and revisions must respect the order of returns before calls.

pub mod evaluate;

mod leases;

mod order;

mod watches;

mod writes;

pub use watches::WatchRecord;

use crate::history::History;
use bytes::Bytes;
use holdfast_core::effects::Millis;
use holdfast_core::error::Error;
use holdfast_core::ids::{NodeId, Revision};
use holdfast_core::request::{Op, Request, Response};

/// A point in the run: its place among all calls and returns, and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Counts calls and returns.
    pub order: u64,
    /// The world's time.
    pub at: Millis,
}

/// One operation of a client.
#[derive(Clone, Debug)]
pub struct OpRecord {
    /// Its place in the list of operations, and part of every value it writes.
    pub id: u64,
    /// Through this gateway.
    pub gateway: NodeId,
    /// What was asked.
    pub request: Request,
    /// When.
    pub invoked: Moment,
    /// When the answer came, and which; `None` if none ever came.
    pub returned: Option<(Moment, Result<Response, Error>)>,
}

impl OpRecord {
    /// The key-value operation, if it is one.
    pub fn op(&self) -> Option<&Op> {
        match &self.request {
            Request::Kv(op) => Some(op),
            _ => None,
        }
    }

    /// The answer, if it came and is none of the errors that leave the outcome open.
    pub fn answer(&self) -> Option<&Result<Response, Error>> {
        match &self.returned {
            Some((_, result)) if !result.as_ref().is_err_and(is_open) => Some(result),
            Some(_) | None => None,
        }
    }

    /// The header revision of its answer.
    pub fn header(&self) -> Option<Revision> {
        match &self.returned {
            Some((_, Ok(response))) => header(response),
            Some((_, Err(_))) | None => None,
        }
    }
}

/// A value that names the operation that writes it, with some ballast.
pub fn value_of(id: u64, ballast: usize) -> Bytes {
    let mut text = id.to_string();
    text.push('/');
    text.extend(std::iter::repeat_n('x', ballast));
    text.into()
}

/// The operation that a value names.
pub fn op_of(value: &[u8]) -> Option<u64> {
    let end = value.iter().position(|byte| *byte == b'/')?;
    std::str::from_utf8(&value[..end]).ok()?.parse().ok()
}

/// True if the operation may have happened all the same.
pub fn is_open(error: &Error) -> bool {
    match error {
        Error::TimedOut | Error::NoLeader | Error::RangeUnavailable { .. } | Error::Stopped => true,
        Error::Compacted
        | Error::FutureRevision
        | Error::KeyNotFound
        | Error::LeaseNotFound
        | Error::LeaseExists
        | Error::TooLarge
        | Error::TooManyRequests
        | Error::NoSpace
        | Error::Refused(_) => false,
    }
}

/// The revision in the header of an answer, where it has one.
pub fn header(response: &Response) -> Option<Revision> {
    match response {
        Response::Kv { revision, .. }
        | Response::Compact { revision }
        | Response::LeaseRevoke { revision }
        | Response::CurrentRevision { revision } => Some(*revision),
        Response::LeaseGrant { .. }
        | Response::LeaseKeepAlive { .. }
        | Response::LeaseTimeToLive { .. }
        | Response::LeaseList { .. }
        | Response::Alarm { .. }
        | Response::Admin { .. }
        | Response::Check { .. }
        | Response::Merging { .. } => None,
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    /// All operations, by id.
    pub ops: Vec<OpRecord>,
    /// All watches.
    pub watches: Vec<WatchRecord>,
    order: u64,
}

impl Oracle {
    /// The next moment.
    pub fn moment(&mut self, at: Millis) -> Moment {
        self.order += 1;
        Moment { order: self.order, at }
    }

    /// An operation is asked; gives its id.
    pub fn invoke(&mut self, gateway: NodeId, request: Request, at: Millis) -> u64 {
        let id = self.next_id();
        let invoked = self.moment(at);
        self.ops.push(OpRecord { id, gateway, request, invoked, returned: None });
        id
    }

    /// The id of the next operation.
    pub fn next_id(&self) -> u64 {
        self.ops.len() as u64
    }

    /// An answer came.
    pub fn answered(&mut self, id: u64, result: Result<Response, Error>, at: Millis) {
        let moment = self.moment(at);
        self.ops[id as usize].returned = Some((moment, result));
    }

    /// Judges the whole run.
    ///
    /// # Errors
    /// The first promise broken.
    pub fn judge(&self, history: &History) -> Result<(), String> {
        let owners = writes::attribute(self, history)?;
        order::check(self, &owners)?;
        leases::check(self, history)?;
        for watch in &self.watches {
            watch.check(self, history)?;
        }
        Ok(())
    }
}
