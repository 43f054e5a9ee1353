//! What the recording client says: one JSON object a line on its standard output.
//!
//! Invariant: a [`Line::Summary`] counts everything since the start, so the newest one is enough.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// A request that ended; only failures unless everything is asked for.
    Request(Request),
    /// An answer that no correct store gives.
    Wrong(Wrong),
    /// Everything so far.
    Summary(Summary),
}

/// What was asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The next number is written to a key.
    Put,
    /// A key is read, linearizably.
    Get,
}

/// A request that ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Milliseconds since 1970 when it ended.
    pub at_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// What it asked.
    pub operation: Operation,
    /// The key.
    pub key: String,
    /// The node that answered this connection before: hexadecimal, empty at first.
    pub gateway: String,
    /// `None`: it succeeded. Otherwise the gRPC code and message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An answer that no correct store gives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wrong {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The key.
    pub key: String,
    /// What was expected and what came.
    pub what: String,
}

/// Everything since the start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// The client has stopped and read every key once more.
    pub last: bool,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Writes that were acknowledged.
    pub puts: u64,
    /// Reads that were answered.
    pub gets: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Failures by gRPC code.
    pub failures: BTreeMap<String, u64>,
    /// Successes by the node that answered: hexadecimal.
    pub gateways: BTreeMap<String, u64>,
    /// Failures by the node that had answered this connection before.
    pub failed_gateways: BTreeMap<String, u64>,
    /// The longest time in which no write at all succeeded.
    pub longest_gap_ms: u64,
    /// The longest time in which writes to some one key did not succeed.
    pub longest_key_gap_ms: u64,
    /// The longest time that a successful request took.
    pub slowest_ms: u64,
    /// Acknowledged writes that the last read of their key did not find. Only in the last summary.
    pub lost: u64,
    /// Reads that missed a write that was acknowledged, or seen, before they began.
    pub stale: u64,
    /// Reads of something that was never written, and revisions that went backwards.
    pub impossible: u64,
}
