//! What is made, what is kept, and that others accept it.

use super::*;
use crate::nodes::Nodes as _;
use crate::plan::fixture::Fixture;
use std::sync::Arc;

fn inputs() -> Inputs {
    let fixture = Fixture::new(3);
    Inputs::new(&fixture.cluster)
}

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn live(made: &Certificates) -> BTreeMap<String, Arc<Secret>> {
    made.create
        .iter()
        .chain(&made.apply)
        .map(|object| {
            let secret = serde_json::from_value(object.body.clone()).unwrap();
            (object.name.clone(), Arc::new(secret))
        })
        .collect()
}

#[test]
fn everything_is_made_once_and_then_kept() {
    let inputs = inputs();
    let first = ensure(&inputs, &BTreeMap::new(), now()).unwrap();
    let names =
        |objects: &[Object]| objects.iter().map(|object| object.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first.create), ["demo-ca", "demo-client-ca"]);
    assert_eq!(names(&first.apply), ["demo-node-tls", "demo-client-tls", "demo-operator-tls"]);
    let second = ensure(&inputs, &live(&first), now() + DAY * 30).unwrap();
    assert!(second.create.is_empty());
    assert_eq!(second.apply, first.apply);
    assert_eq!(second.identity, first.identity);
    assert_eq!(second.all.len(), 5);
}

#[test]
fn what_is_about_to_end_is_made_anew_by_the_same_authority() {
    let inputs = inputs();
    let first = ensure(&inputs, &BTreeMap::new(), now()).unwrap();
    let later = ensure(&inputs, &live(&first), now() + DAY * 250).unwrap();
    assert!(later.create.is_empty());
    assert_ne!(later.identity.cert, first.identity.cert);
    assert_eq!(later.identity.ca, first.identity.ca);
}

#[test]
fn a_damaged_leaf_is_made_anew_and_a_damaged_authority_is_said() {
    let inputs = inputs();
    let first = ensure(&inputs, &BTreeMap::new(), now()).unwrap();
    let mut secrets = live(&first);
    let leaf = Arc::make_mut(secrets.get_mut("demo-node-tls").unwrap());
    leaf.data.as_mut().unwrap().remove("tls.key");
    let again = ensure(&inputs, &secrets, now()).unwrap();
    assert_ne!(again.apply[0], first.apply[0]);
    assert_eq!(again.apply[1], first.apply[1]);
    let authority = Arc::make_mut(secrets.get_mut("demo-ca").unwrap());
    authority.data.as_mut().unwrap().remove("tls.key");
    assert!(ensure(&inputs, &secrets, now()).unwrap_err().contains("demo-ca"));
}

#[test]
fn keys_are_never_printed() {
    let made = ensure(&inputs(), &BTreeMap::new(), now()).unwrap();
    assert_eq!(format!("{:?}", made.identity), "Identity(..)");
}

/// A real handshake over a pipe: the operator's certificate is accepted by a node, a client's is not.
#[tokio::test]
async fn nodes_accept_the_operator_and_no_client() {
    use futures::StreamExt as _;
    use tonic::transport::{Certificate, Identity, ServerTlsConfig};
    let inputs = inputs();
    let made = ensure(&inputs, &BTreeMap::new(), Timestamp::now()).unwrap();
    let secrets = live(&made);
    let get = |secret: &str, key: &str| bytes(&secrets[secret], key).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(get("demo-node-tls", CERT), get("demo-node-tls", KEY)))
        .client_ca_root(Certificate::from_pem(get("demo-node-tls", CA)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = holdfast_proto::admin::admin_server::AdminServer::new(fake::Admin);
    let incoming = futures::stream::unfold(listener, |listener| async move {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let server = tonic::transport::Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_service(service)
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    let target = crate::nodes::Target {
        pod: "demo-0".to_owned(),
        host: "demo-0.demo-peers.ns.svc".to_owned(),
        address,
    };
    let nodes = crate::nodes::Grpc::default();
    let targets = [target];
    let report = nodes.report(&targets, &made.identity).await.unwrap();
    assert_eq!(report.protection, "Full");
    let stranger = super::Identity {
        ca: get("demo-client-tls", CA),
        cert: get("demo-client-tls", CERT),
        key: get("demo-client-tls", KEY),
    };
    assert!(nodes.report(&targets, &stranger).await.is_err());
    // Forty others that take connections and say nothing hold nobody up, nor does one in the same cluster.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let [answers] = targets;
    let dumb = crate::nodes::Target {
        pod: "demo-1".to_owned(),
        address: silent.local_addr().unwrap().to_string(),
        ..answers.clone()
    };
    let dumb_cluster = vec![dumb.clone(); 3];
    let identity = &made.identity;
    let mut waiting: futures::stream::FuturesUnordered<_> =
        (0..40).map(|_| nodes.report(&dumb_cluster, identity)).collect();
    let both = [dumb, answers];
    let report = nodes.report(&both, identity);
    tokio::select! {
        biased;
        Some(_) = waiting.next() => panic!("they answer"),
        report = report => assert_eq!(report.unwrap().protection, "Full"),
    }
    server.abort();
}

/// A node that knows only its status.
mod fake {
    use holdfast_proto::admin as pb;
    use tonic::{Request, Response, Status};

    pub(super) struct Admin;

    fn no<T>() -> Result<Response<T>, Status> {
        Err(Status::unimplemented("only the status"))
    }

    #[tonic::async_trait]
    impl pb::admin_server::Admin for Admin {
        async fn status(
            &self,
            _: Request<pb::StatusRequest>,
        ) -> Result<Response<pb::StatusReply>, Status> {
            let json = r#"{"protection":"Full","ranges":{"total":1,"fullyReplicated":1,"unavailable":0},
                "nodes":[{"id":1,"name":"demo-0","state":"Up","ranges":1,"leaders":1}],"sequencer":1}"#;
            Ok(Response::new(pb::StatusReply { json: json.into() }))
        }
        async fn ranges(
            &self,
            _: Request<pb::RangesRequest>,
        ) -> Result<Response<pb::RangesReply>, Status> {
            no()
        }
        async fn nodes(
            &self,
            _: Request<pb::NodesRequest>,
        ) -> Result<Response<pb::NodesReply>, Status> {
            no()
        }
        async fn drain(
            &self,
            _: Request<pb::DrainRequest>,
        ) -> Result<Response<pb::DrainReply>, Status> {
            no()
        }
        async fn undrain(
            &self,
            _: Request<pb::UndrainRequest>,
        ) -> Result<Response<pb::UndrainReply>, Status> {
            no()
        }
        async fn split(
            &self,
            _: Request<pb::SplitRequest>,
        ) -> Result<Response<pb::SplitReply>, Status> {
            no()
        }
        async fn reprotect(
            &self,
            _: Request<pb::ReprotectRequest>,
        ) -> Result<Response<pb::ReprotectReply>, Status> {
            no()
        }
        async fn transfer(
            &self,
            _: Request<pb::TransferRequest>,
        ) -> Result<Response<pb::TransferReply>, Status> {
            no()
        }
        async fn check(
            &self,
            _: Request<pb::CheckRequest>,
        ) -> Result<Response<pb::CheckReply>, Status> {
            no()
        }
        async fn merge(
            &self,
            _: Request<pb::MergeRequest>,
        ) -> Result<Response<pb::MergeReply>, Status> {
            no()
        }
        async fn r#move(
            &self,
            _: Request<pb::MoveRequest>,
        ) -> Result<Response<pb::MoveReply>, Status> {
            no()
        }
        async fn placement(
            &self,
            _: Request<pb::PlacementRequest>,
        ) -> Result<Response<pb::PlacementReply>, Status> {
            no()
        }
        async fn set_placement(
            &self,
            _: Request<pb::SetPlacementRequest>,
        ) -> Result<Response<pb::SetPlacementReply>, Status> {
            no()
        }
        async fn remove_placement(
            &self,
            _: Request<pb::RemovePlacementRequest>,
        ) -> Result<Response<pb::RemovePlacementReply>, Status> {
            no()
        }
        async fn set_failure_domain(
            &self,
            _: Request<pb::SetFailureDomainRequest>,
        ) -> Result<Response<pb::SetFailureDomainReply>, Status> {
            no()
        }
    }
}
