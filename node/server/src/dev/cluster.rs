//! What a development cluster was made with, and where its parts are.

use super::DevArgs;
use crate::cli::Failure;
use crate::config::{HumanDuration, failure_domain};
use holdfast_core::bootstrap::check_replicas;
use holdfast_core::node::Shaping;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Nodes of one development cluster at most: each is a process.
const NODES_MAX: usize = 20;

/// Longest wait for the ports of a node that was killed.
const PORTS_MAX: Duration = Duration::from_secs(5);

/// Ports from one node to the next.
const PORT_STEP: u16 = 10;

/// A development cluster, as `cluster.json` remembers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cluster {
    /// Version of this file.
    version: u32,
    /// How many nodes it has.
    pub nodes: usize,
    /// Client port of node 1.
    pub client_port: u16,
    /// Copies of every range.
    pub replicas: usize,
    /// Before lost copies are rebuilt.
    pub reprotect_delay: String,
    /// First keys of the first ranges.
    pub split_keys: String,
    /// Failure domains of the nodes, in turn; none: each node fails alone.
    #[serde(default)]
    pub failure_domains: Vec<String>,
    /// Bytes above which a range is cut.
    #[serde(default = "default_split_size")]
    pub split_size: u64,
    /// Requests a second above which a range is cut.
    #[serde(default = "default_split_load")]
    pub split_load: u64,
    /// Before small ranges are merged.
    #[serde(default = "default_merge_after")]
    pub merge_after: String,
    /// Between two heartbeats.
    pub tick_ms: u64,
    /// Before an election.
    pub election_ms: u64,
    /// Keeps clusters on one machine apart.
    pub token: String,
    /// All nodes have been up together: from now on an empty disk is a new node.
    pub formed: bool,
    /// Where everything is.
    #[serde(skip)]
    pub directory: PathBuf,
}

fn default_split_size() -> u64 {
    256 << 20
}

fn default_split_load() -> u64 {
    Shaping::default().split_load
}

fn default_merge_after() -> String {
    HumanDuration(Duration::from_millis(Shaping::default().merge_after_ms)).to_string()
}

/// The ports of one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub client: u16,
    pub peer: u16,
    pub http: u16,
}

impl Cluster {
    /// The cluster in the directory, made now if there is none.
    pub(super) fn open_or_create(args: &DevArgs) -> Result<Self, Failure> {
        if file(&args.data).exists() {
            return Self::open(args);
        }
        let nodes = args.nodes.unwrap_or(3);
        let mut cluster = Self {
            version: 1,
            nodes,
            client_port: args.client_port.unwrap_or(2379),
            replicas: args.replicas.unwrap_or(if nodes >= 3 { 3 } else { 1 }),
            reprotect_delay: args.reprotect_delay.map_or("10m".to_owned(), |time| time.to_string()),
            split_keys: args.split_keys.clone().unwrap_or_default().to_string(),
            failure_domains: args.failure_domains.clone().unwrap_or_default(),
            split_size: args.split_size.map_or_else(default_split_size, |size| size.0),
            split_load: args.split_load.unwrap_or_else(default_split_load),
            merge_after: args.merge_after.map_or_else(default_merge_after, |time| time.to_string()),
            tick_ms: args.tick_ms.unwrap_or(100),
            election_ms: args.election_ms.unwrap_or(1000),
            token: format!("dev-{:016x}", crate::serve::random_number()),
            formed: false,
            directory: PathBuf::new(),
        };
        cluster.check()?;
        std::fs::create_dir_all(&args.data)
            .map_err(|error| Failure::usage(format!("--data {}: {error}", args.data.display())))?;
        cluster.directory = absolute(&args.data)?;
        Ok(cluster)
    }

    /// The cluster in the directory; flags may only change what can be changed.
    pub(super) fn open(args: &DevArgs) -> Result<Self, Failure> {
        let path = file(&args.data);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::usage(format!(
                "no development cluster: cannot read {}: {error}",
                path.display()
            ))
        })?;
        let mut cluster: Self = serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("{} is damaged: {error}", path.display())))?;
        cluster.directory = absolute(&args.data)?;
        let fixed = |flag: &str, given: Option<String>, made: String| match given {
            Some(given) if given != made => Err(Failure::usage(format!(
                "--{flag} {given}: the cluster in {} was made with {made}; leave the flag out, or use another --data",
                args.data.display()
            ))),
            _ => Ok(()),
        };
        fixed("nodes", args.nodes.map(|n| n.to_string()), cluster.nodes.to_string())?;
        fixed("replicas", args.replicas.map(|n| n.to_string()), cluster.replicas.to_string())?;
        let keys = args.split_keys.as_ref().map(ToString::to_string);
        fixed("split-keys", keys, cluster.split_keys.clone())?;
        cluster.client_port = args.client_port.unwrap_or(cluster.client_port);
        if let Some(delay) = args.reprotect_delay {
            cluster.reprotect_delay = delay.to_string();
        }
        if let Some(domains) = &args.failure_domains {
            cluster.failure_domains.clone_from(domains);
        }
        if let Some(size) = args.split_size {
            cluster.split_size = size.0;
        }
        cluster.split_load = args.split_load.unwrap_or(cluster.split_load);
        if let Some(time) = args.merge_after {
            cluster.merge_after = time.to_string();
        }
        cluster.tick_ms = args.tick_ms.unwrap_or(cluster.tick_ms);
        cluster.election_ms = args.election_ms.unwrap_or(cluster.election_ms);
        cluster.check()?;
        Ok(cluster)
    }

    fn check(&self) -> Result<(), Failure> {
        if !(1..=NODES_MAX).contains(&self.nodes) {
            return Err(Failure::usage(format!("--nodes must be between 1 and {NODES_MAX}")));
        }
        check_replicas(self.replicas, self.nodes)
            .map_err(|rule| Failure::usage(format!("--replicas {rule}")))?;
        for domain in &self.failure_domains {
            failure_domain(domain)
                .map_err(|rule| Failure::usage(format!("--failure-domains: {rule}")))?;
        }
        let last = usize::from(self.client_port) + usize::from(PORT_STEP) * (self.nodes - 1) + 2;
        if self.client_port == 0 || last > usize::from(u16::MAX) {
            return Err(Failure::usage(format!(
                "--client-port {}: the nodes' ports must lie between 1 and 65535",
                self.client_port
            )));
        }
        Ok(())
    }

    /// Remembers the cluster.
    pub(super) fn save(&self) -> Result<(), Failure> {
        let path = file(&self.directory);
        let text = serde_json::to_string_pretty(self).expect("plain fields can be written");
        let new = path.with_extension("json.new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|error| Failure::broken(format!("cannot write {}: {error}", path.display())))
    }

    /// The nodes' numbers.
    pub(super) fn numbers(&self) -> RangeInclusive<usize> {
        1..=self.nodes
    }

    /// A node's ports.
    pub(super) fn ports(&self, number: usize) -> Ports {
        let client = self.client_port + PORT_STEP * (number as u16 - 1);
        Ports { client, peer: client + 1, http: client + 2 }
    }

    /// A node's directory.
    pub(super) fn node_directory(&self, number: usize) -> PathBuf {
        self.directory.join(format!("node-{number}"))
    }

    /// A node's failure domain, if any were named.
    pub(super) fn failure_domain(&self, number: usize) -> Option<&str> {
        let domains = self.failure_domains.len().max(1);
        self.failure_domains.get((number - 1) % domains).map(String::as_str)
    }

    /// `--initial-cluster` of every node.
    pub(super) fn initial_cluster(&self) -> String {
        let member = |number| format!("node-{number}=127.0.0.1:{}", self.ports(number).peer);
        self.numbers().map(member).collect::<Vec<_>>().join(",")
    }

    /// What clients are to be given.
    pub(super) fn endpoints(&self) -> String {
        let endpoint = |number| format!("127.0.0.1:{}", self.ports(number).client);
        self.numbers().map(endpoint).collect::<Vec<_>>().join(",")
    }

    /// One line about a node that was started.
    pub(super) fn describe(&self, number: usize, pid: u32) -> String {
        let Ports { client, peer, http } = self.ports(number);
        format!(
            "node {number}: clients 127.0.0.1:{client}, peers 127.0.0.1:{peer}, http 127.0.0.1:{http}, pid {pid}, log {}",
            self.node_directory(number).join("log").display()
        )
    }

    /// Refuses to start a node that runs.
    pub(super) fn check_not_running(&self, number: usize) -> Result<(), Failure> {
        match self.running(number) {
            Some(pid) => Err(Failure::usage(format!(
                "node {number} of {} runs already, as process {pid}",
                self.directory.display()
            ))),
            None => Ok(()),
        }
    }

    /// Refuses to start a node whose ports are taken.
    pub(super) fn check_ports(&self, number: usize) -> Result<(), Failure> {
        let Ports { client, peer, http } = self.ports(number);
        for (what, port) in [("client", client), ("peer", peer), ("http", http)] {
            if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                return Err(Failure::usage(format!(
                    "cannot use 127.0.0.1:{port}, the {what} port of node {number}: {error}; choose another --client-port"
                )));
            }
        }
        Ok(())
    }

    /// The same for a node that may have been killed just now: its last threads can hold its ports for a
    /// moment longer than its process is seen, for example while they wait for the disk.
    pub(super) async fn wait_for_ports(&self, number: usize) -> Result<(), Failure> {
        patiently(PORTS_MAX, || self.check_ports(number)).await
    }

    /// Stops nodes that run without being children of this process.
    pub(super) async fn stop_strays(&self) {
        let until = Instant::now() + super::STOP_MAX;
        for number in self.numbers() {
            let Some(pid) = self.running(number) else { continue };
            // A failure says that it has just ended.
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
            while self.running(number).is_some() && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// The process that runs a node now: of the id in its file, if that process is one of ours.
    fn running(&self, number: usize) -> Option<i32> {
        let directory = self.node_directory(number);
        let pid: i32 = std::fs::read_to_string(directory.join("pid")).ok()?.trim().parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let directory = directory.into_os_string().into_encoded_bytes();
        command.split(|&byte| byte == 0).any(|argument| argument == directory).then_some(pid)
    }
}

/// Asks until the answer is yes, or the last one after that time.
async fn patiently(
    time: Duration,
    mut check: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let until = Instant::now() + time;
    loop {
        let answer = check();
        if answer.is_ok() || Instant::now() >= until {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("cluster.json")
}

fn absolute(directory: &Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(directory)
        .map_err(|error| Failure::usage(format!("--data {}: {error}", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ports_of_a_node_that_is_just_ending_are_waited_for() {
        let mut held = Some(TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let address = held.as_ref().unwrap().local_addr().unwrap();
        let mut asked = 0;
        let mut check = || {
            asked += 1;
            let taken = TcpListener::bind(address).map(drop);
            // It lets go after it was in the way once.
            held.take();
            taken.map_err(|error| Failure::usage(error.to_string()))
        };
        let minute = Duration::from_mins(1);
        patiently(minute, &mut check).await.expect("it is free the second time");
        assert_eq!(asked, 2);
        let taken = || Err(Failure::usage("taken".to_owned()));
        patiently(Duration::ZERO, taken).await.expect_err("not for ever");
    }
}
