//! What conditions say of a recovery.

use super::{Because, FALSE, TRUE, Verdict, because};
use crate::api::recovery::{RecoveryPhase, RecoveryStatus};
use crate::api::status::HoldfastClusterStatus;

/// The operator is at work on it.
pub(super) fn runs(recovery: &RecoveryStatus) -> bool {
    recovery.phase.disturbs() || recovery.phase.executes()
}

/// It needs a human.
pub(super) fn waits_for_people(status: &HoldfastClusterStatus) -> Because {
    let recovery = status.recovery.as_ref()?;
    let message = format!("recovery {}: {}", recovery.id, recovery.message);
    match recovery.phase {
        RecoveryPhase::Requested if !recovery.message.is_empty() => {
            because("RecoveryHeld", message)
        }
        RecoveryPhase::Reported => because("RecoveryAwaitsConsent", message),
        // A cluster that serves needs none.
        RecoveryPhase::Failed if !serves(status) => because("RecoveryFailed", message),
        _ => None,
    }
}

fn serves(status: &HoldfastClusterStatus) -> bool {
    status.ranges.as_ref().is_some_and(|ranges| ranges.total > 0 && ranges.unavailable == 0)
}

/// The condition `Recovering`.
pub(super) fn recovering(status: &HoldfastClusterStatus) -> Verdict {
    let (status, reason, message) = match &status.recovery {
        None => (FALSE, "NotRequested".to_owned(), String::new()),
        Some(recovery) => {
            let is = if runs(recovery) { TRUE } else { FALSE };
            let message = format!("recovery {}: {}", recovery.id, recovery.message);
            (is, format!("{:?}", recovery.phase), message)
        }
    };
    Verdict { kind: "Recovering", status, reason, message }
}
