//! Rates: token buckets, and how much the datapath sends of itself.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many packets a second are answered, by each CPU. A sender needs one answer for each destination.
pub const ANSWERS_PER_SECOND: u64 = 1000;

/// How many of them may come at once.
pub const ANSWERS_AT_ONCE: u64 = 100;

/// Nanoseconds from one answer to the next.
const INTERVAL: u64 = 1_000_000_000 / ANSWERS_PER_SECOND;

/// Takes a token from a bucket, where there is one: when the bucket is full again after that.
///
/// A bucket is one number, the time at which it is full (the "theoretical arrival time" of the generic cell rate
/// algorithm, ITU-T I.371 annex A). `now` is a clock that does not go back; a token comes back each `interval` of its
/// units, and the bucket holds `at_once`.
#[inline(always)]
pub fn take(full_at: u64, now: u64, interval: u64, at_once: u64) -> Option<u64> {
    let full_at = if full_at > now { full_at } else { now };
    (full_at - now <= at_once.saturating_sub(1) * interval).then(|| full_at + interval)
}

/// A token bucket of [`ANSWERS_AT_ONCE`] tokens, refilled with [`ANSWERS_PER_SECOND`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes a token, where there is one. `now`: nanoseconds of a clock that does not go back.
    #[inline(always)]
    pub fn take(&mut self, now: u64) -> bool {
        match take(self.full_at, now, INTERVAL, ANSWERS_AT_ONCE) {
            Some(full_at) => {
                self.full_at = full_at;
                true
            }
            None => false,
        }
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
