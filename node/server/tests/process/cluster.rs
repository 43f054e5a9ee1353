//! A development cluster for one test.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The longest that anything in these tests may take before it counts as hung. Generous: the
/// machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The command under test.
pub(crate) const NODE: &str = env!("CARGO_BIN_EXE_holdfast-node");

/// One cluster at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Ports of one test: the first of [`Ports::WIDTH`] that are free, kept from other test processes by
/// holding the UDP port of the same number.
pub(crate) struct Ports {
    pub(crate) base: u16,
    _claim: UdpSocket,
}

impl Ports {
    const WIDTH: u16 = 60;

    pub(crate) fn claim() -> Self {
        // Below the ports that the system gives to clients.
        let bases = (10_000..30_000).step_by(usize::from(Self::WIDTH));
        let start = std::process::id() as usize % bases.clone().count();
        for base in bases.clone().cycle().skip(start).take(bases.count()) {
            let Ok(claim) = UdpSocket::bind(("127.0.0.1", base)) else { continue };
            let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if (base..base + Self::WIDTH).all(free) {
                return Self { base, _claim: claim };
            }
        }
        panic!("no free ports");
    }
}

/// A cluster that ends with the test.
pub(crate) struct Cluster {
    pub(crate) directory: TempDir,
    pub(crate) ports: Ports,
    supervisors: Vec<Supervisor>,
    /// The directory is a small disk of its own.
    mounted: bool,
    _turn: MutexGuard<'static, ()>,
}

/// One `holdfast-node dev` process.
struct Supervisor {
    child: Child,
    lines: Receiver<String>,
}

impl Cluster {
    /// A new cluster of three nodes, ready.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let ports = Ports::claim();
        let mut cluster =
            Self { directory, ports, supervisors: Vec::new(), mounted: false, _turn: turn };
        cluster.run(flags);
        cluster
    }

    /// A new cluster on a disk of its own of so many MiB; `None` where this user cannot make one.
    pub(crate) fn start_on_small_disk(mebibytes: u64, flags: &[&str]) -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory.path())
            .output();
        if !mount.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let ports = Ports::claim();
        let mut cluster =
            Self { directory, ports, supervisors: Vec::new(), mounted: true, _turn: turn };
        cluster.run(flags);
        Some(cluster)
    }

    /// Starts all nodes of a stopped cluster again.
    pub(crate) fn run(&mut self, flags: &[&str]) {
        let port = self.ports.base.to_string();
        let flags = ["--client-port", &port].into_iter().chain(flags.iter().copied());
        let supervisor = Supervisor::start(self.directory.path(), flags);
        supervisor.wait_ready(self.directory.path());
        self.supervisors.push(supervisor);
    }

    /// Starts a node again after it was killed.
    pub(crate) fn rejoin(&mut self, node: usize) {
        let number = node.to_string();
        let supervisor =
            Supervisor::start(self.directory.path(), ["--rejoin", &number].into_iter());
        supervisor.wait_ready(self.directory.path());
        self.supervisors.push(supervisor);
    }

    /// Waits until the first supervisor says something that begins like this.
    pub(crate) fn wait_said(&self, beginning: &str) -> String {
        let supervisor = self.supervisors.first().expect("the cluster was started");
        supervisor.wait_line(beginning, self.directory.path())
    }

    /// Stops everything gracefully.
    pub(crate) fn stop(&mut self) {
        for supervisor in &self.supervisors {
            supervisor.signal(Signal::SIGTERM);
        }
        for supervisor in self.supervisors.drain(..) {
            assert!(supervisor.wait_end().success(), "the supervisor ends with 0");
        }
    }

    /// Sends a signal to a node.
    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        kill(self.pid(node), signal).unwrap();
    }

    /// Kills a node and waits until its process is gone.
    pub(crate) fn kill(&self, node: usize) {
        let pid = self.pid(node);
        kill(pid, Signal::SIGKILL).unwrap();
        wait_for("the node's process to go", || kill(pid, None).is_err());
    }

    fn pid(&self, node: usize) -> Pid {
        let text = std::fs::read_to_string(self.node_directory(node).join("pid")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap())
    }

    pub(crate) fn node_directory(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("node-{node}"))
    }

    pub(crate) fn endpoint(&self, node: usize) -> String {
        format!("127.0.0.1:{}", usize::from(self.ports.base) + 10 * (node - 1))
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        (1..=3).map(|node| self.endpoint(node)).collect()
    }

    /// Runs a client command against the cluster.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let endpoints = self.endpoints().join(",");
        Command::new(NODE).args(arguments).args(["--endpoints", &endpoints]).output().unwrap()
    }

    /// `status -o json`, whatever it says.
    pub(crate) fn status(&self) -> Value {
        let output = self.command(&["status", "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Waits until every range has all its copies.
    pub(crate) fn wait_full(&self) {
        let output = self.command(&["status", "--wait", "Full", "--timeout", "60s"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The number of the node (from 1) that leads the most ranges now.
    pub(crate) fn busiest(&self) -> usize {
        let status = self.status();
        let nodes = status["nodes"].as_array().unwrap();
        let leaders = |node: &&Value| node["leaders"].as_u64().unwrap_or(0);
        let busiest = nodes.iter().max_by_key(leaders).unwrap();
        usize::try_from(busiest["id"].as_u64().unwrap()).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for supervisor in &mut self.supervisors {
            // Killing the supervisor ends its nodes: their standard input closes.
            drop(supervisor.child.kill());
            drop(supervisor.child.wait());
        }
        if self.mounted {
            // Lazily: the nodes may need a moment to end.
            drop(Command::new("umount").arg("--lazy").arg(self.directory.path()).status());
        }
        if std::thread::panicking() {
            for node in 1..=3 {
                let log = std::fs::read_to_string(self.node_directory(node).join("log"));
                let text = log.unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(40).collect();
                eprintln!("--- log of node {node}, its last lines");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

impl Supervisor {
    fn start<'a>(directory: &Path, flags: impl Iterator<Item = &'a str>) -> Self {
        let mut child = Command::new(NODE)
            .args(["dev", "--data"])
            .arg(directory)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn wait_ready(&self, directory: &Path) {
        self.wait_line("ready", directory);
    }

    fn wait_line(&self, beginning: &str, directory: &Path) -> String {
        let until = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.starts_with(beginning) => return line,
                Ok(line) => said.push(line),
                Err(error) => panic!(
                    "the cluster in {} does not say {beginning:?}: {error}; it said {said:?}",
                    directory.display()
                ),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        // An error says that it has ended already.
        kill(Pid::from_raw(self.child.id() as i32), signal).ok();
    }

    fn wait_end(mut self) -> std::process::ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the supervisor does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Waits until something is so.
pub(crate) fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a node until it ends by itself, and returns its exit code and its last words.
pub(crate) fn run_to_end(arguments: &[&str]) -> (i32, String) {
    let mut child = Command::new(NODE)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > until {
            drop(child.kill());
            panic!("{arguments:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    (status.code().unwrap_or(-1), words)
}
