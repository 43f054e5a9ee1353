//! The command `holdfast-operator`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use holdfast_operator::run::Options;
use std::net::SocketAddr;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  # look after all clusters
  holdfast-operator run
  # of two namespaces, alone, with readable logs
  holdfast-operator run --namespace a --namespace b --leader-elect=false --log-format text
  # install or upgrade the CRD
  holdfast-operator crds | kubectl apply --server-side -f -";

/// Makes and looks after Holdfast clusters on Kubernetes.
#[derive(Parser)]
#[command(name = "holdfast-operator", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch clusters and do what they need, until told to stop
    #[command(after_help = EXAMPLES)]
    Run(Run),
    /// Print the CRDs as YAML
    Crds,
}

#[derive(Args)]
struct Run {
    /// A namespace whose clusters are looked after; may be given several times, or with commas. Without
    /// it: all, for which the operator needs its rights, those on Secrets too, everywhere
    #[arg(
        long = "namespace",
        env = "HOLDFAST_NAMESPACES",
        value_name = "NS",
        value_delimiter = ','
    )]
    namespaces: Vec<String>,
    /// The operator's own namespace, where its Lease is
    #[arg(long, env = "POD_NAMESPACE", value_name = "NS")]
    own_namespace: Option<String>,
    /// The operator's own name in the Lease and in Events
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// Act only while holding a Lease, so that several operators can run
    #[arg(
        long,
        env = "HOLDFAST_LEADER_ELECT",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true,
        value_name = "BOOL"
    )]
    leader_elect: bool,
    /// Name of that Lease
    #[arg(
        long,
        env = "HOLDFAST_LEASE_NAME",
        default_value = "holdfast-operator",
        value_name = "NAME"
    )]
    lease_name: String,
    /// Where /metrics, /livez and /readyz are served
    #[arg(
        long,
        env = "HOLDFAST_METRICS_LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "HOST:PORT"
    )]
    metrics_listen: SocketAddr,
    /// How many clusters of a namespace are reconciled at the same time; most of that is waiting for nodes
    #[arg(long, env = "HOLDFAST_CONCURRENCY", default_value_t = 64, value_name = "N")]
    concurrency: u16,
    /// What is logged: error, warn, info, debug, trace, or a filter per module
    #[arg(long, env = "HOLDFAST_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// How log lines look
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", value_enum, default_value = "json")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Crds => {
            print!("{}", holdfast_operator::api::crds());
            ExitCode::SUCCESS
        }
        Command::Run(run) => match start(run) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("holdfast-operator: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn start(run: Run) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&run.log_level)
        .map_err(|error| format!("--log-level {:?}: {error}", run.log_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match run.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let identity =
        run.identity.unwrap_or_else(|| format!("holdfast-operator-{:08x}", rand::random::<u32>()));
    let options = Options {
        namespaces: run.namespaces,
        own_namespace: run.own_namespace.unwrap_or_else(|| "default".to_owned()),
        leader_elect: run.leader_elect,
        lease_name: run.lease_name,
        metrics_listen: run.metrics_listen,
        concurrency: run.concurrency.max(1),
        identity,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(holdfast_operator::run::run(options))
}
