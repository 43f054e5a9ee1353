//! The rules of `spec.placement`. That no two policies are for the same bytes is more than CEL sees.

use crate::api::placement::{POLICIES_MAX, prefix_bytes};
use crate::api::spec::HoldfastClusterSpec;
use std::collections::BTreeMap;

/// Adds a sentence for each broken rule.
pub(super) fn placement(spec: &HoldfastClusterSpec, errors: &mut Vec<String>) {
    let policies = &spec.placement.policies;
    if policies.len() > POLICIES_MAX {
        errors.push(format!(
            "placement.policies: {} are more than {POLICIES_MAX}: each cuts ranges at two places",
            policies.len()
        ));
    }
    let mut seen: BTreeMap<Vec<u8>, &str> = BTreeMap::new();
    for policy in policies {
        let name = format!("placement.policies[{:?}]", policy.prefix);
        match prefix_bytes(&policy.prefix) {
            Err(rule) => errors.push(format!("{name}: prefix {rule}")),
            Ok(bytes) => {
                if let Some(other) = seen.insert(bytes, &policy.prefix) {
                    errors.push(format!("{name}: {other:?} is the same prefix: name it once"));
                }
            }
        }
        let copies = policy.replicas;
        if ![1, 3, 5, 7].contains(&copies) {
            errors.push(format!(
                "{name}: replicas ({copies}) must be 1, 3, 5 or 7: an even number survives no more failures than one less"
            ));
        }
        if copies > spec.nodes {
            errors.push(format!(
                "{name}: replicas ({copies}) must be at most nodes ({}): each copy of a range needs a node of its own",
                spec.nodes
            ));
        }
        if copies < spec.replicas && !policy.allow_fewer {
            errors.push(format!(
                "{name}: replicas ({copies}) are fewer than the cluster's ({}), so these keys survive fewer failures: say allowFewer if that is meant",
                spec.replicas
            ));
        }
    }
    if spec.placement.failure_domain.topology_key.is_empty() {
        errors.push("placement.failureDomain.topologyKey must not be empty".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    fn errors(placement: Value) -> Vec<String> {
        let spec = json!({"nodes": 5, "placement": placement});
        let mut errors = Vec::new();
        super::placement(&serde_json::from_value(spec).unwrap(), &mut errors);
        errors
    }

    #[test]
    fn what_makes_sense_is_taken() {
        let policies = json!([
            {"prefix": "users/", "replicas": 5},
            {"prefix": "0x00ff", "replicas": 3},
            {"prefix": "cache/", "replicas": 1, "allowFewer": true},
        ]);
        assert_eq!(errors(json!({"policies": policies})), Vec::<String>::new());
        assert_eq!(errors(json!({})), Vec::<String>::new());
        assert_eq!(errors(json!({"failureDomain": {"mode": "None"}})), Vec::<String>::new());
    }

    #[test]
    fn each_broken_rule_is_a_sentence_that_names_the_policy() {
        let many: Vec<Value> =
            (0..100).map(|at| json!({"prefix": format!("p{at}"), "replicas": 3})).collect();
        for (policies, part) in [
            (json!([{"prefix": "a", "replicas": 4}]), "must be 1, 3, 5 or 7"),
            (json!([{"prefix": "a", "replicas": 9}]), "must be 1, 3, 5 or 7"),
            (json!([{"prefix": "a", "replicas": 7}]), "at most nodes (5)"),
            (json!([{"prefix": "a", "replicas": 1}]), "say allowFewer"),
            (json!([{"prefix": "", "replicas": 3}]), "must not be empty"),
            (json!([{"prefix": "0x1", "replicas": 3}]), "two hex digits"),
            (
                json!([{"prefix": "a", "replicas": 3}, {"prefix": "0x61", "replicas": 5}]),
                "is the same prefix",
            ),
            (json!(many), "more than 99"),
        ] {
            let errors = errors(json!({"policies": policies}));
            assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:?}");
        }
    }
}
