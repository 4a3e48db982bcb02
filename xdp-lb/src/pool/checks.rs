//! Results of checks, and the durations of successful ones. Pure.

use std::time::Duration;

/// The longest duration, in seconds, of each bucket but the last, which counts longer checks.
pub const BOUNDS: [f64; 11] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// The durations of a service's checks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Durations {
    /// The number of checks per bucket of [`BOUNDS`], each in one bucket.
    pub counts: [u64; BOUNDS.len() + 1],
    /// Their sum, in seconds.
    pub seconds: f64,
}

impl Durations {
    /// Adds the duration of a check.
    pub(super) fn take(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[place] += 1;
        self.seconds += seconds;
    }
}

/// The results of a backend's checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The backend answered as expected.
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
