//! The nodes' configuration file. Kubernetes refreshes it in running pods, and nodes read it when they
//! start: so a change of it never restarts a pod.
//!
//! Invariant: the list of the nodes that form the cluster never changes; once they did,
//! `initial-cluster-state` is `existing` for ever, so that an emptied disk joins and never founds.

use super::{Inputs, names};
use k8s_openapi::api::core::v1::ConfigMap;
use std::fmt::Write as _;

/// Key of the file.
pub const FILE: &str = "holdfast.conf";

/// How long a node that is told to stop, or has left for good, goes on serving clients.
const STOP_DELAY: &str = "5s";

/// Builds it.
pub fn build(inputs: &Inputs) -> ConfigMap {
    ConfigMap {
        metadata: inputs.metadata(&names::config_map(&inputs.name)),
        data: Some([(FILE.to_owned(), file(inputs))].into()),
        ..ConfigMap::default()
    }
}

fn file(inputs: &Inputs) -> String {
    let members: Vec<String> = (0..inputs.bootstrap_nodes)
        .map(|ordinal| {
            let pod = names::pod(&inputs.name, ordinal);
            let host = names::pod_host(&inputs.name, &inputs.namespace, &pod);
            format!("{pod}={host}:{}", names::PEER_PORT)
        })
        .collect();
    let spec = &inputs.spec;
    let splits: Vec<&str> = spec.split_keys.iter().map(|key| key.0.as_str()).collect();
    let lines = [
        ("initial-cluster", members.join(",")),
        ("initial-cluster-state", if inputs.bootstrapped { "existing" } else { "new" }.to_owned()),
        ("cluster-token", inputs.uid.clone()),
        ("replicas", spec.replicas.to_string()),
        ("split-keys", splits.join(",")),
        ("tick-ms", spec.timing.tick_ms.to_string()),
        ("election-ms", spec.timing.election_ms.to_string()),
        // A node that was told to stop is out of the gateway within this time, and serves until then.
        ("stop-delay", STOP_DELAY.to_owned()),
    ];
    let mut text = "# Written by holdfast-operator; changes are undone.\n".to_owned();
    for (name, value) in lines {
        if !value.is_empty() {
            writeln!(text, "{name} = {value}").expect("a string takes everything");
        }
    }
    text
}
