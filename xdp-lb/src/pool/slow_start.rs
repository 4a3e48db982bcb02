//! How fast a backend that comes back gets its share of new flows again. Pure.

use std::time::Duration;

/// In how many steps. Each changes the ring.
const STEPS: u32 = 10;

/// What it gets of its share, in percent, so long after it came back: a tenth at once, all of it after `over`.
pub(crate) fn portion(since: Duration, over: Duration) -> u8 {
    let done = (1..STEPS).take_while(|step| after(*step, over) <= since).count();
    // At most 100.
    (100 / STEPS * (1 + done as u32)) as u8
}

/// When the next step is, counted from when it came back; nothing where it has its whole share.
pub(crate) fn next(since: Duration, over: Duration) -> Option<Duration> {
    (1..STEPS).map(|step| after(step, over)).find(|step| *step > since)
}

/// How long after it came back one has this portion of its share, in percent, or more: where one begins that comes back with
/// that portion.
pub(crate) fn reached(portion: u8, over: Duration) -> Duration {
    let step = u32::from(portion.min(100)).div_ceil(100 / STEPS).saturating_sub(1);
    after(step, over)
}

/// When a step is, of those after the first.
fn after(step: u32, over: Duration) -> Duration {
    over * step / (STEPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVER: Duration = Duration::from_secs(90);

    #[test]
    fn it_begins_with_a_tenth_and_has_all_at_the_end() {
        let portions =
            [0, 9, 10, 19, 45, 89, 90, 1000].map(|seconds| portion(Duration::from_secs(seconds), OVER));
        assert_eq!(portions, [10, 10, 20, 20, 50, 90, 100, 100]);
    }

    #[test]
    fn one_that_comes_back_with_a_portion_goes_on_from_there() {
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
