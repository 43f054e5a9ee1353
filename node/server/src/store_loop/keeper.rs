//! Background work on the disk: flushes of the state, freeing of log files, room.
//!
//! Invariants: a failed flush ends the process; the loop hears of what became durable only after it
//! is. Each kind of work has its own thread, because each may block for long.

use super::mail::{Inbox, Mail};
use crate::gateway::backend::Vitals;
use crate::metrics::Metrics;
use crate::shutdown::{chain, fatal};
use holdfast_core::descriptor;
use holdfast_core::effects::Input;
use holdfast_storage::{Disk, RaftLog, Room, State};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// What was applied is durable in the state after this long at the latest, so that a restart
/// replays little and the log can be cut.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);

/// Between two looks whether the memtable is full.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Between two rounds of freeing log files.
const PURGE_INTERVAL: Duration = Duration::from_secs(10);

/// Between two looks whether there was a compaction.
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);

/// Between two steps of a removal.
const PRUNE_PAUSE: Duration = Duration::from_millis(20);

/// Changes looked at in one step of a removal.
const PRUNE_STEP: usize = 5_000;

/// Between two looks at the room on the disk.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

/// From this part of the disk on there is less room than others should have, and little; and then, so
/// that it does not change to and fro, down to the part after it.
const LESS_FRACTION: (f64, f64) = (0.75, 0.70);
const LITTLE_FRACTION: (f64, f64) = (0.92, 0.89);
/// It is not little, whatever part of a large disk it is, while so many bytes are left before clients'
/// writes are refused; and then not until there are as many as the second number.
const LITTLE_BYTES: (u64, u64) = (2 << 30, 4 << 30);

/// How much room there is, for who decides about where copies go: `used` is a part of the disk, `left`
/// the bytes before clients' writes are refused.
fn class(used: f64, left: u64, was: descriptor::Room) -> descriptor::Room {
    let beyond = |(up, down): (f64, f64), so: bool| used >= if so { down } else { up };
    let was_little = was == descriptor::Room::Little;
    let few_bytes = left < if was_little { LITTLE_BYTES.1 } else { LITTLE_BYTES.0 };
    if few_bytes && beyond(LITTLE_FRACTION, was_little) {
        descriptor::Room::Little
    } else if beyond(LESS_FRACTION, was != descriptor::Room::Plenty) {
        descriptor::Room::Less
    } else {
        descriptor::Room::Plenty
    }
}

/// Stops the background threads.
#[derive(Clone, Default)]
pub(super) struct StopFlag(Arc<(Mutex<bool>, Condvar)>);

impl StopFlag {
    pub(super) fn set(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    /// Waits. True if it is time to stop.
    fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut stop = self.0.0.lock();
        while !*stop {
            if self.0.1.wait_until(&mut stop, until).timed_out() {
                break;
            }
        }
        *stop
    }
}

/// What the threads work on.
#[derive(Clone)]
pub(super) struct Keeper {
    pub state: State,
    pub log: Arc<RaftLog>,
    pub disk: Arc<Disk>,
    pub vitals: Arc<Vitals>,
    pub inbox: Inbox,
    pub metrics: Arc<Metrics>,
    pub stop: StopFlag,
}

/// What one thread does until it is told to stop.
type Work = fn(&Keeper);

impl Keeper {
    /// Starts the threads.
    pub(super) fn start(self) -> std::io::Result<Vec<JoinHandle<()>>> {
        let works: [(&str, Work); 4] = [
            ("flush", Self::flush),
            ("purge", Self::purge),
            ("prune", Self::prune),
            ("room", Self::watch_room),
        ];
        works
            .into_iter()
            .map(|(name, work)| {
                let keeper = self.clone();
                std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&keeper))
            })
            .collect()
    }

    fn flush(&self) {
        let mut last = Instant::now();
        while !self.stop.wait(LOOK_INTERVAL) {
            let due = last.elapsed() >= FLUSH_INTERVAL && self.state.memtable_bytes() > 0;
            if due || self.state.wants_flush() {
                flush_now(&self.state, &self.inbox, &self.metrics);
                last = Instant::now();
            }
        }
    }

    fn purge(&self) {
        while !self.stop.wait(PURGE_INTERVAL) {
            if let Err(error) = self.log.purge() {
                fatal(&chain(&error));
            }
        }
    }

    /// Removes what compactions hid, in small steps, so that the flush is never held up for long.
    fn prune(&self) {
        let mut pruned = 0;
        loop {
            let wanted = self.vitals.compacted();
            let pause = if wanted <= pruned {
                PRUNE_INTERVAL
            } else {
                match self.state.prune(wanted, PRUNE_STEP) {
                    Ok(true) => {
                        pruned = wanted;
                        PRUNE_INTERVAL
                    }
                    Ok(false) => PRUNE_PAUSE,
                    Err(error) => fatal(&chain(&error)),
                }
            };
            if self.stop.wait(pause) {
                return;
            }
        }
    }

    fn watch_room(&self) {
        let mut was_full = None;
        loop {
            match self.disk.room() {
                Ok(room) => {
                    self.metrics.disk_room(room.total, room.free);
                    let used = room.total.saturating_sub(room.free);
                    let left = room.usable().saturating_sub(used);
                    self.vitals.set_room(left);
                    let was = self.vitals.room_class().unwrap_or_default();
                    self.vitals.set_room_class(class(room.used_fraction(), left, was));
                    let full = room.is_full(was_full.unwrap_or(false));
                    if was_full != Some(full) {
                        self.room_changed(room, full);
                        was_full = Some(full);
                    }
                }
                Err(error) => warn!("{}", chain(&error)),
            }
            if self.stop.wait(ROOM_INTERVAL) {
                return;
            }
        }
    }

    /// Tells who must know, and takes or gives up the reserve.
    fn room_changed(&self, room: Room, full: bool) {
        let Room { free, total } = room;
        let reserve = if full {
            warn!(free, total, "the disk is full: writes are refused until there is room");
            0
        } else {
            info!(free, total, "room on the disk");
            room.ballast()
        };
        self.vitals.set_disk_full(full);
        self.inbox.post(Mail::Input(Box::new(Input::DiskFull { full })));
        if let Err(error) = self.disk.reserve_ballast(reserve) {
            warn!("{}", chain(&error));
        }
    }
}

/// Makes the state durable and tells the loop.
pub(super) fn flush_now(state: &State, inbox: &Inbox, metrics: &Metrics) {
    let start = Instant::now();
    match state.flush() {
        Ok(applied) => {
            metrics.flush(start.elapsed());
            let applied =
                applied.into_iter().map(|(range, applied)| (range, applied.index)).collect();
            inbox.post(Mail::Input(Box::new(Input::StateDurable { applied })));
        }
        Err(error) => fatal(&chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::descriptor::Room::{Less, Little, Plenty};

    #[test]
    fn room_does_not_change_to_and_fro() {
        let cases = [
            (0.10, Plenty, Plenty),
            (0.74, Plenty, Plenty),
            (0.76, Plenty, Less),
            (0.74, Less, Less),
            (0.69, Less, Plenty),
            (0.93, Plenty, Little),
            (0.90, Little, Little),
            (0.86, Little, Less),
            (0.10, Little, Plenty),
        ];
        for (used, was, now) in cases {
            assert_eq!(class(used, 1 << 30, was), now, "{used} {was:?}");
        }
        // Of a large disk a small part is enough.
        assert_eq!(class(0.94, 2 << 30, Plenty), Less);
        assert_eq!(class(0.94, 3 << 30, Little), Little);
        assert_eq!(class(0.94, 4 << 30, Little), Less);
    }
}
