//! The client listener: connections, and which method answers which path.
//!
//! One port serves gRPC (HTTP/2 with prior knowledge) and plain HTTP/1.1; the first bytes of a
//! connection tell which. Paths are matched here and not by a router, which would cost each request
//! more than the match. With TLS the same holds inside it; a client chooses with ALPN or by what it
//! sends.

use super::grpc::{self, Body, Call, HttpRequest};
use super::handed::Handed;
use super::streams::{self, Streams};
use super::{Gateway, cluster, error};
use crate::tls::Tls;
use http::{Method, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What one stream may have under way towards us before it waits for us to read: the largest
/// request in one go.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// The same for all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A client that is silent for so long is asked whether it lives, and has the time below to say so.
const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams that a client opened and reset before we looked at them. More end its connection: that
/// is an attack. Clients that cancel many watches at once are common, hence far above the default.
const RESET_STREAMS_MAX: usize = 4096;

/// Pause after the system refused a connection, which mostly means that it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a TLS handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections of administrators on the peers' port: operators, and people who look.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// How the paths of administrators begin.
const ADMIN: &str = "/holdfast.admin.v1.Admin/";

/// Serves clients on `listener` until `stop` resolves. Then it takes no more connections, tells the
/// clients to go elsewhere, ends the streams, and gives open requests
/// [`super::Config::stop_timeout`] to finish.
///
/// With `tls`, every connection is encrypted with the certificate of the moment.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    gateway: Gateway,
    stop: impl Future<Output = ()>,
) {
    let stopping = CancellationToken::new();
    let connections = TaskTracker::new();
    let builder = Arc::new(connection_builder());
    let front_end = gateway.endpoints().front_end();
    // A listener that does not know its address takes no connections either.
    if let Ok(address) = listener.local_addr() {
        front_end.open(address);
    }
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _address)) => {
                    front_end.accepted();
                    let (builder, tls) = (builder.clone(), tls.clone());
                    let (gateway, stopping) = (gateway.clone(), stopping.clone());
                    connections.spawn(async move {
                        // Small messages must not wait for more. A socket that refuses is about
                        // to fail anyway.
                        if stream.set_nodelay(true).is_err() {
                            return;
                        }
                        let leaving = CancellationToken::new();
                        let (serving, told) = (gateway.clone(), leaving.clone());
                        let service = move |request| serving.clone().answer(request, told.clone());
                        let end = async {
                            tokio::select! {
                                () = stopping.cancelled() => {}
                                () = gateway.inner.streams.cut_off(gateway.cut_off_times()) => {
                                    gateway.inner.sent_away.inc();
                                }
                            }
                            leaving
                        };
                        let Some(tls) = tls else {
                            return connection(&builder, stream, service, end).await;
                        };
                        if let Some(stream) = encrypt(&tls, stream, &stopping).await {
                            connection(&builder, stream, service, end).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a client connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop => {}
        () = accept => {}
        () = Streams::guard(&gateway) => {}
    }
    drop(listener);
    front_end.close();
    gateway.inner.streams.stop();
    stopping.cancel();
    connections.close();
    let stop_timeout = gateway.config().stop_timeout;
    if tokio::time::timeout(stop_timeout, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "clients still connected after the stop timeout");
    }
}

fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        // etcd's clients open a stream a watch and a request; there is no number that is right.
        .max_concurrent_streams(None)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(RESET_STREAMS_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // gRPC clients do not look at it.
        .auto_date_header(false);
    builder
}

/// Serves administrators whose connections began on the peers' port, until `stop` resolves.
pub async fn serve_admin(
    mut handed: Handed,
    tls: Arc<Tls>,
    gateway: Gateway,
    stop: impl Future<Output = ()>,
) {
    let stopping = CancellationToken::new();
    let room = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    let builder = Arc::new(connection_builder());
    let take = async {
        while let Some(stream) = handed.next().await {
            let (Ok(stream), Ok(place)) = (stream, Arc::clone(&room).try_acquire_owned()) else {
                continue;
            };
            let (builder, tls) = (Arc::clone(&builder), Arc::clone(&tls));
            let (gateway, stopping) = (gateway.clone(), stopping.clone());
            tokio::spawn(async move {
                let _place = place;
                let service = move |request| gateway.clone().answer_admin(request);
                if let Some(stream) = encrypt(&tls, stream, &stopping).await {
                    let end = async {
                        stopping.cancelled().await;
                        CancellationToken::new()
                    };
                    connection(&builder, stream, service, end).await;
                }
            });
        }
    };
    tokio::select! {
        () = stop => {}
        () = take => {}
    }
    stopping.cancel();
}

/// The TLS handshake; `None` if it failed, which is not worth more than a line for those who debug.
async fn encrypt<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &Tls,
    stream: S,
    stopping: &CancellationToken,
) -> Option<TlsStream<S>> {
    let handshake = TlsAcceptor::from(tls.server()).accept(stream);
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(TLS_TIMEOUT, handshake) => outcome,
        () = stopping.cancelled() => return None,
    };
    match outcome {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(side = %tls.side(), %error, "TLS handshake failed");
            None
        }
        Err(_elapsed) => {
            tracing::debug!(side = %tls.side(), "TLS handshake took too long");
            None
        }
    }
}

/// Serves one connection, until its client ends it or `end` resolves to what its streams are told by. Then
/// the client is told to go elsewhere, open requests are answered, and the streams end.
async fn connection<S, F>(
    builder: &auto::Builder<TokioExecutor>,
    stream: S,
    service: impl Fn(HttpRequest) -> F + Send,
    end: impl Future<Output = CancellationToken>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = service(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        leaving = end => {
            // Before the streams end: what a client opens instead of them must not come here.
            connection.as_mut().graceful_shutdown();
            leaving.cancel();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error, "client connection ended");
    }
}

/// Reads the message, calls the method, writes the answer.
macro_rules! unary {
    ($gateway:ident.$method:ident, $request:ident) => {{
        let call = Call::from_headers($request.headers(), $gateway.config().request_timeout);
        let bytes_max = $gateway.config().limits.message_bytes();
        let answer = match grpc::read($request.body_mut(), bytes_max).await {
            Ok(message) => $gateway.$method(call, message).await,
            Err(status) => Err(status),
        };
        grpc::reply(answer)
    }};
    // For methods that answer from memory, whatever the headers say.
    ($gateway:ident.$method:ident, $request:ident, at_once) => {{
        let message =
            grpc::read($request.body_mut(), $gateway.config().limits.message_bytes()).await;
        grpc::reply(message.map(|message| $gateway.$method(message)))
    }};
}

impl Gateway {
    /// `leaving` tells the streams of the connection to end.
    async fn answer(self, mut request: HttpRequest, leaving: CancellationToken) -> Response<Body> {
        if !is_grpc(&request) {
            return Box::pin(self.endpoints().answer(
                request.method(),
                request.uri(),
                request.headers(),
            ))
            .await;
        }
        match request.uri().path() {
            "/etcdserverpb.KV/Put" => unary!(self.put, request),
            "/etcdserverpb.KV/Range" => unary!(self.range, request),
            "/etcdserverpb.KV/Txn" => unary!(self.txn, request),
            "/etcdserverpb.KV/DeleteRange" => unary!(self.delete_range, request),
            // Boxed, so that the futures of the calls above stay small.
            _ => Box::pin(self.answer_rare(request, leaving)).await,
        }
    }

    async fn answer_rare(
        self,
        mut request: HttpRequest,
        leaving: CancellationToken,
    ) -> Response<Body> {
        let call = Call::from_headers(request.headers(), self.config().request_timeout);
        match request.uri().path() {
            "/etcdserverpb.KV/Compact" => unary!(self.compact, request),
            "/etcdserverpb.Watch/Watch" => {
                let ending = self.inner.streams.ending(call, leaving);
                streams::both_ways(request, move |inbound| self.watch(call, ending, inbound)).await
            }
            "/etcdserverpb.Lease/LeaseGrant" => unary!(self.lease_grant, request),
            "/etcdserverpb.Lease/LeaseRevoke" => unary!(self.lease_revoke, request),
            "/etcdserverpb.Lease/LeaseKeepAlive" => {
                let ending = self.inner.streams.ending(call, leaving);
                streams::both_ways(request, move |inbound| {
                    self.lease_keep_alive(call, ending, inbound)
                })
                .await
            }
            "/etcdserverpb.Lease/LeaseTimeToLive" => unary!(self.lease_time_to_live, request),
            "/etcdserverpb.Lease/LeaseLeases" => unary!(self.lease_leases, request),
            "/etcdserverpb.Cluster/MemberList" => unary!(self.member_list, request),
            "/etcdserverpb.Cluster/MemberAdd"
            | "/etcdserverpb.Cluster/MemberRemove"
            | "/etcdserverpb.Cluster/MemberUpdate"
            | "/etcdserverpb.Cluster/MemberPromote" => cluster::refuse_change().into_http(),
            "/etcdserverpb.Maintenance/Status" => unary!(self.status, request, at_once),
            "/etcdserverpb.Maintenance/Alarm" => unary!(self.alarm, request),
            "/etcdserverpb.Maintenance/Defragment" => {
                let message =
                    grpc::read(request.body_mut(), self.config().limits.message_bytes()).await;
                grpc::reply(message.map(Self::defragment))
            }
            "/etcdserverpb.Maintenance/Hash" => unary!(self.hash, request),
            "/etcdserverpb.Maintenance/HashKV" => unary!(self.hash_kv, request),
            "/etcdserverpb.Maintenance/MoveLeader" => unary!(self.move_leader, request),
            "/grpc.health.v1.Health/Check" => {
                let message =
                    grpc::read(request.body_mut(), self.config().limits.message_bytes()).await;
                grpc::reply(message.and_then(|message| self.health_check(&message)))
            }
            "/grpc.health.v1.Health/Watch" => {
                let ending = self.inner.streams.ending(call, leaving);
                streams::answers(request, move |message| Ok(self.health_watch(ending, &message)))
                    .await
            }
            path if path.starts_with(ADMIN) => self.answer_admin(request).await,
            // Authentication, locks, elections, snapshots, downgrades, range streams, and whatever
            // a later etcd has: clients fall back or say so.
            path => error::unknown_method(path).into_http(),
        }
    }
}

impl Gateway {
    /// The methods of administrators and nothing else.
    async fn answer_admin(self, mut request: HttpRequest) -> Response<Body> {
        match request.uri().path() {
            "/holdfast.admin.v1.Admin/Status" => unary!(self.admin_status, request),
            "/holdfast.admin.v1.Admin/Ranges" => unary!(self.admin_ranges, request),
            "/holdfast.admin.v1.Admin/Nodes" => unary!(self.admin_nodes, request),
            "/holdfast.admin.v1.Admin/Drain" => unary!(self.admin_drain, request),
            "/holdfast.admin.v1.Admin/Reprotect" => unary!(self.admin_reprotect, request),
            "/holdfast.admin.v1.Admin/Undrain" => unary!(self.admin_undrain, request),
            "/holdfast.admin.v1.Admin/Split" => unary!(self.admin_split, request),
            "/holdfast.admin.v1.Admin/Check" => unary!(self.admin_check, request),
            "/holdfast.admin.v1.Admin/Move" => unary!(self.admin_move, request),
            "/holdfast.admin.v1.Admin/Merge" => unary!(self.admin_merge, request),
            "/holdfast.admin.v1.Admin/Placement" => unary!(self.admin_placement, request),
            "/holdfast.admin.v1.Admin/SetPlacement" => unary!(self.admin_set_placement, request),
            "/holdfast.admin.v1.Admin/RemovePlacement" => {
                unary!(self.admin_remove_placement, request)
            }
            "/holdfast.admin.v1.Admin/SetFailureDomain" => {
                unary!(self.admin_set_failure_domain, request)
            }
            "/holdfast.admin.v1.Admin/Transfer" => unary!(self.admin_transfer, request),
            path => error::unknown_method(path).into_http(),
        }
    }
}

fn is_grpc(request: &http::Request<Incoming>) -> bool {
    request.method() == Method::POST
        && request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
