//! The rules of the spec once more, in plain Rust.
//!
//! The API server has checked them (CEL), unless the resource is older than the CRD or a rule needs
//! more than CEL sees. Pure: the answer depends on the resource alone.

mod placement;
mod recovery;

use crate::api::HoldfastCluster;
use crate::api::spec::HoldfastClusterSpec;
use crate::build::pod;
use k8s_openapi::api::core::v1::PodTemplateSpec;

/// Checks a resource.
///
/// # Errors
/// One sentence for each broken rule; it names the field.
pub fn validate(cluster: &HoldfastCluster) -> Result<(), Vec<String>> {
    let mut errors = Vec::new();
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() || name.len() > 40 {
        errors.push("metadata.name must have 1 to 40 characters".to_owned());
    }
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.chars().all(letters)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
        || name.ends_with('-')
    {
        errors.push(
            "metadata.name must start with a letter and have no dots: it becomes a part of DNS names"
                .to_owned(),
        );
    }
    spec(&cluster.spec, &mut errors);
    if let Some(bootstrap) = cluster.status.as_ref().and_then(|status| status.bootstrap_nodes)
        && cluster.spec.replicas > bootstrap
    {
        errors.push(format!(
            "replicas ({}) must be at most the {bootstrap} nodes that the cluster was formed with",
            cluster.spec.replicas
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn spec(spec: &HoldfastClusterSpec, errors: &mut Vec<String>) {
    if spec.replicas < 1 || spec.replicas % 2 == 0 {
        errors.push(format!(
            "replicas ({}) must be odd: an even number survives no more failures than one less",
            spec.replicas
        ));
    }
    if spec.nodes < spec.replicas {
        errors.push(format!(
            "nodes ({}) must be at least replicas ({}): each copy of a range needs a node of its own",
            spec.nodes, spec.replicas
        ));
    }
    if let Some(failures) = spec.max_failures
        && (failures < 0 || spec.replicas < 2 * failures + 1)
    {
        errors.push(format!(
            "replicas ({}) must be at least 2 * maxFailures + 1 ({}): a majority of the copies has to survive",
            spec.replicas,
            2 * failures + 1
        ));
    }
    let delay = spec.reprotection.delay.parse();
    let drain_delay = spec.reprotection.drain_delay.parse();
    for (field, value) in [
        ("reprotection.delay", &delay),
        ("reprotection.drainDelay", &drain_delay),
        ("reprotection.observeFor", &spec.reprotection.observe_for.parse()),
    ] {
        if let Err(error) = value {
            errors.push(format!("{field}: {error}"));
        }
    }
    if let (Ok(delay), Ok(drain_delay)) = (delay, drain_delay)
        && drain_delay < delay
    {
        errors.push("reprotection.drainDelay must be at least reprotection.delay".to_owned());
    }
    if percent(&spec.reprotection.max_unhealthy).is_none() {
        errors.push(format!(
            "reprotection.maxUnhealthy: {:?} is not a share like 34%",
            spec.reprotection.max_unhealthy
        ));
    }
    if spec.timing.election_ms < 5 * spec.timing.tick_ms {
        errors.push("timing.electionMs must be at least 5 * timing.tickMs".to_owned());
    }
    if let Some(recovery) = &spec.recovery {
        recovery::recovery(recovery, errors);
    }
    for key in &spec.split_keys {
        if key.0.is_empty() || key.0.contains(|c: char| c == ',' || c.is_whitespace()) {
            errors.push(format!(
                "splitKeys: {:?} must not be empty or have a comma or a space",
                key.0
            ));
        }
    }
    placement::placement(spec, errors);
    if let Some(overlay) = &spec.pod_template {
        match serde_json::from_value::<PodTemplateSpec>(overlay.clone()) {
            Ok(template) => errors.extend(pod::overlay_errors(&template)),
            Err(error) => errors.push(format!("podTemplate is not a pod template: {error}")),
        }
    }
}

/// `34%` as 34.
pub fn percent(text: &str) -> Option<u32> {
    text.strip_suffix('%')?.parse().ok().filter(|share| *share <= 100)
}
