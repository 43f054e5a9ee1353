//! server (to be filled)
