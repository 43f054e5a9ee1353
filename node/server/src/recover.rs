//! Makes one stopped node the whole cluster, on its data directory: what [`Node::recover`] plans is
//! written here.
//!
//! Invariants: the directory is locked all the time; nothing is written before the plan is whole and
//! consented to; every crash leaves the node as it was or recovered.

mod mark;
mod others;

pub use mark::Mark;

use crate::cli::Failure;
use crate::gateway::{View, report_of};
use crate::shutdown::chain;
use crate::tls::Tls;
use crate::transport::{Founder, Standing, ask_report, ask_to_form};
use holdfast_core::descriptor::NodeRecord;
use holdfast_core::effects::ReplicaBoot;
use holdfast_core::ids::{META_RANGE, NodeId, RangeId};
use holdfast_core::node::recovery::{Consent, Recovery, to_the_end};
use holdfast_core::node::{Config, Node};
use holdfast_storage::{Disk, Identity, LogOptions, RaftLog, State, StateOptions, StorageError};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks whether the directory is free.
const LOOK: Duration = Duration::from_millis(50);

/// A locked data directory, its logs applied to their ends in memory.
pub struct Opened {
    disk: Disk,
    /// Whose it is.
    pub identity: Identity,
    log: Arc<RaftLog>,
    state: State,
    boots: Vec<ReplicaBoot>,
    node: Node,
}

impl Opened {
    /// Opens the directory of a stopped node, to recover these ranges of it, or all of it. `clear` lets
    /// keys of copies that left this node be removed, which the node would do by itself. A node that runs
    /// on it may take up to `patience` to stop.
    ///
    /// # Errors
    /// One line: it is not there, in use, empty or damaged.
    pub fn open(
        data: &Path,
        ranges: Option<&[RangeId]>,
        clear: bool,
        patience: Duration,
    ) -> Result<Self, String> {
        let none = || format!("there is no node's data in {}", data.display());
        let begun = Instant::now();
        let disk = loop {
            match Disk::open_or_none(data) {
                Err(StorageError::InUse { .. }) if begun.elapsed() < patience => {
                    std::thread::sleep(LOOK);
                }
                opened => break opened.map_err(failed)?.ok_or_else(none)?,
            }
        };
        let identity = disk.identity().cloned().ok_or_else(none)?;
        let mut opened = Self::replay(disk, identity, ranges)?;
        let leftovers = opened.node.leftovers();
        if !clear || leftovers.is_empty() {
            return Ok(opened);
        }
        let Self { disk, identity, log, state, node, .. } = opened;
        for (range, span) in leftovers {
            state.wipe(range, &[span]).map_err(failed)?;
        }
        drop((node, state, log));
        // From the disk once more: nothing that was applied in memory may be mixed with that.
        Self::replay(disk, identity, ranges)
    }

    fn replay(disk: Disk, identity: Identity, ranges: Option<&[RangeId]>) -> Result<Self, String> {
        let log = Arc::new(RaftLog::open(&disk.log_dir(), &LogOptions::default()).map_err(failed)?);
        let state = State::open(&disk.state_path(), StateOptions::default()).map_err(failed)?;
        let mut boots = Vec::new();
        for range in log.ranges().map_err(failed)? {
            if let Some(mut boot) = log.boot(range).map_err(failed)? {
                boot.applied = state.applied(range).unwrap_or_default();
                boots.push(boot);
            }
        }
        let config = Config::new(identity.node, 0);
        let mut node = Node::new(config, 0, log.clone(), &state, to_the_end(&boots, ranges))
            .map_err(|error| format!("the state cannot be read: {error}"))?;
        while let Some(batches) = node.replay(&state) {
            state.apply(&batches);
        }
        Ok(Self { disk, identity, log, state, boots, node })
    }

    /// What a recovery would keep, give up and write.
    ///
    /// # Errors
    /// Why there is nothing to recover here.
    pub fn plan(&self, consent: Consent) -> Result<Recovery, String> {
        self.node.recover(&self.boots, consent)
    }

    /// What a recovery of single ranges would keep, give up and write.
    ///
    /// # Errors
    /// Why one of them is not to be recovered here.
    pub fn plan_ranges(&self, ranges: &[RangeId], consent: Consent) -> Result<Recovery, String> {
        self.node.recover_ranges(&self.boots, ranges, consent)
    }

    /// Asks all other nodes about these ranges.
    ///
    /// # Errors
    /// They have majorities, or somebody knows more.
    pub fn must_be_lost(&self, ranges: &[RangeId], tls: Option<&Tls>) -> Result<(), String> {
        let own = self.node.status();
        let mut answers: BTreeMap<NodeId, View> = BTreeMap::new();
        for (node, address) in others::addresses(&own) {
            let report = ask_report(&address, tls, self.identity.cluster).ok();
            if let Some(view) = report.and_then(|report| report_of(&report, node)) {
                answers.insert(node, view);
            }
        }
        others::objection(&own, ranges, &answers).map_or(Ok(()), Err)
    }

    /// Whether this node alone has the majority of these ranges, or of the meta range.
    pub fn is_sole(&self, ranges: Option<&[RangeId]>) -> bool {
        self.node.is_sole(ranges.unwrap_or(&[META_RANGE]))
    }

    /// Why the cluster needs no recovery as long as these nodes run; `None` if it does.
    pub fn majority_with(&self, running: &[NodeId]) -> Option<String> {
        let status = self.node.status();
        let meta = status.ranges.iter().find(|range| range.descriptor.id == META_RANGE)?;
        let meta = &meta.descriptor;
        let there = |node: NodeId| node == status.node || running.contains(&node);
        let count = meta.voters().filter(|voter| there(voter.node)).count();
        (count >= meta.quorum()).then(|| {
            let all = meta.voters().count();
            format!(
                "With this node {count} of {all} that vote in the meta range are there: a majority"
            )
        })
    }

    /// What was begun here before.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn mark(&self) -> Result<Option<Mark>, String> {
        mark::read(self.disk.dir())
    }

    /// Writes down what is begun, or was done, durably.
    ///
    /// # Errors
    /// The disk failed.
    pub fn set_mark(&self, mark: &Mark) -> Result<(), Failure> {
        mark::write(&self.disk, mark)
    }

    /// Carries a plan out. The directory stays locked as long as what is returned.
    ///
    /// # Errors
    /// The disk failed; the node is as it was, or recovered.
    pub fn carry_out(self, plan: &Recovery) -> Result<Recovered, String> {
        self.log.write(&plan.log, true).map_err(failed)?;
        self.state.apply(&plan.state);
        self.state.flush().map_err(failed)?;
        self.log.write(&plan.clean, true).map_err(failed)?;
        Ok(Recovered { disk: self.disk })
    }
}

/// A directory on which a plan was carried out, still locked.
pub struct Recovered {
    disk: Disk,
}

impl Recovered {
    /// Writes down what was done, durably.
    ///
    /// # Errors
    /// The disk failed.
    pub fn set_mark(&self, mark: &Mark) -> Result<(), Failure> {
        mark::write(&self.disk, mark)
    }
}

fn failed(error: StorageError) -> String {
    chain(&error)
}

/// Whether another node runs.
#[derive(Debug)]
pub enum Presence {
    /// Nobody answers, or a disk that has nothing to lose.
    Away,
    /// It does; said in a line.
    Runs(String),
    /// Something is there that does not say what it is; said in a line.
    Unclear(String),
}

/// Asks a node whether it runs.
pub fn presence(record: &NodeRecord, identity: &Identity, tls: Option<&Tls>) -> Presence {
    let NodeRecord { id, name, peer_address, .. } = record;
    let question =
        Founder { name: identity.name.clone(), to: name.clone(), nonce: identity.nonce, plan: 0 };
    if peer_address.to_socket_addrs().is_err() {
        return Presence::Away;
    }
    match ask_to_form(peer_address, tls, identity.cluster, &question) {
        Ok(Standing::Formed { .. }) => Presence::Runs(format!(
            "{id} ({name}) answers at {peer_address}: it is not gone. It would be, for ever: stop \
             it first, or bring the majority back with it"
        )),
        // An empty disk in its place has nothing to lose.
        Ok(Standing::Empty { .. } | Standing::Joining | Standing::Other { .. }) => Presence::Away,
        Err(error) if is_nobody(&error) => Presence::Away,
        Err(error) => Presence::Unclear(format!(
            "something answers at {peer_address}, the address of {id} ({name}), but not as a node: \
             {error}. Give the --peer-... files if nodes use TLS, or --away {id} if you are sure",
            id = id.0,
        )),
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::TimedOut
            | ErrorKind::NotFound
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::AddrNotAvailable
    )
}
