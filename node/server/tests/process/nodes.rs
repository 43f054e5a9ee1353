//! Nodes that a test starts one by one, as an operator does, with `serve`.

use super::cluster::{NODE, PATIENCE, Ports, run_to_end};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Up to ten nodes; those that run end with the test.
pub(crate) struct Nodes {
    pub(crate) directory: TempDir,
    pub(crate) ports: Ports,
    members: usize,
    running: Vec<Option<Child>>,
    /// Flags of every node.
    pub(crate) flags: Vec<String>,
    /// Flags of every command that asks nodes.
    pub(crate) client_flags: Vec<String>,
}

impl Nodes {
    /// Nothing runs yet; `members` nodes are to form the cluster.
    pub(crate) fn new(members: usize) -> Self {
        let running = (0..members).map(|_| None).collect();
        Self {
            directory: tempfile::tempdir().unwrap(),
            ports: Ports::claim(),
            members,
            running,
            flags: Vec::new(),
            client_flags: Vec::new(),
        }
    }

    fn port(&self, node: usize, offset: usize) -> u16 {
        self.ports.base + u16::try_from(3 * (node - 1) + offset).unwrap()
    }

    pub(crate) fn client(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.port(node, 0))
    }

    pub(crate) fn peer(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.port(node, 1))
    }

    pub(crate) fn http(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.port(node, 2))
    }

    pub(crate) fn data(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("node-{node}"))
    }

    /// Starts a node with `--initial-cluster-state new`.
    pub(crate) fn start(&mut self, node: usize) {
        self.start_as(node, "new");
    }

    pub(crate) fn start_as(&mut self, node: usize, state: &str) {
        let members: Vec<String> =
            (1..=self.members).map(|node| format!("node-{node}={}", self.peer(node))).collect();
        let log = self.directory.path().join(format!("log-{node}"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(NODE)
            .args(["serve", "--stop-with-stdin", "--tick-ms", "50", "--election-ms", "500"])
            .args(["--name", &format!("node-{node}"), "--data", self.data(node).to_str().unwrap()])
            .args(["--client-listen", &self.client(node), "--peer-listen", &self.peer(node)])
            .args(["--http-listen", &self.http(node), "--initial-cluster", &members.join(",")])
            .args(["--initial-cluster-state", state])
            .args(&self.flags)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running[node - 1] = Some(child);
    }

    /// Kills a node, if it runs.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.running[node - 1].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks a node to stop.
    pub(crate) fn ask_to_stop(&self, node: usize) {
        self.signal(node, Signal::SIGTERM);
    }

    /// Sends a signal to a node.
    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        let child = self.running[node - 1].as_ref().expect("it runs");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    }

    /// Waits until a node that was asked to stop has done so.
    pub(crate) fn wait_stopped(&mut self, node: usize) {
        let mut child = self.running[node - 1].take().expect("it runs");
        assert!(child.wait().unwrap().success());
    }

    /// Loses a node's disk.
    pub(crate) fn empty(&mut self, node: usize) {
        self.kill(node);
        std::fs::remove_dir_all(self.data(node)).unwrap();
    }

    /// The log of a node, of all its runs.
    pub(crate) fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.directory.path().join(format!("log-{node}"))).unwrap()
    }

    pub(crate) fn is_ready(&self, node: usize) -> bool {
        http(&self.http(node), "/readyz").starts_with("HTTP/1.1 200")
    }

    pub(crate) fn wait_ready(&self, nodes: &[usize]) {
        self.wait(&format!("nodes {nodes:?} to be ready"), || {
            nodes.iter().all(|&node| self.is_ready(node))
        });
    }

    /// Waits until something is so; tells the logs if it never is.
    pub(crate) fn wait(&self, what: &str, mut so: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !so() {
            if Instant::now() > until {
                for node in 1..=self.members {
                    eprintln!("--- node {node}\n{}", self.log(node));
                }
                panic!("waited in vain for {what}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a command against one address.
    pub(crate) fn command(&self, address: &str, arguments: &[&str]) -> Output {
        Command::new(NODE)
            .args(arguments)
            .args(["--endpoints", address, "--timeout", "40s"])
            .args(&self.client_flags)
            .output()
            .unwrap()
    }

    /// Ids of the nodes that are not removed, with their names, as the node at `address` says.
    pub(crate) fn ids(&self, address: &str) -> Vec<(u64, String)> {
        let output = self.command(address, &["nodes", "-o", "json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let nodes = answer["nodes"].as_array().unwrap();
        let mut ids: Vec<(u64, String)> = nodes
            .iter()
            .filter(|node| !node["state"].as_str().unwrap_or("").eq_ignore_ascii_case("tombstoned"))
            .map(|node| {
                (node["id"].as_u64().unwrap(), node["name"].as_str().unwrap_or("").to_owned())
            })
            .collect();
        ids.sort();
        ids
    }

    /// Runs `serve` with these flags, which must be refused, and returns its last line.
    pub(crate) fn refused(&self, flags: &[&str]) -> String {
        let data = self.data(1);
        let (client, peer, http) = (self.client(1), self.peer(1), self.http(1));
        let mut arguments = vec!["serve", "--data", data.to_str().unwrap()];
        arguments.extend(["--client-listen", &client, "--peer-listen", &peer]);
        arguments.extend(["--http-listen", &http]);
        arguments.extend(flags);
        let (code, words) = run_to_end(&arguments);
        assert_eq!(code, 2, "{words}");
        assert!(!data.exists(), "nothing is written before it is known to be right");
        let lines: Vec<&str> =
            words.lines().filter(|line| line.starts_with("holdfast-node: ")).collect();
        assert_eq!(lines.len(), 1, "{words}");
        lines[0].to_owned()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in 1..=self.members {
            self.kill(node);
        }
    }
}

/// The answer to a plain request; empty if there is none.
pub(crate) fn http(address: &str, path: &str) -> String {
    let mut answer = String::new();
    let Ok(mut stream) = TcpStream::connect(address) else { return answer };
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).is_ok() {
        // A node that is killed meanwhile has not answered.
        stream.read_to_string(&mut answer).ok();
    }
    answer
}
