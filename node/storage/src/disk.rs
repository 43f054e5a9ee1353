//! The data directory: who it belongs to, who works in it, how much room it has.
//!
//! ```text
//! DIR/identity.json   whose it is; written once, before anything else
//! DIR/lock            locked by the process that works here, and holds its number
//! DIR/raft/           the raft log
//! DIR/state.redb      the applied state
//! DIR/staging/        raft snapshots being received that do not fit into memory
//! DIR/ballast         space to give up when the disk is full
//! ```
//!
//! Invariants: nothing but `lock` is touched before the lock is held; an identity that is there is
//! never overwritten by another; data without an identity is refused.

use crate::error::{Result, StorageError};
use holdfast_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// The format of the directory.
const FORMAT: u64 = 1;
/// At this used fraction of the disk a node refuses client writes.
pub const FULL_FRACTION: f64 = 0.95;
/// And below this one it takes them again.
pub const ROOM_FRACTION: f64 = 0.92;

/// Whose a data directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    pub cluster: u64,
    /// The node: one store, never used again when its data is lost.
    pub node: NodeId,
    /// The node's human name, for example the pod's.
    pub name: String,
    /// Random; tells two directories apart that were given the same names by mistake.
    pub nonce: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} (\"{}\") of cluster {:x}", self.node, self.name, self.cluster)
    }
}

/// What is in `identity.json`.
#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format: u64,
    #[serde(flatten)]
    identity: Identity,
    /// CRC over the identity.
    check: u32,
}

/// The format alone, readable whatever else a later version writes.
#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

/// A locked data directory.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    identity: Option<Identity>,
    /// Unlocked when the process ends, however it ends.
    _lock: File,
}

/// Room on the file system of a data directory, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Size of the file system.
    pub total: u64,
    /// Free for this process.
    pub free: u64,
}

impl Room {
    /// The part that is used, from 0 to 1.
    pub fn used_fraction(&self) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        1.0 - self.free as f64 / self.total as f64
    }

    /// Bytes that may be used, by whomever, before [`Room::is_full`].
    pub fn usable(&self) -> u64 {
        (self.total as f64 * FULL_FRACTION) as u64
    }

    /// True from [`FULL_FRACTION`] on, and then, so that it does not change to and fro, down to
    /// [`ROOM_FRACTION`].
    pub fn is_full(&self, was_full: bool) -> bool {
        self.used_fraction() >= if was_full { ROOM_FRACTION } else { FULL_FRACTION }
    }

    /// What is worth reserving: a hundredth of the disk, at most 64 MiB. Less than what lies
    /// between the two fractions, so that giving it up does not look like room.
    pub fn ballast(&self) -> u64 {
        (self.total / 100).min(64 << 20)
    }
}

impl Disk {
    /// Locks the directory, made if needed, and reads whose it is.
    pub fn open(dir: &Path) -> Result<Self> {
        make_dir(dir)?;
        let lock = lock(dir)?;
        let identity = read_identity(dir)?;
        let mut disk = Self { dir: dir.to_owned(), identity, _lock: lock };
        if disk.identity.is_none() {
            disk.check_empty()?;
        }
        make_dir(&disk.staging_dir())?;
        Ok(disk)
    }

    /// Locks the directory and reads whose it is, or returns `None` and leaves no trace if there
    /// is no data in it.
    pub fn open_or_none(dir: &Path) -> Result<Option<Self>> {
        if !dir.join("identity.json").exists() {
            return Ok(None);
        }
        Self::open(dir).map(Some)
    }

    /// Whose the directory is; `None` if it is new.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Makes a new directory `identity`'s, durably. Does nothing if it is already; refuses if it is
    /// another's.
    pub fn claim(&mut self, identity: Identity) -> Result<()> {
        if let Some(found) = &self.identity {
            if *found == identity {
                return Ok(());
            }
            return Err(self.foreign(found, identity.to_string()));
        }
        write_identity(&self.dir, &identity)?;
        self.identity = Some(identity);
        Ok(())
    }

    /// Refuses a directory of another cluster, or of a node with another name. A new one passes.
    pub fn check(&self, cluster: Option<u64>, name: Option<&str>) -> Result<()> {
        let Some(found) = &self.identity else { return Ok(()) };
        if let Some(cluster) = cluster.filter(|cluster| *cluster != found.cluster) {
            return Err(self.foreign(found, format!("cluster {cluster:x}")));
        }
        if let Some(name) = name.filter(|name| *name != found.name) {
            return Err(self.foreign(found, format!("a node named \"{name}\"")));
        }
        Ok(())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the raft log is.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("raft")
    }

    /// Where the state file is.
    pub fn state_path(&self) -> PathBuf {
        self.dir.join("state.redb")
    }

    /// Where received raft snapshots wait.
    pub fn staging_dir(&self) -> PathBuf {
        self.dir.join("staging")
    }

    /// Room on the disk now.
    pub fn room(&self) -> Result<Room> {
        let stat = nix::sys::statvfs::statvfs(&self.dir)
            .map_err(|errno| StorageError::io("measure", &self.dir)(errno.into()))?;
        let unit = stat.fragment_size();
        Ok(Room { total: stat.blocks() * unit, free: stat.blocks_available() * unit })
    }

    /// Reserves `bytes` on the disk, to be given up with [`Disk::drop_ballast`] when it is full, so
    /// that deleting and moving data away still works then. Does nothing if they are reserved.
    pub fn reserve_ballast(&self, bytes: u64) -> Result<()> {
        let path = self.dir.join("ballast");
        let write = || -> std::io::Result<()> {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            if file.metadata()?.len() != bytes {
                file.set_len(0)?;
                nix::fcntl::posix_fallocate(&file, 0, i64::try_from(bytes).unwrap_or(i64::MAX))?;
                file.sync_all()?;
            }
            Ok(())
        };
        if bytes == 0 {
            self.drop_ballast()
        } else {
            write().map_err(StorageError::io("reserve", &path))
        }
    }

    /// Gives the reserved bytes back to the disk.
    pub fn drop_ballast(&self) -> Result<()> {
        let path = self.dir.join("ballast");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(StorageError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    fn check_empty(&mut self) -> Result<()> {
        for path in [self.log_dir(), self.state_path()] {
            if path.exists() {
                return Err(StorageError::Corrupt {
                    what: format!("data directory {}", self.dir.display()),
                    detail: format!("it holds {} but no identity.json", path.display()),
                });
            }
        }
        Ok(())
    }

    fn foreign(&self, found: &Identity, wanted: String) -> StorageError {
        StorageError::Foreign { path: self.dir.clone(), found: found.to_string(), wanted }
    }
}

/// A random number from the operating system, for nonces and cluster ids; never 0.
pub fn random_number() -> Result<u64> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(StorageError::io("read", path))?;
    Ok(u64::from_ne_bytes(bytes).max(1))
}

fn make_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(StorageError::io("create", dir))?;
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

/// Makes created, renamed and removed names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StorageError::io("sync", dir))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(StorageError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            let read = file.read_to_string(&mut process);
            let known = read.is_ok() && !process.trim().is_empty();
            let process = if known { process.trim().to_owned() } else { "?".to_owned() };
            return Err(StorageError::InUse { path: dir.to_owned(), process });
        }
        Err(TryLockError::Error(error)) => return Err(StorageError::io("lock", &path)(error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(StorageError::io("write", &path))?;
    Ok(file)
}

fn read_identity(dir: &Path) -> Result<Option<Identity>> {
    let path = dir.join("identity.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io("read", &path)(error)),
    };
    let corrupt =
        |detail: String| StorageError::Corrupt { what: path.display().to_string(), detail };
    let FormatOnly { format } =
        serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
    if format != FORMAT {
        return Err(StorageError::Format { what: "data directory", found: format, known: FORMAT });
    }
    let IdentityFile { format: _, identity, check } =
        serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
    if check != checksum(&identity) {
        return Err(corrupt("its check does not match".to_owned()));
    }
    Ok(Some(identity))
}

fn write_identity(dir: &Path, identity: &Identity) -> Result<()> {
    let content =
        IdentityFile { format: FORMAT, identity: identity.clone(), check: checksum(identity) };
    let mut text = serde_json::to_vec_pretty(&content).expect("plain fields always serialise");
    text.push(b'\n');
    replace_json(&dir.join("identity.json"), &text)
}

/// Replaces a JSON file by this text, durably: whatever happens, it is the old one or the new one. Beside
/// it there may be left one with the ending `.json.new`.
pub fn replace_json(path: &Path, text: &[u8]) -> Result<()> {
    let new = path.with_extension("json.new");
    File::create(&new)
        .and_then(|mut file| {
            file.write_all(text)?;
            file.sync_all()
        })
        .map_err(StorageError::io("write", &new))?;
    fs::rename(&new, path).map_err(StorageError::io("rename", &new))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn checksum(identity: &Identity) -> u32 {
    let Identity { cluster, node, name, nonce } = identity;
    crc32fast::hash(format!("{cluster} {} {nonce} {name}", node.0).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn identity() -> Identity {
        Identity { cluster: 0xabc, node: NodeId(4), name: "node-4".to_owned(), nonce: 99 }
    }

    #[test]
    fn an_identity_is_kept_and_never_replaced() {
        let dir = TempDir::new().unwrap();
        assert!(Disk::open_or_none(dir.path()).unwrap().is_none());
        let mut disk = Disk::open(dir.path()).unwrap();
        assert!(disk.identity().is_none());
        disk.claim(identity()).unwrap();
        drop(disk);
        let mut disk = Disk::open_or_none(dir.path()).unwrap().unwrap();
        assert_eq!(disk.identity(), Some(&identity()));
        disk.claim(identity()).unwrap();
        let other = Identity { cluster: 0xdef, ..identity() };
        assert!(disk.claim(other).unwrap_err().to_string().ends_with(
            "belongs to node n4 (\"node-4\") of cluster abc, \
             not to node n4 (\"node-4\") of cluster def"
        ));
        disk.check(Some(0xabc), Some("node-4")).unwrap();
        assert!(disk.check(Some(0xdef), None).is_err());
        assert!(disk.check(None, Some("node-5")).is_err());
    }

    #[test]
    fn two_processes_cannot_share() {
        let dir = TempDir::new().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let message = Disk::open(dir.path()).unwrap_err().to_string();
        let process = std::process::id();
        assert!(message.ends_with(&format!("is in use by process {process}")), "{message}");
        drop(disk);
        Disk::open(dir.path()).unwrap();
    }

    #[test]
    fn what_is_damaged_or_unknown_is_refused_and_left_alone() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("identity.json");
        Disk::open(dir.path()).unwrap().claim(identity()).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for (damage, complaint) in [
            (String::new(), "is corrupt"),
            (good.replace("\"nonce\": 99", "\"nonce\": 98"), "its check does not match"),
            (good.replace("\"format\": 1", "\"format\": 2"), "has format 2; this version reads"),
        ] {
            fs::write(&path, &damage).unwrap();
            let message = Disk::open(dir.path()).unwrap_err().to_string();
            assert!(message.contains(complaint), "{message}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damage);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(dir.path().join("raft")).unwrap();
        let message = Disk::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("but no identity.json"), "{message}");
    }

    #[test]
    fn room_is_measured_and_ballast_takes_some() {
        let dir = TempDir::new().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let room = disk.room().unwrap();
        assert!(room.total > room.free && room.used_fraction() > 0.0);
        let room = |free| Room { total: 100, free };
        assert!(room(5).is_full(false) && !room(6).is_full(false));
        assert!(room(8).is_full(true) && !room(9).is_full(true));
        disk.reserve_ballast(1 << 20).unwrap();
        assert_eq!(fs::metadata(dir.path().join("ballast")).unwrap().len(), 1 << 20);
        disk.drop_ballast().unwrap();
        disk.drop_ballast().unwrap();
        assert_ne!(random_number().unwrap(), random_number().unwrap());
    }
}
