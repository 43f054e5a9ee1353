//! Clients that write and read while the cluster is hurt, and the check of what they saw.
//!
//! Each writer owns one key and writes 1, 2, 3, … to it, so that the value that a read returns says
//! which writes had happened. Checked are: no acknowledged write is lost; no read is stale;
//! revisions grow in real time over all keys; and, where asked for, no request fails.

use holdfast_proto::etcdserverpb::kv_client::KvClient;
use holdfast_proto::etcdserverpb::{PutRequest, RangeRequest};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything that these tests do to a cluster.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// One acknowledged write.
#[derive(Clone, Copy, Debug)]
struct Acked {
    value: u64,
    revision: i64,
    start: Instant,
    end: Instant,
}

/// What one writer saw.
#[derive(Debug, Default)]
struct Written {
    acked: Vec<Acked>,
    /// The last value that was sent, acknowledged or not.
    sent: u64,
    failures: Vec<String>,
}

/// Writers and readers at work.
pub(crate) struct Load {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    writers: Vec<(String, JoinHandle<Written>)>,
    readers: Vec<JoinHandle<Vec<String>>>,
    endpoints: Vec<String>,
}

/// What the load saw as a whole.
pub(crate) struct Report {
    pub(crate) acked: usize,
    pub(crate) failures: Vec<String>,
    /// The longest time in which no write at all was acknowledged.
    pub(crate) longest_gap: Duration,
}

impl Load {
    /// Starts one writer and one reader for each key, spread over the endpoints.
    pub(crate) fn start(endpoints: &[String], keys: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicU64::new(0));
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for (number, key) in keys.iter().enumerate() {
            let key = (*key).to_owned();
            let done = Arc::new(AtomicI64::new(0));
            let writer = Writer {
                key: key.clone(),
                client: connect(&runtime, &endpoints[number % endpoints.len()]),
                stop: Arc::clone(&stop),
                done: Arc::clone(&done),
                acked: Arc::clone(&acked),
            };
            let reader = Reader {
                key: key.clone(),
                client: connect(&runtime, &endpoints[(number + 1) % endpoints.len()]),
                stop: Arc::clone(&stop),
                done,
            };
            writers.push((key, runtime.spawn(writer.run())));
            readers.push(runtime.spawn(reader.run()));
        }
        Self { runtime, stop, acked, writers, readers, endpoints: endpoints.to_vec() }
    }

    /// Waits until so many more writes were acknowledged.
    pub(crate) fn wait_progress(&self, writes: u64) {
        let goal = self.acked.load(Ordering::SeqCst) + writes;
        super::cluster::wait_for("writes to be acknowledged", || {
            self.acked.load(Ordering::SeqCst) >= goal
        });
    }

    /// Ends the load and checks everything.
    pub(crate) fn finish(self) -> Report {
        self.stop.store(true, Ordering::SeqCst);
        let mut histories = BTreeMap::new();
        for (key, writer) in self.writers {
            histories.insert(key, self.runtime.block_on(writer).unwrap());
        }
        let mut stale = Vec::new();
        for reader in self.readers {
            stale.extend(self.runtime.block_on(reader).unwrap());
        }
        assert!(stale.is_empty(), "stale reads: {stale:?}");
        check_real_time_order(&histories);
        for endpoint in &self.endpoints {
            let client = connect(&self.runtime, endpoint);
            for (key, written) in &histories {
                self.runtime.block_on(check_kept(client.clone(), key, written));
            }
        }
        report(histories)
    }
}

struct Writer {
    key: String,
    client: KvClient<Channel>,
    stop: Arc<AtomicBool>,
    /// The last acknowledged value, for the reader of the key.
    done: Arc<AtomicI64>,
    acked: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self) -> Written {
        let mut written = Written::default();
        while !self.stop.load(Ordering::SeqCst) {
            written.sent += 1;
            let value = written.sent;
            let mut request = tonic::Request::new(PutRequest {
                key: self.key.clone().into_bytes().into(),
                value: value.to_string().into_bytes().into(),
                ..PutRequest::default()
            });
            request.set_timeout(REQUEST_TIMEOUT);
            let start = Instant::now();
            match self.client.put(request).await {
                Ok(answer) => {
                    let revision = answer.into_inner().header.unwrap().revision;
                    written.acked.push(Acked { value, revision, start, end: Instant::now() });
                    self.done.store(value as i64, Ordering::SeqCst);
                    self.acked.fetch_add(1, Ordering::SeqCst);
                }
                Err(status) => {
                    written.failures.push(format!("put {}={value}: {status}", self.key));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        written
    }
}

struct Reader {
    key: String,
    client: KvClient<Channel>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicI64>,
}

impl Reader {
    /// Returns stale reads, in words.
    async fn run(mut self) -> Vec<String> {
        let mut stale = Vec::new();
        while !self.stop.load(Ordering::SeqCst) {
            let before = self.done.load(Ordering::SeqCst);
            match get(&mut self.client, &self.key).await {
                Ok((value, _)) if (value as i64) < before => {
                    stale.push(format!("{}: {value} after {before} was acknowledged", self.key));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        stale
    }
}

/// A client of one node.
pub(crate) fn connect(runtime: &Runtime, endpoint: &str) -> KvClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
    let _inside = runtime.enter();
    KvClient::new(endpoint.connect_lazy())
}

/// The number under a key and its revision; 0 if the key is not there.
async fn get(client: &mut KvClient<Channel>, key: &str) -> Result<(u64, i64), tonic::Status> {
    let mut request = tonic::Request::new(RangeRequest {
        key: key.as_bytes().to_vec().into(),
        ..RangeRequest::default()
    });
    request.set_timeout(REQUEST_TIMEOUT);
    let answer = client.range(request).await?.into_inner();
    Ok(answer.kvs.first().map_or((0, 0), |kv| {
        let text = std::str::from_utf8(&kv.value).unwrap();
        (text.parse().unwrap(), kv.mod_revision)
    }))
}

/// The last acknowledged write, or one that was sent after it, is there.
async fn check_kept(mut client: KvClient<Channel>, key: &str, written: &Written) {
    let (value, revision) = get(&mut client, key).await.unwrap();
    let last = written.acked.last().map_or(0, |acked| acked.value);
    assert!(
        (last..=written.sent).contains(&value),
        "{key} is {value}, but {last} was acknowledged and {} sent",
        written.sent
    );
    if let Some(acked) = written.acked.iter().find(|acked| acked.value == value) {
        assert_eq!(revision, acked.revision, "{key}={value} has another revision than its answer");
    }
}

/// A write that began after another was acknowledged has the higher revision.
fn check_real_time_order(histories: &BTreeMap<String, Written>) {
    let mut all: Vec<Acked> =
        histories.values().flat_map(|written| written.acked.iter().copied()).collect();
    let mut by_end = all.clone();
    all.sort_by_key(|acked| acked.start);
    by_end.sort_by_key(|acked| acked.end);
    let mut ended = by_end.iter().peekable();
    let mut highest = 0;
    for acked in &all {
        while let Some(before) = ended.next_if(|before| before.end < acked.start) {
            highest = highest.max(before.revision);
        }
        assert!(
            acked.revision > highest,
            "revision {} was given after {highest} was acknowledged",
            acked.revision
        );
    }
    let mut revisions: Vec<i64> = all.iter().map(|acked| acked.revision).collect();
    revisions.sort_unstable();
    assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]), "a revision was given twice");
}

fn report(histories: BTreeMap<String, Written>) -> Report {
    let mut ends: Vec<Instant> = histories
        .values()
        .flat_map(|written| written.acked.iter().map(|acked| acked.end))
        .collect();
    ends.sort();
    let longest_gap = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::ZERO);
    let failures = histories.into_values().flat_map(|written| written.failures).collect();
    Report { acked: ends.len(), failures, longest_gap }
}
