//! The steps of a recovery, carried out.

use super::{Reconcile, gone_is_fine, only};
use crate::api::recovery::RecoveryStatus;
use crate::apply;
use crate::build::{Inputs, Kind, names, recovery};
use crate::observe::recovery::PRINTED_BY;
use crate::plan::recovery::Step;
use crate::stores::Stores;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{LogParams, PostParams};
use std::collections::BTreeMap;

/// At most so much of what a pod has printed is kept: a ConfigMap holds 1 MiB.
const KEPT_BYTES: i64 = 900 << 10;

/// ConfigMaps with what pods of recoveries have printed: the UID of the pod.
pub(super) fn kept(stores: &Stores, namespace: &str, cluster: &str) -> BTreeMap<String, String> {
    let maps = stores.config_maps_of(namespace, cluster).into_iter();
    maps.filter_map(|(name, map)| {
        let by = map.metadata.annotations.as_ref()?.get(PRINTED_BY)?.clone();
        Some((name, by))
    })
    .collect()
}

impl Reconcile<'_> {
    /// Takes one step; doing it twice is doing it once.
    pub(super) async fn recover(
        &self,
        inputs: &Inputs,
        recovery: &RecoveryStatus,
        step: &Step,
    ) -> Result<(), (String, kube::Error)> {
        let Step::StartPod { name, host, write } = step else {
            return self.recover_tidy(inputs, step).await;
        };
        tracing::info!(cluster = inputs.name, ?step, "recovery");
        let pod = recovery::pod(inputs, recovery, name, host.as_deref(), *write);
        self.shared().metrics.wrote();
        let made = self.pods(inputs).create(&PostParams::default(), &pod).await;
        // Made already, and the watched copy does not show it yet.
        gone_is_fine(made.map(drop)).map_err(|error| (format!("pod {name}"), error))
    }

    /// The steps that need no more than names.
    pub(super) async fn recover_tidy(
        &self,
        inputs: &Inputs,
        step: &Step,
    ) -> Result<(), (String, kube::Error)> {
        tracing::info!(cluster = inputs.name, ?step, "recovery");
        match step {
            Step::StartPod { .. } => Ok(()),
            Step::StopNode { pod, uid } | Step::RemovePod { pod, uid } => {
                let done = self.delete_pod(&inputs.namespace, pod, uid).await;
                done.map_err(|error| (format!("pod {pod}"), error))
            }
            Step::DeleteVolume { pod, uid } => {
                let api: Api<PersistentVolumeClaim> =
                    Api::namespaced(self.shared().client.clone(), &inputs.namespace);
                self.shared().metrics.wrote();
                let claim = names::volume_claim(pod);
                let done = api.delete(&claim, &only(uid)).await.map(drop);
                gone_is_fine(done).map_err(|error| (format!("volume claim {claim}"), error))
            }
            Step::Keep { pod, uid, config_map } => {
                let done = self.keep(inputs, pod, uid, config_map).await;
                done.map_err(|error| (format!("ConfigMap {config_map}"), error))
            }
        }
    }

    async fn keep(&self, inputs: &Inputs, pod: &str, uid: &str, name: &str) -> kube::Result<()> {
        let parameters = LogParams { limit_bytes: Some(KEPT_BYTES), ..LogParams::default() };
        let text = self.pods(inputs).logs(pod, &parameters).await?;
        let object = recovery::printed(inputs, name, uid, text);
        self.shared().metrics.wrote();
        let client = &self.shared().client;
        let body = apply::stamped(&object);
        apply::apply(client, &inputs.namespace, Kind::ConfigMap, name, &body, true).await.map(drop)
    }

    fn pods(&self, inputs: &Inputs) -> Api<Pod> {
        Api::namespaced(self.shared().client.clone(), &inputs.namespace)
    }
}
