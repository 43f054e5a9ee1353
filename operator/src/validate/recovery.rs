//! The rules of `spec.recovery`.

use crate::api::recovery::{Recovery, RecoveryMode};

/// Adds a sentence for each broken rule: pods and ConfigMaps are named after the id, and arguments are made
/// of the rest.
pub(super) fn recovery(recovery: &Recovery, errors: &mut Vec<String>) {
    let id = &recovery.id;
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = id.starts_with('-') || id.ends_with('-');
    if id.is_empty() || id.len() > 24 || !id.chars().all(letters) || ends {
        errors.push(format!(
            "recovery.id: {id:?} must be 1 to 24 small letters, digits and dashes between them"
        ));
    }
    let named = !recovery.ranges.is_empty();
    if named != (recovery.mode == RecoveryMode::Ranges) {
        errors.push(
            "recovery.ranges names the ranges of mode Ranges, and nothing in mode WholeCluster"
                .to_owned(),
        );
    }
    if let Some(range) = recovery.ranges.iter().find(|range| **range < 2) {
        errors.push(format!("recovery.ranges: {range} is not the number of a range with keys"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_recovery_is_named_well_and_says_which_ranges_if_any() {
        let errors = |request: serde_json::Value| {
            let mut errors = Vec::new();
            recovery(&serde_json::from_value(request).unwrap(), &mut errors);
            errors.join("; ")
        };
        assert_eq!(errors(json!({"id": "flood-1", "from": "demo-1"})), "");
        let ranges = json!({"id": "a", "from": "demo-1", "mode": "Ranges", "ranges": [4, 7]});
        assert_eq!(errors(ranges), "");
        for (id, ranges, part) in [
            ("-a", json!([]), "recovery.id"),
            ("A", json!([]), "recovery.id"),
            ("", json!([]), "recovery.id"),
            ("aaaaaaaaaaaaaaaaaaaaaaaaa", json!([]), "recovery.id"),
            ("a", json!([4]), "recovery.ranges names"),
        ] {
            let found = errors(json!({"id": id, "from": "demo-1", "ranges": ranges}));
            assert!(found.starts_with(part), "{id} {ranges}: {found}");
        }
        let meta = json!({"id": "a", "from": "demo-1", "mode": "Ranges", "ranges": [1]});
        assert!(errors(meta).contains("1 is not the number"));
    }
}
