//! How long to wait before a failed reconcile is tried again: longer each time, for each cluster
//! separately, and forgotten at the first success.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// The longest wait.
const LONGEST: Duration = Duration::from_mins(5);

/// Failures in a row, by the UID of the cluster.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    /// Counts a failure and says how long to wait: `min(5m, 1s * 2^n)`, and up to a quarter more so
    /// that many clusters do not come back at once.
    pub fn failed(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(uid.to_owned()).or_insert(0);
        let wait = Duration::from_secs(1 << (*count).min(16)).min(LONGEST);
        *count += 1;
        wait + wait.mul_f64(rand::random::<f64>() / 4.0)
    }

    /// Forgets the failures of a cluster.
    pub fn succeeded(&self, uid: &str) {
        self.failures.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_again_after_a_success() {
        let backoff = Backoff::default();
        let first = backoff.failed("a");
        assert!(first >= Duration::from_secs(1) && first <= Duration::from_millis(1250));
        for _ in 0..20 {
            backoff.failed("a");
        }
        let late = backoff.failed("a");
        assert!(late >= LONGEST && late <= LONGEST.mul_f64(1.25), "{late:?}");
        assert!(backoff.failed("b") < Duration::from_secs(2));
        backoff.succeeded("a");
        assert!(backoff.failed("a") < Duration::from_secs(2));
    }
}
