//! Streams: how they are framed, and what ends them beside their client.
//!
//! Invariant: a stream whose client requires a leader ends when this node has known none for
//! [`super::Config::leader_loss_timeout`]; every stream ends when the node stops.

use super::grpc::{Body, Call, HttpRequest};
use super::{Gateway, check, error};
use http::Response;
use prost::Message;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;
use tonic_prost::ProstCodec;

/// The requests of a client's stream.
pub(super) type Inbound<Q> = tonic::Streaming<Q>;

/// How often the leader's absence is looked at.
const LEADER_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Whether streams may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// No sequencer known for too long: those that require one end.
    LeaderLost,
    /// The node stops: all end.
    Stopped,
}

/// Tells all streams of a node when to end.
#[derive(Default)]
pub(super) struct Streams {
    state: watch::Sender<State>,
}

impl Streams {
    /// What will end a stream of this client.
    pub(super) fn ending(&self, call: Call) -> Ending {
        let mut state = self.state.subscribe();
        let end = async move {
            let over = |state: &State| match state {
                State::Open => false,
                State::LeaderLost => call.require_leader,
                State::Stopped => true,
            };
            match state.wait_for(over).await.map(|state| *state) {
                Ok(State::LeaderLost) => error::no_leader(),
                Ok(_) | Err(_) => error::stopped(),
            }
        };
        Ending(Box::pin(end))
    }

    /// Ends every stream, also those to come.
    pub(super) fn stop(&self) {
        self.state.send_replace(State::Stopped);
    }

    /// Watches for the loss of the leader, until it is dropped.
    pub(super) async fn guard(gateway: &Gateway) {
        let streams = &gateway.inner.streams;
        let mut lost_since: Option<Instant> = None;
        loop {
            tokio::time::sleep(LEADER_CHECK_INTERVAL).await;
            if gateway.backend().vitals().has_leader() {
                lost_since = None;
            } else {
                lost_since.get_or_insert_with(Instant::now);
            }
            let lost = lost_since
                .is_some_and(|since| since.elapsed() >= gateway.config().leader_loss_timeout);
            let wanted = if lost { State::LeaderLost } else { State::Open };
            streams.state.send_if_modified(|state| {
                let changed = *state != State::Stopped && *state != wanted;
                if changed {
                    *state = wanted;
                }
                changed
            });
        }
    }
}

/// Resolves to the reason when a stream must end.
pub(super) struct Ending(Pin<Box<dyn Future<Output = Status> + Send>>);

impl Ending {
    /// Must not be polled again once ready.
    pub(super) fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        self.0.as_mut().poll(context)
    }
}

/// Serves a stream of requests by a stream of answers.
pub(super) async fn both_ways<Q, A, S>(
    request: HttpRequest,
    open: impl FnOnce(Inbound<Q>) -> Result<S, Status> + Send + 'static,
) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
{
    let mut open = Some(open);
    let service = tower::service_fn(move |request: tonic::Request<Inbound<Q>>| {
        let open = open.take().expect("called once a request");
        std::future::ready(open(request.into_inner()).map(tonic::Response::new))
    });
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default())
        .max_decoding_message_size(check::Limits::default().message_bytes())
        .max_encoding_message_size(usize::MAX);
    grpc.streaming(service, request).await.map(Body::Stream)
}

/// Serves one request by a stream of answers.
pub(super) async fn answers<Q, A, S>(
    request: HttpRequest,
    open: impl FnOnce(Q) -> Result<S, Status> + Send + 'static,
) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
{
    let mut open = Some(open);
    let service = tower::service_fn(move |request: tonic::Request<Q>| {
        let open = open.take().expect("called once a request");
        std::future::ready(open(request.into_inner()).map(tonic::Response::new))
    });
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default());
    grpc.server_streaming(service, request).await.map(Body::Stream)
}
