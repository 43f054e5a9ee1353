//! The pods' ServiceAccount: a name without any right, and no token in the pods.

use super::Inputs;
use k8s_openapi::api::core::v1::ServiceAccount;

/// Builds it.
pub fn build(inputs: &Inputs) -> ServiceAccount {
    ServiceAccount {
        metadata: inputs.metadata(&inputs.name),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
