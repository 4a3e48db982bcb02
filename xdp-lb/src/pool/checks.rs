//! How checks ended, and how long the successful ones took. Pure.

use std::time::Duration;

/// Up to how many seconds a check counts in each of the first places; the last place has those that took longer.
pub const BOUNDS: [f64; 11] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// How many checks of a service took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Durations {
    /// How many, by [`BOUNDS`]; each check in one place.
    pub counts: [u64; BOUNDS.len() + 1],
    /// All together, in seconds.
    pub seconds: f64,
}

impl Durations {
    /// Takes in how long a check took.
    pub(super) fn take(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[place] += 1;
        self.seconds += seconds;
    }
}

/// How the checks of a backend ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The backend answered as it should.
    pub passed: u64,
    /// It did not.
    pub failed: u64,
    /// This host could not make the check.
    pub not_made: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_counts_in_one_place() {
        let mut durations = Durations::default();
        for millis in [0, 1, 2, 100, 101, 1000, 5000] {
            durations.take(Duration::from_millis(millis));
        }
        assert_eq!(durations.counts, [1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 1]);
        assert!((durations.seconds - 6.204).abs() < 1e-9);
    }
}
