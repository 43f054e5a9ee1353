//! Evaluation of key-value operations: reads, writes through an overlay, replays.

use crate::error::Error;
use crate::ids::Revision;
use crate::request::{Op, Response};
use crate::state::StateReads;

/// Evaluates a read at `revision`.
pub fn read(
    _op: &Op,
    _revision: Revision,
    _compacted: Revision,
    _state: &dyn StateReads,
) -> Result<Response, Error> {
    Err(Error::Stopped)
}

/// Reconstructs the answer of a command applied at `revision`.
pub fn replay(_op: &Op, _revision: Revision, _state: &dyn StateReads) -> Response {
    Response::CurrentRevision { revision: 0 }
}
