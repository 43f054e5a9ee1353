//! Shows that the cluster keeps its promises: the protocol as a model that is searched
//! exhaustively, and (in its own modules) the real code under simulated faults.

pub mod model;
