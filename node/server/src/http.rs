//! Plain HTTP: `/metrics`, `/livez`, `/readyz`, `/health`, `/version`, on a listener of its own and
//! on the client port, as etcd has them.
//!
//! Invariants: `/livez` depends on this process alone, or a kubelet would kill nodes that are only
//! cut off; `/readyz` says whether clients should be sent here.

use crate::gateway::backend::Backend;
use crate::gateway::{Body, ETCD_VERSION, FrontEnd};
use bytes::Bytes;
use holdfast_core::request::{AlarmKind, Request};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use std::convert::Infallible;
use std::fmt::Write;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a probe waits for the store loop. Kubelets wait 1 s unless told otherwise.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);

/// How long `/health` waits for the sequencer, as etcd's request timeout.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(7);

/// Pause after the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const NOT_FOUND: &str = "404 page not found\n";

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The text is good as either; old scrapers know only the first.
const METRICS_TEXT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const METRICS_OPEN: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// What answers on the listener of its own, from the first moment of the process. Clones share it.
#[derive(Clone)]
pub struct Front {
    stage: Arc<RwLock<Stage>>,
}

#[derive(Clone)]
enum Stage {
    /// The node does not serve yet, because of this.
    Starting(String),
    Serving(Endpoints),
}

impl Default for Front {
    fn default() -> Self {
        Self { stage: Arc::new(RwLock::new(Stage::Starting("the node is starting".to_owned()))) }
    }
}

impl Front {
    /// Tells why the node does not serve yet.
    pub fn starting(&self, missing: &str) {
        *self.stage.write() = Stage::Starting(missing.to_owned());
    }

    /// The node serves.
    pub fn serving(&self, endpoints: Endpoints) {
        *self.stage.write() = Stage::Serving(endpoints);
    }

    async fn answer(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response<Body> {
        let stage = self.stage.read().clone();
        match stage {
            Stage::Serving(endpoints) => endpoints.answer(method, uri, headers).await,
            // A process that waits for others must not be killed for it.
            Stage::Starting(_) if uri.path() == "/livez" => text(StatusCode::OK, "ok\n"),
            Stage::Starting(missing) => {
                let report = format!("[-]started failed: {missing}\n");
                text(StatusCode::SERVICE_UNAVAILABLE, report)
            }
        }
    }
}

/// Everything that plain HTTP can ask of a node. Clones share it.
#[derive(Clone)]
pub struct Endpoints {
    backend: Backend,
    front_end: Arc<FrontEnd>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Endpoints {
    /// Endpoints about the node behind `backend`; `metrics` gives the text of `/metrics`.
    pub fn new(backend: Backend, metrics: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { backend, front_end: Arc::default(), metrics: Arc::new(metrics) }
    }

    /// The client listener, which tells here how it is.
    pub(crate) fn front_end(&self) -> &FrontEnd {
        &self.front_end
    }

    /// Answers one request.
    pub async fn answer(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response<Body> {
        let query = uri.query().unwrap_or_default();
        if method != Method::GET && method != Method::HEAD {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            return refusal;
        }
        let path = uri.path();
        if let Some(one) = path.strip_prefix("/livez") {
            return probe(self.livez().await, one, query);
        }
        if let Some(one) = path.strip_prefix("/readyz") {
            return probe(self.readyz().await, one, query);
        }
        match path {
            "/metrics" => {
                let open = headers.get(header::ACCEPT).is_some_and(|accepted| {
                    accepted
                        .to_str()
                        .is_ok_and(|text| text.contains("application/openmetrics-text"))
                });
                let kind = if open { METRICS_OPEN } else { METRICS_TEXT };
                respond(StatusCode::OK, kind, (self.metrics)())
            }
            "/health" => self.health(query).await,
            "/version" => respond(
                StatusCode::OK,
                JSON,
                serde_json::json!({
                    "etcdserver": ETCD_VERSION,
                    "etcdcluster": ETCD_VERSION,
                    "storage": ETCD_VERSION,
                    "holdfast": env!("CARGO_PKG_VERSION"),
                })
                .to_string(),
            ),
            _ => text(StatusCode::NOT_FOUND, NOT_FOUND),
        }
    }

    async fn livez(&self) -> Vec<Check> {
        vec![self.store_loop().await]
    }

    /// The checks have etcd's names, so that probes that leave one out work. Those of our own are
    /// there only while they fail.
    async fn readyz(&self) -> Vec<Check> {
        let vitals = self.backend.vitals();
        let view = self.backend.view();
        let (store_loop, clients) =
            tokio::join!(self.store_loop(), self.front_end.failure(PROBE_TIMEOUT));
        let corrupt = view.stopping_alarms().any(|alarm| alarm == AlarmKind::Corrupt);
        let mut checks = vec![
            Check {
                name: "data_corruption",
                failure: corrupt.then_some("alarm activated: CORRUPT"),
            },
            Check {
                name: "linearizable_read",
                failure: (!vitals.has_leader())
                    .then_some("no sequencer: this node sees no majority of the meta range"),
            },
            Check { name: "non_learner", failure: None },
            store_loop,
        ];
        let routes = !view.nodes.is_empty() && !view.directory.is_empty();
        let own = [
            ("in_service", vitals.draining().then_some("the node is about to stop")),
            ("client_listener", clients),
            ("routing", (!routes).then_some("this node does not know yet where the ranges are")),
        ];
        for (name, failure) in own {
            if failure.is_some() {
                checks.push(Check { name, failure });
            }
        }
        checks
    }

    async fn store_loop(&self) -> Check {
        let alive = self.backend.is_alive(PROBE_TIMEOUT).await;
        let failure = (!alive).then_some("the store loop does not answer");
        Check { name: "serializable_read", failure }
    }

    /// etcd's `/health`: with `serializable=true` about this node only, with `exclude=` without
    /// these alarms.
    async fn health(&self, query: &str) -> Response<Body> {
        let local = pairs(query).any(|pair| pair == ("serializable", "true"));
        let excluded = |alarm: AlarmKind| {
            pairs(query).any(|(key, value)| {
                key == "exclude" && value.eq_ignore_ascii_case(crate::gateway::alarm_name(alarm))
            })
        };
        let view = self.backend.view();
        // The flag is newer than the view.
        let no_space = self.backend.vitals().no_space().then_some(AlarmKind::NoSpace);
        let alarm = view
            .stopping_alarms()
            .filter(|alarm| *alarm != AlarmKind::NoSpace)
            .chain(no_space)
            .find(|alarm| !excluded(*alarm));
        let reason = if let Some(alarm) = alarm {
            Some(format!("ALARM {}", crate::gateway::alarm_name(alarm)))
        } else if local {
            (!self.backend.is_alive(HEALTH_TIMEOUT).await)
                .then(|| "RANGE ERROR:the store loop does not answer".to_owned())
        } else if self.backend.vitals().has_leader() {
            let answer = self.backend.call(Request::CurrentRevision, HEALTH_TIMEOUT).await;
            answer.err().map(|error| format!("RANGE ERROR:{error}"))
        } else {
            Some("RAFT NO LEADER".to_owned())
        };
        let status =
            if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let healthy = if reason.is_none() { "true" } else { "false" };
        // Not from a map: the order of the fields is etcd's, which some probes compare.
        let reason = serde_json::Value::String(reason.unwrap_or_default());
        respond(status, JSON, format!("{{\"health\":\"{healthy}\",\"reason\":{reason}}}"))
    }
}

/// One thing that a probe looked at.
struct Check {
    name: &'static str,
    failure: Option<&'static str>,
}

/// As etcd: `ok`, with every check if asked for `verbose` or if one failed. `one` is what follows
/// the probe's path: nothing, or a slash and the name of the only check wanted.
fn probe(mut checks: Vec<Check>, one: &str, query: &str) -> Response<Body> {
    if let Some(name) = one.strip_prefix('/') {
        checks.retain(|check| check.name == name);
    }
    if checks.is_empty() || !(one.is_empty() || one.starts_with('/')) {
        return text(StatusCode::NOT_FOUND, NOT_FOUND);
    }
    let excluded =
        |check: &Check| pairs(query).any(|(key, value)| key == "exclude" && value == check.name);
    checks.retain(|check| !excluded(check));
    let mut report = String::new();
    let mut failed = false;
    for check in &checks {
        match check.failure {
            None => writeln!(report, "[+]{} ok", check.name),
            Some(failure) => {
                failed = true;
                writeln!(report, "[-]{} failed: {failure}", check.name)
            }
        }
        .expect("writing to a string succeeds");
    }
    if failed {
        return text(StatusCode::SERVICE_UNAVAILABLE, report);
    }
    if pairs(query).any(|(key, _)| key == "verbose") {
        report.push_str("ok\n");
        text(StatusCode::OK, report)
    } else {
        text(StatusCode::OK, "ok\n")
    }
}

/// The parts of a query. Nothing that is asked for here needs percent-decoding.
fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    respond(status, TEXT, body)
}

fn respond(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Plain(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Serves the endpoints on a listener of their own until `stop` resolves.
pub async fn serve(listener: TcpListener, front: Front, stop: impl Future<Output = ()>) {
    let connections = TaskTracker::new();
    let stopping = CancellationToken::new();
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _address)) => {
                    let (front, stopping) = (front.clone(), stopping.clone());
                    connections.spawn(async move {
                        let service = service_fn(move |request: http::Request<_>| {
                            answer_incoming(front.clone(), request)
                        });
                        let mut builder = hyper::server::conn::http1::Builder::new();
                        builder.timer(TokioTimer::new());
                        let mut connection =
                            pin!(builder.serve_connection(TokioIo::new(stream), service));
                        let outcome = tokio::select! {
                            outcome = connection.as_mut() => outcome,
                            () = stopping.cancelled() => {
                                connection.as_mut().graceful_shutdown();
                                connection.await
                            }
                        };
                        if let Err(error) = outcome {
                            tracing::debug!(%error, "HTTP connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take an HTTP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop => {}
        () = accept => {}
    }
    stopping.cancel();
    connections.close();
    if tokio::time::timeout(PROBE_TIMEOUT, connections.wait()).await.is_err() {
        tracing::debug!("HTTP connections still open at the end");
    }
}

async fn answer_incoming(
    front: Front,
    request: http::Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, _body) = request.into_parts();
    Ok(front.answer(&head.method, &head.uri, &head.headers).await)
}

#[cfg(test)]
mod tests;
