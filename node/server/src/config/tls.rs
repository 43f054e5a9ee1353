//! The flags of TLS, with etcd's names.

use crate::tls::Files;
use clap::{ArgAction, Args};
use std::path::PathBuf;

/// Which files TLS is made of, as given.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS (files in PEM; changed files are used without a restart)")]
pub struct TlsArgs {
    /// Certificate of the client listener, with its chain: turns TLS on
    #[arg(long, env = "HOLDFAST_CERT_FILE", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,
    /// Private key of --cert-file
    #[arg(long, env = "HOLDFAST_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Clients must show a certificate that leads to one of these
    #[arg(long, env = "HOLDFAST_TRUSTED_CA_FILE", value_name = "FILE")]
    pub trusted_ca_file: Option<PathBuf>,
    /// Clients must show a certificate; follows from --trusted-ca-file, without which it is refused
    #[arg(
        long,
        env = "HOLDFAST_CLIENT_CERT_AUTH",
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true"
    )]
    pub client_cert_auth: bool,
    /// Certificate of this node among nodes, as listening and as dialling side: turns TLS between
    /// nodes on
    #[arg(long, env = "HOLDFAST_PEER_CERT_FILE", value_name = "FILE")]
    pub peer_cert_file: Option<PathBuf>,
    /// Private key of --peer-cert-file
    #[arg(long, env = "HOLDFAST_PEER_KEY_FILE", value_name = "FILE")]
    pub peer_key_file: Option<PathBuf>,
    /// Other nodes, and the operator, must show a certificate that leads to one of these
    #[arg(long, env = "HOLDFAST_PEER_TRUSTED_CA_FILE", value_name = "FILE")]
    pub peer_trusted_ca_file: Option<PathBuf>,
}

/// Which files TLS is made of: consistent, not read yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Of the client listener; `None` is without TLS.
    pub client: Option<Files>,
    /// Between nodes; `None` is without TLS.
    pub peer: Option<Files>,
}

impl TlsArgs {
    /// Checks flags.
    ///
    /// # Errors
    /// One line that names the flag that is missing.
    pub fn check(self) -> Result<TlsFiles, String> {
        if self.client_cert_auth && self.trusted_ca_file.is_none() {
            return Err(
                "--client-cert-auth needs --trusted-ca-file: which clients are trusted".to_owned()
            );
        }
        let client = Files::check("", self.cert_file, self.key_file, self.trusted_ca_file)?;
        let peer = Files::check(
            "peer-",
            self.peer_cert_file,
            self.peer_key_file,
            self.peer_trusted_ca_file,
        )?;
        Ok(TlsFiles { client, peer })
    }
}
