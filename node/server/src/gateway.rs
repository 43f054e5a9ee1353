//! The client side of a node: the etcd v3 API and the admin API over gRPC.

pub mod backend;
