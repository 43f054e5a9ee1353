//! The Lease service.

use super::backend::Backend;
use super::grpc::Call;
use super::streams::{Ending, Inbound};
use super::{Gateway, error};
use holdfast_core::error::Error;
use holdfast_core::ids::LeaseId;
use holdfast_core::request::{Request, Response};
use holdfast_proto::etcdserverpb as pb;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_stream::Stream;
use tonic::Status;

/// Longest life of a lease, in seconds, as in etcd.
const TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// Renewals of one stream that are under way at the same time.
const RENEWALS_MAX: usize = 128;

/// Attempts to find a free id; each fails with a chance of (leases alive) / 2^63.
const ID_ATTEMPTS_MAX: usize = 3;

impl Gateway {
    pub(super) async fn lease_grant(
        &self,
        call: Call,
        request: pb::LeaseGrantRequest,
    ) -> Result<pb::LeaseGrantResponse, Status> {
        if request.ttl > TTL_SECONDS_MAX {
            return Err(error::ttl_too_large());
        }
        self.require_leader(call)?;
        self.require_room(call).await?;
        let attempts = if request.id == 0 { ID_ATTEMPTS_MAX } else { 1 };
        for _ in 0..attempts {
            let id = if request.id == 0 { random_id() } else { request.id };
            let grant = Request::LeaseGrant { id, ttl: request.ttl };
            match self.backend().call(grant, call.timeout).await {
                Ok(Response::LeaseGrant { id, ttl }) => {
                    return Ok(pb::LeaseGrantResponse {
                        header: Some(self.current_header()),
                        id,
                        ttl,
                        error: String::new(),
                    });
                }
                Ok(_) => return Err(error::unexpected_answer()),
                Err(Error::LeaseExists) => {}
                Err(other) => return Err(error::status(other)),
            }
        }
        Err(error::lease_exists())
    }

    pub(super) async fn lease_revoke(
        &self,
        call: Call,
        request: pb::LeaseRevokeRequest,
    ) -> Result<pb::LeaseRevokeResponse, Status> {
        match self.ask(call, Request::LeaseRevoke { id: request.id }).await? {
            Response::LeaseRevoke { revision } => {
                Ok(pb::LeaseRevokeResponse { header: Some(self.header(revision)) })
            }
            _ => Err(error::unexpected_answer()),
        }
    }

    pub(super) async fn lease_time_to_live(
        &self,
        call: Call,
        request: pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        let request = Request::LeaseTimeToLive { id: request.id, keys: request.keys };
        match self.ask(call, request).await? {
            Response::LeaseTimeToLive { id, ttl, granted_ttl, keys } => {
                Ok(pb::LeaseTimeToLiveResponse {
                    header: Some(self.current_header()),
                    id,
                    ttl,
                    granted_ttl,
                    keys,
                })
            }
            _ => Err(error::unexpected_answer()),
        }
    }

    pub(super) async fn lease_leases(
        &self,
        call: Call,
        _request: pb::LeaseLeasesRequest,
    ) -> Result<pb::LeaseLeasesResponse, Status> {
        match self.ask(call, Request::LeaseList).await? {
            Response::LeaseList { ids } => Ok(pb::LeaseLeasesResponse {
                header: Some(self.current_header()),
                leases: ids.into_iter().map(|id| pb::LeaseStatus { id }).collect(),
            }),
            _ => Err(error::unexpected_answer()),
        }
    }

    pub(super) fn lease_keep_alive(
        &self,
        call: Call,
        ending: Ending,
        inbound: Inbound<pb::LeaseKeepAliveRequest>,
    ) -> Result<KeepAlive, Status> {
        self.require_leader(call)?;
        Ok(KeepAlive {
            ending,
            call,
            gateway: self.clone(),
            inbound,
            inbound_ended: false,
            renewals: VecDeque::new(),
        })
    }
}

/// A positive number that nobody can guess; two are alike with a chance of 2^-63.
fn random_id() -> LeaseId {
    // Each state is keyed by the system's randomness and a counter.
    let bits = RandomState::new().hash_one(0_u8) & (u64::MAX >> 1);
    LeaseId::try_from(bits).expect("the top bit is zero").max(1)
}

type Renewal = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

/// One keep-alive stream: renewals run side by side and are answered in the order asked.
pub(super) struct KeepAlive {
    gateway: Gateway,
    /// Of the stream; its timeout is not that of a renewal.
    call: Call,
    ending: Ending,
    inbound: Inbound<pb::LeaseKeepAliveRequest>,
    inbound_ended: bool,
    renewals: VecDeque<Renewal>,
}

impl KeepAlive {
    /// Takes requests in as long as there are some and room; false if the client failed.
    fn take_in(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        while !self.inbound_ended && self.renewals.len() < RENEWALS_MAX {
            match Pin::new(&mut self.inbound).poll_next(context) {
                Poll::Pending => break,
                Poll::Ready(None) => self.inbound_ended = true,
                Poll::Ready(Some(request)) => {
                    self.gateway.require_leader(self.call)?;
                    let timeout = self.gateway.config().request_timeout;
                    let mut renewal =
                        Box::pin(renew(self.gateway.backend().clone(), request?.id, timeout));
                    // The first poll hands the request over; the answer is fetched in turn.
                    match renewal.as_mut().poll(context) {
                        Poll::Pending => self.renewals.push_back(renewal),
                        Poll::Ready(answer) => {
                            self.renewals.push_back(Box::pin(std::future::ready(answer)));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn answer(
        &self,
        answer: Result<Response, Error>,
    ) -> Result<pb::LeaseKeepAliveResponse, Status> {
        match answer.map_err(error::status)? {
            Response::LeaseKeepAlive { id, ttl } => Ok(pb::LeaseKeepAliveResponse {
                header: Some(self.gateway.current_header()),
                id,
                ttl,
            }),
            _ => Err(error::unexpected_answer()),
        }
    }
}

async fn renew(
    backend: Backend,
    id: LeaseId,
    timeout: std::time::Duration,
) -> Result<Response, Error> {
    match backend.call(Request::LeaseKeepAlive { id }, timeout).await {
        // Not an error here: a TTL of zero says that the lease is gone.
        Err(Error::LeaseNotFound) => Ok(Response::LeaseKeepAlive { id, ttl: 0 }),
        answer => answer,
    }
}

impl Stream for KeepAlive {
    type Item = Result<pb::LeaseKeepAliveResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        if let Poll::Ready(status) = stream.ending.poll_ended(context) {
            return Poll::Ready(Some(Err(status)));
        }
        if let Err(status) = stream.take_in(context) {
            return Poll::Ready(Some(Err(status)));
        }
        let Some(first) = stream.renewals.front_mut() else {
            return if stream.inbound_ended { Poll::Ready(None) } else { Poll::Pending };
        };
        let answer = std::task::ready!(first.as_mut().poll(context));
        stream.renewals.pop_front();
        Poll::Ready(Some(stream.answer(answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_positive_and_differ() {
        let first = random_id();
        assert!(first > 0);
        assert_ne!(first, random_id());
    }
}
