//! The StatefulSet: names and volumes for the pods. It starts and stops nothing by itself: when pods
//! are made anew is the operator's decision (`OnDelete`), and volumes are never deleted with it.

use super::{Inputs, names, pod};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

/// Builds it.
pub fn build(inputs: &Inputs) -> StatefulSet {
    StatefulSet {
        metadata: inputs.metadata(&inputs.name),
        spec: StatefulSetSpec {
            replicas: Some(if inputs.stopped { 0 } else { inputs.pods }),
            service_name: Some(names::peers_service(&inputs.name)),
            selector: LabelSelector {
                match_labels: Some(names::selector(&inputs.name)),
                ..LabelSelector::default()
            },
            // Nodes form the cluster together: none would become ready alone.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some("Retain".to_owned()),
                    when_scaled: Some("Retain".to_owned()),
                },
            ),
            revision_history_limit: Some(5),
            template: pod::template(inputs),
            volume_claim_templates: Some(vec![claim(inputs)]),
            ..StatefulSetSpec::default()
        },
        ..StatefulSet::default()
    }
}

fn claim(inputs: &Inputs) -> PersistentVolumeClaim {
    let storage = &inputs.spec.storage;
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::VOLUME.to_owned()),
            labels: Some(names::labels(&inputs.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(storage.size.clone()))].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
