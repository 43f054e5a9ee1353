//! Who this node is: as its disk says, or as a new cluster's list says, or as a running cluster says.
//!
//! Invariants: an identity is decided once and is on the disk before the node acts under it; an
//! empty disk never takes the identity of the node that was there before, except while the cluster
//! is being formed, when nobody has voted yet (see [`super::forming`]).

use super::forming::{self, Outcome};
use super::ports::Ports;
use super::start::{self, Plan, Start, Way};
use super::{random_number, storage_failure};
use crate::cli::Failure;
use crate::config::{Config, InitialClusterState};
use crate::transport::{Founder, PeerTls, Standing, Standings, Waiting, ask};
use holdfast_core::ids::NodeId;
use holdfast_core::message::{InternalReply, MetaRequest};
use holdfast_storage::{Disk, Identity, StorageError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Between two rounds of asking every known node to let this one join.
const JOIN_INTERVAL: Duration = Duration::from_millis(200);

/// Who this node is, and how it became that.
pub(super) struct Opened {
    pub disk: Disk,
    pub identity: Identity,
    /// What was formed, if this node is one of those that did.
    pub formed: Option<Plan>,
    /// Answers nodes that want to form the cluster, from now on.
    pub standings: Box<Standings>,
}

/// What others are told about the start of this node.
#[derive(Clone)]
struct Told(Arc<(Mutex<Option<Start>>, AtomicBool)>);

impl Told {
    fn new(start: Option<Start>, member: bool) -> Self {
        Self(Arc::new((Mutex::new(start), AtomicBool::new(member))))
    }

    fn set(&self, start: Start) {
        *self.0.0.lock() = Some(start);
    }

    fn set_member(&self) {
        self.0.1.store(true, Ordering::SeqCst);
    }

    fn standing(&self, founder: &Founder) -> Standing {
        let member = self.0.1.load(Ordering::SeqCst);
        match &*self.0.0.lock() {
            Some(start) => start.standing(founder, member),
            // A disk of before there were marks: whoever asks is new to it.
            None => Standing::Formed { nonce: None, plan: 0 },
        }
    }
}

/// How long another process in the data directory is waited for: one that was told to stop may go on for a
/// while, and on Kubernetes the next may start before it has ended.
const PREDECESSOR: Duration = Duration::from_secs(15);
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(200);

async fn open_disk(config: &Config, tell: &impl Fn(&str)) -> Result<Disk, StorageError> {
    let begun = Instant::now();
    loop {
        match Disk::open(&config.data) {
            Err(error @ StorageError::InUse { .. }) if begun.elapsed() < PREDECESSOR => {
                tell(&format!("{error}: waiting for its end"));
                tokio::time::sleep(LOOK).await;
            }
            opened => return opened,
        }
    }
}

/// Opens the data directory and finds out who this node is; `tell` hears what it waits for.
pub(super) async fn open(
    config: &Config,
    tls: &PeerTls,
    ports: &mut Ports,
    tell: impl Fn(&str),
) -> Result<Opened, Failure> {
    let failed = |error: StorageError| storage_failure(&error);
    let mut disk = open_disk(config, &tell).await.map_err(failed)?;
    let cluster = fnv(&config.cluster_token);
    disk.check(Some(cluster), Some(&config.name)).map_err(failed)?;
    let marked = start::read(disk.dir()).map_err(failed)?;
    let told = Told::new(marked.clone(), disk.identity().is_some());
    let answering = told.clone();
    let standings = Box::new(move |founder: &Founder| answering.standing(founder));
    if let Some(identity) = disk.identity().cloned() {
        let formed = match marked {
            Some(Start { way: Way::Formed { plan, .. }, .. }) => Some(plan),
            _ => None,
        };
        return Ok(Opened { disk, identity, formed, standings });
    }
    let mut start = mark(config, cluster, marked)?;
    let save = |start: &Start| -> Result<(), Failure> {
        start::write(disk.dir(), start).map_err(failed)?;
        told.set(start.clone());
        Ok(())
    };
    save(&start)?;
    if let Way::Forming(plan) = start.way.clone() {
        let listener = ports.open_peer().map_err(cannot_listen)?;
        let waiting = Waiting::start(listener, cluster, tls.clone(), standings.clone())
            .map_err(cannot_listen)?;
        ports.answer_peers(waiting);
        start.way = match forming::decide(&start, &plan, tls, &tell).await {
            Outcome::Form(with) => Way::Formed { plan, with },
            Outcome::Join(name) => {
                warn!(
                    "{name} belongs to a cluster that knows another disk of this node: \
                     this empty one joins as a new node"
                );
                Way::Joining
            }
            Outcome::Wait(_) => unreachable!("waiting is no decision"),
        };
        save(&start)?;
    }
    let (node, formed) = match &start.way {
        Way::Formed { plan, .. } => {
            (place(plan, &start.name).expect("checked when it was marked"), Some(plan.clone()))
        }
        _ => {
            let (node, peers) = join(config, tls, cluster, start.nonce, tell).await;
            super::peers::PeersFile::open(disk.dir()).remember(&peers);
            (node, None)
        }
    };
    let identity = Identity { cluster, node, name: config.name.clone(), nonce: start.nonce };
    disk.claim(identity.clone()).map_err(|error| storage_failure(&error))?;
    told.set_member();
    info!(node = %node, cluster = format!("{cluster:016x}"), "this is a new node");
    Ok(Opened { disk, identity, formed, standings })
}

/// What the empty disk is marked with: as before, as far as that is decided.
fn mark(config: &Config, cluster: u64, marked: Option<Start>) -> Result<Start, Failure> {
    let forms = config.initial_cluster_state == InitialClusterState::New;
    let fresh = || Start {
        cluster,
        name: config.name.clone(),
        nonce: random_number(),
        way: if forms { Way::Forming(Plan::of(config)) } else { Way::Joining },
    };
    let mut start = marked.unwrap_or_else(fresh);
    if start.cluster != cluster || start.name != config.name {
        return Err(Failure::usage(format!(
            "--data {} was started as \"{}\" of another cluster or name: another --cluster-token \
             or --name?",
            config.data.display(),
            start.name
        )));
    }
    // Wrong flags can be corrected for as long as nothing is formed.
    if let (Way::Forming(plan), true) = (&mut start.way, forms) {
        *plan = Plan::of(config);
    }
    Ok(start)
}

/// The id of a founder: its place in the list, from 1.
pub(super) fn place(plan: &Plan, name: &str) -> Option<NodeId> {
    plan.founders().position(name).map(|place| NodeId(place as u64 + 1))
}

/// True if this node is one of those that formed the cluster, so that the list names its peers.
pub(super) fn is_founder(config: &Config, identity: &Identity) -> bool {
    config.initial_cluster.position(&config.name) == Some(identity.node.0 as usize - 1)
}

/// Asks every known node in turn, for as long as it takes.
async fn join(
    config: &Config,
    tls: &PeerTls,
    cluster: u64,
    nonce: u64,
    tell: impl Fn(&str),
) -> (NodeId, Vec<(NodeId, String)>) {
    let request = MetaRequest::Join {
        name: config.name.clone(),
        peer_address: config.advertise_peer.clone(),
        client_address: config.advertise_client.clone(),
        http_address: config.advertise_http.clone(),
        nonce,
    };
    let mut told = String::new();
    loop {
        for member in &config.initial_cluster.members {
            if member.peer_address == config.advertise_peer {
                continue;
            }
            let (address, request) = (member.peer_address.clone(), request.clone());
            let tls = tls.clone();
            let asked = tokio::task::spawn_blocking(move || {
                ask(&address, tls.as_deref(), cluster, &request)
            });
            match asked.await.expect("a panic ends the process") {
                Ok(InternalReply::Joined { node, peers, .. }) => return (node, peers),
                Ok(other) => warn!("{} answers {other:?} to a join request", member.name),
                Err(error) => {
                    let text = format!("not let in yet by {}: {error}", member.name);
                    tell(&text);
                    if text != told {
                        warn!("{text}");
                        told = text;
                    }
                }
            }
        }
        tokio::time::sleep(JOIN_INTERVAL).await;
    }
}

fn cannot_listen(error: std::io::Error) -> Failure {
    Failure::broken(format!("cannot listen: {error}"))
}

/// A text's number, the same on every node and in every version (FNV-1a). A cluster's is that of its
/// token.
pub(super) fn fnv(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_the_same_cluster_for_ever() {
        assert_eq!(fnv("holdfast"), 0x27fb_6af0_7242_2446);
        assert_ne!(fnv("a"), fnv("b"));
    }
}
