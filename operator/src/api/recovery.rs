//! What a user asks for when a majority is gone for good, and what the operator answers.
//!
//! Invariants: a request is known by its id, and never changed under it; consent names the report that
//! was read; all that the execution needs is in the status, so that any operator goes on with it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Goes on without nodes that are gone for good, from what one volume has. First only a report is made
/// of what is kept and lost, in `status.recovery`; nothing is given up before `acceptDataLoss` names it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.id != oldSelf.id || (self.from == oldSelf.from && self.mode == oldSelf.mode && self.ranges == oldSelf.ranges && self.emptyLostRanges == oldSelf.emptyLostRanges)")
        .message("a recovery is not changed under its id: give what is asked for now another recovery.id"),
    validation = Rule::new("(self.mode == 'Ranges') == (size(self.ranges) > 0)")
        .message("recovery.ranges names the ranges of mode Ranges, and nothing in mode WholeCluster"),
)]
pub struct Recovery {
    /// A name for this request: another one is another request.
    #[schemars(length(min = 1, max = 24))]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub id: String,
    /// The pod whose volume is gone on with, for example `demo-1`.
    #[schemars(length(min = 1, max = 63))]
    pub from: String,
    /// What is recovered.
    #[serde(default)]
    pub mode: RecoveryMode,
    /// The ranges of mode `Ranges`, by number.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub ranges: Vec<i64>,
    /// Keys of which there is no copy on that volume become new, empty ranges. Without it they are a
    /// reason to refuse.
    #[serde(default)]
    pub empty_lost_ranges: bool,
    /// Consent: the `status.recovery.report.digest` of the report that was read. What only the lost nodes
    /// had is then lost, they never come back, and the volumes that the report names are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub accept_data_loss: Option<String>,
}

/// What is recovered.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryMode {
    /// One node becomes the whole cluster: the majority of the nodes is gone.
    #[default]
    WholeCluster,
    /// Single ranges go on from the copy on one node: most nodes are there, but not of these ranges.
    Ranges,
}

/// How far a recovery is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RecoveryPhase {
    /// It is not begun: the message says what it waits for.
    #[default]
    Requested,
    /// The node stops for a moment, and its volume is looked at. Nothing is changed.
    Examining,
    /// The report is there, and waits for consent.
    Reported,
    /// Consent is given: all pods are stopped. Nothing is changed yet.
    Stopping,
    /// The volume is changed; from here on there is no way back.
    Recovering,
    /// The volumes of the nodes that are gone for ever are deleted.
    Replacing,
    /// The pods start.
    Starting,
    /// It is served again.
    Done,
    /// It was given up, with the reason in the message.
    Failed,
}

impl RecoveryPhase {
    /// Pods are disturbed in it, or volumes are changed.
    pub fn disturbs(self) -> bool {
        matches!(self, Self::Examining | Self::Stopping | Self::Recovering | Self::Replacing)
    }

    /// It can be taken back no more, and is not over.
    pub fn executes(self) -> bool {
        matches!(self, Self::Recovering | Self::Replacing | Self::Starting)
    }

    /// It is over.
    pub fn ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// A recovery as it is carried out.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryStatus {
    /// Of the request.
    pub id: String,
    /// Of the request.
    pub from: String,
    /// Of the request.
    pub mode: RecoveryMode,
    /// Of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<i64>,
    /// Of the request.
    #[serde(default)]
    pub empty_lost_ranges: bool,
    /// How far it is.
    pub phase: RecoveryPhase,
    /// Since when.
    pub since: Time,
    /// What it waits for, or how it ended.
    #[serde(default)]
    pub message: String,
    /// The pod that looks at the volume or changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// How many such pods there were.
    #[serde(default)]
    pub pods: i32,
    /// How many of them, one after the other, ended without a word.
    #[serde(default)]
    pub silent: i32,
    /// The UID of the node's pod that stops for it.
    #[serde(rename = "stoppedUID", default, skip_serializing_if = "Option::is_none")]
    pub stopped_uid: Option<String>,
    /// What is kept and lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<RecoveryReport>,
}

/// What a recovery keeps and gives up.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryReport {
    /// Stands for all of it: what `acceptDataLoss` has to be.
    pub digest: String,
    /// What `holdfast-node recover` calls its part of it.
    pub store_digest: String,
    /// Ranges that go on with what the volume has.
    pub kept_ranges: i64,
    /// Of these, copies that did not count any more, or not yet, and may be old.
    pub old_copies: i64,
    /// Parts of the key space of which there is no copy.
    pub lost_parts: i64,
    /// The first of these, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Nodes that are given up for ever.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
    /// Of these, those that ran when it was looked: what they have is given up too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<String>,
    /// How far the volume's directory is: of several nodes that are left, the one with the highest term, then
    /// entry, has most.
    pub meta_term: i64,
    /// See `metaTerm`.
    pub meta_entry: i64,
    /// The newest revision on the volume.
    pub revision: i64,
    /// Later revisions are above this, and everything up to it is compacted; 0 if revisions go on.
    pub compacted: i64,
    /// The UID of the volume claim that is gone on with.
    #[serde(rename = "volumeUID")]
    pub volume_uid: String,
    /// Volume claims that are deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes_given_up: Vec<VolumeGivenUp>,
    /// The ConfigMap with all of it, in words.
    pub config_map: String,
}

/// A volume claim that is deleted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGivenUp {
    /// Its pod.
    pub pod: String,
    /// Its UID: another claim of the same name is left alone.
    #[serde(rename = "volumeUID")]
    pub volume_uid: String,
}
