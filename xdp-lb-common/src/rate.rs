//! What the datapath sends of itself is limited.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many packets a second are answered, by each CPU. A sender needs one answer for each destination.
pub const ANSWERS_PER_SECOND: u64 = 1000;

/// How many of them may come at once.
pub const ANSWERS_AT_ONCE: u64 = 100;

/// Nanoseconds from one answer to the next.
const INTERVAL: u64 = 1_000_000_000 / ANSWERS_PER_SECOND;

/// A token bucket of [`ANSWERS_AT_ONCE`] tokens, refilled with [`ANSWERS_PER_SECOND`]. Held as the time at which it
/// will be full again (the "theoretical arrival time" of ITU-T I.371's generic cell rate algorithm): one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes a token, where there is one. `now`: nanoseconds of a clock that does not go back.
    #[inline(always)]
    pub fn take(&mut self, now: u64) -> bool {
        let full_at = if self.full_at > now { self.full_at } else { now };
        if full_at - now > (ANSWERS_AT_ONCE - 1) * INTERVAL {
            return false;
        }
        self.full_at = full_at + INTERVAL;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_through_and_then_as_many_as_a_second_has() {
        let mut bucket = Bucket::default();
        let start = 5_000_000_000;
        let taken = |bucket: &mut Bucket, now| (0..10_000).filter(|_| bucket.take(now)).count() as u64;
        assert_eq!(taken(&mut bucket, start), ANSWERS_AT_ONCE);
        assert_eq!(taken(&mut bucket, start + INTERVAL * 7), 7);
        assert_eq!(taken(&mut bucket, start + 60 * 1_000_000_000), ANSWERS_AT_ONCE, "it overflows");
        let steadily =
            (0..20_000u64).filter(|step| bucket.take(start + 100_000_000_000 + step * INTERVAL / 2));
        let steadily = steadily.count() as u64;
        assert!((10_000..=10_000 + ANSWERS_AT_ONCE).contains(&steadily), "{steadily} in ten seconds");
    }
}
