//! Names, labels and addresses of everything that belongs to a cluster: fixed, others rely on them.

use std::collections::BTreeMap;

/// Port of the etcd v3 API and, without mutual TLS, of the admin API.
pub const CLIENT_PORT: u16 = 2379;
/// Port between the nodes; the operator uses it too.
pub const PEER_PORT: u16 = 2380;
/// Port of /metrics and the probes.
pub const HTTP_PORT: u16 = 2381;
/// Name of the node's container.
pub const CONTAINER: &str = "node";
/// Name of the volume claim template.
pub const VOLUME: &str = "data";
/// `app.kubernetes.io/managed-by` of everything that the operator makes.
pub const MANAGED_BY: &str = "holdfast-operator";

/// Selects the pods of a cluster. Can never change: a StatefulSet's selector is fixed.
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "holdfast"),
        ("app.kubernetes.io/instance", cluster),
        ("app.kubernetes.io/component", "node"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Says whose an object is. Every pod is made with it, of whatever template; while a node is drained its pod
/// does without, which takes it out of the gateway and changes nothing else.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// All labels of an object of a cluster.
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = selector(cluster);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels
}

/// `a=1,b=2`
pub fn selector_text(cluster: &str) -> String {
    let pairs: Vec<String> =
        selector(cluster).iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// The headless Service of the pods.
pub fn peers_service(cluster: &str) -> String {
    format!("{cluster}-peers")
}

/// The Service of the client port.
pub fn gateway_service(cluster: &str) -> String {
    format!("{cluster}-gateway")
}

/// The ConfigMap.
pub fn config_map(cluster: &str) -> String {
    format!("{cluster}-config")
}

/// A pod.
pub fn pod(cluster: &str, ordinal: i32) -> String {
    format!("{cluster}-{ordinal}")
}

/// The number in a pod's name.
pub fn ordinal(cluster: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(cluster)?.strip_prefix('-')?.parse().ok()
}

/// The volume claim of a pod.
pub fn volume_claim(pod: &str) -> String {
    format!("{VOLUME}-{pod}")
}

/// Name of a pod in the DNS, without the cluster's domain: not every one is `cluster.local`.
pub fn pod_host(cluster: &str, namespace: &str, pod: &str) -> String {
    format!("{pod}.{}.{namespace}.svc", peers_service(cluster))
}

/// Labels of pods that recover a volume: none of those that select nodes.
pub fn recovery_labels(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = labels(cluster);
    labels.insert("app.kubernetes.io/component".to_owned(), "recovery".to_owned());
    labels
}

/// The pod of a recovery that looks at a volume, or changes it; no pod of a node ends like this.
pub fn recovery_pod(cluster: &str, id: &str, write: bool, number: i32) -> String {
    format!("{cluster}-recovery-{id}-{}{number}", if write { "run" } else { "look" })
}

/// The ConfigMap with what such a pod printed: before consent, or after.
pub fn recovery_report(cluster: &str, id: &str, after: bool) -> String {
    format!("{cluster}-recovery-{id}-{}", if after { "outcome" } else { "report" })
}

/// Secret with the certificate authority; nobody but the operator reads it.
pub fn ca_secret(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// Secret with the authority for clients' certificates; nobody but the operator reads it.
pub fn client_ca_secret(cluster: &str) -> String {
    format!("{cluster}-client-ca")
}

/// Secret that the pods mount.
pub fn node_tls_secret(cluster: &str) -> String {
    format!("{cluster}-node-tls")
}

/// Secret for clients.
pub fn client_tls_secret(cluster: &str) -> String {
    format!("{cluster}-client-tls")
}

/// Secret with the operator's own certificate.
pub fn operator_tls_secret(cluster: &str) -> String {
    format!("{cluster}-operator-tls")
}
