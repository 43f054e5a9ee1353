//! Calls to the admin service of whichever node answers.

use super::Failure;
use super::output::Format;
use super::security::ClientSecurity;
use crate::config::HumanDuration;
use clap::Args;
use holdfast_proto::admin::admin_client::AdminClient;
use std::future::Future;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Where to ask, how long, and how to print the answer.
#[derive(Clone, Debug, Args)]
pub(super) struct ClientArgs {
    /// Client addresses of nodes; the first that answers is used
    #[arg(
        long,
        env = "HOLDFAST_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379"
    )]
    pub endpoints: Vec<String>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
    /// Longest wait for an answer
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub timeout: HumanDuration,
    #[command(flatten)]
    pub security: ClientSecurity,
}

/// The admin service of one node.
pub(super) type Admin = AdminClient<Channel>;

/// Longest wait for a connection to one node while there are others to try.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest answer: a directory of many ranges.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Runs `work` to its end on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken(format!("cannot start: {error}")))?;
    Ok(runtime.block_on(work))
}

/// Asks the nodes in turn until one answers, and returns its answer or its refusal.
pub(super) async fn ask<T>(
    args: &ClientArgs,
    mut question: impl AsyncFnMut(Admin) -> Result<T, Status>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + args.timeout.0;
    let mut tried = Vec::new();
    for endpoint in args.endpoints.iter().filter(|endpoint| !endpoint.is_empty()) {
        let target = args.security.endpoint(endpoint)?;
        match ask_one(target, deadline, &mut question).await? {
            Ok(answer) => return Ok(answer),
            Err(problem) => tried.push(format!("{endpoint}: {problem}")),
        }
    }
    Err(Failure::unreachable(format!("no node answers ({})", tried.join("; "))))
}

/// The inner error lets the next node be tried, the outer one is final.
async fn ask_one<T>(
    endpoint: Endpoint,
    deadline: Instant,
    question: &mut impl AsyncFnMut(Admin) -> Result<T, Status>,
) -> Result<Result<T, String>, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT.min(left));
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return Ok(Err(root_cause(&error))),
    };
    let client = AdminClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let left = deadline.saturating_duration_since(Instant::now());
    match tokio::time::timeout(left, question(client)).await {
        Ok(Ok(answer)) => Ok(Ok(answer)),
        Ok(Err(status)) if status.code() == Code::Unavailable => {
            Ok(Err(status.message().to_owned()))
        }
        Ok(Err(status)) => Err(Failure::broken(status.message())),
        Err(_elapsed) => Ok(Err("no answer in time".to_owned())),
    }
}

/// The innermost reason, which says more than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
