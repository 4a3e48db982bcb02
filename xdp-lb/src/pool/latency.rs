//! Adjusts a backend's weight to the latency of its checks. Pure.

use std::time::Duration;

/// The weight of a new check in the average, out of 1.
const SHARE_OF_ONE: f64 = 0.1;

/// The number of checks that an average needs. Until then, all have the same weight.
const ENOUGH: u32 = 10;

/// A check this much longer than the median is not slow. A check counts as at most twice the average plus ten times this, so that
/// no single check changes a weight by a tenth.
const NOISE: Duration = Duration::from_millis(1);

/// The recent latency of a backend's checks: an exponentially weighted moving average.
#[derive(Clone, Copy, Debug, Default)]
pub struct Average {
    seconds: f64,
    checks: u32,
}

impl Average {
    /// Records the latency of a check.
    pub fn record(&mut self, took: Duration) {
        let most = 2.0 * self.seconds + 10.0 * NOISE.as_secs_f64();
        let took = if self.checks < ENOUGH { took.as_secs_f64() } else { took.as_secs_f64().min(most) };
        self.checks = self.checks.saturating_add(1);
        let share = SHARE_OF_ONE.max(1.0 / f64::from(self.checks));
        self.seconds += share * (took - self.seconds);
    }

    /// The average, if there were enough checks.
    pub fn time(&self) -> Option<Duration> {
        (self.checks >= ENOUGH).then(|| Duration::from_secs_f64(self.seconds.max(0.0)))
    }
}

/// The part of its weight for a backend with this latency, in percent: half if it is twice the median of its service, at least
/// `floor`, and at most 100.
pub(crate) fn percent(own: Duration, median: Duration, floor: u8) -> u16 {
    let fair = median + NOISE;
    if own <= fair {
        return 100;
    }
    ((100.0 * fair.div_duration_f64(own)).round() as u16).clamp(floor.into(), 100)
}

/// The median. Of an even number of times, the shorter of the two in the middle.
pub(crate) fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Feedback;
    use crate::pool::feedback::{Part, damped};

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn heard(milliseconds: u64, times: u32) -> Average {
        let mut average = Average::default();
        (0..times).for_each(|_| average.record(Duration::from_millis(milliseconds)));
        average
    }

    #[test]
    fn twice_the_median_gets_half_within_floor_and_100_percent() {
        for (own, expected) in [(1, 100), (9, 100), (10, 100), (11, 91), (20, 50), (40, 25), (10_000, 25)] {
            assert_eq!(percent(milliseconds(own), milliseconds(9), 25), expected, "{own} ms");
        }
        assert_eq!(percent(milliseconds(10_000), milliseconds(9), 1), 1);
        assert_eq!(percent(milliseconds(10_000), milliseconds(9), 100), 100);
    }

    #[test]
    fn a_millisecond_is_ignored_and_more_counts_gradually() {
        let percent = |micros| percent(Duration::from_micros(micros), Duration::from_micros(50), 25);
        assert_eq!([200, 1_050, 1_100, 1_500, 2_100].map(percent), [100, 100, 95, 70, 50]);
    }

    #[test]
    fn an_average_needs_some_checks() {
        assert_eq!(heard(9, 9).time(), None);
        assert_eq!(heard(9, 10).time(), Some(milliseconds(9)));
    }

    #[test]
    fn a_lasting_change_is_followed_within_some_checks() {
        let mut average = heard(20, 50);
        let until = |average: &mut Average, took: u64, is_so: fn(Duration) -> bool| {
            (1..200).find(|_| {
                average.record(milliseconds(took));
                is_so(average.time().unwrap())
            })
        };
        let slower = until(&mut average, 100, |time| time > milliseconds(42)).unwrap();
        let faster = until(&mut average, 20, |time| time < milliseconds(21)).unwrap();
        println!("half after {slower} checks, all again after {faster}");
        assert!(slower < 15 && faster < 50, "{slower}, {faster}");
    }

    #[test]
    fn the_median_is_one_of_the_times() {
        let times = |times: &[u64]| times.iter().map(|time| milliseconds(*time)).collect();
        assert_eq!(median(times(&[])), None);
        assert_eq!(median(times(&[3])), Some(milliseconds(3)));
        assert_eq!(median(times(&[9, 1])), Some(milliseconds(1)));
        assert_eq!(median(times(&[9, 1, 5])), Some(milliseconds(5)));
    }

    /// How often the ring changes for backends whose checks, one a second, take these microseconds; and all percentages.
    fn changes(checks: &[Vec<u64>], policy: Feedback) -> (Vec<u64>, Vec<u16>) {
        let begin = Instant::now();
        let mut averages = vec![Average::default(); checks[0].len()];
        let (mut present, mut changed) = (vec![100; averages.len()], None);
        let (mut seconds, mut percents) = (Vec::new(), Vec::new());
        for (second, round) in (0..).zip(checks) {
            averages.iter_mut().zip(round).for_each(|(it, took)| it.record(Duration::from_micros(*took)));
            let Some(median) = median(averages.iter().filter_map(Average::time).collect()) else { continue };
            let parts: Vec<Part> = averages
                .iter()
                .zip(&present)
                .map(|(it, present)| {
                    let wanted = percent(it.time().unwrap(), median, policy.floor());
                    Part { present: *present, wanted, is_in_ring: true }
                })
                .collect();
            let now = begin + Duration::from_secs(second);
            let (next, moves) = damped(&parts, policy, changed, now);
            if moves {
                changed = Some(now);
                seconds.push(second);
            }
            percents.extend(&next);
            present = next;
        }
        (seconds, percents)
    }

    proptest! {
        #[test]
        fn noise_never_changes_a_ring(
            base in 50u64..=200_000,
            noise in prop::collection::vec(prop::collection::vec(90u64..=110, 3), 10..300),
        ) {
            let checks: Vec<Vec<u64>> =
                noise.iter().map(|round| round.iter().map(|percent| base * percent / 100).collect()).collect();
            prop_assert_eq!(changes(&checks, Feedback::default()).0, Vec::<u64>::new());
        }

        #[test]
        fn nor_does_a_single_check_however_long_it_takes(
            base in 50u64..=1_000_000,
            at in 10usize..100,
            took in 0u64..=3_600_000_000,
        ) {
            let mut checks = vec![vec![base; 3]; 120];
            checks[at][0] = took;
            prop_assert_eq!(changes(&checks, Feedback::default()).0, Vec::<u64>::new());
        }

        #[test]
        fn whatever_checks_take_the_floor_is_kept_and_the_ring_changes_once_in_a_hold(
            checks in prop::collection::vec(prop::collection::vec(1u64..=5_000_000, 4), 10..200),
            floor in 1u8..=100,
            hold in 1u64..=30,
        ) {
            let policy = Feedback { floor: Some(floor), hold: Duration::from_secs(hold), ..Feedback::default() };
            let (seconds, percents) = changes(&checks, policy);
            prop_assert!(percents.iter().all(|percent| (u16::from(floor)..=100).contains(percent)));
            prop_assert!(seconds.windows(2).all(|pair| pair[1] - pair[0] >= hold), "{seconds:?}");
        }
    }
}
