//! `recover`: one stopped node becomes the whole cluster, when the others are gone for good.

mod verdict;

use super::Failure;
use super::output::{self, Format};
use crate::config::{HumanDuration, TlsArgs};
use crate::recover::{Mark, Opened, Presence, presence};
use crate::tls::{Side, Tls};
use clap::Args;
use holdfast_core::descriptor::NodeRecord;
use holdfast_core::ids::{NodeId, RangeId, Revision};
use holdfast_core::key::Span;
use holdfast_core::key::printable;
use holdfast_core::node::recovery::{BUMP_DEFAULT, Consent, Kept, Lost, Report};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;
use verdict::{Refusal, Verdict, digest};

pub(super) const AFTER_HELP: &str = "\
Example, on the machine of the node that is left, which is stopped:
  holdfast-node recover --data /var/lib/holdfast --dry-run
  holdfast-node recover --data /var/lib/holdfast --i-accept-data-loss
then start it as always; the others join with empty disks, and copies are made on them.

If only some ranges have lost their majority, on a node that has a copy of them, stopped for a moment:
  holdfast-node recover --data /var/lib/holdfast --range 4,7 --i-accept-data-loss

Without --range only when a majority of the nodes is gone for good: what these alone had is lost, and none of them
may ever come back. If several nodes are left, --dry-run on each shows which has the most. Refused if
any other node answers, or if this one has a majority alone (after a recovery, for example).";

/// The flags of `recover`.
#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    /// Data directory of the stopped node
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Only these ranges, of which no other copy is left; the meta range has its majority
    #[arg(long, value_name = "RANGES", value_delimiter = ',', value_parser = super::admin::id)]
    range: Vec<u64>,
    /// Say what would be kept and lost, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// What the nodes that are gone alone had is lost, and they never come back: do it
    #[arg(long)]
    i_accept_data_loss: bool,
    /// Keys of which no copy is here become new, empty ranges
    #[arg(long)]
    empty_lost_ranges: bool,
    /// By how much the revision jumps, so that none is used twice
    #[arg(long, value_name = "N", default_value_t = BUMP_DEFAULT)]
    bump_revision: Revision,
    /// Numbers of nodes that certainly do not run, and are not asked
    #[arg(long, value_name = "NODES", value_delimiter = ',', value_parser = super::admin::id)]
    away: Vec<u64>,
    /// Only if what is kept and lost is still what a dry run has shown, whose digest this is
    #[arg(long, value_name = "DIGEST")]
    expect: Option<String>,
    /// A name of this request: the same one again, after it was carried out, changes nothing and is no failure
    #[arg(long, value_name = "ID")]
    once: Option<String>,
    /// How long to wait for a node that still runs on the directory to stop
    #[arg(long, value_name = "TIME", default_value_t = HumanDuration(Duration::ZERO))]
    wait: HumanDuration,
    /// Also write how it went to this file: JSON, at most 4096 bytes, for the operator
    #[arg(long, value_name = "FILE")]
    verdict: Option<PathBuf>,
    /// How to print what is kept and lost
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    tls: TlsArgs,
}

pub(super) fn run(args: RecoverArgs) -> Result<(), Failure> {
    let file = args.verdict.clone();
    let mut verdict = Verdict::default();
    let ended = attempt(args, &mut verdict);
    if let Some(file) = file {
        let failed = ended.as_ref().err().map(|failure| failure.line.as_str());
        let written = std::fs::write(&file, verdict.text(failed));
        written
            .map_err(|error| Failure::broken(format!("--verdict {}: {error}", file.display())))?;
    }
    ended
}

fn attempt(args: RecoverArgs, verdict: &mut Verdict) -> Result<(), Failure> {
    let RecoverArgs { dry_run, i_accept_data_loss: accepted, away, output, .. } = args;
    let peer = args.tls.check().map_err(Failure::usage)?.peer;
    let tls = peer.map(|files| Tls::load(files, Side::Peer)).transpose().map_err(Failure::usage)?;
    let write = accepted && !dry_run;
    let ranges: Vec<RangeId> = args.range.into_iter().map(RangeId).collect();
    let some = (!ranges.is_empty()).then_some(ranges.as_slice());
    let opened = Opened::open(&args.data, some, write, args.wait.0).map_err(Failure::usage)?;
    let mark = match (&args.once, opened.mark().map_err(Failure::usage)?) {
        (Some(id), Some(mark)) if *id == mark.id => Some(mark),
        _ => None,
    };
    if mark.as_ref().is_some_and(|mark| mark.done || opened.is_sole(some)) {
        let digest = mark.map(|mark| mark.digest).unwrap_or_default();
        println!("This was carried out already: report {digest}. Nothing was changed now.");
        if write && let Some(id) = args.once {
            opened.set_mark(&Mark { id, digest: digest.clone(), done: true })?;
        }
        verdict.carried_out(digest, true);
        return Ok(());
    }
    let consent = Consent { bump: args.bump_revision, lost_ranges: args.empty_lost_ranges };
    let plan = match some {
        Some(ranges) => opened.plan_ranges(ranges, consent),
        None => opened.plan(consent),
    };
    let plan = plan.map_err(|line| verdict.refuse(Refusal::Nothing, line))?;
    let digest = digest(&as_json(&plan.report));
    verdict.report(&plan.report, &digest);
    match output {
        Format::Json => {
            let mut json = as_json(&plan.report);
            json["digest"] = digest.as_str().into();
            println!("{}", output::json(&json));
        }
        Format::Table => println!("{}Digest of this report: {digest}", words(&plan.report)),
    }
    if let Some(ranges) = some {
        let lost = opened.must_be_lost(ranges, tls.as_ref());
        lost.map_err(|line| verdict.refuse(Refusal::Majority, line))?;
    }
    if let Some(objection) = plan.report.objection() {
        let line = format!("{objection}: recover a node that has one, or --empty-lost-ranges");
        return Err(verdict.refuse(Refusal::LostKeys, line));
    }
    let asked = plan.report.gone.iter().filter(|record| !away.contains(&record.id.0));
    must_be_away(&opened, asked, tls.as_ref(), verdict)?;
    if let Some(expected) = args.expect.filter(|expected| *expected != digest) {
        let line = format!(
            "nothing was changed: what is kept and lost is not what report {expected} has shown, but {digest}"
        );
        return Err(verdict.refuse(Refusal::Outdated, line));
    }
    if dry_run {
        return Ok(());
    }
    if !accepted {
        return Err(Failure::usage("nothing was changed: it takes --i-accept-data-loss"));
    }
    if let Some(id) = &args.once {
        opened.set_mark(&Mark { id: id.clone(), digest: digest.clone(), done: false })?;
    }
    let data = opened.carry_out(&plan).map_err(Failure::broken)?;
    if let Some(id) = args.once {
        data.set_mark(&Mark { id, digest: digest.clone(), done: true })?;
    }
    verdict.carried_out(digest, false);
    if output == Format::Table {
        let others = ", and the others with empty --data directories";
        println!("\nDone. Start this node as always{}.", if some.is_none() { others } else { "" });
    }
    Ok(())
}

/// Asks all other nodes whether they run, and refuses if one does.
fn must_be_away<'a>(
    opened: &Opened,
    others: impl Iterator<Item = &'a NodeRecord>,
    tls: Option<&Tls>,
    verdict: &mut Verdict,
) -> Result<(), Failure> {
    let (mut running, mut unclear, mut lines) = (Vec::new(), None, Vec::new());
    for record in others {
        match presence(record, &opened.identity, tls) {
            Presence::Away => {}
            Presence::Runs(line) => {
                running.push(record);
                lines.push(line);
            }
            Presence::Unclear(line) => unclear = unclear.or(Some(line)),
        }
    }
    verdict.running(&running);
    let ids: Vec<NodeId> = running.iter().map(|record| record.id).collect();
    let first = lines.into_iter().next();
    if let (Some(first), Some(majority)) = (&first, opened.majority_with(&ids)) {
        return Err(verdict.refuse(Refusal::Majority, format!("{first}. {majority}")));
    }
    if let Some(line) = unclear {
        return Err(verdict.refuse(Refusal::Unclear, line));
    }
    match first {
        Some(line) => Err(verdict.refuse(Refusal::Running, line)),
        None => Ok(()),
    }
}

fn nodes(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    names.join(", ")
}

fn keys(span: &Span) -> String {
    let start = printable(&span.start);
    match &span.end {
        Some(end) => format!("from {start} to {}", printable(end)),
        None => format!("from {start} on"),
    }
}

/// What is kept and lost, for people.
fn words(report: &Report) -> String {
    let Report { node, meta, kept, lost, gone, revision, compacted } = report;
    let mut text = String::new();
    let mut say = |line: String| writeln!(text, "{line}").expect("a string takes everything");
    let whole = *compacted > 0;
    if whole {
        say(format!("{node} becomes the whole cluster."));
        let (term, index) = (meta.term, meta.index);
        say(format!(
            "The directory, and client leases, are of term {term}, entry {index} of the meta range."
        ));
    }
    say("Kept, up to the end of the log here; what the lost copies alone had beyond that is gone:"
        .to_owned());
    for Kept { range, span, last, revision, gone, copies, uncounted } in kept {
        let (term, index) = (last.term, last.index);
        let mut line = format!(
            "  {range}, keys {}: to term {term}, entry {index}, revision {revision}; also on {}; {copies} copies again",
            keys(span),
            if gone.is_empty() { "no other".to_owned() } else { nodes(gone) }
        );
        if *uncounted {
            line.push_str(
                "; THIS COPY DID NOT COUNT (it was being made, or replaced) AND MAY BE OLD",
            );
        }
        say(line);
    }
    for Lost { span, ranges, nodes: on, anew } in lost {
        let of: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let then = match anew {
            Some(range) => format!("; empty from now on, as {range}"),
            None => String::new(),
        };
        say(format!("LOST: keys {} ({}, on {}){then}", keys(span), of.join(", "), nodes(on)));
    }
    if !whole {
        say("Other copies of these that come back are refused. Revisions go on.".to_owned());
        return text;
    }
    let names: Vec<String> =
        gone.iter().map(|record| format!("{} ({})", record.id, record.name)).collect();
    say(format!("Gone for ever, and refused should they come back: {}.", names.join(", ")));
    say(format!(
        "The newest revision here is {revision}. The next one is above {compacted}, and everything up to \
         that is compacted: watches from before end, and clients list again."
    ));
    text
}

fn as_json(report: &Report) -> Value {
    let Report { node, meta, kept, lost, gone, revision, compacted } = report;
    let span = |span: &Span| {
        let end = span.end.as_ref().map(|end| printable(end));
        json!({ "start": printable(&span.start), "end": end })
    };
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    let kept: Vec<Value> = kept
        .iter()
        .map(|kept| {
            json!({
                "range": kept.range.0, "keys": span(&kept.span), "term": kept.last.term,
                "index": kept.last.index, "revision": kept.revision, "gone": ids(&kept.gone),
                "copies": kept.copies, "counted": !kept.uncounted,
            })
        })
        .collect();
    let lost: Vec<Value> = lost
        .iter()
        .map(|lost| {
            json!({
                "keys": span(&lost.span), "nodes": ids(&lost.nodes),
                "ranges": lost.ranges.iter().map(|range| range.0).collect::<Vec<_>>(),
                "anew": lost.anew.map(|range| range.0),
            })
        })
        .collect();
    json!({
        "node": node.0, "meta": { "term": meta.term, "index": meta.index }, "kept": kept,
        "lost": lost, "gone": gone.iter().map(|record| record.id.0).collect::<Vec<_>>(),
        "revision": revision, "compacted": compacted,
    })
}
