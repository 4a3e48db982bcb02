//! Copies of shared words, made when they are first read. Writes to a copy are not visible to others.

use std::cell::Cell;

use xdp_lb_common::flow_table::Word;

use super::kept::Kept;

/// A copy of a word.
#[derive(Debug, Default)]
pub struct Copied(Cell<u64>);

impl Copied {
    /// A copy of the word's current value.
    pub fn of(word: &impl Word) -> Self {
        Self(Cell::new(word.load()))
    }
}

impl Word for Copied {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn store(&self, value: u64) {
        self.0.set(value);
    }

    fn replace(&self, old: u64, new: u64) -> bool {
        let is_old = self.0.get() == old;
        if is_old {
            self.0.set(new);
        }
        is_old
    }

    fn add(&self, by: u64) {
        self.0.set(self.0.get().wrapping_add(by));
    }
}

/// The copies of a table's entries, by index.
pub struct Copies<T>(Kept<(u32, T)>);

impl<T> Default for Copies<T> {
    fn default() -> Self {
        Self(Kept::default())
    }
}

impl<T> Copies<T> {
    /// The copy of the entry at this index.
    pub fn at(&self, place: u32, copy: impl FnOnce() -> T) -> &T {
        &self.0.find_or_put(|(of, _)| *of == place, || (place, copy())).1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_copy_is_written_and_the_shared_word_is_not() {
        let shared = AtomicU64::new(5);
        let copies = Copies::default();
        let copy = copies.at(3, || Copied::of(&shared));
        assert!(copy.replace(5, 6) && !copy.replace(5, 7));
        copy.add(1);
        assert_eq!((copies.at(3, || unreachable!()).load(), shared.load(Ordering::Relaxed)), (7, 5));
    }
}
