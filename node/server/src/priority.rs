//! Work that gives way to the requests of clients when there are too few cores for both.
//!
//! Invariant: a thread that has become a background thread stays one, so it must do nothing else.

use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tracing::debug;

/// Of a core that is wanted by both, such a thread gets a tenth of what another one gets.
const NICENESS: i32 = 10;

/// From now on this thread gives way to all others of the process.
///
/// On Linux the niceness is that of a thread, and may always be raised.
pub fn background() {
    if let Err(error) = setpriority_process(Some(gettid()), NICENESS) {
        debug!("a background thread runs like any other: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn only_the_thread_itself_gives_way() {
        let before = getpriority_process(Some(gettid())).unwrap();
        let there = std::thread::spawn(|| {
            background();
            getpriority_process(Some(gettid())).unwrap()
        });
        assert_eq!(there.join().unwrap(), NICENESS.max(before));
        assert_eq!(getpriority_process(Some(gettid())).unwrap(), before);
    }
}
