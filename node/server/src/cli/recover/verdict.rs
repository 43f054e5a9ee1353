//! How a `recover` went, for programs: a small file besides what is printed, and the digest by which
//! consent names a report.
//!
//! Invariants: the digest is about what is kept, lost and given up, and about nothing that changes while
//! nobody writes; the file has at most [`LIMIT`] bytes, and says when lists are cut short.

use super::{Failure, keys, nodes};
use holdfast_core::descriptor::NodeRecord;
use holdfast_core::node::recovery::Report;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// What Kubernetes keeps of a pod's last message.
const LIMIT: usize = 4096;
/// Characters of one line in it.
const LINE: usize = 300;

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is nothing to recover here, or it cannot be.
    Nothing,
    /// A majority is there.
    Majority,
    /// Other nodes run, but no majority.
    Running,
    /// Something at the address of another node is not a node.
    Unclear,
    /// Keys are lost, which was not consented to.
    LostKeys,
    /// The report is not the one that was consented to.
    Outdated,
}

/// How it went.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    report: Value,
    lost: Vec<String>,
    gone: Vec<String>,
    running: Vec<String>,
    refusal: Option<Refusal>,
    done: Option<(String, bool)>,
}

/// Twelve hex digits that stand for a report.
pub(super) fn digest(report: &Value) -> String {
    let mut report = report.clone();
    // The meta range goes on while only others are recovered.
    if report["compacted"] == 0 {
        report["meta"] = Value::Null;
    }
    Sha256::digest(report.to_string()).iter().take(6).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes everything");
        hex
    })
}

impl Verdict {
    pub(super) fn report(&mut self, report: &Report, digest: &str) {
        let old = report.kept.iter().filter(|kept| kept.uncounted).count();
        self.report = json!({
            "digest": digest, "node": report.node.0, "kept": report.kept.len(), "old": old,
            "lostSpans": report.lost.len(), "term": report.meta.term, "entry": report.meta.index,
            "revision": report.revision, "compacted": report.compacted,
        });
        let line = |of: &holdfast_core::node::recovery::Lost| {
            let ranges: Vec<String> = of.ranges.iter().map(ToString::to_string).collect();
            short(format!(
                "keys {} ({}, on {})",
                keys(&of.span),
                ranges.join(", "),
                nodes(&of.nodes)
            ))
        };
        self.lost = report.lost.iter().map(line).collect();
        self.gone = names(&report.gone);
    }

    pub(super) fn running(&mut self, nodes: &[&NodeRecord]) {
        self.running = names(nodes.iter().copied());
    }

    pub(super) fn refuse(&mut self, why: Refusal, line: String) -> Failure {
        self.refusal = Some(why);
        Failure::usage(line)
    }

    pub(super) fn carried_out(&mut self, digest: String, already: bool) {
        self.done = Some((digest, already));
    }

    /// The file; `failure` is the line with which it ended.
    pub(super) fn text(mut self, failure: Option<&str>) -> String {
        let mut cut = false;
        loop {
            let why = self.refusal.map(|refusal| format!("{refusal:?}"));
            let value = json!({
                "version": 1, "report": self.report, "lost": self.lost, "gone": self.gone,
                "running": self.running, "refusal": why, "done": self.done.is_some(),
                "already": self.done.as_ref().is_some_and(|done| done.1),
                "doneDigest": self.done.as_ref().map(|done| done.0.as_str()), "cut": cut,
                "failure": failure.map(|line| short(line.to_owned())),
            });
            let text = value.to_string();
            if text.len() <= LIMIT {
                return text;
            }
            cut = true;
            let longest = [&mut self.lost, &mut self.gone, &mut self.running];
            let longest =
                longest.into_iter().max_by_key(|list| list.iter().map(String::len).sum::<usize>());
            if longest.and_then(Vec::pop).is_none() {
                return text;
            }
        }
    }
}

fn names<'a>(nodes: impl IntoIterator<Item = &'a NodeRecord>) -> Vec<String> {
    nodes.into_iter().map(|record| short(format!("{} ({})", record.id, record.name))).collect()
}

fn short(mut line: String) -> String {
    if line.len() > LINE {
        line.truncate(line.floor_char_boundary(LINE));
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_is_lost_the_file_is_small_and_says_so() {
        let mut verdict = Verdict {
            lost: (0..500).map(|at| format!("keys from \"{at}\"{}", "\\x00".repeat(60))).collect(),
            gone: (0..90).map(|at| format!("n{at} (demo-{at})")).collect(),
            ..Verdict::default()
        };
        let failure = verdict.refuse(Refusal::LostKeys, "x".repeat(10_000));
        let text = verdict.text(Some(&failure.line));
        assert!(text.len() <= LIMIT, "{}", text.len());
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["cut"], true);
        assert_eq!(value["refusal"], "LostKeys");
        assert!(value["lost"].as_array().unwrap().len() > 2);
        assert!(value["gone"].as_array().unwrap().len() > 20, "{value}");
    }

    #[test]
    fn a_digest_is_about_what_is_shown_and_not_about_a_meta_range_that_goes_on() {
        let part =
            |entry: u64, kept: u64| json!({"meta": {"index": entry}, "compacted": 0, "kept": kept});
        assert_eq!(digest(&part(1, 7)), digest(&part(2, 7)));
        assert_ne!(digest(&part(1, 7)), digest(&part(1, 8)));
        let whole = |entry: u64| json!({"meta": {"index": entry}, "compacted": 9});
        assert_ne!(digest(&whole(1)), digest(&whole(2)));
        assert_eq!(digest(&whole(1)).len(), 12);
    }
}
