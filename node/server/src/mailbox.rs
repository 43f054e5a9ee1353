//! The one way into a store loop: a queue with many writers and one reader.
//!
//! Invariants: mail of one writer is read in the order in which it was posted. The reader takes
//! everything at once, so that the lock and the wake-up are paid per batch. Writers that can wait
//! (peer connections) stop while too many bytes are queued; writers that cannot (ticks, results)
//! never do, their number being bounded by what the loop has asked for.

use parking_lot::{Condvar, Mutex};
use std::time::Instant;

/// Bytes of peer messages that may wait in a mailbox before their readers stop reading.
const WEIGHT_MAX: usize = 64 << 20;

/// A queue with many writers and one reader.
#[derive(Debug)]
pub struct Mailbox<M> {
    inner: Mutex<Inner<M>>,
    arrived: Condvar,
    room: Condvar,
}

#[derive(Debug)]
struct Inner<M> {
    mail: Vec<M>,
    weight: usize,
    /// The reader sleeps and wants to be woken.
    asleep: bool,
    /// Writers wait for room.
    crowded: bool,
    /// The reader is gone: mail is dropped.
    closed: bool,
}

impl<M> Default for Mailbox<M> {
    fn default() -> Self {
        let inner =
            Inner { mail: Vec::new(), weight: 0, asleep: false, crowded: false, closed: false };
        Self { inner: Mutex::new(inner), arrived: Condvar::new(), room: Condvar::new() }
    }
}

impl<M> Mailbox<M> {
    /// Posts without ever waiting. Returns false if the reader is gone.
    pub fn post(&self, mail: M) -> bool {
        let mut inner = self.inner.lock();
        if inner.closed {
            return false;
        }
        inner.mail.push(mail);
        let wake = std::mem::take(&mut inner.asleep);
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
        true
    }

    /// Posts `weight` bytes, waiting while the mailbox is too full. Returns false if the reader is
    /// gone.
    pub fn post_when_room(&self, mail: M, weight: usize) -> bool {
        let mut inner = self.inner.lock();
        while inner.weight > WEIGHT_MAX && !inner.closed {
            inner.crowded = true;
            self.room.wait(&mut inner);
        }
        if inner.closed {
            return false;
        }
        inner.weight += weight;
        inner.mail.push(mail);
        let wake = std::mem::take(&mut inner.asleep);
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
        true
    }

    /// Moves everything into `into` (which must be empty), waiting until there is something or
    /// `until` has come.
    pub fn take(&self, into: &mut Vec<M>, until: Instant) {
        debug_assert!(into.is_empty(), "the last batch was handled");
        let mut inner = self.inner.lock();
        while inner.mail.is_empty() {
            inner.asleep = true;
            if self.arrived.wait_until(&mut inner, until).timed_out() {
                inner.asleep = false;
                break;
            }
        }
        std::mem::swap(&mut inner.mail, into);
        inner.weight = 0;
        let crowded = std::mem::take(&mut inner.crowded);
        drop(inner);
        if crowded {
            self.room.notify_all();
        }
    }

    /// How much mail waits.
    pub fn len(&self) -> usize {
        self.inner.lock().mail.len()
    }

    /// True if no mail waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True once the reader is gone.
    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// The reader goes away: drops what waits and what will come.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        let dropped = std::mem::take(&mut inner.mail);
        drop(inner);
        drop(dropped);
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn mail_of_one_writer_keeps_its_order_and_wakes_the_reader() {
        let mailbox = Arc::new(Mailbox::default());
        let writer = {
            let mailbox = Arc::clone(&mailbox);
            std::thread::spawn(move || (0..1000).for_each(|number| assert!(mailbox.post(number))))
        };
        let mut all = Vec::new();
        let mut batch = Vec::new();
        while all.len() < 1000 {
            mailbox.take(&mut batch, Instant::now() + Duration::from_secs(10));
            assert!(!batch.is_empty(), "woken by mail, not by the clock");
            all.append(&mut batch);
        }
        writer.join().unwrap();
        assert!(all.is_sorted());
    }

    #[test]
    fn a_full_mailbox_stops_peers_until_it_is_read() {
        let mailbox = Arc::new(Mailbox::default());
        assert!(mailbox.post_when_room(1, WEIGHT_MAX + 1));
        let peer = {
            let mailbox = Arc::clone(&mailbox);
            std::thread::spawn(move || mailbox.post_when_room(2, 1))
        };
        let mut batch = Vec::new();
        let mut seen = 0;
        while seen < 2 {
            mailbox.take(&mut batch, Instant::now() + Duration::from_secs(10));
            seen += batch.drain(..).count();
        }
        assert!(peer.join().unwrap());
    }

    #[test]
    fn a_closed_mailbox_takes_nothing() {
        let mailbox = Mailbox::default();
        mailbox.close();
        assert!(!mailbox.post(1));
        assert!(!mailbox.post_when_room(1, 1));
        assert!(mailbox.is_empty());
    }
}
