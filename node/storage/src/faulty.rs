//! A disk that fails on purpose, for tests and the simulator.
//!
//! Files are real files, so that reads see every write at once; but each write since the file's last
//! sync is remembered, and [`FaultyDisk::crash`] takes them back, except for some by chance: a
//! first part of them, or any of them, whole or torn at a sector. After the crash old handles only
//! fail. Names are durable at once: creating, renaming and removing files is never undone.
//!
//! Invariant: what was synced is never lost or changed.

use parking_lot::Mutex;
use raft_engine::env::Handle;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a disk writes as one, bytes: a write is torn between sectors only.
const SECTOR: u64 = 512;

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyDisk {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    random: u64,
    /// Counts crashes; handles of an earlier life fail.
    life: u64,
    files: BTreeMap<PathBuf, Arc<Mutex<Journaled>>>,
    syncs: u64,
    /// Writes and syncs left until all fail.
    until_failure: Option<u64>,
}

/// A file and how to take its unsynced writes back.
struct Journaled {
    file: File,
    /// Length at the last sync.
    synced_len: u64,
    /// Unsynced writes, oldest first.
    writes: Vec<Unsynced>,
}

enum Unsynced {
    /// Bytes written at an offset, and what was there; shorter if the file ended.
    Bytes { offset: u64, before: Vec<u8>, after: Vec<u8> },
    /// A change of length, and what was cut off.
    Length { before: u64, cut: Vec<u8>, after: u64 },
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDisk").finish_non_exhaustive()
    }
}

impl FaultyDisk {
    /// A disk whose losses are decided by `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                random: seed,
                life: 0,
                files: BTreeMap::new(),
                syncs: 0,
                until_failure: None,
            })),
        }
    }

    /// Loses power: unsynced writes are lost, kept or torn by chance, open handles fail from now
    /// on, and injected failures end.
    pub fn crash(&self) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.life += 1;
        inner.until_failure = None;
        for (_, file) in std::mem::take(&mut inner.files) {
            file.lock().lose(&mut inner.random)?;
        }
        Ok(())
    }

    /// Lets `operations` more writes or syncs succeed; all after them fail until the next crash.
    pub fn fail_after(&self, operations: u64) {
        self.inner.lock().until_failure = Some(operations);
    }

    /// Number of syncs so far.
    pub fn syncs(&self) -> u64 {
        self.inner.lock().syncs
    }

    /// The file at `path`, created if needed, as a redb backend.
    pub fn backend(&self, path: &Path) -> Result<FaultyFile> {
        self.open_file(path, true)
    }

    fn open_file(&self, path: &Path, create: bool) -> Result<FaultyFile> {
        let mut inner = self.inner.lock();
        let file = if let Some(file) = inner.files.get(path) {
            file.clone()
        } else {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(create)
                .truncate(false)
                .open(path)?;
            let synced_len = file.metadata()?.len();
            let file = Arc::new(Mutex::new(Journaled { file, synced_len, writes: Vec::new() }));
            inner.files.insert(path.to_owned(), file.clone());
            file
        };
        Ok(FaultyFile { disk: self.clone(), life: inner.life, file })
    }
}

/// The names of a faulty disk until its next crash; after it nothing is done any more, as the
/// process that asked would be gone.
pub(crate) struct FaultyNames {
    disk: FaultyDisk,
    life: u64,
}

impl FaultyNames {
    pub(crate) fn new(disk: &FaultyDisk) -> Self {
        let life = disk.inner.lock().life;
        Self { disk: disk.clone(), life }
    }

    pub(crate) fn open(&self, path: &Path, create: bool) -> Result<FaultyFile> {
        self.disk.open_file(path, create)
    }

    pub(crate) fn delete(&self, path: &Path) -> Result<()> {
        let mut inner = self.disk.inner.lock();
        if inner.life != self.life {
            return Ok(());
        }
        inner.files.remove(path);
        std::fs::remove_file(path)
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut inner = self.disk.inner.lock();
        if inner.life != self.life {
            return Ok(());
        }
        if let Some(file) = inner.files.remove(from) {
            inner.files.insert(to.to_owned(), file);
        }
        std::fs::rename(from, to)
    }
}

impl Inner {
    fn write_allowed(&mut self) -> Result<()> {
        match &mut self.until_failure {
            Some(0) => Err(Error::other("injected disk failure")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Journaled {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let mut before = vec![0; data.len()];
        let known = read_at(&self.file, offset, &mut before)?;
        before.truncate(known);
        self.file.write_all_at(data, offset)?;
        self.writes.push(Unsynced::Bytes { offset, before, after: data.to_vec() });
        Ok(())
    }

    fn set_len(&mut self, after: u64) -> Result<()> {
        let before = self.len()?;
        let mut cut = vec![0; before.saturating_sub(after) as usize];
        read_at(&self.file, after, &mut cut)?;
        self.file.set_len(after)?;
        self.writes.push(Unsynced::Length { before, cut, after });
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.synced_len = self.len()?;
        self.writes.clear();
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Takes all unsynced writes back, then makes some of them after all.
    fn lose(&mut self, random: &mut u64) -> Result<()> {
        let writes = std::mem::take(&mut self.writes);
        for write in writes.iter().rev() {
            match write {
                Unsynced::Bytes { offset, before, after: _ } => {
                    self.file.write_all_at(before, *offset)?;
                }
                Unsynced::Length { before, cut, after } => {
                    self.file.set_len(*before)?;
                    self.file.write_all_at(cut, *after)?;
                }
            }
        }
        self.file.set_len(self.synced_len)?;
        let first = match next(random) % 4 {
            0 => 0,
            1 => writes.len(),
            _ => next(random) as usize % (writes.len() + 1),
        };
        let in_order = next(random).is_multiple_of(2);
        for (index, write) in writes.iter().enumerate() {
            let kept = if in_order { index < first } else { next(random).is_multiple_of(2) };
            let torn = in_order && index == first || next(random).is_multiple_of(8);
            match write {
                Unsynced::Bytes { offset, before: _, after } if kept || torn => {
                    self.write_some_sectors(*offset, after, torn, random)?;
                }
                Unsynced::Length { before: _, cut: _, after } if kept => {
                    self.file.set_len(*after)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write_some_sectors(
        &self,
        offset: u64,
        data: &[u8],
        torn: bool,
        random: &mut u64,
    ) -> Result<()> {
        let mut at = 0;
        while at < data.len() {
            let to_boundary = SECTOR - (offset + at as u64) % SECTOR;
            let end = data.len().min(at + to_boundary as usize);
            if !torn || next(random).is_multiple_of(2) {
                self.file.write_all_at(&data[at..end], offset + at as u64)?;
            }
            at = end;
        }
        Ok(())
    }
}

/// An open file of a [`FaultyDisk`].
pub struct FaultyFile {
    disk: FaultyDisk,
    life: u64,
    file: Arc<Mutex<Journaled>>,
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyFile").finish_non_exhaustive()
    }
}

impl FaultyFile {
    fn alive(&self, inner: &Inner) -> Result<()> {
        if inner.life == self.life { Ok(()) } else { Err(Error::other("the disk lost power")) }
    }

    fn is_dead(&self) -> bool {
        self.disk.inner.lock().life != self.life
    }

    fn change<T>(&self, change: impl FnOnce(&mut Journaled) -> Result<T>) -> Result<T> {
        let mut inner = self.disk.inner.lock();
        self.alive(&inner)?;
        inner.write_allowed()?;
        change(&mut self.file.lock())
    }

    fn look<T>(&self, look: impl FnOnce(&Journaled) -> Result<T>) -> Result<T> {
        let inner = self.disk.inner.lock();
        self.alive(&inner)?;
        look(&self.file.lock())
    }

    fn sync_all(&self) -> Result<()> {
        let mut inner = self.disk.inner.lock();
        self.alive(&inner)?;
        inner.write_allowed()?;
        inner.syncs += 1;
        self.file.lock().sync()
    }
}

impl StorageBackend for FaultyFile {
    fn len(&self) -> Result<u64> {
        self.look(Journaled::len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.look(|file| file.file.read_exact_at(out, offset))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(|file| file.set_len(len))
    }

    fn sync_data(&self) -> Result<()> {
        self.sync_all()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.change(|file| file.write_at(offset, data))
    }
}

/// The log engine shortens and syncs its file when it is dropped, and panics if it cannot. So after
/// a crash both do nothing, without an error.
impl Handle for FaultyFile {
    fn truncate(&self, offset: usize) -> Result<()> {
        if self.is_dead() {
            return Ok(());
        }
        self.change(|file| file.set_len(offset as u64))
    }

    fn file_size(&self) -> Result<usize> {
        self.look(|file| Ok(file.len()? as usize))
    }

    fn sync(&self) -> Result<()> {
        if self.is_dead() {
            return Ok(());
        }
        self.sync_all()
    }
}

/// A place in a faulty file.
pub(crate) struct Cursor {
    file: Arc<FaultyFile>,
    at: u64,
}

impl Cursor {
    /// The start of a file.
    pub(crate) fn new(file: Arc<FaultyFile>) -> Self {
        Self { file, at: 0 }
    }

    /// Cuts the file and goes to its end.
    pub(crate) fn truncate(&mut self, offset: u64) -> Result<()> {
        Handle::truncate(self.file.as_ref(), offset as usize)?;
        self.at = offset;
        Ok(())
    }

    /// Makes the file at least this long.
    pub(crate) fn allocate(&self, length: u64) -> Result<()> {
        self.file.change(|file| if file.len()? < length { file.set_len(length) } else { Ok(()) })
    }
}

impl Read for Cursor {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let count = self.file.look(|file| read_at(&file.file, self.at, out))?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Cursor {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        self.file.change(|file| file.write_at(self.at, data))?;
        self.at += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let base = match to {
            SeekFrom::Start(_) => 0,
            SeekFrom::Current(_) => self.at,
            SeekFrom::End(_) => self.file.look(Journaled::len)?,
        };
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) | SeekFrom::End(by) => base.saturating_add_signed(by),
        };
        Ok(self.at)
    }
}

/// Reads as much as is there.
fn read_at(file: &File, offset: u64, out: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// The next number of a small generator (splitmix64).
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
