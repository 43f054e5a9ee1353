//! Who may connect to the pods: clients and monitoring from anywhere, but to the peer port only the
//! cluster's own pods and the operator.

use super::{Inputs, names};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Builds it.
pub fn build(inputs: &Inputs) -> NetworkPolicy {
    let own = LabelSelector {
        match_labels: Some(names::selector(&inputs.name)),
        ..LabelSelector::default()
    };
    // It asks whether the other nodes are gone: silence must not come from here.
    let recovery = LabelSelector {
        match_labels: Some(names::recovery_labels(&inputs.name)),
        ..LabelSelector::default()
    };
    let operator = LabelSelector {
        match_labels: Some(
            [("app.kubernetes.io/name".to_owned(), names::MANAGED_BY.to_owned())].into(),
        ),
        ..LabelSelector::default()
    };
    NetworkPolicy {
        metadata: inputs.metadata(&inputs.name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(own.clone()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    ports: Some(vec![port("client"), port("http")]),
                    from: None,
                },
                NetworkPolicyIngressRule {
                    ports: Some(vec![port("peer")]),
                    from: Some(vec![
                        NetworkPolicyPeer {
                            pod_selector: Some(own),
                            ..NetworkPolicyPeer::default()
                        },
                        NetworkPolicyPeer {
                            pod_selector: Some(recovery),
                            ..NetworkPolicyPeer::default()
                        },
                        NetworkPolicyPeer {
                            // The operator may live in any namespace; its certificate is what
                            // counts, this only keeps others from trying.
                            namespace_selector: Some(LabelSelector::default()),
                            pod_selector: Some(operator),
                            ..NetworkPolicyPeer::default()
                        },
                    ]),
                },
            ]),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn port(name: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    }
}

#[cfg(test)]
mod tests;
