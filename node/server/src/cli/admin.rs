//! Lists of ranges and nodes, and what an administrator may do with them.

use super::client::{Admin, ClientArgs, ask, block_on};
use super::output::{self, Column, Format};
use super::{Exit, Failure};
use crate::config::{HumanDuration, parse_key};
use clap::Args;
use holdfast_proto::admin::{
    DrainRequest, MergeRequest, MoveRequest, NodesRequest, RangesReply, RangesRequest,
    ReprotectRequest, SplitRequest, TransferRequest, UndrainRequest,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tonic::Status;

/// Between two looks whether the ranges are as wanted.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The flags of `split`.
#[derive(Debug, Args)]
pub(super) struct SplitArgs {
    /// First key of the new range: text, or hex after 0x
    key: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// The flags of `transfer`.
#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    /// Number of the range, as `ranges` shows it
    #[arg(value_parser = id)]
    range: u64,
    /// Number of the node that is to lead, as `nodes` shows it
    #[arg(value_parser = id)]
    node: u64,
    #[command(flatten)]
    client: ClientArgs,
}

/// The flags of `drain`.
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// Number of the node, as `nodes` shows it
    #[arg(value_parser = id)]
    node: u64,
    /// Give its copies to other nodes too, and then forget the node
    #[arg(long)]
    replicas: bool,
    /// Ends after this, unless the same is said once more before [default: never]
    #[arg(long, value_name = "TIME")]
    ttl: Option<HumanDuration>,
    #[command(flatten)]
    client: ClientArgs,
}

/// The flags of `undrain`.
#[derive(Debug, Args)]
pub(super) struct UndrainArgs {
    /// Number of the node, as `nodes` shows it
    #[arg(value_parser = id)]
    node: u64,
    #[command(flatten)]
    client: ClientArgs,
}

/// The flags of `reprotect`.
#[derive(Debug, Args)]
pub(super) struct ReprotectArgs {
    /// Number of the node, as `nodes` shows it
    #[arg(value_parser = id)]
    node: u64,
    /// Name of this decision; a repetition has no further effect [default: a new one]
    #[arg(long, value_name = "TEXT")]
    operation: Option<String>,
    /// Counts those who decide; a lower one than the cluster has seen is refused, and 0 is a person
    #[arg(long, value_name = "N", default_value_t = 0)]
    epoch: u64,
    #[command(flatten)]
    client: ClientArgs,
}

/// The flags of `ranges`.
#[derive(Debug, Args)]
pub(super) struct RangesArgs {
    /// Say what is wrong about where copies and leaders are; exit code 1 if anything is
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// The flags of `move`.
#[derive(Debug, Args)]
pub(super) struct MoveArgs {
    /// Number of the range, as `ranges` shows it
    #[arg(long, value_parser = id)]
    range: u64,
    /// Number of the node that has the copy
    #[arg(long, value_name = "NODE", value_parser = id)]
    from: u64,
    /// Number of the node that is to have it
    #[arg(long, value_name = "NODE", value_parser = id)]
    to: u64,
    /// Wait until it is done, at most --timeout
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// The flags of `merge`.
#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// Number of the range that takes in its right neighbour, as `ranges` shows it
    #[arg(long, value_parser = id)]
    range: u64,
    /// Wait until it is done, at most --timeout
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// A number, with or without the letter that ids are printed with.
pub(super) fn id(text: &str) -> Result<u64, String> {
    text.trim_start_matches(['r', 'n'])
        .parse()
        .map_err(|_| "expected the number of a range or node".to_owned())
}

pub(super) fn ranges(args: RangesArgs) -> Result<(), Failure> {
    const COLUMNS: [Column; 7] = [
        ("RANGE", &["id", "range"]),
        ("START", &["start"]),
        ("END", &["end"]),
        ("NODES", &["replicas", "nodes"]),
        ("COPIES", &["wanted"]),
        ("LEADER", &["leader"]),
        ("STATE", &["state"]),
    ];
    let RangesArgs { check, client } = args;
    let answer = block_on(ask(&client, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.ranges(RangesRequest {}).await?.into_inner())
    }))??;
    let RangesReply { json, problems } = answer;
    if check && client.output == Format::Json {
        let ranges: Value = parse(&json)?;
        println!("{}", output::json(&json!({ "ranges": ranges, "problems": problems })));
    } else {
        list(&json, "ranges", client.output, &COLUMNS)?;
    }
    if !check || problems.is_empty() {
        return Ok(());
    }
    if client.output == Format::Table {
        println!();
        for problem in &problems {
            println!("{problem}");
        }
    }
    let found = problems.iter().filter(|line| !line.starts_with("next: ")).count();
    let line = format!("{found} problems with where copies and leaders are");
    Err(Failure { exit: Exit::Negative, line })
}

pub(super) fn parse(json: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(json)
        .map_err(|error| Failure::broken(format!("the node's answer is not JSON: {error}")))
}

pub(super) fn move_copy(args: MoveArgs) -> Result<(), Failure> {
    let MoveArgs { range, from, to, wait, client } = args;
    let message = block_on(ask(&client, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.r#move(MoveRequest { range, from, to }).await?.into_inner().message)
    }))??;
    if wait {
        let otherwise = format!("range {range}: the copy is not on node {to} alone yet");
        block_on(until(&client, &otherwise, |ranges| has_moved(ranges, (range, from, to))))??;
        say(&client, &format!("range {range}: the copy is on node {to}"));
    } else {
        say(&client, &message);
    }
    Ok(())
}

pub(super) fn merge(args: MergeArgs) -> Result<(), Failure> {
    let MergeArgs { range, wait, client } = args;
    let reply = block_on(ask(&client, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.merge(MergeRequest { range }).await?.into_inner())
    }))??;
    if wait {
        let otherwise = format!("range {}: it is still there", reply.right);
        let gone = |ranges: &[Value]| ranges.iter().all(|range| range["id"] != reply.right);
        block_on(until(&client, &otherwise, gone))??;
        say(&client, &format!("range {}: it is a part of range {range}", reply.right));
    } else {
        say(&client, &reply.message);
    }
    Ok(())
}

/// Has a copy moved?
fn has_moved(ranges: &[Value], (range, from, to): (u64, u64, u64)) -> bool {
    let copies = ranges.iter().find(|known| known["id"] == range).map(|known| &known["replicas"]);
    let has = |node: u64| {
        let mut copies = copies.and_then(Value::as_array).into_iter().flatten();
        copies.any(|copy| copy["node"] == node && copy["kind"] == "voter")
    };
    has(to) && !has(from)
}

/// Waits until the ranges are as wanted; if they are not in time, says `otherwise`.
pub(super) async fn until(
    client: &ClientArgs,
    otherwise: &str,
    done: impl Fn(&[Value]) -> bool,
) -> Result<(), Failure> {
    let deadline = Instant::now() + client.timeout.0;
    loop {
        let json = ask(client, async |mut admin: Admin| -> Result<_, Status> {
            Ok(admin.ranges(RangesRequest {}).await?.into_inner().json)
        })
        .await?;
        if parse(&json)?.as_array().is_some_and(|ranges| done(ranges)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let line = format!("{otherwise}: see `ranges`");
            return Err(Failure { exit: Exit::Negative, line });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

pub(super) fn nodes(args: ClientArgs) -> Result<(), Failure> {
    const COLUMNS: [Column; 10] = [
        ("NODE", &["id", "node"]),
        ("NAME", &["name"]),
        ("STATE", &["state"]),
        ("REACHABLE", &["reachable"]),
        ("RANGES", &["ranges"]),
        ("LEADERS", &["leaders"]),
        ("REQUESTS/S", &["requestsPerSecond"]),
        ("DOMAIN", &["failureDomain"]),
        ("CLIENT", &["clientAddress"]),
        ("PEER", &["peerAddress"]),
    ];
    let json = block_on(ask(&args, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.nodes(NodesRequest {}).await?.into_inner().json)
    }))??;
    list(&json, "nodes", args.output, &COLUMNS)
}

/// Prints an array, or the one under `field` of an object.
pub(super) fn list(
    json: &[u8],
    field: &str,
    format: Format,
    columns: &[Column],
) -> Result<(), Failure> {
    let value: Value = serde_json::from_slice(json)
        .map_err(|error| Failure::broken(format!("the node's answer is not JSON: {error}")))?;
    match format {
        Format::Json => {
            let value = if value.is_array() { serde_json::json!({ field: value }) } else { value };
            println!("{}", output::json(&value));
        }
        Format::Table => {
            let rows = value.as_array().or_else(|| value[field].as_array());
            print!("{}", output::table(rows.map_or(&[], Vec::as_slice), columns));
        }
    }
    Ok(())
}

pub(super) fn split(args: SplitArgs) -> Result<(), Failure> {
    let key = parse_key(&args.key).map_err(Failure::usage)?;
    if key.is_empty() {
        return Err(Failure::usage("KEY must not be empty: the first range starts there already"));
    }
    let message = block_on(ask(&args.client, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.split(SplitRequest { key: key.clone() }).await?.into_inner().message)
    }))??;
    say(&args.client, &message);
    Ok(())
}

pub(super) fn transfer(args: TransferArgs) -> Result<(), Failure> {
    let request = TransferRequest { range: args.range, to: args.node };
    let message = block_on(ask(&args.client, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.transfer(request).await?.into_inner().message)
    }))??;
    say(&args.client, &message);
    Ok(())
}

pub(super) fn drain(args: DrainArgs) -> Result<(), Failure> {
    let ttl_ms = match args.ttl {
        Some(ttl) if ttl.0.is_zero() => {
            return Err(Failure::usage("--ttl must be at least 1s; leave it out for no end"));
        }
        Some(ttl) => ttl.0.as_millis() as u64,
        None => 0,
    };
    let request = DrainRequest { node: args.node, replicas: args.replicas, ttl_ms };
    let message = block_on(ask(&args.client, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.drain(request).await?.into_inner().message)
    }))??;
    say(&args.client, &message);
    Ok(())
}

pub(super) fn reprotect(args: ReprotectArgs) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let request = ReprotectRequest {
        node: args.node,
        operation: args.operation.unwrap_or_else(|| format!("by-hand-{}", now.as_millis())),
        epoch: args.epoch,
    };
    let message = block_on(ask(&args.client, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.reprotect(request.clone()).await?.into_inner().message)
    }))??;
    say(&args.client, &message);
    Ok(())
}

pub(super) fn undrain(args: UndrainArgs) -> Result<(), Failure> {
    let request = UndrainRequest { node: args.node };
    let message = block_on(ask(&args.client, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.undrain(request).await?.into_inner().message)
    }))??;
    say(&args.client, &message);
    Ok(())
}

pub(super) fn say(args: &ClientArgs, message: &str) {
    match args.output {
        Format::Table => println!("{message}"),
        Format::Json => println!("{}", output::json(&json!({ "message": message }))),
    }
}
