//! Counts what the workers saw and prints it.

use super::judge::{Key, Verdict};
use crate::report::{Line, Operation, Request, Summary, Wrong};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tonic::Status;

/// Where the workers report to.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Print every request.
    all: bool,
    counted: Mutex<Counted>,
}

#[derive(Debug)]
struct Counted {
    summary: Summary,
    /// When a write last succeeded, at first when the client started.
    last_put: Instant,
    /// The same for each key.
    last_puts: BTreeMap<String, Instant>,
    started: Instant,
    /// The newest revision that an acknowledged write had.
    revision: i64,
}

/// A request that ended.
pub(super) struct Ended<'a> {
    pub(super) operation: Operation,
    pub(super) key: &'a Key,
    pub(super) gateway: u64,
    pub(super) began: Instant,
}

impl Recorder {
    pub(super) fn new(all: bool) -> Self {
        let now = Instant::now();
        let counted = Counted {
            summary: Summary::default(),
            last_put: now,
            last_puts: BTreeMap::new(),
            started: now,
            revision: 0,
        };
        Self { all, counted: Mutex::new(counted) }
    }

    /// A request succeeded.
    pub(super) fn succeeded(&self, ended: &Ended<'_>) {
        let now = Instant::now();
        let mut counted = self.counted.lock();
        let started = counted.started;
        let summary = &mut counted.summary;
        *summary.gateways.entry(hexadecimal(ended.gateway)).or_default() += 1;
        summary.slowest_ms = summary.slowest_ms.max(milliseconds(now - ended.began));
        match ended.operation {
            Operation::Get => summary.gets += 1,
            Operation::Put => {
                summary.puts += 1;
                let last = std::mem::replace(&mut counted.last_put, now);
                let last_of_key = counted.last_puts.insert(ended.key.name.clone(), now);
                counted.note_gaps(now, last, last_of_key.unwrap_or(started));
            }
        }
        drop(counted);
        if self.all {
            say(&Line::Request(request(ended, None)));
        }
    }

    /// A request failed.
    pub(super) fn failed(&self, ended: &Ended<'_>, status: &Status) {
        let code = format!("{:?}", status.code());
        let line = request(ended, Some(format!("{code}: {}", causes(status))));
        let mut counted = self.counted.lock();
        counted.summary.failed += 1;
        *counted.summary.failures.entry(code).or_default() += 1;
        *counted.summary.failed_gateways.entry(line.gateway.clone()).or_default() += 1;
        drop(counted);
        say(&Line::Request(line));
    }

    /// A read was answered; counts what is wrong with the answer.
    pub(super) fn judged(&self, key: &Key, verdict: Verdict) {
        match verdict {
            Verdict::Right => {}
            Verdict::Stale(what) => {
                self.counted.lock().summary.stale += 1;
                wrong(key, what);
            }
            Verdict::Impossible(what) => {
                self.counted.lock().summary.impossible += 1;
                wrong(key, what);
            }
        }
    }

    /// The newest revision of a write that was acknowledged before now.
    pub(super) fn revision(&self) -> i64 {
        self.counted.lock().revision
    }

    /// A write was acknowledged at this revision and had begun when [`Self::revision`] was `before`.
    pub(super) fn write_had(&self, key: &Key, before: i64, revision: i64) {
        let mut counted = self.counted.lock();
        counted.revision = counted.revision.max(revision);
        if revision <= before {
            counted.summary.impossible += 1;
            drop(counted);
            wrong(key, format!("written at revision {revision}, but {before} was before it"));
        }
    }

    /// Everything so far; a gap that has not ended counts up to now.
    pub(super) fn summary(&self) -> Summary {
        let now = Instant::now();
        let mut counted = self.counted.lock();
        let last = counted.last_put;
        let oldest = counted.last_puts.values().copied().min().unwrap_or(counted.started);
        counted.note_gaps(now, last, oldest);
        Summary { at_ms: now_ms(), ..counted.summary.clone() }
    }
}

impl Counted {
    fn note_gaps(&mut self, now: Instant, last: Instant, last_of_key: Instant) {
        let summary = &mut self.summary;
        summary.longest_gap_ms = summary.longest_gap_ms.max(milliseconds(now - last));
        summary.longest_key_gap_ms =
            summary.longest_key_gap_ms.max(milliseconds(now - last_of_key));
    }
}

/// Prints something wrong.
pub(super) fn wrong(key: &Key, what: String) {
    say(&Line::Wrong(Wrong { at_ms: now_ms(), key: key.name.clone(), what }));
}

/// Prints a line. A reader that went away does not matter: nothing is left to tell it.
pub(super) fn say(line: &Line) {
    let mut text = serde_json::to_string(line).expect("reports are plain data");
    text.push('\n');
    drop(std::io::stdout().lock().write_all(text.as_bytes()));
}

/// The message of a failure with everything that it came from.
fn causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn request(ended: &Ended<'_>, error: Option<String>) -> Request {
    Request {
        at_ms: now_ms(),
        took_ms: milliseconds(ended.began.elapsed()),
        operation: ended.operation,
        key: ended.key.name.clone(),
        gateway: hexadecimal(ended.gateway),
        error,
    }
}

/// The name of a node in reports; empty before the first answer.
fn hexadecimal(node: u64) -> String {
    if node == 0 { String::new() } else { format!("{node:x}") }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("less than half a billion years")
}

fn now_ms() -> u64 {
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970"))
}
