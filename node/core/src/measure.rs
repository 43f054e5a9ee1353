//! How much a range holds, and where its middle is: what a cut is decided on.
//!
//! Invariant: an estimate. Keys are counted; the bytes of values are those of a sample spread evenly
//! over the keys, so that a large range is not read as a whole.

use crate::key::Span;
use crate::state::{REVISION_MAX, StateReads};
use bytes::Bytes;
use std::ops::ControlFlow;

/// Most keys in the sample; when it is full, every second one is dropped.
const SAMPLES_MAX: usize = 512;

/// What a range holds now, without its history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values, estimated.
    pub bytes: u64,
    /// The key that has about as many bytes before it as after it; never the first one.
    pub middle: Option<Bytes>,
}

/// Measures a span.
pub fn measure(span: &Span, state: &dyn StateReads) -> Measure {
    let mut sample: Vec<Bytes> = Vec::new();
    let mut stride = 1;
    let (mut keys, mut key_bytes) = (0_u64, 0_u64);
    state.scan(span, REVISION_MAX, false, &mut |key, _| {
        key_bytes += key.len() as u64;
        if keys.is_multiple_of(stride) {
            sample.push(key);
            if sample.len() == SAMPLES_MAX {
                let mut even = false;
                sample.retain(|_| {
                    even = !even;
                    even
                });
                stride *= 2;
            }
        }
        keys += 1;
        ControlFlow::Continue(())
    });
    let values: Vec<u64> = sample
        .iter()
        .map(|key| {
            state.latest(key).and_then(|version| version.value).map_or(0, |v| v.len() as u64)
        })
        .collect();
    let sampled: u64 = values.iter().sum();
    let value_bytes = if sample.is_empty() {
        0
    } else {
        (u128::from(sampled) * u128::from(keys) / sample.len() as u128) as u64
    };
    // A sampled key stands for those up to the next one.
    let whole = sampled + key_bytes / stride.max(1);
    let mut before = 0;
    let mut middle = None;
    for (key, value) in sample.iter().zip(&values) {
        if before > 0 && before * 2 >= whole {
            middle = Some(key.clone());
            break;
        }
        before += value + key.len() as u64;
    }
    // All of it is in the last one or few: cut as near to that as can be.
    if middle.is_none() && sample.len() > 1 {
        middle = sample.last().cloned();
    }
    Measure { keys, bytes: key_bytes + value_bytes, middle }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{RangeId, Revision};
    use crate::state::Version;
    use std::collections::BTreeMap;

    struct Keys(BTreeMap<Bytes, usize>);

    impl StateReads for Keys {
        fn latest(&self, key: &[u8]) -> Option<Version> {
            let size = *self.0.get(key)?;
            Some(Version {
                mod_revision: 2,
                sub: 0,
                create_revision: 2,
                version: 1,
                lease: 0,
                value: Some(vec![0; size].into()),
            })
        }

        fn at(&self, key: &[u8], _: Revision) -> Option<Version> {
            self.latest(key)
        }

        fn scan(
            &self,
            span: &Span,
            _: Revision,
            _: bool,
            visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
        ) {
            for key in self.0.keys().filter(|key| span.contains(key)) {
                let version = self.latest(key).expect("it is there");
                if visit(key.clone(), version).is_break() {
                    return;
                }
            }
        }

        fn history(
            &self,
            _: &Span,
            _: Revision,
            _: Revision,
            _: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
        ) {
        }

        fn lease_keys(&self, _: i64, _: &Span) -> Vec<Bytes> {
            Vec::new()
        }

        fn system_rows(&self, _: RangeId) -> Vec<(Bytes, Bytes)> {
            Vec::new()
        }
    }

    fn keys(sizes: impl Iterator<Item = usize>) -> Keys {
        let key = |number: usize| Bytes::from(format!("{number:06}"));
        Keys(sizes.enumerate().map(|(number, size)| (key(number), size)).collect())
    }

    #[test]
    fn the_middle_has_half_of_the_bytes_before_it() {
        let even = measure(&Span::all(), &keys((0..10_000).map(|_| 94)));
        assert_eq!((even.keys, even.bytes), (10_000, 1_000_000));
        let middle: usize =
            std::str::from_utf8(&even.middle.expect("one")).expect("text").parse().expect("digits");
        assert!((4_800..5_200).contains(&middle), "{middle}");
        // The values at the end are ten times as large.
        let skewed =
            measure(&Span::all(), &keys((0..10_000).map(|n| if n < 5_000 { 94 } else { 994 })));
        let middle: usize = std::str::from_utf8(&skewed.middle.expect("one"))
            .expect("text")
            .parse()
            .expect("digits");
        assert!((7_000..7_500).contains(&middle), "{middle}");
    }

    #[test]
    fn what_cannot_be_cut_has_no_middle() {
        assert_eq!(measure(&Span::all(), &keys(std::iter::empty())), Measure::default());
        assert_eq!(measure(&Span::all(), &keys(std::iter::once(1 << 20))).middle, None);
        let two = measure(&Span::all(), &keys([1, 1 << 20].into_iter()));
        assert_eq!(two.middle, Some(Bytes::from_static(b"000001")), "never the first");
    }
}
