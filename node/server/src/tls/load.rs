//! Makes configurations of TLS out of the contents of files.

use super::files::{Contents, Files};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// What nodes call their own protocol when they choose one in the TLS handshake (ALPN).
pub const PEER_PROTOCOL: &[u8] = b"holdfast";

/// Who is on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clients: they may be asked for a certificate.
    Client,
    /// Other nodes and the operator: both sides show a certificate.
    Peer,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Peer => "peer",
        })
    }
}

/// Ready for connections.
pub(super) struct Loaded {
    pub server: Arc<ServerConfig>,
    pub client: Option<Arc<ClientConfig>>,
    pub not_after: i64,
}

pub(super) fn load(files: &Files, contents: &Contents, side: Side) -> Result<Loaded, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (key, not_after) = certified_key(files, contents, &provider)?;
    let roots = trusted(files, contents)?.map(Arc::new);
    let broken = |error: &dyn fmt::Display| {
        format!("--{}cert-file {}: {error}", files.prefix, files.cert.display())
    };
    let versions = match side {
        Side::Client => &[&TLS13, &TLS12][..],
        Side::Peer => &[&TLS13],
    };
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| broken(&error))?;
    let server = match &roots {
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(
                Arc::clone(roots),
                Arc::clone(&provider),
            );
            server.with_client_cert_verifier(verifier.build().map_err(|error| broken(&error))?)
        }
        None => server.with_no_client_auth(),
    };
    let mut server = server.with_cert_resolver(Arc::clone(&key) as _);
    let client = match (side, roots) {
        (Side::Peer, Some(roots)) => {
            // A connection lives long, and a resumed one would skip the check of new certificates.
            server.send_tls13_tickets = 0;
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.alpn_protocols = vec![PEER_PROTOCOL.to_vec(), b"h2".to_vec()];
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                    .build()
                    .map_err(|error| broken(&error))?;
            let mut client = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(versions)
                .map_err(|error| broken(&error))?
                .with_webpki_verifier(verifier)
                .with_client_cert_resolver(key as _);
            client.alpn_protocols = vec![PEER_PROTOCOL.to_vec()];
            client.resumption = rustls::client::Resumption::disabled();
            Some(Arc::new(client))
        }
        (Side::Peer, None) => {
            return Err(format!(
                "--{0}trusted-ca-file is missing: with --{0}cert-file, nodes check each other",
                files.prefix
            ));
        }
        (Side::Client, _) => {
            server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            None
        }
    };
    Ok(Loaded { server: Arc::new(server), client, not_after })
}

/// The certificate with its key, and when it ends.
fn certified_key(
    files: &Files,
    contents: &Contents,
    provider: &CryptoProvider,
) -> Result<(Arc<SingleCertAndKey>, i64), String> {
    let of_cert = |what: &str| files.complain("cert-file", &files.cert, what);
    let of_key = |what: &str| files.complain("key-file", &files.key, what);
    let chain = certificates(&contents.cert).map_err(|what| of_cert(&what))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0])
        .map_err(|error| of_cert(&format!("is no certificate: {error}")))?;
    let not_after = parsed.validity().not_after.timestamp();
    // What exactly is wrong in a key file is not said, so that nothing of it gets into a log.
    let key = PrivateKeyDer::from_pem_slice(&contents.key)
        .map_err(|_| of_key("holds no private key in PEM"))?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let cert = files.cert.display();
            of_key(&format!("is not the key of --{}cert-file {cert}", files.prefix))
        }
        _ => of_key("holds a private key of an unknown kind"),
    })?;
    Ok((Arc::new(SingleCertAndKey::from(key)), not_after))
}

fn trusted(files: &Files, contents: &Contents) -> Result<Option<RootCertStore>, String> {
    let (Some(path), Some(pem)) = (&files.trusted_ca, &contents.trusted_ca) else {
        return Ok(None);
    };
    let complain = |what: &str| files.complain("trusted-ca-file", path, what);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(|what| complain(&what))? {
        roots
            .add(certificate)
            .map_err(|error| complain(&format!("has a certificate of no use: {error}")))?;
    }
    Ok(Some(roots))
}

/// All certificates of a PEM file: at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not PEM: {error}"))?;
    if all.is_empty() { Err("holds no certificate in PEM".to_owned()) } else { Ok(all) }
}
