//! The Holdfast operator: one resource makes a cluster on Kubernetes, and its status tells the truth.
//!
//! `observe -> validate -> plan -> status -> build -> apply -> act`, one file each. [`validate`],
//! [`plan`], [`build`] and [`status`] are pure: what they decide depends on their arguments alone, time
//! included. [`reconcile`] is the shell that carries it out.
//!
//! Invariants: the operator proposes and the cluster's own majority disposes; unknown is not down; a
//! new version of the operator restarts no pod.

pub mod api;
pub mod apply;
pub mod backoff;
pub mod build;
pub mod events;
pub mod leader;
pub mod metrics;
pub mod nodes;
pub mod observe;
pub mod plan;
pub mod rbac;
pub mod reconcile;
pub mod run;
pub mod status;
pub mod stores;
pub mod tls;
pub mod validate;
