//! Raft snapshots: the state of one range at one position, as a stream of chunks.
//!
//! ```text
//! header: range position span | system rows | changes, by key, newest first | end: totals
//! chunk = crc, number, kind, content
//! ```
//!
//! Invariants: a chunk is at most about [`CHUNK_BYTES`] long, or holds one change; chunks are
//! numbered, so that a lost, doubled or swapped one is noticed; only a stream that came to its end
//! with the right totals is ever installed.

use crate::error::{Result, StorageError};
use crate::state::State;
use crate::state::codec::{Facts, Position, crc};
use crate::state::staging::Staged;
use crate::state::tables::DiskView;
use bytes::{Buf, BufMut, Bytes};
use holdfast_core::ids::RangeId;
use holdfast_core::key::{Span, successor};
use holdfast_core::state::{Applied, Version};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::PathBuf;
use std::sync::Arc;

/// Size of a chunk, bytes, unless a single change is larger.
pub const CHUNK_BYTES: usize = 256 << 10;
/// A chunk longer than this cannot be right: requests are limited far below.
const CHUNK_BYTES_MAX: usize = 64 << 20;
/// Keys looked up at a time.
pub const HEADS_AT_ONCE: usize = 256;
/// The format of the stream.
const FORMAT: u32 = 1;
/// Before the content of a chunk: crc, number, kind.
const FRAME_LEN: usize = 4 + 4 + 1;

const TOMBSTONE_BIT: u8 = 0x80;
const SAME_KEY_BIT: u8 = 0x40;
const NEWEST_BIT: u8 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Header = 0,
    System = 1,
    Changes = 2,
    End = 3,
}

/// The first chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: u32,
    /// Whose state it is.
    pub range: RangeId,
    /// The position it stands for.
    pub applied: Applied,
    /// The keys it covers.
    pub span: Span,
}

/// The last chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    system: u64,
    changes: u64,
    bytes: u64,
}

/// One version of one key in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The version.
    pub version: Version,
    /// It is the newest of its key; the key's others follow, newest first.
    pub newest: bool,
}

impl State {
    /// Makes the state durable and pins that of `range`, whose keys are `span`. `None` if nothing
    /// was ever applied to the range. Blocks for a flush; call it from a background thread. A
    /// pinned snapshot keeps replaced pages of the file from being used again: do not keep it long.
    pub fn pin(&self, range: RangeId, span: &Span) -> Result<Option<PinnedSnapshot>> {
        let _writer = self.shared.writer.lock();
        self.check_usable()?;
        self.flush_locked()?;
        let disk = self.shared.inner.read().disk.clone();
        let Some(applied) = disk.applied(range) else { return Ok(None) };
        let header = Header { format: FORMAT, range, applied, span: span.clone() };
        Ok(Some(PinnedSnapshot { disk, header }))
    }
}

/// The state of a range at one position.
pub struct PinnedSnapshot {
    disk: Arc<DiskView>,
    header: Header,
}

impl PinnedSnapshot {
    /// The position it stands for.
    pub fn applied(&self) -> Applied {
        self.header.applied
    }

    /// The stream from its start. May be called more than once.
    pub fn chunks(&self) -> Chunks {
        Chunks {
            disk: self.disk.clone(),
            header: self.header.clone(),
            stage: Stage::Header,
            number: 0,
            totals: Totals::default(),
        }
    }
}

/// The chunks of a raft snapshot, for [`Staging::push`](crate::state::Staging::push) on the other side. Reading panics if the
/// state file is corrupt.
pub struct Chunks {
    disk: Arc<DiskView>,
    header: Header,
    stage: Stage,
    number: u32,
    totals: Totals,
}

/// What comes next.
enum Stage {
    Header,
    System(VecDeque<(Bytes, Bytes)>),
    Changes {
        /// Keys looked up, still to be sent.
        heads: VecDeque<(Bytes, Facts)>,
        /// A key of which older versions are still to be sent, from this one on.
        open: Option<(Bytes, Position)>,
        /// Where to look for more keys.
        from: Option<Bytes>,
    },
    Done,
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::new();
        self.fill(&mut chunk).then(|| chunk.into())
    }
}

impl Chunks {
    /// Appends the next chunk to `chunk`, behind what is there already. False after the last one.
    pub fn fill(&mut self, chunk: &mut Vec<u8>) -> bool {
        let start = chunk.len();
        // What follows is written behind the place of the frame, so that nothing is copied again.
        chunk.put_bytes(0, FRAME_LEN);
        let kind = match &mut self.stage {
            Stage::Header => {
                let rows = self.disk.system(self.header.range).into_iter().collect();
                self.stage = Stage::System(rows);
                chunk.put_slice(&encode(&self.header));
                Kind::Header
            }
            Stage::System(rows) => {
                while chunk.len() - start < CHUNK_BYTES {
                    let Some((key, value)) = rows.pop_front() else { break };
                    put_bytes(chunk, &key);
                    put_bytes(chunk, &value);
                    self.totals.system += 1;
                }
                if rows.is_empty() {
                    self.stage = Stage::Changes {
                        heads: VecDeque::new(),
                        open: None,
                        from: Some(self.header.span.start.clone()),
                    };
                }
                Kind::System
            }
            Stage::Changes { .. } => {
                chunk.reserve(CHUNK_BYTES + CHUNK_BYTES / 4);
                if self.changes(chunk, start) {
                    Kind::Changes
                } else {
                    self.stage = Stage::Done;
                    chunk.put_slice(&encode(&self.totals));
                    Kind::End
                }
            }
            Stage::Done => {
                chunk.truncate(start);
                return false;
            }
        };
        self.frame(kind, &mut chunk[start..]);
        true
    }

    /// Adds the content of the next chunk of changes, which begins at `start`. False if there are none.
    fn changes(&mut self, chunk: &mut Vec<u8>, start: usize) -> bool {
        let mut last_key = None;
        while chunk.len() - start < CHUNK_BYTES {
            let Some((change, previous)) = self.next_change() else { break };
            let same_key = last_key.as_ref() == Some(&change.key);
            put_change(chunk, &change, same_key);
            self.totals.changes += 1;
            self.totals.bytes += change.version.value.as_ref().map_or(0, Bytes::len) as u64;
            if let Stage::Changes { open, .. } = &mut self.stage {
                *open = previous.map(|previous| (change.key.clone(), previous));
            }
            last_key = Some(change.key);
        }
        last_key.is_some()
    }

    /// The next change and the position of its key's next older version to send.
    fn next_change(&mut self) -> Option<(Change, Option<Position>)> {
        let Stage::Changes { heads, open, from } = &mut self.stage else { return None };
        let pruned = self.disk.meta().pruned;
        loop {
            let newest = open.is_none();
            let (key, position) = if let Some(open) = open.take() {
                open
            } else if let Some((key, facts)) = heads.pop_front() {
                (key, facts.position)
            } else {
                let start = from.take()?;
                *heads =
                    self.disk.heads(&start, self.header.span.end.as_ref(), HEADS_AT_ONCE).into();
                if heads.len() == HEADS_AT_ONCE {
                    *from = heads.back().map(|(key, _)| successor(key));
                }
                continue;
            };
            let Some((version, previous)) = self.disk.version(&key, position) else { continue };
            // Beyond the first version at or below it, all are hidden.
            let last = version.mod_revision <= pruned;
            if last && version.value.is_none() && version.mod_revision < pruned {
                continue;
            }
            return Some((Change { key, version, newest }, previous.filter(|_| !last)));
        }
    }

    /// Fills in what is before the content.
    fn frame(&mut self, kind: Kind, chunk: &mut [u8]) {
        chunk[4..8].copy_from_slice(&self.number.to_be_bytes());
        chunk[8] = kind as u8;
        let crc = crc(&[&chunk[4..]]);
        chunk[..4].copy_from_slice(&crc.to_be_bytes());
        self.number += 1;
    }
}

/// Follows a stream and finds what is wrong with it.
#[derive(Default)]
pub struct StreamCheck {
    number: u32,
    stage: u8,
    /// What the first chunk says.
    pub header: Option<Header>,
    totals: Totals,
    /// The last chunk came.
    pub complete: bool,
}

impl StreamCheck {
    /// Looks at the next chunk; the error says what is wrong.
    pub fn chunk(&mut self, chunk: &Bytes) -> Result<(), String> {
        let (number, kind, mut content) = unframe(chunk)?;
        if number != self.number {
            return Err(format!("chunk {number} came in place of chunk {}", self.number));
        }
        let first = self.header.is_none();
        if self.complete || first != (kind == Kind::Header) || (kind as u8) < self.stage {
            return Err(format!("chunk {number} is of kind {kind:?}, out of place"));
        }
        match kind {
            Kind::Header => {
                let header: Header = decode(&content)?;
                if header.format != FORMAT {
                    return Err(format!("it has format {}, not {FORMAT}", header.format));
                }
                self.header = Some(header);
            }
            Kind::System => {
                while content.has_remaining() {
                    get_bytes(&mut content)?;
                    get_bytes(&mut content)?;
                    self.totals.system += 1;
                }
            }
            Kind::Changes => {
                let span =
                    self.header.as_ref().map_or_else(Span::all, |header| header.span.clone());
                let mut key = Bytes::new();
                while content.has_remaining() {
                    let change = get_change(&mut content, &key)?;
                    if !span.contains(&change.key) {
                        return Err("it has a key outside of its span".to_owned());
                    }
                    key = change.key;
                    self.totals.changes += 1;
                    self.totals.bytes += change.version.value.map_or(0, |value| value.len()) as u64;
                }
            }
            Kind::End => {
                let totals: Totals = decode(&content)?;
                if totals != self.totals {
                    return Err(format!("it should hold {totals:?}, but holds {:?}", self.totals));
                }
                self.complete = true;
            }
        }
        self.stage = kind as u8;
        self.number += 1;
        Ok(())
    }
}

/// Where the chunks of a staged raft snapshot come from.
enum Source {
    Memory(std::vec::IntoIter<Bytes>),
    File(BufReader<File>),
}

/// Reads a staged raft snapshot back, in order.
pub struct Reader {
    path: PathBuf,
    chunks: Source,
    number: u32,
    /// The chunk that was read and not used up.
    kind: Option<Kind>,
    content: Bytes,
    key: Bytes,
}

impl Reader {
    /// Reads what [`Staging::finish`](crate::state::Staging::finish) left.
    pub fn open(staged: &Staged) -> Result<Self> {
        let (path, chunks) = match staged {
            Staged::Memory { path, kept } => {
                (path, Source::Memory(kept.chunks().to_vec().into_iter()))
            }
            Staged::File(path) => {
                let file = File::open(path).map_err(StorageError::io("open", path))?;
                // What is longer than the buffer goes past it.
                (path, Source::File(BufReader::new(file)))
            }
        };
        Ok(Self {
            path: path.clone(),
            chunks,
            number: 0,
            kind: None,
            content: Bytes::new(),
            key: Bytes::new(),
        })
    }

    /// Reads the header.
    pub fn header(&mut self) -> Result<Header> {
        if self.chunk()? != Kind::Header {
            return Err(self.corrupt("it has no header"));
        }
        self.kind = None;
        decode(&self.content).map_err(|detail| self.corrupt(detail))
    }

    /// Reads all system rows.
    pub fn system(&mut self) -> Result<Vec<(Bytes, Bytes)>> {
        let mut rows = Vec::new();
        while self.chunk()? == Kind::System {
            while self.content.has_remaining() {
                let row = get_bytes(&mut self.content)
                    .and_then(|key| Ok((key, get_bytes(&mut self.content)?)))
                    .map_err(|detail| self.corrupt(detail))?;
                rows.push(row);
            }
            self.kind = None;
        }
        Ok(rows)
    }

    /// Reads the next change, or `None` after the last.
    pub fn next_change(&mut self) -> Result<Option<Change>> {
        while self.chunk()? == Kind::Changes {
            if self.content.has_remaining() {
                let change = get_change(&mut self.content, &self.key)
                    .map_err(|detail| self.corrupt(detail))?;
                self.key = change.key.clone();
                return Ok(Some(change));
            }
            self.kind = None;
        }
        Ok(None)
    }

    /// Checks that the stream ends here.
    pub fn end(&mut self) -> Result<()> {
        if self.chunk()? == Kind::End { Ok(()) } else { Err(self.corrupt("it does not end")) }
    }

    /// Kind of the current chunk; reads the next one if the last was used up.
    fn chunk(&mut self) -> Result<Kind> {
        if let Some(kind) = self.kind {
            return Ok(kind);
        }
        let chunk = self.next_chunk()?;
        let (number, kind, content) = unframe(&chunk).map_err(|detail| self.corrupt(detail))?;
        if number != self.number {
            return Err(self.corrupt("its chunks are out of order"));
        }
        self.number += 1;
        self.content = content;
        self.kind = Some(kind);
        Ok(kind)
    }

    fn next_chunk(&mut self) -> Result<Bytes> {
        let file = match &mut self.chunks {
            Source::Memory(chunks) => {
                return chunks.next().ok_or_else(|| self.corrupt("it ends early"));
            }
            Source::File(file) => file,
        };
        let mut length = [0; 4];
        if let Err(error) = file.read_exact(&mut length) {
            return Err(self.unreadable(error));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > CHUNK_BYTES_MAX {
            return Err(self.corrupt("a chunk is too long"));
        }
        // Changes that wait to be written keep it, so it is a new one, which is not filled with
        // zeros first.
        let mut chunk = Vec::with_capacity(length);
        match file.take(length as u64).read_to_end(&mut chunk) {
            Ok(read) if read < length => Err(self.corrupt("it ends early")),
            Ok(_) => Ok(chunk.into()),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn unreadable(&self, error: std::io::Error) -> StorageError {
        if error.kind() == ErrorKind::UnexpectedEof {
            return self.corrupt("it ends early");
        }
        StorageError::io("read", &self.path)(error)
    }

    fn corrupt(&self, detail: impl Into<String>) -> StorageError {
        let what = format!("raft snapshot {}", self.path.display());
        StorageError::Corrupt { what, detail: detail.into() }
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data always serialises")
}

fn decode<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, String> {
    postcard::from_bytes(content).map_err(|error| error.to_string())
}

fn unframe(chunk: &Bytes) -> Result<(u32, Kind, Bytes), String> {
    if chunk.len() < FRAME_LEN || chunk.len() > CHUNK_BYTES_MAX {
        return Err(format!("a chunk is {} bytes long", chunk.len()));
    }
    let mut content = chunk.clone();
    if content.get_u32() != crc(&[&chunk[4..]]) {
        return Err("a chunk fails its check".to_owned());
    }
    let number = content.get_u32();
    let kind = match content.get_u8() {
        0 => Kind::Header,
        1 => Kind::System,
        2 => Kind::Changes,
        3 => Kind::End,
        other => return Err(format!("chunk {number} is of unknown kind {other}")),
    };
    Ok((number, kind, content))
}

fn put_bytes(content: &mut Vec<u8>, bytes: &[u8]) {
    content.put_u32(u32::try_from(bytes.len()).expect("requests are far below 4 GiB"));
    content.put_slice(bytes);
}

fn get_bytes(content: &mut Bytes) -> Result<Bytes, String> {
    let short = || "a chunk ends early".to_owned();
    let length = content.try_get_u32().map_err(|_| short())? as usize;
    if content.len() < length {
        return Err(short());
    }
    Ok(content.split_to(length))
}

fn put_change(content: &mut Vec<u8>, change: &Change, same_key: bool) {
    let Change { key, version, newest } = change;
    let mut bits = if version.value.is_none() { TOMBSTONE_BIT } else { 0 };
    bits |= if same_key { SAME_KEY_BIT } else { 0 };
    bits |= if *newest { NEWEST_BIT } else { 0 };
    content.put_u8(bits);
    if !same_key {
        put_bytes(content, key);
    }
    content.put_i64(version.mod_revision);
    content.put_u32(version.sub);
    content.put_i64(version.create_revision);
    content.put_i64(version.version);
    content.put_i64(version.lease);
    put_bytes(content, version.value.as_deref().unwrap_or_default());
}

fn get_change(content: &mut Bytes, key_before: &Bytes) -> Result<Change, String> {
    let short = |_| "a chunk ends early".to_owned();
    let bits = content.try_get_u8().map_err(short)?;
    let key = if bits & SAME_KEY_BIT == 0 { get_bytes(content)? } else { key_before.clone() };
    let version = Version {
        mod_revision: content.try_get_i64().map_err(short)?,
        sub: content.try_get_u32().map_err(short)?,
        create_revision: content.try_get_i64().map_err(short)?,
        version: content.try_get_i64().map_err(short)?,
        lease: content.try_get_i64().map_err(short)?,
        value: Some(get_bytes(content)?).filter(|_| bits & TOMBSTONE_BIT == 0),
    };
    Ok(Change { key, version, newest: bits & NEWEST_BIT != 0 })
}
