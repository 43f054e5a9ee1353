//! One node as a child process.

use super::cluster::{Cluster, Ports};
use crate::cli::{Exit, Failure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, ChildStdin, Command};

/// A node that was started here.
pub(super) struct Node {
    pub number: usize,
    child: Child,
    pid: u32,
    pid_file: PathBuf,
    /// Its end tells the child that this process is gone.
    _leash: Option<ChildStdin>,
}

/// How a node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// As it was asked to.
    Stopped,
    /// Otherwise; in words.
    Broken(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => write!(f, "stopped"),
            Self::Broken(how) => write!(f, "{how}"),
        }
    }
}

impl Ended {
    /// What to tell when a node ended before it was ready: its own last words.
    pub(super) fn while_starting(&self, number: usize, cluster: &Cluster) -> Failure {
        let log = cluster.node_directory(number).join("log");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let last = text.lines().rev().find(|line| line.starts_with("holdfast-node: "));
        let line = match last {
            Some(last) => format!("node {number}: {}", last.trim_start_matches("holdfast-node: ")),
            None => format!("node {number} {self} while starting; see {}", log.display()),
        };
        Failure { exit: Exit::Failure, line }
    }
}

impl Node {
    /// Starts node `number`.
    pub(super) fn start(
        cluster: &Cluster,
        number: usize,
        log_level: &str,
    ) -> Result<Self, Failure> {
        let directory = cluster.node_directory(number);
        let failed = |error: io::Error| {
            Failure::broken(format!(
                "cannot start node {number} in {}: {error}",
                directory.display()
            ))
        };
        std::fs::create_dir_all(&directory).map_err(failed)?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join("log"))
            .map_err(failed)?;
        let mut child = command(cluster, number, log_level)
            .and_then(|mut command| spawn(&mut command, log))
            .map_err(failed)?;
        let pid = child.id().expect("a child that was not waited for has an id");
        let leash = child.stdin.take();
        let pid_file = directory.join("pid");
        std::fs::write(&pid_file, format!("{pid}\n")).map_err(failed)?;
        Ok(Self { number, child, pid, pid_file, _leash: leash })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(self.settle(status))
    }

    /// Waits for its end.
    pub(super) async fn wait(&mut self) -> Ended {
        match self.child.wait().await {
            Ok(status) => self.settle(status),
            Err(error) => Ended::Broken(format!("cannot be waited for: {error}")),
        }
    }

    fn settle(&self, status: ExitStatus) -> Ended {
        let ours = std::fs::read_to_string(&self.pid_file)
            .is_ok_and(|text| text.trim() == self.pid.to_string());
        if ours {
            // Gone already if the directory was emptied.
            drop(std::fs::remove_file(&self.pid_file));
        }
        match (status.code(), status.signal()) {
            (Some(0), _) => Ended::Stopped,
            (Some(code), _) => Ended::Broken(format!("ended with code {code}")),
            (None, Some(signal)) => Ended::Broken(format!("was ended by signal {signal}")),
            (None, None) => Ended::Broken("ended".to_owned()),
        }
    }

    /// Asks it to stop gracefully; asked twice, it stops waiting for others to lead.
    pub(super) fn ask_to_stop(&self) {
        // A failure says that it has just ended.
        kill(Pid::from_raw(self.pid as i32), Signal::SIGTERM).ok();
    }

    /// Ends it at once.
    pub(super) async fn kill(&mut self) {
        // A failure says that it has just ended.
        drop(self.child.kill().await);
    }
}

/// Memory that is not needed any more is given back at once, as in the container image. The allocator reads
/// this before the first line of the program.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MIMALLOC_ALLOW_THP", "0"),
    ("MIMALLOC_PURGE_DELAY", "0"),
    ("MIMALLOC_PAGE_FULL_RETAIN", "0"),
];

fn command(cluster: &Cluster, number: usize, log_level: &str) -> io::Result<Command> {
    let Ports { client, peer, http } = cluster.ports(number);
    let state = if cluster.formed { "existing" } else { "new" };
    let mut command = Command::new(std::env::current_exe()?);
    for (name, setting) in ALLOCATOR {
        if std::env::var_os(name).is_none() {
            command.env(name, setting);
        }
    }
    command.arg("serve").arg("--stop-with-stdin").arg("--data").arg(cluster.node_directory(number));
    for (flag, value) in [
        ("name", format!("node-{number}")),
        ("client-listen", format!("127.0.0.1:{client}")),
        ("peer-listen", format!("127.0.0.1:{peer}")),
        ("http-listen", format!("127.0.0.1:{http}")),
        ("initial-cluster", cluster.initial_cluster()),
        ("initial-cluster-state", state.to_owned()),
        ("cluster-token", cluster.token.clone()),
        ("replicas", cluster.replicas.to_string()),
        ("split-keys", cluster.split_keys.clone()),
        ("split-size", cluster.split_size.to_string()),
        ("split-load", cluster.split_load.to_string()),
        ("merge-after", cluster.merge_after.clone()),
        ("tick-ms", cluster.tick_ms.to_string()),
        ("election-ms", cluster.election_ms.to_string()),
        ("log-level", log_level.to_owned()),
    ] {
        command.arg(format!("--{flag}={value}"));
    }
    if let Some(domain) = cluster.failure_domain(number) {
        command.arg(format!("--failure-domain={domain}"));
    }
    Ok(command)
}

fn spawn(command: &mut Command, log: File) -> io::Result<Child> {
    command
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C on the terminal is for the supervisor, which then asks the nodes.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}
