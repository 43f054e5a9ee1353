//! The two Services: names for the pods, and the way in for clients.

use super::{Inputs, names};
use crate::api::spec::ServiceType;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Headless: gives every pod a name in the DNS, ready or not, because nodes have to find each other
/// before any of them can be ready.
pub fn peers(inputs: &Inputs) -> Service {
    Service {
        metadata: inputs.metadata(&names::peers_service(&inputs.name)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names::selector(&inputs.name)),
            ports: Some(vec![
                port("client", names::CLIENT_PORT),
                port("peer", names::PEER_PORT),
                port("http", names::HTTP_PORT),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The gateway: the client port of those pods whose front end says that it can serve, but for those that
/// are drained.
pub fn gateway(inputs: &Inputs) -> Service {
    let asked = &inputs.spec.gateway.service;
    let mut metadata = inputs.metadata(&names::gateway_service(&inputs.name));
    if !asked.annotations.is_empty() {
        metadata.annotations = Some(asked.annotations.clone());
    }
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(asked.kind.as_str().to_owned()),
            selector: Some(names::labels(&inputs.name)),
            ports: Some(vec![port("client", names::CLIENT_PORT)]),
            // Every node is as good as any other, so connections from outside need no second hop.
            external_traffic_policy: (asked.kind == ServiceType::LoadBalancer)
                .then(|| "Local".to_owned()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number.into(),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}
