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
    // Whether the alarm is this node's own: raised by it now, or found when it started.
    let mut own = None;
    loop {
        if let Err(error) = look(&backend, &mut own).await {
            debug!("the alarm of this node cannot be changed now: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn look(backend: &Backend, own: &mut Option<bool>) -> Result<(), Error> {
    let raised = match *own {
        Some(raised) => raised,
        None => *own.insert(ask(backend, AlarmAction::Get).await?),
    };
    let Some(full) = backend.vitals().disk_full().filter(|full| *full != raised) else {
        return Ok(());
    };
    let action = if full { AlarmAction::Activate } else { AlarmAction::Deactivate };
    ask(backend, action).await?;
    *own = Some(full);
    info!("alarm NOSPACE of this node: {}", if full { "raised" } else { "cleared" });
    Ok(())
}

/// Whether the alarm of this node is raised after `action`.
async fn ask(backend: &Backend, action: AlarmAction) -> Result<bool, Error> {
    let node = backend.vitals().node();
    let alarm = AlarmKind::NoSpace;
    let request = Request::Alarm { action, member: node.0, alarm };
    match backend.call(request, TIMEOUT).await? {
        Response::Alarm { alarms } => Ok(alarms.contains(&(node, alarm))),
        other => {
            debug!("not an answer about alarms: {other:?}");
            Ok(false)
        }
    }
}
