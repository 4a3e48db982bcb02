//! Increases a returning backend's share of new flows step by step. Pure.

use std::time::Duration;

/// The number of steps. Each changes the ring.
const STEPS: u32 = 10;

/// The part of its share, in percent, at a time after its return: a tenth at once, all of it after `over`.
pub(crate) fn portion(since: Duration, over: Duration) -> u8 {
    let done = (1..STEPS).take_while(|step| after(*step, over) <= since).count();
    // At most 100.
    (100 / STEPS * (1 + done as u32)) as u8
}

/// The time of the next step, counted from its return. `None` if it has its whole share.
pub(crate) fn next(since: Duration, over: Duration) -> Option<Duration> {
    (1..STEPS).map(|step| after(step, over)).find(|step| *step > since)
}

/// The time after its return at which a backend has at least this part of its share, in percent. A backend that returns with that
/// part continues there.
pub(crate) fn reached(portion: u8, over: Duration) -> Duration {
    let step = u32::from(portion.min(100)).div_ceil(100 / STEPS).saturating_sub(1);
    after(step, over)
}

/// The time of a step after the first.
fn after(step: u32, over: Duration) -> Duration {
    over * step / (STEPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVER: Duration = Duration::from_secs(90);

    #[test]
    fn it_starts_with_a_tenth_and_ends_with_all() {
        let portions =
            [0, 9, 10, 19, 45, 89, 90, 1000].map(|seconds| portion(Duration::from_secs(seconds), OVER));
        assert_eq!(portions, [10, 10, 20, 20, 50, 90, 100, 100]);
    }

    #[test]
    fn a_backend_that_returns_with_a_part_continues_from_there() {
        for (has, begins_with) in [(0, 10), (1, 10), (10, 10), (11, 20), (35, 40), (100, 100)] {
            assert_eq!(portion(reached(has, OVER), OVER), begins_with, "{has} %");
        }
    }

    #[test]
    fn ten_steps_lead_from_one_to_the_other() {
        for over in [OVER, Duration::from_secs(1), Duration::from_millis(9_999), Duration::from_secs(3600)] {
            let steps: Vec<Duration> =
                std::iter::successors(Some(Duration::ZERO), |since| next(*since, over)).collect();
            let portions: Vec<u8> = steps.iter().map(|since| portion(*since, over)).collect();
            assert_eq!(portions, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
            assert_eq!(steps.last(), Some(&over));
        }
    }
}
