//! `status`: how protected the data is, at once or after waiting for it.

use super::client::{Admin, ClientArgs, ask, block_on};
use super::output::{self, Column, Format};
use super::{Exit, Failure};
use crate::gateway::{Progress, about, size};
use clap::{Args, ValueEnum};
use holdfast_proto::admin::StatusRequest;
use serde_json::Value;
use std::fmt::Write;
use std::time::{Duration, Instant};
use tonic::Status;

pub(super) const AFTER_HELP: &str = "\
Examples:
  holdfast-node status -o json
  holdfast-node status --wait Full --timeout 60s
  holdfast-node status --endpoints 127.0.0.1:2389,127.0.0.1:2399

Protection is Full (every range has all its copies), Degraded (some lack copies), Reprotecting
(copies are being rebuilt) or Unavailable (some range has no majority). Exit code 0 only for Full,
or for the state that --wait names.";

/// Between two looks while waiting.
const WAIT_INTERVAL: Duration = Duration::from_millis(200);

/// The flags of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Wait until protection is this, at most --timeout
    #[arg(long, value_enum, ignore_case = true, value_name = "STATE")]
    wait: Option<Protection>,
}

/// How protected the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Protection {
    Full,
    Degraded,
    Reprotecting,
    Unavailable,
}

impl Protection {
    fn name(self) -> &'static str {
        match self {
            Self::Full => "Full",
            Self::Degraded => "Degraded",
            Self::Reprotecting => "Reprotecting",
            Self::Unavailable => "Unavailable",
        }
    }
}

pub(super) fn run(args: StatusArgs) -> Result<(), Failure> {
    let wanted = args.wait.unwrap_or(Protection::Full).name();
    let answer = block_on(look(&args, wanted))??;
    match args.client.output {
        Format::Json => println!("{}", output::json(&answer)),
        Format::Table => print!("{}", people(&answer)),
    }
    if answer["protection"] == wanted {
        return Ok(());
    }
    let line = match args.wait {
        Some(_) => format!("protection is still not {wanted} after {}", args.client.timeout),
        None => String::new(),
    };
    Err(Failure { exit: Exit::Negative, line })
}

/// Asks once, or until the wanted state or the end of the time.
async fn look(args: &StatusArgs, wanted: &str) -> Result<Value, Failure> {
    let deadline = Instant::now() + args.client.timeout.0;
    loop {
        let answer = fetch(&args.client).await;
        let there = answer.as_ref().is_ok_and(|answer| answer["protection"] == wanted);
        let over = Instant::now() + WAIT_INTERVAL >= deadline;
        let unreachable = matches!(&answer, Err(failure) if failure.exit == Exit::Unreachable);
        if there || over || args.wait.is_none() || (answer.is_err() && !unreachable) {
            return answer;
        }
        tokio::time::sleep(WAIT_INTERVAL).await;
    }
}

/// The status as JSON.
pub(super) async fn fetch(args: &ClientArgs) -> Result<Value, Failure> {
    let json = ask(args, async |mut admin: Admin| -> Result<_, Status> {
        Ok(admin.status(StatusRequest { local: false }).await?.into_inner().json)
    })
    .await?;
    serde_json::from_slice(&json)
        .map_err(|error| Failure::broken(format!("the node's answer is not JSON: {error}")))
}

fn people(status: &Value) -> String {
    const COLUMNS: [Column; 4] = [
        ("NODE", &["id"]),
        ("STATE", &["state"]),
        ("RANGES", &["ranges"]),
        ("LEADERS", &["leaders"]),
    ];
    let ranges = &status["ranges"];
    let mut text = format!(
        "protection: {}\nranges:     {} total, {} fully replicated, {} unavailable\n",
        status["protection"].as_str().unwrap_or("unknown"),
        ranges["total"],
        ranges["fullyReplicated"],
        ranges["unavailable"],
    );
    let left = status["bytesRemaining"].as_u64().unwrap_or(0);
    // An older node tells no progress.
    if let Some(progress) = Progress::from_json(&status["reprotection"]) {
        let Progress { ranges_done, ranges_total, bytes_done, bytes_total, seconds_left } =
            progress;
        writeln!(
            text,
            "copied:     {ranges_done} of {ranges_total} ranges, {} of {}, {}",
            size(bytes_done),
            size(bytes_total),
            about(seconds_left)
        )
        .expect("a string takes any text");
    } else if left > 0 {
        writeln!(text, "to copy:    {}", size(left)).expect("as above");
    }
    for diverged in status["diverged"].as_array().map_or(&[][..], Vec::as_slice) {
        let (range, nodes) = (&diverged["range"], &diverged["nodes"]);
        writeln!(text, "DIVERGED:   range {range}, copies on nodes {nodes}").expect("as above");
    }
    text.push('\n');
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    text.push_str(&output::table(nodes, &COLUMNS));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn people_see_the_same_facts() {
        let status = json!({
            "protection": "Degraded",
            "ranges": {"total": 3, "fullyReplicated": 2, "unavailable": 0},
            "nodes": [{"id": 1, "state": "Up", "ranges": 3, "leaders": 2}],
            "bytesRemaining": 17
        });
        let text = people(&status);
        assert!(text.contains("3 total, 2 fully replicated, 0 unavailable"));
        assert!(text.contains("to copy:    1 KiB"));
        assert!(text.contains("1     Up     3       2"));
    }

    #[test]
    fn people_see_how_far_it_is() {
        let mut status = json!({
            "protection": "Reprotecting",
            "ranges": {"total": 3, "fullyReplicated": 2, "unavailable": 0},
            "nodes": [],
            "bytesRemaining": 3 << 20,
            "reprotection": {
                "rangesDone": 1, "rangesTotal": 4, "bytesDone": 1 << 20, "bytesTotal": 4 << 20,
                "secondsLeft": 38
            }
        });
        let line = "copied:     1 of 4 ranges, 1 MiB of 4 MiB, about 40 s left";
        assert!(people(&status).contains(line));
        status["reprotection"]["secondsLeft"] = Value::Null;
        assert!(people(&status).contains("4 MiB, time left unknown"));
        status["reprotection"] = Value::Null;
        assert!(people(&status).contains("to copy:    3 MiB"));
    }
}
