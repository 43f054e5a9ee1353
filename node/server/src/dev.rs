//! `holdfast-node dev`: a whole cluster on this machine, each node a process of its own.
//!
//! Node *i* (from 1) serves clients on `client-port + 10 (i - 1)`, peers on the port after it and
//! HTTP on the one after that. `DIR/node-i/` holds its data, its process id in `pid` and its log in
//! `log`; `DIR/cluster.json` holds what the cluster was made with.
//!
//! Invariants: a node that ends is never started again by itself: tests kill nodes, people watch
//! what happens. What the supervisor started ends with it, even if it is killed.

mod cluster;

mod process;

mod ready;

mod reprotect;

use crate::cli::{ClientSecurity, Failure};
use crate::config::{ByteSize, HumanDuration, SplitKeys};
use clap::Args;
use cluster::Cluster;
use process::{Ended, Node};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) const AFTER_HELP: &str = "\
Examples:
  holdfast-node dev                                 three nodes, clients on 2379, 2389 and 2399
  holdfast-node dev --split-keys g,n,t              with four ranges from the start
  holdfast-node dev --nodes 5 --data /tmp/five      five nodes, their data in /tmp/five
  kill -9 $(cat holdfast-dev/node-2/pid)            node 2 dies
  holdfast-node dev --rejoin 2                      and comes back
  rm -r holdfast-dev/node-2/*                       (while it is down) its disk is lost:
  holdfast-node dev --rejoin 2                      it joins as a new node
  holdfast-node dev --nodes 5 --reprotect-delay 30s a node that is away for longer is replaced

A directory that was used before goes on where it stopped. Ctrl-C stops all nodes.";

/// The flags of `dev`.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// Number of nodes [default: 3, or as the directory was made]
    #[arg(long, value_name = "N")]
    pub nodes: Option<usize>,
    /// Directory for the data of all nodes
    #[arg(long, value_name = "DIR", default_value = "holdfast-dev")]
    pub data: PathBuf,
    /// Client port of node 1; node i has it plus 10 (i - 1) [default: 2379, or as before]
    #[arg(long, value_name = "PORT")]
    pub client_port: Option<u16>,
    /// Copies of every range [default: 3, or 1 with fewer than three nodes]
    #[arg(long, value_name = "N")]
    pub replicas: Option<usize>,
    /// How long a node may be away before its copies are rebuilt elsewhere [default: 10m]
    #[arg(long, value_name = "TIME")]
    pub reprotect_delay: Option<HumanDuration>,
    /// First keys of the ranges that the cluster starts with: text, or hex after 0x
    #[arg(long, value_name = "K1,K2,...")]
    pub split_keys: Option<SplitKeys>,
    /// Failure domains of the nodes, in turn: copies are spread over them [default: each node alone]
    #[arg(long, value_name = "D1,D2,...", value_delimiter = ',')]
    pub failure_domains: Option<Vec<String>>,
    /// Live data above which a range is cut in two, 0 for never [default: 256MiB]
    #[arg(long, env = "HOLDFAST_SPLIT_SIZE", value_name = "SIZE")]
    pub split_size: Option<ByteSize>,
    /// Requests a second above which a range is cut in two, 0 for never [default: 10000]
    #[arg(long, env = "HOLDFAST_SPLIT_LOAD", value_name = "N")]
    pub split_load: Option<u64>,
    /// How long ranges must be small and idle to be merged again, 0s for never [default: 5m]
    #[arg(long, env = "HOLDFAST_MERGE_AFTER", value_name = "TIME")]
    pub merge_after: Option<HumanDuration>,
    /// Start node I of an existing cluster again, and stay in the foreground with it
    #[arg(long, value_name = "I")]
    pub rejoin: Option<usize>,
    /// Milliseconds between two heartbeats [default: 100]
    #[arg(long, value_name = "MS")]
    pub tick_ms: Option<u64>,
    /// Milliseconds without a leader's sign of life before an election [default: 1000]
    #[arg(long, value_name = "MS")]
    pub election_ms: Option<u64>,
    /// How to ask the nodes whether they are ready, if the environment gives them TLS
    #[command(flatten)]
    pub security: ClientSecurity,
    /// What the nodes log
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// A node that was asked to stop is asked again after this, and then does not wait until others
/// lead: when all stop, nobody can.
const STOP_PATIENCE: Duration = Duration::from_millis(400);

/// A node that has not stopped after this is killed.
const STOP_MAX: Duration = Duration::from_secs(8);

/// Between two looks at the nodes.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// After this long a start that is not ready says what it waits for, and again after as long.
const HINT_INTERVAL: Duration = Duration::from_secs(10);

/// Runs `dev`.
///
/// # Errors
/// See [`Failure`].
pub fn run(args: DevArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut stop = StopSignal::new().map_err(Failure::broken)?;
        match args.rejoin {
            None => run_all(&args, &mut stop).await,
            Some(number) => run_one(&args, number, &mut stop).await,
        }
    })
}

async fn run_all(args: &DevArgs, stop: &mut StopSignal) -> Result<(), Failure> {
    let mut cluster = Cluster::open_or_create(args)?;
    for number in cluster.numbers() {
        cluster.check_not_running(number)?;
        cluster.check_ports(number)?;
    }
    cluster.save()?;
    let mut nodes = Vec::new();
    for number in cluster.numbers() {
        match Node::start(&cluster, number, &args.log_level) {
            Ok(node) => nodes.push(node),
            Err(failure) => {
                stop_all(&mut nodes).await;
                return Err(failure);
            }
        }
    }
    for node in &nodes {
        println!("{}", cluster.describe(node.number, node.pid()));
    }
    let outcome = match wait_until_ready(&cluster, &args.security, &mut nodes, stop).await {
        Ok(Waited::Ready) => {
            cluster.formed = true;
            match cluster.save() {
                Ok(()) => {
                    println!("endpoints: {}", cluster.endpoints());
                    println!("ready");
                    tokio::select! {
                        () = supervise(&cluster, &mut nodes, stop) => {}
                        () = reprotect::run(&cluster, &args.security) => {}
                    }
                    Ok(())
                }
                Err(failure) => Err(failure),
            }
        }
        Ok(Waited::Stopped) => Ok(()),
        Err(failure) => Err(failure),
    };
    stop_all(&mut nodes).await;
    // Nodes that were started again by hand belong to the cluster, and so to its end.
    cluster.stop_strays().await;
    outcome
}

async fn run_one(args: &DevArgs, number: usize, stop: &mut StopSignal) -> Result<(), Failure> {
    let cluster = Cluster::open(args)?;
    if !cluster.numbers().contains(&number) {
        return Err(Failure::usage(format!(
            "--rejoin {number}: the cluster in {} has nodes 1 to {}",
            args.data.display(),
            cluster.nodes
        )));
    }
    cluster.check_not_running(number)?;
    cluster.wait_for_ports(number).await?;
    let mut nodes = vec![Node::start(&cluster, number, &args.log_level)?];
    println!("{}", cluster.describe(number, nodes[0].pid()));
    let outcome = match wait_until_ready(&cluster, &args.security, &mut nodes, stop).await {
        Ok(Waited::Ready) => {
            println!("ready");
            tokio::select! {
                () = stop.received() => Ok(()),
                ended = nodes[0].wait() => match ended {
                    Ended::Stopped => Ok(()),
                    Ended::Broken(how) => Err(Failure::broken(format!("node {number} {how}"))),
                },
            }
        }
        Ok(Waited::Stopped) => Ok(()),
        Err(failure) => Err(failure),
    };
    stop_all(&mut nodes).await;
    outcome
}

enum Waited {
    Ready,
    Stopped,
}

/// Waits until every node serves and every range has a leader.
async fn wait_until_ready(
    cluster: &Cluster,
    security: &ClientSecurity,
    nodes: &mut [Node],
    stop: &mut StopSignal,
) -> Result<Waited, Failure> {
    let mut hint = Instant::now() + HINT_INTERVAL;
    loop {
        let missing = ready::missing(cluster, security, nodes).await;
        let Some(missing) = missing else { return Ok(Waited::Ready) };
        for node in nodes.iter_mut() {
            if let Some(ended) = node.ended() {
                return Err(ended.while_starting(node.number, cluster));
            }
        }
        if Instant::now() > hint {
            eprintln!("still waiting: {missing}");
            hint = Instant::now() + HINT_INTERVAL;
        }
        tokio::select! {
            () = stop.received() => return Ok(Waited::Stopped),
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

/// Tells of nodes that end, until told to stop.
async fn supervise(cluster: &Cluster, nodes: &mut Vec<Node>, stop: &mut StopSignal) {
    loop {
        tokio::select! {
            () = stop.received() => return,
            () = tokio::time::sleep(LOOK_INTERVAL * 4) => {}
        }
        nodes.retain_mut(|node| {
            let Some(ended) = node.ended() else { return true };
            println!(
                "node {} {ended}; start it again with: holdfast-node dev --rejoin {} --data {}",
                node.number,
                node.number,
                cluster.directory.display()
            );
            false
        });
    }
}

/// Stops nodes together; whoever does not stop in time is killed.
async fn stop_all(nodes: &mut Vec<Node>) {
    for node in nodes.iter() {
        node.ask_to_stop();
    }
    let again = Instant::now() + STOP_PATIENCE;
    let kill = Instant::now() + STOP_MAX;
    let mut asked_again = false;
    loop {
        nodes.retain_mut(|node| node.ended().is_none());
        if nodes.is_empty() {
            return;
        }
        if !asked_again && Instant::now() > again {
            asked_again = true;
            for node in nodes.iter() {
                node.ask_to_stop();
            }
        }
        if Instant::now() > kill {
            for node in nodes.iter_mut() {
                eprintln!("node {} does not stop and is killed", node.number);
                node.kill().await;
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Ctrl-C or SIGTERM.
struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("cannot hear signals: {error}"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
