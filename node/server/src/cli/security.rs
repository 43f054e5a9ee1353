//! How commands reach nodes that want TLS: flags with etcdctl's names.

use super::Failure;
use clap::Args;
use std::path::{Path, PathBuf};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// Which certificates to trust and to show. The ids keep apart from a command's own arguments, such
/// as the KEY of `split`.
#[derive(Clone, Debug, Default, Args)]
pub struct ClientSecurity {
    /// Trust nodes whose certificate leads to one of these (PEM); turns TLS on
    #[arg(id = "tls-cacert", long = "cacert", env = "HOLDFAST_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Show nodes this certificate (PEM)
    #[arg(id = "tls-cert", long = "cert", env = "HOLDFAST_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Private key of --cert (PEM)
    #[arg(id = "tls-key", long = "key", env = "HOLDFAST_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
}

impl ClientSecurity {
    /// The endpoint at `address`: `host:port`, or a URL whose scheme must fit the flags.
    ///
    /// # Errors
    /// Flags, files or an address that make no sense.
    pub fn endpoint(&self, address: &str) -> Result<Endpoint, Failure> {
        let tls = self.config()?;
        let url = match (address.split_once("://"), &tls) {
            (None, None) => format!("http://{address}"),
            (None, Some(_)) => format!("https://{address}"),
            (Some(("https", _)), None) => {
                return Err(Failure::usage(format!(
                    "--endpoints: {address} needs --cacert: which certificates to trust"
                )));
            }
            (Some(("http", _)), Some(_)) => {
                return Err(Failure::usage(format!(
                    "--endpoints: {address} is without TLS, but --cacert is given"
                )));
            }
            (Some(_), _) => address.to_owned(),
        };
        let endpoint = Endpoint::from_shared(url)
            .map_err(|_| Failure::usage(format!("--endpoints: {address:?} is not host:port")))?;
        match tls {
            None => Ok(endpoint),
            Some(tls) => endpoint
                .tls_config(tls)
                .map_err(|error| Failure::usage(format!("--cacert, --cert, --key: {error}"))),
        }
    }

    fn config(&self) -> Result<Option<ClientTlsConfig>, Failure> {
        let read = |flag: &str, path: &Path| {
            std::fs::read(path).map_err(|error| {
                Failure::usage(format!("--{flag} {} cannot be read: {error}", path.display()))
            })
        };
        let Some(cacert) = &self.cacert else {
            return if self.cert.is_some() || self.key.is_some() {
                Err(Failure::usage("--cert and --key need --cacert"))
            } else {
                Ok(None)
            };
        };
        let config =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("cacert", cacert)?));
        match (&self.cert, &self.key) {
            (None, None) => Ok(Some(config)),
            (Some(cert), Some(key)) => {
                let identity = Identity::from_pem(read("cert", cert)?, read("key", key)?);
                Ok(Some(config.identity(identity)))
            }
            (Some(_), None) => Err(Failure::usage("--key is missing: the private key of --cert")),
            (None, Some(_)) => Err(Failure::usage("--cert is missing: the certificate of --key")),
        }
    }
}
