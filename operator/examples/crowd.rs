//! Plays the pods of many clusters against a real API server, so that one operator can be measured that
//! looks after all of them: makes the resources, then for each its pods, claims and an admin service on
//! an address of its own in 127.0.0.0/8. `e2e/crowd.sh` runs it.
//!
//! Invariants: nothing here decides anything; a cluster that is not formed has no pods; runs until it is
//! ended.

use clap::Parser;
use futures::stream;
use holdfast_operator::api::HoldfastCluster;
use holdfast_operator::build::names;
use holdfast_proto::admin as pb;
use holdfast_proto::admin::admin_server::{Admin, AdminServer};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use std::error::Error;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// Pods of each cluster.
const PODS: u8 = 3;
/// For how long those talk that fall silent.
const TALKS: Duration = Duration::from_mins(1);
const NAMESPACE: &str = "default";

/// Plays the pods of many clusters
#[derive(Parser)]
struct Options {
    /// How many clusters there are
    #[arg(long, default_value_t = 200)]
    clusters: u8,
    /// How many of them are formed; the others stay without pods
    #[arg(long, default_value_t = 200)]
    formed: u8,
    /// After a minute, so many of them stop answering
    #[arg(long, default_value_t = 0)]
    silent: u8,
}

#[tokio::main(worker_threads = 1)]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let client = Client::try_default().await?;
    let clusters: Api<HoldfastCluster> = Api::namespaced(client.clone(), NAMESPACE);
    for number in 0..options.clusters {
        let cluster: HoldfastCluster = serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "HoldfastCluster",
            "metadata": {"name": name(number)},
            "spec": {"nodes": PODS},
        }))?;
        clusters.create(&PostParams::default(), &cluster).await?;
    }
    println!("{} clusters are there", options.clusters);
    let begun = Instant::now();
    for number in 0..options.formed {
        let certificate = certificate(&client, number).await?;
        for ordinal in 0..PODS {
            let falls_silent = (number < options.silent).then_some(begun + TALKS);
            tokio::spawn(serve(number, ordinal, certificate.clone(), falls_silent));
            pod(&client, number, ordinal).await?;
        }
    }
    println!("{} of them have pods", options.formed);
    std::future::pending().await
}

fn name(cluster: u8) -> String {
    format!("crowd-{cluster}")
}

fn address(cluster: u8, ordinal: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, cluster, ordinal + 1)
}

/// What the operator issued for the nodes of a cluster.
async fn certificate(client: &Client, cluster: u8) -> Result<ServerTlsConfig, Box<dyn Error>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let secret = names::node_tls_secret(&name(cluster));
    loop {
        if let Some(secret) = secrets.get_opt(&secret).await? {
            let data = secret.data.unwrap_or_default();
            return Ok(ServerTlsConfig::new()
                .identity(Identity::from_pem(&data["tls.crt"].0, &data["tls.key"].0))
                .client_ca_root(Certificate::from_pem(&data["ca.crt"].0)));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A pod that is ready, as far as Kubernetes knows, with its claim.
async fn pod(client: &Client, cluster: u8, ordinal: u8) -> Result<(), Box<dyn Error>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), NAMESPACE);
    let pod_name = names::pod(&name(cluster), ordinal.into());
    let mut labels = names::labels(&name(cluster));
    labels.insert("controller-revision-hash".to_owned(), "r1".to_owned());
    // About as much as a real pod has.
    let environment: Vec<_> =
        (0..20).map(|at| json!({"name": format!("VARIABLE_{at}"), "value": "x"})).collect();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": pod_name, "labels": labels},
        "spec": {"nodeName": "somewhere", "containers": [
            {"name": names::CONTAINER, "image": "holdfast/node", "env": environment}]},
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    let status = json!({"status": {
        "phase": "Running",
        "podIP": address(cluster, ordinal).to_string(),
        "podIPs": [{"ip": address(cluster, ordinal).to_string()}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{"name": names::CONTAINER, "ready": true, "image": "", "imageID": "",
            "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
    }});
    pods.patch_status(&pod_name, &PatchParams::default(), &Patch::Merge(status)).await?;
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": names::volume_claim(&pod_name), "labels": names::labels(&name(cluster))},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }))?;
    claims.create(&PostParams::default(), &claim).await?;
    Ok(())
}

/// `until` then it only takes connections and says nothing.
async fn serve(cluster: u8, ordinal: u8, tls: ServerTlsConfig, until: Option<Instant>) {
    let address = (address(cluster, ordinal), names::PEER_PORT);
    let listener = TcpListener::bind(address).await.expect("nobody else uses these addresses");
    let incoming = stream::unfold(listener, move |listener| async move {
        let accepted: std::io::Result<TcpStream> = listener.accept().await.map(|(it, _)| it);
        if until.is_some_and(|until| until <= Instant::now()) {
            // Kept open, and nobody reads it.
            std::mem::forget(accepted);
            return std::future::pending().await;
        }
        Some((accepted, listener))
    });
    let service = AdminServer::new(Node { report: report(cluster) });
    let mut server =
        Server::builder().tls_config(tls).expect("the operator's own certificate is one");
    let ended = server.add_service(service).serve_with_incoming(incoming).await;
    eprintln!("{cluster}-{ordinal}: {ended:?}");
}

fn report(cluster: u8) -> Vec<u8> {
    let nodes: Vec<_> = (0..PODS)
        .map(|ordinal| {
            json!({"id": ordinal + 1, "name": names::pod(&name(cluster), ordinal.into()),
                "state": "Up", "ranges": 10, "leaders": 3})
        })
        .collect();
    let report = json!({"protection": "Full",
        "ranges": {"total": 10, "fullyReplicated": 10, "unavailable": 0},
        "nodes": nodes, "bytesRemaining": 0, "cluster": format!("c{cluster}"), "sequencer": 1});
    report.to_string().into_bytes()
}

/// A node that knows only its status.
struct Node {
    report: Vec<u8>,
}

macro_rules! refused {
    ($($call:ident($request:ident) -> $reply:ident;)*) => {
        #[tonic::async_trait]
        impl Admin for Node {
            async fn status(
                &self,
                _: Request<pb::StatusRequest>,
            ) -> Result<Response<pb::StatusReply>, Status> {
                Ok(Response::new(pb::StatusReply { json: self.report.clone().into() }))
            }
            $(async fn $call(
                &self,
                _: Request<pb::$request>,
            ) -> Result<Response<pb::$reply>, Status> {
                Err(Status::unimplemented("only the status"))
            })*
        }
    };
}

refused! {
    ranges(RangesRequest) -> RangesReply;
    nodes(NodesRequest) -> NodesReply;
    drain(DrainRequest) -> DrainReply;
    undrain(UndrainRequest) -> UndrainReply;
    split(SplitRequest) -> SplitReply;
    reprotect(ReprotectRequest) -> ReprotectReply;
    transfer(TransferRequest) -> TransferReply;
    check(CheckRequest) -> CheckReply;
    r#move(MoveRequest) -> MoveReply;
    merge(MergeRequest) -> MergeReply;
    placement(PlacementRequest) -> PlacementReply;
    set_placement(SetPlacementRequest) -> SetPlacementReply;
    remove_placement(RemovePlacementRequest) -> RemovePlacementReply;
    set_failure_domain(SetFailureDomainRequest) -> SetFailureDomainReply;
}
