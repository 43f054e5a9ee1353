//! The pods that look at a stopped node's volume or change it, and what they said last.

use crate::build::names;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

/// Annotation of a ConfigMap with what such a pod printed: the pod's UID.
pub const PRINTED_BY: &str = "holdfast.dev/recovery-pod-uid";

/// A pod that runs `holdfast-node recover`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryPod {
    /// Another pod of the same name has another one.
    pub uid: String,
    /// It is being deleted.
    pub terminating: bool,
    /// Its process runs, as far as Kubernetes knows.
    pub running: bool,
    /// Why it does not start.
    pub trouble: Option<String>,
    /// It has ended, so.
    pub ended: Option<Ended>,
}

/// How such a pod has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// What it said; `None` if it had no time to.
    pub verdict: Option<Verdict>,
    /// Why it had none, as far as Kubernetes knows.
    pub why: String,
}

/// What `holdfast-node recover --verdict` writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The format; only 1 is understood.
    pub version: i64,
    /// What would be kept, if it came to that.
    #[serde(default)]
    pub report: Option<Summary>,
    /// Keys of which there is no copy, in words.
    #[serde(default)]
    pub lost: Vec<String>,
    /// Nodes that are given up.
    #[serde(default)]
    pub gone: Vec<String>,
    /// Of these, those that answered.
    #[serde(default)]
    pub running: Vec<String>,
    /// Why nothing was changed: `Running`, `Outdated` and others.
    #[serde(default)]
    pub refusal: Option<String>,
    /// The line with which it ended, if that was not well.
    #[serde(default)]
    pub failure: Option<String>,
    /// It was carried out, now or before.
    #[serde(default)]
    pub done: bool,
}

/// What would be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Stands for it.
    pub digest: String,
    /// Ranges that go on.
    pub kept: i64,
    /// Of these, copies that may be old.
    pub old: i64,
    /// Parts of the key space that are lost.
    pub lost_spans: i64,
    /// Term of the meta range.
    pub term: i64,
    /// Its last entry.
    pub entry: i64,
    /// The newest revision.
    pub revision: i64,
    /// What is compacted.
    pub compacted: i64,
}

impl From<&Pod> for RecoveryPod {
    fn from(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let container = status.container_statuses.iter().flatten();
        let mut own = container.filter(|container| container.name == names::CONTAINER);
        let state = own.next().and_then(|container| container.state.clone()).unwrap_or_default();
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let said = state.terminated.as_ref().and_then(|ended| ended.message.clone());
        let verdict = said.as_deref().and_then(|text| serde_json::from_str::<Verdict>(text).ok());
        let why = state
            .terminated
            .as_ref()
            .map(|ended| format!("exit code {}", ended.exit_code))
            .or(status.message)
            .or(status.reason)
            .unwrap_or_else(|| "no reason known".to_owned());
        let unscheduled = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
        let waiting = state.waiting.filter(|waiting| {
            !matches!(waiting.reason.as_deref(), Some("ContainerCreating" | "PodInitializing"))
        });
        let trouble = match (unscheduled, waiting) {
            (Some(condition), _) => condition.message.clone(),
            (None, Some(waiting)) => Some(format!(
                "{}: {}",
                waiting.reason.unwrap_or_default(),
                waiting.message.unwrap_or_default()
            )),
            (None, None) => None,
        };
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            running: state.running.is_some(),
            trouble,
            ended: (over || state.terminated.is_some())
                .then(|| Ended { verdict: verdict.filter(|verdict| verdict.version == 1), why }),
        }
    }
}
