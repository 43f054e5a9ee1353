//! The files under the raft log: real ones, or those of a [`FaultyDisk`].
//!
//! The engine reserves space for a new file 2 MiB at a time. The first write to reserved space
//! changes the file's map of blocks, and an fdatasync must then write that as well, which nearly
//! doubles its cost. So zeros are written a little ahead of the log: most syncs find their blocks
//! mapped. Files that are used again are mapped already.
//!
//! Invariant: zeros are written only where the engine reserved space and nothing was written yet.

use crate::faulty::{Cursor, FaultyDisk, FaultyFile, FaultyNames};
use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission, WriteExt};
use std::io::{ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

/// Zeros written at a time, bytes: what one sync in many pays for the others.
const ZEROS: usize = 128 << 10;

type RealHandle = <DefaultFileSystem as FileSystem>::Handle;
type RealReader = <DefaultFileSystem as FileSystem>::Reader;
type RealWriter = <DefaultFileSystem as FileSystem>::Writer;

/// A file system.
pub(super) enum Files {
    /// What servers use.
    Real(DefaultFileSystem),
    /// What tests use.
    Faulty(FaultyNames),
}

/// An open file.
pub(super) enum FileHandle {
    Real(Arc<RealHandle>),
    Faulty(Arc<FaultyFile>),
}

/// Reads a file.
pub(super) enum FileReader {
    Real(RealReader),
    Faulty(Cursor),
}

/// Writes a file.
pub(super) enum FileWriter {
    Real(ZeroingWriter),
    Faulty(Cursor),
}

/// Writes a real file, with zeros ahead.
pub(super) struct ZeroingWriter {
    writer: RealWriter,
    at: u64,
    /// All blocks before are mapped.
    mapped: u64,
    /// The engine reserved space to here.
    reserved: u64,
}

impl Files {
    /// Real files.
    pub(super) fn real() -> Self {
        Self::Real(DefaultFileSystem)
    }

    /// Files that fail on purpose.
    pub(super) fn faulty(disk: &FaultyDisk) -> Self {
        Self::Faulty(FaultyNames::new(disk))
    }
}

impl FileSystem for Files {
    type Handle = FileHandle;
    type Reader = FileReader;
    type Writer = FileWriter;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<FileHandle> {
        Ok(match self {
            Self::Real(files) => FileHandle::Real(Arc::new(files.create(path)?)),
            Self::Faulty(files) => FileHandle::Faulty(Arc::new(files.open(path.as_ref(), true)?)),
        })
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> Result<FileHandle> {
        Ok(match self {
            Self::Real(files) => FileHandle::Real(Arc::new(files.open(path, permission)?)),
            Self::Faulty(files) => FileHandle::Faulty(Arc::new(files.open(path.as_ref(), false)?)),
        })
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        match self {
            Self::Real(files) => files.delete(path),
            Self::Faulty(files) => files.delete(path.as_ref()),
        }
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        match self {
            Self::Real(files) => files.rename(from, to),
            Self::Faulty(files) => files.rename(from.as_ref(), to.as_ref()),
        }
    }

    fn new_reader(&self, handle: Arc<FileHandle>) -> Result<FileReader> {
        match (self, handle.as_ref()) {
            (Self::Real(files), FileHandle::Real(handle)) => {
                Ok(FileReader::Real(files.new_reader(handle.clone())?))
            }
            (_, FileHandle::Faulty(file)) => Ok(FileReader::Faulty(Cursor::new(file.clone()))),
            (Self::Faulty(_), FileHandle::Real(_)) => Err(ErrorKind::InvalidInput.into()),
        }
    }

    fn new_writer(&self, handle: Arc<FileHandle>) -> Result<FileWriter> {
        match (self, handle.as_ref()) {
            (Self::Real(files), FileHandle::Real(handle)) => {
                let length = handle.file_size()? as u64;
                let writer = files.new_writer(handle.clone())?;
                let writer = ZeroingWriter { writer, at: 0, mapped: length, reserved: length };
                Ok(FileWriter::Real(writer))
            }
            (_, FileHandle::Faulty(file)) => Ok(FileWriter::Faulty(Cursor::new(file.clone()))),
            (Self::Faulty(_), FileHandle::Real(_)) => Err(ErrorKind::InvalidInput.into()),
        }
    }
}

impl Handle for FileHandle {
    fn truncate(&self, offset: usize) -> Result<()> {
        match self {
            Self::Real(handle) => Handle::truncate(handle.as_ref(), offset),
            Self::Faulty(file) => Handle::truncate(file.as_ref(), offset),
        }
    }

    fn file_size(&self) -> Result<usize> {
        match self {
            Self::Real(handle) => handle.file_size(),
            Self::Faulty(file) => file.file_size(),
        }
    }

    fn sync(&self) -> Result<()> {
        match self {
            Self::Real(handle) => handle.sync(),
            Self::Faulty(file) => file.sync(),
        }
    }
}

impl Read for FileReader {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        match self {
            Self::Real(reader) => reader.read(out),
            Self::Faulty(cursor) => cursor.read(out),
        }
    }
}

impl Seek for FileReader {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        match self {
            Self::Real(reader) => reader.seek(to),
            Self::Faulty(cursor) => cursor.seek(to),
        }
    }
}

impl Write for FileWriter {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        match self {
            Self::Real(writer) => writer.write(data),
            Self::Faulty(cursor) => cursor.write(data),
        }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for FileWriter {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        match self {
            Self::Real(writer) => writer.seek(to),
            Self::Faulty(cursor) => cursor.seek(to),
        }
    }
}

impl WriteExt for FileWriter {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        match self {
            Self::Real(writer) => writer.truncate(offset),
            Self::Faulty(cursor) => cursor.truncate(offset as u64),
        }
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        match self {
            Self::Real(writer) => writer.allocate(offset, size),
            Self::Faulty(cursor) => cursor.allocate((offset + size) as u64),
        }
    }
}

impl ZeroingWriter {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        let count = self.writer.write(data)?;
        self.at += count as u64;
        if self.at > self.mapped {
            self.write_zeros()?;
        }
        Ok(count)
    }

    fn write_zeros(&mut self) -> Result<()> {
        static BLOCK: [u8; ZEROS] = [0; ZEROS];
        let count = self.reserved.saturating_sub(self.at).min(ZEROS as u64);
        self.writer.write_all(&BLOCK[..count as usize])?;
        self.writer.seek(SeekFrom::Start(self.at))?;
        self.mapped = self.at + count;
        Ok(())
    }

    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.at = self.writer.seek(to)?;
        Ok(self.at)
    }

    fn truncate(&mut self, offset: usize) -> Result<()> {
        WriteExt::truncate(&mut self.writer, offset)?;
        self.at = offset as u64;
        self.mapped = self.mapped.min(self.at);
        self.reserved = self.at;
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        self.writer.allocate(offset, size)?;
        self.reserved = self.reserved.max((offset + size) as u64);
        Ok(())
    }
}
