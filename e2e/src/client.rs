//! A client that writes and reads without pause and records what it saw.
//!
//! Each key has one writer, which writes 1, 2, 3, …, and one reader, each with a connection of its
//! own, so that a Service spreads them. What was sent is never repeated: what fails is counted. So the
//! value that a read returns says which writes had happened, and three things can be told from the
//! answers alone: an acknowledged write is lost, a read is stale, an answer is impossible.

mod judge;
mod record;
mod worker;

use crate::report::Line;
use clap::Args;
use judge::Key;
use record::Recorder;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use worker::Worker;

/// How often the summary is printed.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);

/// Longest wait for several nodes to answer.
const SPREAD_MAX: Duration = Duration::from_secs(10);

/// What to do, and to whom.
#[derive(Clone, Debug, Args)]
pub struct ClientArgs {
    /// Where the store is, for example `https://demo-gateway:2379`
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// How many keys, each with a writer and a reader
    #[arg(long, default_value_t = 8)]
    keys: u32,
    /// What the keys begin with
    #[arg(long, default_value = "recorded/")]
    prefix: String,
    /// Milliseconds between the end of a request and the next of the same worker
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
    /// Milliseconds after which a request has failed
    #[arg(long, default_value_t = 5000)]
    deadline_ms: u64,
    /// Begin only when so many nodes have answered, each on a connection of its own: a Service that has
    /// just got its pods may know only one of them, and connections stay where they are. Ten seconds at most
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    gateways: usize,
    /// Print every request, not only those that failed
    #[arg(long)]
    all: bool,
    /// Authority that the store's certificate comes from
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Own certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

/// Runs until SIGTERM, reads every key once more, prints the last summary.
///
/// Exits with failure only when the store answered wrongly or the arguments make no sense.
pub async fn run(arguments: ClientArgs) -> ExitCode {
    let endpoint = match endpoint(&arguments) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            eprintln!("holdfast-e2e: {error}");
            return ExitCode::from(2);
        }
    };
    worker::await_gateways(&endpoint, arguments.gateways, SPREAD_MAX).await;
    let recorder = Arc::new(Recorder::new(arguments.all));
    let (stop, stopped) = watch::channel(false);
    let mut workers = Vec::new();
    let mut keys = Vec::new();
    for number in 0..arguments.keys {
        let key = Arc::new(Key::new(format!("{}{number}", arguments.prefix)));
        keys.push(Arc::clone(&key));
        let worker = Worker {
            key,
            recorder: Arc::clone(&recorder),
            pause: Duration::from_millis(arguments.pause_ms),
            deadline: Duration::from_millis(arguments.deadline_ms),
            stopped: stopped.clone(),
        };
        workers.push(tokio::spawn(worker.clone().write(endpoint.connect_lazy())));
        workers.push(tokio::spawn(worker.read(endpoint.connect_lazy())));
    }

    let mut every = tokio::time::interval(SUMMARY_EVERY);
    let end = until_told_to_stop();
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            _ = every.tick() => record::say(&Line::Summary(recorder.summary())),
        }
    }
    stop.send_replace(true);
    for worker in workers {
        worker.await.expect("workers do not panic");
    }
    let mut summary = recorder.summary();
    for key in keys {
        match worker::last_read(&key, &endpoint).await {
            Ok(value) => {
                if let Some(what) = key.judge_last(value) {
                    summary.lost += 1;
                    record::wrong(&key, what);
                }
            }
            Err(what) => {
                summary.lost += 1;
                record::wrong(&key, what);
            }
        }
    }
    summary.last = true;
    let right = summary.lost + summary.stale + summary.impossible == 0;
    record::say(&Line::Summary(summary));
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns at SIGTERM or SIGINT.
pub async fn until_told_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("a handler can be installed");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler can be installed");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn endpoint(arguments: &ClientArgs) -> Result<Endpoint, String> {
    let url = &arguments.endpoint;
    let mut endpoint = Endpoint::from_shared(url.clone())
        .map_err(|error| format!("--endpoint {url}: {error}"))?
        // A machine that vanished closes no connection: pings notice it, and the next connection
        // goes elsewhere. Numbers as careful users set them.
        .connect_timeout(Duration::from_secs(1))
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    if url.starts_with("https:") {
        let mut tls = ClientTlsConfig::new();
        if let Some(path) = &arguments.cacert {
            tls = tls.ca_certificate(Certificate::from_pem(read(path)?));
        }
        if let (Some(cert), Some(key)) = (&arguments.cert, &arguments.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        endpoint = endpoint.tls_config(tls).map_err(|error| format!("TLS: {error}"))?;
    }
    Ok(endpoint)
}
