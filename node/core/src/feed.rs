//! A feed: the ordered changes of one range, from the replica that holds the range lease to one
//! gateway.

use crate::effects::Event;
use crate::ids::{NodeId, RangeId, Revision};
use crate::key::Span;
use crate::request::KeyValue;
use crate::state::{StateReads, Version};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Names a feed: the gateway node and its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FeedId {
    /// The gateway that subscribed.
    pub gateway: NodeId,
    /// Its number, never used twice by one run.
    pub number: u64,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedStart {
    /// Its name.
    pub feed: FeedId,
    /// The range.
    pub range: RangeId,
    /// The keys, inside the range.
    pub span: Span,
    /// First revision wanted.
    pub from: Revision,
    /// With previous values.
    pub prev_kv: bool,
}

/// Bytes of events that one history scan returns at most, so that a watch far behind does not take
/// a node's memory; the scan goes on from where it stopped.
pub const SCAN_BYTES_MAX: usize = 1 << 20;

/// The events of `span` from `from` to `to`, in order, whole revisions only, and up to which
/// revision they are complete.
pub fn scan(
    span: &Span,
    from: Revision,
    to: Revision,
    prev_kv: bool,
    compacted: Revision,
    state: &dyn StateReads,
) -> (Vec<Event>, Revision) {
    let mut events: Vec<Event> = Vec::new();
    let mut bytes = 0;
    let mut through = to;
    state.history(span, from, to, &mut |key, version| {
        let last = events.last().map(|event| event.kv.mod_revision);
        if bytes > SCAN_BYTES_MAX && last.is_some_and(|last| last != version.mod_revision) {
            through = last.expect("checked above");
            return ControlFlow::Break(());
        }
        bytes += key.len() + version.value.as_ref().map_or(0, Bytes::len) + 64;
        let prev = (prev_kv && version.mod_revision > compacted)
            .then(|| {
                let revision = version.mod_revision;
                state.at(&key, revision - 1).and_then(|prev| to_kv(&key, &prev))
            })
            .flatten();
        events.push(event(&key, &version, prev));
        ControlFlow::Continue(())
    });
    (events, through)
}

/// The event that a new version of a key makes.
pub fn event(key: &Bytes, version: &Version, prev_kv: Option<KeyValue>) -> Event {
    let kv = match to_kv(key, version) {
        Some(kv) => kv,
        None => {
            KeyValue { key: key.clone(), mod_revision: version.mod_revision, ..KeyValue::default() }
        }
    };
    Event { put: version.value.is_some(), kv, prev_kv, sub: version.sub }
}

/// A live version as a key-value, or `None` for a tombstone.
pub fn to_kv(key: &Bytes, version: &Version) -> Option<KeyValue> {
    let value = version.value.clone()?;
    Some(KeyValue {
        key: key.clone(),
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
        version: version.version,
        value,
        lease: version.lease,
    })
}
