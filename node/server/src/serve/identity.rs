//! Who this node is: as its disk says, or as a new cluster's list says, or as a running cluster says.
//!
//! Invariants: an identity is decided once and is on the disk before the node acts under it; an
//! empty disk never takes the identity of the node that was there before, except while the cluster
//! is being formed, when nobody has voted yet.

use super::{random_number, storage_failure};
use crate::cli::Failure;
use crate::config::{Config, InitialClusterState};
use crate::transport::ask;
use holdfast_core::ids::NodeId;
use holdfast_core::message::{InternalReply, MetaRequest};
use holdfast_storage::{Disk, Identity};
use std::time::Duration;
use tracing::{info, warn};

/// Between two rounds of asking every known node to let this one join.
const JOIN_INTERVAL: Duration = Duration::from_millis(200);

/// Opens the data directory and finds out who this node is.
pub(super) async fn open(config: &Config) -> Result<(Disk, Identity), Failure> {
    let mut disk = Disk::open(&config.data).map_err(|error| storage_failure(&error))?;
    let cluster = cluster_id(&config.cluster_token);
    disk.check(Some(cluster), Some(&config.name)).map_err(|error| storage_failure(&error))?;
    if let Some(identity) = disk.identity().cloned() {
        return Ok((disk, identity));
    }
    let nonce = random_number();
    let node = match config.initial_cluster_state {
        InitialClusterState::New => founder(config),
        InitialClusterState::Existing => {
            let (node, peers) = join(config, cluster, nonce).await;
            super::peers::PeersFile::open(disk.dir()).remember(&peers);
            node
        }
    };
    let identity = Identity { cluster, node, name: config.name.clone(), nonce };
    disk.claim(identity.clone()).map_err(|error| storage_failure(&error))?;
    info!(node = %node, cluster = format!("{cluster:016x}"), "this is a new node");
    Ok((disk, identity))
}

/// The id of a node that forms a cluster: its place in the list, from 1.
pub(super) fn founder(config: &Config) -> NodeId {
    let place = config.initial_cluster.position(&config.name);
    NodeId(place.expect("checked with the flags") as u64 + 1)
}

/// True if this node is one of those that formed the cluster, so that the list names its peers.
pub(super) fn is_founder(config: &Config, identity: &Identity) -> bool {
    config.initial_cluster.position(&config.name) == Some(identity.node.0 as usize - 1)
}

/// Asks every known node in turn, for as long as it takes.
async fn join(config: &Config, cluster: u64, nonce: u64) -> (NodeId, Vec<(NodeId, String)>) {
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
            let asked = tokio::task::spawn_blocking(move || ask(&address, cluster, &request));
            match asked.await.expect("a panic ends the process") {
                Ok(InternalReply::Joined { node, peers, .. }) => return (node, peers),
                Ok(other) => warn!("{} answers {other:?} to a join request", member.name),
                Err(error) => {
                    let text = format!("{}: {error}", member.name);
                    if text != told {
                        warn!("not let in yet by {text}");
                        told = text;
                    }
                }
            }
        }
        tokio::time::sleep(JOIN_INTERVAL).await;
    }
}

/// A cluster's number: of its token, the same on every node and in every version (FNV-1a).
fn cluster_id(token: &str) -> u64 {
    let hash = token.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_the_same_cluster_for_ever() {
        assert_eq!(cluster_id("holdfast"), 0x27fb_6af0_7242_2446);
        assert_ne!(cluster_id("a"), cluster_id("b"));
    }
}
