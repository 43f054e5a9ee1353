//! The services as a client sees them: over a socket, through tonic's client, against a store in
//! memory.

use super::{Config, ETCD_VERSION, Gateway, fake, serve};
use crate::http::Endpoints;
use holdfast_proto::admin::admin_client::AdminClient;
use holdfast_proto::etcdserverpb as pb;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request};

struct Server {
    address: SocketAddr,
    channel: Channel,
    gateway: Gateway,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

async fn server() -> Server {
    server_with(Config::default()).await
}

async fn server_with(config: Config) -> Server {
    let backend = fake::start();
    let endpoints = Endpoints::new(backend.clone(), || "up 1\n".to_owned());
    let gateway = Gateway::new(backend, config, endpoints);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = gateway.clone();
    let served = tokio::spawn(async move {
        serve(listener, None, serving, async {
            stopped.await.ok();
        })
        .await;
    });
    let channel = Channel::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect()
        .await
        .expect("the server listens");
    Server { address, channel, gateway, stop, served }
}

fn put(key: &'static str, value: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

#[tokio::test]
async fn a_put_is_read_back_with_full_headers() {
    let server = server().await;
    let mut client = KvClient::new(server.channel);
    let answer = client.put(put("k", "v")).await.expect("put").into_inner();
    let header = pb::ResponseHeader { cluster_id: 0xc1, member_id: 7, revision: 2, raft_term: 3 };
    assert_eq!(answer.header, Some(header));
    let request = pb::RangeRequest { key: "k".into(), ..Default::default() };
    let answer = client.range(request).await.expect("range").into_inner();
    assert_eq!(answer.count, 1);
    assert_eq!((&answer.kvs[0].value[..], answer.kvs[0].mod_revision), (&b"v"[..], 2));
}

/// A message of several HTTP/2 frames, and an answer of several.
#[tokio::test]
async fn large_values_pass() {
    let server = server().await;
    let mut client = KvClient::new(server.channel);
    let value = vec![7; 1 << 20];
    let request =
        pb::PutRequest { key: "k".into(), value: value.clone().into(), ..Default::default() };
    client.put(request).await.expect("put");
    let request = pb::RangeRequest { key: "k".into(), ..Default::default() };
    let answer = client.range(request).await.expect("range").into_inner();
    assert_eq!(answer.kvs[0].value, value);
}

#[tokio::test]
async fn errors_have_etcds_code_and_text() {
    let server = server().await;
    let mut client = KvClient::new(server.channel.clone());
    let status = client.put(put("", "v")).await.expect_err("no key");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "etcdserver: key is not provided")
    );
    let large =
        pb::PutRequest { key: "k".into(), value: vec![0; 3 << 19].into(), ..Default::default() };
    let status = client.put(large).await.expect_err("too large");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "etcdserver: request is too large")
    );
    let huge =
        pb::PutRequest { key: "k".into(), value: vec![0; 3 << 20].into(), ..Default::default() };
    let status = client.put(huge).await.expect_err("far too large");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let compaction = pb::CompactionRequest { revision: 99, physical: false };
    let status = client.compact(compaction).await.expect_err("future");
    assert_eq!(status.code(), Code::OutOfRange);
    let range = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
    let status = client.delete_range(range).await.expect_err("not in this store");
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = client
        .range_stream(pb::RangeRequest { key: "k".into(), ..Default::default() })
        .await
        .expect_err("not there");
    assert_eq!(status.code(), Code::Unimplemented);
    let mut auth = pb::auth_client::AuthClient::new(server.channel);
    let status = auth.auth_status(pb::AuthStatusRequest {}).await.expect_err("not there");
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_clients_deadline_is_kept() {
    let server = server().await;
    let mut client = KvClient::new(server.channel);
    let mut request =
        Request::new(pb::RangeRequest { key: fake::SILENT_KEY.into(), ..Default::default() });
    request.set_timeout(Duration::from_millis(50));
    let status = client.range(request).await.expect_err("nobody answers");
    assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable));
}

#[tokio::test]
async fn requests_that_require_a_leader_fail_without_one() {
    let server = server().await;
    server.gateway.backend().vitals().set_has_leader(false);
    let mut client = KvClient::new(server.channel);
    let mut request = Request::new(put("k", "v"));
    request.metadata_mut().insert("hasleader", "true".parse().expect("ascii"));
    let status = client.put(request).await.expect_err("no leader");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: no leader"));
    client.put(put("k", "v")).await.expect("does not require one");
}

fn create(key: &'static str) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: key.into(), ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

#[tokio::test]
async fn watches_share_a_stream() {
    let server = server().await;
    let mut client = WatchClient::new(server.channel.clone());
    let (requests, outbound) = tokio::sync::mpsc::channel(8);
    requests.send(create("a")).await.expect("open");
    requests.send(create("b")).await.expect("open");
    let outbound = tokio_stream::wrappers::ReceiverStream::new(outbound);
    let mut inbound = client.watch(outbound).await.expect("watch").into_inner();
    for id in 0..2 {
        let created = inbound.next().await.expect("open").expect("created");
        assert_eq!((created.watch_id, created.created), (id, true));
    }
    let mut kv = KvClient::new(server.channel);
    kv.put(put("b", "1")).await.expect("put");
    let news = inbound.next().await.expect("open").expect("news");
    assert_eq!((news.watch_id, news.events.len()), (1, 1));
    assert_eq!(news.header.expect("always").revision, 2);

    let union = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
    requests.send(pb::WatchRequest { request_union: Some(union) }).await.expect("open");
    let progress = inbound.next().await.expect("open").expect("progress");
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(progress.header.expect("always").revision, 2);

    // The stop of the node ends the stream with an error that clients resume after.
    server.stop.send(()).expect("still serving");
    let status = inbound.next().await.expect("an end").expect_err("stopped");
    assert_eq!(status.code(), Code::Unavailable);
    drop((requests, inbound, client, kv));
    server.served.await.expect("ends");
}

#[tokio::test]
async fn leases_are_granted_kept_and_revoked() {
    let server = server().await;
    let mut client = LeaseClient::new(server.channel);
    let request = pb::LeaseGrantRequest { id: 0, ttl: 60 };
    let lease = client.lease_grant(request).await.expect("grant").into_inner();
    assert!(lease.id > 0);
    let same = pb::LeaseGrantRequest { id: lease.id, ttl: 60 };
    let status = client.lease_grant(same).await.expect_err("taken");
    assert_eq!(status.message(), "etcdserver: lease already exists");
    let long = pb::LeaseGrantRequest { id: 0, ttl: 9_000_000_001 };
    let status = client.lease_grant(long).await.expect_err("too long");
    assert_eq!(
        (status.code(), status.message()),
        (Code::OutOfRange, "etcdserver: too large lease TTL")
    );

    let ids = [lease.id, 5, lease.id];
    let requests = ids.map(|id| pb::LeaseKeepAliveRequest { id });
    let answers = client.lease_keep_alive(tokio_stream::iter(requests)).await.expect("stream");
    let answers: Vec<(i64, i64)> = answers
        .into_inner()
        .map(|answer| answer.map(|answer| (answer.id, answer.ttl)))
        .collect::<Result<_, _>>()
        .await
        .expect("no error");
    assert_eq!(answers, [(lease.id, 60), (5, 0), (lease.id, 60)]);

    let ttl = pb::LeaseTimeToLiveRequest { id: 5, keys: false };
    assert_eq!(client.lease_time_to_live(ttl).await.expect("ttl").into_inner().ttl, -1);
    client.lease_revoke(pb::LeaseRevokeRequest { id: lease.id }).await.expect("revoke");
    let all = client.lease_leases(pb::LeaseLeasesRequest {}).await.expect("list").into_inner();
    assert!(all.leases.is_empty());
}

#[tokio::test]
async fn the_node_describes_itself() {
    let server = server().await;
    let mut maintenance = MaintenanceClient::new(server.channel.clone());
    let status = maintenance.status(pb::StatusRequest {}).await.expect("status").into_inner();
    assert_eq!((status.version.as_str(), status.leader), (ETCD_VERSION, 7));
    let hash = maintenance.hash_kv(pb::HashKvRequest { revision: 1 }).await.expect("hash");
    assert_eq!(hash.into_inner().hash, 99);
    let moved = maintenance.move_leader(pb::MoveLeaderRequest { target_id: 9 }).await;
    assert_eq!(moved.expect_err("unknown").message(), "etcdserver: bad leader transferee");

    let mut cluster = ClusterClient::new(server.channel.clone());
    let request = pb::MemberListRequest { linearizable: true };
    let members = cluster.member_list(request).await.expect("list").into_inner().members;
    assert_eq!(members[0].client_ur_ls, ["http://127.0.0.1:1"]);
    let refused = cluster.member_add(pb::MemberAddRequest::default()).await;
    assert_eq!(refused.expect_err("not by etcd's call").code(), Code::FailedPrecondition);

    let mut admin = AdminClient::new(server.channel.clone());
    let request = holdfast_proto::admin::SplitRequest { key: "m".into() };
    assert_eq!(admin.split(request).await.expect("split").into_inner().message, "cut");
    let request = holdfast_proto::admin::StatusRequest { local: false };
    let json = admin.status(request).await.expect("status").into_inner().json;
    let status: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(status["nodes"][0]["state"], "Up");

    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel);
    let request = tonic_health::pb::HealthCheckRequest::default();
    let answer = health.check(request).await.expect("health").into_inner();
    assert_eq!(answer.status, 1);
}

/// One request over HTTP/1.1: status line and body.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test]
async fn plain_http_is_served_on_the_same_port() {
    let server = server().await;
    let health = get(server.address, "/health").await;
    assert!(health.starts_with("HTTP/1.1 200 OK"), "{health}");
    assert!(health.ends_with("{\"health\":\"true\",\"reason\":\"\"}"), "{health}");
    assert!(get(server.address, "/metrics").await.ends_with("up 1\n"));
    assert!(get(server.address, "/livez").await.ends_with("ok\n"));
    assert!(get(server.address, "/version").await.contains("\"etcdserver\":\"3.6.0\""));
    assert!(get(server.address, "/nothing").await.starts_with("HTTP/1.1 404"));
    let ready = get(server.address, "/readyz?verbose").await;
    assert!(ready.contains("[+]linearizable_read ok\n"), "{ready}");
    server.gateway.backend().vitals().set_has_leader(false);
    let ready = get(server.address, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("[-]linearizable_read failed"), "{ready}");
    let health = get(server.address, "/health").await;
    assert!(health.ends_with("{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}"), "{health}");
}

/// A connection over HTTP/1.1 that stays open after its one answer.
async fn stay(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("listens");
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        answer.push(stream.read_u8().await.expect("answered"));
    }
    stream
}

#[tokio::test]
async fn a_node_that_is_cut_off_ends_connections_and_their_streams() {
    let after = Duration::from_millis(400);
    let server = server_with(Config { cut_off_timeout: after, ..Config::default() }).await;
    let mut watches = WatchClient::new(server.channel.clone());
    let (requests, outbound) = tokio::sync::mpsc::channel(8);
    requests.send(create("a")).await.expect("open");
    let outbound = tokio_stream::wrappers::ReceiverStream::new(outbound);
    let mut inbound = watches.watch(outbound).await.expect("watch").into_inner();
    assert!(inbound.next().await.expect("open").expect("created").created);
    let mut plain = stay(server.address).await;

    server.gateway.backend().vitals().set_has_leader(false);
    let news = tokio::time::timeout(Duration::from_secs(20), inbound.next());
    let status = news.await.expect("in time").expect("an end").expect_err("cut off");
    assert_eq!(status.code(), Code::Unavailable);
    // Not etcd's "no leader", at which its clients give a watch up.
    assert!(status.message().starts_with("holdfast: this node sees no majority"), "{status}");
    assert_eq!(plain.read(&mut [0]).await.expect("closed in order"), 0);

    // Who comes again is answered, and kept for a while.
    KvClient::new(server.channel).put(put("a", "1")).await.expect("connects again");
    let opened = std::time::Instant::now();
    let mut plain = stay(server.address).await;
    assert_eq!(plain.read(&mut [0]).await.expect("closed in order"), 0);
    assert!(opened.elapsed() >= 2 * after, "{:?}", opened.elapsed());
    // The two from before, and this one; the first client may be on its way again.
    assert!(server.gateway.inner.sent_away.get() >= 3);
}
