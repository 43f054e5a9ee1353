//! How the process ends: asked to, or because it must.
//!
//! Invariant: after a failed write to the disk nothing is acknowledged any more, because what is on
//! disk is not known: the process stops at once, and its next start reads what is really there.

use std::error::Error;
use std::fmt::Write as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a node says that the cluster does without from now on.
pub const GONE: &str = "this node is gone for good: its copies were made on other nodes. Start it \
                        with an empty --data directory to join as a new node";

/// Ends the process because it cannot go on: one line, exit code 3.
pub fn fatal(line: &str) -> ! {
    tracing::error!("{line}");
    eprintln!("holdfast-node: {line}");
    std::process::exit(crate::cli::Exit::Failure as i32)
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("a string takes any text");
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// Requests to stop: Ctrl-C, SIGTERM, and the end of standard input if that was asked for.
pub struct StopRequests {
    interrupt: Signal,
    terminate: Signal,
    stdin_closed: tokio::sync::watch::Receiver<bool>,
}

impl StopRequests {
    /// Listens from now on; needs a tokio runtime.
    ///
    /// # Errors
    /// The operating system does not let us.
    pub fn new(stop_with_stdin: bool) -> std::io::Result<Self> {
        let (sender, stdin_closed) = tokio::sync::watch::channel(false);
        if stop_with_stdin {
            std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
                // An error is an end as well.
                drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
                sender.send_replace(true);
            })?;
        } else {
            // Keeps the channel open for as long as anybody listens.
            std::mem::forget(sender);
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            stdin_closed,
        })
    }

    /// Waits for the next request to stop. True if whoever started this process is gone, so that
    /// there is nobody to be graceful for.
    pub async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.interrupt.recv() => false,
            _ = self.terminate.recv() => false,
            _ = self.stdin_closed.wait_for(|closed| *closed) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_causes_stand_in_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open\nthe door")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("no key"));
        assert_eq!(chain(&error), "cannot open the door: no key");
    }
}
