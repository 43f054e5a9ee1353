//! Leaders spread: who leads follows from the ranks in a range's descriptor, and these are changed so
//! that every node is the first in rank of about as many ranges as the others.
//!
//! The meta range's leader looks at the directory now and then and asks one range for a change; the
//! range's leader puts it into the log, and the leadership follows by the ordinary way.
//!
//! Invariants: nothing is changed while a node is away, drained or leaving, since that passes by
//! itself; every change makes things more even, so there is an end to them.

use super::Node;
use super::routing::Owner;
use crate::command::Entry;
use crate::descriptor::{NodeState, RangeDescriptor, ReplicaKind};
use crate::error::{Error, Misrouted};
use crate::ids::{META_RANGE, NodeId, RangeId, RequestId};
use crate::leaseholder::{Asked, Asker, Work};
use crate::message::{Outcome, RangeRequest};
use crate::state::StateReads;
use std::collections::BTreeMap;

/// A change of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    range: RangeId,
    first: NodeId,
    generation: u64,
}

/// The change that makes it most even who is first in rank; `None` if no single one makes it more so.
/// Ranges for which `fixed` holds stay as they are, but count.
fn plan<'a>(
    nodes: impl Iterator<Item = NodeId>,
    ranges: impl Iterator<Item = &'a RangeDescriptor> + Clone,
    fixed: impl Fn(&RangeDescriptor) -> bool,
) -> Option<Step> {
    let mut firsts: BTreeMap<NodeId, usize> = nodes.map(|node| (node, 0)).collect();
    for range in ranges.clone() {
        if let Some(count) = range.voters().next().and_then(|own| firsts.get_mut(&own.node)) {
            *count += 1;
        }
    }
    let (least, most) = (firsts.values().min()?, firsts.values().max()?);
    if most - least < 2 {
        return None;
    }
    let gain = |range: &RangeDescriptor| {
        let first = range.voters().next()?.node;
        let has = *firsts.get(&first)?;
        let others = range.voters().skip(1);
        let counts = others.filter_map(|own| Some((*firsts.get(&own.node)?, own.node)));
        let (fewest, node) = counts.min()?;
        (has >= fewest + 2).then(|| (has - fewest, node))
    };
    let gains = ranges.filter_map(|range| Some((gain(range)?, range)));
    gains
        .filter(|(_, range)| !fixed(range))
        .max_by_key(|((gain, _), range)| (*gain, range.id))
        .map(|((_, first), range)| Step { range: range.id, first, generation: range.generation })
}

impl Node {
    /// Asks for a change of ranks, if one is due and would make leaders more even.
    pub(super) fn ranking_tick(&mut self) {
        let every = self.config.shaping.rank_every_ms;
        if every == 0 || !self.config.shaping.counts() || self.now < self.shaper.rank_at {
            return;
        }
        self.shaper.rank_at = self.now + every;
        if !self.all_in_service() {
            return;
        }
        let known = self.meta.nodes().values();
        let nodes = known.filter(|record| record.state == NodeState::Up).map(|record| record.id);
        let ranges = self.meta.ranges().values().filter(|range| range.id != META_RANGE);
        let step = plan(nodes, ranges, |range| {
            self.meta.merges().of(range.id).is_some()
                || self.meta.moves().contains_key(&range.id)
                || range.replicas.iter().any(|own| own.kind == ReplicaKind::Learner)
        });
        if let Some(Step { range, first, generation }) = step {
            let deadline = self.now + every;
            let body = RangeRequest::Rank { first, generation };
            self.internal_request_until(Owner::Nobody, range, body, deadline);
        }
    }

    /// Is every node up, reachable, and to stay?
    pub(super) fn all_in_service(&self) -> bool {
        let mut nodes = self.meta.nodes().values();
        nodes.all(|record| record.state == NodeState::Tombstoned || self.is_up(record.id))
    }

    /// A change of ranks, for a range led here.
    pub(super) fn serve_rank(
        &mut self,
        asker: Asker,
        id: RequestId,
        range: RangeId,
        (first, generation): (NodeId, u64),
        state: &dyn StateReads,
    ) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let Some(own) = &replica.descriptor else { return };
        let first = own.replica_on(first).filter(|first| first.kind == ReplicaKind::Voter);
        let Some(first) = first.filter(|_| own.generation == generation) else {
            let error = Error::Refused(format!("{range} has changed meanwhile"));
            return self.outcome(asker, Outcome::Done(Err(error)));
        };
        if replica.group.is_changing() || replica.group.is_joint() || replica.admin.is_some() {
            return self.out.misrouted(asker, Misrouted::Busy);
        }
        let work = Work::Change(Box::new(Entry::Rank { generation, first: first.replica }));
        let asked = Asked { asker, id, settled_below: 0, again: false, work };
        self.with_leaseholder(range, state, |holder, view, out| holder.ask(asked, view, out));
        self.router.proposing(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::ReplicaDescriptor;
    use crate::ids::ReplicaId;
    use crate::key::Span;

    fn range(id: u64, nodes: &[u64]) -> RangeDescriptor {
        let replicas = nodes.iter().map(|node| ReplicaDescriptor {
            replica: ReplicaId(*node),
            node: NodeId(*node),
            kind: ReplicaKind::Voter,
        });
        let replicas: Vec<_> = replicas.collect();
        RangeDescriptor {
            id: RangeId(id),
            span: Span::all(),
            generation: 1,
            replicas,
            next_replica: 9,
        }
    }

    /// Carries out every step, and gives how many there were and the firsts of each node.
    fn settle(nodes: u64, mut ranges: Vec<RangeDescriptor>) -> (usize, Vec<usize>) {
        for steps in 0..1_000 {
            let Some(step) = plan((1..=nodes).map(NodeId), ranges.iter(), |_| false) else {
                let first =
                    |node| ranges.iter().filter(move |range| range.replicas[0].node == node);
                return (steps, (1..=nodes).map(|node| first(NodeId(node)).count()).collect());
            };
            let range =
                ranges.iter_mut().find(|range| range.id == step.range).expect("it is known");
            let place = range.replicas.iter().position(|own| own.node == step.first);
            range.replicas[..=place.expect("a copy there")].rotate_right(1);
        }
        panic!("no end to it");
    }

    #[test]
    fn leaders_become_even_and_stay_so() {
        let all_on_one: Vec<_> = (2..32).map(|id| range(id, &[1, 2, 3])).collect();
        assert_eq!(settle(3, all_on_one), (20, vec![10, 10, 10]));
        let even: Vec<_> = (0..31).map(|n| range(n + 2, &[n % 3 + 1, (n + 1) % 3 + 1])).collect();
        assert_eq!(settle(3, even).0, 0, "one more or less is as even as it gets");
        // A new node has copies, and leads nothing yet.
        let new: Vec<_> = (2..22).map(|id| range(id, &[id % 3 + 1, 4, (id + 1) % 3 + 1])).collect();
        assert_eq!(settle(4, new).1, [5, 5, 5, 5]);
    }

    #[test]
    fn what_cannot_be_changed_is_left_alone() {
        let ranges: Vec<_> = (2..8).map(|id| range(id, &[1])).collect();
        assert_eq!(settle(2, ranges), (0, vec![6, 0]), "no copies elsewhere");
        let ranges = [range(2, &[1, 2]), range(3, &[1, 2])];
        let nodes = || [NodeId(1), NodeId(2)].into_iter();
        let step = plan(nodes(), ranges.iter(), |range| range.id == RangeId(3));
        assert_eq!(step.map(|step| step.range), Some(RangeId(2)));
        assert_eq!(plan(nodes(), ranges.iter(), |_| true), None);
    }
}
