//! Server-side apply with one field manager, and only when something is different.
//!
//! Invariants: an object that is as it should be costs no request; fields of others are left alone;
//! only objects that carry our owner reference are deleted.

use crate::build::{Kind, Object};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Who owns the fields that we set.
pub const FIELD_MANAGER: &str = "holdfast-operator";
/// Annotation of every object that we apply: what it was made from. A field that is not set any more
/// shows in nothing else.
pub const APPLIED: &str = "holdfast.dev/applied";

impl Kind {
    /// How the API knows it.
    pub fn resource(self) -> ApiResource {
        let (group, version, kind) = match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount"),
            Self::ConfigMap => ("", "v1", "ConfigMap"),
            Self::Secret => ("", "v1", "Secret"),
            Self::Service => ("", "v1", "Service"),
            Self::StatefulSet => ("apps", "v1", "StatefulSet"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy"),
            Self::PodMonitor => ("monitoring.coreos.com", "v1", "PodMonitor"),
        };
        let gvk = GroupVersionKind::gvk(group, version, kind);
        match self {
            Self::NetworkPolicy => ApiResource::from_gvk_with_plural(&gvk, "networkpolicies"),
            _ => ApiResource::from_gvk(&gvk),
        }
    }
}

/// The body with the annotation of what it is made from.
pub fn stamped(object: &Object) -> Value {
    let text = serde_json::to_vec(&object.body).expect("JSON can be written");
    let hash = Sha256::digest(&text).iter().take(16).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes everything");
        hex
    });
    let mut body = object.body.clone();
    body["metadata"]["annotations"][APPLIED] = hash.into();
    body
}

/// Whether `live` is as `wanted` (a [`stamped`] body): everything in `wanted` is there, and it was
/// last made from the same.
pub fn is_current(wanted: &Value, live: &Value) -> bool {
    let applied = |object: &Value| object["metadata"]["annotations"][APPLIED].clone();
    applied(wanted) == applied(live) && contains(live, wanted)
}

/// Every field of `part` is in `whole`. Lists are compared item by item.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().all(|(key, value)| {
            // The API leaves out what is empty.
            let empty = value.is_null()
                || value.as_object().is_some_and(serde_json::Map::is_empty)
                || value.as_array().is_some_and(Vec::is_empty);
            match whole.get(key) {
                Some(live) => contains(live, value),
                None => empty || key == "apiVersion" || key == "kind",
            }
        }),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len()
                && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        (whole, part) => whole == part,
    }
}

/// Applies one object; `force` takes fields over from others, which is right only for an object that
/// is ours: somebody else's of the same name is a conflict (409).
///
/// # Errors
/// What the API server says.
pub async fn apply(
    client: &Client,
    namespace: &str,
    kind: Kind,
    name: &str,
    body: &Value,
    force: bool,
) -> kube::Result<DynamicObject> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    let params = PatchParams { force, ..PatchParams::apply(FIELD_MANAGER) };
    api.patch(name, &params, &Patch::Apply(body)).await
}

/// Creates one object and never overwrites what is there.
///
/// # Errors
/// What the API server says; 409 if it exists.
pub async fn create(
    client: &Client,
    namespace: &str,
    kind: Kind,
    body: &Value,
) -> kube::Result<DynamicObject> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    let object: DynamicObject =
        serde_json::from_value(body.clone()).map_err(kube::Error::SerdeError)?;
    let params =
        PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    api.create(&params, &object).await
}

/// Deletes an object that we made, this very one.
///
/// # Errors
/// What the API server says.
pub async fn delete(
    client: &Client,
    namespace: &str,
    kind: Kind,
    name: &str,
    uid: &str,
) -> kube::Result<()> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    let params = DeleteParams {
        preconditions: Some(kube::api::Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    api.delete(name, &params).await.map(|_| ())
}

#[cfg(test)]
mod tests;
