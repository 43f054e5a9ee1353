//! Faults that the Kubernetes API has no call for, through one small program.

use std::path::PathBuf;
use std::process::Command;

/// The program that makes faults; `cluster/fault` describes what it understands.
#[derive(Clone, Debug)]
pub(crate) struct Faults(PathBuf);

impl Faults {
    /// The one that `HOLDFAST_E2E_FAULT` names.
    pub(crate) fn from_environment() -> Option<Self> {
        std::env::var_os("HOLDFAST_E2E_FAULT").map(|path| Self(path.into()))
    }

    /// Makes a fault, or takes it back.
    pub(crate) fn run(&self, arguments: &[&str]) {
        let output =
            Command::new(&self.0).args(arguments).output().expect("the fault program runs");
        assert!(
            output.status.success(),
            "fault {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        eprintln!("    fault {}", arguments.join(" "));
    }

    /// Takes back what a test may have left; says so if that fails.
    pub(crate) fn heal(&self) {
        for what in ["heal", "recycle"] {
            if let Err(error) = Command::new(&self.0).arg(what).status() {
                eprintln!("    fault {what}: {error}");
            }
        }
    }
}
