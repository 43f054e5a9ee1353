//! The Watch service: any number of watches on one stream.
//!
//! The stream is one state machine ([`session::Session`]) that its connection's task polls: no task
//! and no lock of its own. A client that does not read stops the polling; the news then waits in
//! the bounded buffer of [`super::backend::Watches`], and too much of it ends the stream.

mod fragment;
mod session;

use super::Gateway;
use super::cut_off::jitter;
use super::grpc::Call;
use super::streams::{Ending, Inbound};
use holdfast_proto::etcdserverpb as pb;
use session::Session;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::Stream;
use tonic::Status;

impl Gateway {
    pub(super) fn watch(
        &self,
        call: Call,
        ending: Ending,
        inbound: Inbound<pb::WatchRequest>,
    ) -> Result<WatchStream, Status> {
        self.require_leader(call)?;
        let period = with_jitter(self.config().watch_progress_interval);
        let mut progress = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(WatchStream { session: Session::new(self.clone()), inbound, progress, ending })
    }
}

/// A little longer than `interval`, so that watches opened together do not all speak at once.
fn with_jitter(interval: Duration) -> Duration {
    interval + jitter(interval / 10)
}

/// One client's watches.
pub(super) struct WatchStream {
    session: Session,
    inbound: Inbound<pb::WatchRequest>,
    progress: Interval,
    ending: Ending,
}

impl Stream for WatchStream {
    type Item = Result<pb::WatchResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        loop {
            if let Some(response) = stream.session.next_response() {
                return Poll::Ready(Some(Ok(response)));
            }
            if let Poll::Ready(status) = stream.ending.poll_ended(context) {
                return Poll::Ready(Some(Err(status)));
            }
            // Requests first: a cancel must not wait behind a flood of news.
            match Pin::new(&mut stream.inbound).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => {
                    stream.session.on_request(request);
                    continue;
                }
                // The client is done, gone, or sends what is no request.
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Pending => {}
            }
            match stream.session.poll_news(context) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(status)) => return Poll::Ready(Some(Err(status))),
                Poll::Pending => {}
            }
            std::task::ready!(stream.progress.poll_tick(context));
            stream.session.on_progress_tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_at_most_a_tenth() {
        for _ in 0..100 {
            let period = with_jitter(Duration::from_secs(10));
            assert!((Duration::from_secs(10)..Duration::from_secs(11)).contains(&period));
        }
    }
}
