//! A namespace for one test, and what tests do in it.

use crate::faults::Faults;
use crate::recording::Recording;
use crate::view;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{
    ApiResource, AttachParams, DeleteParams, DynamicObject, GroupVersionKind, ListParams,
    LogParams, Patch, PatchParams, PostParams,
};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;

/// The name of the cluster in every test.
pub(crate) const CLUSTER: &str = "demo";
/// The namespaces that the operator of the tests watches; tests take them in turn.
const NAMESPACES: &str = "holdfast-e2e-0,holdfast-e2e-1,holdfast-e2e-2";
/// Pods that tests make themselves.
const CLIENT_LABEL: &str = "holdfast.dev/e2e=client";
/// Where the operator is installed.
pub(crate) const OPERATOR_NAMESPACE: &str = "holdfast-system";
/// The operator's Deployment.
pub(crate) const OPERATOR: &str = "holdfast-operator";
/// Longer than anything takes that works at all, on a slow machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// Log lines of each pod that a failed test prints.
const LOG_LINES: i64 = 20;

/// A namespace of one test.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) faults: Option<Faults>,
}

impl World {
    /// Takes the next of the namespaces that the operator watches, and waits until it is empty.
    pub(crate) async fn new(faults: Option<Faults>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let client = Client::try_default().await.expect("the kubeconfig leads to an API server");
        let names = std::env::var("HOLDFAST_E2E_NAMESPACES");
        let names = names.unwrap_or_else(|_| NAMESPACES.to_owned());
        let names: Vec<&str> = names.split(',').collect();
        let namespace = names[NEXT.fetch_add(1, Ordering::Relaxed) % names.len()].to_owned();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": namespace,
                // Pods of a cluster must fit into the strictest namespaces.
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        });
        Api::<Namespace>::all(client.clone())
            .patch(&namespace, &PatchParams::apply("e2e"), &Patch::Apply(&object))
            .await
            .expect("a namespace can be made");
        let world = Self { client, namespace, faults };
        world.begin_to_clear().await;
        world.clear().await;
        world
    }

    /// Starts to remove everything; the next test in this namespace waits for the end of it.
    pub(crate) async fn begin_to_clear(&self) {
        let all = ListParams::default();
        let clusters = self.clusters();
        let pods = self.api::<Pod>();
        let ours = ListParams::default().labels(CLIENT_LABEL);
        let now = DeleteParams::default().grace_period(0);
        for result in [
            clusters.delete_collection(&DeleteParams::default(), &all).await.map(drop),
            pods.delete_collection(&now, &ours).await.map(drop),
        ] {
            if let Err(error) = result {
                eprintln!("    namespace {} is not cleared: {error}", self.namespace);
            }
        }
    }

    /// Waits until nothing of an earlier test is left.
    async fn clear(&self) {
        self.until_none::<Pod>("pods").await;
        self.until_none::<StatefulSet>("StatefulSets").await;
        let all = ListParams::default();
        let claims = self.api::<PersistentVolumeClaim>();
        claims
            .delete_collection(&DeleteParams::default(), &all)
            .await
            .expect("claims can be deleted");
        self.until_none::<PersistentVolumeClaim>("claims").await;
        // What is told of an earlier cluster of the same name is not about this one.
        let events = self.api::<Event>().delete_collection(&DeleteParams::default(), &all).await;
        events.expect("events can be deleted");
        let gateway = format!("{CLUSTER}-gateway");
        let gone = await_object(self.api::<Service>(), &gateway, PATIENCE, |found| found.is_none());
        assert!(gone.await.is_ok(), "an earlier gateway stays in {}", self.namespace);
        self.machines_are_well().await;
        if let Some(faults) = &self.faults {
            faults.run(&["recycle"]);
        }
    }

    /// Waits until there is no object of a kind.
    async fn until_none<K>(&self, what: &str)
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug,
        K: Send + Sync + DeserializeOwned + 'static,
        K::DynamicType: Default + Eq + std::hash::Hash + Clone,
    {
        let in_time = until(self.api::<K>(), |found| found.is_empty()).await;
        assert!(in_time, "{what} of an earlier test stay in {}", self.namespace);
    }

    /// Waits until pods can be placed on every machine again; an earlier test may have had one lost.
    async fn machines_are_well(&self) {
        let all = Api::<Node>::all(self.client.clone());
        let well = until(all, |machines| machines.iter().all(|machine| is_well(machine))).await;
        assert!(well, "a machine stays away that an earlier test had lost");
    }

    /// The faults; only tests that need them call this.
    pub(crate) fn fault(&self, arguments: &[&str]) {
        self.faults.as_ref().expect("the test is left out without faults").run(arguments);
    }

    /// Objects of a kind in the namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The `HoldfastCluster`s of the namespace.
    pub(crate) fn clusters(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("holdfast.dev", "v1alpha1", "HoldfastCluster");
        let resource = ApiResource::from_gvk_with_plural(&kind, "holdfastclusters");
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Applies the test's cluster with this spec, as `kubectl apply` does.
    pub(crate) async fn apply(&self, spec: Value) -> Result<DynamicObject, kube::Error> {
        let object = json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "HoldfastCluster",
            "metadata": {"name": CLUSTER},
            "spec": spec,
        });
        let parameters = PatchParams::apply("e2e").force();
        self.clusters().patch(CLUSTER, &parameters, &Patch::Apply(&object)).await
    }

    /// Makes a cluster of three nodes and waits until it is whole; how long that took.
    pub(crate) async fn make_cluster(&self) -> Duration {
        let began = Instant::now();
        self.apply(small()).await.expect("the resource is valid");
        self.whole(3).await;
        began.elapsed()
    }

    /// Waits until the cluster is ready with so many healthy nodes.
    pub(crate) async fn whole(&self, nodes: i64) -> DynamicObject {
        self.await_cluster("to be whole", PATIENCE, |cluster| view::is_whole(cluster, nodes)).await
    }

    /// Waits until the cluster's resource is as wanted.
    pub(crate) async fn await_cluster(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&DynamicObject) -> bool,
    ) -> DynamicObject {
        let found =
            await_object(self.clusters(), CLUSTER, within, |cluster| cluster.is_some_and(&wanted));
        match found.await {
            Ok(cluster) => cluster.expect("only a present cluster is as wanted"),
            Err(last) => panic!(
                "waited {within:?} for the cluster {what}; its status is {}",
                last.as_ref().map_or_else(|| "missing".to_owned(), view::in_short)
            ),
        }
    }

    /// Waits until an Event with this reason was written about the cluster.
    pub(crate) async fn await_event(&self, reason: &str, within: Duration) {
        let mut events =
            pin!(watcher(self.api::<Event>(), watcher::Config::default()).applied_objects());
        let mut seen = Vec::new();
        let found = tokio::time::timeout(within, async {
            while let Some(event) = events.next().await {
                // A broken watch is made anew by the watcher.
                let Ok(event) = event else { continue };
                if event.involved_object.name.as_deref() != Some(CLUSTER) {
                    continue;
                }
                seen.extend(event.reason);
                if seen.last().is_some_and(|last| last == reason) {
                    return;
                }
            }
        });
        let in_time = found.await.is_ok();
        assert!(in_time, "waited {within:?} for the Event {reason}; there were {seen:?}");
    }

    /// Whether an Event with this reason was written about the cluster.
    pub(crate) async fn has_event(&self, reason: &str) -> bool {
        let events = self.api::<Event>().list(&ListParams::default()).await;
        events.expect("events can be listed").iter().any(|event| {
            event.involved_object.name.as_deref() == Some(CLUSTER)
                && event.reason.as_deref() == Some(reason)
        })
    }

    /// The cluster's resource now.
    pub(crate) async fn cluster(&self) -> DynamicObject {
        self.clusters().get(CLUSTER).await.expect("the cluster's resource is there")
    }

    /// Waits until a pod is as wanted.
    pub(crate) async fn await_pod(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        wanted: impl Fn(Option<&Pod>) -> bool,
    ) -> Option<Pod> {
        await_object(self.api::<Pod>(), name, within, wanted).await.unwrap_or_else(|last| {
            let status = last.and_then(|pod| pod.status);
            panic!("waited {within:?} for pod {name} {what}; its status is {status:?}")
        })
    }

    /// The cluster's pods, by name.
    pub(crate) async fn pods(&self) -> Vec<Pod> {
        let selector =
            format!("app.kubernetes.io/instance={CLUSTER},app.kubernetes.io/component=node");
        let mut pods = self
            .api::<Pod>()
            .list(&ListParams::default().labels(&selector))
            .await
            .expect("pods can be listed")
            .items;
        pods.sort_by_key(Pod::name_any);
        pods
    }

    /// Names of the pods that the gateway sends clients to.
    pub(crate) async fn await_gateway(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&[String]) -> bool,
    ) -> Duration {
        let began = Instant::now();
        let selector = format!("kubernetes.io/service-name={CLUSTER}-gateway");
        let configuration = watcher::Config::default().labels(&selector);
        let mut slices =
            pin!(watcher(self.api::<EndpointSlice>(), configuration).applied_objects());
        let mut last = Vec::new();
        let found = tokio::time::timeout(within, async {
            while let Some(slice) = slices.next().await {
                // A broken watch is made anew by the watcher.
                let Ok(slice) = slice else { continue };
                last = slice
                    .endpoints
                    .iter()
                    .flatten()
                    .filter(|endpoint| {
                        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready)
                            != Some(false)
                    })
                    .filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone())
                    .collect();
                last.sort();
                if wanted(&last) {
                    return;
                }
            }
        });
        let in_time = found.await.is_ok();
        assert!(in_time, "waited {within:?} for the gateway {what}; it has {last:?}");
        began.elapsed()
    }

    /// Runs a program in a pod and returns what it prints.
    pub(crate) async fn exec(&self, pod: &str, command: &[&str]) -> Result<String, String> {
        let parameters = AttachParams::default().stdout(true).stderr(true);
        let mut process = self
            .api::<Pod>()
            .exec(pod, command.iter().copied(), &parameters)
            .await
            .map_err(|error| error.to_string())?;
        let status = process.take_status().expect("the status is taken once");
        let (mut out, mut err) = (String::new(), String::new());
        let mut stdout = process.stdout().expect("standard output was asked for");
        let mut stderr = process.stderr().expect("standard error was asked for");
        let (read_out, read_err) =
            tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        read_out.and(read_err).map_err(|error| error.to_string())?;
        let ended = status.await.ok_or("the connection ended before the program")?;
        if ended.status.as_deref() == Some("Success") {
            Ok(out)
        } else {
            Err(format!("{}: {out}{err}", ended.message.unwrap_or_default()))
        }
    }

    /// Starts a pod of the test image with the clients' certificates, and waits until it runs.
    pub(crate) async fn run_client(&self, name: &str, arguments: &[&str], not_on: Option<&str>) {
        let affinity = not_on.map(|machine| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{
                    "key": "kubernetes.io/hostname", "operator": "NotIn", "values": [machine],
                }]}],
            }}})
        });
        let pod: Pod = from_json(json!({
            "metadata": {"name": name, "labels": {"holdfast.dev/e2e": "client"}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "affinity": affinity,
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": 65532,
                    "fsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "client",
                    "image": image("e2e"),
                    "imagePullPolicy": "IfNotPresent",
                    "args": arguments,
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
                }],
                "volumes": [{
                    "name": "tls",
                    "secret": {"secretName": format!("{CLUSTER}-client-tls"), "defaultMode": 0o440},
                }],
            },
        }));
        self.api::<Pod>().create(&PostParams::default(), &pod).await.expect("a pod can be made");
        self.await_pod(name, "to run", PATIENCE, |pod| phase(pod) == "Running").await;
    }

    /// Starts a pod for [`Self::etcdctl`], and waits until it gets an answer: a machine that has just
    /// come back learns some seconds late of Services that are new.
    pub(crate) async fn run_shell(&self, name: &str, not_on: Option<&str>) {
        self.run_client(name, &["wait"], not_on).await;
        let answer = async {
            while self.etcdctl(name, &["get", "nothing"]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let answered = tokio::time::timeout(PATIENCE, answer).await;
        answered.unwrap_or_else(|_| panic!("{name} reaches no node through the gateway"));
    }

    /// Starts a client that records, and waits until its writes succeed.
    pub(crate) async fn record(&self, not_on: Option<&str>) -> Recording<'_> {
        Recording::start(self, not_on).await
    }

    /// Runs etcdctl in a client pod against the gateway; with the cluster's client certificate.
    pub(crate) async fn etcdctl(&self, pod: &str, arguments: &[&str]) -> Result<String, String> {
        self.etcdctl_at(&gateway(), pod, arguments).await
    }

    /// The same against one address.
    async fn etcdctl_at(&self, url: &str, pod: &str, arguments: &[&str]) -> Result<String, String> {
        let endpoints = format!("--endpoints={url}");
        let mut command = vec!["etcdctl", &endpoints];
        command.extend(["--cacert=/tls/ca.crt", "--cert=/tls/tls.crt", "--key=/tls/tls.key"]);
        command.extend(arguments);
        self.exec(pod, &command).await
    }

    /// The number of a pod's node, as answers carry it: asked through a client pod.
    pub(crate) async fn number_of(&self, client: &str, pod: &str) -> String {
        let url = format!("https://{pod}.{CLUSTER}-peers.{}.svc:2379", self.namespace);
        let arguments = ["endpoint", "status", "--write-out=json"];
        let answer = self.etcdctl_at(&url, client, &arguments).await.expect("the node answers");
        let status: Value = serde_json::from_str(&answer).expect("etcdctl prints JSON");
        let number = status[0]["Status"]["header"]["member_id"].as_u64().expect("it has a number");
        format!("{number:x}")
    }

    /// The operator's Deployments and pods.
    pub(crate) fn operators<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE)
    }

    /// Waits until all pods of an operator's Deployment are new and ready.
    pub(crate) async fn await_operator(&self, name: &str) {
        let done = |deployment: Option<&Deployment>| {
            let Some(deployment) = deployment else { return false };
            let wanted = deployment.spec.replicas.unwrap_or(1);
            deployment.status.as_ref().is_some_and(|status| {
                status.observed_generation == deployment.metadata.generation
                    && status.updated_replicas == Some(wanted)
                    && status.available_replicas == Some(wanted)
                    && status.replicas == Some(wanted)
            })
        };
        if await_object(self.operators::<Deployment>(), name, PATIENCE, done).await.is_err() {
            panic!("waited {PATIENCE:?} for the operator {name} to run");
        }
    }

    /// Prints everything that helps to understand a failure.
    pub(crate) async fn print_what_is_there(&self) {
        if let Ok(cluster) = self.clusters().get(CLUSTER).await {
            eprintln!("--- status of {CLUSTER}\n{}", view::in_short(&cluster));
        }
        if let Ok(events) = self.api::<Event>().list(&ListParams::default()).await {
            eprintln!("--- events");
            for event in events {
                eprintln!(
                    "{} {} {}: {}",
                    event.involved_object.kind.unwrap_or_default(),
                    event.involved_object.name.unwrap_or_default(),
                    event.reason.unwrap_or_default(),
                    event.message.unwrap_or_default()
                );
            }
        }
        print_logs(&self.api::<Pod>()).await;
        print_logs(&self.operators::<Pod>()).await;
    }
}

async fn print_logs(pods: &Api<Pod>) {
    let Ok(list) = pods.list(&ListParams::default()).await else { return };
    for pod in list {
        let name = pod.name_any();
        eprintln!("--- pod {name}: {}", phase(Some(&pod)));
        let parameters = LogParams { tail_lines: Some(LOG_LINES), ..LogParams::default() };
        match pods.logs(&name, &parameters).await {
            Ok(text) => eprintln!("{text}"),
            Err(error) => eprintln!("no log: {error}"),
        }
    }
}

/// A cluster as small as tests need it.
pub(crate) fn small() -> Value {
    json!({
        "nodes": 3,
        "image": image("node"),
        "imagePullPolicy": "IfNotPresent",
        "storage": {"size": "1Gi"},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
    })
}

/// One of our images, as `images.sh` tags it.
pub(crate) fn image(target: &str) -> String {
    let tag = std::env::var("HOLDFAST_E2E_TAG").unwrap_or_else(|_| "dev".to_owned());
    format!("docker.io/holdfast/{target}:{tag}")
}

/// The gateway as clients in the namespace call it.
pub(crate) fn gateway() -> String {
    format!("https://{CLUSTER}-gateway:2379")
}

/// The phase of a pod; empty when it is not there.
pub(crate) fn phase(pod: Option<&Pod>) -> String {
    pod.and_then(|pod| pod.status.as_ref()?.phase.clone()).unwrap_or_default()
}

/// Whether a pod is there, is not being deleted, and is ready.
pub(crate) fn is_ready(pod: Option<&Pod>) -> bool {
    pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none() && pod_condition(pod) == "True")
}

/// The status of a pod's condition `Ready`.
pub(crate) fn pod_condition(pod: &Pod) -> String {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready")
        .map(|condition| condition.status.clone())
        .unwrap_or_default()
}

/// How often the containers of a pod were started again.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let Some(status) = pod.status.as_ref() else { return 0 };
    let containers = status.container_statuses.iter().flatten();
    let sidecars = status.init_container_statuses.iter().flatten();
    containers.chain(sidecars).map(|container| container.restart_count).sum()
}

/// The Kubernetes node that a pod runs on.
pub(crate) fn machine_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).expect("the pod is scheduled")
}

/// What identifies the pods of a cluster and their processes.
pub(crate) fn identities(pods: &[Pod]) -> Vec<(Option<String>, i32)> {
    pods.iter().map(|pod| (pod.uid(), restarts(pod))).collect()
}

/// An object from JSON that is right.
pub(crate) fn from_json<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("the object fits its kind")
}

/// Waits until all objects of a kind are as wanted; false if they are not in time.
async fn until<K>(api: Api<K>, wanted: impl Fn(&[Arc<K>]) -> bool) -> bool
where
    K: Resource + Clone + Debug + Send + Sync + DeserializeOwned + 'static,
    K::DynamicType: Default + Eq + std::hash::Hash + Clone,
{
    let (reader, writer) = reflector::store();
    let events = reflector(writer, watcher(api, watcher::Config::default()));
    let mut events = pin!(events);
    let found = tokio::time::timeout(PATIENCE, async {
        while let Some(event) = events.next().await {
            // Complete only after the first list.
            let listed =
                !matches!(event, Ok(watcher::Event::Init | watcher::Event::InitApply(_)) | Err(_));
            if listed && wanted(&reader.state()) {
                return;
            }
        }
    });
    found.await.is_ok()
}

/// Kubernetes places pods on this machine, and its kubelet answers.
pub(crate) fn is_well(machine: &Node) -> bool {
    let conditions = machine.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .is_some_and(|list| list.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
    let taints = machine.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    // Others, as that of a control plane, are there to stay.
    let lost = taints
        .is_some_and(|list| list.iter().any(|one| one.key.starts_with("node.kubernetes.io/")));
    ready && !lost
}

/// Waits until an object is as wanted; if it does not come to that, what it was last.
pub(crate) async fn await_object<K>(
    api: Api<K>,
    name: &str,
    within: Duration,
    wanted: impl Fn(Option<&K>) -> bool,
) -> Result<Option<K>, Option<K>>
where
    K: Resource + Clone + Debug + Send + DeserializeOwned + Serialize + 'static,
{
    let mut states = pin!(watcher::watch_object(api, name));
    let mut last = None;
    let found = tokio::time::timeout(within, async {
        loop {
            match states.try_next().await {
                Ok(state) => {
                    let state = state.expect("a watch has no end");
                    let done = wanted(state.as_ref());
                    last = state;
                    if done {
                        return;
                    }
                }
                // The watcher connects again at the next call; not faster than it can help.
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    });
    match found.await {
        Ok(()) => Ok(last),
        Err(_) => Err(last),
    }
}
