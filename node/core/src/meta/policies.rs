//! How many copies the ranges under a prefix have.
//!
//! The policy of the empty prefix is for all that no other one names: what the cluster was formed with.
//! Ranges are cut where a policy begins or ends, so each lies under one; until it does, its number of
//! copies stays.
//!
//! Invariants: changed by log entries only; more copies than nodes, an even number, or fewer than the
//! cluster was formed with (unless that is said) are not taken.

use super::MetaState;
use crate::bootstrap::check_replicas;
use crate::descriptor::RangeDescriptor;
use crate::error::Error;
use crate::ids::RangeId;
use crate::key::{Span, printable};
use crate::planner::odd;
use crate::request::Response;
use crate::state::SystemRow;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound;

/// First byte of a policy's row; the prefix follows.
pub(super) const ROW: u8 = b'P';

/// Policies at most: each cuts ranges at two places.
const POLICIES_MAX: usize = 100;
/// Longest prefix in bytes.
const PREFIX_MAX: usize = 1024;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies(BTreeMap<Bytes, usize>);

/// The keys under a prefix.
pub fn span_of(prefix: &Bytes) -> Span {
    let mut end = prefix.to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    match end.last_mut() {
        Some(last) => *last += 1,
        None => return Span { start: prefix.clone(), end: None },
    }
    Span { start: prefix.clone(), end: Some(end.into()) }
}

impl Policies {
    /// Of a cluster that is formed with so many copies of each range.
    pub fn formed(copies: usize) -> Self {
        Self(BTreeMap::from([(Bytes::new(), copies)]))
    }

    /// All of them: prefix and number of copies.
    pub fn all(&self) -> &BTreeMap<Bytes, usize> {
        &self.0
    }

    /// The number of copies of what no other policy names; not known of clusters that were formed
    /// before there were policies.
    pub fn default_copies(&self) -> Option<usize> {
        self.0.get(&Bytes::new()).copied()
    }

    /// The number of copies of all keys, if there is no other policy.
    fn only(&self) -> Option<usize> {
        self.default_copies().filter(|_| self.0.len() == 1)
    }

    /// The most copies that any policy asks for.
    pub fn most(&self) -> usize {
        self.0.values().copied().max().unwrap_or(0)
    }

    /// Where policies begin and end, in order: ranges are cut there, and not merged.
    pub fn bounds(&self) -> Vec<Bytes> {
        let spans = self.0.keys().map(span_of);
        let mut bounds: Vec<Bytes> =
            spans.flat_map(|span| [Some(span.start), span.end]).flatten().collect();
        bounds.retain(|bound| !bound.is_empty());
        bounds.sort();
        bounds.dedup();
        bounds
    }

    /// The policy that begins or ends at this key, if one does.
    pub fn bound(&self, key: &Bytes) -> Option<&Bytes> {
        let at = |span: &Span| span.start == *key || span.end.as_ref() == Some(key);
        self.0.keys().find(|prefix| !key.is_empty() && at(&span_of(prefix)))
    }

    /// Does a policy begin or end at this key?
    pub fn is_bound(&self, key: &Bytes) -> bool {
        self.bound(key).is_some()
    }

    /// Copies that the keys in `span` should have; nothing if they are to be cut first, or nothing is
    /// known.
    pub fn copies(&self, span: &Span) -> Option<usize> {
        if span.end.as_ref().is_some_and(|end| *end <= span.start) {
            return None;
        }
        let end = span.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        if self.0.range::<Bytes, _>((Bound::Excluded(&span.start), end)).next().is_some() {
            return None;
        }
        // None begins inside of it, so one that ends there has the first key; of these the longest
        // prefix ends first.
        let (prefix, copies) = self.longest(&span.start)?;
        span_of(prefix).covers(span).then_some(copies)
    }

    /// The policy with the longest prefix of a key. Not by looking at all: there may be many ranges.
    fn longest(&self, key: &Bytes) -> Option<(&Bytes, usize)> {
        let mut upto = key.clone();
        loop {
            let (prefix, copies) = self.0.range::<Bytes, _>(..=&upto).next_back()?;
            if key.starts_with(prefix) {
                return Some((prefix, *copies));
            }
            // Greater ones are no prefixes of the key, and this one shares only so much with it.
            let common = prefix.iter().zip(key.iter()).take_while(|(one, other)| one == other);
            upto = key.slice(..common.count());
        }
    }

    /// Sets a policy, in a cluster of so many nodes.
    ///
    /// # Errors
    /// The rule that it breaks, and what to do.
    pub(super) fn set(
        &mut self,
        (prefix, copies): (&Bytes, usize),
        fewer: bool,
        nodes: usize,
        rows: &mut Vec<SystemRow>,
    ) -> Result<String, String> {
        check_replicas(copies, nodes).map_err(|rule| format!("replicas {rule}"))?;
        if prefix.len() > PREFIX_MAX {
            return Err(format!("a prefix has at most {PREFIX_MAX} bytes"));
        }
        if self.0.len() >= POLICIES_MAX && !self.0.contains_key(prefix) {
            return Err(format!("there are {POLICIES_MAX} policies already: remove one first"));
        }
        if let Some(formed) = self.default_copies().filter(|formed| copies < *formed && !fewer) {
            return Err(format!(
                "replicas {copies} would survive {} failures at once, and the cluster is for {}: less only with --allow-fewer",
                copies / 2,
                formed / 2
            ));
        }
        self.0.insert(prefix.clone(), copies);
        rows.push(SystemRow { key: row_key(prefix), value: Some(encode(copies)) });
        Ok(format!("{}: {copies} copies", name(prefix)))
    }

    /// Removes a policy.
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn remove(
        &mut self,
        prefix: &Bytes,
        rows: &mut Vec<SystemRow>,
    ) -> Result<String, String> {
        if prefix.is_empty() {
            return Err("the policy of all keys can be set, not removed".to_owned());
        }
        if self.0.remove(prefix).is_none() {
            return Err(format!("there is no policy for {}: see `placement list`", name(prefix)));
        }
        rows.push(SystemRow { key: row_key(prefix), value: None });
        Ok(format!("{}: as the keys around it", name(prefix)))
    }

    pub(super) fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let copies: u64 = postcard::from_bytes(value)
            .map_err(|error| format!("malformed placement policy: {error}"))?;
        self.0.insert(Bytes::copy_from_slice(&key[1..]), copies as usize);
        Ok(())
    }

    pub(super) fn all_rows(&self, rows: &mut Vec<SystemRow>) {
        for (prefix, copies) in &self.0 {
            rows.push(SystemRow { key: row_key(prefix), value: Some(encode(*copies)) });
        }
    }
}

impl MetaState {
    /// How many copies ranges have.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Copies that a range is to have: as policies say, and not fewer than it is to get again after a
    /// recovery. Nothing: as many as it has.
    pub fn copies_of(&self, range: &RangeDescriptor) -> Option<usize> {
        let least = self.wanted(range.id);
        let by_policy = match self.policies.only() {
            Some(copies) => Some(copies),
            None => {
                let end = end_of(&self.by_start, &range.span);
                self.policies.copies(&Span { start: range.span.start.clone(), end })
            }
        };
        match by_policy {
            Some(copies) => Some(copies.max(least)),
            None => (least > 0).then(|| least.max(odd(range.voters().count()))),
        }
    }

    /// The same; as many as it has, without one that is only on its way, if nothing is said.
    pub fn copies_meant(&self, range: &RangeDescriptor) -> usize {
        self.copies_of(range).unwrap_or_else(|| odd(range.voters().count()))
    }

    /// The most copies that any range is to have.
    pub fn most_copies(&self) -> usize {
        let wanted = self.wanted.values().copied().max();
        self.policies.most().max(wanted.unwrap_or(0))
    }

    /// Sets a policy; a range under it has as many copies as the policy says from now on, whatever it
    /// had before a recovery.
    pub(super) fn set_policy(
        &mut self,
        policy: (&Bytes, usize),
        fewer: bool,
        rows: &mut Vec<SystemRow>,
    ) -> Result<Response, Error> {
        let nodes = self.nodes.values().filter(|node| !node.state.loses_replicas()).count();
        let message = self.policies.set(policy, fewer, nodes, rows).map_err(Error::Refused)?;
        let span = span_of(policy.0);
        let wants = |id: &RangeId| self.ranges.get(id).is_some_and(|own| span.covers(&own.span));
        let over: Vec<RangeId> = self.wanted.keys().copied().filter(wants).collect();
        for range in over {
            self.want(range, 1, rows);
        }
        Ok(Response::Admin { message })
    }

    pub(super) fn remove_policy(
        &mut self,
        prefix: &Bytes,
        rows: &mut Vec<SystemRow>,
    ) -> Result<Response, Error> {
        let message = self.policies.remove(prefix, rows).map_err(Error::Refused)?;
        Ok(Response::Admin { message })
    }
}

/// A prefix, for people.
pub fn name(prefix: &Bytes) -> String {
    if prefix.is_empty() { "all keys".to_owned() } else { printable(prefix) }
}

fn row_key(prefix: &Bytes) -> Bytes {
    [&[ROW], prefix.as_ref()].concat().into()
}

fn encode(copies: usize) -> Bytes {
    postcard::to_stdvec(&(copies as u64)).expect("a number can be encoded").into()
}

/// The end that the directory gives a range: where the next one starts, if its own is not news.
fn end_of(by_start: &BTreeMap<Bytes, RangeId>, span: &Span) -> Option<Bytes> {
    let after = (Bound::Excluded(span.start.clone()), Bound::Unbounded);
    let next = by_start.range::<Bytes, _>(after).next().map(|(start, _)| start.clone());
    match (next, &span.end) {
        (Some(next), Some(end)) => Some(next.min(end.clone())),
        (Some(next), None) => Some(next),
        (None, end) => end.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn span(start: &'static str, end: &'static str) -> Span {
        let end = (!end.is_empty()).then(|| key(end));
        Span { start: key(start), end }
    }

    fn policies() -> Policies {
        let mut policies = Policies::formed(3);
        for (prefix, copies) in [("a/", 5), ("a/x", 7), ("c", 1)] {
            policies.set((&key(prefix), copies), true, 7, &mut Vec::new()).expect("it is right");
        }
        policies
    }

    #[test]
    fn the_longest_prefix_decides_once_ranges_are_cut() {
        let policies = policies();
        let bounds: Vec<Bytes> = ["a/", "a/x", "a/y", "a0", "c", "d"].map(key).to_vec();
        assert_eq!(policies.bounds(), bounds);
        for (start, end, copies) in [
            ("", "a/", Some(3)),
            ("a/", "a/x", Some(5)),
            ("a/b", "a/c", Some(5)),
            ("a/x", "a/y", Some(7)),
            ("a/y", "a0", Some(5)),
            ("a0", "c", Some(3)),
            ("c", "d", Some(1)),
            ("d", "", Some(3)),
            ("", "", None),
            ("a/", "a0", None),
            ("b", "c1", None),
            ("c", "c", None),
            ("a/xx", "a/xy", Some(7)),
            ("a/z", "a/z1", Some(5)),
        ] {
            assert_eq!(policies.copies(&span(start, end)), copies, "{start} {end}");
        }
        assert!(policies.is_bound(&key("a0")) && !policies.is_bound(&key("")));
        assert_eq!(span_of(&Bytes::from_static(b"a\xff\xff")).end, Some(key("b")));
        assert_eq!(span_of(&Bytes::from_static(b"\xff")).end, None);
    }

    #[test]
    fn rows_tell_all() {
        let policies = policies();
        let mut rows = Vec::new();
        policies.all_rows(&mut rows);
        let mut again = Policies::default();
        for row in rows {
            again.load(&row.key, &row.value.expect("they are there")).expect("it can be read");
        }
        assert_eq!(again, policies);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_rule() {
        let mut policies = Policies::formed(3);
        let mut rows = Vec::new();
        let long = Bytes::from(vec![b'a'; PREFIX_MAX + 1]);
        for (prefix, copies, part) in [
            (key("a"), 2, "must be odd"),
            (key("a"), 9, "at most 7"),
            (key("a"), 7, "more than the 5 nodes"),
            (key("a"), 1, "--allow-fewer"),
            (long, 3, "at most 1024 bytes"),
        ] {
            let why = policies.set((&prefix, copies), false, 5, &mut rows).unwrap_err();
            assert!(why.contains(part), "{part}: {why}");
        }
        assert!(policies.remove(&key(""), &mut rows).unwrap_err().contains("not removed"));
        assert!(policies.remove(&key("b"), &mut rows).unwrap_err().contains("no policy for"));
        assert!(rows.is_empty());
        for number in 1..POLICIES_MAX {
            let prefix = Bytes::from(format!("p{number}"));
            policies.set((&prefix, 3), false, 5, &mut rows).expect("there is room");
        }
        let why = policies.set((&key("a"), 3), false, 5, &mut rows).unwrap_err();
        assert!(why.contains("remove one first"), "{why}");
        policies.set((&key("p1"), 5), false, 5, &mut rows).expect("it is known");
    }
}
