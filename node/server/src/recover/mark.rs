//! `recovered.json`: which recovery was begun on a directory, so that asking twice is doing once.
//!
//! Invariants: written durably before anything else is, and again when all of it is; whoever asks with
//! the id of one that was done gets that answer, whatever became of the node since.

use crate::cli::Failure;
use crate::shutdown::chain;
use holdfast_storage::{Disk, replace_json};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::Path;

/// The format of the file.
const FORMAT: u64 = 1;
const FILE: &str = "recovered.json";

/// A recovery that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The name of the request.
    pub id: String,
    /// The digest of the report that was consented to.
    pub digest: String,
    /// It was carried out; otherwise the disk tells, since it is one commit.
    pub done: bool,
}

#[derive(Serialize, Deserialize)]
struct MarkFile {
    format: u64,
    #[serde(flatten)]
    mark: Mark,
}

pub(super) fn read(directory: &Path) -> Result<Option<Mark>, String> {
    let path = directory.join(FILE);
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let file: MarkFile = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    if file.format != FORMAT {
        return Err(failed(&format!("format {}, and {FORMAT} is known", file.format)));
    }
    Ok(Some(file.mark))
}

pub(super) fn write(disk: &Disk, mark: &Mark) -> Result<(), Failure> {
    let content = MarkFile { format: FORMAT, mark: mark.clone() };
    let text = serde_json::to_vec_pretty(&content).expect("plain fields can be written");
    replace_json(&disk.dir().join(FILE), &text).map_err(|error| Failure::broken(chain(&error)))
}
