//! When a backend's health changes: a pure state machine, fed with the result of each check.

use super::target::Health;

/// A backend's health, and the checks that contradict it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State {
    health: Health,
    /// The number of checks in a row that contradicted `health`.
    against: u16,
}

impl State {
    pub(super) fn new(health: Health) -> Self {
        Self { health, against: 0 }
    }

    pub(super) fn health(self) -> Health {
        self.health
    }

    /// Whether recent checks contradict the health, but too few to change it.
    pub(super) fn is_changing(self) -> bool {
        self.against > 0
    }

    /// Discards the checks that contradicted the health so far.
    pub(super) fn restart(&mut self) {
        self.against = 0;
    }

    /// Records the result of a check. Returns whether the health changed. `rise` successes in a row bring a backend up, `fall`
    /// failures in a row take it down; 0 counts as 1.
    pub(super) fn record(&mut self, success: bool, rise: u16, fall: u16) -> bool {
        let (spoken_for, needed) = match self.health {
            Health::Unknown => (None, 1),
            Health::Up => (Some(true), fall),
            Health::Down => (Some(false), rise),
        };
        if spoken_for == Some(success) {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let changes = self.against >= needed;
        if changes {
            *self = Self::new(if success { Health::Up } else { Health::Down });
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_check_decides_what_is_unknown() {
        for (success, health) in [(true, Health::Up), (false, Health::Down)] {
            let mut state = State::new(Health::Unknown);
            assert!(state.record(success, 100, 100));
            assert_eq!(state.health(), health);
        }
    }

    #[test]
    fn a_restart_resets_the_count() {
        let mut state = State::new(Health::Up);
        assert!(!state.record(false, 2, 2));
        state.restart();
        assert!(!state.record(false, 2, 2));
        assert!(state.record(false, 2, 2));
    }

    proptest! {
        /// The rule over the whole history: the health follows the last run of at least `rise` successes or `fall` failures, and before
        /// that the first check.
        #[test]
        fn health_changes_exactly_at_the_end_of_a_long_enough_run(
            checks in prop::collection::vec(any::<bool>(), 1..200),
            rise in 1..6u16,
            fall in 1..6u16,
        ) {
            let mut state = State::new(Health::Unknown);
            let mut expected = Health::Unknown;
            for (index, &success) in checks.iter().enumerate() {
                let run = checks[..=index].iter().rev().take_while(|&&check| check == success).count();
                let before = expected;
                if index == 0 || run >= usize::from(if success { rise } else { fall }) {
                    expected = if success { Health::Up } else { Health::Down };
                }
                prop_assert_eq!(state.record(success, rise, fall), before != expected);
                prop_assert_eq!(state.health(), expected);
            }
        }
    }
}
