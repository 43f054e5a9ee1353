//! The client side of a node: the etcd v3 API and the admin API over gRPC.
//!
//! ```text
//! connection --> serve --> grpc (frames) --> kv, lease, watch, ... --> backend --> store loop
//! ```
//!
//! Invariants: nothing here waits for another client; every answer's header carries at least the
//! revision of what it answers; what is not supported answers `Unimplemented`.

pub mod backend;

mod admin;
mod check;
mod cluster;
mod convert;
mod cut_off;
mod error;
mod front_end;
mod grpc;
mod handed;
mod health;
mod kv;
mod lease;
mod maintenance;
mod serve;
mod streams;
mod watch;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod round_trips;

pub(crate) use admin::{Estimator, Progress, about, report_of, size};
#[cfg(test)]
pub(crate) use backend::RangeView;
pub(crate) use backend::View;
pub use check::Limits;
pub use front_end::FrontEnd;
pub use grpc::Body;
pub use handed::{HandOver, Handed};
pub(crate) use maintenance::alarm_name;
pub use serve::{serve, serve_admin};

use crate::http::Endpoints;
use backend::Backend;
use grpc::Call;
use holdfast_core::ids::Revision;
use holdfast_core::request::{Request, Response};
use holdfast_proto::etcdserverpb as pb;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// The etcd version whose API this is, told in `Status` and `/version`. kube-apiserver reads it to
/// decide which requests it may make: from 3.5.13 on it asks for watch progress; with 3.7 it might
/// ask for `RangeStream`, which is not there.
pub const ETCD_VERSION: &str = "3.6.0";

/// What operators may set.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long a request may take if its client does not say. etcd: 5 s and two elections.
    pub request_timeout: Duration,
    /// How long a node is without a sequencer before streams that require one end.
    pub leader_loss_timeout: Duration,
    /// How long a node is without a sequencer before it ends its clients' connections; zero: it keeps them.
    pub cut_off_timeout: Duration,
    /// Time between progress notifications of an idle watch that asked for them.
    pub watch_progress_interval: Duration,
    /// How long open requests may take to finish once the node stops.
    pub stop_timeout: Duration,
    /// Bounds of requests.
    pub limits: Limits,
    /// Clients reach nodes over TLS, as the member list says.
    pub client_tls: bool,
    /// Nodes reach each other over TLS, as the member list says.
    pub peer_tls: bool,
    /// Bytes at which writes are refused, told in `Status` and nothing else; 0 is unknown.
    pub db_size_quota: i64,
    /// This node was started with a failure domain, so nobody else can say it.
    pub names_domain: bool,
}

impl Default for Config {
    fn default() -> Self {
        let election = Duration::from_secs(1);
        Self {
            request_timeout: Duration::from_secs(5) + 2 * election,
            leader_loss_timeout: 3 * election,
            cut_off_timeout: 5 * election,
            watch_progress_interval: Duration::from_mins(10),
            stop_timeout: Duration::from_secs(5),
            limits: Limits::default(),
            client_tls: false,
            peer_tls: false,
            db_size_quota: 0,
            names_domain: false,
        }
    }
}

/// All services of the client listener. Clones share everything.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    config: Config,
    endpoints: Endpoints,
    streams: streams::Streams,
    ask_node: Box<AskNode>,
    /// Connections that were ended because this node is cut off.
    sent_away: Counter,
    /// How far the making of copies is, while this node follows it.
    progress: Mutex<Option<Progress>>,
}

/// Asks the node at a peer address for its report; waits.
type AskNode = dyn Fn(&str) -> io::Result<Vec<u8>> + Send + Sync;

impl Gateway {
    /// Services in front of `backend`; `endpoints` answers plain HTTP on the same port.
    pub fn new(backend: Backend, config: Config, endpoints: Endpoints) -> Self {
        let streams = streams::Streams::default();
        let ask_node: Box<AskNode> = Box::new(|_| Err(io::Error::other("nobody to ask")));
        let (sent_away, progress) = (Counter::default(), Mutex::default());
        let inner = Inner { backend, config, endpoints, streams, ask_node, sent_away, progress };
        Self { inner: Arc::new(inner) }
    }

    /// Other nodes are asked for their reports by `ask_node`, which gets a peer address and may
    /// wait.
    #[must_use]
    pub fn asking(
        self,
        ask_node: impl Fn(&str) -> io::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.with(|inner| inner.ask_node = Box::new(ask_node))
    }

    /// Connections that are ended because this node is cut off are counted by `sent_away`.
    #[must_use]
    pub fn counting(self, sent_away: Counter) -> Self {
        self.with(|inner| inner.sent_away = sent_away)
    }

    fn with(self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Arc::into_inner(self.inner).expect("changed before anybody shares it");
        change(&mut inner);
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.inner.backend
    }

    fn config(&self) -> &Config {
        &self.inner.config
    }

    fn cut_off_times(&self) -> cut_off::Times {
        cut_off::Times { after: self.config().cut_off_timeout }
    }

    /// What answers plain HTTP.
    pub fn endpoints(&self) -> &Endpoints {
        &self.inner.endpoints
    }

    /// The header for an answer that stands for `revision`.
    fn header(&self, revision: Revision) -> pb::ResponseHeader {
        let vitals = self.backend().vitals();
        vitals.raise_revision(revision);
        pb::ResponseHeader {
            cluster_id: vitals.cluster(),
            member_id: vitals.node().0,
            revision,
            raft_term: vitals.term(),
        }
    }

    /// The header for an answer that is about no particular revision.
    fn current_header(&self) -> pb::ResponseHeader {
        self.header(self.backend().vitals().revision())
    }

    /// The header of answers that carry no revision in etcd.
    fn bare_header(&self) -> pb::ResponseHeader {
        pb::ResponseHeader { revision: 0, ..self.current_header() }
    }

    /// Asks the store, and puts its errors into etcd's words.
    async fn ask(&self, call: Call, request: Request) -> Result<Response, Status> {
        self.require_leader(call)?;
        self.backend().call(request, call.timeout).await.map_err(error::status)
    }

    fn require_leader(&self, call: Call) -> Result<(), Status> {
        if call.require_leader && !self.backend().vitals().has_leader() {
            return Err(error::no_leader());
        }
        Ok(())
    }
}
