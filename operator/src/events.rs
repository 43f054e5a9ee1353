//! Events: what happened to a cluster, for `kubectl describe`.

use crate::api::HoldfastCluster;
use crate::plan::Notice;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};

/// Name that Events come from.
pub const CONTROLLER: &str = "holdfast-operator";

/// Tells what happened.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// `instance` is the operator's pod.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Publishes notices. An Event that cannot be written is logged and otherwise ignored: it is news,
    /// not state.
    pub async fn publish(&self, cluster: &HoldfastCluster, notices: &[Notice]) {
        for notice in notices {
            let event = Event {
                type_: if notice.warning { EventType::Warning } else { EventType::Normal },
                reason: notice.reason.to_owned(),
                note: Some(notice.note.chars().take(1000).collect()),
                action: notice.reason.to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, &cluster.object_ref(&())).await {
                tracing::warn!(%error, reason = notice.reason, "cannot write an Event");
            }
        }
    }
}
