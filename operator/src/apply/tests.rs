//! When an object counts as current.

use super::*;
use serde_json::json;

fn object(body: Value) -> Object {
    Object { kind: Kind::ConfigMap, name: "a".to_owned(), body }
}

#[test]
fn what_the_server_adds_is_no_difference() {
    let wanted = stamped(&object(json!({
        "apiVersion": "v1", "metadata": {"name": "a", "labels": {"x": "1"}},
        "data": {"k": "v"}, "list": [{"p": 1}], "empty": {}, "none": null
    })));
    let mut live = wanted.clone();
    live["metadata"]["uid"] = "u".into();
    live["list"][0]["default"] = "TCP".into();
    live.as_object_mut().unwrap().remove("empty");
    live.as_object_mut().unwrap().remove("apiVersion");
    assert!(is_current(&wanted, &live));
}

#[test]
fn a_changed_a_missing_and_a_dropped_field_are_differences() {
    let old = stamped(&object(json!({"metadata": {"name": "a"}, "data": {"k": "v", "l": "w"}})));
    for change in [json!({"k": "other", "l": "w"}), json!({"k": "v"})] {
        let mut live = old.clone();
        live["data"] = change;
        assert!(!is_current(&old, &live));
    }
    // We do not set `l` any more; the live object still has everything else.
    let new = stamped(&object(json!({"metadata": {"name": "a"}, "data": {"k": "v"}})));
    assert!(!is_current(&new, &old));
}

#[test]
fn kinds_have_the_right_addresses() {
    let plural = |kind: Kind| kind.resource().plural;
    assert_eq!(plural(Kind::NetworkPolicy), "networkpolicies");
    assert_eq!(plural(Kind::PodDisruptionBudget), "poddisruptionbudgets");
    assert_eq!(plural(Kind::StatefulSet), "statefulsets");
    assert_eq!(plural(Kind::PodMonitor), "podmonitors");
    assert_eq!(Kind::StatefulSet.resource().api_version, "apps/v1");
}
