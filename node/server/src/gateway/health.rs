//! The gRPC health service (`grpc.health.v1.Health`) for the whole server, service name "".

use super::Gateway;
use super::backend::Backend;
use super::streams::Ending;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::Stream;
use tonic::Status;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// How often a stream looks for a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

impl Gateway {
    pub(super) fn health_check(
        &self,
        request: &HealthCheckRequest,
    ) -> Result<HealthCheckResponse, Status> {
        if request.service.is_empty() {
            Ok(response(serving(self.backend())))
        } else {
            Err(Status::not_found("unknown service"))
        }
    }

    pub(super) fn health_watch(&self, ending: Ending, request: &HealthCheckRequest) -> HealthWatch {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        HealthWatch {
            backend: self.backend().clone(),
            ending,
            known: request.service.is_empty(),
            told: None,
            interval,
        }
    }
}

/// Tells the status now and each time it changes.
pub(super) struct HealthWatch {
    backend: Backend,
    ending: Ending,
    known: bool,
    told: Option<ServingStatus>,
    interval: Interval,
}

impl Stream for HealthWatch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        loop {
            if let Poll::Ready(status) = stream.ending.poll_ended(context) {
                return Poll::Ready(Some(Err(status)));
            }
            std::task::ready!(stream.interval.poll_tick(context));
            let now =
                if stream.known { serving(&stream.backend) } else { ServingStatus::ServiceUnknown };
            if stream.told != Some(now) {
                stream.told = Some(now);
                return Poll::Ready(Some(Ok(response(now))));
            }
        }
    }
}

fn serving(backend: &Backend) -> ServingStatus {
    let vitals = backend.vitals();
    if vitals.has_leader() && !vitals.draining() {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
