//! Whether clients can connect: by connecting.
//!
//! Invariant: only this says anything about the client listener; nothing of the back end (log, peers,
//! store loop) depends on it.

use parking_lot::Mutex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// For so long the listener counts as open after it was.
const FRESH: Duration = Duration::from_secs(1);

/// What is known of the client listener.
#[derive(Debug, Default)]
pub struct FrontEnd {
    /// Where to connect to; none while it is closed.
    address: Mutex<Option<SocketAddr>>,
    accepted: AtomicU64,
    news: Notify,
    last: Mutex<Option<Instant>>,
}

impl FrontEnd {
    /// The listener is open.
    pub(super) fn open(&self, address: SocketAddr) {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        *self.address.lock() = Some(SocketAddr::new(ip, address.port()));
    }

    /// The listener is closed.
    pub(super) fn close(&self) {
        *self.address.lock() = None;
        *self.last.lock() = None;
    }

    /// It took a connection.
    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        self.news.notify_waiters();
    }

    /// Why clients cannot connect, if they cannot; waits no longer than `timeout`. The system
    /// completes connections that nobody takes, so it counts only that one was taken.
    pub async fn failure(&self, timeout: Duration) -> Option<&'static str> {
        let Some(address) = *self.address.lock() else {
            return Some("the client listener is closed");
        };
        if self.last.lock().is_some_and(|last| last.elapsed() < FRESH) {
            return None;
        }
        let before = self.accepted.load(Ordering::SeqCst);
        let taken = async {
            let _connection = TcpStream::connect(address).await?;
            loop {
                let news = self.news.notified();
                if self.accepted.load(Ordering::SeqCst) != before {
                    return Ok::<_, std::io::Error>(());
                }
                news.await;
            }
        };
        match tokio::time::timeout(timeout, taken).await {
            Ok(Ok(())) => {
                *self.last.lock() = Some(Instant::now());
                None
            }
            Ok(Err(_)) => Some("the client listener cannot be connected to"),
            Err(_elapsed) => Some("the client listener takes no connections"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn only_a_listener_that_takes_connections_counts_as_open() {
        let front = FrontEnd::default();
        let timeout = Duration::from_millis(200);
        assert_eq!(front.failure(timeout).await, Some("the client listener is closed"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        front.open(listener.local_addr().unwrap());
        let hung = Some("the client listener takes no connections");
        assert_eq!(front.failure(timeout).await, hung);
        let accept = async {
            loop {
                drop(listener.accept().await.unwrap());
                front.accepted();
            }
        };
        tokio::select! {
            () = accept => {}
            failure = front.failure(Duration::from_secs(20)) => assert_eq!(failure, None),
        }
        drop(listener);
        front.close();
        assert!(front.failure(timeout).await.is_some());
    }
}
