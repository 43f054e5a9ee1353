//! What an empty disk is marked with before anything else, and what came of it: `start.json`.
//!
//! Invariants: the random number in it says that this is the same disk as before, and nothing else
//! does: names and addresses come back on other disks. It is durable before the number is told to
//! anybody, and a decision is durable before the node acts on it. Once decided, it never changes.

use crate::config::{Config, InitialCluster, SplitKeys};
use crate::transport::{Founder, Standing};
use holdfast_storage::{StorageError, replace_json};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The format of the file.
const FORMAT: u64 = 1;

/// What became, or is to become, of a disk that was empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    /// The cluster that it was started for.
    pub cluster: u64,
    /// The node's name.
    pub name: String,
    /// Random.
    pub nonce: u64,
    /// How it becomes a member.
    pub way: Way,
}

/// How a node becomes a member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Way {
    /// It wants to form the cluster with others.
    Forming(Plan),
    /// It is one of those that formed it.
    Formed {
        /// What was formed.
        plan: Plan,
        /// The other founders by name, with what their disks were marked with.
        with: BTreeMap<String, u64>,
    },
    /// It joins a running cluster, or did so.
    Joining,
}

/// What all founders must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    initial_cluster: String,
    replicas: usize,
    split_keys: String,
}

impl Plan {
    /// As the flags say.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            initial_cluster: config.initial_cluster.to_string(),
            replicas: config.replicas,
            split_keys: config.split_keys.to_string(),
        }
    }

    /// The founders, in the order that gives them their ids.
    pub(super) fn founders(&self) -> InitialCluster {
        self.initial_cluster.parse().expect("written by this program and checked when read")
    }

    /// Copies of every range.
    pub(super) fn replicas(&self) -> usize {
        self.replicas
    }

    /// First keys of the first ranges.
    pub(super) fn split_keys(&self) -> SplitKeys {
        self.split_keys.parse().expect("written by this program and checked when read")
    }

    /// A number that stands for it (FNV-1a).
    fn number(&self) -> u64 {
        let Self { initial_cluster, replicas, split_keys } = self;
        super::identity::fnv(&format!("{initial_cluster} {replicas} {split_keys}"))
    }
}

impl Start {
    /// What a founder is answered that asks for the node of the name `to`; `member` says that this
    /// node has its id.
    pub(super) fn standing(&self, founder: &Founder, member: bool) -> Standing {
        if founder.to != self.name {
            return Standing::Other { name: self.name.clone() };
        }
        match &self.way {
            Way::Forming(plan) => Standing::Empty { nonce: self.nonce, plan: plan.number() },
            Way::Formed { plan, with } => {
                Standing::Formed { nonce: with.get(&founder.name).copied(), plan: plan.number() }
            }
            Way::Joining if member => Standing::Formed { nonce: None, plan: 0 },
            Way::Joining => Standing::Joining,
        }
    }

    /// How this node asks the one of the name `to`.
    pub(super) fn founder(&self, plan: &Plan, to: &str) -> Founder {
        Founder {
            name: self.name.clone(),
            to: to.to_owned(),
            nonce: self.nonce,
            plan: plan.number(),
        }
    }
}

/// What is in the file.
#[derive(Serialize, Deserialize)]
struct StartFile {
    format: u64,
    #[serde(flatten)]
    start: Start,
    /// CRC over the start.
    check: u32,
}

/// The format alone, readable whatever else a later version writes.
#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

/// Reads the mark of the disk at `directory`, if it has one.
pub(super) fn read(directory: &Path) -> Result<Option<Start>, StorageError> {
    let path = file(directory);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StorageError::Io { action: "read", path, source }),
    };
    let corrupt =
        |detail: String| StorageError::Corrupt { what: path.display().to_string(), detail };
    let FormatOnly { format } =
        serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
    if format != FORMAT {
        return Err(StorageError::Format { what: "start.json", found: format, known: FORMAT });
    }
    let StartFile { format: _, start, check } =
        serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
    let plan_parses = match &start.way {
        Way::Forming(plan) | Way::Formed { plan, .. } => {
            plan.initial_cluster.parse::<InitialCluster>().is_ok()
                && plan.split_keys.parse::<SplitKeys>().is_ok()
        }
        Way::Joining => true,
    };
    if check != checksum(&start) || !plan_parses {
        return Err(corrupt("its check does not match".to_owned()));
    }
    Ok(Some(start))
}

/// Marks the disk at `directory`, durably.
pub(super) fn write(directory: &Path, start: &Start) -> Result<(), StorageError> {
    let content = StartFile { format: FORMAT, start: start.clone(), check: checksum(start) };
    let text = serde_json::to_vec_pretty(&content).expect("plain fields can be written");
    replace_json(&file(directory), &text)
}

fn file(directory: &Path) -> PathBuf {
    directory.join("start.json")
}

fn checksum(start: &Start) -> u32 {
    let text = serde_json::to_vec(start).expect("plain fields can be written");
    crc32fast::hash(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            initial_cluster: "a=h:1,b=h:2".to_owned(),
            replicas: 1,
            split_keys: "0x6d".to_owned(),
        }
    }

    fn start(way: Way) -> Start {
        Start { cluster: 7, name: "a".to_owned(), nonce: u64::MAX - 1, way }
    }

    #[test]
    fn a_mark_is_kept_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
        let with = BTreeMap::from([("b".to_owned(), u64::MAX)]);
        for way in [Way::Joining, Way::Forming(plan()), Way::Formed { plan: plan(), with }] {
            write(directory.path(), &start(way.clone())).unwrap();
            assert_eq!(read(directory.path()).unwrap(), Some(start(way)));
        }
        let path = file(directory.path());
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in
            [good.replace("551614", "551613"), good.replace("\"format\": 1", "\"format\": 9")]
        {
            assert_ne!(bad, good);
            std::fs::write(&path, bad).unwrap();
            assert!(read(directory.path()).is_err());
        }
    }

    #[test]
    fn a_founder_is_told_what_its_disk_is_known_by() {
        let asking = |to: &str, name: &str| Founder {
            name: name.to_owned(),
            to: to.to_owned(),
            nonce: 1,
            plan: 2,
        };
        let number = plan().number();
        let forming = start(Way::Forming(plan()));
        let empty = Standing::Empty { nonce: u64::MAX - 1, plan: number };
        assert_eq!(forming.standing(&asking("a", "b"), false), empty);
        let other = Standing::Other { name: "a".to_owned() };
        assert_eq!(forming.standing(&asking("c", "b"), false), other);
        let formed =
            start(Way::Formed { plan: plan(), with: BTreeMap::from([("b".to_owned(), 9)]) });
        let known = Standing::Formed { nonce: Some(9), plan: number };
        assert_eq!(formed.standing(&asking("a", "b"), true), known);
        let unknown = Standing::Formed { nonce: None, plan: number };
        assert_eq!(formed.standing(&asking("a", "c"), true), unknown);
        let joining = start(Way::Joining);
        assert_eq!(joining.standing(&asking("a", "b"), false), Standing::Joining);
        assert!(matches!(
            joining.standing(&asking("a", "b"), true),
            Standing::Formed { nonce: None, .. }
        ));
    }
}
