//! Does: listeners, transport, the store loop's edge, and the `holdfast-node` command.

pub mod config;

pub mod gateway;

pub mod http;

pub mod mailbox;

pub mod telemetry;

pub mod transport;
