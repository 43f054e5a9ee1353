//! sim (to be filled)
