//! A part of something that is empty nearly always, where there are very many of it.
//!
//! Invariant: reading never allocates; the first change does, and [`Seldom::take`] or
//! [`Seldom::rest`] gives the memory back.

use std::ops::{Deref, DerefMut};

/// Has one value that stands for all that are empty.
pub trait Empty: Default + 'static {
    /// Equal to the default.
    fn empty() -> &'static Self;
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Seldom<T>(Option<Box<T>>);

impl<T: Empty> Seldom<T> {
    /// Empties it.
    pub fn take(&mut self) -> T {
        self.0.take().map_or_else(T::default, |full| *full)
    }

    /// What there is to change, if there is anything at all.
    pub fn there(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Gives the memory back if it is empty again, as `is_empty` says.
    pub fn rest(&mut self, is_empty: impl FnOnce(&T) -> bool) {
        if self.0.as_deref().is_some_and(is_empty) {
            self.0 = None;
        }
    }
}

impl<T: Empty> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::empty())
    }
}

impl<T: Empty> DerefMut for Seldom<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NOTHING: String = String::new();

    impl Empty for String {
        fn empty() -> &'static Self {
            &NOTHING
        }
    }

    #[test]
    fn what_is_empty_takes_no_memory() {
        let mut one = Seldom::<String>::default();
        assert!(one.is_empty() && one.0.is_none());
        one.push('a');
        assert_eq!(one.len(), 1);
        assert_eq!(one.take(), "a");
        assert!(one.is_empty() && one.0.is_none() && one.there().is_none());
        one.push('b');
        one.rest(String::is_empty);
        assert_eq!(one.there().map(String::pop), Some(Some('b')));
        one.rest(String::is_empty);
        assert!(one.0.is_none());
    }
}
