//! Streams: how they are framed, and what ends them beside their client.
//!
//! Invariants: a stream whose client requires a leader ends when this node has known none for
//! [`super::Config::leader_loss_timeout`]; every stream ends when its connection is ended, and when the node
//! stops.

use super::cut_off::{Absence, LOOK_INTERVAL, Times, jitter};
use super::grpc::{Body, Call, HttpRequest};
use super::{Gateway, check, error};
use http::Response;
use prost::Message;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_prost::ProstCodec;

/// The requests of a client's stream.
pub(super) type Inbound<Q> = tonic::Streaming<Q>;

/// Whether streams and connections may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// No sequencer known for too long: those that require one end.
    LeaderLost,
    /// No sequencer known for longer, from this moment on: connections end, one by one.
    CutOff(Instant),
    /// The node stops: all end.
    Stopped,
}

/// Tells all streams and connections of a node when to end.
#[derive(Default)]
pub(super) struct Streams {
    state: watch::Sender<State>,
}

impl Streams {
    /// What will end a stream of this client, beside the end of its connection, of which `leaving` tells.
    pub(super) fn ending(&self, call: Call, leaving: CancellationToken) -> Ending {
        let mut state = self.state.subscribe();
        let end = async move {
            let over = |state: &State| match state {
                State::Open => false,
                State::LeaderLost | State::CutOff(_) => call.require_leader,
                State::Stopped => true,
            };
            tokio::select! {
                // A node that stops ends its connections, too.
                biased;
                state = state.wait_for(over) => match state.map(|state| *state) {
                    Ok(State::LeaderLost | State::CutOff(_)) => error::no_leader(),
                    Ok(_) | Err(_) => error::stopped(),
                },
                () = leaving.cancelled() => error::cut_off(),
            }
        };
        Ending(Box::pin(end))
    }

    /// Resolves when a connection that begins now must end because this node is cut off.
    pub(super) async fn cut_off(&self, times: Times) {
        let (opened, late) = (Instant::now(), jitter(times.spread()));
        let mut state = self.state.subscribe();
        loop {
            let mut since = None;
            let wanted = |state: &State| {
                since = state.cut_off_since();
                since.is_some()
            };
            let ended = state.wait_for(wanted).await.is_err();
            let Some(since) = since.filter(|_| !ended) else {
                return std::future::pending().await;
            };
            let back = state.wait_for(|state| state.cut_off_since() != Some(since));
            if tokio::time::timeout_at(times.end(opened, since, late), back).await.is_err() {
                return;
            }
        }
    }

    /// Ends every stream, also those to come.
    pub(super) fn stop(&self) {
        self.state.send_replace(State::Stopped);
    }

    /// Watches for the loss of the leader, until it is dropped.
    pub(super) async fn guard(gateway: &Gateway) {
        let streams = &gateway.inner.streams;
        let (times, leader_loss) = (gateway.cut_off_times(), gateway.config().leader_loss_timeout);
        let mut absence = Absence::default();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let there = gateway.backend().vitals().has_leader();
            let (lasted, before) = (absence.look(Instant::now(), there), *streams.state.borrow());
            let wanted = if times.is_cut_off(lasted) {
                State::CutOff(before.cut_off_since().unwrap_or_else(Instant::now))
            } else if !there && lasted >= leader_loss {
                State::LeaderLost
            } else {
                State::Open
            };
            let changed = streams.state.send_if_modified(|state| {
                let changed = *state != State::Stopped && *state != wanted;
                if changed {
                    *state = wanted;
                }
                changed
            });
            match (before.cut_off_since(), wanted.cut_off_since()) {
                (None, Some(_)) if changed => tracing::warn!(
                    after = ?times.after,
                    "this node sees no majority of the meta range: clients are sent elsewhere"
                ),
                (Some(_), None) if changed => tracing::info!("this node sees a majority again"),
                _ => {}
            }
        }
    }
}

impl State {
    fn cut_off_since(&self) -> Option<Instant> {
        match self {
            Self::CutOff(since) => Some(*since),
            _ => None,
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
