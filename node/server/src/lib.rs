//! Does: listeners, transport, the store loop's edge, and the `holdfast-node` command.

pub mod gateway;
