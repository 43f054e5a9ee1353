//! Errors as etcd's clients expect them: gRPC code and text, byte for byte, because those clients
//! compare the text.
//!
//! What etcd has no word for starts with `holdfast:` instead of `etcdserver:`.

use holdfast_core::error::Error;
use holdfast_core::ids::{META_RANGE, NodeId};
use tonic::{Code, Status};

/// Characters of a text that may have whole keys in it, for the same reason.
const TEXT_CHARS_MAX: usize = 1000;

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: $code:ident $text:literal;)*) => {
        $($(#[$doc])* pub(super) fn $name() -> Status {
            Status::new(Code::$code, concat!("etcdserver: ", $text))
        })*
    };
}

texts! {
    key_not_provided: InvalidArgument "key is not provided";
    key_not_found: InvalidArgument "key not found";
    value_provided: InvalidArgument "value is provided";
    lease_provided: InvalidArgument "lease is provided";
    too_many_operations: InvalidArgument "too many operations in txn request";
    duplicate_key: InvalidArgument "duplicate key given in txn request";
    invalid_sort_option: InvalidArgument "invalid sort option";
    request_too_large: InvalidArgument "request is too large";
    compacted: OutOfRange "mvcc: required revision has been compacted";
    future_revision: OutOfRange "mvcc: required revision is a future revision";
    ttl_too_large: OutOfRange "too large lease TTL";
    no_space: ResourceExhausted "mvcc: database space exceeded";
    too_many_requests: ResourceExhausted "too many requests";
    lease_not_found: NotFound "requested lease not found";
    lease_exists: FailedPrecondition "lease already exists";
    not_leader: FailedPrecondition "not leader";
    bad_transferee: FailedPrecondition "bad leader transferee";
    no_leader: Unavailable "no leader";
    stopped: Unavailable "server stopped";
    timed_out: Unavailable "request timed out";
}

/// The status for an error of the store.
pub(super) fn status(error: Error) -> Status {
    match error {
        Error::Compacted => compacted(),
        Error::FutureRevision => future_revision(),
        Error::KeyNotFound => key_not_found(),
        Error::LeaseNotFound => lease_not_found(),
        Error::LeaseExists => lease_exists(),
        Error::TooLarge => request_too_large(),
        Error::TooManyRequests => too_many_requests(),
        Error::NoSpace => no_space(),
        Error::TimedOut => timed_out(),
        Error::NoLeader => no_leader(),
        Error::Stopped => stopped(),
        Error::RangeUnavailable { range: META_RANGE, missing, .. } => Status::unavailable(format!(
            "holdfast: the meta range ({META_RANGE}) has no majority: {} not answering; nothing is \
             served until a majority is back",
            nodes(&missing)
        )),
        Error::RangeUnavailable { range, span, missing } => Status::unavailable(format!(
            "holdfast: range {range} {} has no majority: {} not answering; other ranges are \
             served",
            short(&span),
            nodes(&missing)
        )),
        Error::Refused(reason) => {
            Status::failed_precondition(format!("holdfast: {}", short(&reason)))
        }
    }
}

/// This node has seen no majority for a while. Not etcd's word for it, at which client libraries end a watch
/// instead of going on with it elsewhere.
pub(super) fn cut_off() -> Status {
    Status::unavailable(
        "holdfast: this node sees no majority of the meta range: connect again to reach another one",
    )
}

/// The store answered with something else than was asked for: a defect.
pub(super) fn unexpected_answer() -> Status {
    Status::internal("holdfast: the store's answer does not fit the request")
}

/// The services that are there.
const SERVICES: [&str; 7] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "grpc.health.v1.Health",
    "holdfast.admin.v1.Admin",
];

/// A service or method that is not there (yet), in the words of etcd's gRPC library, by which some
/// clients know an older server.
pub(super) fn unknown_method(path: &str) -> Status {
    let (service, method) = path.trim_start_matches('/').rsplit_once('/').unwrap_or((path, ""));
    Status::unimplemented(if SERVICES.contains(&service) {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    })
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(TEXT_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn nodes(nodes: &[NodeId]) -> String {
    match nodes {
        [] => "its nodes are".to_owned(),
        [one] => format!("node {one} is"),
        many => {
            let names: Vec<String> = many.iter().map(ToString::to_string).collect();
            format!("nodes {} are", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::ids::RangeId;

    /// Every error with the code and text that etcd's clients compare with.
    #[test]
    fn texts_are_those_of_etcd() {
        let expected = [
            (
                Error::Compacted,
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (
                Error::FutureRevision,
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            (Error::KeyNotFound, Code::InvalidArgument, "etcdserver: key not found"),
            (Error::LeaseNotFound, Code::NotFound, "etcdserver: requested lease not found"),
            (Error::LeaseExists, Code::FailedPrecondition, "etcdserver: lease already exists"),
            (Error::TooLarge, Code::InvalidArgument, "etcdserver: request is too large"),
            (Error::TooManyRequests, Code::ResourceExhausted, "etcdserver: too many requests"),
            (Error::NoSpace, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (Error::TimedOut, Code::Unavailable, "etcdserver: request timed out"),
            (Error::NoLeader, Code::Unavailable, "etcdserver: no leader"),
            (Error::Stopped, Code::Unavailable, "etcdserver: server stopped"),
            (Error::Refused("no".to_owned()), Code::FailedPrecondition, "holdfast: no"),
        ];
        for (error, code, text) in expected {
            let status = status(error);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let text = |path| unknown_method(path).message().to_owned();
        assert_eq!(
            text("/etcdserverpb.KV/RangeStream"),
            "unknown method RangeStream for service etcdserverpb.KV"
        );
        assert_eq!(text("/v3lockpb.Lock/Lock"), "unknown service v3lockpb.Lock");
    }

    #[test]
    fn an_unavailable_range_names_span_and_nodes() {
        let status = status(Error::RangeUnavailable {
            range: RangeId(5),
            span: "[\"a\", \"m\")".to_owned(),
            missing: vec![NodeId(2), NodeId(3)],
        });
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(
            status.message(),
            "holdfast: range r5 [\"a\", \"m\") has no majority: nodes n2, n3 are not answering; \
             other ranges are served"
        );
    }
}
