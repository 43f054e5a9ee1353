//! Generated protobuf code: the etcd v3 client API and the admin API.
//!
//! Package names and field numbers under [`etcdserverpb`], [`mvccpb`], [`authpb`], [`v3lockpb`] and
//! [`v3electionpb`] are those of etcd 3.7, so that its clients speak to us unchanged; a message that
//! etcd 3.5 or 3.6 does not know differs only by fields that those ignore. [`admin`] is our own.
//!
//! Invariant: `bytes` fields are [`prost::bytes::Bytes`], slices of the received message.

/// Keys with their history, and changes of them.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Users and permissions.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The services of the etcd v3 API.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// The lock service.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// The election service.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// Administration of a cluster.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
pub mod admin {
    tonic::include_proto!("holdfast.admin.v1");
}
