//! Decides: ranges, replicas, the sequencer, transactions, watches.
//!
//! Invariant: nothing here knows a clock, thread, socket, file, random source or hash order. What
//! happened comes in as [`effects::Input`], what to do goes out as [`effects::Effects`].

pub mod ids;

pub mod key;

pub mod request;

pub mod error;

pub mod state;

pub mod descriptor;

pub mod level;
pub mod load;

pub mod measure;
pub mod message;

pub mod effects;

pub mod feed;

pub mod read;

pub mod eval;

pub mod check;

pub mod command;

pub mod dedup;

pub mod log_view;

pub mod meta;

pub mod sequencer;

pub mod session;

pub mod group;

pub mod leaseholder;

pub mod replica;

mod alike;
mod seldom;

pub mod bootstrap;

pub mod placement;
pub mod planner;

pub mod status;

pub mod node;
