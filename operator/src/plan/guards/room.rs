//! Whether the nodes that stay have room for what a lost one held. A disk that fills up while copies are made
//! would stop all writes of the whole cluster, which is worse than a range that lacks a copy.
//!
//! Invariants: pure; a node that does not say how much room it has, because it is older, holds nobody up.

use super::{Context, Refusal, confirmed};
use crate::api::status::Store;
use crate::observe::Member;

/// The guard for room does not hold.
pub const NO_ROOM: &str = "NoRoom";

/// G6, second half: every node that gets copies has room for its share, and for a fifth more.
///
/// A lost node cannot be asked what it held: each of its copies counts as large as those of the others are
/// on average. They go where the cluster puts them, to whoever has the fewest.
pub fn room(context: &Context<'_>, store: &Store) -> Result<(), Refusal> {
    let Some(report) = &context.observed.report else { return confirmed(context) };
    let Some(lost) = store.store_id.and_then(|id| report.by_id(id)) else { return Ok(()) };
    let able: Vec<&Member> =
        report.nodes.iter().filter(|it| it.state == "Up" && it.id != lost.id).collect();
    let Some(copy) = bytes_a_copy(&able) else { return Ok(()) };
    let mut taken = vec![0_i64; able.len()];
    for _ in 0..lost.ranges {
        let fewest = (0..able.len()).min_by_key(|at| able[*at].ranges + taken[*at]);
        let Some(fewest) = fewest else { break };
        taken[fewest] += 1;
    }
    for (node, taken) in able.into_iter().zip(taken) {
        let needs = (taken as f64 * copy * 1.2) as u64;
        if let Some(room) = node.room_bytes.filter(|room| *room < needs) {
            return Err((
                NO_ROOM,
                format!(
                    "{} has room for {}, and its share of the copies of {} needs {}: raise nodes, or make room",
                    node.name,
                    bytes(room),
                    store.pod,
                    bytes(needs)
                ),
            ));
        }
    }
    Ok(())
}

/// How large a copy of a range is on average, on those that say so.
fn bytes_a_copy(nodes: &[&Member]) -> Option<f64> {
    let known = nodes.iter().filter_map(|node| Some((node.data_bytes?, node.ranges)));
    let (data, copies) = known.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    (copies > 0).then(|| data as f64 / copies as f64)
}

/// Rounded, so that the sentence, and with it the status, does not change with every write.
fn bytes(bytes: u64) -> String {
    match bytes >> 20 {
        0 => "less than 1 MiB".to_owned(),
        small @ 1..10 => format!("{small} MiB"),
        medium @ 10..1024 => format!("{} MiB", medium / 10 * 10),
        large => format!("{} GiB", large >> 10),
    }
}
