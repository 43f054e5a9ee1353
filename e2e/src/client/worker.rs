//! One writer or reader with a connection of its own.

use super::judge::Key;
use super::record::{Ended, Recorder};
use crate::report::Operation;
use holdfast_proto::etcdserverpb::kv_client::KvClient;
use holdfast_proto::etcdserverpb::{PutRequest, RangeRequest, ResponseHeader};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long the last read of a key may take, with repetitions: longer than an election.
const LAST_READ: Duration = Duration::from_secs(30);

/// What a writer or reader needs.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) key: Arc<Key>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) pause: Duration,
    pub(super) deadline: Duration,
    pub(super) stopped: watch::Receiver<bool>,
}

impl Worker {
    /// Writes 1, 2, 3, … until told to stop.
    pub(super) async fn write(mut self, channel: Channel) {
        let mut client = KvClient::new(channel);
        let mut gateway = 0;
        while self.goes_on().await {
            let number = self.key.next();
            let before = self.recorder.revision();
            let put = PutRequest {
                key: self.key.name.clone().into(),
                value: number.to_string().into(),
                ..Default::default()
            };
            let began = Instant::now();
            let answer = limited(self.deadline, async {
                loop {
                    match client.put(put.clone()).await {
                        Err(status) if never_sent(&status) => {}
                        answer => return answer,
                    }
                }
            });
            match answer.await {
                Ok(response) => {
                    let header = response.header.unwrap_or_default();
                    gateway = node(&header);
                    self.key.acknowledge(number);
                    self.recorder.write_had(&self.key, before, header.revision);
                    self.recorder.succeeded(&self.ended(Operation::Put, gateway, began));
                }
                Err(status) => {
                    self.key.leave_open(number);
                    self.recorder.failed(&self.ended(Operation::Put, gateway, began), &status);
                }
            }
        }
    }

    /// Reads the key, linearizably, until told to stop.
    pub(super) async fn read(mut self, channel: Channel) {
        let mut client = KvClient::new(channel);
        let mut gateway = 0;
        while self.goes_on().await {
            let least = self.key.at_least();
            let began = Instant::now();
            let answer = limited(self.deadline, async {
                loop {
                    match client.range(get(&self.key)).await {
                        Err(status) if never_sent(&status) => {}
                        answer => return answer,
                    }
                }
            });
            match answer.await {
                Ok(response) => {
                    gateway = node(&response.header.unwrap_or_default());
                    let value = response.kvs.first().map(|pair| pair.value.as_ref());
                    self.recorder.judged(&self.key, self.key.judge(least, value));
                    self.recorder.succeeded(&self.ended(Operation::Get, gateway, began));
                }
                Err(status) => {
                    self.recorder.failed(&self.ended(Operation::Get, gateway, began), &status);
                }
            }
        }
    }

    /// Waits for the pause; false when it is time to stop.
    async fn goes_on(&mut self) -> bool {
        tokio::select! {
            _ = self.stopped.wait_for(|stopped| *stopped) => false,
            () = tokio::time::sleep(self.pause) => true,
        }
    }

    fn ended(&self, operation: Operation, gateway: u64, began: Instant) -> Ended<'_> {
        Ended { operation, key: &self.key, gateway, began }
    }
}

/// Reads a key after the last write; the only read that is repeated until it succeeds.
pub(super) async fn last_read(key: &Key, endpoint: &Endpoint) -> Result<Option<Vec<u8>>, String> {
    let began = Instant::now();
    let mut client = KvClient::new(endpoint.connect_lazy());
    loop {
        match limited(Duration::from_secs(5), client.range(get(key))).await {
            Ok(response) => return Ok(response.kvs.first().map(|pair| pair.value.to_vec())),
            Err(status) if began.elapsed() > LAST_READ => {
                return Err(format!("the last read failed: {}", status.message()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Connects again and again until so many nodes have answered, or `longest` is over.
pub(super) async fn await_gateways(endpoint: &Endpoint, wanted: usize, longest: Duration) {
    let mut seen = BTreeSet::new();
    let all = async {
        while seen.len() < wanted {
            let mut client = KvClient::new(endpoint.connect_lazy());
            let any = RangeRequest { key: b"recorded".to_vec().into(), ..Default::default() };
            match limited(Duration::from_secs(1), client.range(any)).await {
                Ok(response) => seen.extend(response.header.map(|header| header.member_id)),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    // In vain: what comes is recorded all the same, and says which nodes answered.
    tokio::time::timeout(longest, all).await.ok();
}

fn get(key: &Key) -> RangeRequest {
    RangeRequest { key: key.name.clone().into(), ..Default::default() }
}

/// Whether a request failed before it left this process, because its connection was just being
/// closed. Clients of gRPC repeat such a request by themselves; this library leaves it to its user.
fn never_sent(status: &Status) -> bool {
    // A server's own answer has no cause here.
    status.code() == Code::Cancelled && std::error::Error::source(status).is_some()
}

/// The node that answered.
fn node(header: &ResponseHeader) -> u64 {
    header.member_id
}

/// A request that fails when its time is over, whatever the connection does.
async fn limited<T>(
    deadline: Duration,
    request: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(deadline, request).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {deadline:?}"))),
    }
}
