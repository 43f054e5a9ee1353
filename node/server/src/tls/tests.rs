//! Files that are good, bad, and replaced.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use std::path::Path;

/// A certificate authority for tests.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes `tls.crt`, `tls.key` and `ca.crt` for somebody on this machine.
    pub(crate) fn write(&self, directory: &Path) {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        std::fs::write(directory.join("tls.crt"), cert).unwrap();
        std::fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
        std::fs::write(directory.join("ca.crt"), &self.pem).unwrap();
    }
}

/// The files that [`Authority::write`] writes.
pub(crate) fn files(prefix: &'static str, directory: &Path) -> Files {
    Files {
        prefix,
        cert: directory.join("tls.crt"),
        key: directory.join("tls.key"),
        trusted_ca: Some(directory.join("ca.crt")),
    }
}

#[test]
fn half_of_a_pair_is_refused() {
    let some = || Some("f".into());
    assert!(Files::check("", some(), None, None).unwrap_err().starts_with("--key-file"));
    assert!(Files::check("peer-", None, some(), None).unwrap_err().starts_with("--peer-cert-file"));
    assert!(Files::check("", None, None, some()).unwrap_err().starts_with("--trusted-ca-file"));
    assert_eq!(Files::check("", None, None, None), Ok(None));
}

#[test]
fn what_is_wrong_with_a_file_is_said_without_its_content() {
    let directory = tempfile::tempdir().unwrap();
    let files = files("peer-", directory.path());
    let error = |files: &Files| Tls::load(files.clone(), Side::Peer).unwrap_err();
    assert!(error(&files).starts_with("--peer-cert-file"), "{}", error(&files));
    let authority = Authority::new("one");
    authority.write(directory.path());
    assert!(Tls::load(files.clone(), Side::Peer).unwrap().client().is_some());
    let without_ca = Files { trusted_ca: None, ..files.clone() };
    assert!(error(&without_ca).contains("--peer-trusted-ca-file is missing"));

    let other = tempfile::tempdir().unwrap();
    authority.write(other.path());
    std::fs::copy(other.path().join("tls.key"), &files.key).unwrap();
    assert!(error(&files).contains("is not the key of"), "{}", error(&files));
    std::fs::write(&files.key, "secret").unwrap();
    assert!(error(&files).contains("holds no private key"), "{}", error(&files));
    assert!(!error(&files).contains("secret"));
    std::fs::write(&files.cert, "nothing").unwrap();
    assert!(error(&files).contains("holds no certificate"), "{}", error(&files));
}

#[test]
fn new_files_are_used_and_broken_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("one");
    authority.write(directory.path());
    let tls = Tls::load(files("", directory.path()), Side::Client).unwrap();
    assert!(tls.not_after() > 0);
    let first = tls.server();
    tls.look();
    assert!(Arc::ptr_eq(&first, &tls.server()), "nothing changed");

    authority.write(directory.path());
    tls.look();
    let second = tls.server();
    assert!(!Arc::ptr_eq(&first, &second));

    std::fs::write(directory.path().join("tls.key"), "half").unwrap();
    tls.look();
    assert_eq!(tls.failures(), 0, "the rest may be on its way");
    tls.look();
    tls.look();
    assert_eq!(tls.failures(), 1);
    std::fs::remove_file(directory.path().join("tls.key")).unwrap();
    tls.look();
    tls.look();
    assert_eq!(tls.failures(), 2);
    assert!(Arc::ptr_eq(&second, &tls.server()));

    authority.write(directory.path());
    tls.look();
    assert!(!Arc::ptr_eq(&second, &tls.server()));
    assert_eq!(tls.failures(), 2);
}
