//! Which of a peer's datagrams have come.

use std::collections::BTreeSet;

use super::outbox::WINDOW;

/// The most ranges that an acknowledgement tells.
const RANGES: usize = 32;

/// The numbers that have come: all before one, and some behind it. So what is sent twice, by a network or by a stranger, is taken
/// once.
#[derive(Debug)]
pub struct Window {
    /// All before it have come.
    next: u64,
    /// Of those behind it, as far as the sender may be.
    ahead: BTreeSet<u64>,
}

impl Window {
    /// All before this number have come, or are not needed.
    pub fn new(next: u64) -> Self {
        Self { next, ahead: BTreeSet::new() }
    }

    /// Whether a datagram of this number may be taken: it has not come, and is not further ahead than its sender may be.
    pub fn is_new(&self, number: u64) -> bool {
        number >= self.next && number - self.next < WINDOW && !self.ahead.contains(&number)
    }

    /// Notes that it has come.
    pub fn note(&mut self, number: u64) {
        if !self.is_new(number) {
            return;
        }
        self.ahead.insert(number);
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
    }

    /// All numbers before this one have come, and those from the first to the last of each range.
    pub fn acknowledgement(&self) -> (u64, Vec<(u64, u64)>) {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for number in &self.ahead {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *number => *last = *number,
                _ => ranges.push((*number, *number)),
            }
            if ranges.len() > RANGES {
                ranges.pop();
                break;
            }
        }
        (self.next, ranges)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_is_new_once_and_none_is_that_the_sender_cannot_have_reached() {
        let mut window = Window::new(10);
        assert!(!window.is_new(9) && window.is_new(10) && window.is_new(12));
        window.note(12);
        assert!(!window.is_new(12));
        assert_eq!(window.acknowledgement(), (10, vec![(12, 12)]));
        (10..12).for_each(|number| window.note(number));
        assert_eq!(window.acknowledgement(), (13, vec![]));
        assert!(window.is_new(12 + WINDOW) && !window.is_new(13 + WINDOW));
    }

    proptest! {
        #[test]
        fn what_is_acknowledged_is_what_has_come(numbers in prop::collection::vec(0..200u64, 0..300)) {
            let mut window = Window::new(0);
            let mut come = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(window.is_new(number), !come.contains(&number));
                window.note(number);
                come.insert(number);
            }
            let (before, ranges) = window.acknowledgement();
            let told = (0..before).chain(ranges.iter().flat_map(|(first, last)| *first..=*last));
            let told: BTreeSet<u64> = told.collect();
            prop_assert!(told.is_subset(&come));
            prop_assert!(ranges.len() == RANGES || told == come);
        }
    }
}
