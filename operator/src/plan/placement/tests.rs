//! Policies that come and go, and failure domains, in every order.

use super::*;
use crate::observe::PolicyView;
use crate::plan::Plan;
use crate::plan::fixture::{Fixture, all_keys};
use serde_json::{Value, json};

fn policy(prefix: &str, replicas: i32, ranges: i64, complete: i64) -> PolicyView {
    PolicyView { prefix: prefix.to_owned(), replicas, ranges, complete }
}

fn asks(fixture: &mut Fixture, policies: Value) {
    fixture.cluster.spec.placement.policies = serde_json::from_value(policies).unwrap();
}

fn has(fixture: &mut Fixture, policies: &[PolicyView]) {
    fixture.report().policies = Some([&[all_keys()], policies].concat());
}

fn set(prefix: &str, replicas: u32) -> Change {
    Change::Set { prefix: prefix.as_bytes().to_vec(), replicas, allow_fewer: false }
}

fn remove(prefix: &str) -> Change {
    Change::Remove { prefix: prefix.as_bytes().to_vec() }
}

/// Answers what a plan asks.
fn answer(fixture: &mut Fixture, plan: &Plan, outcome: Outcome) {
    let now = fixture.now;
    let status = fixture.cluster.status.as_mut().unwrap();
    absorb_change(status, plan.placing.change.as_ref().expect("it asks"), outcome, now);
}

fn yes() -> Outcome {
    Outcome::Accepted("yes".to_owned())
}

fn state(fixture: &Fixture, prefix: &str) -> Option<PolicyState> {
    let mut all = fixture.status().placement.policies.iter();
    all.find(|own| own.prefix == prefix).map(|own| own.state)
}

fn guard(plan: &Plan) -> Option<(&str, &str, &str)> {
    let first = plan.status.blocked_by.first()?;
    Some((&first.action, &first.guard, &first.message))
}

#[test]
fn a_policy_is_written_down_then_set_then_followed_and_removed() {
    let mut fixture = Fixture::new(5);
    asks(&mut fixture, json!([{"prefix": "users/", "replicas": 5}]));
    let plan = fixture.step();
    assert_eq!(plan.placing.change, Some(set("users/", 5)));
    assert_eq!(state(&fixture, "users/"), Some(PolicyState::Pending));
    assert_eq!(plan.status.next, "ask the cluster: the policy of users/ is not set yet");
    answer(&mut fixture, &plan, yes());

    has(&mut fixture, &[policy("users/", 5, 1, 0)]);
    let plan = fixture.step();
    assert_eq!(plan.placing, Placing::default());
    assert_eq!(state(&fixture, "users/"), Some(PolicyState::Copying));
    has(&mut fixture, &[policy("users/", 5, 2, 2)]);
    fixture.settle();
    assert_eq!(state(&fixture, "users/"), Some(PolicyState::Met));
    assert_eq!(fixture.status().next, "nothing to do");

    asks(&mut fixture, json!([]));
    let plan = fixture.step();
    assert_eq!(plan.placing.change, Some(remove("users/")));
    assert_eq!(state(&fixture, "users/"), Some(PolicyState::Removing));
    answer(&mut fixture, &plan, yes());
    has(&mut fixture, &[]);
    let plan = fixture.step();
    assert!(plan.placing.is_empty() && plan.status.placement.is_empty());
}

#[test]
fn what_was_set_by_command_is_left_alone_unless_the_resource_names_it() {
    let mut fixture = Fixture::new(5);
    has(&mut fixture, &[policy("cache/", 1, 1, 1), policy("0x6b00", 5, 1, 1)]);
    assert!(fixture.settle().placing.is_empty());
    asks(&mut fixture, json!([{"prefix": "cache/", "replicas": 3}]));
    let plan = fixture.step();
    assert_eq!(plan.placing.change, Some(set("cache/", 3)));
    has(&mut fixture, &[policy("cache/", 3, 1, 1), policy("0x6b00", 5, 1, 1)]);
    fixture.settle();
    // From now on it is the resource's, and goes with it.
    asks(&mut fixture, json!([]));
    assert_eq!(fixture.step().placing.change, Some(remove("cache/")));
    has(&mut fixture, &[policy("0x6b00", 5, 1, 1)]);
    assert!(fixture.settle().placing.is_empty());
}

#[test]
fn text_and_hex_are_the_same_prefix() {
    let mut fixture = Fixture::new(5);
    asks(&mut fixture, json!([{"prefix": "0x6b", "replicas": 5}]));
    has(&mut fixture, &[policy("k", 5, 1, 1)]);
    assert!(fixture.settle().placing.is_empty());
    asks(&mut fixture, json!([{"prefix": "k", "replicas": 5}]));
    assert!(fixture.settle().placing.is_empty());
    assert_eq!(state(&fixture, "k"), Some(PolicyState::Met));
}

#[test]
fn one_at_a_time_and_what_goes_comes_last() {
    let mut fixture = Fixture::new(5);
    asks(&mut fixture, json!([{"prefix": "a", "replicas": 5}]));
    fixture.step();
    has(&mut fixture, &[policy("a", 5, 1, 1)]);
    fixture.settle();
    asks(&mut fixture, json!([{"prefix": "b", "replicas": 5}, {"prefix": "c", "replicas": 5}]));
    assert_eq!(fixture.step().placing.change, Some(set("b", 5)));
    has(&mut fixture, &[policy("a", 5, 1, 1), policy("b", 5, 1, 1)]);
    assert_eq!(fixture.step().placing.change, Some(set("c", 5)));
    // Unless there is no room for it.
    let mut many: Vec<PolicyView> = (0..98).map(|at| policy(&format!("h{at}"), 3, 1, 1)).collect();
    many.push(policy("a", 5, 1, 1));
    has(&mut fixture, &many);
    assert_eq!(fixture.step().placing.change, Some(remove("a")));
}

#[test]
fn a_refusal_is_said_and_asked_again_later_each_time() {
    let mut fixture = Fixture::new(5);
    asks(&mut fixture, json!([{"prefix": "a", "replicas": 5}, {"prefix": "b", "replicas": 5}]));
    let plan = fixture.step();
    let before = fixture.status().clone();
    answer(&mut fixture, &plan, Outcome::Refused("holdfast: there are 100 policies".to_owned()));
    let said = notices(&before, fixture.status());
    assert_eq!(said[0].note, "the policy of a: there are 100 policies");
    // The other one does not wait for it.
    let plan = fixture.step();
    assert_eq!(plan.placing.change, Some(set("b", 5)));
    assert_eq!(state(&fixture, "a"), Some(PolicyState::Refused));
    let (action, name, why) = guard(&plan).unwrap();
    assert_eq!((action, name), ("SetPolicy/a", "Refused"));
    assert!(why.contains("there are 100 policies"), "{why}");
    has(&mut fixture, &[policy("b", 5, 1, 1)]);
    assert_eq!(fixture.pass(14).step().placing.change, None);
    let plan = fixture.pass(1).step();
    assert_eq!(plan.placing.change, Some(set("a", 5)));
    answer(&mut fixture, &plan, Outcome::Refused("no".to_owned()));
    assert_eq!(fixture.pass(29).step().placing.change, None);
    assert_eq!(fixture.pass(1).step().placing.change, Some(set("a", 5)));
    // A fault in between is not a no.
    let plan = fixture.step();
    answer(&mut fixture, &plan, Outcome::Failed("demo-0: no answer in time".to_owned()));
    assert_eq!(fixture.step().placing.change, Some(set("a", 5)));
}

#[test]
fn one_that_was_refused_is_forgotten_once_the_cluster_says_that_it_has_none() {
    let mut fixture = Fixture::new(5);
    asks(&mut fixture, json!([{"prefix": "a", "replicas": 5}]));
    fixture.step();
    asks(&mut fixture, json!([]));
    // It may have been taken on unheard, so not to see it is not enough.
    let plan = fixture.step();
    assert_eq!(plan.placing.change, Some(remove("a")));
    answer(
        &mut fixture,
        &plan,
        Outcome::Refused("holdfast: there is no policy for \"a\"".to_owned()),
    );
    assert!(fixture.step().status.placement.is_empty());
}

#[test]
fn it_waits_for_nodes_and_says_so() {
    let mut fixture = Fixture::new(3);
    asks(&mut fixture, json!([{"prefix": "a", "replicas": 5}]));
    let plan = fixture.step();
    assert_eq!(plan.placing.change, None);
    let why = "3 nodes are there, and it asks for 5 copies";
    assert_eq!(guard(&plan), Some(("SetPolicy/a", "TooFewNodes", why)));

    let mut fixture = Fixture::new(5);
    asks(&mut fixture, json!([{"prefix": "a", "replicas": 5}]));
    fixture.kill(4);
    assert_eq!(guard(&fixture.step()).unwrap().1, "StoreNotHealthy");

    let mut fixture = Fixture::new(5);
    asks(&mut fixture, json!([{"prefix": "a", "replicas": 5}]));
    fixture.report().policies = None;
    assert_eq!(guard(&fixture.step()).unwrap().1, "NodesTooOld");

    let mut fixture = Fixture::new(5);
    asks(&mut fixture, json!([{"prefix": "a", "replicas": 5}]));
    fixture.observed.report_error = Some("no answer in time".to_owned());
    assert_eq!(guard(&fixture.step()).unwrap().1, "StatusStale");
}

#[test]
fn a_policy_waits_while_something_is_done_to_a_node() {
    let mut fixture = Fixture::new(6);
    fixture.cluster.spec.nodes = 5;
    asks(&mut fixture, json!([{"prefix": "a", "replicas": 5}]));
    let plan = fixture.step();
    assert!(plan.status.operation.is_some());
    assert_eq!(plan.placing.change, None);
    assert_eq!(guard(&plan).unwrap().1, "OtherOperation");
}

#[test]
fn no_node_leaves_that_a_policy_needs() {
    let mut fixture = Fixture::new(5);
    // By command: the resource knows nothing of it.
    has(&mut fixture, &[policy("a", 5, 1, 1)]);
    fixture.cluster.spec.nodes = 3;
    let plan = fixture.settle();
    assert_eq!(plan.status.operation, None);
    let (action, name, why) = guard(&plan).unwrap();
    assert_eq!((action, name), ("ScaleDown/demo-4", "TooFewNodes"));
    assert!(why.contains("a placement policy that asks for 5"), "{why}");
    has(&mut fixture, &[]);
    assert!(fixture.step().status.operation.is_some());
}

#[test]
fn a_policy_that_goes_lets_the_cluster_shrink() {
    let mut fixture = Fixture::new(5);
    asks(&mut fixture, json!([{"prefix": "a", "replicas": 5}]));
    fixture.step();
    has(&mut fixture, &[policy("a", 5, 1, 1)]);
    fixture.settle();
    fixture.cluster.spec.nodes = 3;
    asks(&mut fixture, json!([]));
    let plan = fixture.step();
    assert_eq!(plan.placing.change, Some(remove("a")));
    assert_eq!(plan.status.operation, None);
    has(&mut fixture, &[]);
    assert!(fixture.step().status.operation.is_some());
}

#[test]
fn with_as_many_copies_as_nodes_nobody_can_take_those_of_a_lost_one() {
    let mut fixture = Fixture::new(5);
    has(&mut fixture, &[policy("a", 5, 1, 1)]);
    fixture.kill(4);
    let plan = fixture.pass(601).step();
    assert_eq!(plan.action, None);
    assert_eq!(guard(&plan).unwrap().1, "NoSpareStore");
}

#[test]
fn an_invalid_or_paused_spec_changes_nothing() {
    let mut fixture = Fixture::new(5);
    asks(&mut fixture, json!([{"prefix": "a", "replicas": 5}]));
    fixture.step();
    has(&mut fixture, &[policy("a", 5, 1, 1)]);
    fixture.settle();
    asks(&mut fixture, json!([]));
    fixture.cluster.spec.paused = true;
    let plan = fixture.step();
    assert!(plan.placing.is_empty());
    assert_eq!(state(&fixture, "a"), Some(PolicyState::Met));
}

fn in_zones(fixture: &mut Fixture, zones: &[&str]) {
    let hosts = fixture.observed.hosts.as_mut().unwrap();
    for (host, zone) in hosts.values_mut().zip(zones) {
        host.domain = (!zone.is_empty()).then(|| (*zone).to_owned());
    }
}

fn told(pairs: &[(u64, &str)]) -> Vec<(u64, String)> {
    pairs.iter().map(|(node, domain)| (*node, (*domain).to_owned())).collect()
}

#[test]
fn nodes_are_told_where_they_are_and_again_when_that_changes() {
    let mut fixture = Fixture::new(3);
    in_zones(&mut fixture, &["a", "b", ""]);
    assert_eq!(fixture.step().placing.domains, told(&[(1, "a"), (2, "b")]));
    for (ordinal, domain) in [(0, "a"), (1, "b")] {
        domain.clone_into(&mut fixture.member(ordinal).failure_domain);
    }
    assert!(fixture.settle().placing.is_empty());
    assert_eq!(fixture.store(1).failure_domain.as_deref(), Some("b"));
    // The pod starts on another machine.
    fixture.pod(1).host = Some("host-0".to_owned());
    assert_eq!(fixture.step().placing.domains, told(&[(2, "a")]));
    // The machine is not known, so nothing is.
    fixture.pod(1).host = Some("host-9".to_owned());
    assert!(fixture.step().placing.is_empty());
    fixture.observed.hosts = None;
    assert!(fixture.step().placing.is_empty());
    fixture.cluster.spec.placement.failure_domain.mode = FailureDomainMode::None;
    assert_eq!(fixture.step().placing.domains, told(&[(1, ""), (2, "")]));
}

#[test]
fn what_a_node_says_itself_holds_and_older_ones_are_not_asked() {
    let mut fixture = Fixture::new(3);
    in_zones(&mut fixture, &["a", "b", "c"]);
    fixture.member(0).names_failure_domain = Some(true);
    fixture.member(0).failure_domain = "rack-1".to_owned();
    fixture.member(1).names_failure_domain = None;
    assert_eq!(fixture.step().placing.domains, told(&[(3, "c")]));
    // One that is silent may be older than this.
    fixture.kill(1);
    assert!(fixture.step().placing.is_empty());
}

#[test]
fn a_domain_that_is_refused_is_told_again_later() {
    let mut fixture = Fixture::new(3);
    in_zones(&mut fixture, &["a", "b", "c"]);
    fixture.step();
    let now = fixture.now;
    let status = fixture.cluster.status.as_mut().unwrap();
    absorb_domain(status, Outcome::Refused("holdfast: no".to_owned()), now);
    assert_eq!(status.placement.failure_domain_refused.as_ref().unwrap().message, "no");
    assert!(fixture.pass(14).step().placing.domains.is_empty());
    assert_eq!(fixture.pass(1).step().placing.domains.len(), 3);
}
