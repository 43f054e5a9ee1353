//! Watch streams, news by news.

use super::*;
use crate::gateway::Config;
use crate::gateway::backend::{Backend, BackendCall, Vitals, WATCH_BUFFER_BYTES_MAX, WatchSink};
use crate::http::Endpoints;
use holdfast_core::ids::NodeId;
use holdfast_core::request::KeyValue;
use parking_lot::Mutex;
use std::sync::Arc;
use std::task::Waker;

/// A session, and the calls that it made.
struct Fixture {
    session: Session,
    calls: Arc<Mutex<Vec<BackendCall>>>,
    vitals: Arc<Vitals>,
}

fn fixture() -> Fixture {
    let calls: Arc<Mutex<Vec<BackendCall>>> = Arc::default();
    let vitals = Arc::new(Vitals::new(1, NodeId(1)));
    let backend = Backend::new(vitals.clone(), {
        let calls = calls.clone();
        move |call| {
            calls.lock().push(call);
            true
        }
    });
    let endpoints = Endpoints::new(backend.clone(), String::new);
    let gateway = Gateway::new(backend, Config::default(), endpoints);
    Fixture { session: Session::new(gateway), calls, vitals }
}

impl Fixture {
    fn request(&mut self, union: RequestUnion) {
        self.session.on_request(pb::WatchRequest { request_union: Some(union) });
    }

    /// Creates a watch; its token and sink, if the store was asked.
    fn create(&mut self, create: pb::WatchCreateRequest) -> Option<(WatchToken, WatchSink)> {
        self.request(RequestUnion::CreateRequest(create));
        self.calls.lock().pop().map(|call| match call {
            BackendCall::Watch { token, sink, .. } => (token, sink),
            other => panic!("not a watch: {other:?}"),
        })
    }

    /// Creates a watch of everything that stands at revision `current`.
    fn stand(&mut self, start: Revision, current: Revision) -> WatchToken {
        let request =
            pb::WatchCreateRequest { key: "k".into(), start_revision: start, ..Default::default() };
        let (token, _sink) = self.create(request).expect("asked");
        self.session.on_effect(WatchEffect::Created { token, revision: current });
        assert!(self.session.next_response().expect("created").created);
        token
    }

    fn news(&mut self, token: WatchToken, revisions: &[Revision], through: Revision) {
        let events = revisions.iter().map(|&revision| event(revision, true)).collect();
        self.session.on_effect(WatchEffect::Events { token, events, through });
    }

    fn ask_progress(&mut self) {
        self.request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    }

    /// (watch id, header revision, number of events) of everything to send.
    fn sent(&mut self) -> Vec<(i64, Revision, usize)> {
        std::iter::from_fn(|| self.session.next_response())
            .map(|response| {
                let revision = response.header.expect("always there").revision;
                (response.watch_id, revision, response.events.len())
            })
            .collect()
    }
}

fn event(revision: Revision, put: bool) -> Event {
    let kv = KeyValue { key: "k".into(), mod_revision: revision, ..KeyValue::default() };
    Event { put, kv, prev_kv: None, sub: 0 }
}

#[test]
fn ids_are_chosen_from_zero_around_those_given() {
    let mut fixture = fixture();
    let request =
        |id| pb::WatchCreateRequest { key: "k".into(), watch_id: id, ..Default::default() };
    let mut tokens = Vec::new();
    for id in [1, 0, 0] {
        tokens.push(fixture.create(request(id)).expect("asked").0);
    }
    for token in tokens {
        fixture.session.on_effect(WatchEffect::Created { token, revision: 4 });
    }
    assert_eq!(fixture.sent(), [(1, 4, 0), (0, 4, 0), (2, 4, 0)]);
}

#[test]
fn bad_requests_are_created_and_canceled_at_once() {
    let mut fixture = fixture();
    let good = pb::WatchCreateRequest { key: "b".into(), watch_id: 5, ..Default::default() };
    assert!(fixture.create(good.clone()).is_some());
    let past = pb::WatchCreateRequest { start_revision: -1, ..good.clone() };
    let empty = pb::WatchCreateRequest { range_end: "a".into(), watch_id: 6, ..good.clone() };
    let cases = [
        (good, "mvcc: duplicate watch ID provided on the WatchStream"),
        (empty, "mvcc: watcher range is empty"),
        (past, "etcdserver: mvcc: required revision has been compacted"),
    ];
    for (request, reason) in cases {
        assert!(fixture.create(request).is_none());
        let response = fixture.session.next_response().expect("a refusal");
        assert!(response.created && response.canceled);
        assert_eq!((response.watch_id, response.cancel_reason.as_str()), (NO_WATCH, reason));
    }
}

#[test]
fn an_empty_key_is_the_first_possible_one() {
    let mut fixture = fixture();
    let request = pb::WatchCreateRequest { range_end: "\0".into(), ..Default::default() };
    fixture.request(RequestUnion::CreateRequest(request));
    match fixture.calls.lock().pop() {
        Some(BackendCall::Watch { span, .. }) => assert_eq!(span, Span::all()),
        other => panic!("not a watch: {other:?}"),
    }
}

#[test]
fn a_cancel_is_confirmed_and_later_news_is_dropped() {
    let mut fixture = fixture();
    let token = fixture.stand(0, 4);
    fixture.request(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 }));
    let response = fixture.session.next_response().expect("confirmed");
    assert!(response.canceled && response.watch_id == 0 && response.compact_revision == 0);
    assert!(matches!(fixture.calls.lock().pop(), Some(BackendCall::CancelWatch { .. })));
    fixture.news(token, &[5], 5);
    fixture.request(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 }));
    assert!(fixture.sent().is_empty());
}

/// As etcd: `created` comes first even if the history is gone from the start.
#[test]
fn compaction_ends_a_watch() {
    let mut fixture = fixture();
    let request =
        pb::WatchCreateRequest { key: "k".into(), start_revision: 2, ..Default::default() };
    let (token, _sink) = fixture.create(request).expect("asked");
    fixture.session.on_effect(WatchEffect::Compacted { token, compact_revision: 9 });
    let created = fixture.session.next_response().expect("created");
    assert!(created.created && !created.canceled);
    let canceled = fixture.session.next_response().expect("canceled");
    assert!(canceled.canceled && !canceled.created);
    assert_eq!((canceled.compact_revision, canceled.cancel_reason.as_str()), (9, ""));
}

#[test]
fn filters_drop_events() {
    let mut fixture = fixture();
    let request = pb::WatchCreateRequest {
        key: "k".into(),
        filters: vec![FilterType::Nodelete.into()],
        ..Default::default()
    };
    let (token, _sink) = fixture.create(request).expect("asked");
    fixture.session.on_effect(WatchEffect::Created { token, revision: 1 });
    let events = vec![event(2, true), event(3, false)];
    fixture.session.on_effect(WatchEffect::Events { token, events, through: 3 });
    fixture.session.on_effect(WatchEffect::Events {
        token,
        events: vec![event(4, false)],
        through: 4,
    });
    assert_eq!(fixture.sent(), [(0, 1, 0), (0, 3, 1)]);
}

#[test]
fn progress_waits_for_the_slowest_watch() {
    let mut fixture = fixture();
    let (first, second) = (fixture.stand(0, 4), fixture.stand(0, 4));
    fixture.vitals.raise_revision(7);
    fixture.ask_progress();
    fixture.news(first, &[6], 8);
    assert_eq!(fixture.sent(), [(0, 8, 1)]);
    fixture.news(second, &[], 6);
    assert!(fixture.sent().is_empty(), "7 was known when the client asked");
    fixture.news(second, &[], 7);
    assert_eq!(fixture.sent(), [(NO_WATCH, 7, 0)]);
    fixture.news(second, &[], 9);
    assert!(fixture.sent().is_empty(), "nobody asked again");
}

#[test]
fn progress_is_not_starved_by_repeated_questions() {
    let mut fixture = fixture();
    let token = fixture.stand(0, 4);
    for revision in [5, 6, 7] {
        fixture.vitals.raise_revision(revision);
        fixture.ask_progress();
    }
    fixture.news(token, &[], 5);
    assert_eq!(fixture.sent(), [(NO_WATCH, 5, 0)]);
    fixture.news(token, &[], 6);
    assert!(fixture.sent().is_empty());
    fixture.news(token, &[], 7);
    assert_eq!(fixture.sent(), [(NO_WATCH, 7, 0)]);
}

#[test]
fn progress_never_comes_before_a_start() {
    let mut fixture = fixture();
    let now = fixture.stand(0, 4);
    let later = fixture.stand(10, 4);
    fixture.ask_progress();
    fixture.news(now, &[], 9);
    fixture.news(later, &[], 9);
    assert!(fixture.sent().is_empty());
    fixture.news(now, &[], 10);
    fixture.news(later, &[10], 11);
    assert_eq!(fixture.sent(), [(1, 11, 1), (NO_WATCH, 10, 0)]);
}

#[test]
fn progress_waits_for_a_watch_that_catches_up() {
    let mut fixture = fixture();
    fixture.stand(0, 8);
    let old = fixture.stand(2, 8);
    fixture.ask_progress();
    fixture.news(old, &[3, 4], 5);
    assert_eq!(fixture.sent(), [(1, 5, 2)]);
    fixture.news(old, &[], 8);
    assert_eq!(fixture.sent(), [(NO_WATCH, 8, 0)]);
}

#[test]
fn ticks_tell_progress_of_quiet_watches_only() {
    let mut fixture = fixture();
    let request =
        pb::WatchCreateRequest { key: "k".into(), progress_notify: true, ..Default::default() };
    let (token, _sink) = fixture.create(request).expect("asked");
    fixture.stand(0, 4);
    fixture.session.on_effect(WatchEffect::Created { token, revision: 4 });
    fixture.sent();
    fixture.session.on_progress_tick();
    assert_eq!(fixture.sent(), [(0, 4, 0)]);
    fixture.news(token, &[5], 6);
    fixture.sent();
    fixture.session.on_progress_tick();
    assert!(fixture.sent().is_empty(), "events flowed since the last tick");
    fixture.session.on_progress_tick();
    assert_eq!(fixture.sent(), [(0, 6, 0)]);
}

#[test]
fn a_client_that_does_not_read_loses_its_stream() {
    let mut fixture = fixture();
    let request = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let (token, sink) = fixture.create(request).expect("asked");
    let large = |revision| {
        let mut event = event(revision, true);
        event.kv.value = vec![0; WATCH_BUFFER_BYTES_MAX / 4].into();
        WatchEffect::Events { token, events: vec![event], through: revision }
    };
    let taken = (2..10).take_while(|&revision| sink.push(large(revision))).count();
    assert_eq!(taken, 3);
    let mut context = Context::from_waker(Waker::noop());
    match fixture.session.poll_news(&mut context) {
        Poll::Ready(Err(status)) => assert_eq!(status.code(), tonic::Code::Unavailable),
        other => panic!("not ended: {other:?}"),
    }
    drop(fixture.session);
    assert!(matches!(fixture.calls.lock().pop(), Some(BackendCall::CancelWatch { .. })));
}
