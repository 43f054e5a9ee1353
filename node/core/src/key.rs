//! Keys and spans of keys.
//!
//! Invariant: a [`Span`] is `[start, end)`; `end = None` means "to the end of the key space".

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A half-open interval of keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First key inside.
    pub start: Bytes,
    /// First key after the span; `None` is "no end".
    pub end: Option<Bytes>,
}

impl Span {
    /// The whole key space.
    pub fn all() -> Self {
        Self { start: Bytes::new(), end: None }
    }

    /// Exactly one key.
    pub fn key(key: &Bytes) -> Self {
        Self { start: key.clone(), end: Some(successor(key)) }
    }

    /// The span that etcd's `key` and `range_end` name: an empty end is one key, `"\0"` is
    /// "all keys from here". May be empty (`end <= start`).
    pub fn from_etcd(key: &Bytes, range_end: &Bytes) -> Self {
        if range_end.is_empty() {
            Self::key(key)
        } else if range_end.as_ref() == b"\0" {
            let start = if key.as_ref() == b"\0" { Bytes::new() } else { key.clone() };
            Self { start, end: None }
        } else {
            Self { start: key.clone(), end: Some(range_end.clone()) }
        }
    }

    /// True if no key is inside.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// True if `key` is inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_ref() && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// True if every key of `other` is inside. An empty span is inside everything.
    pub fn covers(&self, other: &Span) -> bool {
        if other.is_empty() {
            return true;
        }
        other.start >= self.start
            && match (&self.end, &other.end) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(mine), Some(theirs)) => theirs <= mine,
            }
    }

    /// True if some key is inside both.
    pub fn overlaps(&self, other: &Span) -> bool {
        self.intersect(other).is_some()
    }

    /// The part inside both, if there is one.
    pub fn intersect(&self, other: &Span) -> Option<Span> {
        let start = self.start.clone().max(other.start.clone());
        let end = match (&self.end, &other.end) {
            (None, end) | (end, None) => end.clone(),
            (Some(a), Some(b)) => Some(a.min(b).clone()),
        };
        let span = Span { start, end };
        (!span.is_empty()).then_some(span)
    }

    /// What is left of it without the keys of `other`.
    #[must_use]
    pub fn without(&self, other: &Span) -> Vec<Span> {
        let Some(common) = self.intersect(other) else { return vec![self.clone()] };
        let before = Span { start: self.start.clone(), end: Some(common.start) };
        let after = common.end.map(|start| Span { start, end: self.end.clone() });
        [Some(before), after].into_iter().flatten().filter(|span| !span.is_empty()).collect()
    }

    /// If the span holds exactly one possible key, that key.
    pub fn single(&self) -> Option<&Bytes> {
        let end = self.end.as_ref()?;
        (end.len() == self.start.len() + 1
            && end.last() == Some(&0)
            && end.starts_with(&self.start))
        .then_some(&self.start)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, ", printable(&self.start))?;
        match &self.end {
            Some(end) => write!(f, "{})", printable(end)),
            None => write!(f, "∞)"),
        }
    }
}

/// The next possible key after `key`.
pub fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// A key as people read it: text where it is printable, `\xNN` elsewhere, in quotes.
pub fn printable(key: &[u8]) -> String {
    format!("\"{}\"", key.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn etcd_range_end_rules() {
        assert_eq!(Span::from_etcd(&bytes("a"), &bytes("")).single(), Some(&bytes("a")));
        assert_eq!(Span::from_etcd(&bytes("a"), &bytes("\0")).end, None);
        assert_eq!(Span::from_etcd(&bytes("\0"), &bytes("\0")), Span::all());
        assert!(Span::from_etcd(&bytes("b"), &bytes("a")).is_empty());
    }

    #[test]
    fn a_span_without_another() {
        let span = |start, end: &'static str| Span {
            start: bytes(start),
            end: (!end.is_empty()).then(|| bytes(end)),
        };
        assert_eq!(span("a", "m").without(&span("c", "d")), [span("a", "c"), span("d", "m")]);
        assert_eq!(span("a", "").without(&span("c", "")), [span("a", "c")]);
        assert_eq!(span("c", "d").without(&span("a", "")), []);
        assert_eq!(span("a", "c").without(&span("c", "")), [span("a", "c")]);
        assert_eq!(span("a", "").without(&span("", "b")), [span("b", "")]);
    }

    #[test]
    fn spans_intersect() {
        let left = Span { start: bytes("a"), end: Some(bytes("m")) };
        let right = Span { start: bytes("g"), end: None };
        assert_eq!(left.intersect(&right), Some(Span { start: bytes("g"), end: Some(bytes("m")) }));
        assert!(!left.overlaps(&Span { start: bytes("m"), end: None }));
        assert!(right.covers(&Span { start: bytes("x"), end: None }));
    }
}
