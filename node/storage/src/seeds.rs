//! Seeds for random tests: some fixed ones and a fresh one, each printed by its test.

/// `count` seeds, or as many as the environment variable `HOLDFAST_SEEDS` says, for long runs.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    let wanted = std::env::var("HOLDFAST_SEEDS").ok().and_then(|text| text.parse().ok());
    (1..wanted.unwrap_or(count)).chain([rand::random()]).collect()
}
