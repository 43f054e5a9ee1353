//! Which files one side's TLS is made of, and their contents.

use std::path::PathBuf;

/// The files of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// What stands before the names of the flags: nothing, or `peer-`.
    pub prefix: &'static str,
    /// The certificate, with those that lead to the trusted one, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Certificates that the other side's must lead to, in PEM.
    pub trusted_ca: Option<PathBuf>,
}

/// What the files hold.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
    pub trusted_ca: Option<Vec<u8>>,
}

impl Files {
    /// The files that were given, if any were.
    ///
    /// # Errors
    /// One of a pair is missing; the line names the flag.
    pub fn check(
        prefix: &'static str,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        trusted_ca: Option<PathBuf>,
    ) -> Result<Option<Self>, String> {
        match (cert, key) {
            (Some(cert), Some(key)) => Ok(Some(Self { prefix, cert, key, trusted_ca })),
            (Some(_), None) => Err(format!(
                "--{prefix}key-file is missing: the private key of --{prefix}cert-file"
            )),
            (None, Some(_)) => Err(format!(
                "--{prefix}cert-file is missing: the certificate of --{prefix}key-file"
            )),
            (None, None) if trusted_ca.is_some() => Err(format!(
                "--{prefix}trusted-ca-file needs --{prefix}cert-file and --{prefix}key-file"
            )),
            (None, None) => Ok(None),
        }
    }

    pub(super) fn read(&self) -> Result<Contents, String> {
        let read = |flag: &str, path: &PathBuf| {
            std::fs::read(path).map_err(|error| {
                format!("--{}{flag} {} cannot be read: {error}", self.prefix, path.display())
            })
        };
        Ok(Contents {
            cert: read("cert-file", &self.cert)?,
            key: read("key-file", &self.key)?,
            trusted_ca: self
                .trusted_ca
                .as_ref()
                .map(|path| read("trusted-ca-file", path))
                .transpose()?,
        })
    }

    /// A complaint about one of the files.
    pub(super) fn complain(&self, flag: &str, path: &std::path::Path, what: &str) -> String {
        format!("--{}{flag} {} {what}", self.prefix, path.display())
    }
}
