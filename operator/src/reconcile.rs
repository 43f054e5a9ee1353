//! One reconcile: observe, validate, plan, write the status, apply, act. The thin shell around the pure
//! parts.
//!
//! Invariants: the status, and with it every intent, is written before anything is done, and only if
//! nobody changed the resource in between; an unchanged cluster costs no write; nothing sleeps here.

mod placement;
mod recovery;

use crate::api::{HoldfastCluster, HoldfastClusterStatus};
use crate::apply;
use crate::backoff::Backoff;
use crate::build::{self, Inputs, Kind, Object, names};
use crate::events::Events;
use crate::metrics::Metrics;
use crate::nodes::{Nodes, Request, Target};
use crate::observe::{BOOTSTRAP_NODES, BOOTSTRAPPED, FRESH, HostView, Observed, Report};
use crate::plan::operations::{Outcome, absorb};
use crate::plan::{Action, InGateway, Notice, plan, scale};
use crate::status::{self, Trouble};
use crate::stores::{Stores, version};
use crate::tls::{self, Certificates, Identity};
use crate::validate::validate;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller;
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For how long the answer to an apply is trusted over the watched copy, which lags behind.
const LAG: Duration = Duration::from_secs(10);

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no or did not answer.
    #[error("{0}")]
    Kube(#[from] kube::Error),
}

impl Error {
    /// A bounded set of names, for metrics.
    pub fn reason(&self) -> &'static str {
        let Self::Kube(error) = self;
        match code(error) {
            Some(403) => "Forbidden",
            Some(404) => "NotFound",
            Some(409) => "Conflict",
            Some(422) => "Invalid",
            Some(429) => "TooManyRequests",
            Some(_) => "Api",
            None => "Transport",
        }
    }
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// What all reconciles of all namespaces share.
pub struct Shared {
    /// The API server.
    pub client: Client,
    /// The nodes.
    pub nodes: Arc<dyn Nodes>,
    /// What is measured.
    pub metrics: Metrics,
    /// What is told.
    pub events: Events,
    /// Who failed how often.
    pub backoff: Backoff,
    memory: Mutex<HashMap<String, Memory>>,
}

impl Shared {
    /// With nothing remembered.
    pub fn new(client: Client, nodes: Arc<dyn Nodes>, instance: Option<String>) -> Self {
        Self {
            events: Events::new(client.clone(), instance),
            client,
            nodes,
            metrics: Metrics::default(),
            backoff: Backoff::default(),
            memory: Mutex::default(),
        }
    }

    /// Forgets clusters that do not exist any more.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        let mut gone = Vec::new();
        self.memory.lock().retain(|uid, memory| {
            let stays = exists(uid);
            if !stays {
                gone.extend(memory.written.take());
            }
            stays
        });
        for cluster in gone {
            self.metrics.forget(&cluster);
        }
    }

    fn remember<T>(&self, uid: &str, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(self.memory.lock().entry(uid.to_owned()).or_default())
    }
}

/// What reconciles of one namespace need.
pub struct Context {
    /// What all share.
    pub shared: Arc<Shared>,
    /// The watched copies.
    pub stores: Stores,
}

/// What is known of a cluster only because this process lives: nothing that decisions need after a
/// restart.
#[derive(Default)]
struct Memory {
    /// The resource as it was after our last write of the status: newer than the watched copy for a
    /// moment.
    written: Option<Arc<HoldfastCluster>>,
    report: Option<(Instant, Report)>,
    fresh_since: Option<Instant>,
    /// Since when no status had to be written.
    quiet_since: Option<Instant>,
    report_error: Option<String>,
    trouble: Trouble,
    applied: HashMap<(Kind, String), Applied>,
    /// Which certificate each pod showed last, by the pod's UID: who showed the newest is not asked again.
    shown: HashMap<String, String>,
}

/// An apply that the watched copy may not show yet.
#[derive(Clone, PartialEq, Eq)]
struct Applied {
    body: serde_json::Value,
    before: Option<String>,
    after: String,
    at: Instant,
}

/// Reconciles one cluster.
///
/// # Errors
/// When the status cannot be written or an object not be applied.
pub async fn reconcile(
    cluster: Arc<HoldfastCluster>,
    context: Arc<Context>,
) -> Result<controller::Action, Error> {
    let started = Instant::now();
    let uid = cluster.uid().unwrap_or_default();
    let result = Reconcile { context: &context, uid: uid.clone() }.run(cluster).await;
    let shared = &context.shared;
    shared.metrics.reconciled(started.elapsed(), result.as_ref().err().map(Error::reason));
    if result.is_ok() {
        shared.backoff.succeeded(&uid);
    }
    result.map(controller::Action::requeue)
}

/// How long to wait after a failed reconcile.
pub fn on_error(
    cluster: Arc<HoldfastCluster>,
    error: &Error,
    context: Arc<Context>,
) -> controller::Action {
    let uid = cluster.uid().unwrap_or_default();
    if error.reason() == "Conflict" {
        // Somebody changed the resource: look at it again.
        context.shared.remember(&uid, |memory| memory.written = None);
        return controller::Action::requeue(Duration::from_millis(500));
    }
    let wait = context.shared.backoff.failed(&uid);
    tracing::warn!(cluster = cluster.name_any(), %error, ?wait, "reconcile failed");
    controller::Action::requeue(wait)
}

struct Reconcile<'a> {
    context: &'a Context,
    uid: String,
}

impl Reconcile<'_> {
    fn shared(&self) -> &Shared {
        &self.context.shared
    }

    fn remember<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        self.shared().remember(&self.uid, change)
    }

    async fn run(&self, cached: Arc<HoldfastCluster>) -> Result<Duration, Error> {
        if cached.metadata.deletion_timestamp.is_some() {
            return Ok(Duration::from_hours(1));
        }
        let cluster = self.newest(cached);
        let now = Timestamp::now();
        let mut inputs = Inputs::new(&cluster);
        let secrets = self.context.stores.secrets_of(&inputs.namespace, &inputs.name);
        let certificates = tls::ensure(&inputs, &secrets, now);
        let mut trouble = self.remember(|memory| memory.trouble.clone());
        trouble.invalid = validate(&cluster).err().unwrap_or_default();
        trouble.tls = certificates.as_ref().err().cloned();
        let valid = trouble.invalid.is_empty();

        let identity = certificates.as_ref().ok().map(|made| made.identity.clone());
        let mut observed = self.observe(&cluster, identity.as_ref()).await;
        if let Ok(made) = &certificates {
            self.ask_certificates(&inputs, made, &mut observed).await;
        }
        let plan = plan(&cluster, &observed, valid, now);
        let issued = certificates.as_ref().map(|made| made.all.clone()).unwrap_or_default();
        let finish =
            |trouble: &Trouble| status::finish(&cluster, &plan, &observed, trouble, &issued, now);

        let wanted = finish(&trouble);
        let mut cluster_now = self.write_status(&cluster, &wanted).await?;
        self.tell(&cluster, &cluster_now, &plan.notices).await;

        if !valid || cluster.spec.paused {
            self.remember(|memory| memory.trouble = trouble);
            return Ok(plan.requeue);
        }
        inputs.pods = wanted.nodes;
        inputs.bootstrapped = wanted.bootstrapped;
        inputs.bootstrap_nodes = wanted.bootstrap_nodes.unwrap_or(inputs.bootstrap_nodes);
        inputs.template_revision = wanted.template_revision.unwrap_or(inputs.template_revision);
        inputs.stopped = plan.stopped;
        inputs.fully_replicated = plan.fully_replicated;
        inputs.pod_monitors = self.context.stores.pod_monitors.get().is_some();
        let applied = match &certificates {
            Ok(certificates) => self.apply_all(&inputs, certificates).await,
            Err(_) => self.apply_objects(&inputs, build::objects(&inputs)).await,
        };
        let applied = match (applied, self.change_gateway(&inputs.namespace, &plan.gateway).await) {
            (Ok(()), Err((pod, error))) => Err((format!("labels of pod {pod}"), error)),
            (applied, _) => applied,
        };
        let recovered = match (&applied, &plan.recovery, &wanted.recovery) {
            // While objects are not as they should be, pods may run that should not.
            (Ok(()), Some(step), Some(recovery)) => self.recover(&inputs, recovery, step).await,
            (Ok(()), Some(step), None) => self.recover_tidy(&inputs, step).await,
            _ => Ok(()),
        };
        let applied = applied.and(recovered);
        trouble.apply = applied.as_ref().err().map(|(object, error)| explain(object, error));
        let before = cluster_now.clone();
        let mut after = status_of(&cluster_now);
        if let Some(action) = plan.action.clone() {
            let outcome = self.act(&inputs, &observed, identity.as_ref(), &action).await;
            tracing::info!(cluster = inputs.name, ?action, ?outcome, "acted");
            absorb(&mut after, outcome, now);
        }
        self.place(&inputs, &observed, identity.as_ref(), &plan.placing, &mut after, now).await;
        let changed = self
            .remember(|memory| std::mem::replace(&mut memory.trouble, trouble.clone()) != trouble);
        if changed {
            let (operation, placement) = (after.operation.take(), after.placement);
            after = HoldfastClusterStatus { placement, operation, ..finish(&trouble) };
        }
        cluster_now = self.write_status(&cluster_now, &after).await?;
        self.tell(&before, &cluster_now, &[]).await;
        match applied {
            Ok(()) => Ok(plan.requeue),
            // Somebody was faster: the watched copy is about to show it.
            Err((_, error)) if code(&error) == Some(409) && trouble.apply.is_none() => {
                Ok(Duration::from_millis(500))
            }
            Err((_, error)) => Err(error.into()),
        }
    }

    /// The newer of the watched copy and what our last write returned.
    fn newest(&self, cached: Arc<HoldfastCluster>) -> Arc<HoldfastCluster> {
        let number = |cluster: &HoldfastCluster| {
            cluster.resource_version().and_then(|text| text.parse::<u64>().ok())
        };
        self.remember(|memory| match &memory.written {
            Some(written) if number(written) > number(&cached) => written.clone(),
            _ => cached,
        })
    }

    async fn observe(&self, cluster: &HoldfastCluster, identity: Option<&Identity>) -> Observed {
        let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
        let stores = &self.context.stores;
        let label = cluster.spec.placement.failure_domain.label();
        let mut observed = Observed {
            stateful_set: stores.stateful_set(&namespace, &name).map(|set| set.as_ref().into()),
            pods: stores
                .pods_of(&namespace, &name)
                .into_iter()
                .map(|(name, pod)| (name, pod.as_ref().into()))
                .collect(),
            volumes: stores
                .claims_of(&namespace, &name)
                .into_iter()
                .filter_map(|(name, claim)| {
                    let pod = name.strip_prefix(names::VOLUME)?.strip_prefix('-')?.to_owned();
                    Some((pod, claim.as_ref().into()))
                })
                .collect(),
            recovery_pods: stores
                .recovery_pods_of(&namespace, &name)
                .into_iter()
                .map(|(name, pod)| (name, pod.as_ref().into()))
                .collect(),
            kept_reports: recovery::kept(stores, &namespace, &name),
            hosts: stores.hosts.as_ref().map(|hosts| {
                let hosts = hosts.state();
                let view = |host: &Node| HostView::with_domain(host, label);
                hosts.iter().map(|host| (host.name_any(), view(host))).collect()
            }),
            ..Observed::default()
        };
        self.ask(&name, &namespace, identity, &mut observed).await;
        observed
    }

    /// Asks the nodes how they are. An answer stays good for a while, so that one lost answer changes
    /// nothing.
    async fn ask(
        &self,
        name: &str,
        namespace: &str,
        identity: Option<&Identity>,
        observed: &mut Observed,
    ) {
        let answer = match identity {
            Some(identity) => {
                let targets = targets(name, namespace, observed);
                self.shared().nodes.report(&targets, identity).await
            }
            None => Err("the operator has no certificate to show to the nodes".to_owned()),
        };
        let now = Instant::now();
        self.remember(|memory| {
            match answer {
                Ok(report) => {
                    memory.fresh_since.get_or_insert(now);
                    memory.report = Some((now, report));
                    memory.report_error = None;
                }
                Err(error) => memory.report_error = Some(error),
            }
            let fresh = |(at, _): &(Instant, Report)| now.duration_since(*at) <= FRESH;
            if !memory.report.as_ref().is_some_and(fresh) {
                memory.report = None;
                memory.fresh_since = None;
            }
            observed.report = memory.report.as_ref().map(|(_, report)| report.clone());
            observed.fresh_for =
                memory.fresh_since.map_or(Duration::ZERO, |since| now.duration_since(since));
            observed.quiet_for =
                memory.quiet_since.map_or(Duration::ZERO, |since| now.duration_since(since));
            observed.report_error.clone_from(&memory.report_error);
        });
    }

    /// Asks those ready pods for their certificate that have not shown the issued one yet.
    async fn ask_certificates(
        &self,
        inputs: &Inputs,
        made: &Certificates,
        observed: &mut Observed,
    ) {
        let is_ready = |target: &Target| {
            observed.pods.get(&target.pod).is_some_and(|pod| pod.ready && !pod.terminating)
        };
        let uid = |target: &Target| observed.pods[&target.pod].uid.clone();
        let targets = targets(&inputs.name, &inputs.namespace, observed);
        let shown = self.remember(|memory| {
            memory.shown.retain(|uid, _| observed.pods.values().any(|pod| pod.uid == *uid));
            memory.shown.clone()
        });
        let asked = targets.iter().filter(|target| {
            is_ready(target) && shown.get(&uid(target)).is_none_or(|shown| *shown != made.node)
        });
        let answers = futures::future::join_all(asked.map(async |target| {
            let answer = self.shared().nodes.certificate(target, &made.identity).await;
            (target, answer)
        }))
        .await;
        let (mut old, mut unseen) = (Vec::new(), Vec::new());
        for (target, answer) in answers {
            match answer {
                Ok(fingerprint) => {
                    if fingerprint != made.node {
                        old.push(target.pod.clone());
                    }
                    self.remember(|memory| memory.shown.insert(uid(target), fingerprint));
                }
                Err(why) => {
                    tracing::debug!(why, "which certificate it has");
                    unseen.push(target.pod.clone());
                }
            }
        }
        old.sort();
        unseen.sort();
        observed.unseen_certificates = unseen;
        observed.old_certificates = old;
    }

    /// Writes the status if it is different, and only if nobody changed the resource meanwhile.
    async fn write_status(
        &self,
        cluster: &Arc<HoldfastCluster>,
        wanted: &HoldfastClusterStatus,
    ) -> Result<Arc<HoldfastCluster>, Error> {
        if cluster.status.as_ref() == Some(wanted) {
            self.remember(|memory| *memory.quiet_since.get_or_insert_with(Instant::now));
            self.shared().metrics.observe(cluster);
            return Ok(cluster.clone());
        }
        let namespace = cluster.namespace().unwrap_or_default();
        let api: Api<HoldfastCluster> = Api::namespaced(self.shared().client.clone(), &namespace);
        let body = json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "HoldfastCluster",
            "metadata": { "name": cluster.name_any(), "resourceVersion": cluster.resource_version() },
            "status": wanted,
        });
        let params = PatchParams::apply(apply::FIELD_MANAGER).force();
        self.shared().metrics.wrote();
        self.remember(|memory| memory.quiet_since = None);
        let written =
            Arc::new(api.patch_status(&cluster.name_any(), &params, &Patch::Apply(body)).await?);
        self.remember(|memory| memory.written = Some(written.clone()));
        self.shared().metrics.observe(&written);
        Ok(written)
    }

    async fn tell(&self, before: &HoldfastCluster, after: &HoldfastCluster, more: &[Notice]) {
        let mut notices = more.to_vec();
        if let (Some(before), Some(after)) = (&before.status, &after.status) {
            notices.extend(status::notices(before, after));
        }
        self.shared().events.publish(after, &notices).await;
    }

    async fn apply_all(
        &self,
        inputs: &Inputs,
        certificates: &Certificates,
    ) -> Result<(), (String, kube::Error)> {
        for authority in &certificates.create {
            self.shared().metrics.wrote();
            let body = apply::stamped(authority);
            apply::create(&self.shared().client, &inputs.namespace, authority.kind, &body)
                .await
                .map_err(|error| (authority.name.clone(), error))?;
        }
        let mut objects = certificates.apply.clone();
        objects.extend(build::objects(inputs));
        self.apply_objects(inputs, objects).await
    }

    /// Applies what is different, and goes on after a failure: one object that cannot be applied is no
    /// reason to leave the others as they are.
    async fn apply_objects(
        &self,
        inputs: &Inputs,
        objects: Vec<Object>,
    ) -> Result<(), (String, kube::Error)> {
        let mut failed = None;
        for mut object in objects {
            if object.kind == Kind::StatefulSet {
                let annotations = &mut object.body["metadata"]["annotations"];
                annotations[BOOTSTRAP_NODES] = inputs.bootstrap_nodes.to_string().into();
                annotations[BOOTSTRAPPED] = inputs.bootstrapped.to_string().into();
            }
            if let Err(error) = self.apply_one(inputs, &object).await {
                let what = format!("{:?} {}", object.kind, object.name);
                failed.get_or_insert((what, error));
            }
        }
        for (kind, name) in build::absent(inputs) {
            if let Err(error) = self.remove(inputs, kind, &name).await {
                failed.get_or_insert((format!("{kind:?} {name}"), error));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn apply_one(&self, inputs: &Inputs, object: &Object) -> kube::Result<()> {
        let wanted = apply::stamped(object);
        let live = self.context.stores.live(object.kind, &inputs.namespace, &object.name);
        if live.as_ref().is_some_and(|live| apply::is_current(&wanted, &live.body)) {
            return Ok(());
        }
        let seen = live.as_ref().map(|live| live.version.clone());
        let key = (object.kind, object.name.clone());
        let known = self.remember(|memory| memory.applied.get(&key).cloned());
        // Either the copy lags behind, or the API server writes what we want in its own words.
        let settled = known.is_some_and(|known| {
            known.body == wanted
                && (seen.as_ref() == Some(&known.after)
                    || (seen == known.before && known.at.elapsed() < LAG))
        });
        if settled {
            return Ok(());
        }
        let ours = live.as_ref().is_some_and(|live| live.owner.as_deref() == Some(&inputs.uid));
        self.shared().metrics.wrote();
        let client = &self.shared().client;
        let answer =
            apply::apply(client, &inputs.namespace, object.kind, &object.name, &wanted, ours)
                .await?;
        let after =
            version(answer.metadata.generation, answer.metadata.resource_version.as_deref());
        let applied = Applied { body: wanted, before: seen, after, at: Instant::now() };
        self.remember(|memory| memory.applied.insert(key, applied));
        Ok(())
    }

    async fn remove(&self, inputs: &Inputs, kind: Kind, name: &str) -> kube::Result<()> {
        let Some(live) = self.context.stores.live(kind, &inputs.namespace, name) else {
            return Ok(());
        };
        if live.owner.as_deref() != Some(&inputs.uid) {
            return Ok(());
        }
        self.shared().metrics.wrote();
        let client = &self.shared().client;
        gone_is_fine(apply::delete(client, &inputs.namespace, kind, name, &live.uid).await)
    }

    /// Takes pods out of the gateway, or puts them back, by the label that its Service selects.
    async fn change_gateway(
        &self,
        namespace: &str,
        changes: &[InGateway],
    ) -> Result<(), (String, kube::Error)> {
        let api: Api<Pod> = Api::namespaced(self.shared().client.clone(), namespace);
        for InGateway { pod, uid, wanted } in changes {
            let label = wanted.then_some(names::MANAGED_BY);
            let body =
                json!({"metadata": {"uid": uid, "labels": {(names::MANAGED_BY_LABEL): label}}});
            self.shared().metrics.wrote();
            let answer = api.patch(pod, &PatchParams::default(), &Patch::Merge(body)).await;
            gone_is_fine(answer.map(drop)).map_err(|error| (pod.clone(), error))?;
        }
        Ok(())
    }

    async fn act(
        &self,
        inputs: &Inputs,
        observed: &Observed,
        identity: Option<&Identity>,
        action: &Action,
    ) -> Outcome {
        let request = match action {
            Action::DeletePod { pod, uid } => {
                return outcome(self.delete_pod(&inputs.namespace, pod, uid).await);
            }
            Action::Replace { pod, pod_uid, volume_uid, gone_host } => {
                if let Some(host) = gone_host
                    && let Some(refusal) = self.host_is_there(host).await
                {
                    return refusal;
                }
                return outcome(
                    self.replace(&inputs.namespace, pod, pod_uid.as_deref(), volume_uid.as_deref())
                        .await,
                );
            }
            Action::Drain { node } => Request::Drain { node: *node, ttl: scale::DRAIN_TTL },
            Action::Undrain { node } => Request::Undrain { node: *node },
            Action::Reprotect { node, operation, epoch } => {
                Request::Reprotect { node: *node, operation: operation.clone(), epoch: *epoch }
            }
        };
        let Some(identity) = identity else {
            return Outcome::Failed("the operator has no certificate".to_owned());
        };
        let targets = targets(&inputs.name, &inputs.namespace, observed);
        self.shared().nodes.ask(&targets, identity, request).await
    }

    /// Looks once more, past the watched copy, whether a Kubernetes node is gone.
    async fn host_is_there(&self, host: &str) -> Option<Outcome> {
        let api: Api<Node> = Api::all(self.shared().client.clone());
        match api.get_opt(host).await {
            Ok(None) => None,
            Ok(Some(node)) if HostView::from(&node).out_of_service => None,
            Ok(Some(_)) => {
                Some(Outcome::Refused(format!("Kubernetes node {host} exists: the volume stays")))
            }
            Err(error) => Some(Outcome::Failed(format!("cannot read node {host}: {error}"))),
        }
    }

    async fn delete_pod(&self, namespace: &str, pod: &str, uid: &str) -> kube::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.shared().client.clone(), namespace);
        self.shared().metrics.wrote();
        gone_is_fine(api.delete(pod, &only(uid)).await.map(|_| ()))
    }

    /// The claim first: it is kept from going as long as the pod uses it, and a new pod must not find
    /// it.
    async fn replace(
        &self,
        namespace: &str,
        pod: &str,
        pod_uid: Option<&str>,
        volume_uid: Option<&str>,
    ) -> kube::Result<()> {
        if let Some(uid) = volume_uid {
            let api: Api<PersistentVolumeClaim> =
                Api::namespaced(self.shared().client.clone(), namespace);
            self.shared().metrics.wrote();
            let claim = names::volume_claim(pod);
            gone_is_fine(api.delete(&claim, &only(uid)).await.map(|_| ()))?;
        }
        match pod_uid {
            Some(uid) => self.delete_pod(namespace, pod, uid).await,
            None => Ok(()),
        }
    }
}

/// Where the nodes of a cluster are, those first that are most likely to answer.
fn targets(name: &str, namespace: &str, observed: &Observed) -> Vec<Target> {
    let mut pods: Vec<_> = observed.pods.iter().collect();
    pods.sort_by_key(|(pod, view)| (!view.ready, view.terminating, (*pod).clone()));
    pods.into_iter()
        .filter_map(|(pod, view)| {
            let ip = view.ip.as_deref()?;
            let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            Some(Target {
                pod: pod.clone(),
                host: names::pod_host(name, namespace, pod),
                address: format!("{ip}:{}", names::PEER_PORT),
            })
        })
        .collect()
}

/// Deletes this very object and no other of the same name.
fn only(uid: &str) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    }
}

/// Gone, or another one by now: what was to be deleted is not there.
fn gone_is_fine(answer: kube::Result<()>) -> kube::Result<()> {
    match answer {
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(()),
        other => other,
    }
}

fn outcome(answer: kube::Result<()>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Accepted(String::new()),
        Err(error) if code(&error).is_some() => Outcome::Refused(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn status_of(cluster: &HoldfastCluster) -> HoldfastClusterStatus {
    cluster.status.clone().unwrap_or_default()
}

/// What a failed apply means, for people.
fn explain(object: &str, error: &kube::Error) -> (String, String) {
    let reason = match code(error) {
        Some(403) => "Forbidden",
        Some(409) => "NameConflict",
        Some(422) => "Rejected",
        _ => "ApplyFailed",
    };
    let why = match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    };
    (reason.to_owned(), format!("cannot apply {object}: {why}"))
}

#[cfg(test)]
mod tests;
