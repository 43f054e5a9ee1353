//! Where copies go and how many there are: what a user asks for, and what the operator answers.
//!
//! Invariant: a policy that stands in the status belongs to the resource, and no other does. It stands there
//! before the cluster is asked for it, and until the cluster has it no more.

use super::status::keyed;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// Policies at most. The cluster takes one more, which is that for all keys.
pub const POLICIES_MAX: usize = 99;
/// Longest prefix in bytes.
pub const PREFIX_MAX: usize = 1024;

/// Where copies go, and how many there are.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Keys that have other numbers of copies than `replicas`. The longest prefix of a key decides. A policy
    /// that is taken out of here is removed; those that were set by command, under other prefixes, stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "policies_schema")]
    pub policies: Vec<Policy>,
    /// What nodes fail together with: copies of a range are spread over failure domains.
    #[serde(default)]
    pub failure_domain: FailureDomain,
}

/// How many copies the ranges under a prefix have.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// First bytes of the keys: text, or hex after `0x`.
    #[schemars(length(min = 1, max = 2050))]
    #[x_kube(
        validation = Rule::new("!self.startsWith('0x') || self.matches('^0x([0-9a-fA-F][0-9a-fA-F])+$')")
            .message("prefix must have two hex digits a byte after 0x")
    )]
    pub prefix: String,
    /// How many: odd, at most `nodes`.
    #[schemars(range(min = 1, max = 7))]
    #[x_kube(
        validation = Rule::new("self % 2 == 1")
            .message("replicas must be odd: an even number survives no more failures than one less")
    )]
    pub replicas: i32,
    /// Also fewer than the cluster's `replicas`: these keys then survive fewer failures than all others, with
    /// one copy none.
    #[serde(default)]
    pub allow_fewer: bool,
}

/// What nodes fail together with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FailureDomain {
    /// Who says it. A node that was started with `--failure-domain` says it itself, whatever stands here.
    #[serde(default)]
    pub mode: FailureDomainMode,
    /// The label of Kubernetes nodes that tells the failure domain of their pods, for example
    /// `kubernetes.io/hostname` or one of your own for racks.
    #[serde(default = "default_topology_key")]
    #[schemars(length(min = 1, max = 317))]
    #[schemars(regex(
        pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
    ))]
    pub topology_key: String,
}

impl Default for FailureDomain {
    fn default() -> Self {
        Self { mode: FailureDomainMode::default(), topology_key: default_topology_key() }
    }
}

/// Who says what nodes fail together with.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureDomainMode {
    /// The label `topologyKey` of the Kubernetes node that a pod is on. Without the label, a node fails
    /// alone.
    #[default]
    Topology,
    /// Every node fails alone.
    None,
}

fn default_topology_key() -> String {
    "topology.kubernetes.io/zone".to_owned()
}

impl FailureDomain {
    /// The label that tells, if one does.
    pub fn label(&self) -> Option<&str> {
        (self.mode == FailureDomainMode::Topology).then_some(self.topology_key.as_str())
    }
}

/// The bytes of a prefix.
///
/// # Errors
/// What is wrong with it, as a sentence without its subject.
pub fn prefix_bytes(text: &str) -> Result<Vec<u8>, String> {
    let bytes = match text.strip_prefix("0x") {
        None => text.as_bytes().to_vec(),
        Some(hex) => hex
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                let digits = std::str::from_utf8(pair).ok().filter(|it| {
                    it.len() == 2 && it.chars().all(|digit| digit.is_ascii_hexdigit())
                });
                u8::from_str_radix(digits?, 16).ok()
            })
            .collect::<Option<_>>()
            .ok_or("must have two hex digits a byte after 0x")?,
    };
    match bytes.len() {
        0 => {
            Err("must not be empty: spec.replicas is for all keys that no policy names".to_owned())
        }
        1..=PREFIX_MAX => Ok(bytes),
        _ => Err(format!("must have at most {PREFIX_MAX} bytes")),
    }
}

/// What became of `spec.placement`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PlacementStatus {
    /// The policies of the resource, until they are removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "policy_states_schema")]
    pub policies: Vec<PolicyStatus>,
    /// The cluster would not hear what a node fails together with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_domain_refused: Option<Refused>,
}

impl PlacementStatus {
    /// There is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.failure_domain_refused.is_none()
    }
}

/// What became of a policy.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// As in the spec.
    pub prefix: String,
    /// How many copies are asked for.
    pub replicas: i32,
    /// How far it is.
    pub state: PolicyState,
    /// Ranges under the prefix. Absent until the cluster has the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges: Option<i64>,
    /// Those of them that have as many copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete: Option<i64>,
    /// Why it is not set, or not removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// How far a policy is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyState {
    /// Written down; the cluster does not have it yet.
    Pending,
    /// The cluster said no; it is asked again.
    Refused,
    /// The cluster has it; ranges are cut, and copies made or taken away.
    Copying,
    /// Every range under it has as many copies.
    Met,
    /// It is not in the spec any more, and about to go.
    Removing,
}

/// A no, and when to ask again.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// The reason.
    pub message: String,
    /// When it is asked again; at the next look if nothing stands here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// How often it was refused.
    #[serde(default)]
    pub refusals: i32,
}

fn policies_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = keyed::<Policy>(generator, "prefix");
    schema.insert("maxItems".to_owned(), POLICIES_MAX.into());
    schema
}

fn policy_states_schema(generator: &mut SchemaGenerator) -> Schema {
    keyed::<PolicyStatus>(generator, "prefix")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_text_or_hex() {
        assert_eq!(prefix_bytes("users/"), Ok(b"users/".to_vec()));
        assert_eq!(prefix_bytes("0x00fF"), Ok(vec![0, 255]));
        let long = "a".repeat(PREFIX_MAX + 1);
        for (text, part) in [
            ("", "not be empty"),
            ("0x", "not be empty"),
            ("0x0", "two hex digits"),
            ("0x+1", "two hex digits"),
            ("0xé", "two hex digits"),
            (&long, "at most 1024 bytes"),
        ] {
            let why = prefix_bytes(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
