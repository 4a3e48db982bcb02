//! How many slots a ring has.

/// Primes some two times apart: few lengths, so that a ring's length changes seldom.
const LADDER: [u32; 14] = [
    1_009, 2_053, 4_099, 8_209, 16_411, 32_771, 65_537, 131_101, 262_147, 524_309, 1_048_583, 2_097_169,
    4_194_319, 8_388_617,
];

/// At this many slots a backend, rounding to whole slots moves a backend's share by 1 % at most.
const SLOTS_PER_BACKEND: usize = 100;

/// A ring shrinks only when it has more than this many times the slots that it needs.
const SLACK: usize = 4;

/// The length of the ring of a service with this many backends: a prime, at least 100 slots a
/// backend. `present` is the length that the ring has now (0 where there is none), and stays unless
/// it is too short or far too long: flows are hashed anew when it changes.
pub fn length(backends: usize, present: u32) -> u32 {
    let needed = rung(backends.saturating_mul(SLOTS_PER_BACKEND));
    let most = rung(backends.saturating_mul(SLOTS_PER_BACKEND * SLACK));
    if LADDER.contains(&present) && (needed..=most).contains(&present) { present } else { needed }
}

/// The next shorter length, for where there is no room for this one.
pub fn shorter(length: u32) -> Option<u32> {
    LADDER.into_iter().rev().find(|rung| *rung < length)
}

fn rung(slots: usize) -> u32 {
    LADDER.into_iter().find(|rung| *rung as usize >= slots).unwrap_or(LADDER[LADDER.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_a_prime() {
        for rung in LADDER.map(u64::from) {
            assert!((2..).take_while(|n| n * n <= rung).all(|n| rung % n != 0), "{rung}");
        }
    }

    #[test]
    fn every_backend_has_a_hundred_slots() {
        for backends in [1, 10, 11, 40, 41, 1_000, 10_000, 83_000] {
            assert!(length(backends, 0) as usize >= backends * 100);
        }
    }

    #[test]
    fn a_ring_grows_when_it_must_and_does_not_shrink_on_a_small_change() {
        assert_eq!(length(10, 1_009), 1_009);
        assert_eq!(length(11, 1_009), 2_053);
        assert_eq!(length(10, 2_053), 2_053);
        assert_eq!(length(3, 2_053), 2_053);
        assert_eq!(length(2, 2_053), 1_009);
    }

    #[test]
    fn a_length_from_elsewhere_is_not_kept() {
        assert_eq!(length(10, 1_500), 1_009);
    }
}
