//! Forming a cluster: every founder must have heard of every other one's disk.
//!
//! Invariant: a founder forms only if each of the others is as empty as itself, or formed with
//! exactly this disk. Whoever cannot be asked is waited for; nothing is guessed. See
//! docs/protocol.md, section 13.

use super::start::{Plan, Start};
use crate::shutdown::chain;
use crate::transport::{PeerTls, Standing, ask_to_form};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Between two rounds of asking everybody: shortest, and longest.
const INTERVAL_MIN: Duration = Duration::from_millis(20);
const INTERVAL_MAX: Duration = Duration::from_millis(250);

/// Between two lines about what is missing.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// What came of asking everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The cluster is formed, with these disks of the others.
    Form(BTreeMap<String, u64>),
    /// It was formed before, with another disk of this node: this one is new to it.
    Join(String),
    /// Not yet, for these reasons.
    Wait(Vec<String>),
}

/// Asks all other founders until it is clear what to do; `tell` hears what is missing.
pub(super) async fn decide(
    start: &Start,
    plan: &Plan,
    tls: &PeerTls,
    tell: impl Fn(&str),
) -> Outcome {
    let mut interval = INTERVAL_MIN;
    let mut told = Instant::now();
    loop {
        let answers = ask_all(start, plan, tls).await;
        match judge(start, plan, answers) {
            Outcome::Wait(missing) => {
                let missing = missing.join("; ");
                tell(&missing);
                if told.elapsed() >= TELL_INTERVAL {
                    told = Instant::now();
                    warn!("the cluster is not formed yet: {missing}");
                }
            }
            outcome => return outcome,
        }
        tokio::time::sleep(interval).await;
        interval = (interval * 2).min(INTERVAL_MAX);
    }
}

type Answer = (String, Result<Standing, String>);

async fn ask_all(start: &Start, plan: &Plan, tls: &PeerTls) -> Vec<Answer> {
    let mut asked = JoinSet::new();
    for member in plan.founders().members {
        if member.name == start.name {
            continue;
        }
        let founder = start.founder(plan, &member.name);
        let (cluster, tls) = (start.cluster, tls.clone());
        asked.spawn_blocking(move || {
            let answer = ask_to_form(&member.peer_address, tls.as_deref(), cluster, &founder)
                .map_err(|error| format!("{}: {}", member.peer_address, chain(&error)));
            (member.name, answer)
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by(|one, two| one.0.cmp(&two.0));
    answers
}

fn judge(start: &Start, plan: &Plan, answers: Vec<Answer>) -> Outcome {
    let mut with = BTreeMap::new();
    let mut missing = Vec::new();
    let mine = start.founder(plan, "").plan;
    for (name, answer) in answers {
        match answer {
            Ok(Standing::Formed { nonce, .. }) if nonce != Some(start.nonce) => {
                return Outcome::Join(name);
            }
            Ok(Standing::Empty { plan, .. } | Standing::Formed { plan, .. }) if plan != mine => {
                missing.push(format!(
                    "{name} was started with another --initial-cluster, --replicas or --split-keys"
                ));
            }
            Ok(Standing::Empty { nonce, .. }) => {
                with.insert(name, nonce);
            }
            // It knows this disk, so this node need not know its.
            Ok(Standing::Formed { .. }) => {}
            // It has nothing, and will never be one of the founders.
            Ok(Standing::Joining) => info!("{name} joins later, as a new node"),
            Ok(Standing::Other { name: other }) => {
                missing.push(format!("the address of {name} leads to {other}"));
            }
            Err(error) => missing.push(format!("{name} does not answer ({error})")),
        }
    }
    if missing.is_empty() { Outcome::Form(with) } else { Outcome::Wait(missing) }
}

#[cfg(test)]
mod tests {
    use super::super::start::Way;
    use super::*;
    use crate::config::Config;

    fn plan(replicas: usize) -> Plan {
        let arguments = ["--data=d", "--name=a", "--initial-cluster=a=h:1,b=h:2,c=h:3,d=h:4,e=h:5"];
        let config = Config::parse(&arguments).unwrap();
        Plan::of(&Config { replicas, ..config })
    }

    fn outcome(answers: &[(&str, Result<Standing, &str>)]) -> Outcome {
        let start =
            Start { cluster: 7, name: "a".to_owned(), nonce: 1, way: Way::Forming(plan(3)) };
        let answers = answers
            .iter()
            .map(|(name, answer)| ((*name).to_owned(), answer.clone().map_err(ToOwned::to_owned)));
        judge(&start, &plan(3), answers.collect())
    }

    fn number(replicas: usize) -> u64 {
        let start = Start { cluster: 7, name: String::new(), nonce: 0, way: Way::Joining };
        start.founder(&plan(replicas), "").plan
    }

    #[test]
    fn a_cluster_is_formed_only_by_disks_that_all_know_each_other() {
        let plan = number(3);
        let empty = |nonce| Ok(Standing::Empty { nonce, plan });
        let formed = |nonce| Ok(Standing::Formed { nonce, plan });
        assert_eq!(outcome(&[]), Outcome::Form(BTreeMap::new()));
        assert_eq!(
            outcome(&[("b", empty(2)), ("c", formed(Some(1)))]),
            Outcome::Form(BTreeMap::from([("b".to_owned(), 2)]))
        );
        // One that knows another disk of this node decides, whatever the others say.
        for known in [Some(3), None] {
            let answers = [("b", empty(2)), ("c", Err("down")), ("d", formed(known))];
            assert_eq!(outcome(&answers), Outcome::Join("d".to_owned()));
        }
        assert_eq!(
            outcome(&[("b", Ok(Standing::Joining)), ("c", empty(3))]),
            Outcome::Form(BTreeMap::from([("c".to_owned(), 3)]))
        );
    }

    #[test]
    fn whoever_cannot_be_asked_or_has_other_flags_is_waited_for() {
        let plan = number(5);
        assert_ne!(plan, number(3));
        let other = Ok(Standing::Other { name: "x".to_owned() });
        for (answer, part) in [
            (Err("down"), "does not answer"),
            (Ok(Standing::Empty { nonce: 2, plan }), "another --initial-cluster"),
            (Ok(Standing::Formed { nonce: Some(1), plan }), "another --initial-cluster"),
            (other, "leads to x"),
        ] {
            let Outcome::Wait(missing) = outcome(&[("b", answer)]) else {
                panic!("nothing may be guessed");
            };
            assert!(missing[0].contains(part), "{missing:?}");
        }
    }
}
