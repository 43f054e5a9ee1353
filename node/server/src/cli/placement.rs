//! `placement`: how many copies the ranges under which prefixes have, and what fails together.

use super::Failure;
use super::admin::{list, say, until};
use super::client::{Admin, ClientArgs, ask, block_on};
use super::output::Column;
use crate::config::parse_key;
use clap::{Args, Subcommand};
use holdfast_proto::admin::{
    PlacementRequest, RemovePlacementRequest, SetFailureDomainRequest, SetPlacementRequest,
};
use serde_json::Value;
use tonic::Status;

pub(super) const AFTER_HELP: &str = "\
Examples:
  holdfast-node placement set --prefix users/ --replicas 5 --wait --timeout 5m
  holdfast-node placement set --prefix cache/ --replicas 1 --allow-fewer
  holdfast-node placement list
  holdfast-node placement remove --prefix users/
  holdfast-node placement domain --node 3 --name zone-a

Ranges are cut where a prefix begins and ends; then copies are made, or go, one after the other.";

/// The words of `placement`.
#[derive(Debug, Args)]
pub(super) struct PlacementArgs {
    #[command(subcommand)]
    command: PlacementCommand,
}

#[derive(Debug, Subcommand)]
enum PlacementCommand {
    /// Give the keys under a prefix so many copies
    Set(SetArgs),
    /// Show all policies, and how many ranges follow them already
    List(ClientArgs),
    /// Give the keys under a prefix as many copies as those around them
    Remove(RemoveArgs),
    /// Say what a node fails together with that was started without --failure-domain
    Domain(DomainArgs),
}

#[derive(Debug, Args)]
struct SetArgs {
    /// First bytes of the keys: text, or hex after 0x; empty: all keys that no other policy names
    #[arg(long, value_name = "PREFIX")]
    prefix: String,
    /// Copies: 1, 3, 5 or 7, at most the number of nodes
    #[arg(long, value_name = "N")]
    replicas: u32,
    /// Also if the cluster was formed to survive more failures than so many copies do
    #[arg(long)]
    allow_fewer: bool,
    /// Wait until all ranges have as many copies, at most --timeout
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// As it was set
    #[arg(long, value_name = "PREFIX")]
    prefix: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct DomainArgs {
    /// The node's number, as in `nodes`
    #[arg(long, value_name = "ID")]
    node: u64,
    /// What it fails together with, for example its zone; "": it fails alone
    #[arg(long, value_name = "NAME")]
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: PlacementArgs) -> Result<(), Failure> {
    match args.command {
        PlacementCommand::Set(args) => set(args),
        PlacementCommand::List(client) => show(&client),
        PlacementCommand::Remove(args) => remove(args),
        PlacementCommand::Domain(args) => domain(args),
    }
}

fn show(client: &ClientArgs) -> Result<(), Failure> {
    const COLUMNS: [Column; 5] = [
        ("PREFIX", &["prefix"]),
        ("REPLICAS", &["replicas"]),
        ("FAILURES", &["maxFailures"]),
        ("RANGES", &["ranges"]),
        ("COMPLETE", &["complete"]),
    ];
    list(&block_on(policies(client))??, "policies", client.output, &COLUMNS)
}

async fn policies(client: &ClientArgs) -> Result<Vec<u8>, Failure> {
    ask(client, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.placement(PlacementRequest {}).await?.into_inner().json.to_vec())
    })
    .await
}

fn set(args: SetArgs) -> Result<(), Failure> {
    let SetArgs { prefix, replicas, allow_fewer, wait, client } = args;
    let prefix = parse_key(&prefix).map_err(Failure::usage)?;
    let request = SetPlacementRequest { prefix: prefix.clone(), replicas, allow_fewer };
    let message = block_on(ask(&client, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.set_placement(request.clone()).await?.into_inner().message)
    }))??;
    if wait {
        let done = |ranges: &[Value]| complete(ranges, &prefix, replicas.into());
        block_on(until(&client, "not all ranges have their copies yet", done))??;
    }
    say(&client, &message);
    Ok(())
}

/// Has every range as many copies as it should have, and does one begin with the prefix that should have so
/// many? The first answers may be from before the policy.
fn complete(ranges: &[Value], prefix: &[u8], copies: u64) -> bool {
    let begins = |range: &Value| {
        let start = range["start"].as_str().and_then(|text| parse_key(text).ok());
        range["kind"] == "data"
            && range["wanted"] == copies
            && start.is_some_and(|start| start == prefix)
    };
    let has_all = |range: &Value| {
        let replicas = range["replicas"].as_array().into_iter().flatten();
        let voters = replicas.filter(|replica| replica["kind"] == "voter").count() as u64;
        range["wanted"].as_u64().is_none_or(|wanted| wanted == voters)
    };
    ranges.iter().any(begins) && ranges.iter().all(has_all)
}

fn remove(args: RemoveArgs) -> Result<(), Failure> {
    let RemoveArgs { prefix, client } = args;
    let prefix = parse_key(&prefix).map_err(Failure::usage)?;
    let message = block_on(ask(&client, async |mut admin: Admin| -> Result<_, Status> {
        let request = RemovePlacementRequest { prefix: prefix.clone() };
        Ok(admin.remove_placement(request).await?.into_inner().message)
    }))??;
    say(&client, &message);
    Ok(())
}

fn domain(args: DomainArgs) -> Result<(), Failure> {
    let DomainArgs { node, name, client } = args;
    let message = block_on(ask(&client, async |mut admin: Admin| -> Result<_, Status> {
        let request = SetFailureDomainRequest { node, domain: name.clone() };
        Ok(admin.set_failure_domain(request).await?.into_inner().message)
    }))??;
    say(&client, &message);
    Ok(())
}
