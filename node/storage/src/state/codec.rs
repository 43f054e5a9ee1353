//! Rows of the hot tables, encoded by hand: fixed-width big-endian numbers, and a CRC over each row
//! and its key.
//!
//! Invariants: row keys sort as the things they name; decoding checks the CRC and every length.
//! A row that fails is not guessed at: the caller stops the process.
//!
//! ```text
//! heads    key                              -> revision sub create version lease bits crc
//! log      revision sub                     -> crc bits create version [lease] [previous] [parts] key_len key value
//! history  escape(key) 0x00 0x01 rev sub    -> ()
//! leases   lease key                        -> ()
//! system   range key                        -> bytes
//! ```

use crate::state::parts::Parts;
use bytes::Bytes;
use holdfast_core::ids::{LeaseId, RangeId, Revision};
use holdfast_core::key::printable;
use holdfast_core::state::Version;

/// Where a version is in the order of all changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The revision.
    pub revision: Revision,
    /// Which change of that revision.
    pub sub: u32,
}

impl Position {
    /// Before every version.
    pub const MIN: Self = Self { revision: 0, sub: 0 };

    /// After every version.
    pub const MAX: Self = Self { revision: Revision::MAX, sub: u32::MAX };

    /// The position of a version.
    pub fn of(version: &Version) -> Self {
        Self { revision: version.mod_revision, sub: version.sub }
    }

    /// The next possible position.
    #[must_use]
    pub fn next(self) -> Self {
        match self.sub.checked_add(1) {
            Some(sub) => Self { sub, ..self },
            None => Self { revision: self.revision.saturating_add(1), sub: 0 },
        }
    }

    /// True for the versions that have a row in `history`: chosen by their position alone, so that
    /// a flush needs no look at the versions before, and evenly among those of any key.
    pub fn is_marked(self) -> bool {
        let mixed = (self.revision as u64 ^ u64::from(self.sub) << 40)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 32).is_multiple_of(HISTORY_EVERY)
    }

    /// Key of the `log` table.
    pub fn encode(self) -> [u8; POSITION_LEN] {
        let mut row = [0; POSITION_LEN];
        row[..8].copy_from_slice(&self.revision.to_be_bytes());
        row[8..].copy_from_slice(&self.sub.to_be_bytes());
        row
    }

    /// Reads a key of the `log` table.
    pub fn decode(row: &[u8; POSITION_LEN]) -> Self {
        Self { revision: be_i64(&row[..8]), sub: be_u32(&row[8..]) }
    }
}

/// Length of an encoded [`Position`].
pub const POSITION_LEN: usize = 12;
/// Length of a row of `heads`.
pub const HEAD_LEN: usize = 41;
/// About each this many versions of a key one gets a row in `history`: finding a version of a key
/// at a revision walks back over so many on average, and a put touches `history` that seldom.
const HISTORY_EVERY: u64 = 16;

const TOMBSTONE_BIT: u8 = 0x80;
const LEASE_BIT: u8 = 0x40;
const PREVIOUS_BIT: u8 = 0x20;
const PARTS_BIT: u8 = 0x10;

/// Everything about a version but its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where it is.
    pub position: Position,
    /// See [`Version::create_revision`].
    pub create_revision: Revision,
    /// See [`Version::version`].
    pub version: i64,
    /// See [`Version::lease`].
    pub lease: LeaseId,
    /// The key is deleted by this version.
    pub tombstone: bool,
}

impl Facts {
    /// The facts of a version.
    pub fn of(version: &Version) -> Self {
        Self {
            position: Position::of(version),
            create_revision: version.create_revision,
            version: version.version,
            lease: version.lease,
            tombstone: version.value.is_none(),
        }
    }

    /// The version with a value. A tombstone has none.
    pub(crate) fn with(self, value: Bytes) -> Version {
        Version {
            mod_revision: self.position.revision,
            sub: self.position.sub,
            create_revision: self.create_revision,
            version: self.version,
            lease: self.lease,
            value: (!self.tombstone).then_some(value),
        }
    }
}

/// A row of `heads`: the facts of the newest version of a key.
pub fn encode_head(key: &[u8], facts: &Facts) -> [u8; HEAD_LEN] {
    let Facts { position, create_revision, version, lease, tombstone } = *facts;
    let mut row = [0; HEAD_LEN];
    row[..12].copy_from_slice(&position.encode());
    row[12..20].copy_from_slice(&create_revision.to_be_bytes());
    row[20..28].copy_from_slice(&version.to_be_bytes());
    row[28..36].copy_from_slice(&lease.to_be_bytes());
    row[36] = if tombstone { TOMBSTONE_BIT } else { 0 };
    let crc = crc(&[key, &row[..37]]);
    row[37..].copy_from_slice(&crc.to_be_bytes());
    row
}

/// Reads a row of `heads`.
pub fn decode_head(key: &[u8], row: &[u8; HEAD_LEN]) -> Facts {
    assert!(
        be_u32(&row[37..]) == crc(&[key, &row[..37]]),
        "the state file is corrupt: the newest version of key {} fails its check",
        printable(key)
    );
    Facts {
        position: Position { revision: be_i64(&row[..8]), sub: be_u32(&row[8..12]) },
        create_revision: be_i64(&row[12..20]),
        version: be_i64(&row[20..28]),
        lease: be_i64(&row[28..36]),
        tombstone: row[36] & TOMBSTONE_BIT != 0,
    }
}

/// A row of `log`, borrowed from its page.
#[derive(Clone, Copy, Debug)]
pub struct LogRow<'a> {
    /// Facts of the version.
    pub facts: Facts,
    /// The key's version before, if there was one when this row was written.
    pub previous: Option<Position>,
    /// The key.
    pub key: &'a [u8],
    /// The parts that hold the beginning of the value; see [`crate::state::parts`].
    pub parts: Parts,
    /// The value after its parts; empty for a tombstone.
    pub value: &'a [u8],
}

impl<'a> LogRow<'a> {
    /// Length of the row beside the value and what it says of parts.
    pub fn head_len(&self) -> usize {
        let lease = if self.facts.lease == 0 { 0 } else { 8 };
        let previous = if self.previous.is_some() { POSITION_LEN } else { 0 };
        4 + 17 + lease + previous + 4 + self.key.len()
    }

    /// Appends the row to `row`.
    pub fn encode(&self, row: &mut Vec<u8>) {
        let Facts { position, create_revision, version, lease, tombstone } = self.facts;
        let start = row.len();
        row.extend_from_slice(&[0; 4]);
        let mut bits = if tombstone { TOMBSTONE_BIT } else { 0 };
        bits |= if lease == 0 { 0 } else { LEASE_BIT };
        bits |= if self.previous.is_some() { PREVIOUS_BIT } else { 0 };
        bits |= if self.parts.count == 0 { 0 } else { PARTS_BIT };
        row.push(bits);
        row.extend_from_slice(&create_revision.to_be_bytes());
        row.extend_from_slice(&version.to_be_bytes());
        if lease != 0 {
            row.extend_from_slice(&lease.to_be_bytes());
        }
        if let Some(previous) = self.previous {
            row.extend_from_slice(&previous.encode());
        }
        if self.parts.count != 0 {
            row.extend_from_slice(&self.parts.count.to_be_bytes());
            row.extend_from_slice(&self.parts.bytes.to_be_bytes());
        }
        let key_len = u32::try_from(self.key.len()).expect("requests are far below 4 GiB");
        row.extend_from_slice(&key_len.to_be_bytes());
        row.extend_from_slice(self.key);
        row.extend_from_slice(self.value);
        let crc = crc(&[&position.encode(), &row[start + 4..]]);
        row[start..start + 4].copy_from_slice(&crc.to_be_bytes());
    }

    /// Reads the row at `position`.
    pub fn decode(position: Position, row: &'a [u8]) -> Self {
        Self::try_decode(position, row).unwrap_or_else(|| {
            panic!(
                "the state file is corrupt: the change at revision {} ({}) fails its check",
                position.revision, position.sub
            )
        })
    }

    fn try_decode(position: Position, row: &'a [u8]) -> Option<Self> {
        let (crc_row, rest) = row.split_at_checked(4)?;
        if be_u32(crc_row) != crc(&[&position.encode(), rest]) {
            return None;
        }
        let (fixed, mut rest) = rest.split_at_checked(17)?;
        let bits = fixed[0];
        let mut take = |count: usize| {
            let (part, after) = rest.split_at_checked(count)?;
            rest = after;
            Some(part)
        };
        let lease = if bits & LEASE_BIT == 0 { 0 } else { be_i64(take(8)?) };
        let previous = if bits & PREVIOUS_BIT == 0 {
            None
        } else {
            let part = take(POSITION_LEN)?;
            Some(Position { revision: be_i64(&part[..8]), sub: be_u32(&part[8..]) })
        };
        let parts = if bits & PARTS_BIT == 0 {
            Parts::default()
        } else {
            let part = take(Parts::LEN)?;
            Parts { count: u16::from_be_bytes([part[0], part[1]]), bytes: be_u32(&part[2..]) }
        };
        let key_len = be_u32(take(4)?);
        let key = take(key_len as usize)?;
        Some(Self {
            facts: Facts {
                position,
                create_revision: be_i64(&fixed[1..9]),
                version: be_i64(&fixed[9..17]),
                lease,
                tombstone: bits & TOMBSTONE_BIT != 0,
            },
            previous,
            parts,
            key,
            value: rest,
        })
    }

    /// The parts of the row at `position`. Rows without any are not looked at further.
    pub fn parts_of(position: Position, row: &'a [u8]) -> Parts {
        match row.get(4) {
            Some(bits) if bits & PARTS_BIT != 0 => Self::decode(position, row).parts,
            _ => Parts::default(),
        }
    }
}

/// Key of the `history` table. The key's zero bytes are escaped, so that no key's rows mix with
/// those of another and rows sort by key.
pub fn history_key(key: &[u8], position: Position) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 2 + POSITION_LEN);
    escape(key, &mut row);
    row.extend_from_slice(&[0, 1]);
    row.extend_from_slice(&position.encode());
    row
}

/// The position in a key of the `history` table.
pub fn history_position(row: &[u8]) -> Position {
    let at = row.len().checked_sub(POSITION_LEN).expect("history rows end in a position");
    Position { revision: be_i64(&row[at..at + 8]), sub: be_u32(&row[at + 8..]) }
}

/// First possible `history` row of `key`, or of any key after it.
pub fn history_start(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 2);
    escape(key, &mut row);
    // A longer key continues with 0x00 0xff or a byte above 0, so with this or more.
    row.extend_from_slice(&[0, 1]);
    row
}

fn escape(key: &[u8], row: &mut Vec<u8>) {
    for part in key.split_inclusive(|byte| *byte == 0) {
        row.extend_from_slice(part);
        if part.last() == Some(&0) {
            row.push(0xff);
        }
    }
}

/// Key of the `leases` and `system` tables: a number and a key.
pub fn numbered_key(number: u64, key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(8 + key.len());
    row.extend_from_slice(&number.to_be_bytes());
    row.extend_from_slice(key);
    row
}

/// Key of the `leases` table.
pub fn lease_key(lease: LeaseId, key: &[u8]) -> Vec<u8> {
    numbered_key(lease as u64, key)
}

/// Key of the `system` table.
pub fn system_key(range: RangeId, key: &[u8]) -> Vec<u8> {
    numbered_key(range.0, key)
}

/// The key in a row key of `leases` or `system`.
pub fn after_number(row: &[u8]) -> &[u8] {
    row.get(8..).expect("rows of this table start with a number")
}

/// CRC of several parts in a row.
pub fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

fn be_i64(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes.try_into().expect("the caller cut eight bytes"))
}

fn be_u32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("the caller cut four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(tombstone: bool, lease: i64) -> Facts {
        Facts {
            position: Position { revision: 77, sub: 3 },
            create_revision: 70,
            version: 4,
            lease,
            tombstone,
        }
    }

    #[test]
    fn rows_read_back() {
        for (tombstone, lease, previous) in
            [(false, 0, None), (true, 0, Some(Position { revision: 5, sub: 1 })), (false, -9, None)]
        {
            let facts = facts(tombstone, lease);
            assert_eq!(decode_head(b"key", &encode_head(b"key", &facts)), facts);
            for parts in [Parts::default(), Parts { count: 3, bytes: 1 << 20 }] {
                let row = LogRow { facts, previous, parts, key: b"k\0", value: b"value" };
                let mut encoded = Vec::new();
                row.encode(&mut encoded);
                let back = LogRow::decode(facts.position, &encoded);
                assert_eq!((back.facts, back.previous, back.parts), (facts, previous, parts));
                assert_eq!((back.key, back.value), (row.key, row.value));
                assert_eq!(LogRow::parts_of(facts.position, &encoded), parts);
                let told = if parts.count == 0 { 0 } else { Parts::LEN };
                assert_eq!(encoded.len(), row.head_len() + told + row.value.len());
            }
        }
    }

    #[test]
    #[should_panic(expected = "revision 77 (3) fails its check")]
    fn a_flipped_bit_stops() {
        let mut encoded = Vec::new();
        let parts = Parts::default();
        LogRow { facts: facts(false, 0), previous: None, parts, key: b"k", value: b"v" }
            .encode(&mut encoded);
        *encoded.last_mut().unwrap() ^= 1;
        LogRow::decode(Position { revision: 77, sub: 3 }, &encoded);
    }

    #[test]
    fn about_one_version_in_sixteen_is_marked() {
        for step in [1, 2, 16, 1000] {
            let marked = (0..16_000)
                .filter(|number| Position { revision: number * step, sub: 0 }.is_marked())
                .count();
            assert!((800..1200).contains(&marked), "{marked} with steps of {step}");
        }
    }

    #[test]
    fn history_rows_sort_by_key_then_position() {
        let keys: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"\0\x01", b"a", b"a\0", b"a\x01"];
        let mut rows = Vec::new();
        for key in keys {
            for revision in [1, 256] {
                rows.push(history_key(key, Position { revision, sub: 0 }));
            }
        }
        assert!(rows.is_sorted());
        for key in keys {
            let start = history_start(key);
            let first = rows.iter().position(|row| *row >= start).unwrap();
            assert_eq!(rows[first], history_key(key, Position { revision: 1, sub: 0 }));
        }
        assert_eq!(history_position(&rows[1]), Position { revision: 256, sub: 0 });
    }
}
