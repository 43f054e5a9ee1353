//! The configuration of one node: flags, environment, file; checked once, then only [`Config`].
//!
//! Invariant: a [`Config`] is consistent. Order of strength: command line, file, environment,
//! default. Every message names the flag to change.

mod file;
mod tls;
mod values;

pub use file::expand_config_file;
pub use tls::{TlsArgs, TlsFiles};
pub(crate) use values::failure_domain;
pub use values::{
    ByteSize, HumanDuration, InitialCluster, Member, SplitKeys, is_unspecified, parse_key,
};

use crate::telemetry::LogFormat;
use crate::transport::SnapshotRates;
use clap::{Args, ValueEnum};
use holdfast_core::bootstrap::check_replicas;
use std::path::PathBuf;
use std::time::Duration;

/// How the cluster that this node belongs to comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InitialClusterState {
    /// All nodes of `--initial-cluster` form it together, now.
    New,
    /// It runs already: an empty disk joins as a new node.
    Existing,
}

/// The flags of `holdfast-node serve`, as given.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Read flags from this file, one `name = value` a line; the command line wins
    #[arg(long, env = "HOLDFAST_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this node, unique in the cluster
    #[arg(long, env = "HOLDFAST_NAME", value_name = "NAME", default_value = "default")]
    pub name: String,
    /// What this node fails together with, for example its zone: copies of a range are spread over
    /// failure domains. "" is none: it fails alone [default: as the cluster was told last, else none]
    #[arg(long, env = "HOLDFAST_FAILURE_DOMAIN", value_name = "NAME")]
    pub failure_domain: Option<String>,
    /// Directory for everything this node keeps
    #[arg(long, env = "HOLDFAST_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where clients connect: etcd v3 API, admin API
    #[arg(
        long,
        env = "HOLDFAST_CLIENT_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:2379"
    )]
    pub client_listen: String,
    /// Where other nodes connect
    #[arg(
        long,
        env = "HOLDFAST_PEER_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:2380"
    )]
    pub peer_listen: String,
    /// Where /metrics, /livez, /readyz, /health and /version are served
    #[arg(
        long,
        env = "HOLDFAST_HTTP_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:2381"
    )]
    pub http_listen: String,
    /// Address that clients are told to use [default: --client-listen]
    #[arg(long, env = "HOLDFAST_ADVERTISE_CLIENT", value_name = "HOST:PORT")]
    pub advertise_client: Option<String>,
    /// Address that other nodes are told to use [default: --peer-listen]
    #[arg(long, env = "HOLDFAST_ADVERTISE_PEER", value_name = "HOST:PORT")]
    pub advertise_peer: Option<String>,
    /// Address of the HTTP endpoints as others reach it [default: --http-listen]
    #[arg(long, env = "HOLDFAST_ADVERTISE_HTTP", value_name = "HOST:PORT")]
    pub advertise_http: Option<String>,
    /// All nodes that form the cluster, or some that run already, as `name=host:port,...` with
    /// their peer addresses, in the same order on every node [default: this node alone]
    #[arg(long, env = "HOLDFAST_INITIAL_CLUSTER", value_name = "NAME=ADDR,...")]
    pub initial_cluster: Option<InitialCluster>,
    /// Whether an empty disk forms a new cluster or joins one that runs
    #[arg(long, env = "HOLDFAST_INITIAL_CLUSTER_STATE", value_enum, default_value = "new")]
    pub initial_cluster_state: InitialClusterState,
    /// Keeps clusters apart: nodes with different tokens never talk
    #[arg(long, env = "HOLDFAST_CLUSTER_TOKEN", value_name = "TEXT", default_value = "holdfast")]
    pub cluster_token: String,
    /// Copies of every range: 1, 3, 5 or 7, at most the number of nodes that form the cluster
    /// [default: 3, or 1 with fewer than three nodes]
    #[arg(long, env = "HOLDFAST_REPLICAS", value_name = "N")]
    pub replicas: Option<usize>,
    /// First keys of the ranges that a new cluster starts with: text, or hex after 0x
    #[arg(long, env = "HOLDFAST_SPLIT_KEYS", value_name = "K1,K2,...", default_value = "")]
    pub split_keys: SplitKeys,
    /// Milliseconds between two heartbeats
    #[arg(long, env = "HOLDFAST_TICK_MS", value_name = "MS", default_value_t = 100)]
    pub tick_ms: u64,
    /// Milliseconds without a leader's sign of life before an election
    #[arg(long, env = "HOLDFAST_ELECTION_MS", value_name = "MS", default_value_t = 1000)]
    pub election_ms: u64,
    /// How long a node that sees no majority of the meta range keeps the connections of clients before it
    /// ends them, so that they connect to others; 0s: always [default: 5 x --election-ms]
    #[arg(long, env = "HOLDFAST_CUT_OFF_TIMEOUT", value_name = "TIME")]
    pub cut_off_timeout: Option<HumanDuration>,
    /// Log kept on this node for nodes that are away shortly; beyond it they get a snapshot
    #[arg(long, env = "HOLDFAST_LOG_BUDGET", value_name = "SIZE", default_value = "1GiB")]
    pub log_budget: ByteSize,
    /// Live data above which a range is cut in two; 0 is never
    #[arg(long, env = "HOLDFAST_SPLIT_SIZE", value_name = "SIZE", default_value = "256MiB")]
    pub split_size: ByteSize,
    /// Requests a second to one range, for ten seconds, above which it is cut in two; 0 is never
    #[arg(long, env = "HOLDFAST_SPLIT_LOAD", value_name = "N", default_value_t = 10_000)]
    pub split_load: u64,
    /// How long ranges that the cluster has cut by itself must be small and idle before they are merged
    /// again; 0s is never
    #[arg(long, env = "HOLDFAST_MERGE_AFTER", value_name = "TIME", default_value = "5m")]
    pub merge_after: HumanDuration,
    /// Memory for cached pages of the state
    #[arg(long, env = "HOLDFAST_CACHE", value_name = "SIZE", default_value = "256MiB")]
    pub cache: ByteSize,
    /// Snapshot bytes a second that this node sends at most, and receives at most; fewer while they
    /// slow writes of clients down
    #[arg(long, env = "HOLDFAST_SNAPSHOT_RATE", value_name = "SIZE", default_value = "128MiB")]
    pub snapshot_rate: ByteSize,
    /// Snapshot bytes a second that are left however slow writes become; as much as
    /// --snapshot-rate: it is never lowered [default: a sixteenth of --snapshot-rate, at least 1MiB]
    #[arg(long, env = "HOLDFAST_SNAPSHOT_RATE_MIN", value_name = "SIZE")]
    pub snapshot_rate_min: Option<ByteSize>,
    /// Time between two comparisons of the copies of a range; 0s: only on command
    #[arg(long, env = "HOLDFAST_CHECK_INTERVAL", value_name = "TIME", default_value = "1h")]
    pub check_interval: HumanDuration,
    /// Bytes a second that this node reads at most to compare copies
    #[arg(long, env = "HOLDFAST_CHECK_RATE", value_name = "SIZE", default_value = "32MiB")]
    pub check_rate: ByteSize,
    /// Largest client request
    #[arg(
        long,
        env = "HOLDFAST_MAX_REQUEST_BYTES",
        value_name = "SIZE",
        default_value = "1536KiB"
    )]
    pub max_request_bytes: ByteSize,
    /// Most operations in one transaction
    #[arg(long, env = "HOLDFAST_MAX_TXN_OPS", value_name = "N", default_value_t = 128)]
    pub max_txn_ops: usize,
    /// Threads that serve clients [default: 2, or fewer with fewer cores]
    #[arg(long, env = "HOLDFAST_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// Time between "not ready" and the end of serving when the node is told to stop, so that
    /// load balancers hear of it before clients are sent away
    #[arg(long, env = "HOLDFAST_STOP_DELAY", value_name = "TIME", default_value = "0s")]
    pub stop_delay: HumanDuration,
    /// Longest time a graceful stop waits until other nodes lead
    #[arg(long, env = "HOLDFAST_STOP_TIMEOUT", value_name = "TIME", default_value = "3s")]
    pub stop_timeout: HumanDuration,
    /// Stop when standard input ends: whoever started this node is gone then
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
    /// What is logged: error, warn, info, debug, trace, or a filter per module
    #[arg(long, env = "HOLDFAST_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// How log lines look
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Files of TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub name: String,
    /// What this node fails together with; empty: it fails alone. Nothing: as the cluster was told last.
    pub failure_domain: Option<String>,
    /// Directory for everything this node keeps.
    pub data: PathBuf,
    /// `host:port` of the client listener.
    pub client_listen: String,
    /// `host:port` of the peer listener.
    pub peer_listen: String,
    /// `host:port` of the HTTP listener.
    pub http_listen: String,
    /// As others reach the client listener.
    pub advertise_client: String,
    /// As others reach the peer listener.
    pub advertise_peer: String,
    /// As others reach the HTTP listener.
    pub advertise_http: String,
    /// The nodes that form the cluster, in the order that gives them their ids.
    pub initial_cluster: InitialCluster,
    /// Form a cluster, or join one.
    pub initial_cluster_state: InitialClusterState,
    /// Keeps clusters apart.
    pub cluster_token: String,
    /// Copies of every range.
    pub replicas: usize,
    /// First keys of the first ranges, ascending.
    pub split_keys: SplitKeys,
    /// Between two heartbeats.
    pub tick: Duration,
    /// Without a leader's sign of life.
    pub election: Duration,
    /// Without a majority, until connections of clients are ended; zero is never.
    pub cut_off_timeout: Duration,
    /// Bytes of log kept for nodes that are away.
    pub log_budget: u64,
    /// Bytes of live data above which a range is cut; 0 is never.
    pub split_bytes: u64,
    /// Requests a second above which a range is cut; 0 is never.
    pub split_load: u64,
    /// How long ranges are small and idle before they are merged; zero is never.
    pub merge_after: Duration,
    /// Bytes of cached pages.
    pub cache: u64,
    /// Snapshot bytes a second.
    pub snapshot_rates: SnapshotRates,
    /// Between two comparisons of the copies of a range; zero: only on command.
    pub check_interval: Duration,
    /// Bytes a second read to compare copies.
    pub check_rate: u64,
    /// Bytes of the largest client request.
    pub max_request_bytes: usize,
    /// Operations in one transaction.
    pub max_txn_ops: usize,
    /// Client threads.
    pub workers: usize,
    /// Between "not ready" and the end of serving.
    pub stop_delay: Duration,
    /// Bound of a graceful stop's hand-over.
    pub stop_timeout: Duration,
    /// Files of TLS.
    pub tls: TlsFiles,
}

/// The largest request that may be configured: a command must fit a frame between nodes.
const MAX_REQUEST_BYTES_MAX: u64 = 16 << 20;

impl Config {
    /// Checks flags.
    ///
    /// # Errors
    /// One line that names the flag and the rule.
    pub fn check(args: ServeArgs) -> Result<Self, String> {
        let data =
            args.data.ok_or("--data is missing: the directory for everything this node keeps")?;
        if args.name.is_empty() || args.name.contains(['=', ',', '/', ' ']) {
            return Err(format!(
                "--name {:?} must not be empty or have one of \"=,/ \"",
                args.name
            ));
        }
        if let Some(name) = &args.failure_domain {
            failure_domain(name).map_err(|rule| format!("--failure-domain {rule}"))?;
        }
        let advertise = |flag: &str, given: Option<String>, listen: &str| match given {
            Some(address) => values::host_port(flag, &address).map(|()| address),
            None if is_unspecified(listen) => Err(format!(
                "--advertise-{flag} is missing: --{flag}-listen {listen} is not an address that others can connect to"
            )),
            None => Ok(listen.to_owned()),
        };
        values::host_port("client-listen", &args.client_listen)?;
        values::host_port("peer-listen", &args.peer_listen)?;
        values::host_port("http-listen", &args.http_listen)?;
        let advertise_client = advertise("client", args.advertise_client, &args.client_listen)?;
        let advertise_peer = advertise("peer", args.advertise_peer, &args.peer_listen)?;
        let advertise_http = advertise("http", args.advertise_http, &args.http_listen)?;
        let initial_cluster = args
            .initial_cluster
            .unwrap_or_else(|| InitialCluster::alone(&args.name, &advertise_peer));
        let forms = args.initial_cluster_state == InitialClusterState::New;
        if forms && initial_cluster.position(&args.name).is_none() {
            return Err(format!(
                "--initial-cluster has no node named {:?}, the --name of this one",
                args.name
            ));
        }
        let nodes = initial_cluster.members.len();
        let replicas = args.replicas.unwrap_or(if nodes >= 3 || !forms { 3 } else { 1 });
        // Whoever joins finds what the cluster was formed with.
        let forming = if forms { nodes } else { usize::MAX };
        check_replicas(replicas, forming).map_err(|rule| format!("--replicas {rule}"))?;
        check_times(args.tick_ms, args.election_ms)?;
        if args.max_request_bytes.0 == 0 || args.max_request_bytes.0 > MAX_REQUEST_BYTES_MAX {
            return Err("--max-request-bytes must be between 1 and 16MiB".to_owned());
        }
        if args.workers == Some(0) {
            return Err("--workers must be at least 1".to_owned());
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            name: args.name,
            failure_domain: args.failure_domain,
            data,
            client_listen: args.client_listen,
            peer_listen: args.peer_listen,
            http_listen: args.http_listen,
            advertise_client,
            advertise_peer,
            advertise_http,
            initial_cluster,
            initial_cluster_state: args.initial_cluster_state,
            cluster_token: args.cluster_token,
            replicas,
            split_keys: args.split_keys,
            tick: Duration::from_millis(args.tick_ms),
            election: Duration::from_millis(args.election_ms),
            cut_off_timeout: cut_off_timeout(args.cut_off_timeout, args.election_ms)?,
            log_budget: args.log_budget.0,
            split_bytes: args.split_size.0,
            split_load: args.split_load,
            merge_after: args.merge_after.0,
            cache: args.cache.0,
            snapshot_rates: snapshot_rates(args.snapshot_rate, args.snapshot_rate_min)?,
            check_interval: args.check_interval.0,
            check_rate: args.check_rate.0.max(1 << 16),
            max_request_bytes: args.max_request_bytes.0 as usize,
            max_txn_ops: args.max_txn_ops,
            workers: args.workers.unwrap_or(cores.min(2)),
            stop_delay: args.stop_delay.0,
            stop_timeout: args.stop_timeout.0,
            tls: args.tls.check()?,
        })
    }
}

/// The smallest rate of snapshots: slower, and a range would take hours.
const SNAPSHOT_RATE_MIN: u64 = 1 << 20;

/// Without a floor of its own, the rate of snapshots may fall to this part.
const SNAPSHOT_FLOOR_PART: u64 = 16;

fn snapshot_rates(most: ByteSize, least: Option<ByteSize>) -> Result<SnapshotRates, String> {
    let most = most.0.max(SNAPSHOT_RATE_MIN);
    let least = least.map_or(most / SNAPSHOT_FLOOR_PART, |least| least.0);
    if least > most {
        return Err(format!(
            "--snapshot-rate-min {least} bytes must be at most --snapshot-rate ({most} bytes)"
        ));
    }
    Ok(SnapshotRates { most, least: least.max(SNAPSHOT_RATE_MIN) })
}

fn check_times(tick_ms: u64, election_ms: u64) -> Result<(), String> {
    if !(10..=10_000).contains(&tick_ms) {
        return Err(format!("--tick-ms {tick_ms} must be between 10 and 10000"));
    }
    if election_ms < 5 * tick_ms || election_ms > 100_000 {
        return Err(format!(
            "--election-ms {election_ms} must be at least 5 x --tick-ms ({}) and at most 100000: one lost heartbeat must not cause an election",
            5 * tick_ms
        ));
    }
    Ok(())
}

/// So many times `--election-ms` after its loss, clients that require a sequencer are told.
pub const LEADER_LOSS_ELECTIONS: u32 = 3;

/// So many times `--election-ms` without a majority, clients are sent elsewhere unless told otherwise: longer
/// than an election takes, also one that has to be repeated.
const CUT_OFF_ELECTIONS: u32 = 5;

fn cut_off_timeout(given: Option<HumanDuration>, election_ms: u64) -> Result<Duration, String> {
    let election = Duration::from_millis(election_ms);
    let least = LEADER_LOSS_ELECTIONS * election;
    let time = given.map_or(CUT_OFF_ELECTIONS * election, |given| given.0);
    if !time.is_zero() && time < least {
        return Err(format!(
            "--cut-off-timeout {} must be 0s (never) or at least {LEADER_LOSS_ELECTIONS} x --election-ms ({}): an election must not send clients away",
            HumanDuration(time),
            HumanDuration(least)
        ));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(args_override_self = true)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
    }

    impl Config {
        /// For tests.
        pub(crate) fn parse(flags: &[&str]) -> Result<Self, String> {
            let argv = std::iter::once(&"serve").chain(flags);
            Self::check(Cli::try_parse_from(argv).map_err(|error| error.to_string())?.serve)
        }
    }

    fn check(flags: &str) -> Result<Config, String> {
        Config::parse(&flags.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn a_single_node_needs_only_a_directory() {
        let config = check("--data d").unwrap();
        assert_eq!(config.replicas, 1);
        assert_eq!(config.initial_cluster.members.len(), 1);
        assert_eq!(config.advertise_peer, "127.0.0.1:2380");
    }

    #[test]
    fn three_nodes_keep_three_copies() {
        let config = check("--data d --name b --initial-cluster a=h:1,b=h:2,c=h:3").unwrap();
        assert_eq!(config.replicas, 3);
        assert_eq!(config.initial_cluster.position("b"), Some(1));
    }

    #[test]
    fn clients_are_kept_for_longer_than_an_election() {
        let time = |flags: &str| check(flags).unwrap().cut_off_timeout;
        assert_eq!(time("--data d"), Duration::from_secs(5));
        assert_eq!(time("--data d --election-ms 2000"), Duration::from_secs(10));
        assert_eq!(time("--data d --cut-off-timeout 3s"), Duration::from_secs(3));
        assert_eq!(time("--data d --cut-off-timeout 0s"), Duration::ZERO);
    }

    #[test]
    fn snapshots_keep_a_part_of_their_rate() {
        let rates = |flags: &str| {
            let SnapshotRates { most, least } = check(flags).unwrap().snapshot_rates;
            (most >> 20, least >> 20)
        };
        assert_eq!(rates("--data d"), (128, 8));
        assert_eq!(rates("--data d --snapshot-rate 8MiB"), (8, 1));
        assert_eq!(rates("--data d --snapshot-rate 8MiB --snapshot-rate-min 8MiB"), (8, 8));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_flag_to_change() {
        for (flags, part) in [
            ("", "--data"),
            ("--data d --name x --initial-cluster a=h:1", "no node named"),
            ("--data d --replicas 2", "odd"),
            ("--data d --replicas 3", "more than the 1 nodes"),
            ("--data d --replicas 9", "at most 7"),
            ("--data d --replicas 9 --initial-cluster-state existing", "at most 7"),
            ("--data d --election-ms 200", "5 x --tick-ms"),
            ("--data d --cut-off-timeout 2s", "3 x --election-ms"),
            ("--data d --client-listen 0.0.0.0:1", "--advertise-client"),
            ("--data d --client-listen nonsense", "--client-listen"),
            ("--data d --initial-cluster a=h:1,a=h:2", "twice"),
            ("--data d --split-keys 0xzz", "hex"),
            ("--data d --workers 0", "--workers"),
            ("--data d --failure-domain a,b", "--failure-domain"),
            ("--data d --snapshot-rate 2MiB --snapshot-rate-min 3MiB", "--snapshot-rate-min"),
            ("--data d --cert-file c", "--key-file is missing"),
            ("--data d --client-cert-auth", "--trusted-ca-file"),
            ("--data d --peer-trusted-ca-file c", "--peer-cert-file"),
        ] {
            let error = check(flags).unwrap_err();
            assert!(error.contains(part), "{flags}: {error}");
        }
    }
}
