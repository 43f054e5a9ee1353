//! The client that the end-to-end tests run inside of Kubernetes, and the report that it makes.
//!
//! The tests themselves are in `tests/`; they read the [`report::Summary`] from the client's output.

pub mod client;
pub mod report;
