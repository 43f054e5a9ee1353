//! A recording client in a pod, and what may be said of its report.

use crate::world::{PATIENCE, World, gateway, phase};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use holdfast_e2e::report::{Line, Request, Summary};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use std::collections::BTreeSet;
use std::time::Duration;

/// The pod of the recording client.
pub(crate) const RECORDER: &str = "recorder";

/// A client at work.
pub(crate) struct Recording<'a> {
    world: &'a World,
}

/// What a client saw from start to end.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) summary: Summary,
    pub(crate) failures: Vec<Request>,
}

impl<'a> Recording<'a> {
    /// Starts the pod and waits until every worker had an answer.
    pub(crate) async fn start(world: &'a World, not_on: Option<&str>) -> Self {
        let endpoint = format!("--endpoint={}", gateway());
        let arguments = [
            "client",
            &endpoint,
            "--gateways=2",
            "--cacert=/tls/ca.crt",
            "--cert=/tls/tls.crt",
            "--key=/tls/tls.key",
        ];
        world.run_client(RECORDER, &arguments, not_on).await;
        let recording = Self { world };
        recording.await_summary("writes", |summary| summary.puts > 100).await;
        recording
    }

    /// Waits until more writes succeed than had until now: the store serves again.
    pub(crate) async fn await_progress(&self) {
        let mut first = None;
        self.await_summary("progress", move |summary| {
            let before = *first.get_or_insert(summary.puts);
            summary.puts > before + 50
        })
        .await;
    }

    async fn await_summary(&self, what: &str, mut wanted: impl FnMut(&Summary) -> bool) {
        let parameters = LogParams { follow: true, tail_lines: Some(1), ..LogParams::default() };
        let pods = self.world.api::<Pod>();
        let mut last = None;
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let Ok(stream) = pods.log_stream(RECORDER, &parameters).await else {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                };
                let mut lines = stream.lines();
                while let Some(Ok(text)) = lines.next().await {
                    if let Ok(Line::Summary(summary)) = serde_json::from_str(&text) {
                        let done = wanted(&summary);
                        last = Some(summary);
                        if done {
                            return;
                        }
                    }
                }
            }
        });
        let in_time = found.await.is_ok();
        assert!(in_time, "waited {PATIENCE:?} for {what} of the client; it saw {last:?}");
    }

    /// Ends the client and reads its report. Whatever the test is about: no acknowledged write may
    /// be lost and no read stale.
    pub(crate) async fn stop(self) -> Recorded {
        self.world
            .exec(RECORDER, &["/usr/local/bin/holdfast-e2e", "stop"])
            .await
            .expect("the client can be told to stop");
        let ended = |pod: Option<&Pod>| matches!(phase(pod).as_str(), "Succeeded" | "Failed");
        self.world.await_pod(RECORDER, "to end", PATIENCE, ended).await;
        let text = self
            .world
            .api::<Pod>()
            .logs(RECORDER, &LogParams::default())
            .await
            .expect("the log of an ended pod can be read");
        let mut failures = Vec::new();
        let mut wrong = Vec::new();
        let mut last = None;
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(Line::Request(request)) => failures.push(request),
                Ok(Line::Wrong(answer)) => wrong.push(answer),
                Ok(Line::Summary(summary)) => last = Some(summary),
                Err(error) => panic!("the client printed {line:?}: {error}"),
            }
        }
        let summary = last.expect("the client prints a summary");
        assert!(summary.last, "the client did not end by itself: {summary:?}");
        assert!(
            wrong.is_empty() && summary.lost + summary.stale + summary.impossible == 0,
            "{} lost, {} stale, {} impossible: {wrong:?}",
            summary.lost,
            summary.stale,
            summary.impossible
        );
        eprintln!(
            "    client: {} puts, {} gets, {} failed, longest gap {} ms, slowest {} ms",
            summary.puts, summary.gets, summary.failed, summary.longest_gap_ms, summary.slowest_ms
        );
        Recorded { summary, failures }
    }
}

impl Recorded {
    /// Not one request failed.
    pub(crate) fn nothing_failed(&self) {
        assert!(
            self.failures.is_empty(),
            "{} requests failed, the first of them {:?}",
            self.summary.failed,
            &self.failures[..self.failures.len().min(5)]
        );
    }

    /// Requests failed only on connections to one node.
    pub(crate) fn failed_only_at(&self, number: &str) {
        let others: BTreeSet<&str> = self
            .failures
            .iter()
            .map(|failure| failure.gateway.as_str())
            .filter(|gateway| *gateway != number)
            .collect();
        assert!(
            others.is_empty(),
            "requests failed at nodes {others:?}, not only at {number}: {:?}",
            self.failures.iter().find(|failure| failure.gateway != number)
        );
    }

    /// Writes of no key stood still for longer.
    pub(crate) fn no_gap_above(&self, milliseconds: u64) {
        assert!(
            self.summary.longest_gap_ms <= milliseconds,
            "for {} ms no write succeeded; {milliseconds} ms are promised",
            self.summary.longest_gap_ms
        );
    }
}
