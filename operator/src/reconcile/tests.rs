//! Whole reconciles against an API server that is played by the test: what is sent, in which order, and
//! what is made of refusals.

mod recovery;

use super::*;
use crate::observe::{Member, RangeCounts};
use futures::future::BoxFuture;
use http::{Method, Request as HttpRequest, Response, StatusCode};
use http_body_util::BodyExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::client::Body;
use kube::runtime::reflector::store::Writer;
use kube::runtime::{reflector, watcher};
use serde_json::Value;

/// A request as the API server saw it.
#[derive(Clone, Debug)]
struct Sent {
    method: Method,
    path: String,
    query: String,
    body: Value,
}

type Answer = fn(&Sent) -> Option<StatusCode>;

/// Nodes that say what they are told to say.
struct FakeNodes {
    report: Mutex<Result<Report, String>>,
    asked: Mutex<Vec<Request>>,
    /// What they answer.
    answer: Mutex<Outcome>,
    /// The fingerprint that all show, and who was asked for it.
    shown: Mutex<String>,
    handshakes: Mutex<Vec<String>>,
}

impl Nodes for FakeNodes {
    fn report<'a>(
        &'a self,
        _: &'a [Target],
        _: &'a Identity,
    ) -> BoxFuture<'a, Result<Report, String>> {
        let report = self.report.lock().clone();
        Box::pin(async move { report })
    }

    fn ask<'a>(
        &'a self,
        _: &'a [Target],
        _: &'a Identity,
        request: Request,
    ) -> BoxFuture<'a, Outcome> {
        self.asked.lock().push(request);
        let answer = self.answer.lock().clone();
        Box::pin(async move { answer })
    }

    fn certificate<'a>(
        &'a self,
        target: &'a Target,
        _: &'a Identity,
    ) -> BoxFuture<'a, Result<String, String>> {
        self.handshakes.lock().push(target.pod.clone());
        let shown = self.shown.lock().clone();
        Box::pin(async move { Ok(shown) })
    }
}

struct Writers {
    pods: Writer<Pod>,
    recovery_pods: Writer<Pod>,
    claims: Writer<PersistentVolumeClaim>,
    service_accounts: Writer<ServiceAccount>,
    config_maps: Writer<ConfigMap>,
    secrets: Writer<Secret>,
    services: Writer<Service>,
    stateful_sets: Writer<StatefulSet>,
    budgets: Writer<PodDisruptionBudget>,
    policies: Writer<NetworkPolicy>,
    hosts: Writer<Node>,
}

/// An API server that keeps what it is sent.
struct World {
    context: Arc<Context>,
    nodes: Arc<FakeNodes>,
    writers: Writers,
    sent: Arc<Mutex<Vec<Sent>>>,
    answer: Arc<Mutex<Answer>>,
    /// The spec of the resource that the API server has.
    spec: Arc<Mutex<Value>>,
    cluster: HoldfastCluster,
}

impl World {
    fn new() -> Self {
        let (service, mut handle) = tower_test::mock::pair::<HttpRequest<Body>, Response<Body>>();
        let client = Client::new(service, "ns");
        let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(|_| None));
        let spec = Arc::new(Mutex::new(json!({})));
        let (log, judge, kept) = (sent.clone(), answer.clone(), spec.clone());
        tokio::spawn(async move {
            let mut version = 100;
            while let Some((request, respond)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await.unwrap().to_bytes();
                let sent = Sent {
                    method: parts.method,
                    path: parts.uri.path().to_owned(),
                    query: parts.uri.query().unwrap_or_default().to_owned(),
                    body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
                };
                let refusal = judge.lock()(&sent);
                log.lock().push(sent.clone());
                version += 1;
                let (code, body) = match refusal {
                    Some(code) => (
                        code,
                        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                            "message": "no", "reason": "Some", "code": code.as_u16(), "metadata": {}}),
                    ),
                    None => {
                        let mut body = sent.body.clone();
                        body["metadata"]["resourceVersion"] = version.to_string().into();
                        if body["metadata"]["uid"].is_null() {
                            body["metadata"]["uid"] = "uid-1".into();
                        }
                        if sent.path.contains("/pods/") {
                            body["metadata"]["labels"] = json!({});
                        }
                        if sent.path.ends_with("/status") {
                            body["metadata"]["namespace"] = "ns".into();
                            body["metadata"]["generation"] = 1.into();
                            body["spec"] = kept.lock().clone();
                        }
                        (StatusCode::OK, body)
                    }
                };
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                respond.send_response(Response::builder().status(code).body(body).unwrap());
            }
        });
        let nodes = Arc::new(FakeNodes {
            report: Mutex::new(Err("no pods yet".to_owned())),
            asked: Mutex::default(),
            answer: Mutex::new(Outcome::Accepted("yes".to_owned())),
            shown: Mutex::default(),
            handshakes: Mutex::default(),
        });
        let (pods, w_pods) = reflector::store();
        let (recovery_pods, w_recovery_pods) = reflector::store();
        let (claims, w_claims) = reflector::store();
        let (service_accounts, w_service_accounts) = reflector::store();
        let (config_maps, w_config_maps) = reflector::store();
        let (secrets, w_secrets) = reflector::store();
        let (services, w_services) = reflector::store();
        let (stateful_sets, w_stateful_sets) = reflector::store();
        let (budgets, w_budgets) = reflector::store();
        let (policies, w_policies) = reflector::store();
        let (hosts, w_hosts) = reflector::store();
        let stores = Stores {
            pods,
            recovery_pods,
            claims,
            hosts: Some(hosts),
            service_accounts,
            config_maps,
            secrets,
            services,
            stateful_sets,
            budgets,
            policies,
            pod_monitors: Arc::default(),
        };
        let shared = Shared::new(client, nodes.clone(), Some("test".to_owned()));
        let cluster = serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "HoldfastCluster",
            "metadata": {"name": "demo", "namespace": "ns", "uid": "uid-1", "generation": 1,
                "resourceVersion": "7"},
            "spec": {},
        }))
        .unwrap();
        Self {
            context: Arc::new(Context { shared: Arc::new(shared), stores }),
            nodes,
            writers: Writers {
                pods: w_pods,
                recovery_pods: w_recovery_pods,
                claims: w_claims,
                service_accounts: w_service_accounts,
                config_maps: w_config_maps,
                secrets: w_secrets,
                services: w_services,
                stateful_sets: w_stateful_sets,
                budgets: w_budgets,
                policies: w_policies,
                hosts: w_hosts,
            },
            sent,
            answer,
            spec,
            cluster,
        }
    }

    async fn reconcile(&self) -> Result<controller::Action, Error> {
        reconcile(Arc::new(self.cluster.clone()), self.context.clone()).await
    }

    /// Requests since the last call, without Events.
    fn take(&self) -> Vec<Sent> {
        let sent = std::mem::take(&mut *self.sent.lock());
        sent.into_iter().filter(|sent| !sent.path.contains("/events")).collect()
    }

    fn lines(&self) -> Vec<String> {
        self.take().iter().map(|sent| format!("{} {}", sent.method, sent.path)).collect()
    }

    /// The watched copies show what was sent.
    fn show(&mut self, sent: &[Sent]) {
        fn put<K>(writer: &mut Writer<K>, body: &Value)
        where
            K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + 'static,
        {
            let object: K = serde_json::from_value(body.clone()).unwrap();
            writer.apply_watcher_event(&watcher::Event::Apply(object));
        }
        for sent in sent {
            let mut body = sent.body.clone();
            body["metadata"]["resourceVersion"] = "5".into();
            let writers = &mut self.writers;
            match body["kind"].as_str().unwrap_or_default() {
                "ServiceAccount" => put(&mut writers.service_accounts, &body),
                "ConfigMap" => put(&mut writers.config_maps, &body),
                "Secret" => put(&mut writers.secrets, &body),
                "Service" => put(&mut writers.services, &body),
                "StatefulSet" => put(&mut writers.stateful_sets, &body),
                "PodDisruptionBudget" => put(&mut writers.budgets, &body),
                "NetworkPolicy" => put(&mut writers.policies, &body),
                "HoldfastCluster" => {
                    self.cluster.status = serde_json::from_value(body["status"].clone()).unwrap();
                }
                _ => {}
            }
        }
    }

    fn run_pods(&mut self, count: i32) {
        // They show what was issued.
        let secrets = self.context.stores.secrets_of("ns", "demo");
        if let Some(data) = secrets.get("demo-node-tls").and_then(|secret| secret.data.clone()) {
            *self.nodes.shown.lock() = crate::nodes::fingerprint(&data["tls.crt"].0).unwrap();
        }
        for ordinal in 0..count {
            let name = format!("demo-{ordinal}");
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "ns", "uid": format!("pod-{ordinal}"),
                    "labels": names::labels("demo")},
                "spec": {"containers": [], "nodeName": "h"},
                "status": {
                    "podIP": format!("10.0.0.{ordinal}"),
                    "conditions": [{"type": "Ready", "status": "True",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                    "containerStatuses": [{"name": "node", "ready": true, "image": "", "imageID": "",
                        "restartCount": 0, "state": {"running": {}}}],
                },
            }))
            .unwrap();
            self.writers.pods.apply_watcher_event(&watcher::Event::Apply(pod));
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({
                "metadata": {"name": format!("data-{name}"), "namespace": "ns",
                    "uid": format!("pvc-{ordinal}"), "labels": names::labels("demo")},
            }))
            .unwrap();
            self.writers.claims.apply_watcher_event(&watcher::Event::Apply(claim));
        }
        let nodes = (0..count)
            .map(|ordinal| Member {
                id: ordinal as u64 + 1,
                name: format!("demo-{ordinal}"),
                state: "Up".to_owned(),
                ranges: 2,
                leaders: 1,
                names_failure_domain: Some(false),
                ..Member::default()
            })
            .collect();
        *self.nodes.report.lock() = Ok(Report {
            protection: "Full".to_owned(),
            ranges: RangeCounts { total: 2, fully_replicated: 2, unavailable: 0 },
            nodes,
            bytes_remaining: 0,
            reprotection: None,
            policies: Some(vec![]),
            cluster: "c1".to_owned(),
            sequencer: Some(1),
        });
    }

    /// A cluster that runs and is well.
    async fn running() -> Self {
        let mut world = Self::new();
        for _ in 0..4 {
            world.reconcile().await.unwrap();
            let sent = world.take();
            world.show(&sent);
            world.run_pods(3);
        }
        world
    }
}

#[tokio::test]
async fn the_first_reconcile_writes_the_status_and_then_everything_pods_need_before_the_pods() {
    let world = World::new();
    world.reconcile().await.unwrap();
    let sent = world.take();
    let lines: Vec<String> =
        sent.iter().map(|sent| format!("{} {}", sent.method, sent.path)).collect();
    let core = "/api/v1/namespaces/ns";
    assert_eq!(
        lines,
        [
            "PATCH /apis/holdfast.dev/v1alpha1/namespaces/ns/holdfastclusters/demo/status"
                .to_owned(),
            format!("POST {core}/secrets"),
            format!("POST {core}/secrets"),
            format!("PATCH {core}/secrets/demo-node-tls"),
            format!("PATCH {core}/secrets/demo-client-tls"),
            format!("PATCH {core}/secrets/demo-operator-tls"),
            format!("PATCH {core}/serviceaccounts/demo"),
            format!("PATCH {core}/configmaps/demo-config"),
            format!("PATCH {core}/services/demo-peers"),
            format!("PATCH {core}/services/demo-gateway"),
            "PATCH /apis/networking.k8s.io/v1/namespaces/ns/networkpolicies/demo".to_owned(),
            "PATCH /apis/policy/v1/namespaces/ns/poddisruptionbudgets/demo".to_owned(),
            "PATCH /apis/apps/v1/namespaces/ns/statefulsets/demo".to_owned(),
        ]
    );
    for sent in sent.iter().filter(|sent| sent.method == Method::PATCH) {
        assert!(sent.query.contains("fieldManager=holdfast-operator"), "{}", sent.query);
    }
    // The status only if nobody changed the resource meanwhile; what is not ours is not taken over.
    assert_eq!(sent[0].body["metadata"]["resourceVersion"], "7");
    assert!(!sent[12].query.contains("force=true"), "{}", sent[12].query);
    assert_eq!(sent[12].body["metadata"]["ownerReferences"][0]["uid"], "uid-1");
    assert_eq!(sent[12].body["metadata"]["annotations"][BOOTSTRAP_NODES], "3");
    let config = sent[7].body["data"]["holdfast.conf"].as_str().unwrap();
    assert!(config.contains("initial-cluster-state = new"), "{config}");
}

#[tokio::test]
async fn an_unchanged_cluster_costs_no_request_at_all() {
    let world = World::running().await;
    for _ in 0..5 {
        world.reconcile().await.unwrap();
    }
    assert!(world.lines().is_empty(), "{:?}", world.lines());
    assert_eq!(world.cluster.status.as_ref().unwrap().next, "nothing to do");
}

#[tokio::test]
async fn certificates_are_ready_when_every_pod_shows_them_and_nobody_is_asked_twice() {
    let world = World::running().await;
    let ready = |sent: &Sent| {
        let conditions = sent.body["status"]["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|it| it["type"] == "CertificatesReady").unwrap();
        (found["status"].as_str().unwrap().to_owned(), found["reason"].as_str().unwrap().to_owned())
    };
    world.nodes.handshakes.lock().clear();
    world.reconcile().await.unwrap();
    assert!(world.nodes.handshakes.lock().is_empty(), "all have shown it");
    // It is issued anew, and pods have not read it yet.
    let uid = world.cluster.uid().unwrap();
    world.context.shared.remember(&uid, |memory| memory.shown.clear());
    let newest = std::mem::replace(&mut *world.nodes.shown.lock(), "another".to_owned());
    world.reconcile().await.unwrap();
    let sent = world.take();
    assert_eq!(ready(&sent[0]), ("False".to_owned(), "NotLoaded".to_owned()));
    assert_eq!(world.nodes.handshakes.lock().len(), 3);
    *world.nodes.shown.lock() = newest;
    world.reconcile().await.unwrap();
    assert_eq!(ready(&world.take()[0]), ("True".to_owned(), "Loaded".to_owned()));
}

#[tokio::test]
async fn once_formed_the_configuration_says_existing_and_no_pod_template_changes() {
    let mut world = World::new();
    world.reconcile().await.unwrap();
    let first = world.take();
    world.show(&first);
    world.run_pods(3);
    world.reconcile().await.unwrap();
    let sent = world.take();
    let find = |sent: &[Sent], part: &str| {
        sent.iter().find(|sent| sent.path.contains(part)).unwrap().body.clone()
    };
    let config = find(&sent, "configmaps")["data"]["holdfast.conf"].clone();
    assert!(config.as_str().unwrap().contains("initial-cluster-state = existing"));
    let template = |sent: &[Sent]| find(sent, "statefulsets")["spec"]["template"].clone();
    assert_eq!(template(&sent), template(&first));
    let force = sent.iter().find(|sent| sent.path.contains("configmaps")).unwrap();
    assert!(force.query.contains("force=true"));
}

#[tokio::test]
async fn a_conflict_on_the_status_stops_everything_that_would_follow() {
    let world = World::new();
    *world.answer.lock() = |sent| sent.path.ends_with("/status").then_some(StatusCode::CONFLICT);
    let error = world.reconcile().await.unwrap_err();
    assert_eq!(error.reason(), "Conflict");
    assert_eq!(world.lines().len(), 1);
    let again = on_error(Arc::new(world.cluster.clone()), &error, world.context.clone());
    assert_eq!(again, controller::Action::requeue(Duration::from_millis(500)));
}

#[tokio::test]
async fn missing_rights_are_a_condition_and_the_rest_is_applied() {
    let world = World::new();
    *world.answer.lock() = |sent| sent.path.contains("/services/").then_some(StatusCode::FORBIDDEN);
    assert_eq!(world.reconcile().await.unwrap_err().reason(), "Forbidden");
    let sent = world.take();
    assert!(sent.iter().any(|sent| sent.path.contains("statefulsets")));
    let last = sent.last().unwrap();
    assert!(last.path.ends_with("/status"));
    let stalled = last.body["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|condition| condition["type"] == "Stalled")
        .unwrap();
    assert_eq!(stalled["reason"], "Forbidden");
    assert!(stalled["message"].as_str().unwrap().contains("demo-peers"));
}

#[tokio::test]
async fn an_authority_that_exists_already_is_never_overwritten() {
    let world = World::new();
    *world.answer.lock() = |sent| {
        (sent.method == Method::POST && sent.path.ends_with("/secrets"))
            .then_some(StatusCode::CONFLICT)
    };
    world.reconcile().await.unwrap_err();
    let lines = world.lines();
    assert!(!lines.iter().any(|line| line.contains("secrets/demo")), "{lines:?}");
}

#[tokio::test]
async fn drift_is_repaired_and_nothing_else_is_written() {
    let mut world = World::running().await;
    let mut service = world.context.stores.live(Kind::Service, "ns", "demo-gateway").unwrap().body;
    service["spec"]["selector"]["app.kubernetes.io/instance"] = "evil".into();
    service["metadata"]["resourceVersion"] = "6".into();
    let service: Service = serde_json::from_value(service).unwrap();
    world.writers.services.apply_watcher_event(&watcher::Event::Apply(service));
    world.reconcile().await.unwrap();
    assert_eq!(world.lines(), ["PATCH /api/v1/namespaces/ns/services/demo-gateway"]);
}

#[tokio::test]
async fn an_invalid_spec_touches_nothing_but_the_status() {
    let mut world = World::running().await;
    world.cluster.spec.nodes = 2;
    world.cluster.metadata.resource_version = Some("9999".to_owned());
    world.reconcile().await.unwrap();
    let sent = world.take();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].body["status"]["nodes"], 3);
    assert_eq!(world.lines().len(), 0);
}

#[tokio::test]
async fn a_paused_cluster_is_only_watched() {
    let mut world = World::running().await;
    world.cluster.spec.paused = true;
    world.cluster.spec.gateway.service.kind = crate::api::spec::ServiceType::NodePort;
    world.cluster.metadata.resource_version = Some("9999".to_owned());
    world.reconcile().await.unwrap();
    let sent = world.take();
    assert!(sent.iter().all(|sent| sent.path.ends_with("/status")), "{sent:?}");
}

#[tokio::test]
async fn an_object_that_is_not_wanted_any_more_is_deleted_by_uid() {
    let mut world = World::running().await;
    world.cluster.spec.network_policy.enabled = false;
    world.cluster.metadata.resource_version = Some("9999".to_owned());
    world.reconcile().await.unwrap();
    let sent = world.take();
    let delete = sent.iter().find(|sent| sent.method == Method::DELETE).unwrap();
    assert!(delete.path.ends_with("networkpolicies/demo"));
    assert!(!delete.body["preconditions"]["uid"].is_null());
}

#[tokio::test]
async fn a_restart_is_written_down_before_the_pod_is_deleted_by_uid() {
    let mut world = World::running().await;
    let mut set: StatefulSet =
        world.context.stores.stateful_set("ns", "demo").unwrap().as_ref().clone();
    let status = set.status.get_or_insert_default();
    status.update_revision = Some("r2".to_owned());
    world.writers.stateful_sets.apply_watcher_event(&watcher::Event::Apply(set));
    for name in ["demo-0", "demo-1", "demo-2"] {
        let mut pod = world.context.stores.pods_of("ns", "demo")[name].as_ref().clone();
        let labels = pod.metadata.labels.as_mut().unwrap();
        labels.insert("controller-revision-hash".to_owned(), "r1".to_owned());
        world.writers.pods.apply_watcher_event(&watcher::Event::Apply(pod));
    }
    world.reconcile().await.unwrap();
    let sent = world.take();
    let lines: Vec<String> =
        sent.iter().map(|sent| format!("{} {}", sent.method, sent.path)).collect();
    let status = "PATCH /apis/holdfast.dev/v1alpha1/namespaces/ns/holdfastclusters/demo/status";
    assert_eq!(lines, [status, "DELETE /api/v1/namespaces/ns/pods/demo-2", status]);
    assert_eq!(sent[0].body["status"]["operation"]["type"], "Restart");
    assert_eq!(sent[0].body["status"]["operation"]["phase"], "Intended");
    assert_eq!(sent[1].body["preconditions"]["uid"], "pod-2");
    assert_eq!(sent[2].body["status"]["operation"]["phase"], "Accepted");
}

#[tokio::test]
async fn scaling_down_asks_the_cluster_to_drain() {
    let mut world = World::new();
    world.cluster.spec.nodes = 4;
    *world.spec.lock() = json!({"nodes": 4});
    for _ in 0..4 {
        world.reconcile().await.unwrap();
        let sent = world.take();
        world.show(&sent);
        world.run_pods(4);
    }
    world.cluster.spec.nodes = 3;
    world.cluster.metadata.resource_version = Some("9999".to_owned());
    world.reconcile().await.unwrap();
    assert!(world.nodes.asked.lock().is_empty());
    let sent = world.take();
    let status = "PATCH /apis/holdfast.dev/v1alpha1/namespaces/ns/holdfastclusters/demo/status";
    let lines: Vec<String> =
        sent.iter().map(|sent| format!("{} {}", sent.method, sent.path)).collect();
    assert_eq!(lines, [status, "PATCH /api/v1/namespaces/ns/pods/demo-3"]);
    assert_eq!(
        sent[1].body,
        json!({"metadata": {"uid": "pod-3", "labels": {"app.kubernetes.io/managed-by": null}}})
    );
    // It is out of the gateway, and everybody had the time to notice.
    let mut pod = world.context.stores.pods_of("ns", "demo")["demo-3"].as_ref().clone();
    pod.metadata.labels.as_mut().unwrap().remove(names::MANAGED_BY_LABEL);
    world.writers.pods.apply_watcher_event(&watcher::Event::Apply(pod));
    world.show(&sent);
    let operation = world.cluster.status.as_mut().unwrap().operation.as_mut().unwrap();
    operation.started_at.0 -= jiff::SignedDuration::from_secs(5);
    world.cluster.metadata.resource_version = Some("99999".to_owned());
    world.reconcile().await.unwrap();
    assert_eq!(
        *world.nodes.asked.lock(),
        [Request::Drain { node: 4, ttl: Duration::from_mins(15) }]
    );
}

/// The cluster's spec is another one from now on.
fn ask_for(world: &mut World, spec: Value) {
    *world.spec.lock() = spec.clone();
    world.cluster.spec = serde_json::from_value(spec).unwrap();
    world.cluster.metadata.resource_version = Some("9999".to_owned());
}

#[tokio::test]
async fn a_policy_stands_in_the_status_before_the_cluster_is_asked_and_a_no_is_told() {
    let mut world = World::running().await;
    let policies = json!([{"prefix": "0x00ff", "replicas": 1, "allowFewer": true}]);
    ask_for(&mut world, json!({"placement": {"policies": policies}}));
    *world.nodes.answer.lock() = Outcome::Refused("holdfast: no room".to_owned());
    world.reconcile().await.unwrap();
    let prefix = vec![0, 255];
    let asked = std::mem::take(&mut *world.nodes.asked.lock());
    assert_eq!(
        asked,
        [Request::SetPolicy { prefix: prefix.clone(), replicas: 1, allow_fewer: true }]
    );
    let sent = std::mem::take(&mut *world.sent.lock());
    let states: Vec<(&Value, &Value)> = sent
        .iter()
        .filter(|sent| sent.path.ends_with("/status"))
        .map(|sent| &sent.body["status"]["placement"]["policies"][0])
        .map(|policy| (&policy["state"], &policy["refused"]["message"]))
        .collect();
    assert_eq!(states, [(&json!("Pending"), &Value::Null), (&json!("Refused"), &json!("no room"))]);
    let told = |sent: &Sent| sent.body["note"] == "the policy of 0x00ff: no room";
    assert!(sent.iter().any(told), "{sent:#?}");
    // Later it is in the spec no more, and the cluster has it.
    world.show(&sent);
    world.nodes.report.lock().as_mut().unwrap().policies = Some(vec![crate::observe::PolicyView {
        prefix: "0x00ff".to_owned(),
        replicas: 1,
        ..Default::default()
    }]);
    ask_for(&mut world, json!({}));
    world.cluster.metadata.resource_version = Some("99999".to_owned());
    let policies = &mut world.cluster.status.as_mut().unwrap().placement.policies;
    policies[0].refused = None;
    world.reconcile().await.unwrap();
    assert_eq!(*world.nodes.asked.lock(), [Request::RemovePolicy { prefix }]);
}

#[tokio::test]
async fn nodes_are_told_the_label_of_their_machine() {
    let mut world = World::running().await;
    let host: Node = serde_json::from_value(json!({
        "metadata": {"name": "h", "labels": {"topology.kubernetes.io/zone": "z1", "rack": "r1"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap();
    world.writers.hosts.apply_watcher_event(&watcher::Event::Apply(host));
    let told = |domain: &str| {
        let tell = |node| Request::SetFailureDomain { node, domain: domain.to_owned() };
        [tell(1), tell(2), tell(3)]
    };
    world.reconcile().await.unwrap();
    assert_eq!(std::mem::take(&mut *world.nodes.asked.lock()), told("z1"));
    ask_for(&mut world, json!({"placement": {"failureDomain": {"topologyKey": "rack"}}}));
    // After a no, the others are not bothered.
    *world.nodes.answer.lock() = Outcome::Refused("no".to_owned());
    world.reconcile().await.unwrap();
    assert_eq!(std::mem::take(&mut *world.nodes.asked.lock()), told("r1")[..1]);
}
