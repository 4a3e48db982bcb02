//! Allocation in the tables: ranges of the flat arrays, and indices.

use std::collections::VecDeque;
use std::ops::Range;

/// The free ranges of a flat array, taken first fit.
#[derive(Debug)]
pub struct Room {
    free: Vec<Range<u32>>,
}

impl Room {
    /// The free ranges of an array of this size.
    pub fn new(size: u32, used: impl IntoIterator<Item = Range<u32>>) -> Self {
        let mut used: Vec<_> = used.into_iter().filter(|range| !range.is_empty()).collect();
        used.sort_unstable_by_key(|range| range.start);
        let mut free = Vec::new();
        let mut begin = 0;
        for range in used {
            if begin < range.start {
                free.push(begin..range.start.min(size));
            }
            begin = begin.max(range.end);
        }
        if begin < size {
            free.push(begin..size);
        }
        Self { free }
    }

    /// Allocates `length` consecutive places, if there are any.
    pub fn take(&mut self, length: u32) -> Option<u32> {
        let range = self.free.iter_mut().find(|range| range.end - range.start >= length)?;
        let begin = range.start;
        range.start += length;
        Some(begin)
    }
}

/// Free indices, reused in the order in which they were freed, so that references to a freed index have the longest time to
/// disappear.
#[derive(Clone, Debug)]
pub struct Indices {
    free: VecDeque<u32>,
}

impl Indices {
    /// The unused indices of `all`.
    pub fn new(all: Range<u32>, is_used: impl Fn(u32) -> bool) -> Self {
        Self { free: all.filter(|index| !is_used(*index)).collect() }
    }

    /// Allocates an index, if one is free.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop_front()
    }

    /// Frees an index.
    pub fn put_back(&mut self, index: u32) {
        self.free.push_back(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gap_that_is_long_enough_is_taken() {
        let mut room = Room::new(100, [10..20, 25..60]);
        assert_eq!(room.take(5), Some(0));
        assert_eq!(room.take(10), Some(60));
        assert_eq!(room.take(5), Some(5));
        assert_eq!(room.take(5), Some(20));
        assert_eq!(room.take(31), None);
        assert_eq!(room.take(30), Some(70));
        assert_eq!(room.take(1), None);
    }

    #[test]
    fn ranges_that_overlap_or_reach_beyond_the_end_leave_what_is_free() {
        let mut room = Room::new(30, [5..15, 10..12, 25..40]);
        assert_eq!(room.take(5), Some(0));
        assert_eq!(room.take(10), Some(15));
        assert_eq!(room.take(1), None);
    }

    #[test]
    fn the_index_that_was_freed_first_is_used_first() {
        let mut indices = Indices::new(1..5, |index| index == 2);
        assert_eq!([indices.take(), indices.take()], [Some(1), Some(3)]);
        indices.put_back(3);
        indices.put_back(1);
        assert_eq!(
            [indices.take(), indices.take(), indices.take(), indices.take()],
            [Some(4), Some(3), Some(1), None]
        );
    }
}
