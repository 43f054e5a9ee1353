//! Which certificate a node shows to new connections: a TLS handshake, nothing else.
//!
//! Invariant: the node is verified as for every other call; nothing is sent over the connection.

use super::Target;
use crate::tls::Identity;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The SHA-256 of a certificate, in hex: of the first one in a PEM file.
pub fn fingerprint(pem: &[u8]) -> Option<String> {
    let first = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
    Some(digest(&first))
}

fn digest(certificate: &[u8]) -> String {
    Sha256::digest(certificate).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

/// The fingerprint of the certificate that the node at `target` shows now.
///
/// # Errors
/// One sentence about why nobody knows.
pub(super) async fn shown(target: &Target, identity: &Identity) -> Result<String, String> {
    let config = config(identity).map_err(|error| format!("the operator's identity: {error}"))?;
    let say = |error: std::io::Error| format!("{}: {error}", target.pod);
    let name = ServerName::try_from(target.host.clone())
        .map_err(|error| format!("{}: {error}", target.host))?;
    let stream = TcpStream::connect(&target.address).await.map_err(say)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(say)?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    shown.map(|first| digest(first)).ok_or_else(|| format!("{} shows no certificate", target.pod))
}

fn config(identity: &Identity) -> Result<ClientConfig, String> {
    let text = |error: rustls::pki_types::pem::Error| error.to_string();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&identity.ca) {
        roots.add(root.map_err(text)?).map_err(|error| error.to_string())?;
    }
    let chain = CertificateDer::pem_slice_iter(&identity.cert).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(text)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.map_err(text)?, key)
        .map_err(|error| error.to_string())?;
    // As the admin API is asked for.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests;
