//! Decides which weights change, and when: each change moves slots of the ring. Pure.

use std::time::Instant;

use crate::model::Feedback;

/// The actual and the intended part of a backend's configured weight, in percent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// The current part.
    pub present: u16,
    /// The intended part.
    pub wanted: u16,
    /// Whether it has slots of the ring; if not, a change of its weight moves none.
    pub is_in_ring: bool,
}

/// The part of its weight that each of a service's backends gets from now on, and whether that moves slots. `changed`: when slots
/// last moved.
///
/// A backend without slots gets its intended part. The others change together, once `hold` is over: those that differ by
/// `min_change` or more, and those that should have their full weight again.
pub(crate) fn damped(
    parts: &[Part],
    policy: Feedback,
    changed: Option<Instant>,
    now: Instant,
) -> (Vec<u16>, bool) {
    let rests = changed.is_some_and(|changed| now.duration_since(changed) < policy.hold);
    let moves = |part: &Part| {
        let is_far = part.present.abs_diff(part.wanted) >= policy.min_change.into();
        part.is_in_ring && part.present != part.wanted && !rests && (is_far || part.wanted == 100)
    };
    let percent = |part: &Part| if moves(part) || !part.is_in_ring { part.wanted } else { part.present };
    (parts.iter().map(percent).collect(), parts.iter().any(moves))
}

/// `weights` times their percentages, scaled. No weight becomes 0, and all stay the same if each has 100 %.
///
/// Only the proportions matter for the ring, so the results are scaled up as far as possible, which keeps fractions of small
/// weights.
pub(crate) fn scaled(weights: &[(u16, u16)]) -> Vec<u16> {
    if weights.iter().all(|(_, percent)| *percent == 100) {
        return weights.iter().map(|(weight, _)| *weight).collect();
    }
    let exact = |(weight, percent): &(u16, u16)| u64::from(*weight) * u64::from(*percent);
    let largest = weights.iter().map(exact).max().unwrap_or(0).max(u64::from(u16::MAX));
    let fits = |weight: u64| (weight * u64::from(u16::MAX)).div_ceil(largest) as u16;
    // A backend with 0 % gets no flows for another reason, and keeps a weight.
    weights.iter().map(|it| if it.0 == 0 { 0 } else { fits(exact(it)).max(1) }).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use proptest::prelude::*;
    use xdp_lb_common::tables::BackendIndex;

    use super::*;
    use crate::ring::{Member, build};

    fn part(present: u16, wanted: u16) -> Part {
        Part { present, wanted, is_in_ring: true }
    }

    #[test]
    fn small_changes_wait_but_a_return_to_the_whole_weight_does_not() {
        let now = Instant::now();
        for (present, wanted, becomes) in [
            (100, 91, 100),
            (100, 90, 90),
            (90, 81, 90),
            (50, 59, 50),
            (50, 60, 60),
            (99, 100, 100),
            (100, 109, 100),
            (100, 200, 200),
            (5, 1, 5),
        ] {
            let damped = damped(&[part(present, wanted)], Feedback::default(), None, now);
            assert_eq!(damped, (vec![becomes], present != becomes), "{present} to {wanted}");
        }
    }

    #[test]
    fn all_large_changes_happen_together_and_then_wait_for_hold() {
        let (now, policy) = (Instant::now(), Feedback::default());
        let parts = [part(100, 50), part(100, 95), part(100, 20)];
        assert_eq!(damped(&parts, policy, None, now), (vec![50, 100, 20], true));
        let soon = now + policy.hold - Duration::from_millis(1);
        assert_eq!(damped(&parts, policy, Some(now), soon), (vec![100; 3], false));
        assert_eq!(damped(&parts, policy, Some(now), now + policy.hold), (vec![50, 100, 20], true));
    }

    #[test]
    fn a_backend_without_slots_changes_at_once_and_moves_none() {
        let now = Instant::now();
        let out = Part { is_in_ring: false, ..part(100, 5) };
        assert_eq!(damped(&[out, part(100, 20)], Feedback::default(), Some(now), now), (vec![5, 100], false));
    }

    #[test]
    fn small_weights_are_divided_and_large_ones_fit() {
        assert_eq!(scaled(&[(1, 100), (1, 100)]), [1, 1]);
        assert_eq!(scaled(&[(1, 100), (1, 75), (0, 50)]), [100, 75, 0]);
        assert_eq!(scaled(&[(100, 100), (100, 0)]), [10_000, 1]);
        assert_eq!(scaled(&[(65_535, 200), (65_535, 100), (1, 1)]), [65_535, 32_768, 1]);
    }

    fn ring(weights: &[u16]) -> Vec<BackendIndex> {
        let member = |(place, weight): (usize, &u16)| Member {
            index: BackendIndex(place as u32 + 1),
            address: SocketAddr::from(([198, 51, 100, place as u8], 80)),
            weight: *weight,
            portion: 100,
        };
        build(&weights.iter().enumerate().map(member).collect::<Vec<_>>(), 1016)
    }

    proptest! {
        #[test]
        fn the_ring_has_the_proportions_that_the_percentages_ask_for(
            weights in prop::collection::vec((1u16..=300, 1u16..=100), 1..10),
        ) {
            let ring = ring(&scaled(&weights));
            let exact = |(weight, percent): &(u16, u16)| f64::from(*weight) * f64::from(*percent);
            let all: f64 = weights.iter().map(exact).sum();
            for (place, it) in weights.iter().enumerate() {
                let slots = ring.iter().filter(|owner| owner.0 as usize == place + 1).count() as f64;
                let wanted = (1016.0 * exact(it) / all).max(1.0);
                // Rounded to whole slots. Backends with almost no weight get one.
                prop_assert!((slots - wanted).abs() <= 2.0 + weights.len() as f64, "{slots} instead of {wanted}");
            }
        }

        #[test]
        fn the_same_percentage_of_all_moves_no_slot(
            weights in prop::collection::vec(1u16..=300, 1..10),
            percent in 1u16..=200,
        ) {
            let parts: Vec<_> = weights.iter().map(|weight| (*weight, percent)).collect();
            prop_assert_eq!(ring(&scaled(&parts)), ring(&weights));
        }

        #[test]
        fn whatever_is_wanted_the_ring_changes_once_in_a_hold(
            wanted in prop::collection::vec((0u16..=200, 0u16..=200), 1..300),
            hold in 1u64..=30,
        ) {
            let policy = Feedback { hold: Duration::from_secs(hold), ..Feedback::default() };
            let begin = Instant::now();
            let (mut present, mut changed) = (vec![100, 100], None);
            let mut changes: Vec<u64> = Vec::new();
            for (second, (one, other)) in (0u64..).zip(wanted) {
                let now = begin + Duration::from_secs(second);
                let parts = [part(present[0], one), part(present[1], other)];
                let (percents, moves) = damped(&parts, policy, changed, now);
                prop_assert_eq!(moves, percents != present);
                if moves {
                    changes.push(second);
                    changed = Some(now);
                }
                present = percents;
            }
            prop_assert!(changes.windows(2).all(|pair| pair[1] - pair[0] >= hold), "{changes:?}");
        }
    }
}
