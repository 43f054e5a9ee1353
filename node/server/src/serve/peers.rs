//! Where other nodes were when this one last knew, so that it finds them after a restart even if it
//! holds no copy of the node list.

use super::identity::is_founder;
use crate::config::Config;
use holdfast_core::ids::NodeId;
use holdfast_storage::Identity;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tracing::warn;

/// `peers.json` in the data directory. Losing it costs nothing that the flags do not know.
pub(super) struct PeersFile {
    path: PathBuf,
    peers: BTreeMap<u64, String>,
}

impl PeersFile {
    /// What is remembered in `directory`; nothing if the file is not there or not readable.
    pub(super) fn open(directory: &Path) -> Self {
        let path = directory.join("peers.json");
        let peers = std::fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Self { path, peers }
    }

    /// All addresses known at the start. For nodes that formed the cluster the flags are right:
    /// somebody may have moved it.
    pub(super) fn known(&self, config: &Config, identity: &Identity) -> Vec<(NodeId, String)> {
        let mut known = self.peers.clone();
        if is_founder(config, identity) {
            for (place, member) in config.initial_cluster.members.iter().enumerate() {
                known.insert(place as u64 + 1, member.peer_address.clone());
            }
        }
        known.remove(&identity.node.0);
        known.into_iter().map(|(node, address)| (NodeId(node), address)).collect()
    }

    /// Remembers changed addresses.
    pub(super) fn remember(&mut self, changed: &[(NodeId, String)]) {
        let before = self.peers.clone();
        self.peers.extend(changed.iter().map(|(node, address)| (node.0, address.clone())));
        if self.peers == before {
            return;
        }
        let text =
            serde_json::to_vec_pretty(&self.peers).expect("numbers and texts can be written");
        let new = self.path.with_extension("json.new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.path));
        if let Err(error) = written {
            warn!("cannot remember peers in {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let changed = [(NodeId(2), "h:1".to_owned()), (NodeId(3), "h:2".to_owned())];
        PeersFile::open(directory.path()).remember(&changed);
        assert_eq!(PeersFile::open(directory.path()).peers.len(), 2);
        std::fs::write(directory.path().join("peers.json"), "nonsense").unwrap();
        assert!(PeersFile::open(directory.path()).peers.is_empty());
    }
}
