//! Ranges that have lost their majority: requests for them fail at once, as soon as that is certain.
//!
//! ```text
//!  a majority is missing ── SETTLE_ELECTIONS election timeouts ──► certain: requests fail at once
//!          └ requests wait (for an election, a restart)
//! ```
//!
//! Invariants: nothing fails because of one node of three; what this node cannot reach it does not
//! call lost before an election with everything around it could have ended; a node that answers
//! again ends the certainty at once. Nothing here is needed for safety: whether a request that fails
//! was carried out is unknown, as with every deadline.

use super::Node;
use super::routing::{Owner, Place};
use crate::effects::{ClientToken, Millis};
use crate::error::Error;
use crate::ids::{META_RANGE, NodeId, RangeId};

/// Election timeouts for which a majority has to be missing before that is certain: a node that is
/// silent has been so for one more when it counts as missing, and a node that is started again, or an
/// election that goes wrong once, is done within this.
const SETTLE_ELECTIONS: u64 = 2;
/// How long what this node itself wants from such a range is tried before it is wanted anew.
const INTERNAL_PATIENCE_MS: Millis = 2_000;
/// A request that is with a leaseholder when there is no sequencer any more: what had its revision
/// already is answered within this.
const GRANTED_MS: Millis = 100;

impl Node {
    /// The nodes that are missing, if so many are that the range has no majority as far as this node
    /// can reach.
    pub(super) fn missing_majority(&self, range: RangeId) -> Option<Vec<NodeId>> {
        self.majority_missing(range).map(|(missing, _)| missing)
    }

    /// The nodes that are missing, and since when too many of them are.
    fn majority_missing(&self, range: RangeId) -> Option<(Vec<NodeId>, Millis)> {
        let descriptor = self.meta.ranges().get(&range)?;
        let voters: Vec<NodeId> = descriptor.voters().map(|voter| voter.node).collect();
        let down = |node: &NodeId| {
            let peer = self.peers.get(node).filter(|peer| peer.down)?;
            Some(peer.down_since)
        };
        let others = voters.iter().filter(|node| **node != self.config.node);
        let mut since: Vec<Millis> = others.clone().filter_map(down).collect();
        since.sort_unstable();
        let spare = voters.len().checked_sub(descriptor.quorum())?;
        let lost_since = *since.get(spare)?;
        let missing = others.filter(|node| down(node).is_some()).copied().collect();
        Some((missing, lost_since))
    }

    /// Is it certain that a range has no majority?
    pub(super) fn is_lost(&self, range: RangeId) -> bool {
        let settle = SETTLE_ELECTIONS * self.config.election_ms;
        self.majority_missing(range).is_some_and(|(_, since)| self.now > since + settle)
    }

    /// May a request that nobody takes fail now, before its deadline?
    pub(super) fn gives_up(&self, owner: &Owner, place: &Place, since: Millis) -> bool {
        let Some(range) = self.range_at(place) else { return false };
        // What this node wants itself it would only want again.
        let waits = matches!(
            owner,
            Owner::Client(_) | Owner::SplitId(..) | Owner::Gather(..) | Owner::Lock(..)
        );
        let patient = self.now > since + INTERNAL_PATIENCE_MS;
        (waits || patient) && (self.is_lost(range) || waits && self.is_lost(META_RANGE))
    }

    /// Without a sequencer there is no revision, for whatever range: may a client's request that is
    /// with a leaseholder fail now?
    pub(super) fn gives_up_revision(&self, owner: &Owner, since: Millis) -> bool {
        matches!(owner, Owner::Client(_) | Owner::Gather(..)) && self.now > since + GRANTED_MS
    }

    /// Why a request for this place gets no answer.
    pub(super) fn no_answer(&self, place: &Place) -> Error {
        let range = self.range_at(place).unwrap_or(META_RANGE);
        let lost = [META_RANGE, range].into_iter().find(|range| self.is_lost(*range));
        let named = lost.or_else(|| self.missing_majority(range).map(|_| range));
        match named.and_then(|range| Some((range, self.missing_majority(range)?))) {
            Some((range, missing)) => {
                let descriptor = self.meta.ranges().get(&range);
                let span = descriptor.map_or_else(String::new, |known| known.span.to_string());
                Error::RangeUnavailable { range, span, missing }
            }
            None if self.missing_majority(META_RANGE).is_some() => Error::NoLeader,
            None => Error::TimedOut,
        }
    }

    /// Reads of several ranges whose revision nobody can give fail.
    pub(super) fn fail_gathers(&mut self) {
        let waiting: Vec<ClientToken> = self
            .router
            .gathers
            .values()
            .filter(|gather| gather.waits_for_revision())
            .map(|gather| gather.token)
            .collect();
        for token in waiting {
            self.router.abandon(token);
            let error = self.no_answer(&Place::Meta);
            self.fail_client(token, error);
        }
    }
}

#[cfg(test)]
mod tests;
