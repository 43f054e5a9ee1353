//! Cuts events into responses: at most so many revisions each, and, for a client that asked for
//! fragments, at most so many bytes.
//!
//! Invariant: the events of one revision are in one response, or in fragments of one response.

use crate::gateway::convert;
use holdfast_core::effects::Event;
use holdfast_core::ids::Revision;
use holdfast_proto::etcdserverpb as pb;
use holdfast_proto::mvccpb;
use prost::Message;
use std::collections::VecDeque;

/// Revisions in one response at most, as in etcd: a watch far behind gets many responses instead of
/// one that is too large for its client.
const REVISIONS_MAX: usize = 1000;

/// Splits events, which are in order, after every [`REVISIONS_MAX`] revisions. Each part comes with
/// the revision through which the watch is complete once it is sent.
pub(super) fn batches(events: Vec<Event>, through: Revision) -> Vec<(Vec<Event>, Revision)> {
    let mut batches = Vec::new();
    let mut batch: Vec<Event> = Vec::new();
    let mut revisions = 0;
    let mut last = 0;
    for event in events {
        let revision = event.kv.mod_revision;
        if revision != last {
            if revisions == REVISIONS_MAX {
                batches.push((std::mem::take(&mut batch), last));
                revisions = 0;
            }
            revisions += 1;
            last = revision;
        }
        batch.push(event);
    }
    if !batch.is_empty() {
        batches.push((batch, through));
    }
    batches
}

/// Queues a response with these events, in fragments of fewer than `fragment` bytes (but of at least
/// one event) for a client that can take them.
pub(super) fn send(
    response: &pb::WatchResponse,
    events: Vec<Event>,
    fragment: Option<usize>,
    out: &mut VecDeque<pb::WatchResponse>,
) {
    let mut part = response.clone();
    let empty_bytes = part.encoded_len();
    let mut bytes = empty_bytes;
    for event in events {
        let event = convert::event(event);
        let event_bytes = encoded_event_len(&event);
        let full = fragment.is_some_and(|bytes_max| bytes + event_bytes >= bytes_max);
        if full && !part.events.is_empty() {
            part.fragment = true;
            out.push_back(std::mem::replace(&mut part, response.clone()));
            bytes = empty_bytes;
        }
        bytes += event_bytes;
        part.events.push(event);
    }
    out.push_back(part);
}

/// Bytes of an event in a response: tag, length and content.
fn encoded_event_len(event: &mvccpb::Event) -> usize {
    let content = event.encoded_len();
    1 + prost::length_delimiter_len(content) + content
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::request::KeyValue;

    const BYTES_MAX: usize = 2 << 20;

    fn event(revision: Revision, bytes: usize) -> Event {
        let kv = KeyValue {
            key: "k".into(),
            mod_revision: revision,
            value: vec![0; bytes].into(),
            ..KeyValue::default()
        };
        Event { put: true, kv, prev_kv: None, sub: 0 }
    }

    #[test]
    fn a_batch_ends_between_revisions() {
        let events: Vec<Event> = (0..2001_i64)
            .flat_map(|revision| [event(revision + 2, 0), event(revision + 2, 0)])
            .collect();
        let batches = batches(events, 5000);
        let shape: Vec<(usize, Revision)> =
            batches.iter().map(|(events, through)| (events.len(), *through)).collect();
        assert_eq!(shape, [(2000, 1001), (2000, 2001), (2, 5000)]);
    }

    #[test]
    fn no_events_make_no_response() {
        assert!(batches(Vec::new(), 7).is_empty());
    }

    #[test]
    fn fragments_fit_and_all_but_the_last_say_so() {
        let mut out = VecDeque::new();
        let events = (0..7).map(|_| event(9, 600 << 10)).collect();
        send(
            &pb::WatchResponse { watch_id: 3, ..Default::default() },
            events,
            Some(BYTES_MAX),
            &mut out,
        );
        let shape: Vec<(usize, bool)> =
            out.iter().map(|part| (part.events.len(), part.fragment)).collect();
        assert_eq!(shape, [(3, true), (3, true), (1, false)]);
        assert!(out.iter().all(|part| part.encoded_len() < BYTES_MAX));
    }

    #[test]
    fn a_client_that_did_not_ask_gets_one_response() {
        let mut out = VecDeque::new();
        let events = (0..7).map(|_| event(9, 600 << 10)).collect();
        send(&pb::WatchResponse::default(), events, None, &mut out);
        assert_eq!((out.len(), out[0].events.len()), (1, 7));
    }

    #[test]
    fn an_event_larger_than_a_fragment_goes_alone() {
        let mut out = VecDeque::new();
        let events = vec![event(9, 3 << 20), event(9, 1)];
        send(&pb::WatchResponse::default(), events, Some(BYTES_MAX), &mut out);
        assert_eq!(out.iter().map(|part| part.events.len()).collect::<Vec<_>>(), [1, 1]);
    }
}
