//! The log and the state of a node, opened; or written for the first time.

use super::identity::place;
use super::start::Plan as StartPlan;
use super::storage_failure;
use crate::cli::Failure;
use crate::config::Config;
use holdfast_core::bootstrap::Plan;
use holdfast_core::descriptor::{NodeRecord, NodeState};
use holdfast_core::effects::ReplicaBoot;
use holdfast_core::ids::NodeId;
use holdfast_storage::{Disk, Identity, LogOptions, RaftLog, State, StateOptions, StorageError};
use std::path::PathBuf;
use std::sync::Arc;
use tracing::info;

/// Open stores, and the replicas in them.
pub(super) struct Stores {
    pub log: Arc<RaftLog>,
    pub state: State,
    pub boots: Vec<ReplicaBoot>,
}

impl Stores {
    /// Opens the stores of `disk`; those of a node that formed a cluster get their first content.
    pub(super) fn open(
        config: &Config,
        disk: &Disk,
        identity: &Identity,
        formed: Option<&StartPlan>,
    ) -> Result<Self, Failure> {
        Self::try_open(config, disk, identity, formed).map_err(|error| storage_failure(&error))
    }

    fn try_open(
        config: &Config,
        disk: &Disk,
        identity: &Identity,
        formed: Option<&StartPlan>,
    ) -> Result<Self, StorageError> {
        let log = RaftLog::open(&disk.log_dir(), &LogOptions::default())?;
        let options =
            StateOptions { cache_bytes: config.cache as usize, ..StateOptions::default() };
        let state = State::open(&disk.state_path(), options)?;
        if let Some(plan) = formed.filter(|_| !marker(disk).exists()) {
            write_initial(plan, identity, &log, &state)?;
            mark(disk)?;
        }
        let mut boots = Vec::new();
        for range in log.ranges()? {
            if let Some(mut boot) = log.boot(range)? {
                boot.applied = state.applied(range).unwrap_or_default();
                boots.push(boot);
            }
        }
        info!(replicas = boots.len(), "opened {}", disk.dir().display());
        Ok(Self { log: Arc::new(log), state, boots })
    }
}

/// The file that says that the first content was written: never again, even if every range leaves
/// this node later.
fn marker(disk: &Disk) -> PathBuf {
    disk.dir().join("formed")
}

fn mark(disk: &Disk) -> Result<(), StorageError> {
    let path = marker(disk);
    std::fs::File::create(&path)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::File::open(disk.dir())?.sync_all())
        .map_err(|source| StorageError::Io { action: "write", path, source })
}

/// Every founder computes the same cluster and writes its own part.
fn write_initial(
    plan: &StartPlan,
    identity: &Identity,
    log: &RaftLog,
    state: &State,
) -> Result<(), StorageError> {
    let me = place(plan, &identity.name).expect("founders are in their list");
    let nodes = plan
        .founders()
        .members
        .iter()
        .enumerate()
        .map(|(place, member)| {
            let id = NodeId(place as u64 + 1);
            NodeRecord {
                id,
                name: member.name.clone(),
                peer_address: member.peer_address.clone(),
                // Each node tells its own when it starts.
                client_address: String::new(),
                http_address: String::new(),
                state: NodeState::Up,
            }
        })
        .collect();
    let plan = Plan {
        cluster: identity.cluster,
        nodes,
        replicas: plan.replicas(),
        split_keys: plan.split_keys().0,
    };
    let (persist, batches) = plan.initial_state(me);
    log.persist(&persist)?;
    state.apply(&batches);
    state.flush()?;
    Ok(())
}
