//! `holdfast-node serve`: one node from its first line to its last.
//!
//! Order of the start: flags, certificates, ports, disk, who this node is, log and state, core,
//! peers, clients. Nothing is written before flags, certificates, ports and the disk's owner are
//! known to be right. Order of the end: say "not ready", give up leadership while still serving,
//! send clients away, stop, make everything durable.

mod alarm;
mod announce;

mod facts;

mod forming;

mod identity;

mod peers;

mod ports;

mod progress;

mod start;

mod stores;

use crate::cli::{Exit, Failure};
use crate::config::{Config, LEADER_LOSS_ELECTIONS, ServeArgs};
use crate::gateway::backend::{Backend, Vitals};
use crate::gateway::{self, Gateway, Handed};
use crate::http::{self, Front};
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::shutdown::{GONE, StopRequests, chain};
use crate::store_loop::{self, Clock, Handle, Inbox, Mail, Parts, PeerMail};
use crate::telemetry;
use crate::tls::{self, Side, Tls};
use crate::transport::{Local, PeerTls, Settings, Transport, ask_report};
use holdfast_core::node::{self, Node};
use holdfast_storage::StorageError;
use identity::Opened;
use peers::PeersFile;
use ports::Ports;
use std::sync::Arc;
use std::time::Duration;
use stores::Stores;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How long open client requests may take to finish at the end.
const CLIENTS_GRACE: Duration = Duration::from_secs(2);

/// Runs `serve` until the node is told to stop.
///
/// # Errors
/// See [`Failure`].
pub fn run(args: ServeArgs) -> Result<(), Failure> {
    telemetry::start(&args.log_level, args.log_format).map_err(Failure::usage)?;
    let stop_with_stdin = args.stop_with_stdin;
    let config = Config::check(args).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers)
        .thread_name("client")
        .enable_all()
        .build()
        .map_err(|error| Failure::broken(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(serve(config, stop_with_stdin));
    // Connections that do not end by themselves are cut.
    runtime.shutdown_background();
    outcome
}

/// A number that nobody guesses and that does not come twice.
pub fn random_number() -> u64 {
    holdfast_storage::disk::random_number().expect("the operating system has random numbers")
}

async fn serve(config: Config, stop_with_stdin: bool) -> Result<(), Failure> {
    let mut stop = StopRequests::new(stop_with_stdin)
        .map_err(|error| Failure::broken(format!("cannot hear signals: {error}")))?;
    let certificates = Certificates::load(&config)?;
    let (mut ports, http) = Ports::reserve(&config).await?;
    let (front, stop_http) = (Front::default(), CancellationToken::new());
    tokio::spawn(http::serve(http, front.clone(), stop_http.clone().cancelled_owned()));
    let starting = async {
        let tell = |missing: &str| front.starting(missing);
        let opened = identity::open(&config, &certificates.peer, &mut ports, tell).await?;
        tokio::task::block_in_place(|| {
            Running::start(&config, opened, &certificates, ports, &front, stop_http)
        })
    };
    let mut running = tokio::select! {
        running = starting => running?,
        _ = stop.next() => return Ok(()),
    };
    let (abandoned, left) = tokio::select! {
        abandoned = stop.next() => (abandoned, false),
        () = running.handle.left() => (false, true),
    };
    if left {
        info!("this node is not part of the cluster any more");
    }
    // Who has left knows nothing any more that clients could wait for.
    let delay = if left { Duration::ZERO } else { config.stop_delay };
    running.stop(&config, delay, &mut stop, abandoned).await;
    if left {
        return Err(Failure::usage(GONE));
    }
    Ok(())
}

/// The certificates of both listeners, read again when their files change.
struct Certificates {
    client: Option<Arc<Tls>>,
    peer: PeerTls,
}

impl Certificates {
    fn load(config: &Config) -> Result<Self, Failure> {
        let load = |files: &Option<tls::Files>, side| {
            files.clone().map(|files| Tls::load(files, side).map(Arc::new)).transpose()
        };
        let client = load(&config.tls.client, Side::Client).map_err(Failure::usage)?;
        let peer = load(&config.tls.peer, Side::Peer).map_err(Failure::usage)?;
        let certificates = Self { client, peer };
        tls::watch(certificates.all())
            .map_err(|error| Failure::broken(format!("cannot start a thread: {error}")))?;
        Ok(certificates)
    }

    fn all(&self) -> Vec<Arc<Tls>> {
        self.client.iter().chain(&self.peer).cloned().collect()
    }
}

/// A node that serves.
struct Running {
    handle: Handle,
    transport: Arc<Transport>,
    vitals: Arc<Vitals>,
    clients: tokio::task::JoinHandle<()>,
    stop_clients: CancellationToken,
    stop_http: CancellationToken,
}

impl Running {
    fn start(
        config: &Config,
        opened: Opened,
        certificates: &Certificates,
        ports: Ports,
        front: &Front,
        stop_http: CancellationToken,
    ) -> Result<Self, Failure> {
        let Opened { disk, identity, formed, standings } = opened;
        let identity = &identity;
        let incarnation = random_number();
        let room = disk.room().map_err(|error| storage_failure(&error))?;
        if room.is_full(false) {
            // So that there is room to start, and to delete.
            disk.drop_ballast().map_err(|error| storage_failure(&error))?;
        }
        let stores = Stores::open(config, &disk, identity, formed.as_ref())?;
        let clock = Clock::start();
        let core = node::Config {
            node: identity.node,
            incarnation,
            tick_ms: config.tick.as_millis() as u64,
            election_ms: config.election.as_millis() as u64,
            log_budget: config.log_budget,
            split_bytes: config.split_bytes,
            check_every_ms: config.check_interval.as_millis() as u64,
            shaping: node::Shaping {
                merge_after_ms: config.merge_after.as_millis() as u64,
                ..node::Shaping::default().cut_at(config.split_load)
            },
        };
        let Stores { log, state, boots } = stores;
        let ranges = boots.len();
        let node = Node::new(core, clock.now(), log.clone(), &state, boots)
            .map_err(|error| Failure::broken(format!("the state cannot be read: {error}")))?;
        let inbox: Inbox = Arc::new(Mailbox::default());
        let db_size_quota = i64::try_from(room.usable()).unwrap_or(i64::MAX);
        let disk = Arc::new(disk);
        let listeners =
            ports.listen().map_err(|error| Failure::broken(format!("cannot listen: {error}")))?;
        let local = Local {
            cluster: identity.cluster,
            node: identity.node,
            incarnation,
            address: config.advertise_peer.clone(),
        };
        let vitals = Arc::new(Vitals::new(identity.cluster, identity.node));
        let metrics = Arc::new(Metrics::new(certificates.all()));
        let gateway = {
            let (inbox, metrics) = (Arc::clone(&inbox), Arc::clone(&metrics));
            let backend =
                Backend::new(Arc::clone(&vitals), move |call| inbox.post(Mail::Client(call)));
            tokio::spawn(alarm::follow(backend.clone(), stop_http.clone()));
            let sent_away = metrics.sent_away();
            let endpoints = http::Endpoints::new(backend.clone(), move || metrics.render());
            let gateway_config = gateway::Config {
                request_timeout: Duration::from_secs(5) + 2 * config.election,
                leader_loss_timeout: LEADER_LOSS_ELECTIONS * config.election,
                cut_off_timeout: config.cut_off_timeout,
                stop_timeout: CLIENTS_GRACE,
                client_tls: certificates.client.is_some(),
                peer_tls: certificates.peer.is_some(),
                limits: gateway::Limits {
                    request_bytes: config.max_request_bytes,
                    txn_operations: config.max_txn_ops,
                },
                db_size_quota,
                names_domain: config.failure_domain.is_some(),
                ..gateway::Config::default()
            };
            let (cluster, tls) = (identity.cluster, certificates.peer.clone());
            Gateway::new(backend, gateway_config, endpoints)
                .counting(sent_away)
                .asking(move |address| ask_report(address, tls.as_deref(), cluster))
        };
        let domain = config.failure_domain.clone();
        tokio::spawn(facts::follow(gateway.backend().clone(), domain, stop_http.clone()));
        tokio::spawn(progress::follow(gateway.clone(), Arc::clone(&metrics), stop_http.clone()));
        let snapshots = store_loop::receive_snapshots(&state, &inbox);
        let reporting = gateway.clone();
        let report = Box::new(move || reporting.report());
        let events = Arc::new(PeerMail::new(Arc::clone(&inbox), snapshots, report));
        let (hand_over, handed) = Handed::channel();
        let settings = Settings {
            tls: certificates.peer.clone(),
            least: node.level(),
            snapshot_rates: config.snapshot_rates,
            standings,
            on_http2: Box::new(move |stream, seen| hand_over.take(stream, seen)),
        };
        let transport = Transport::start(local, listeners.peer, settings, events)
            .map_err(|error| Failure::broken(format!("cannot talk to peers: {error}")))?;
        let transport = Arc::new(transport);
        let mut peers = PeersFile::open(disk.dir());
        for (peer, address) in peers.known(config, identity) {
            transport.set_peer(peer, &address);
        }
        let parts = Parts {
            node,
            state,
            log,
            disk,
            transport: Arc::clone(&transport),
            vitals: Arc::clone(&vitals),
            metrics: Arc::clone(&metrics),
            inbox: Arc::clone(&inbox),
            clock,
            check_rate: config.check_rate,
            on_peers: Box::new(move |changed| peers.remember(&changed)),
        };
        let handle = store_loop::start(parts)
            .map_err(|error| Failure::broken(format!("cannot start a thread: {error}")))?;

        announce::start(config, identity, &certificates.peer, &transport, &inbox)
            .map_err(|error| Failure::broken(format!("cannot start a thread: {error}")))?;

        if let Some(tls) = certificates.peer.clone() {
            let stop = stop_http.clone().cancelled_owned();
            tokio::spawn(gateway::serve_admin(handed, tls, gateway.clone(), stop));
        }
        front.serving(gateway.endpoints().clone());
        let stop_clients = CancellationToken::new();
        let clients = tokio::spawn(gateway::serve(
            listeners.client,
            certificates.client.clone(),
            gateway,
            stop_clients.clone().cancelled_owned(),
        ));
        info!(
            node = %identity.node,
            name = config.name,
            cluster = format!("{:016x}", identity.cluster),
            ranges,
            clients = config.client_listen,
            peers = config.peer_listen,
            http = config.http_listen,
            "serving"
        );
        Ok(Self { handle, transport, vitals, clients, stop_clients, stop_http })
    }

    /// Ends gracefully after `delay`, in which it goes on serving; `abandoned` skips all waiting for others.
    async fn stop(
        mut self,
        config: &Config,
        delay: Duration,
        stop: &mut StopRequests,
        abandoned: bool,
    ) {
        info!("stopping");
        self.vitals.set_draining(true);
        let told_again = if abandoned || delay.is_zero() {
            false
        } else {
            tokio::select! {
                () = tokio::time::sleep(delay) => false,
                _ = stop.next() => true,
            }
        };
        if !abandoned && !told_again {
            tokio::select! {
                () = self.handle.hand_over() => info!("other nodes lead"),
                () = tokio::time::sleep(config.stop_timeout) => info!("nobody took over in time"),
                _ = stop.next() => info!("told again to stop: not waiting for others to lead"),
            }
        }
        self.stop_clients.cancel();
        let grace = if abandoned { Duration::ZERO } else { CLIENTS_GRACE };
        tokio::select! {
            // A panic has ended the process already.
            _ = self.clients => {}
            () = tokio::time::sleep(grace) => {}
        }
        self.stop_http.cancel();
        let (handle, transport) = (self.handle, self.transport);
        tokio::task::block_in_place(|| {
            // The loop takes nothing from peers once it ends.
            transport.stop();
            handle.stop();
        });
        info!("stopped");
    }
}

/// How a storage error at the start ends the process: with 2 if this node must not use the
/// directory, with 3 if it cannot.
fn storage_failure(error: &StorageError) -> Failure {
    let exit = match error {
        StorageError::Foreign { .. } | StorageError::InUse { .. } | StorageError::Format { .. } => {
            Exit::Usage
        }
        _ => Exit::Failure,
    };
    Failure { exit, line: chain(error) }
}
