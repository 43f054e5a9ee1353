//! Once the faults end, all is well again: every range has a leader, the best placed one; writes
//! succeed through every node; replicas are equal; watches have seen everything.

use crate::invariants::states_agree::rows_of;
use crate::world::World;
use holdfast_core::descriptor::{Facts, NodeState, RangeDescriptor, Room};
use holdfast_core::ids::{META_RANGE, NodeId, RangeId};
use holdfast_core::placement::{self, Directory, Problem};
use holdfast_core::status::{RangeStatus, Status};
use std::collections::BTreeMap;

/// Is every range led, by one leaseholder?
///
/// # Errors
/// Says which is not.
pub fn led(world: &World) -> Result<(), String> {
    let statuses = statuses(world)?;
    let mut holders: BTreeMap<RangeId, Vec<NodeId>> = BTreeMap::new();
    for status in &statuses {
        for range in &status.ranges {
            holders.entry(range.descriptor.id).or_default();
        }
        for replica in status.replicas.iter().filter(|replica| replica.leaseholder) {
            holders.entry(replica.range).or_default().push(status.node);
        }
    }
    match holders.iter().find(|(_, nodes)| nodes.len() != 1) {
        Some((range, nodes)) => Err(format!("{range} is led by {nodes:?}")),
        None => Ok(()),
    }
}

/// The range that was cut off last, as far as anybody knows.
pub fn newest_range(world: &World) -> Option<RangeId> {
    let all = statuses(world).unwrap_or_default();
    all.iter().flat_map(|status| &status.ranges).map(|range| range.descriptor.id).max()
}

/// Is no raft snapshot kept that nobody will install?
///
/// # Errors
/// Says on which node.
pub fn unstaged(world: &World) -> Result<(), String> {
    let mut nodes = world.nodes().iter();
    match nodes.find(|(_, sim)| sim.is_up() && !sim.staged.is_empty()) {
        Some((node, sim)) => Err(format!("{node} keeps {} raft snapshots", sim.staged.len())),
        None => Ok(()),
    }
}

/// Do the leaders sit where they belong?
///
/// # Errors
/// Says which does not.
pub fn balanced(world: &World) -> Result<(), String> {
    let statuses = statuses(world)?;
    let draining: Vec<NodeId> = statuses[0]
        .nodes
        .iter()
        .filter(|record| record.state != NodeState::Up)
        .map(|record| record.id)
        .collect();
    for status in &statuses {
        for replica in status.replicas.iter().filter(|replica| replica.leader) {
            let descriptor = status
                .ranges
                .iter()
                .map(|range| &range.descriptor)
                .find(|descriptor| descriptor.id == replica.range)
                .ok_or_else(|| format!("{} does not know {}", status.node, replica.range))?;
            let best =
                descriptor.voters().map(|voter| voter.node).find(|node| !draining.contains(node));
            if best.is_some_and(|best| best != status.node) {
                return Err(format!("{} is led by {}, not {best:?}", replica.range, status.node));
            }
        }
    }
    Ok(())
}

/// Is there no range whose leadership another node could have, to make leaders more even? Nobody can
/// say while a node is being drained.
///
/// # Errors
/// Says which.
pub fn even(world: &World) -> Result<(), String> {
    let statuses = statuses(world)?;
    let status = &statuses[0];
    let out = |state| !matches!(state, NodeState::Up | NodeState::Tombstoned);
    if status.nodes.iter().any(|record| out(record.state)) {
        return Ok(());
    }
    let ranges = || {
        let all = status.ranges.iter().map(|range| &range.descriptor);
        all.filter(|range| range.id != META_RANGE)
    };
    let leads = |node: NodeId| ranges().filter(|range| range.replicas[0].node == node).count();
    for range in ranges() {
        let first = range.replicas[0].node;
        let fewest = range.replicas.iter().map(|own| (leads(own.node), own.node)).min();
        if let Some((fewest, node)) = fewest
            && leads(first) > fewest + 1
        {
            let all = leads(first);
            return Err(format!(
                "{first} leads {all}, {node} {fewest}, and both have {}",
                range.id
            ));
        }
    }
    Ok(())
}

/// Are all replicas of each range equal?
///
/// # Errors
/// Says which differ.
pub fn equal(world: &World) -> Result<(), String> {
    let statuses = statuses(world)?;
    let mut first: BTreeMap<RangeId, (NodeId, u64, u64, u64)> = BTreeMap::new();
    for status in &statuses {
        let node = world.node(status.node);
        let files = node.state.memory();
        for replica in &status.replicas {
            let range = replica.range;
            let index = files.applied(range).unwrap_or_default().index;
            let seen = (status.node, index, files.digest(range), rows_of(node, range));
            let known = *first.entry(range).or_insert(seen);
            if (known.1, known.2, known.3) != (seen.1, seen.2, seen.3) {
                return Err(format!("{range} differs: {known:?} and {seen:?}"));
            }
        }
    }
    Ok(())
}

/// Is no range locked by a transaction, or about to be taken in by another, and nothing left of one
/// that was?
///
/// # Errors
/// Says which is.
pub fn free(world: &World) -> Result<(), String> {
    for status in statuses(world)? {
        let known = |range| status.ranges.iter().any(|known| known.descriptor.id == range);
        if let Some(replica) = status.replicas.iter().find(|replica| !known(replica.range)) {
            return Err(format!("{} is gone, and has a copy on {}", replica.range, status.node));
        }
        if let Some(replica) = status.replicas.iter().find(|replica| replica.frozen) {
            return Err(format!("{} is frozen on {}", replica.range, status.node));
        }
        if let Some(replica) = status.replicas.iter().find(|replica| replica.locked) {
            return Err(format!("{} is locked on {}", replica.range, status.node));
        }
    }
    Ok(())
}

/// Has every range as many voters as policies say, and nothing besides that could be settled?
///
/// # Errors
/// Says which has not.
pub fn complete(world: &World) -> Result<(), String> {
    let statuses = statuses(world)?;
    for status in &statuses {
        if let Some(problem) = problems(status).into_iter().next() {
            return Err(format!("as {} sees it: {problem}", status.node));
        }
        if let Some(node) = status.nodes.iter().find(|record| record.state == NodeState::Condemned)
        {
            return Err(format!("{} is condemned, and runs", node.id));
        }
        let drained = status.nodes.iter().any(|record| record.state == NodeState::Draining);
        for range in &status.ranges {
            let descriptor = &range.descriptor;
            let voters = descriptor.voters().count();
            // A copy that waits for a node which is being drained may wait for ever.
            let left_over = !drained && descriptor.replicas.len() != voters;
            let least = status.wanted.iter().find(|(range, _)| *range == descriptor.id);
            let copies = placement::wanted(&status.policies, descriptor).unwrap_or(0);
            let copies = copies.max(least.map_or(0, |(_, copies)| *copies));
            // Who is being drained, or gone, gets no copies.
            let few = voters < copies && !has_room_elsewhere(status, descriptor.id);
            let wrong = voters != copies && !few || left_over;
            if descriptor.id != META_RANGE && wrong {
                return Err(format!(
                    "{} does not know {copies} copies: {descriptor:?}",
                    status.node
                ));
            }
        }
    }
    Ok(())
}

/// Is a node in service that has no copy of the range yet?
fn has_room_elsewhere(status: &Status, range: RangeId) -> bool {
    let known = status.ranges.iter().find(|known| known.descriptor.id == range);
    let free = |node| known.is_none_or(|known| known.descriptor.replica_on(node).is_none());
    status.nodes.iter().any(|record| record.state == NodeState::Up && free(record.id))
}

/// What the checker of the directory says, but for what a node that is being drained excuses.
fn problems(status: &Status) -> Vec<Problem> {
    let plain = |range: &RangeStatus| RangeDescriptor::clone(&range.descriptor);
    let ranges: Vec<_> = status.ranges.iter().map(plain).collect();
    let leader = |range: &RangeStatus| Some((range.descriptor.id, range.leaseholder?));
    let leaders = status.ranges.iter().filter_map(leader).collect();
    let nodes = &status.nodes;
    let facts = status.facts.iter().cloned().collect();
    let least = status.wanted.iter().copied().collect();
    let directory = Directory {
        nodes,
        ranges: &ranges,
        leaders: &leaders,
        policies: &status.policies,
        least: &least,
        facts: &facts,
    };
    let drained = status.nodes.iter().any(|record| record.state == NodeState::Draining);
    let mut problems = placement::check(&directory);
    problems.retain(|problem| match problem {
        // As many as there are nodes for it.
        Problem::Copies { range, has, wanted } => {
            has > wanted || has_room_elsewhere(status, *range)
        }
        Problem::Copying { .. } | Problem::Domain { .. } => !drained,
        // Who leaves waits as long as only a drained node could take its copy.
        Problem::Node { range, state: Some(NodeState::Leaving), .. } => {
            !drained || has_room_elsewhere(status, *range)
        }
        // Ranks are not moved for it.
        Problem::Leaders { .. } => false,
        _ => true,
    });
    problems
}

/// What nodes have said of themselves, as any of them knows.
pub fn facts(world: &World) -> Vec<(NodeId, Facts)> {
    let statuses = world.nodes().keys().filter_map(|node| world.status(*node));
    statuses
        .flat_map(|status| status.facts)
        .filter(|(_, facts)| facts.room != Room::Plenty)
        .collect()
}

/// Has every node room, as all of them know?
///
/// # Errors
/// Says which has not.
pub fn roomy(world: &World) -> Result<(), String> {
    facts(world).first().map_or(Ok(()), |(node, facts)| Err(format!("{node} has {facts:?}")))
}

/// How many consistency checks each node has led, and how many of these without everybody.
pub fn checks(world: &World) -> BTreeMap<NodeId, (u64, u64)> {
    let of = |status: &Status| (status.counters.checks, status.counters.checks_incomplete);
    let statuses = world.nodes().keys().filter_map(|node| Some((*node, world.status(*node)?)));
    statuses.map(|(node, status)| (node, of(&status))).collect()
}

/// Has every node that leads a range checked one since, with all its replicas?
///
/// # Errors
/// Says which has not.
pub fn checked(world: &World, before: &BTreeMap<NodeId, (u64, u64)>) -> Result<(), String> {
    let now = checks(world);
    for status in statuses(world)? {
        let leads = status.replicas.iter().any(|replica| replica.leaseholder);
        let whole = |(all, incomplete): &(u64, u64)| all - incomplete;
        let node = status.node;
        let (then, now) = (before.get(&node).map_or(0, whole), now.get(&node).map_or(0, whole));
        if leads && now <= then {
            return Err(format!("{node} has checked nothing since {then}"));
        }
    }
    Ok(())
}

fn statuses(world: &World) -> Result<Vec<Status>, String> {
    world
        .nodes()
        .iter()
        .filter(|(_, node)| !node.removed)
        .map(|(node, _)| world.status(*node).ok_or_else(|| format!("{node} does not run")))
        .collect()
}
