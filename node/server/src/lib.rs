//! Does: listeners, transport, the store loop's edge, and the `holdfast-node` command.

pub mod cli;

pub mod config;

pub mod dev;

pub mod gateway;

pub mod http;

pub mod mailbox;

pub mod metrics;

pub mod priority;

pub mod recover;

pub mod serve;

pub mod shutdown;

pub mod store_loop;

pub mod telemetry;

pub mod tls;

pub mod transport;
