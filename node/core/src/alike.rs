//! One copy of what many have alike.
//!
//! Of ten thousand ranges nearly all have the same few sets of members, by number.
//!
//! Invariant: what was equal stays equal; at most [`RECENT_MAX`] values are kept for others to share.

use std::collections::VecDeque;
use std::sync::Arc;

/// Looking one up takes as many comparisons.
const RECENT_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct Alike<T>(VecDeque<Arc<T>>);

impl<T> Default for Alike<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: PartialEq> Alike<T> {
    /// Puts an equal value that others have in the place of this one, or remembers this one for them.
    pub fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.0.iter().find(|known| *known == value) {
            value.clone_from(known);
            return;
        }
        if self.0.len() == RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_become_one_and_few_are_kept() {
        let mut alike = Alike::default();
        let [mut one, mut two, mut other] = [7, 7, 8].map(Arc::new);
        for value in [&mut one, &mut two, &mut other] {
            alike.share(value);
        }
        assert!(Arc::ptr_eq(&one, &two) && *other == 8);
        for value in 100..200 {
            alike.share(&mut Arc::new(value));
        }
        assert_eq!(alike.0.len(), RECENT_MAX);
    }
}
