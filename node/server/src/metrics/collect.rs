//! Numbers that are read from elsewhere when somebody asks: the core's last status, certificates.

use crate::gateway::Progress;
use crate::tls::Tls;
use crate::transport::Flow;
use holdfast_core::status::Status;
use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;

/// Reads the last status.
pub(super) struct StatusCollector(pub(super) Arc<RwLock<Arc<Status>>>);

impl fmt::Debug for StatusCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusCollector")
    }
}

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = Arc::clone(&self.0.read());
        let counters = status.counters;
        let rows = [
            ("holdfast_proposals", "Log entries proposed here", counters.proposals),
            ("etcd_server_proposals_applied", "Commands applied here", counters.applied),
            ("holdfast_commands_applied", "Commands applied here", counters.applied),
            ("holdfast_elections_won", "Elections won by replicas here", counters.elections),
            ("holdfast_revisions_granted", "Revisions granted here", counters.grants),
            ("holdfast_quorum_rounds", "Rounds that confirmed the sequencer", counters.rounds),
            ("holdfast_requests_forwarded", "Requests sent to other nodes", counters.forwarded),
            ("holdfast_requests_retried", "Requests routed again", counters.retried),
            ("holdfast_raft_snapshots_sent", "Raft snapshots sent", counters.snapshots_sent),
            (
                "holdfast_raft_snapshots_installed",
                "Raft snapshots installed",
                counters.snapshots_installed,
            ),
            ("holdfast_checks", "Ranges whose copies were compared here", counters.checks),
            (
                "holdfast_checks_incomplete",
                "Comparisons in which not every copy took part",
                counters.checks_incomplete,
            ),
            ("holdfast_cuts_by_size", "Ranges led here cut by their size", counters.cuts_by_size),
            ("holdfast_cuts_by_load", "Ranges led here cut by their load", counters.cuts_by_load),
            ("holdfast_merges", "Ranges taken in by others on this node", counters.merges),
            (
                "holdfast_merges_begun",
                "Merges that nobody asked for, begun here",
                counters.merges_begun,
            ),
            (
                "holdfast_ranks_by_load",
                "Leaders changed because of load, as asked for here",
                counters.ranks_by_load,
            ),
        ];
        write_counters(&mut encoder, rows)?;
        write_gauges(&mut encoder, gauges(&status))
    }
}

/// Reads how raft snapshots flow.
#[derive(Debug)]
pub(super) struct FlowCollector(pub(super) Arc<RwLock<Flow>>);

impl Collector for FlowCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Flow { rate, limit, sent, received } = *self.0.read();
        let rates = [
            (
                "holdfast_snapshot_rate_bytes_per_second",
                "Raft snapshot bytes a second that may be sent, and received, now",
                gauged(rate),
            ),
            (
                "holdfast_snapshot_rate_limit_bytes_per_second",
                "The same at most: --snapshot-rate",
                gauged(limit),
            ),
        ];
        write_gauges(&mut encoder, rates)?;
        let bytes = [
            ("holdfast_snapshot_sent_bytes", "Raft snapshot bytes sent", sent),
            ("holdfast_snapshot_received_bytes", "Raft snapshot bytes received", received),
        ];
        write_counters(&mut encoder, bytes)
    }
}

/// Reads how far the making of copies is.
#[derive(Debug)]
pub(super) struct ProgressCollector(pub(super) Arc<RwLock<Option<Progress>>>);

impl Collector for ProgressCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let progress = self.0.read().unwrap_or_default();
        let Progress { ranges_done, ranges_total, bytes_done, bytes_total, seconds_left } =
            progress;
        let work = [
            (
                "holdfast_reprotection_ranges",
                "Ranges of the cluster that are to get copies, told by who leads the meta range",
                gauged(ranges_total - ranges_done),
            ),
            (
                "holdfast_reprotection_bytes",
                "Bytes of these copies that are still to be made, about",
                gauged(bytes_total - bytes_done),
            ),
        ];
        write_gauges(&mut encoder, work)?;
        let time = |seconds| {
            (
                "holdfast_reprotection_left_seconds",
                "Time until all copies are made; not there while it is unknown",
                gauged(seconds),
            )
        };
        write_gauges(&mut encoder, seconds_left.map(time))
    }
}

/// Reads what certificates are in use.
#[derive(Debug)]
pub(super) struct TlsCollector(pub(super) Vec<Arc<Tls>>);

impl Collector for TlsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut family = encoder.encode_descriptor(
            "holdfast_tls_certificate_not_after_seconds",
            "When the certificate in use ends, in seconds since 1970",
            None,
            MetricType::Gauge,
        )?;
        for tls in &self.0 {
            let labels = [("listener", tls.side().to_string())];
            ConstGauge::new(tls.not_after()).encode(family.encode_family(&labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "holdfast_tls_reload_failures",
            "Changed certificate files that could not be used",
            None,
            MetricType::Counter,
        )?;
        for tls in &self.0 {
            let labels = [("listener", tls.side().to_string())];
            ConstCounter::new(tls.failures()).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn gauges(status: &Status) -> [(&'static str, &'static str, i64); 15] {
    let replicas = || status.replicas.iter();
    let count = |number: usize| number as i64;
    let leaders = replicas().filter(|replica| replica.leader).count();
    let lease = || replicas().filter(|replica| replica.leaseholder);
    let asleep = replicas().filter(|replica| replica.asleep).count();
    let lag = lease().map(|replica| status.revision - replica.watermark).max().unwrap_or(0);
    let unavailable = status.ranges.iter().filter(|range| range.leaseholder.is_none()).count();
    let behind =
        lease().flat_map(|replica| &replica.followers).filter(|(_, _, fine)| !fine).count();
    [
        (
            "etcd_server_has_leader",
            "1 if a sequencer is known",
            i64::from(status.sequencer.is_some()),
        ),
        (
            "etcd_server_is_leader",
            "1 if this node is the sequencer",
            i64::from(status.sequencer == Some(status.node)),
        ),
        ("holdfast_replicas", "Replicas on this node", count(status.replicas.len())),
        ("holdfast_leaders", "Ranges that this node leads", count(leaders)),
        ("holdfast_leaseholders", "Ranges that this node may serve", count(lease().count())),
        ("holdfast_replicas_asleep", "Replicas that sleep", count(asleep)),
        ("holdfast_copies_behind", "Copies that ranges led here lack", count(behind)),
        ("holdfast_ranges", "Ranges of the cluster", count(status.ranges.len())),
        (
            "holdfast_ranges_diverged",
            "Ranges of the cluster whose copies differ",
            count(status.divergences.len()),
        ),
        (
            "holdfast_ranges_without_leaseholder",
            "Ranges of the cluster that nobody may serve, as known here",
            count(unavailable),
        ),
        (
            "holdfast_watermark_lag_revisions",
            "Newest revision less the least complete one of the ranges served here",
            lag,
        ),
        ("holdfast_nodes_reachable", "Nodes heard of lately", count(status.reachable.len())),
        ("holdfast_requests_waiting", "Requests of this gateway", count(status.requests)),
        ("holdfast_watches", "Watches of this gateway", count(status.watches)),
        ("holdfast_revision", "Newest revision heard of", status.revision),
    ]
}

/// A number as gauges have them.
fn gauged(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Writes counters: name, help and value.
fn write_counters<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    rows: impl IntoIterator<Item = (&'a str, &'a str, u64)>,
) -> fmt::Result {
    rows.into_iter()
        .try_for_each(|(name, help, value)| write(encoder, name, help, &ConstCounter::new(value)))
}

/// Writes gauges: name, help and value.
fn write_gauges<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    rows: impl IntoIterator<Item = (&'a str, &'a str, i64)>,
) -> fmt::Result {
    rows.into_iter()
        .try_for_each(|(name, help, value)| write(encoder, name, help, &ConstGauge::new(value)))
}

fn write(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}
