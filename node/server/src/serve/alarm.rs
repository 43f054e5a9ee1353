//! Raises the alarm `NOSPACE` for this node when its disk becomes full, as an etcd member does, and,
//! unlike etcd, clears it when there is room again (or was none before a restart).
//!
//! Invariant: only a change of the disk changes the alarm, so that what an administrator raises or
//! clears stays as it is.

use crate::gateway::backend::Backend;
use holdfast_core::error::Error;
use holdfast_core::request::{AlarmAction, AlarmKind, Request, Response};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// Between two looks at the disk, and between attempts.
const INTERVAL: Duration = Duration::from_millis(500);

/// Longest wait for the meta range.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Follows the disk until `stop`.
pub(super) async fn follow(backend: Backend, stop: CancellationToken) {
    let mut told = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let full = backend.vitals().disk_full();
        let Some(now_full) = full.filter(|_| full != told) else { continue };
        match set(&backend, now_full).await {
            Ok(()) => told = full,
            Err(error) => debug!("the alarm of this node cannot be changed now: {error}"),
        }
    }
}

async fn set(backend: &Backend, full: bool) -> Result<(), Error> {
    let node = backend.vitals().node();
    let (member, alarm) = (node.0, AlarmKind::NoSpace);
    let get = Request::Alarm { action: AlarmAction::Get, member, alarm };
    let raised = match backend.call(get, TIMEOUT).await? {
        Response::Alarm { alarms } => alarms.contains(&(node, alarm)),
        _ => false,
    };
    if raised != full {
        let action = if full { AlarmAction::Activate } else { AlarmAction::Deactivate };
        backend.call(Request::Alarm { action, member, alarm }, TIMEOUT).await?;
        info!("alarm NOSPACE of this node: {}", if full { "raised" } else { "cleared" });
    }
    Ok(())
}
