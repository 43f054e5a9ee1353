//! Ordered writes: a file like any other, whatever comes, but written in order and in few pieces.

use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A file in memory that remembers how it was written and may be full.
#[derive(Clone, Debug, Default)]
struct Below {
    file: Arc<Mutex<Vec<u8>>>,
    writes: Arc<Mutex<Vec<(u64, usize)>>>,
    full: Arc<AtomicBool>,
}

impl StorageBackend for Below {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = self.file.lock();
        let from = offset as usize;
        out.copy_from_slice(file.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.lock().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.writes.lock().push((offset, data.len()));
        let mut file = self.file.lock();
        let (from, to) = (offset as usize, offset as usize + data.len());
        if file.len() < to {
            file.resize(to, 0);
        }
        file[from..to].copy_from_slice(data);
        Ok(())
    }
}

fn ordered() -> (Ordered<Below>, Below) {
    let below = Below::default();
    (Ordered::new(below.clone()), below)
}

#[test]
fn neighbours_are_written_together_and_in_order() {
    let (file, below) = ordered();
    for page in [5, 2, 9, 3, 4] {
        file.write(page * 4096, &[page as u8; 4096]).unwrap();
    }
    assert!(below.writes.lock().is_empty(), "nobody asked for it yet");
    file.sync_data().unwrap();
    assert_eq!(*below.writes.lock(), [(2 * 4096, 4 * 4096), (9 * 4096, 4096)]);
    // A run has an end.
    below.writes.lock().clear();
    for page in (0..128).rev() {
        file.write(page * 4096, &[1; 4096]).unwrap();
    }
    file.sync_data().unwrap();
    let runs = below.writes.lock().clone();
    assert_eq!(runs, [(0, RUN_BYTES), (RUN_BYTES as u64, RUN_BYTES)]);
}

#[test]
fn no_more_is_kept_than_there_may_be() {
    let (file, below) = ordered();
    let page = vec![7; 1 << 20];
    for number in 0..17 {
        file.write(number << 20, &page).unwrap();
        let written: usize = below.writes.lock().iter().map(|(_, len)| len).sum();
        assert!(((number as usize + 1) << 20) - written <= KEPT_BYTES);
    }
    assert_eq!(file.bytes.load(Ordering::Relaxed), 0);
}

/// As with a file below: what a disk that was full for a while did not take is there afterwards.
#[test]
fn what_could_not_be_written_is_kept() {
    let (file, below) = ordered();
    file.write(0, &[1; 100]).unwrap();
    below.full.store(true, Ordering::Relaxed);
    assert!(file.sync_data().is_err());
    // The order of these two counts, so the first has to go at once.
    assert!(file.write(50, &[2; 100]).is_err());
    below.full.store(false, Ordering::Relaxed);
    file.write(50, &[2; 100]).unwrap();
    file.sync_data().unwrap();
    let expected = [vec![1; 50], vec![2; 100]].concat();
    assert_eq!(*below.file.lock(), expected);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize, u8),
    Read(u64, usize),
    SetLen(u64),
    Sync,
}

fn step() -> impl Strategy<Value = Step> {
    // Pages of several sizes at places that overlap in every way.
    let page = (0..24_u64, 1..5_usize).prop_map(|(page, pages)| (page * 64, pages * 64));
    prop_oneof![
        6 => (page.clone(), any::<u8>()).prop_map(|((at, len), fill)| Step::Write(at, len, fill)),
        2 => page.prop_map(|(at, len)| Step::Read(at, len)),
        1 => (0..32_u64).prop_map(|pages| Step::SetLen(pages * 64)),
        1 => Just(Step::Sync),
    ]
}

proptest! {
    /// Whatever is written, read and cut off: as if it had gone straight to the file.
    #[test]
    fn it_is_a_file(steps in proptest::collection::vec(step(), 1..120)) {
        let (file, below) = ordered();
        let plain = Below::default();
        for own in [&below, &plain] {
            own.set_len(32 * 64).unwrap();
        }
        for step in steps {
            match step {
                Step::Write(at, len, fill) => {
                    // redb makes room first.
                    if plain.len().unwrap() >= at + len as u64 {
                        plain.write(at, &vec![fill; len]).unwrap();
                        file.write(at, &vec![fill; len]).unwrap();
                    }
                }
                Step::Read(at, len) => {
                    let (mut one, mut other) = (vec![0; len], vec![0; len]);
                    let found = file.read(at, &mut one).is_ok();
                    prop_assert_eq!(found, plain.read(at, &mut other).is_ok());
                    prop_assert_eq!(one, other);
                }
                Step::SetLen(len) => {
                    file.set_len(len).unwrap();
                    plain.set_len(len).unwrap();
                }
                Step::Sync => {
                    file.sync_data().unwrap();
                    prop_assert_eq!(&*below.file.lock(), &*plain.file.lock());
                    prop_assert_eq!(file.bytes.load(Ordering::Relaxed), 0);
                }
            }
            let kept: usize = file.kept.lock().writes.values().map(|data| data.len()).sum();
            prop_assert_eq!(file.bytes.load(Ordering::Relaxed), kept);
        }
        file.close().unwrap();
        prop_assert_eq!(&*below.file.lock(), &*plain.file.lock());
    }
}
