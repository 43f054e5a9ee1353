//! A handshake with a listener that has the certificates that the operator makes.

use super::*;
use crate::build::{Inputs, names};
use crate::tls::ensure;
use jiff::Timestamp;
use std::collections::BTreeMap;
use tokio::net::TcpListener;

#[tokio::test]
async fn the_handshake_tells_which_certificate_is_shown() {
    let cluster = serde_json::from_value(serde_json::json!({
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "HoldfastCluster",
        "metadata": {"name": "demo", "namespace": "ns", "uid": "u"},
        "spec": {},
    }))
    .unwrap();
    let inputs = Inputs::new(&cluster);
    let made = ensure(&inputs, &BTreeMap::new(), Timestamp::now()).unwrap();
    let secret = made.apply.iter().find(|it| it.name == names::node_tls_secret("demo")).unwrap();
    let secret: k8s_openapi::api::core::v1::Secret =
        serde_json::from_value(secret.body.clone()).unwrap();
    let data = secret.data.unwrap();
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&data["tls.crt"].0).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(&data["tls.key"].0).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let accepted = acceptor.accept(stream).await;
            drop(accepted);
        }
    });
    let mut target =
        Target { pod: "demo-0".to_owned(), host: names::pod_host("demo", "ns", "demo-0"), address };
    let found = shown(&target, &made.identity).await.unwrap();
    assert_eq!(Some(found), fingerprint(&data["tls.crt"].0));
    assert_eq!(fingerprint(&data["tls.crt"].0).as_deref(), Some(made.node.as_str()));
    // Somebody else is not asked twice.
    target.host = "another.example".to_owned();
    assert!(shown(&target, &made.identity).await.is_err());
}

#[test]
fn what_is_no_certificate_has_no_fingerprint() {
    assert_eq!(fingerprint(b"nothing"), None);
}
