//! `check`: are the copies of every range equal?

use super::admin::{id, parse};
use super::client::{Admin, ClientArgs, ask, block_on};
use super::output::{self, Column, Format};
use super::{Exit, Failure};
use clap::Args;
use holdfast_proto::admin::{CheckRequest, RangesRequest};
use serde_json::{Value, json};
use std::time::Duration;
use tonic::{Request, Status};

pub(super) const AFTER_HELP: &str = "\
Examples:
  holdfast-node check                          every range, one after another
  holdfast-node check --range 3 --timeout 5m   one with much data

Every copy hashes what it holds at the same place of the log, at a bounded rate (`serve
--check-rate`), while the range serves. Exit code 0: all copies of all ranges are equal; 1: some
differ (`status` names them from now on, and etcdctl alarm list says CORRUPT); 3: some copy could not
be compared, because its node does not answer or is being replaced. --timeout is for each range.";

/// The flags of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Only this range, as `ranges` shows it [default: every range]
    #[arg(long, value_name = "ID", value_parser = id)]
    range: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: CheckArgs) -> Result<(), Failure> {
    let client = &args.client;
    let ranges = match args.range {
        Some(range) => vec![range],
        None => block_on(ranges(client))??,
    };
    let mut found = Vec::new();
    for range in ranges {
        found.push(block_on(check(client, range))??);
    }
    print(client.output, &found);
    verdict(&found)
}

async fn ranges(args: &ClientArgs) -> Result<Vec<u64>, Failure> {
    let json = ask(args, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.ranges(RangesRequest {}).await?.into_inner().json)
    })
    .await?;
    let list = parse(&json)?;
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    Ok(list.iter().filter_map(|range| range["id"].as_u64()).collect())
}

async fn check(args: &ClientArgs, range: u64) -> Result<Value, Failure> {
    // The node answers first, and says why, if it takes too long.
    let limit = args.timeout.0.saturating_sub(Duration::from_millis(500));
    let json = ask(args, async |mut admin: Admin| -> Result<_, Status> {
        let mut request = Request::new(CheckRequest { range });
        request.set_timeout(limit.max(Duration::from_millis(100)));
        Ok(admin.check(request).await?.into_inner().json)
    })
    .await?;
    parse(&json)
}

fn print(format: Format, found: &[Value]) {
    const COLUMNS: [Column; 5] = [
        ("RANGE", &["range"]),
        ("RESULT", &["result"]),
        ("REVISION", &["revision"]),
        ("COPIES", &["copies"]),
        ("DIFFER", &["diverged"]),
    ];
    match format {
        Format::Json => println!("{}", output::json(&json!({ "ranges": found }))),
        Format::Table => print!("{}", output::table(found, &COLUMNS)),
    }
}

fn verdict(found: &[Value]) -> Result<(), Failure> {
    let with = |result: &str| {
        let ranges = found.iter().filter(|range| range["result"] == result);
        ranges.map(|range| range["range"].to_string()).collect::<Vec<_>>().join(", ")
    };
    let (diverged, incomplete) = (with("Diverged"), with("Incomplete"));
    if !diverged.is_empty() {
        let line =
            format!("copies differ in range {diverged}: see the column DIFFER for the nodes");
        return Err(Failure { exit: Exit::Negative, line });
    }
    if !incomplete.is_empty() {
        let line =
            format!("not every copy could be compared in range {incomplete}: try again later");
        return Err(Failure::broken(line));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_the_worst() {
        let range = |number: u64, result: &str| json!({"range": number, "result": result});
        let exit = |found: &[Value]| verdict(found).err().map(|failure| failure.exit);
        assert_eq!(exit(&[range(1, "Equal"), range(2, "Equal")]), None);
        assert_eq!(exit(&[range(1, "Equal"), range(2, "Incomplete")]), Some(Exit::Failure));
        let worst = [range(1, "Incomplete"), range(2, "Diverged"), range(7, "Diverged")];
        assert_eq!(exit(&worst), Some(Exit::Negative));
        assert!(verdict(&worst).unwrap_err().line.contains("range 2, 7"));
    }
}
