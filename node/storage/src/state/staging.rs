//! Raft snapshots that are received: in memory while there is room, in a file beside the state beyond it.
//!
//! Invariants: all that are in memory, being received, complete or being installed, take at most
//! [`MEMORY_BYTES_MAX`] together. Room is given back when what took it is dropped, on every path, and
//! whoever waits for it is woken. Nothing is durable: a crash loses it, as if it had not come.

use crate::error::{Result, StorageError};
use crate::state::State;
use crate::state::snapshot::StreamCheck;
use bytes::Bytes;
use holdfast_core::ids::RangeId;
use holdfast_core::state::Applied;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Staged raft snapshots that are kept in memory, together, bytes. A file costs processor time
/// twice, to write it and to read it. Two ranges of the size at which they are cut fit, one that is
/// received and one that is installed; more at once would be most of a small node's memory.
const MEMORY_BYTES_MAX: usize = 160 << 20;
/// This part of it, one in so many bytes, is kept for those that come slowly meanwhile.
const SPARE_PART: usize = 8;
/// Counted for each chunk besides its content, bytes, so that many tiny ones cannot be for nothing.
const CHUNK_EXTRA_BYTES: usize = 64;

/// The staged raft snapshots of a node that are in memory.
#[derive(Default)]
pub struct Memory {
    taken: Mutex<Taken>,
    /// Some of it was given back.
    freed: Condvar,
    /// The complete ones, by number.
    complete: Mutex<BTreeMap<u64, Kept>>,
}

/// Bytes of memory.
struct Taken {
    /// By any raft snapshot.
    used: usize,
    /// By complete ones, which give it back without anybody's help.
    complete: usize,
    /// That may be taken.
    limit: usize,
}

impl Default for Taken {
    fn default() -> Self {
        Self { used: 0, complete: 0, limit: MEMORY_BYTES_MAX }
    }
}

impl Taken {
    /// There is room for more, or nothing is about to make any.
    fn is_open(&self) -> bool {
        self.used < self.limit - self.limit / SPARE_PART || self.complete == 0
    }
}

#[cfg(test)]
impl Memory {
    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.taken.lock().used
    }

    /// Changes how much may be taken.
    pub fn set_limit(&self, bytes: usize) {
        self.taken.lock().limit = bytes;
    }

    /// Loses the last chunk of a complete one.
    pub fn truncate(&self, staged: u64) {
        self.complete.lock().get_mut(&staged).expect("it is in memory").chunks.pop();
    }
}

/// Chunks in memory, and the room that they take until this is dropped.
pub struct Kept {
    memory: Arc<Memory>,
    chunks: Vec<Bytes>,
    bytes: usize,
    complete: bool,
}

impl Kept {
    fn new(memory: Arc<Memory>) -> Self {
        Self { memory, chunks: Vec::new(), bytes: 0, complete: false }
    }

    /// All chunks, in order.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Adds a chunk. Returns false, changing nothing, if there is no room.
    fn push(&mut self, chunk: &Bytes) -> bool {
        let bytes = chunk.len() + CHUNK_EXTRA_BYTES;
        let mut taken = self.memory.taken.lock();
        if taken.used + bytes > taken.limit {
            return false;
        }
        taken.used += bytes;
        self.bytes += bytes;
        self.chunks.push(chunk.clone());
        true
    }

    /// No more chunks come.
    fn complete(&mut self) {
        self.memory.taken.lock().complete += self.bytes;
        self.complete = true;
    }

    /// Writes all chunks to a new file at `path`.
    fn write(&self, path: &Path) -> Result<BufWriter<File>> {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(StorageError::io("create", dir))?;
        let file = File::create(path).map_err(StorageError::io("create", path))?;
        let mut file = BufWriter::new(file);
        self.chunks
            .iter()
            .try_for_each(|chunk| write_chunk(&mut file, chunk))
            .map_err(StorageError::io("write", path))?;
        Ok(file)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // First, since it is the memory of whoever waits.
        self.chunks = Vec::new();
        let mut taken = self.memory.taken.lock();
        taken.used -= self.bytes;
        taken.complete -= if self.complete { self.bytes } else { 0 };
        self.memory.freed.notify_all();
    }
}

/// A complete raft snapshot that nobody else will install.
pub enum Staged {
    /// In memory.
    Memory {
        /// Where its file would be.
        path: PathBuf,
        /// Its chunks.
        kept: Kept,
    },
    /// In this file.
    File(PathBuf),
}

impl Staged {
    /// Its file, whether there is one or not.
    pub fn path(&self) -> &Path {
        match self {
            Self::Memory { path, kept: _ } | Self::File(path) => path,
        }
    }

    /// Writes what is in memory to its file, not durably, and gives the memory back.
    pub fn into_file(self) -> Result<PathBuf> {
        match self {
            Self::Memory { path, kept } => {
                kept.write(&path)?.flush().map_err(StorageError::io("write", &path))?;
                Ok(path)
            }
            Self::File(path) => Ok(path),
        }
    }

    /// Removes the file, if there is one.
    pub fn remove(&self) -> Result<()> {
        match self {
            Self::Memory { .. } => Ok(()),
            Self::File(path) => {
                std::fs::remove_file(path).map_err(StorageError::io("remove", path))
            }
        }
    }
}

impl State {
    /// Starts to receive a raft snapshot under a number of the caller's choice, which is not used
    /// again: in memory while there is room, then in a file beside the state.
    pub fn stage(&self, staged: u64) -> Staging {
        let path = self.staging_path(staged);
        Staging {
            staged,
            part: path.with_extension("part"),
            path,
            place: Place::Memory(Kept::new(Arc::clone(&self.shared.staged))),
            memory: Arc::clone(&self.shared.staged),
            check: StreamCheck::default(),
            finished: false,
        }
    }

    /// Waits until there is room in memory for raft snapshots that come, but not longer than `longest`,
    /// and not at all if none is complete: then nothing is about to make room.
    pub fn await_staging_room(&self, longest: Duration) {
        let memory = &self.shared.staged;
        let until = Instant::now() + longest;
        let mut taken = memory.taken.lock();
        while !taken.is_open() {
            if memory.freed.wait_until(&mut taken, until).timed_out() {
                return;
            }
        }
    }

    /// Removes what was staged under that number and will not be installed.
    pub fn discard(&self, staged: u64) -> Result<()> {
        self.staged(staged).remove()
    }

    /// What was staged under that number. From memory it is taken out.
    pub(super) fn staged(&self, staged: u64) -> Staged {
        let path = self.staging_path(staged);
        match self.shared.staged.complete.lock().remove(&staged) {
            Some(kept) => Staged::Memory { path, kept },
            None => Staged::File(path),
        }
    }

    /// Where raft snapshots are staged.
    pub(super) fn staging_dir(&self) -> PathBuf {
        self.shared.path.parent().unwrap_or(Path::new(".")).join("staging")
    }

    fn staging_path(&self, staged: u64) -> PathBuf {
        self.staging_dir().join(format!("{staged}.snapshot"))
    }
}

/// A raft snapshot that is being received. Dropped before [`Staging::finish`], it leaves nothing.
pub struct Staging {
    staged: u64,
    path: PathBuf,
    part: PathBuf,
    place: Place,
    memory: Arc<Memory>,
    check: StreamCheck,
    finished: bool,
}

/// Where the chunks go.
enum Place {
    Memory(Kept),
    File(BufWriter<File>),
}

impl Staging {
    /// Adds the next chunk, which may be kept as it is: it should not be a piece of something larger.
    /// Any error means that the stream is of no use.
    pub fn push(&mut self, chunk: &Bytes) -> Result<()> {
        self.check.chunk(chunk).map_err(|detail| StorageError::Corrupt {
            what: format!("raft snapshot {}", self.path.display()),
            detail,
        })?;
        if let Place::Memory(kept) = &mut self.place {
            if kept.push(chunk) {
                return Ok(());
            }
            self.place = Place::File(kept.write(&self.part)?);
        }
        let Place::File(file) = &mut self.place else { return Ok(()) };
        write_chunk(file, chunk).map_err(StorageError::io("write", &self.part))
    }

    /// True once the last chunk was pushed.
    pub fn is_complete(&self) -> bool {
        self.check.complete
    }

    /// Ends the complete stream, ready for [`State::install`] or [`State::discard`]: one of them has
    /// to follow. Returns the range and the position it stands for. Nothing is durable: a crash
    /// loses it, as if it had not come.
    pub fn finish(mut self) -> Result<(RangeId, Applied)> {
        let header = self.check.header.clone().filter(|_| self.check.complete);
        let header = header.ok_or_else(|| StorageError::Corrupt {
            what: format!("raft snapshot {}", self.path.display()),
            detail: "it ends early".to_owned(),
        })?;
        match &mut self.place {
            Place::Memory(kept) => {
                let mut kept = std::mem::replace(kept, Kept::new(Arc::clone(&self.memory)));
                kept.complete();
                self.memory.complete.lock().insert(self.staged, kept);
            }
            Place::File(file) => {
                file.flush().map_err(StorageError::io("write", &self.part))?;
                std::fs::rename(&self.part, &self.path)
                    .map_err(StorageError::io("rename", &self.part))?;
            }
        }
        self.finished = true;
        Ok((header.range, header.applied))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.finished {
            // What stays is removed at the next start; in memory there was never a file.
            drop(std::fs::remove_file(&self.part));
        }
    }
}

fn write_chunk(file: &mut impl Write, chunk: &Bytes) -> std::io::Result<()> {
    let length = u32::try_from(chunk.len()).expect("checked against CHUNK_BYTES_MAX");
    file.write_all(&length.to_be_bytes())?;
    file.write_all(chunk)
}
