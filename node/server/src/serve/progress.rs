//! Follows the making of copies on the node that leads the meta range, so that whoever asks any node
//! hears how far it is and when it will be over.
//!
//! Invariant: nothing is asked of other nodes while no copies are made.

use crate::gateway::{Estimator, Gateway};
use crate::metrics::Metrics;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Between two looks, at least.
const INTERVAL: Duration = Duration::from_secs(1);

/// And at least so many times what a look takes: the nodes work for it, the more the more ranges.
const LOOK_PART: u32 = 50;

/// But no longer than this.
const INTERVAL_MAX: Duration = Duration::from_secs(10);

/// Follows until `stop`.
pub(super) async fn follow(gateway: Gateway, metrics: Arc<Metrics>, stop: CancellationToken) {
    let start = Instant::now();
    let mut estimator = None;
    let mut pause = INTERVAL;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let mut progress = None;
        pause = INTERVAL;
        if gateway.makes_copies() {
            let began = Instant::now();
            let left = gateway.left().await;
            pause = INTERVAL.max(began.elapsed() * LOOK_PART).min(INTERVAL_MAX);
            let estimator = estimator.get_or_insert_with(Estimator::default);
            progress = estimator.look(start.elapsed(), left);
        } else {
            estimator = None;
        }
        gateway.set_progress(progress);
        metrics.reprotection(progress);
    }
}
