//! Does every range lie where it should? A check of the directory that shares nothing with what
//! places the copies, so that one finds the other's mistakes.
//!
//! Invariant: a pure function of what it is shown; it changes nothing, and what it cannot know
//! (whether a copy is complete) it does not judge.

use crate::descriptor::{Facts, NodeRecord, NodeState, RangeDescriptor, ReplicaKind, Room};
use crate::ids::{META_RANGE, NodeId, RangeId};
use crate::key::{Span, printable};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    /// Every node that was ever in the cluster.
    pub nodes: &'a [NodeRecord],
    /// Every range, the newest that is known of each.
    pub ranges: &'a [RangeDescriptor],
    /// Who leads which range, as far as is known.
    pub leaders: &'a BTreeMap<RangeId, NodeId>,
    /// Copies of the ranges under each prefix; what none names has as many as most have.
    pub policies: &'a [(Bytes, usize)],
    /// Copies that ranges are to get again after a recovery, at least.
    pub least: &'a BTreeMap<RangeId, usize>,
    /// What nodes say of themselves.
    pub facts: &'a BTreeMap<NodeId, Facts>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A range has another number of voters than it should.
    Copies {
        /// The range.
        range: RangeId,
        /// Its voters.
        has: usize,
        /// As many as it should have.
        wanted: usize,
    },
    /// Two copies of a range are on one node.
    Twice {
        /// The range.
        range: RangeId,
        /// The node.
        node: NodeId,
    },
    /// A copy is on a node that is gone for good, is to be emptied, or was never there.
    Node {
        /// The range.
        range: RangeId,
        /// The node.
        node: NodeId,
        /// Its state.
        state: Option<NodeState>,
    },
    /// A copy was begun and does not count yet.
    Copying {
        /// The range.
        range: RangeId,
        /// On this node.
        node: NodeId,
    },
    /// Copies of a range (of the meta range: voters) share a failure domain, and another one, that could,
    /// has too few.
    Domain {
        /// The range.
        range: RangeId,
        /// The failure domain.
        domain: String,
        /// Copies there.
        copies: usize,
        /// A node that has no copy of it (or does not count), somewhere else, and could have one.
        node: NodeId,
    },
    /// A range has keys of a placement policy, and others.
    Bound {
        /// The range.
        range: RangeId,
        /// The policy's prefix.
        prefix: Bytes,
    },
    /// Keys belong to two ranges.
    Overlap {
        /// The one that starts first.
        first: RangeId,
        /// The other one.
        second: RangeId,
    },
    /// Keys belong to no range.
    Hole {
        /// They.
        span: Span,
    },
    /// Nobody leads a range, as far as is known.
    NoLeader {
        /// The range.
        range: RangeId,
    },
    /// A node leads far more ranges than its share.
    Leaders {
        /// The node.
        node: NodeId,
        /// How many it leads.
        leads: usize,
        /// Of how many.
        of: usize,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copies { range, has, wanted } => {
                write!(f, "{range} has {has} copies that count, not {wanted}")
            }
            Self::Twice { range, node } => write!(f, "{range} has two copies on {node}"),
            Self::Node { range, node, state: Some(state) } => {
                write!(f, "{range} has a copy on {node}, which is {state:?}")
            }
            Self::Node { range, node, state: None } => {
                write!(f, "{range} has a copy on {node}, which is no node of the cluster")
            }
            Self::Copying { range, node } => {
                write!(f, "a copy of {range} on {node} is being made")
            }
            Self::Domain { range, domain, copies, node } => {
                let what = if *range == META_RANGE { "voters" } else { "copies" };
                write!(
                    f,
                    "{range} has {copies} {what} in the failure domain {domain}, and {node} could have one of them"
                )
            }
            Self::Bound { range, prefix } => {
                write!(f, "{range} has keys under {} and others", printable(prefix))
            }
            Self::Overlap { first, second } => write!(f, "{first} and {second} share keys"),
            Self::Hole { span } => match &span.end {
                Some(end) => write!(
                    f,
                    "keys from {} to {} belong to no range",
                    printable(&span.start),
                    printable(end)
                ),
                None => write!(f, "keys from {} on belong to no range", printable(&span.start)),
            },
            Self::NoLeader { range } => write!(f, "{range} has no leader"),
            Self::Leaders { node, leads, of } => {
                write!(f, "{node} leads {leads} of {of} ranges, far more than its share")
            }
        }
    }
}

/// Everything that is wrong, in the order of ranges; nothing if all is well.
pub fn check(directory: &Directory<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let usual = usual(directory.ranges).unwrap_or(0);
    for range in directory.ranges {
        check_range(directory, range, usual, &mut problems);
    }
    check_spans(directory.ranges, &mut problems);
    check_leaders(directory, &mut problems);
    problems
}

fn data(ranges: &[RangeDescriptor]) -> impl Iterator<Item = &RangeDescriptor> {
    ranges.iter().filter(|range| range.id != META_RANGE)
}

/// The number of voters that most ranges have, the higher one if two are as frequent.
fn usual(ranges: &[RangeDescriptor]) -> Option<usize> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for range in data(ranges) {
        *counts.entry(range.voters().count()).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(voters, ranges)| (*ranges, *voters)).map(|(voters, _)| voters)
}

fn check_range(
    directory: &Directory<'_>,
    range: &RangeDescriptor,
    usual: usize,
    problems: &mut Vec<Problem>,
) {
    let id = range.id;
    let has = range.voters().count();
    let least = directory.least.get(&id).copied().unwrap_or(0);
    let wanted = wanted(directory.policies, range).unwrap_or(usual).max(least);
    if id != META_RANGE {
        problems.extend(crossed(directory.policies, range));
    }
    // Every node has a copy of the meta range; some of them count.
    if id != META_RANGE && has != wanted {
        problems.push(Problem::Copies { range: id, has, wanted });
    }
    let mut seen = BTreeSet::new();
    for replica in &range.replicas {
        let node = replica.node;
        if !seen.insert(node) {
            problems.push(Problem::Twice { range: id, node });
        }
        let record = directory.nodes.iter().find(|record| record.id == node);
        let state = record.map(|record| record.state);
        if state.is_none_or(NodeState::loses_replicas) {
            problems.push(Problem::Node { range: id, node, state });
        }
        if replica.kind == ReplicaKind::Learner && id != META_RANGE {
            problems.push(Problem::Copying { range: id, node });
        }
    }
    problems.extend(crowded(directory, range));
    if !directory.leaders.contains_key(&id) {
        problems.push(Problem::NoLeader { range: id });
    }
}

/// Copies that a range should have: by the longest prefix of its first key that a policy names.
pub fn wanted(policies: &[(Bytes, usize)], range: &RangeDescriptor) -> Option<usize> {
    let mine = policies.iter().filter(|(prefix, _)| range.span.start.starts_with(prefix));
    mine.max_by_key(|(prefix, _)| prefix.len()).map(|(_, copies)| *copies)
}

/// A policy that begins or ends inside of a range.
fn crossed(policies: &[(Bytes, usize)], range: &RangeDescriptor) -> Option<Problem> {
    let Span { start, end } = &range.span;
    let begins = |prefix: &Bytes| start < prefix && end.as_ref().is_none_or(|end| prefix < end);
    // It starts under the prefix, and its last keys are greater than any under it.
    let ends = |prefix: &Bytes| {
        start.starts_with(prefix)
            && !prefix.iter().all(|byte| *byte == u8::MAX)
            && end.as_ref().is_none_or(|end| {
                !end.starts_with(prefix)
                    && *end != crate::meta::span_of(prefix).end.unwrap_or_default()
            })
    };
    let found = policies.iter().find(|(prefix, _)| begins(prefix) || ends(prefix));
    found.map(|(prefix, _)| Problem::Bound { range: range.id, prefix: prefix.clone() })
}

/// The failure domain with most copies of a range, if one of them had better be elsewhere.
fn crowded(directory: &Directory<'_>, range: &RangeDescriptor) -> Option<Problem> {
    let facts = |node: NodeId| directory.facts.get(&node).cloned().unwrap_or_default();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for voter in range.voters() {
        let domain = facts(voter.node).domain;
        if !domain.is_empty() {
            *counts.entry(domain).or_default() += 1;
        }
    }
    let (copies, domain) = counts.iter().map(|(domain, copies)| (*copies, domain)).max()?;
    // Of the meta range every node has a copy; it is those that count which are spread.
    let has = |node| match range.replica_on(node) {
        Some(replica) => range.id != META_RANGE || replica.kind == ReplicaKind::Voter,
        None => false,
    };
    let could = |node: &&NodeRecord| {
        let Facts { domain, room } = facts(node.id);
        node.state == NodeState::Up
            && room != Room::Little
            && !has(node.id)
            && counts.get(&domain).copied().unwrap_or(0) + 1 < copies
    };
    let node = directory.nodes.iter().find(could)?.id;
    Some(Problem::Domain { range: range.id, domain: domain.clone(), copies, node })
}

fn check_spans(ranges: &[RangeDescriptor], problems: &mut Vec<Problem>) {
    let mut sorted: Vec<&RangeDescriptor> = data(ranges).collect();
    sorted.sort_by(|a, b| (&a.span.start, a.id).cmp(&(&b.span.start, b.id)));
    // Everything before this belongs to some range; `None` is the end of all keys.
    let mut covered = Some(Bytes::new());
    let mut last = None;
    for range in sorted {
        match &covered {
            Some(upto) if *upto < range.span.start => {
                let span = Span { start: upto.clone(), end: Some(range.span.start.clone()) };
                problems.push(Problem::Hole { span });
            }
            Some(upto) if *upto == range.span.start => {}
            Some(_) | None => {
                if let Some(first) = last {
                    problems.push(Problem::Overlap { first, second: range.id });
                }
            }
        }
        covered = match (covered, &range.span.end) {
            (Some(upto), Some(end)) => Some(upto.max(end.clone())),
            (_, _) => None,
        };
        last = Some(range.id);
    }
    if let Some(start) = covered {
        problems.push(Problem::Hole { span: Span { start, end: None } });
    }
}

/// A node may lead twice its share and one more before that is a problem: leaders come back to
/// their places some seconds after a node does.
fn check_leaders(directory: &Directory<'_>, problems: &mut Vec<Problem>) {
    let may_lead: BTreeSet<NodeId> = directory
        .nodes
        .iter()
        .filter(|record| record.state == NodeState::Up)
        .map(|record| record.id)
        .collect();
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (range, node) in directory.leaders {
        if *range != META_RANGE {
            *leads.entry(*node).or_default() += 1;
        }
    }
    let of = data(directory.ranges).count();
    let share = of.div_ceil(may_lead.len().max(1));
    for (node, leads) in leads {
        if may_lead.len() > 1 && leads > 2 * share + 1 {
            problems.push(Problem::Leaders { node, leads, of });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Plan;

    struct Bench {
        nodes: Vec<NodeRecord>,
        ranges: Vec<RangeDescriptor>,
        leaders: BTreeMap<RangeId, NodeId>,
        facts: BTreeMap<NodeId, Facts>,
        policies: Vec<(Bytes, usize)>,
        least: BTreeMap<RangeId, usize>,
    }

    /// Five nodes, four ranges of three copies.
    fn bench() -> Bench {
        let node = |id: u64| NodeRecord {
            id: NodeId(id),
            name: format!("node-{id}"),
            peer_address: String::new(),
            client_address: String::new(),
            http_address: String::new(),
            state: NodeState::Up,
        };
        let nodes: Vec<NodeRecord> = (1..=5).map(node).collect();
        let split_keys = ["g", "n", "t"].map(|key| Bytes::from_static(key.as_bytes())).to_vec();
        let plan = Plan { cluster: 1, nodes: nodes.clone(), replicas: 3, split_keys };
        let ranges = plan.ranges();
        let leaders = ranges.iter().map(|range| (range.id, range.replicas[0].node)).collect();
        let (facts, policies, least) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Bench { nodes, ranges, leaders, facts, policies, least }
    }

    fn said(bench: &Bench) -> Vec<String> {
        let Bench { nodes, ranges, leaders, facts, policies, least } = bench;
        let directory = Directory { nodes, ranges, leaders, policies, least, facts };
        check(&directory).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_new_cluster_has_no_problems() {
        assert_eq!(said(&bench()), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_named() {
        type Spoil = fn(&mut Bench);
        let cases: [(Spoil, &[&str]); 12] = [
            (|b| b.ranges[1].replicas.truncate(2), &["r2 has 2 copies that count, not 3"]),
            (|b| b.ranges[1].replicas[1].node = NodeId(1), &["r2 has two copies on n1"]),
            (
                |b| b.nodes[3].state = NodeState::Tombstoned,
                &["r1 has a copy on n4, which is Tombstoned", "r3 has a copy on n4"],
            ),
            (|b| b.nodes[3].state = NodeState::Leaving, &["r3 has a copy on n4, which is Leaving"]),
            (|b| b.ranges[2].replicas[0].node = NodeId(9), &["r3 has a copy on n9, which is no"]),
            (|b| b.ranges[2].span.end = Some("o".into()), &["r3 and r4 share keys"]),
            (|b| b.ranges[4].span.start = "a".into(), &["r2 and r5 share keys"]),
            (
                |b| b.ranges[2].span.end = Some("h".into()),
                &["keys from \"h\" to \"n\" belong to no range"],
            ),
            (|b| b.ranges[1].span.start = "a".into(), &["keys from \"\" to \"a\" belong to no"]),
            (|b| b.ranges[4].span.end = Some("z".into()), &["keys from \"z\" on belong to no"]),
            (|b| b.leaders.retain(|range, _| *range != RangeId(3)), &["r3 has no leader"]),
            (
                |b| b.leaders.values_mut().for_each(|node| *node = NodeId(2)),
                &["n2 leads 4 of 4 ranges"],
            ),
        ];
        for (spoil, parts) in cases {
            let mut bench = bench();
            spoil(&mut bench);
            let said = said(&bench);
            for part in parts {
                assert!(said.iter().any(|line| line.contains(part)), "{part}: {said:?}");
            }
        }
    }

    #[test]
    fn policies_that_are_not_followed_are_a_problem() {
        let mut bench = bench();
        // r2 ends at g, r3 at n, r4 at t.
        let policy = |prefix: &'static str, copies| (Bytes::from_static(prefix.as_bytes()), copies);
        bench.policies = vec![policy("", 3), policy("g", 5)];
        let named = said(&bench);
        assert_eq!(
            named,
            ["r3 has keys under \"g\" and others", "r3 has 3 copies that count, not 5"]
        );
        bench.ranges[2].span.end = Some("h".into());
        bench.ranges[3].span.start = "h".into();
        assert_eq!(said(&bench), ["r3 has 3 copies that count, not 5"]);
        bench.policies[1].1 = 3;
        assert_eq!(said(&bench), Vec::<String>::new());
        bench.policies[1] = policy("z", 3);
        assert_eq!(said(&bench), ["r5 has keys under \"z\" and others"]);
    }

    #[test]
    fn copies_that_share_a_failure_domain_in_vain_are_a_problem() {
        let mut bench = bench();
        let says = |(node, domain): (u64, &str)| {
            (NodeId(node), Facts { domain: domain.to_owned(), room: Room::Plenty })
        };
        bench.facts = [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")].map(says).into();
        // r2 is on 1, 2, 3; r3 on 2, 3, 4; r4 on 3, 4, 5; r5 on 4, 5, 1.
        let named = said(&bench);
        assert_eq!(named.len(), 3, "{named:?}");
        assert!(named[0].contains("r2 has 2 copies in the failure domain a, and n5"), "{named:?}");
        assert!(named[2].contains("r4 has 2 copies in the failure domain b, and n1"), "{named:?}");
        for node in [NodeId(1), NodeId(2), NodeId(5)] {
            bench.facts.get_mut(&node).expect("known").room = Room::Little;
        }
        assert_eq!(said(&bench), Vec::<String>::new());
    }

    #[test]
    fn voters_of_the_meta_range_that_share_a_failure_domain_in_vain_are_a_problem() {
        let mut bench = bench();
        for replica in &mut bench.ranges[0].replicas[3..] {
            replica.kind = ReplicaKind::Learner;
        }
        let says = |(node, domain): (u64, &str)| {
            (NodeId(node), Facts { domain: domain.to_owned(), room: Room::Plenty })
        };
        bench.ranges.truncate(1);
        let of_meta = |bench: &Bench| {
            let mut said = said(bench);
            said.retain(|line| line.starts_with("r1 "));
            said
        };
        assert_eq!(of_meta(&bench), Vec::<String>::new(), "all fail alone");
        bench.facts = [(1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "b")].map(says).into();
        let all_in_a = "r1 has 3 voters in the failure domain a, and n5 could have one of them";
        assert_eq!(of_meta(&bench), [all_in_a]);
        bench.facts.get_mut(&NodeId(5)).expect("known").room = Room::Little;
        assert_eq!(of_meta(&bench), Vec::<String>::new(), "it cannot");
        bench.facts = [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "b")].map(says).into();
        assert_eq!(of_meta(&bench), Vec::<String>::new(), "two of three are as bad there");
    }

    #[test]
    fn a_copy_that_is_being_made_is_a_problem_until_it_is_done() {
        let mut bench = bench();
        bench.ranges[1].replicas[0].kind = ReplicaKind::Learner;
        let said = said(&bench);
        assert!(said.iter().any(|line| line.contains("is being made")), "{said:?}");
    }
}
