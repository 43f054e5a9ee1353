//! The operator's way to the nodes: the admin API on the peer port, with mutual TLS.
//!
//! Invariants: every call ends within [`CALL_TIMEOUT`]; at most [`CONCURRENT`] calls are under way in
//! the whole operator; no answer is made up.

mod certificate;

pub use certificate::fingerprint;

use crate::observe::Report;
use crate::plan::operations::Outcome;
use crate::tls::Identity;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use holdfast_proto::admin as pb;
use holdfast_proto::admin::admin_client::AdminClient;
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

/// How long one call may take, connecting included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// How many calls may be under way at once. A cluster whose nodes are silent keeps some of them for
/// [`CALL_TIMEOUT`], and those that answer must not wait for it: room for fifty silent ones of three nodes.
pub const CONCURRENT: usize = 256;
/// When the first node that is asked has not answered for so long, others are asked too.
const HEDGE: Duration = Duration::from_secs(1);
/// How many nodes are asked when the first does not know enough.
const ASK_AT_MOST: usize = 5;

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its pod.
    pub pod: String,
    /// The name that its certificate has.
    pub host: String,
    /// `address:port` of its peer listener.
    pub address: String,
}

/// What can be asked of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Move everything away from a node.
    Drain {
        /// The node.
        node: u64,
        /// Until this time is over, or it is asked for once more.
        ttl: Duration,
    },
    /// Take that back.
    Undrain {
        /// The node.
        node: u64,
    },
    /// Make the copies of a node anew elsewhere, if the cluster agrees.
    Reprotect {
        /// The node.
        node: u64,
        /// Asking twice with the same one is asking once.
        operation: String,
        /// Refused if the cluster has seen a higher one.
        epoch: u64,
    },
    /// Give the ranges under a prefix so many copies.
    SetPolicy {
        /// First bytes of their keys.
        prefix: Vec<u8>,
        /// How many.
        replicas: u32,
        /// Also fewer than the cluster was formed with.
        allow_fewer: bool,
    },
    /// Give them as many as those around them.
    RemovePolicy {
        /// As it was set.
        prefix: Vec<u8>,
    },
    /// Say what a node fails together with.
    SetFailureDomain {
        /// The node.
        node: u64,
        /// Empty: it fails alone.
        domain: String,
    },
}

/// The nodes of clusters, as the operator sees them. Tests put something else in its place.
pub trait Nodes: Send + Sync {
    /// How the cluster is, as the best informed of some nodes says.
    ///
    /// # Errors
    /// One sentence about why no node answered.
    fn report<'a>(
        &'a self,
        targets: &'a [Target],
        identity: &'a Identity,
    ) -> BoxFuture<'a, Result<Report, String>>;

    /// Asks one node after the other until one answers, yes or no.
    fn ask<'a>(
        &'a self,
        targets: &'a [Target],
        identity: &'a Identity,
        request: Request,
    ) -> BoxFuture<'a, Outcome>;

    /// The fingerprint of the certificate that a node shows to new connections.
    ///
    /// # Errors
    /// One sentence about why nobody knows.
    fn certificate<'a>(
        &'a self,
        target: &'a Target,
        identity: &'a Identity,
    ) -> BoxFuture<'a, Result<String, String>>;
}

/// The real ones.
#[derive(Debug)]
pub struct Grpc {
    calls: Semaphore,
}

impl Default for Grpc {
    fn default() -> Self {
        Self { calls: Semaphore::new(CONCURRENT) }
    }
}

impl Nodes for Grpc {
    fn report<'a>(
        &'a self,
        targets: &'a [Target],
        identity: &'a Identity,
    ) -> BoxFuture<'a, Result<Report, String>> {
        Box::pin(async move {
            let Some((first, others)) = targets.split_first() else {
                return Err("no pod has an address yet".to_owned());
            };
            let mut best = None;
            let mut error = String::new();
            let keep = |best: &mut Option<Report>, report: Report| {
                let rank = |report: &Report| (report.has_quorum(), report.alive());
                if best.as_ref().is_none_or(|known| rank(known) < rank(&report)) {
                    *best = Some(report);
                }
            };
            let mut asked: FuturesUnordered<_> =
                std::iter::once(self.status(first, identity)).collect();
            let mut others = Some(others.iter().take(ASK_AT_MOST));
            loop {
                // One that has the answer is enough as long as it answers.
                let answer = tokio::time::timeout(HEDGE, asked.next()).await.unwrap_or_default();
                match answer {
                    Some(Ok(report)) if report.has_quorum() => return Ok(report),
                    Some(Ok(report)) => keep(&mut best, report),
                    Some(Err(why)) => error = why,
                    None => {}
                }
                if let Some(others) = others.take() {
                    asked.extend(others.map(|target| self.status(target, identity)));
                }
                if asked.is_empty() {
                    return best.ok_or(error);
                }
            }
        })
    }

    fn ask<'a>(
        &'a self,
        targets: &'a [Target],
        identity: &'a Identity,
        request: Request,
    ) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let mut outcome = Outcome::Failed("no pod has an address yet".to_owned());
            for target in targets.iter().take(ASK_AT_MOST) {
                outcome = match self.call(target, identity, &request).await {
                    Ok(message) => return Outcome::Accepted(message),
                    Err(Failure::Refused(message)) => return Outcome::Refused(message),
                    Err(Failure::Fault(message)) => Outcome::Failed(message),
                };
            }
            outcome
        })
    }

    fn certificate<'a>(
        &'a self,
        target: &'a Target,
        identity: &'a Identity,
    ) -> BoxFuture<'a, Result<String, String>> {
        Box::pin(async move {
            let shown = certificate::shown(target, identity);
            let answer = self.bounded(target, async { shown.await.map_err(Failure::Fault) }).await;
            answer.map_err(|failure| match failure {
                Failure::Refused(message) | Failure::Fault(message) => message,
            })
        })
    }
}

enum Failure {
    /// The cluster said no.
    Refused(String),
    /// This node could not answer; another one may.
    Fault(String),
}

impl Grpc {
    async fn status(&self, target: &Target, identity: &Identity) -> Result<Report, String> {
        let answer = self
            .bounded(target, async {
                let mut client = connect(target, identity).await?;
                let reply = client
                    .status(pb::StatusRequest { local: false })
                    .await
                    .map_err(|status| Failure::Fault(say(target, &status)))?;
                serde_json::from_slice(&reply.into_inner().json).map_err(|error| {
                    Failure::Fault(format!("{}: its report is not readable: {error}", target.pod))
                })
            })
            .await;
        answer.map_err(|failure| match failure {
            Failure::Refused(message) | Failure::Fault(message) => message,
        })
    }

    async fn call(
        &self,
        target: &Target,
        identity: &Identity,
        request: &Request,
    ) -> Result<String, Failure> {
        self.bounded(target, async {
            let mut client = connect(target, identity).await?;
            let answer = match request {
                Request::Drain { node, ttl } => client
                    .drain(pb::DrainRequest {
                        node: *node,
                        replicas: true,
                        ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
                    })
                    .await
                    .map(|reply| reply.into_inner().message),
                Request::Undrain { node } => client
                    .undrain(pb::UndrainRequest { node: *node })
                    .await
                    .map(|reply| reply.into_inner().message),
                Request::Reprotect { node, operation, epoch } => {
                    reprotect(client, *node, operation.clone(), *epoch).await
                }
                Request::SetPolicy { prefix, replicas, allow_fewer } => client
                    .set_placement(pb::SetPlacementRequest {
                        prefix: prefix.clone().into(),
                        replicas: *replicas,
                        allow_fewer: *allow_fewer,
                    })
                    .await
                    .map(|reply| reply.into_inner().message),
                Request::RemovePolicy { prefix } => client
                    .remove_placement(pb::RemovePlacementRequest { prefix: prefix.clone().into() })
                    .await
                    .map(|reply| reply.into_inner().message),
                Request::SetFailureDomain { node, domain } => client
                    .set_failure_domain(pb::SetFailureDomainRequest {
                        node: *node,
                        domain: domain.clone(),
                    })
                    .await
                    .map(|reply| reply.into_inner().message),
            };
            answer.map_err(|status| match status.code() {
                Code::FailedPrecondition
                | Code::InvalidArgument
                | Code::NotFound
                | Code::PermissionDenied
                | Code::Unimplemented => Failure::Refused(status.message().to_owned()),
                _ => Failure::Fault(say(target, &status)),
            })
        })
        .await
    }

    async fn bounded<T>(
        &self,
        target: &Target,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let _permit = self.calls.acquire().await.expect("never closed");
        tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_elapsed| {
            Err(Failure::Fault(format!("{}: no answer in time", target.pod)))
        })
    }
}

async fn connect(target: &Target, identity: &Identity) -> Result<AdminClient<Channel>, Failure> {
    let fault = |error: tonic::transport::Error| {
        let mut text = format!("{}: {error}", target.pod);
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Failure::Fault(text)
    };
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&identity.ca))
        .identity(tonic::transport::Identity::from_pem(&identity.cert, &identity.key))
        .domain_name(&target.host);
    let endpoint = Endpoint::from_shared(format!("https://{}", target.address))
        .map_err(fault)?
        .connect_timeout(CALL_TIMEOUT)
        .tls_config(tls)
        .map_err(fault)?;
    let channel = endpoint.connect().await.map_err(fault)?;
    Ok(AdminClient::new(channel).max_decoding_message_size(64 << 20))
}

fn say(target: &Target, status: &Status) -> String {
    format!("{}: {:?}: {}", target.pod, status.code(), status.message())
}

/// The one place that sends the fenced operation.
async fn reprotect(
    mut client: AdminClient<Channel>,
    node: u64,
    operation: String,
    epoch: u64,
) -> Result<String, Status> {
    let request = pb::ReprotectRequest { node, operation, epoch };
    client.reprotect(request).await.map(|reply| reply.into_inner().message)
}
