//! Deleting the resource takes everything but the data: volumes stay until a person deletes them, and
//! another cluster of the same name neither takes them for its own nor overwrites them.

use crate::world::{CLUSTER, PATIENCE, World, await_object};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::api::{DeleteParams, ListParams};

pub(crate) async fn volumes_stay(world: &World) {
    world.make_cluster().await;
    world
        .clusters()
        .delete(CLUSTER, &DeleteParams::default())
        .await
        .expect("the resource can be deleted");
    let gone = await_object(world.clusters(), CLUSTER, PATIENCE, |found| found.is_none()).await;
    assert!(gone.is_ok(), "the resource stays");
    for ordinal in 0..3 {
        let gone = |pod: Option<&Pod>| pod.is_none();
        world.await_pod(&format!("{CLUSTER}-{ordinal}"), "to go", PATIENCE, gone).await;
    }
    let sets = world.api::<StatefulSet>();
    let gone = await_object(sets, CLUSTER, PATIENCE, |found| found.is_none()).await;
    assert!(gone.is_ok(), "the StatefulSet stays");
    let services = world.api::<Service>();
    let gateway = format!("{CLUSTER}-gateway");
    let gone = await_object(services, &gateway, PATIENCE, |found| found.is_none()).await;
    assert!(gone.is_ok(), "the gateway stays");
    let claims = world.api::<PersistentVolumeClaim>().list(&ListParams::default()).await;
    let claims = claims.expect("claims can be listed").items;
    assert_eq!(claims.len(), 3, "volumes went with the cluster");
    for claim in claims {
        let phase = claim.status.and_then(|status| status.phase);
        assert_eq!(phase.as_deref(), Some("Bound"));
        assert_eq!(claim.metadata.deletion_timestamp, None);
    }
    // The name alone does not make it the same cluster.
    world.apply(crate::world::small()).await.expect("the resource is valid");
    let words = "holds the data of another cluster";
    crate::refused::stalled(world, "StorageIdentityMismatch", words).await;
}
