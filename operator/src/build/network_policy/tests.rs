//! What the rules mean, by Kubernetes' own definition: no pod network of the end-to-end tests enforces them.

use super::*;
use std::collections::BTreeMap;

type Labels = BTreeMap<String, String>;

/// Who connects: its labels, and whether it is in the namespace of the policy.
struct From {
    labels: Labels,
    here: bool,
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    assert!(selector.match_expressions.is_none(), "the test knows only labels");
    let wanted = selector.match_labels.iter().flatten();
    wanted.into_iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether a pod that the policy selects may be reached at a named port.
fn allows(policy: &NetworkPolicySpec, from: &From, port: &str) -> bool {
    let named = IntOrString::String(port.to_owned());
    policy.ingress.iter().flatten().any(|rule| {
        let ports = rule.ports.as_ref();
        let at = ports.is_none_or(|ports| ports.iter().any(|it| it.port.as_ref() == Some(&named)));
        let peers = rule.from.as_ref();
        let by = peers.is_none_or(|peers| {
            peers.iter().any(|peer| {
                assert!(peer.ip_block.is_none(), "the test knows no addresses");
                // Without a selector of namespaces, only its own.
                let place = match &peer.namespace_selector {
                    Some(selector) => selects(selector, &Labels::new()),
                    None => from.here,
                };
                place && peer.pod_selector.as_ref().is_none_or(|it| selects(it, &from.labels))
            })
        });
        at && by
    })
}

#[test]
fn only_nodes_of_the_cluster_and_the_operator_reach_the_peer_port() {
    let cluster = serde_json::from_value(serde_json::json!({
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "HoldfastCluster",
        "metadata": {"name": "demo", "namespace": "ns", "uid": "u"},
        "spec": {},
    }))
    .unwrap();
    let policy = build(&Inputs::new(&cluster)).spec.unwrap();
    assert!(selects(policy.pod_selector.as_ref().unwrap(), &names::labels("demo")));
    assert!(!selects(policy.pod_selector.as_ref().unwrap(), &names::labels("other")));
    assert_eq!(
        policy.policy_types,
        Some(vec!["Ingress".to_owned()]),
        "nothing is kept from going out"
    );
    let label = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
    let operator = label("app.kubernetes.io/name", names::MANAGED_BY);
    let rows = [
        ("a node of the cluster", names::labels("demo"), true, true),
        ("one that is drained", names::selector("demo"), true, true),
        ("a recovery of the cluster", names::recovery_labels("demo"), true, true),
        ("a recovery of another cluster", names::recovery_labels("other"), true, false),
        ("the operator, anywhere", operator.clone(), false, true),
        ("the operator, here", operator, true, true),
        ("a node of another cluster", names::labels("other"), true, false),
        ("one of that name elsewhere", names::labels("demo"), false, false),
        ("a client", label("app", "shop"), true, false),
        ("a client elsewhere", Labels::new(), false, false),
    ];
    for (who, labels, here, peers) in rows {
        let from = From { labels, here };
        assert!(allows(&policy, &from, "client"), "{who} is a client");
        assert!(allows(&policy, &from, "http"), "{who} may look");
        assert_eq!(allows(&policy, &from, "peer"), peers, "{who}");
    }
}
