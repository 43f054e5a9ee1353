//! How many pods Kubernetes may take away by its own decision, for example to drain one of its nodes.

use super::{Inputs, names};
use crate::api::spec::DisruptionBudgetMode;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Builds it.
pub fn build(inputs: &Inputs) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: inputs.metadata(&inputs.name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(allowed(inputs))),
            selector: Some(LabelSelector {
                match_labels: Some(names::selector(&inputs.name)),
                ..LabelSelector::default()
            }),
            // A pod that is broken anyway does not keep its Kubernetes node from being drained, as
            // long as the others are well.
            unhealthy_pod_eviction_policy: Some("IfHealthyBudget".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// One less than the failures that the data survives, so that there is room for one, but at least one.
fn allowed(inputs: &Inputs) -> i32 {
    let failures = inputs.spec.max_failures();
    let planned = if failures == 0 { 0 } else { (failures - 1).max(1) };
    match inputs.spec.pod_disruption_budget.mode {
        DisruptionBudgetMode::Dynamic if !inputs.fully_replicated => 0,
        _ if inputs.stopped => 0,
        _ => planned,
    }
}
