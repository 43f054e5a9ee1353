//! Nodes that are drained for a time: whoever wants them drained says so again before it is over, and
//! if nobody does, because whoever wanted it is gone, they lead again and keep what they still have.
//!
//! Invariants: the time is counted by the sequencer's clock and begins anew under a new sequencer; it
//! ends through the meta log only, so a deposed one ends nothing; an end that was decided before it was
//! asked for again has no effect.

use super::Node;
use crate::command::{MetaChange, MetaEntry};
use crate::effects::Millis;
use crate::error::Error;
use crate::ids::{NodeId, RequestId};
use crate::leaseholder::Asker;
use crate::message::Outcome;

/// Shorter, and a missed message would end it.
const TTL_MIN_MS: u64 = 1_000;
/// Longer is without end.
const TTL_MAX_MS: u64 = 30 * 24 * 3_600_000;

impl Node {
    pub(super) fn serve_drain_for(
        &mut self,
        asker: Asker,
        id: RequestId,
        node: NodeId,
        (leaving, ttl_ms): (bool, u64),
    ) {
        let refusal = if !(TTL_MIN_MS..=TTL_MAX_MS).contains(&ttl_ms) {
            Some("the time of a drain must be between 1 s and 30 days".to_owned())
        } else if leaving {
            self.may_lose(node).err()
        } else {
            None
        };
        match refusal {
            None => self.change_for(asker, id, MetaChange::DrainFor { node, leaving, ttl_ms }),
            Some(reason) => self.outcome(asker, Outcome::Done(Err(Error::Refused(reason)))),
        }
    }

    /// Somebody has asked for it (again): its time begins.
    pub(super) fn drain_renewed(&mut self, node: NodeId) {
        self.service.drains.remove(&node);
    }

    /// On the sequencer: ends what nobody has asked for again in time.
    pub(super) fn expire_drains(&mut self) {
        let now = self.now;
        let mut over = Vec::new();
        let running = self.meta.drains();
        self.service.drains.retain(|node, _| running.contains_key(node));
        for (node, drain) in running {
            let until: &mut Millis =
                self.service.drains.entry(*node).or_insert_with(|| now + drain.ttl_ms);
            if *until <= now {
                // Should the log not take it, it is tried once more.
                *until = now + TTL_MIN_MS;
                over.push(MetaChange::DrainExpired { node: *node, renewals: drain.renewals });
            }
        }
        for change in over {
            self.service.change(MetaEntry { id: RequestId::default(), change });
        }
    }
}
