//! Large values are cut into parts: rows of a table of their own, beside the row of their version.
//!
//! redb keeps an entry that is larger than a page in one block of 1, 2, 4, 8, ... pages, so that one
//! of a little more than 64 KiB takes 128. A part fills its block, nearly always to the last byte;
//! what is left of the value stays in the row of the log.
//!
//! Invariants: a value is its parts in order, then what its row holds. Parts are written and removed
//! in the transaction that writes or removes their row. The row says how many there are, so how
//! values are cut may change at any time without a new format.
//!
//! ```text
//! parts    revision sub number              -> crc bytes
//! ```

use crate::state::codec::{POSITION_LEN, Position, crc};

/// A page of redb, bytes.
const PAGE: usize = 4096;
/// In a page of a table's rows: before all of them.
const LEAF_HEADER: usize = 4;
/// In a page of a table's rows: for each, where it ends.
const LEAF_ENTRY: usize = 4;
/// Parts have a block of at most 2 to the power of this many pages, 64 KiB: larger blocks are hard
/// to find in a file that is full of smaller ones.
const ORDER_MAX: u32 = 4;
/// Before the bytes of a part: a CRC.
const PART_HEADER: usize = 4;
/// A value may waste this part of its length, one in so many bytes, if that saves rows.
const TOLERANCE: usize = 8;

/// Length of a key of the `parts` table.
pub const PART_KEY_LEN: usize = POSITION_LEN + 2;

/// The parts of a value, as the row of its version tells of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// How many; none for most values.
    pub count: u16,
    /// How many bytes of the value they hold together.
    pub bytes: u32,
}

impl Parts {
    /// Length in the row, if there are any.
    pub const LEN: usize = 6;

    /// What a row says of parts of these lengths.
    pub fn of(lengths: &[usize]) -> Self {
        let count = u16::try_from(lengths.len()).expect("requests are far below 4 GiB");
        let bytes = u32::try_from(lengths.iter().sum::<usize>());
        Self { count, bytes: bytes.expect("requests are far below 4 GiB") }
    }
}

/// Key of the `parts` table.
pub fn part_key(position: Position, number: u16) -> [u8; PART_KEY_LEN] {
    let mut row = [0; PART_KEY_LEN];
    row[..POSITION_LEN].copy_from_slice(&position.encode());
    row[POSITION_LEN..].copy_from_slice(&number.to_be_bytes());
    row
}

/// Replaces `row` by the row of a part.
pub fn encode_part(key: &[u8; PART_KEY_LEN], bytes: &[u8], row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(&crc(&[key, bytes]).to_be_bytes());
    row.extend_from_slice(bytes);
}

/// Reads the row of a part; `None` if it fails its check.
pub fn decode_part<'a>(key: &[u8; PART_KEY_LEN], row: &'a [u8]) -> Option<&'a [u8]> {
    let (found, bytes) = row.split_at_checked(PART_HEADER)?;
    (*found == crc(&[key, bytes]).to_be_bytes()).then_some(bytes)
}

/// Lengths of the parts that a value of `length` bytes is cut into, in order; what is missing stays
/// in its row of the log, which has `head` bytes beside it. Nothing for all that fits a page, and
/// for what would not get smaller by an eighth of its length.
pub fn cut(head: usize, length: usize) -> Vec<usize> {
    if LEAF_HEADER + LEAF_ENTRY + POSITION_LEN + head + length <= PAGE {
        return Vec::new();
    }
    let waste_allowed = length / TOLERANCE;
    let whole = log_row(head + length);
    let head = head + Parts::LEN;
    let (mut lengths, mut rest, mut blocks) = (Vec::new(), length, 0);
    loop {
        let row = log_row(head + rest);
        if row <= block(ORDER_MAX) && row.saturating_sub(head + rest) <= waste_allowed {
            break;
        }
        let full = (0..=ORDER_MAX).rev().find(|order| part_bytes(*order) <= rest);
        let (order, length) = match full {
            Some(order) => (order, part_bytes(order)),
            // Nearly a page: the row would not share one with others, but the key alone does.
            None if row > PAGE && rest > 0 && head <= PAGE / 4 => (0, rest),
            None => break,
        };
        lengths.push(length);
        rest -= length;
        blocks += block(order);
    }
    if whole <= block(ORDER_MAX) && blocks + log_row(head + rest) + waste_allowed > whole {
        lengths.clear();
    }
    lengths
}

/// Size of a block, bytes.
const fn block(order: u32) -> usize {
    PAGE << order
}

/// What a part holds that fills its block, bytes.
const fn part_bytes(order: u32) -> usize {
    block(order) - LEAF_HEADER - LEAF_ENTRY - PART_KEY_LEN - PART_HEADER
}

/// What a row of the log of `length` bytes takes in the file among others like it.
const fn log_row(length: usize) -> usize {
    let entry = LEAF_ENTRY + POSITION_LEN + length;
    if LEAF_HEADER + entry <= PAGE {
        PAGE / ((PAGE - LEAF_HEADER) / entry)
    } else {
        (LEAF_HEADER + entry).div_ceil(PAGE).next_power_of_two() * PAGE
    }
}

#[cfg(test)]
mod tests;
