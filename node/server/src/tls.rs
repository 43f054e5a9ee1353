//! TLS of the client listener and between nodes, from files that may change while the node runs.
//!
//! ```text
//! files --(read every second, checked as a whole)--> Loaded --> each new connection takes the newest
//! ```
//!
//! Invariants: certificate, key and trusted certificates are replaced together or not at all; files
//! that make no sense leave the old ones in use and are told once; connections that stand are left
//! alone. Contents of key files are never logged.

mod files;

mod load;

pub use files::Files;
pub use load::{PEER_PROTOCOL, Side};

use files::Contents;
use load::Loaded;
use parking_lot::{Mutex, RwLock};
use rustls::{ClientConfig, ServerConfig};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing::{info, warn};

/// Between two looks at the files. Kubernetes needs up to a minute to renew a mounted secret.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The TLS of one side, always as its files say.
pub struct Tls {
    files: Files,
    side: Side,
    loaded: RwLock<Arc<Loaded>>,
    seen: Mutex<Seen>,
    failures: AtomicU64,
}

/// What the files held when they were last looked at.
struct Seen {
    /// What is in use.
    used: Contents,
    /// What could not be used, or why nothing could be read; and whether it was told.
    refused: Option<(Result<Contents, String>, bool)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("Tls")
            .field("files", &self.files)
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// One line that names the flag, the file and what is wrong with it.
    pub fn load(files: Files, side: Side) -> Result<Self, String> {
        let contents = files.read()?;
        let loaded = load::load(&files, &contents, side)?;
        Ok(Self {
            files,
            side,
            loaded: RwLock::new(Arc::new(loaded)),
            seen: Mutex::new(Seen { used: contents, refused: None }),
            failures: AtomicU64::new(0),
        })
    }

    /// For the next connection that is accepted.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.loaded.read().server)
    }

    /// For the next connection that is dialled; `None` on a side that does not dial.
    pub fn client(&self) -> Option<Arc<ClientConfig>> {
        self.loaded.read().client.clone()
    }

    /// When the certificate in use ends, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.loaded.read().not_after
    }

    /// Which side this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Changed files that could not be used, since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Looks at the files once. What is refused is told at the second look that finds it, because
    /// files of one set may be written one after the other.
    fn look(&self) {
        let read = self.files.read();
        let mut seen = self.seen.lock();
        if read.as_ref() == Ok(&seen.used) {
            seen.refused = None;
            return;
        }
        match &mut seen.refused {
            Some((refused, told)) if *refused == read => {
                if *told {
                    return;
                }
                *told = true;
            }
            _ => {
                seen.refused = Some((read.clone(), false));
            }
        }
        let told = seen.refused.as_ref().is_some_and(|(_, told)| *told);
        let loaded = read.and_then(|contents| {
            let loaded = load::load(&self.files, &contents, self.side)?;
            Ok((contents, loaded))
        });
        match loaded {
            Ok((contents, loaded)) => {
                info!(side = %self.side, not_after = loaded.not_after, "certificates replaced");
                *self.loaded.write() = Arc::new(loaded);
                *seen = Seen { used: contents, refused: None };
            }
            Err(error) if told => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                warn!(side = %self.side, "the certificates of before stay in use: {error}");
            }
            Err(_) => {}
        }
    }
}

/// Starts the thread that looks at the files for as long as the process lives.
///
/// # Errors
/// No thread can be started.
pub fn watch(all: Vec<Arc<Tls>>) -> std::io::Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    std::thread::Builder::new().name("tls-files".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(LOOK_INTERVAL);
            for tls in &all {
                tls.look();
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
