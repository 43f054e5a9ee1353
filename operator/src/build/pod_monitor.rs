//! The PodMonitor of the Prometheus operator, where its kind exists.

use super::{Inputs, Kind, Object, names};
use serde_json::json;

/// Builds it.
pub fn build(inputs: &Inputs) -> Object {
    let metadata =
        serde_json::to_value(inputs.metadata(&inputs.name)).expect("metadata is plain data");
    Object {
        kind: Kind::PodMonitor,
        name: inputs.name.clone(),
        body: json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": metadata,
            "spec": {
                "selector": { "matchLabels": names::selector(&inputs.name) },
                "podMetricsEndpoints": [{ "port": "http", "path": "/metrics" }],
            },
        }),
    }
}
