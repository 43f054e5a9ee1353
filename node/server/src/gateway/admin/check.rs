//! What a comparison of copies found, as `holdfast-node check -o json` prints it.

use holdfast_core::check::{CheckReport, Finding, Verdict};
use holdfast_core::ids::Revision;
use serde::Serialize;

/// One range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CheckJson {
    range: u64,
    /// `Equal`, `Diverged` or `Incomplete`.
    result: &'static str,
    revision: Revision,
    index: u64,
    /// Nodes whose copies differ.
    diverged: Vec<u64>,
    copies: Vec<CopyJson>,
}

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct CopyJson {
    node: u64,
    replica: u64,
    /// `Hashed`, `NoAnswer`, `HistoryGone` or `Disturbed`.
    answer: &'static str,
    /// Hashes of the changes and of everything else.
    hash: Option<String>,
}

impl From<&CheckReport> for CheckJson {
    fn from(report: &CheckReport) -> Self {
        let (result, diverged) = match &report.verdict {
            Verdict::Equal => ("Equal", &[][..]),
            Verdict::Incomplete => ("Incomplete", &[][..]),
            Verdict::Diverged(replicas) => ("Diverged", &replicas[..]),
        };
        let copies = report.replicas.iter().map(|(replica, finding)| CopyJson {
            node: replica.node.0,
            replica: replica.replica.0,
            answer: match finding {
                Some(Finding::Hash { .. }) => "Hashed",
                Some(Finding::Pruned(_)) => "HistoryGone",
                Some(Finding::Disturbed) => "Disturbed",
                Some(Finding::Working) | None => "NoAnswer",
            },
            hash: match finding {
                Some(Finding::Hash { keys, bookkeeping, .. }) => {
                    Some(format!("{keys:016x}-{bookkeeping:016x}"))
                }
                _ => None,
            },
        });
        Self {
            range: report.range.0,
            result,
            revision: report.revision,
            index: report.index,
            diverged: diverged.iter().map(|replica| replica.node.0).collect(),
            copies: copies.collect(),
        }
    }
}
