//! The certificates of a cluster. The operator makes two authorities and keeps their keys: one for
//! nodes and itself, one for clients, so that a client's certificate opens no port of the nodes.
//!
//! Invariants: a certificate that is still good is never made anew; keys go into Secrets and nowhere
//! else, not into logs and not into the status. Nodes read the files again when they change, so a
//! renewal restarts nothing.

use crate::build::{Inputs, Object, names, secrets};
use crate::nodes::fingerprint;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// How long an authority is valid, in days.
const AUTHORITY_DAYS: i32 = 3650;
/// How long any other certificate is valid, in days.
const LEAF_DAYS: i32 = 365;
/// With fewer days left than this, a certificate is made anew.
const RENEW_DAYS: i32 = 120;

/// When a certificate ends, RFC 3339.
pub const NOT_AFTER: &str = "holdfast.dev/not-after";
/// What a certificate was made from; another value means another certificate.
const MADE_FROM: &str = "holdfast.dev/made-from";

const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";
const CA: &str = "ca.crt";
const CLIENT_CA: &str = "client-ca.crt";

/// What the operator shows to nodes, and whom it trusts: PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The authority of the nodes.
    pub ca: Vec<u8>,
    /// The operator's certificate.
    pub cert: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// A certificate as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret that holds it.
    pub secret: String,
    /// When it ends.
    pub not_after: Option<Timestamp>,
}

/// All Secrets of a cluster as they are to be.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Authorities that do not exist yet. They are created and never overwritten.
    pub create: Vec<Object>,
    /// The other Secrets; those that are still good are as they were.
    pub apply: Vec<Object>,
    /// The operator's own.
    pub identity: Identity,
    /// The fingerprint of the nodes' certificate.
    pub node: String,
    /// All, for the status.
    pub all: Vec<Certificate>,
}

/// Makes what is missing or about to end, and keeps the rest.
///
/// # Errors
/// One sentence, when an authority's Secret cannot be used.
pub fn ensure(
    inputs: &Inputs,
    live: &BTreeMap<String, std::sync::Arc<Secret>>,
    now: Timestamp,
) -> Result<Certificates, String> {
    // Certificates know no fractions of seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut work = Work { inputs, live, now, create: vec![], apply: vec![], all: vec![] };
    let nodes = work.authority(&names::ca_secret(&inputs.name), "nodes")?;
    let clients = work.authority(&names::client_ca_secret(&inputs.name), "clients")?;
    let (name, namespace) = (&inputs.name, &inputs.namespace);
    let gateway = names::gateway_service(name);
    let peers = names::peers_service(name);
    let hosts = vec![
        format!("*.{peers}.{namespace}.svc"),
        format!("*.{peers}.{namespace}.svc.cluster.local"),
        gateway.clone(),
        format!("{gateway}.{namespace}"),
        format!("{gateway}.{namespace}.svc"),
        format!("{gateway}.{namespace}.svc.cluster.local"),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    // Clients' certificates for those who come from outside, the nodes' own for each other and for
    // the operator.
    let mut trusted_clients = clients.cert.clone();
    trusted_clients.extend_from_slice(&nodes.cert);
    let node = work.leaf(
        &names::node_tls_secret(name),
        &nodes,
        &format!("{name}-node"),
        hosts,
        BTreeMap::from([(CA, nodes.cert.clone()), (CLIENT_CA, trusted_clients)]),
    )?;
    work.leaf(
        &names::client_tls_secret(name),
        &clients,
        &format!("{name}-client"),
        vec![],
        BTreeMap::from([(CA, nodes.cert.clone())]),
    )?;
    let identity = work.leaf(
        &names::operator_tls_secret(name),
        &nodes,
        &format!("{name}-operator"),
        vec![],
        BTreeMap::from([(CA, nodes.cert.clone())]),
    )?;
    let node = fingerprint(&node.cert)
        .ok_or_else(|| format!("Secret {} has no certificate", names::node_tls_secret(name)))?;
    Ok(Certificates { create: work.create, apply: work.apply, identity, node, all: work.all })
}

struct Authority {
    cert: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

struct Work<'a> {
    inputs: &'a Inputs,
    live: &'a BTreeMap<String, std::sync::Arc<Secret>>,
    now: Timestamp,
    create: Vec<Object>,
    apply: Vec<Object>,
    all: Vec<Certificate>,
}

impl Work<'_> {
    fn authority(&mut self, secret: &str, whose: &str) -> Result<Authority, String> {
        let params = self.authority_params(whose);
        if let Some(live) = self.live.get(secret) {
            let (cert, key) = (bytes(live, CERT), bytes(live, KEY));
            let key = key
                .as_deref()
                .and_then(|pem| std::str::from_utf8(pem).ok())
                .and_then(|pem| KeyPair::from_pem(pem).ok());
            let (Some(cert), Some(key)) = (cert, key) else {
                return Err(format!(
                    "Secret {secret} has no usable {CERT} and {KEY}; restore it, or delete it to get a new authority"
                ));
            };
            self.all.push(Certificate { secret: secret.to_owned(), not_after: not_after(live) });
            return Ok(Authority { cert, issuer: Issuer::new(params, key) });
        }
        let key = KeyPair::generate().map_err(|error| format!("make a key: {error}"))?;
        let end = self.now + DAY * AUTHORITY_DAYS;
        let cert = params
            .self_signed(&key)
            .map_err(|error| format!("make the certificate of {secret}: {error}"))?
            .pem()
            .into_bytes();
        let data = BTreeMap::from([
            (CERT.to_owned(), cert.clone()),
            (KEY.to_owned(), key.serialize_pem().into_bytes()),
        ]);
        let annotations = BTreeMap::from([(NOT_AFTER.to_owned(), end.to_string())]);
        self.create.push(secrets::build(self.inputs, secret, annotations, data));
        self.all.push(Certificate { secret: secret.to_owned(), not_after: Some(end) });
        Ok(Authority { cert, issuer: Issuer::new(params, key) })
    }

    /// The same for the same cluster, except for the dates: what an issuer puts into certificates is
    /// its name and its key.
    fn authority_params(&self, whose: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        let Inputs { name, namespace, .. } = self.inputs;
        params.distinguished_name = common_name(&format!("holdfast {whose} of {namespace}/{name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        self.validity(&mut params, AUTHORITY_DAYS);
        params
    }

    fn leaf(
        &mut self,
        secret: &str,
        authority: &Authority,
        subject: &str,
        hosts: Vec<String>,
        extra: BTreeMap<&str, Vec<u8>>,
    ) -> Result<Identity, String> {
        let made_from = digest(subject, &hosts, &authority.cert, &extra);
        let ca = extra.get(CA).cloned().unwrap_or_default();
        if let Some((identity, data)) = self.still_good(secret, &made_from, &ca) {
            let live = &self.live[secret];
            self.all.push(Certificate { secret: secret.to_owned(), not_after: not_after(live) });
            let annotations = kept_annotations(live);
            self.apply.push(secrets::build(self.inputs, secret, annotations, data));
            return Ok(identity);
        }
        let fail = |error: rcgen::Error| format!("make the certificate of {secret}: {error}");
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(subject);
        for host in hosts {
            params.subject_alt_names.push(match host.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.try_into().map_err(fail)?),
            });
        }
        if params.subject_alt_names.is_empty() {
            // Verifiers want a name also of those who only connect.
            params.subject_alt_names.push(SanType::DnsName(subject.try_into().map_err(fail)?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if secret == names::node_tls_secret(&self.inputs.name) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        self.validity(&mut params, LEAF_DAYS);
        let cert = params.signed_by(&key, &authority.issuer).map_err(fail)?.pem().into_bytes();
        let key = key.serialize_pem().into_bytes();
        let mut data: BTreeMap<String, Vec<u8>> =
            extra.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        data.insert(CERT.to_owned(), cert.clone());
        data.insert(KEY.to_owned(), key.clone());
        let end = self.now + DAY * LEAF_DAYS;
        let annotations = BTreeMap::from([
            (NOT_AFTER.to_owned(), end.to_string()),
            (MADE_FROM.to_owned(), made_from),
        ]);
        self.apply.push(secrets::build(self.inputs, secret, annotations, data));
        self.all.push(Certificate { secret: secret.to_owned(), not_after: Some(end) });
        Ok(Identity { ca, cert, key })
    }

    fn still_good(
        &self,
        secret: &str,
        made_from: &str,
        ca: &[u8],
    ) -> Option<(Identity, BTreeMap<String, Vec<u8>>)> {
        let live = self.live.get(secret)?;
        let same = live.metadata.annotations.as_ref()?.get(MADE_FROM)? == made_from;
        let long_enough = not_after(live)? > self.now + DAY * RENEW_DAYS;
        let (cert, key) = (bytes(live, CERT)?, bytes(live, KEY)?);
        KeyPair::from_pem(std::str::from_utf8(&key).ok()?).ok()?;
        let data = live.data.clone()?.into_iter().map(|(name, value)| (name, value.0)).collect();
        (same && long_enough).then(|| (Identity { ca: ca.to_vec(), cert, key }, data))
    }

    fn validity(&self, params: &mut CertificateParams, days: i32) {
        let from_epoch = |time: Timestamp| {
            let seconds = u64::try_from(time.as_second()).unwrap_or(0);
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
        };
        // Clocks differ.
        params.not_before = from_epoch(self.now - SignedDuration::from_mins(10));
        params.not_after = from_epoch(self.now + DAY * days);
    }
}

/// When a Secret's certificate ends, as it says itself.
pub fn not_after(secret: &Secret) -> Option<Timestamp> {
    secret.metadata.annotations.as_ref()?.get(NOT_AFTER)?.parse().ok()
}

fn kept_annotations(secret: &Secret) -> BTreeMap<String, String> {
    let all = secret.metadata.annotations.iter().flatten();
    all.filter(|(key, _)| [NOT_AFTER, MADE_FROM].contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn bytes(secret: &Secret, key: &str) -> Option<Vec<u8>> {
    let value = &secret.data.as_ref()?.get(key)?.0;
    (!value.is_empty()).then(|| value.clone())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    // 64 bytes is what X.509 allows here.
    let short: String = name.chars().take(64).collect();
    distinguished.push(DnType::CommonName, short);
    distinguished
}

fn digest(
    subject: &str,
    hosts: &[String],
    authority: &[u8],
    extra: &BTreeMap<&str, Vec<u8>>,
) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(subject).chain(hosts.iter().map(String::as_str)) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.update(authority);
    for (name, value) in extra {
        hash.update(name.as_bytes());
        hash.update(value);
    }
    hash.finalize().iter().take(16).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests;
