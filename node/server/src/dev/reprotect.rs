//! What the operator does on Kubernetes, for a development cluster: when a node has been away for
//! the configured delay, its copies are made on other nodes, and whoever looks is told of each step.
//!
//! Invariants: [`Guard`] only decides; a node whose state is not known is not down; one decision a
//! node, repeated under the same name until the cluster has taken it.

use super::cluster::Cluster;
use super::ready::is_ready;
use crate::cli::ClientSecurity;
use crate::config::HumanDuration;
use crate::gateway::{Progress, about, size};
use holdfast_proto::admin::admin_client::AdminClient;
use holdfast_proto::admin::{ReprotectRequest, StatusRequest};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tonic::transport::Channel;

/// Between two looks at the cluster, while nothing is expected to happen.
const INTERVAL: Duration = Duration::from_secs(1);

/// The same while something is, and between two questions whether all nodes serve.
const INTERVAL_SHORT: Duration = Duration::from_millis(250);

/// And at least so many times what a look takes: the nodes work for it, the more the more ranges.
const LOOK_PART: u32 = 50;

/// While all nodes are there and have all their copies, and serve, no more is asked than that; but for this
/// long at most. A report names every range, which takes all nodes some milliseconds for every thousand.
const QUIET_MAX: Duration = Duration::from_secs(30);

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Between two attempts at a decision that the cluster refuses.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Between two reports of progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// What `status` tells, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    protection: String,
    ranges: Ranges,
    nodes: Vec<Node>,
    bytes_remaining: u64,
    #[serde(default)]
    reprotection: Option<Progress>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ranges {
    total: u64,
    fully_replicated: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Node {
    id: u64,
    name: String,
    state: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    /// Print a line.
    Say(String),
    /// Ask the cluster to make the copies of this node elsewhere.
    Reprotect { node: u64, operation: String },
}

#[derive(Debug)]
struct Absence {
    since: Duration,
    operation: String,
    /// The next attempt.
    ask_at: Duration,
    accepted: bool,
    refusal: String,
}

/// Remembers who is away and what was decided. Times are since the start of this process.
#[derive(Debug)]
struct Guard {
    delay: Duration,
    /// Tells this supervisor's decisions from those of another.
    name: String,
    away: BTreeMap<u64, Absence>,
    /// Copies are missing that are being made.
    restoring: bool,
    report_at: Duration,
    reported: String,
}

impl Guard {
    fn new(delay: Duration, name: String) -> Self {
        let (away, reported) = (BTreeMap::new(), String::new());
        Self { delay, name, away, restoring: false, report_at: Duration::ZERO, reported }
    }

    /// Nobody was away when it last looked, and no copies are waited for.
    fn is_quiet(&self) -> bool {
        self.away.is_empty() && !self.restoring
    }

    /// When to look again: what is about to happen shall be noticed soon.
    fn pause(&self, now: Duration) -> Duration {
        if self.restoring || self.away.is_empty() {
            return INTERVAL_SHORT;
        }
        let waiting = self.away.values().filter(|absence| !absence.accepted);
        let next = waiting.map(|absence| absence.ask_at.saturating_sub(now)).min();
        next.map_or(INTERVAL, |left| left.clamp(Duration::from_millis(20), INTERVAL))
    }

    /// Looks at what the nodes say of themselves.
    fn step(&mut self, now: Duration, view: &View) -> Vec<Act> {
        let mut acts = Vec::new();
        let is_away = |node: &Node| matches!(node.state.as_str(), "Down" | "Condemned");
        for node in view.nodes.iter().filter(|node| is_away(node)) {
            self.away.entry(node.id).or_insert_with(|| {
                acts.push(Act::Say(format!(
                    "{} does not answer; its copies are made elsewhere in {} unless it comes back",
                    node.name,
                    HumanDuration(self.delay)
                )));
                Absence {
                    since: now,
                    operation: format!("{}-{}-{}", self.name, node.id, now.as_millis()),
                    ask_at: now + self.delay,
                    accepted: false,
                    refusal: String::new(),
                }
            });
        }
        self.away.retain(|id, absence| {
            match view.nodes.iter().find(|node| node.id == *id) {
                Some(node) if is_away(node) => true,
                Some(node) => {
                    let away = HumanDuration(Duration::from_secs((now - absence.since).as_secs()));
                    acts.push(Act::Say(format!("{} is back after {away}", node.name)));
                    false
                }
                // It has no copies any more and is gone for good.
                None => false,
            }
        });
        for (node, absence) in &mut self.away {
            if !absence.accepted && now >= absence.ask_at {
                absence.ask_at = now + AGAIN_AFTER;
                let operation = absence.operation.clone();
                acts.push(Act::Reprotect { node: *node, operation });
            }
        }
        self.report(now, view, &mut acts);
        acts
    }

    fn report(&mut self, now: Duration, view: &View, acts: &mut Vec<Act>) {
        if !self.restoring {
            return;
        }
        let Ranges { total, fully_replicated } = view.ranges;
        if view.protection == "Full" {
            self.restoring = false;
            self.reported.clear();
            return acts.push(Act::Say(format!("Full Protection Restored ({total} ranges)")));
        }
        let line = format!(
            "reprotecting: {fully_replicated} of {total} ranges have all their copies, {} to go, {}",
            size(view.bytes_remaining),
            about(view.reprotection.and_then(|progress| progress.seconds_left))
        );
        if now >= self.report_at && line != self.reported {
            self.report_at = now + REPORT_INTERVAL;
            self.reported.clone_from(&line);
            acts.push(Act::Say(line));
        }
    }

    /// The cluster's word on a decision; what to print.
    fn answered(&mut self, node: u64, answer: Result<String, String>) -> Option<String> {
        let absence = self.away.get_mut(&node)?;
        match answer {
            Ok(message) => {
                absence.accepted = true;
                self.restoring = true;
                Some(format!("reprotection starts: {message}"))
            }
            Err(refusal) if refusal != absence.refusal => {
                let line = format!("reprotection of node {node} waits: {refusal}");
                absence.refusal = refusal;
                Some(line)
            }
            Err(_) => None,
        }
    }
}

/// Watches over the cluster for ever.
pub(super) async fn run(cluster: &Cluster, security: &ClientSecurity) {
    let start = Instant::now();
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let delay = cluster.reprotect_delay.parse::<HumanDuration>();
    let delay = delay.expect("checked when it was given").0;
    let mut guard = Guard::new(delay, format!("dev-{epoch}"));
    let mut pause = INTERVAL_SHORT;
    let mut looked = None;
    loop {
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        let lately = looked.is_some_and(|at: Instant| at.elapsed() < QUIET_MAX);
        if lately && guard.is_quiet() && all_ready(cluster).await {
            pause = INTERVAL_SHORT;
            continue;
        }
        looked = Some(began);
        let seen = look(cluster, security).await;
        let took = began.elapsed();
        // Nobody answers: nothing is known, and nothing decided.
        let Some((mut admin, view)) = seen else {
            pause = INTERVAL;
            continue;
        };
        for act in guard.step(start.elapsed(), &view) {
            match act {
                Act::Say(line) => println!("{line}"),
                Act::Reprotect { node, operation } => {
                    let request = ReprotectRequest { node, operation, epoch };
                    let asked = tokio::time::timeout(ANSWER_MAX, admin.reprotect(request)).await;
                    let answer = match asked {
                        Ok(Ok(reply)) => Ok(reply.into_inner().message),
                        Ok(Err(status)) => Err(status.message().to_owned()),
                        Err(_elapsed) => Err("no answer in time".to_owned()),
                    };
                    if let Some(line) = guard.answered(node, answer) {
                        println!("{line}");
                    }
                }
            }
        }
        pause = guard.pause(start.elapsed()).max(took * LOOK_PART).min(ANSWER_MAX);
    }
}

async fn all_ready(cluster: &Cluster) -> bool {
    for number in cluster.numbers() {
        if !is_ready(cluster.ports(number).http).await {
            return false;
        }
    }
    true
}

/// What the first node that answers says about the cluster.
async fn look(
    cluster: &Cluster,
    security: &ClientSecurity,
) -> Option<(AdminClient<Channel>, View)> {
    for number in cluster.numbers() {
        let port = cluster.ports(number).client;
        let asked = tokio::time::timeout(ANSWER_MAX, ask(security, port)).await;
        if let Ok(Some(found)) = asked {
            return Some(found);
        }
    }
    None
}

async fn ask(security: &ClientSecurity, port: u16) -> Option<(AdminClient<Channel>, View)> {
    let endpoint = security.endpoint(&format!("127.0.0.1:{port}")).ok()?;
    let channel = endpoint.connect().await.ok()?;
    let mut admin = AdminClient::new(channel);
    let answer = admin.status(StatusRequest { local: false }).await.ok()?;
    let view = serde_json::from_slice(&answer.into_inner().json).ok()?;
    Some((admin, view))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(30);

    fn view(protection: &str, states: &[&str]) -> View {
        let nodes = states.iter().zip(1..);
        let nodes = nodes.map(|(state, id)| Node {
            id,
            name: format!("node-{id}"),
            state: (*state).to_owned(),
        });
        View {
            protection: protection.to_owned(),
            ranges: Ranges { total: 4, fully_replicated: 1 },
            nodes: nodes.collect(),
            bytes_remaining: 2048,
            reprotection: None,
        }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn asks(acts: &[Act]) -> usize {
        acts.iter().filter(|act| matches!(act, Act::Reprotect { node: 3, .. })).count()
    }

    #[test]
    fn nothing_moves_before_the_delay_and_then_one_decision() {
        let mut guard = Guard::new(DELAY, "t".to_owned());
        let away = view("Degraded", &["Up", "Up", "Down"]);
        assert_eq!(guard.step(seconds(10), &away).len(), 1);
        assert_eq!(guard.step(seconds(39), &away), []);
        let acts = guard.step(seconds(40), &away);
        assert_eq!(asks(&acts), 1);
        assert_eq!(asks(&guard.step(seconds(41), &away)), 0);
        assert!(guard.answered(3, Err("no spare node".to_owned())).is_some());
        assert!(guard.answered(3, Err("no spare node".to_owned())).is_none());
        assert_eq!(guard.step(seconds(45), &away), acts, "the same decision again");
        assert!(guard.answered(3, Ok("yes".to_owned())).is_some());
        assert_eq!(asks(&guard.step(seconds(60), &away)), 0);
    }

    /// A decision is due between two ordinary looks, and the end of what it began as well.
    #[test]
    fn what_is_about_to_happen_is_noticed_soon() {
        let mut guard = Guard::new(DELAY, "t".to_owned());
        assert_eq!(guard.pause(seconds(0)), INTERVAL_SHORT, "somebody may end");
        guard.step(seconds(0), &view("Degraded", &["Up", "Up", "Down"]));
        assert_eq!(guard.pause(seconds(1)), INTERVAL);
        let late = DELAY - Duration::from_millis(300);
        assert_eq!(guard.pause(late), Duration::from_millis(300));
        guard.step(DELAY, &view("Degraded", &["Up", "Up", "Down"]));
        guard.answered(3, Ok("yes".to_owned()));
        assert_eq!(guard.pause(DELAY), INTERVAL_SHORT);
        guard.step(seconds(31), &view("Full", &["Up", "Up", "Down"]));
        assert_eq!(guard.pause(seconds(31)), INTERVAL, "nothing is left to happen");
    }

    #[test]
    fn who_comes_back_in_time_starts_anew() {
        let mut guard = Guard::new(DELAY, "t".to_owned());
        guard.step(seconds(0), &view("Degraded", &["Up", "Up", "Down"]));
        let acts = guard.step(seconds(29), &view("Full", &["Up", "Up", "Up"]));
        assert_eq!(acts, [Act::Say("node-3 is back after 29s".to_owned())]);
        guard.step(seconds(31), &view("Degraded", &["Up", "Up", "Down"]));
        assert_eq!(asks(&guard.step(seconds(60), &view("Degraded", &["Up", "Up", "Down"]))), 0);
    }

    #[test]
    fn the_end_is_told_once() {
        let mut guard = Guard::new(DELAY, "t".to_owned());
        assert!(guard.is_quiet());
        guard.step(seconds(0), &view("Degraded", &["Up", "Up", "Down"]));
        assert!(!guard.is_quiet());
        guard.step(seconds(30), &view("Degraded", &["Up", "Up", "Down"]));
        guard.answered(3, Ok("yes".to_owned()));
        let acts = guard.step(seconds(31), &view("Reprotecting", &["Up", "Up", "Condemned"]));
        let line =
            "reprotecting: 1 of 4 ranges have all their copies, 2 KiB to go, time left unknown";
        assert_eq!(acts, [Act::Say(line.to_owned())]);
        let acts = guard.step(seconds(32), &view("Full", &["Up", "Up"]));
        assert_eq!(acts, [Act::Say("Full Protection Restored (4 ranges)".to_owned())]);
        assert!(guard.is_quiet());
        assert_eq!(guard.step(seconds(33), &view("Full", &["Up", "Up"])), []);
    }
}
