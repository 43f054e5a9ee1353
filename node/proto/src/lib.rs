//! proto (to be filled)
