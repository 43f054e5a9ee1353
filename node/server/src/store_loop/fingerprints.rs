//! Fingerprints of the state that wait for the replicas of this node.
//!
//! A node may have heard of a revision before its replicas have applied it, above all as a follower.
//! A fingerprint taken then would differ from that of other nodes although nothing is wrong.
//!
//! Invariant: a fingerprint is taken once every replica of this node has applied what was in its log
//! when the question came, and at the same revision whenever that is. What is still on its way to
//! the logs is waited for too, but not for long: a revision may belong to a range that has no
//! replica here, or to no write at all.

use crate::gateway::backend::KvHash;
use holdfast_core::error::Error;
use holdfast_core::ids::{Index, RangeId, Revision};
use holdfast_core::status::Status;
use std::time::{Duration, Instant};
use tokio::sync::oneshot::Sender;

/// How long some replica may take to reach the revision asked for.
const ON_ITS_WAY_MAX: Duration = Duration::from_millis(300);

/// Where an answer goes.
pub(super) type Answer = Sender<Result<KvHash, Error>>;

/// A client that waits.
pub(super) struct Question {
    /// Fingerprint at this revision.
    pub revision: Revision,
    /// Where it goes.
    pub reply: Answer,
    /// What the replicas had in their logs.
    logs: Vec<(RangeId, Index)>,
    /// When it came.
    since: Instant,
}

/// All that wait. Their clients bound how long.
#[derive(Default)]
pub(super) struct Fingerprints {
    waiting: Vec<Question>,
}

impl Fingerprints {
    /// True if nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A client asks about `revision`, or the newest one if it is 0.
    pub(super) fn ask(&mut self, revision: Revision, reply: Answer, status: &Status) {
        let revision = if revision == 0 { status.revision } else { revision };
        let logs = status.replicas.iter().map(|replica| (replica.range, replica.last_index));
        let since = Instant::now();
        self.waiting.push(Question { revision, reply, logs: logs.collect(), since });
    }

    /// The questions that can be answered now, each with the revision below which history is gone.
    /// Those that never can are refused.
    pub(super) fn ready(&mut self, status: &Status) -> Vec<(Question, Revision)> {
        self.waiting.retain(|question| !question.reply.is_closed());
        let ready: Vec<Question> =
            self.waiting.extract_if(.., |question| question.is_reached(status)).collect();
        let mut answerable = Vec::new();
        for question in ready {
            let refusal = if question.revision < status.compacted {
                Error::Compacted
            } else if question.revision > status.revision {
                Error::FutureRevision
            } else {
                answerable.push((question, status.compacted));
                continue;
            };
            // The client may be gone.
            drop(question.reply.send(Err(refusal)));
        }
        answerable
    }
}

impl Question {
    /// A replica that has left this node since then is not waited for.
    fn is_reached(&self, status: &Status) -> bool {
        let newest = status.replicas.iter().map(|replica| replica.watermark).max();
        let wanted = self.revision.min(status.revision);
        if newest.is_some_and(|newest| newest < wanted) && self.since.elapsed() < ON_ITS_WAY_MAX {
            return false;
        }
        self.logs.iter().all(|(range, last)| {
            let replica = status.replicas.iter().find(|replica| replica.range == *range);
            replica.is_none_or(|replica| replica.applied >= *last)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::status::ReplicaStatus;
    use tokio::sync::oneshot;

    fn status(applied: Index) -> Status {
        let replica = ReplicaStatus {
            range: RangeId(2),
            leader: false,
            leaseholder: false,
            term: 1,
            last_index: 9,
            applied,
            asleep: false,
            locked: false,
            rate: 0,
            size: None,
            watermark: 20,
            followers: Vec::new(),
            frozen: false,
        };
        Status { revision: 20, compacted: 10, replicas: vec![replica.into()], ..Status::default() }
    }

    #[test]
    fn a_fingerprint_waits_for_the_log_and_keeps_its_revision() {
        let (reply, _answer) = oneshot::channel();
        let mut fingerprints = Fingerprints::default();
        fingerprints.ask(0, reply, &status(8));
        assert!(fingerprints.ready(&status(8)).is_empty());
        let later = Status { revision: 25, ..status(9) };
        let ready = fingerprints.ready(&later);
        assert_eq!(ready.len(), 1);
        assert_eq!((ready[0].0.revision, ready[0].1), (20, 10));
        assert!(fingerprints.is_empty());
    }

    #[test]
    fn a_write_that_is_on_its_way_is_waited_for_but_not_for_long() {
        let (reply, _answer) = oneshot::channel();
        let mut fingerprints = Fingerprints::default();
        let heard = Status { revision: 21, ..status(9) };
        fingerprints.ask(0, reply, &heard);
        assert!(fingerprints.ready(&heard).is_empty());
        std::thread::sleep(ON_ITS_WAY_MAX);
        assert_eq!(fingerprints.ready(&heard).len(), 1);
    }

    #[test]
    fn what_is_gone_and_what_is_not_there_yet_is_refused() {
        for (revision, error) in [(9, Error::Compacted), (21, Error::FutureRevision)] {
            let (reply, mut answer) = oneshot::channel();
            let mut fingerprints = Fingerprints::default();
            fingerprints.ask(revision, reply, &status(9));
            assert!(fingerprints.ready(&status(9)).is_empty());
            assert_eq!(answer.try_recv(), Ok(Err(error)));
        }
    }

    #[test]
    fn a_client_that_left_is_forgotten() {
        let (reply, answer) = oneshot::channel();
        let mut fingerprints = Fingerprints::default();
        fingerprints.ask(0, reply, &status(8));
        drop(answer);
        assert!(fingerprints.ready(&status(8)).is_empty());
        assert!(fingerprints.is_empty());
    }
}
