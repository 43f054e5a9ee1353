//! The resource `HoldfastCluster`: what people write, and what the operator answers.
//!
//! These types are the only source of `crds/`; a test fails when the two differ.

pub mod duration;
pub mod placement;
pub mod recovery;
pub mod spec;
pub mod status;

pub use duration::HumanDuration;
pub use spec::{HoldfastCluster, HoldfastClusterSpec};
pub use status::HoldfastClusterStatus;

use kube::CustomResourceExt as _;

/// The API group of everything that is ours.
pub const GROUP: &str = "holdfast.dev";

/// Asks, with a pod's name as value, to give this pod a new, empty volume.
pub const REPLACE_ANNOTATION: &str = "holdfast.dev/replace";

/// The CRDs as YAML, as they are in `crds/`.
pub fn crds() -> String {
    let crd = serde_yaml::to_string(&HoldfastCluster::crd()).expect("a CRD is plain data");
    format!("# Made from the types in operator/src/api by `holdfast-operator crds`.\n---\n{crd}")
}
