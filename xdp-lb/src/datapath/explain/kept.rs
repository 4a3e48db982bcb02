//! Values that do not move until all of them are dropped, so that references to them can be lent.

use std::cell::OnceCell;

/// A list that only grows.
pub struct Kept<T> {
    first: Link<T>,
}

type Link<T> = OnceCell<Box<Node<T>>>;

struct Node<T> {
    value: T,
    next: Link<T>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { first: OnceCell::new() }
    }
}

impl<T> Kept<T> {
    /// The first value for which `is` holds. If there is none, keeps the one that `make` returns.
    pub fn find_or_put(&self, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> &T {
        let mut link = &self.first;
        while let Some(node) = link.get() {
            if is(&node.value) {
                return &node.value;
            }
            link = &node.next;
        }
        &link.get_or_init(|| Box::new(Node { value: make(), next: OnceCell::new() })).value
    }

    /// Keeps another value.
    pub fn put(&self, value: T) -> &T {
        self.find_or_put(|_| false, || value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stays_where_it_is_and_is_found_again() {
        let kept = Kept::default();
        let first: &u32 = kept.put(7);
        let others: Vec<&u32> = (0..100).map(|number| kept.put(number * 100)).collect();
        assert_eq!((*first, *others[3]), (7, 300));
        assert!(std::ptr::eq(kept.find_or_put(|value| *value == 300, || unreachable!()), others[3]));
        assert_eq!(*kept.find_or_put(|value| *value == 5, || 5), 5);
    }
}
