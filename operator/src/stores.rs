//! Watched copies of everything that belongs to clusters in a namespace, or in all, so that looking costs the
//! API server nothing.
//!
//! Invariants: only objects with our labels are held, and of those nothing that nobody needs; every
//! change wakes the reconcile of the cluster that the object is labelled with.

use crate::api::HoldfastCluster;
use crate::build::{Kind, names};
use futures::StreamExt as _;
use futures::channel::mpsc;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::DynamicObject;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What wakes a reconcile.
pub type Wake = mpsc::UnboundedSender<ObjectRef<HoldfastCluster>>;

/// The watched copies of one namespace.
#[derive(Clone)]
pub struct Stores {
    /// Pods of nodes.
    pub pods: Store<Pod>,
    /// Pods that recover a node's volume.
    pub recovery_pods: Store<Pod>,
    /// Their volume claims.
    pub claims: Store<PersistentVolumeClaim>,
    /// Kubernetes nodes; `None` if the operator may not read them.
    pub hosts: Option<Store<Node>>,
    /// What the operator makes.
    pub service_accounts: Store<ServiceAccount>,
    /// What the operator makes.
    pub config_maps: Store<ConfigMap>,
    /// What the operator makes.
    pub secrets: Store<Secret>,
    /// What the operator makes.
    pub services: Store<Service>,
    /// What the operator makes.
    pub stateful_sets: Store<StatefulSet>,
    /// What the operator makes.
    pub budgets: Store<PodDisruptionBudget>,
    /// What the operator makes.
    pub policies: Store<NetworkPolicy>,
    /// What the operator makes, once its kind exists.
    pub pod_monitors: Arc<OnceLock<Store<DynamicObject>>>,
}

/// Fills a store; to be run until the end.
pub type Feed = BoxFuture<'static, ()>;

impl Stores {
    /// Begins to watch `namespace`, or all. Nothing is there before the feeds run.
    pub fn watch(
        client: &Client,
        namespace: Option<&str>,
        hosts: Option<Store<Node>>,
        wake: &Wake,
    ) -> (Self, Vec<Feed>) {
        let mut feeds = Vec::new();
        let made = format!("app.kubernetes.io/managed-by={}", names::MANAGED_BY);
        let nodes = "app.kubernetes.io/name=holdfast,app.kubernetes.io/component=node";
        let recovery = "app.kubernetes.io/name=holdfast,app.kubernetes.io/component=recovery";
        let stores = Self {
            recovery_pods: feed(api(client, namespace), recovery, wake, &mut feeds),
            pods: feed(api(client, namespace), nodes, wake, &mut feeds),
            claims: feed(api(client, namespace), nodes, wake, &mut feeds),
            hosts,
            service_accounts: feed(api(client, namespace), &made, wake, &mut feeds),
            config_maps: feed(api(client, namespace), &made, wake, &mut feeds),
            secrets: feed(api(client, namespace), &made, wake, &mut feeds),
            services: feed(api(client, namespace), &made, wake, &mut feeds),
            stateful_sets: feed(api(client, namespace), &made, wake, &mut feeds),
            budgets: feed(api(client, namespace), &made, wake, &mut feeds),
            policies: feed(api(client, namespace), &made, wake, &mut feeds),
            pod_monitors: Arc::default(),
        };
        feeds.push(Box::pin(pod_monitors(
            client.clone(),
            namespace.map(str::to_owned),
            made,
            wake.clone(),
            stores.pod_monitors.clone(),
        )));
        (stores, feeds)
    }

    /// Waits until everything was listed once.
    pub async fn ready(&self) {
        // An error means that the feed is gone: then the operator stops anyway.
        let all = [
            self.pods.wait_until_ready().await.is_ok(),
            self.recovery_pods.wait_until_ready().await.is_ok(),
            self.claims.wait_until_ready().await.is_ok(),
            self.service_accounts.wait_until_ready().await.is_ok(),
            self.config_maps.wait_until_ready().await.is_ok(),
            self.secrets.wait_until_ready().await.is_ok(),
            self.services.wait_until_ready().await.is_ok(),
            self.stateful_sets.wait_until_ready().await.is_ok(),
            self.budgets.wait_until_ready().await.is_ok(),
            self.policies.wait_until_ready().await.is_ok(),
        ];
        if all.contains(&false) {
            tracing::warn!("a watch has ended");
        }
    }

    /// An object as it is, as JSON, with its version.
    pub fn live(&self, kind: Kind, namespace: &str, name: &str) -> Option<Live> {
        match kind {
            Kind::ServiceAccount => find(&self.service_accounts, namespace, name),
            Kind::ConfigMap => find(&self.config_maps, namespace, name),
            Kind::Secret => find(&self.secrets, namespace, name),
            Kind::Service => find(&self.services, namespace, name),
            Kind::StatefulSet => find(&self.stateful_sets, namespace, name),
            Kind::PodDisruptionBudget => find(&self.budgets, namespace, name),
            Kind::NetworkPolicy => find(&self.policies, namespace, name),
            Kind::PodMonitor => {
                let reference = ObjectRef::new_with(name, Kind::PodMonitor.resource());
                self.pod_monitors
                    .get()
                    .and_then(|store| store.get(&reference.within(namespace)))
                    .map(|object| Live::new(object.as_ref()))
            }
        }
    }

    /// The Secrets of a cluster, by name.
    pub fn secrets_of(&self, namespace: &str, cluster: &str) -> BTreeMap<String, Arc<Secret>> {
        of_cluster(&self.secrets, namespace, cluster)
    }

    /// The pods of a cluster, by name.
    pub fn pods_of(&self, namespace: &str, cluster: &str) -> BTreeMap<String, Arc<Pod>> {
        of_cluster(&self.pods, namespace, cluster)
    }

    /// The pods that recover volumes of a cluster, by name.
    pub fn recovery_pods_of(&self, namespace: &str, cluster: &str) -> BTreeMap<String, Arc<Pod>> {
        of_cluster(&self.recovery_pods, namespace, cluster)
    }

    /// The ConfigMaps of a cluster, by name.
    pub fn config_maps_of(
        &self,
        namespace: &str,
        cluster: &str,
    ) -> BTreeMap<String, Arc<ConfigMap>> {
        of_cluster(&self.config_maps, namespace, cluster)
    }

    /// The volume claims of a cluster, by name.
    pub fn claims_of(
        &self,
        namespace: &str,
        cluster: &str,
    ) -> BTreeMap<String, Arc<PersistentVolumeClaim>> {
        of_cluster(&self.claims, namespace, cluster)
    }

    /// The StatefulSet of a cluster.
    pub fn stateful_set(&self, namespace: &str, cluster: &str) -> Option<Arc<StatefulSet>> {
        self.stateful_sets.get(&ObjectRef::new(cluster).within(namespace))
    }
}

/// An object as it is.
#[derive(Clone, Debug)]
pub struct Live {
    /// All of it.
    pub body: Value,
    /// Changes when its spec does.
    pub version: String,
    /// Its UID.
    pub uid: String,
    /// UID of the owner that controls it.
    pub owner: Option<String>,
}

impl Live {
    fn new<K: Resource + serde::Serialize>(object: &K) -> Self {
        let meta = object.meta();
        let owner = meta.owner_references.iter().flatten().find(|it| it.controller == Some(true));
        Self {
            body: serde_json::to_value(object).expect("API objects are plain data"),
            version: version(meta.generation, meta.resource_version.as_deref()),
            uid: meta.uid.clone().unwrap_or_default(),
            owner: owner.map(|owner| owner.uid.clone()),
        }
    }
}

/// What tells one state of an object's spec from another: the generation, where the API counts it.
pub fn version(generation: Option<i64>, resource_version: Option<&str>) -> String {
    match generation {
        Some(generation) => format!("g{generation}"),
        None => format!("r{}", resource_version.unwrap_or_default()),
    }
}

fn find<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Live>
where
    K: Resource<DynamicType = ()> + Clone + serde::Serialize + 'static,
{
    store.get(&ObjectRef::new(name).within(namespace)).map(|object| Live::new(object.as_ref()))
}

fn of_cluster<K>(store: &Store<K>, namespace: &str, cluster: &str) -> BTreeMap<String, Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mine = |object: &K| {
        object.meta().namespace.as_deref() == Some(namespace)
            && object.labels().get("app.kubernetes.io/instance").is_some_and(|it| it == cluster)
    };
    store.state_filter(mine).into_iter().map(|object| (object.name_any(), object)).collect()
}

/// The API of a kind in one namespace, or in all.
pub fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Between two looks whether the kind PodMonitor is there by now.
const LOOK_FOR_KIND: Duration = Duration::from_secs(30);

/// Watches PodMonitors from when their kind exists: whoever brings it may come later than the operator.
async fn pod_monitors(
    client: Client,
    namespace: Option<String>,
    labels: String,
    wake: Wake,
    store: Arc<OnceLock<Store<DynamicObject>>>,
) {
    while !knows_pod_monitors(&client).await {
        tokio::time::sleep(LOOK_FOR_KIND).await;
    }
    let resource = Kind::PodMonitor.resource();
    let api = match &namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let mut feeds = Vec::new();
    let reader = feed_with(api, resource, &labels, &wake, &mut feeds);
    tracing::info!("the kind PodMonitor is there");
    store.get_or_init(|| reader);
    futures::future::join_all(feeds).await;
}

/// Whether Kubernetes knows the kind PodMonitor.
async fn knows_pod_monitors(client: &Client) -> bool {
    match client.list_api_group_resources("monitoring.coreos.com/v1").await {
        Ok(list) => list.resources.iter().any(|resource| resource.kind == "PodMonitor"),
        Err(_) => false,
    }
}

/// Watches Kubernetes nodes, if that is allowed.
pub async fn hosts(client: &Client) -> Option<(Store<Node>, Feed)> {
    let api: Api<Node> = Api::all(client.clone());
    let one = kube::api::ListParams::default().limit(1);
    if let Err(error) = api.list_metadata(&one).await {
        let why = match error {
            kube::Error::Api(status) => status.message,
            other => other.to_string(),
        };
        tracing::warn!(why, "cannot read Kubernetes nodes: pods alone tell what is gone");
        return None;
    }
    let (reader, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default()).modify(|node| {
        node.metadata.managed_fields = None;
        if let Some(status) = &mut node.status {
            status.images = None;
        }
    });
    let feed = reflector::reflector(writer, stream.default_backoff()).for_each(|event| {
        if let Err(error) = event {
            tracing::warn!(%error, "watch of Kubernetes nodes");
        }
        futures::future::ready(())
    });
    Some((reader, Box::pin(feed)))
}

fn feed<K>(api: Api<K>, labels: &str, wake: &Wake, feeds: &mut Vec<Feed>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    feed_with(api, (), labels, wake, feeds)
}

fn feed_with<K>(
    api: Api<K>,
    dynamic: K::DynamicType,
    labels: &str,
    wake: &Wake,
    feeds: &mut Vec<Feed>,
) -> Store<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync + Unpin + Debug,
{
    let writer = reflector::store::Writer::new(dynamic);
    let reader = writer.as_reader();
    let wake = wake.clone();
    let stream = watcher(api, watcher::Config::default().labels(labels))
        .modify(|object| object.managed_fields_mut().clear())
        .default_backoff();
    let feed = reflector::reflector(writer, stream).for_each(move |event| {
        use watcher::Event;
        match event {
            Ok(Event::Apply(object) | Event::Delete(object) | Event::InitApply(object)) => {
                if let Some(cluster) = cluster_of(&object) {
                    // Nobody listens any more only while the operator stops.
                    if wake.unbounded_send(cluster).is_err() {
                        tracing::debug!("nobody listens to watches any more");
                    }
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "watch"),
        }
        futures::future::ready(())
    });
    feeds.push(Box::pin(feed));
    reader
}

fn cluster_of<K: Resource>(object: &K) -> Option<ObjectRef<HoldfastCluster>> {
    let name = object.meta().labels.as_ref()?.get("app.kubernetes.io/instance")?.clone();
    let namespace = object.meta().namespace.clone()?;
    Some(ObjectRef::new(&name).within(&namespace))
}
