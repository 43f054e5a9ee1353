//! `holdfast-operator run`: watches, elects, reconciles, until it is told to stop or loses the Lease.
//!
//! Invariants: nothing is changed before the Lease is held; losing it ends the process; /livez answers
//! from the start on, /readyz when the copies are complete.

use crate::api::HoldfastCluster;
use crate::leader::Election;
use crate::nodes::Grpc;
use crate::reconcile::{Context, Shared, on_error, reconcile};
use crate::stores::{self, Stores};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use futures::channel::mpsc;
use futures::{FutureExt as _, StreamExt as _};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::PredicateConfig;
use kube::runtime::utils::predicates;
use kube::runtime::{Controller, Predicate as _, WatchStreamExt as _, controller, watcher};
use kube::{Client, ResourceExt as _};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What `run` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to watch; empty: all.
    pub namespaces: Vec<String>,
    /// The operator's own namespace.
    pub own_namespace: String,
    /// Take part in the election.
    pub leader_elect: bool,
    /// Name of the Lease.
    pub lease_name: String,
    /// Where /metrics, /livez and /readyz are served.
    pub metrics_listen: SocketAddr,
    /// How many clusters are reconciled at the same time in a namespace.
    pub concurrency: u16,
    /// The operator's own name: its pod's.
    pub identity: String,
}

/// How long the end of what is under way is waited for.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often clusters that are gone are forgotten.
const SWEEP: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Health {
    shared: Arc<Shared>,
    ready: Arc<AtomicBool>,
}

/// Runs until it is told to stop.
///
/// # Errors
/// One sentence: the API server cannot be reached at all, a port is taken, the Lease was lost.
pub async fn run(options: Options) -> Result<(), String> {
    let client = Client::try_default()
        .await
        .map_err(|error| format!("cannot find the Kubernetes API: {error}"))?;
    let stop = CancellationToken::new();
    let signals = stop_on_signal(stop.clone())?;
    let shared = Arc::new(Shared::new(
        client.clone(),
        Arc::new(Grpc::default()),
        Some(options.identity.clone()),
    ));
    let ready = Arc::new(AtomicBool::new(false));
    let health = Health { shared: shared.clone(), ready: ready.clone() };
    let listener = tokio::net::TcpListener::bind(options.metrics_listen)
        .await
        .map_err(|error| format!("--metrics-listen {}: {error}", options.metrics_listen))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, health, stop.clone()));

    let namespaces: Vec<Option<String>> = if options.namespaces.is_empty() {
        vec![None]
    } else {
        options.namespaces.iter().cloned().map(Some).collect()
    };
    let hosts = match stores::hosts(&client).await {
        Some((hosts, feed)) => {
            tasks.spawn(feed);
            Some(hosts)
        }
        None => None,
    };
    let mut watched = Vec::new();
    for namespace in &namespaces {
        let (wake, woken) = mpsc::unbounded();
        let (stores, feeds) = Stores::watch(&client, namespace.as_deref(), hosts.clone(), &wake);
        for feed in feeds {
            tasks.spawn(feed);
        }
        watched.push((namespace.clone(), stores, woken));
    }

    // The copies are complete before the Lease is asked for, so that the next one begins at once.
    let filled = async {
        for (_, stores, _) in &watched {
            stores.ready().await;
        }
        // An empty list would look as if every Kubernetes node were gone.
        if let Some(hosts) = &hosts
            && hosts.wait_until_ready().await.is_err()
        {
            tracing::warn!("the watch of Kubernetes nodes has ended");
        }
    };
    tokio::select! {
        () = filled => {}
        () = stop.cancelled() => return Ok(()),
    }
    ready.store(true, Ordering::Relaxed);
    tracing::info!(?namespaces, "watching");

    let mut election = Election::new(
        client.clone(),
        &options.own_namespace,
        &options.lease_name,
        &options.identity,
    );
    if options.leader_elect {
        tokio::select! {
            () = election.acquire() => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
    shared.metrics.set_leader(true);
    tracing::info!(identity = options.identity, "acting");

    let mut controllers = JoinSet::new();
    for (namespace, stores, woken) in watched {
        let context = Arc::new(Context { shared: shared.clone(), stores });
        let (clusters, controller) =
            control(&client, namespace.as_deref(), context, woken, &stop, options.concurrency);
        controllers.spawn(controller);
        tasks.spawn(sweep(shared.clone(), clusters));
    }
    let lost = async {
        if options.leader_elect { election.hold().await } else { std::future::pending().await }
    };
    let result = tokio::select! {
        why = lost => Err(format!("stopping: {why}")),
        () = stop.cancelled() => Ok(()),
    };
    shared.metrics.set_leader(false);
    if result.is_ok() {
        let ended = async { while controllers.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::warn!("some reconciles did not end in time");
        }
        controllers.abort_all();
        if options.leader_elect {
            election.release().await;
        }
    }
    signals.abort();
    tasks.abort_all();
    result
}

/// Reconciles the clusters of one namespace, or of all.
fn control(
    client: &Client,
    namespace: Option<&str>,
    context: Arc<Context>,
    woken: mpsc::UnboundedReceiver<ObjectRef<HoldfastCluster>>,
    stop: &CancellationToken,
    concurrency: u16,
) -> (Store<HoldfastCluster>, impl Future<Output = ()> + Send + 'static) {
    let api = stores::api(client, namespace);
    let (reader, writer) = reflector::store();
    // What the operator itself writes, the status, wakes nobody.
    let changes = watcher(api, watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::annotations),
            PredicateConfig::default(),
        );
    let config =
        controller::Config::default().concurrency(concurrency).debounce(Duration::from_millis(200));
    let stop = stop.clone();
    let run = Controller::for_stream(changes, reader.clone())
        .with_config(config)
        .reconcile_on(woken)
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, on_error, context)
        .for_each(|_| futures::future::ready(()));
    (reader, run.boxed())
}

/// Forgets clusters that are gone.
async fn sweep(shared: Arc<Shared>, clusters: Store<HoldfastCluster>) {
    let mut seen: HashSet<String> = HashSet::new();
    loop {
        tokio::time::sleep(SWEEP).await;
        let now: HashSet<String> =
            clusters.state().iter().filter_map(|cluster| cluster.uid()).collect();
        let gone: HashSet<String> = seen.difference(&now).cloned().collect();
        if !gone.is_empty() {
            tracing::info!(count = gone.len(), "clusters are gone");
            shared.retain(|uid| !gone.contains(uid));
        }
        seen = now;
    }
}

fn stop_on_signal(stop: CancellationToken) -> Result<tokio::task::JoinHandle<()>, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| format!("cannot listen to signals: {error}"));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("told to stop");
        stop.cancel();
    }))
}

async fn serve(listener: tokio::net::TcpListener, health: Health, stop: CancellationToken) {
    let router = Router::new()
        .route(
            "/metrics",
            get(|State(health): State<Health>| async move { health.shared.metrics.text() }),
        )
        .route("/livez", get(|| async { "ok" }))
        .route(
            "/readyz",
            get(|State(health): State<Health>| async move {
                if health.ready.load(Ordering::Relaxed) {
                    (StatusCode::OK, "ok")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not all watched objects were listed yet")
                }
            }),
        )
        .with_state(health);
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the metrics port");
    }
}
