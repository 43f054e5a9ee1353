//! The start of a replica: from what is on the disk to a group that runs.
//!
//! Invariants: what a log knows, its vote above all, is not forgotten, even where there is no state to
//! go with it; a log that does not fit its state gives way to the state, which is a raft snapshot's.

use super::Node;
use crate::effects::{LogWrite, ReplicaBoot};
use crate::group::Group;
use crate::replica::Replica;

impl Node {
    /// A raft snapshot was installed and the log was not told before a crash: what the log holds
    /// ends below it or contradicts it.
    fn mend_log(&mut self, mut boot: ReplicaBoot) -> ReplicaBoot {
        let ReplicaBoot { range, applied, .. } = boot;
        let fits = if applied.index <= boot.truncated.index {
            true
        } else if applied.index > boot.last_index {
            false
        } else {
            let found = self.reader.entries(range, applied.index, applied.index + 1, u64::MAX);
            found.first().is_some_and(|entry| entry.term == applied.term)
        };
        if !fits {
            boot.truncated = applied;
            boot.last_index = applied.index;
            boot.hard_state.term = boot.hard_state.term.max(applied.term);
            boot.hard_state.commit = applied.index;
            let write = LogWrite {
                range,
                hard_state: Some(boot.hard_state.clone()),
                truncate: Some(applied),
                destroy: true,
                ..LogWrite::default()
            };
            self.write_log(true, vec![write]);
        }
        boot
    }

    pub(super) fn start_replica(
        &mut self,
        boot: ReplicaBoot,
        rows: &[(bytes::Bytes, bytes::Bytes)],
    ) -> Result<(), String> {
        let range = boot.range;
        let applied = boot.applied;
        self.departures.remember(range, boot.removed);
        let members = Replica::load_members(rows)?;
        let me = match rows.iter().find(|(key, _)| key.as_ref() == crate::replica::DESCRIPTOR_ROW) {
            Some((_, value)) => {
                let descriptor: crate::descriptor::RangeDescriptor = postcard::from_bytes(value)
                    .map_err(|error| format!("malformed descriptor of {range}: {error}"))?;
                let node = self.config.node;
                // One that was removed goes on until it is told by those who know for good.
                let left = Replica::load_left(rows)?.into_iter().find(|left| left.node == node);
                match descriptor.replica_on(node).or(left) {
                    // Its log went, and the power before its state could. If there is a log all the
                    // same, it is that of the replica that came after it.
                    Some(replica) if replica.replica <= boot.removed => {
                        self.departures.leave(range, descriptor.span);
                        if boot.has_log() {
                            let applied = boot.truncated;
                            self.orphans.insert(range, ReplicaBoot { applied, ..boot });
                        }
                        return Ok(());
                    }
                    Some(replica) => replica.replica,
                    // It was removed by a version that said no more of it.
                    None => return Ok(()),
                }
            }
            // Being added, and the raft snapshot has not come yet; or cut off, and the cut has to be
            // applied again. What its log knows, its vote above all, is not forgotten.
            None => {
                if boot.has_log() {
                    self.orphans.insert(range, boot);
                }
                return Ok(());
            }
        };
        let boot = self.mend_log(boot);
        self.logs.found(range, boot.last_index.saturating_sub(boot.truncated.index));
        let group =
            Group::new(me, boot, members, self.reader.clone(), self.config.election_ticks());
        let replica = Replica::new(range, group, applied, rows)?;
        self.replicas.insert(range, replica);
        self.dirty.insert(range);
        Ok(())
    }
}
