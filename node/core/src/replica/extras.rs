//! What a replica needs only at times, kept apart: a node may have thousands of replicas at rest.
//!
//! Invariant: nothing here is made by being looked at, or by being taken where there is none.

use super::{Replica, Subscriber};
use crate::effects::Millis;
use crate::feed::FeedId;
use crate::ids::{NodeId, ReplicaId, RequestId};
use crate::key::Span;
use crate::leaseholder::Asker;
use crate::message::RoutedRequest;
use crate::seldom::Empty;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// What a replica needs only at times.
#[derive(Debug, Default)]
pub struct Extras {
    /// Who watches.
    pub subscribers: BTreeMap<FeedId, Subscriber>,
    /// Requests that wait for the lease, which is on its way.
    pub waiting: Vec<(Asker, RoutedRequest)>,
    /// A cut is proposed: who waits for it.
    pub admin: Option<Asker>,
    /// Since when this replica has held the lease of a range locked by that transaction, and when
    /// it asked for the outcome.
    pub intent_since: Option<(RequestId, Millis)>,
    /// Raft snapshots of these keys are being pinned for these replicas.
    pub pinning: Vec<(u64, Span)>,
    /// Nodes that say that this replica was removed.
    pub told_removed: BTreeSet<NodeId>,
    /// Where members are that the descriptor does not know: they wrote from there.
    pub strangers: BTreeMap<ReplicaId, NodeId>,
}

impl Extras {
    pub(super) fn is_empty(&self) -> bool {
        let Self { subscribers, waiting, admin, intent_since, pinning, told_removed, strangers } =
            self;
        subscribers.is_empty()
            && waiting.is_empty()
            && admin.is_none()
            && intent_since.is_none()
            && pinning.is_empty()
            && told_removed.is_empty()
            && strangers.is_empty()
    }
}

impl Empty for Extras {
    fn empty() -> &'static Self {
        static EMPTY: LazyLock<Extras> = LazyLock::new(Extras::default);
        &EMPTY
    }
}

impl Replica {
    /// Requests that waited for the lease wait no more.
    pub fn take_waiting(&mut self) -> Vec<(Asker, RoutedRequest)> {
        self.seldom.there().map(|seldom| std::mem::take(&mut seldom.waiting)).unwrap_or_default()
    }

    /// Who waits for a cut waits no more.
    pub fn take_admin(&mut self) -> Option<Asker> {
        self.seldom.there()?.admin.take()
    }

    /// Nobody watches any more; gives who did.
    pub fn take_subscribers(&mut self) -> Vec<FeedId> {
        let all = self.seldom.there().map(|seldom| std::mem::take(&mut seldom.subscribers));
        all.unwrap_or_default().into_keys().collect()
    }

    /// One of those who watch.
    pub fn subscriber(&mut self, feed: &FeedId) -> Option<&mut Subscriber> {
        self.seldom.there()?.subscribers.get_mut(feed)
    }

    /// A change of members or a cut is proposed and not over: another has to wait.
    pub fn is_being_changed(&self) -> bool {
        self.group.is_changing() || self.group.is_joint() || self.seldom.admin.is_some()
    }
}
