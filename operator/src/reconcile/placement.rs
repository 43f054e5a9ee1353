//! Says to the cluster what was planned about where copies go.

use super::{Reconcile, targets};
use crate::api::HoldfastClusterStatus;
use crate::build::Inputs;
use crate::nodes::Request;
use crate::observe::Observed;
use crate::plan::operations::Outcome;
use crate::plan::placement::{Change, Placing, absorb_change, absorb_domain};
use crate::tls::Identity;
use jiff::Timestamp;

impl Reconcile<'_> {
    /// Says it, and writes into the status what was answered. After the first no, nothing more is said about
    /// failure domains in this look.
    pub(super) async fn place(
        &self,
        inputs: &Inputs,
        observed: &Observed,
        identity: Option<&Identity>,
        placing: &Placing,
        status: &mut HoldfastClusterStatus,
        now: Timestamp,
    ) {
        let Some(identity) = identity else { return };
        let targets = targets(&inputs.name, &inputs.namespace, observed);
        let ask = async |request: Request| {
            let outcome = self.shared().nodes.ask(&targets, identity, request.clone()).await;
            tracing::info!(cluster = inputs.name, ?request, ?outcome, "placed");
            outcome
        };
        for (node, domain) in &placing.domains {
            let request = Request::SetFailureDomain { node: *node, domain: domain.clone() };
            let outcome = ask(request).await;
            let fine = matches!(outcome, Outcome::Accepted(_));
            absorb_domain(status, outcome, now);
            if !fine {
                break;
            }
        }
        if let Some(change) = &placing.change {
            let request = match change.clone() {
                Change::Set { prefix, replicas, allow_fewer } => {
                    Request::SetPolicy { prefix, replicas, allow_fewer }
                }
                Change::Remove { prefix } => Request::RemovePolicy { prefix },
            };
            absorb_change(status, change, ask(request).await, now);
        }
    }
}
