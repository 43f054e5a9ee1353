//! The Secrets that carry certificates; what is in them comes from [`crate::tls`].

use super::{Inputs, Kind, Object};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;

/// Builds a Secret of certificates.
pub fn build(
    inputs: &Inputs,
    name: &str,
    annotations: BTreeMap<String, String>,
    data: BTreeMap<String, Vec<u8>>,
) -> Object {
    let mut metadata = inputs.metadata(name);
    metadata.annotations = Some(annotations);
    let secret = Secret {
        metadata,
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.into_iter().map(|(key, value)| (key, ByteString(value))).collect()),
        ..Secret::default()
    };
    super::object(Kind::Secret, &secret)
}
