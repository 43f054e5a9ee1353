//! Shows that the cluster keeps its promises: the protocol as a model that is searched
//! exhaustively, and (in its own modules) the real code under simulated faults.

pub mod model;

pub mod clock;

pub mod disk;

pub mod network;

pub mod sabotage;

pub mod invariants;

pub mod world;

pub mod history;

pub mod oracle;

pub mod workload;

pub mod nemesis;

pub mod convergence;

pub mod run;
