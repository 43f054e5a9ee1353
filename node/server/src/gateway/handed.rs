//! Connections that begin on the peers' port and turn out to speak HTTP/2 over TLS: what was read of
//! them already is read again by whoever takes them.
//!
//! Invariant: few wait at a time; more are closed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Connections that may wait to be taken.
const WAITING_MAX: usize = 16;

/// The end that hands connections over.
pub struct HandOver(Sender<(std::net::TcpStream, Vec<u8>)>);

/// The end that takes them.
pub struct Handed(Receiver<(std::net::TcpStream, Vec<u8>)>);

impl HandOver {
    /// Hands a connection over with what was read of it; closes it if too many wait.
    pub fn take(&self, stream: std::net::TcpStream, seen: Vec<u8>) {
        if self.0.try_send((stream, seen)).is_err() {
            tracing::debug!("an administrator's connection was closed: nobody takes it");
        }
    }
}

impl Handed {
    /// Both ends.
    pub fn channel() -> (HandOver, Self) {
        let (sender, receiver) = channel(WAITING_MAX);
        (HandOver(sender), Self(receiver))
    }

    /// The next connection; `None` if there will be none.
    pub(super) async fn next(&mut self) -> Option<io::Result<Replayed>> {
        let (stream, seen) = self.0.recv().await?;
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        Some(stream.map(|stream| Replayed { stream, seen, read: 0 }))
    }
}

/// A connection whose first bytes were read by somebody else.
pub(super) struct Replayed {
    stream: TcpStream,
    seen: Vec<u8>,
    /// Bytes of `seen` that were read again.
    read: usize,
}

impl AsyncRead for Replayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.seen[self.read..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.read += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
