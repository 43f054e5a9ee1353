//! Numbers for Prometheus: what is slow, what waits, who leads.
//!
//! Names begin with `holdfast_`; those that begin with `etcd_` are there because dashboards made for
//! etcd look for them. Invariant: nothing here is paid per request; a scrape reads the last status.

mod collect;

use crate::gateway::Progress;
use crate::tls::Tls;
use crate::transport::Flow;
use collect::{FlowCollector, ProgressCollector, StatusCollector, TlsCollector};
use holdfast_core::status::Status;
use parking_lot::RwLock;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::time::Duration;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All numbers of a node.
pub struct Metrics {
    registry: Registry,
    log_fsync: Histogram,
    log_writes: Counter,
    apply: Histogram,
    turn: Histogram,
    turn_mail: Histogram,
    flush: Histogram,
    reads_inline: Counter,
    reads_pooled: Counter,
    mailbox: Gauge,
    log_queue: Gauge,
    peer_queue_bytes: Gauge,
    snapshots: Arc<RwLock<Flow>>,
    reprotection: Arc<RwLock<Option<Progress>>>,
    db_size: Gauge,
    disk_total: Gauge,
    disk_free: Gauge,
    leader_changes: Counter,
    sent_away: Counter,
    status: Arc<RwLock<Arc<Status>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Metrics {
    /// All zero; the certificates are asked when somebody looks.
    pub fn new(certificates: Vec<Arc<Tls>>) -> Self {
        // From 0.1 ms, a fast disk, to 3 s, a dying one: as etcd has it, one step finer.
        let time = || Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        let size = || Histogram::new(exponential_buckets(1.0, 2.0, 14));
        let status: Arc<RwLock<Arc<Status>>> = Arc::default();
        let mut metrics = Self {
            registry: Registry::default(),
            log_fsync: time(),
            log_writes: Counter::default(),
            apply: time(),
            turn: time(),
            turn_mail: size(),
            flush: time(),
            reads_inline: Counter::default(),
            reads_pooled: Counter::default(),
            mailbox: Gauge::default(),
            log_queue: Gauge::default(),
            peer_queue_bytes: Gauge::default(),
            snapshots: Arc::default(),
            reprotection: Arc::default(),
            db_size: Gauge::default(),
            disk_total: Gauge::default(),
            disk_free: Gauge::default(),
            leader_changes: Counter::default(),
            sent_away: Counter::default(),
            status,
        };
        metrics.register();
        metrics.registry.register_collector(Box::new(TlsCollector(certificates)));
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let seconds = Unit::Seconds;
        for (name, help, histogram) in [
            ("holdfast_log_fsync", "Time of one write with fsync to the raft log", &self.log_fsync),
            ("etcd_disk_wal_fsync_duration", "The same as holdfast_log_fsync", &self.log_fsync),
            ("holdfast_apply", "Time to apply one turn's changes", &self.apply),
            ("etcd_disk_backend_commit_duration", "The same as holdfast_flush", &self.flush),
            ("holdfast_turn", "Time of one turn of the store loop", &self.turn),
            ("holdfast_flush", "Time to make the applied state durable", &self.flush),
        ] {
            registry.register_with_unit(name, help, seconds.clone(), histogram.clone());
        }
        registry.register(
            "holdfast_turn_mail",
            "Mail handled in one turn of the store loop",
            self.turn_mail.clone(),
        );
        for (name, help, counter) in [
            ("holdfast_log_writes", "Range writes put into the raft log", &self.log_writes),
            ("holdfast_reads_inline", "Small reads run by the store loop", &self.reads_inline),
            ("holdfast_reads_pooled", "Larger reads run by reader threads", &self.reads_pooled),
            (
                "etcd_server_leader_changes_seen",
                "Changes of the sequencer's node seen here",
                &self.leader_changes,
            ),
            (
                "holdfast_clients_sent_away",
                "Client connections ended because this node sees no majority of the meta range",
                &self.sent_away,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            ("holdfast_mailbox_length", "Mail waiting for the store loop", &self.mailbox),
            ("holdfast_log_queue_length", "Turns waiting for the log writer", &self.log_queue),
            ("holdfast_peer_queue_bytes", "Bytes waiting for peers", &self.peer_queue_bytes),
            ("holdfast_state_size_bytes", "Size of the state file", &self.db_size),
            ("etcd_mvcc_db_total_size_in_bytes", "Size of the state file", &self.db_size),
            ("holdfast_disk_total_bytes", "Size of the data directory's disk", &self.disk_total),
            ("holdfast_disk_free_bytes", "Free on the data directory's disk", &self.disk_free),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register_collector(Box::new(StatusCollector(Arc::clone(&self.status))));
        registry.register_collector(Box::new(FlowCollector(Arc::clone(&self.snapshots))));
        let progress = ProgressCollector(Arc::clone(&self.reprotection));
        registry.register_collector(Box::new(progress));
    }

    /// Counts connections of clients that are ended because this node is cut off.
    pub fn sent_away(&self) -> Counter {
        self.sent_away.clone()
    }

    /// Everything in the text format that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes any text");
        text
    }

    /// One write to the log took so long.
    pub(crate) fn log_write(&self, writes: usize, sync: bool, time: Duration) {
        self.log_writes.inc_by(writes as u64);
        if sync {
            self.log_fsync.observe(time.as_secs_f64());
        }
    }

    /// Applying one turn's changes took so long.
    pub(crate) fn apply(&self, time: Duration) {
        self.apply.observe(time.as_secs_f64());
    }

    /// One turn handled so much mail in such a time.
    pub(crate) fn turn(&self, mail: usize, time: Duration) {
        self.turn_mail.observe(mail as f64);
        self.turn.observe(time.as_secs_f64());
    }

    /// One flush of the state took so long.
    pub(crate) fn flush(&self, time: Duration) {
        self.flush.observe(time.as_secs_f64());
    }

    /// Reads were run by the loop, and given to reader threads.
    pub(crate) fn reads(&self, inline: u64, pooled: u64) {
        self.reads_inline.inc_by(inline);
        self.reads_pooled.inc_by(pooled);
    }

    /// What waits at the moment.
    pub(crate) fn queues(&self, mailbox: usize, log_queue: usize, peer_bytes: usize) {
        self.mailbox.set(mailbox as i64);
        self.log_queue.set(log_queue as i64);
        self.peer_queue_bytes.set(peer_bytes as i64);
    }

    /// How raft snapshots flow at the moment.
    pub(crate) fn snapshots(&self, flow: Flow) {
        *self.snapshots.write() = flow;
    }

    /// How far the making of copies is, if this node follows it.
    pub(crate) fn reprotection(&self, progress: Option<Progress>) {
        *self.reprotection.write() = progress;
    }

    /// Size of the state file.
    pub(crate) fn state_size(&self, bytes: u64) {
        self.db_size.set(bytes as i64);
    }

    /// Room on the disk.
    pub(crate) fn disk_room(&self, total: u64, free: u64) {
        self.disk_total.set(total as i64);
        self.disk_free.set(free as i64);
    }

    /// What the core says about itself.
    pub(crate) fn status(&self, status: Arc<Status>) {
        let before = std::mem::replace(&mut *self.status.write(), Arc::clone(&status));
        if before.sequencer != status.sequencer && status.sequencer.is_some() {
            self.leader_changes.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::ids::NodeId;

    #[test]
    fn names_that_dashboards_want_are_there() {
        let metrics = Metrics::default();
        metrics.log_write(3, true, Duration::from_millis(1));
        metrics.snapshots(Flow { rate: 5, limit: 80, sent: 7, received: 9 });
        let status = Status { sequencer: Some(NodeId(2)), ..Status::default() };
        metrics.status(Arc::new(status));
        let text = metrics.render();
        for line in [
            "etcd_server_has_leader 1",
            "etcd_server_leader_changes_seen_total 1",
            "etcd_mvcc_db_total_size_in_bytes 0",
            "etcd_disk_wal_fsync_duration_seconds_count 1",
            "holdfast_log_writes_total 3",
            "holdfast_proposals_total 0",
            "holdfast_snapshot_rate_bytes_per_second 5",
            "holdfast_snapshot_rate_limit_bytes_per_second 80",
            "holdfast_snapshot_sent_bytes_total 7",
            "holdfast_snapshot_received_bytes_total 9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn an_estimate_is_shown_only_when_there_is_one() {
        let metrics = Metrics::default();
        let shows = |line: &str| metrics.render().lines().any(|found| found == line);
        assert!(shows("holdfast_reprotection_ranges 0"));
        let mut progress = Progress { ranges_done: 3, ranges_total: 8, ..Progress::default() };
        progress.bytes_total = 9;
        metrics.reprotection(Some(progress));
        assert!(shows("holdfast_reprotection_ranges 5"));
        assert!(shows("holdfast_reprotection_bytes 9"));
        assert!(!metrics.render().contains("holdfast_reprotection_left_seconds"));
        metrics.reprotection(Some(Progress { seconds_left: Some(40), ..progress }));
        assert!(shows("holdfast_reprotection_left_seconds 40"));
    }
}
