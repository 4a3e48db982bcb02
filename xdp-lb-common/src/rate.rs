//! Rates: token buckets, and the limits of what the datapath sends itself.

use crate::hash::FlowHash;
use crate::layout::Layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The answers that the datapath sends instead of a packet. Each kind has its own limits, independent of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Answer {
    /// ICMP "fragmentation needed", ICMPv6 "packet too big".
    TooBig = 0,
    /// ICMP "port unreachable".
    Unreachable = 1,
    /// ICMP "time exceeded".
    TimeExceeded = 2,
    /// A TCP reset.
    Reset = 3,
}

/// The number of kinds: the size of the table of their buckets.
pub const ANSWERS: u32 = 4;

/// The limits of one kind of answer, for each CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The rate per second, to all destinations.
    pub per_second: u64,
    /// The largest burst.
    pub at_once: u64,
    /// The rate per second to one destination (an IPv4 address or an IPv6 /64).
    pub per_second_to_one: u64,
    /// The largest burst to one destination.
    pub at_once_to_one: u64,
}

impl Answer {
    /// Its limits. A host needs few ICMP errors, but one reset for each connection, and many clients may share a proxy's address.
    #[inline(always)]
    pub const fn limits(self) -> Limits {
        match self {
            Self::TooBig | Self::Unreachable | Self::TimeExceeded => {
                Limits { per_second: 1000, at_once: 200, per_second_to_one: 100, at_once_to_one: 50 }
            }
            Self::Reset => {
                Limits { per_second: 20_000, at_once: 20_000, per_second_to_one: 2000, at_once_to_one: 2000 }
            }
        }
    }
}

/// The number of buckets for each kind of answer, by a destination's hash: a power of two.
pub const DESTINATIONS: usize = 1024;

/// The limits of one kind of answer on one CPU: a bucket for all destinations, and one for each hash of a destination.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Buckets {
    all: Bucket,
    destinations: [Bucket; DESTINATIONS],
}

impl Layout for Buckets {}

impl Default for Buckets {
    fn default() -> Self {
        Self { all: Bucket::default(), destinations: [Bucket::default(); DESTINATIONS] }
    }
}

impl Buckets {
    /// Takes a token from the destination's bucket and one from the common bucket, if both have one. A refusal for one
    /// destination costs the others nothing. `now`: nanoseconds of a monotonic clock.
    #[inline(always)]
    pub fn take(&mut self, answer: Answer, destination: FlowHash, now: u64) -> bool {
        let limits = answer.limits();
        let one = &mut self.destinations[destination.reduce(DESTINATIONS as u32) as usize % DESTINATIONS];
        one.take(now, limits.per_second_to_one, limits.at_once_to_one)
            && self.all.take(now, limits.per_second, limits.at_once)
    }
}

/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;

/// Takes a token from a bucket if it has one, and returns when the bucket is full again.
///
/// A bucket is a single number, the time at which it is full (the "theoretical arrival time" of the generic cell rate algorithm,
/// ITU-T I.371 annex A). `now` is the time of a monotonic clock. A token is added each `interval`, in its units, and the bucket
/// holds at most `at_once`.
#[inline(always)]
pub fn take(full_at: u64, now: u64, interval: u64, at_once: u64) -> Option<u64> {
    let full_at = if full_at > now { full_at } else { now };
    (full_at - now <= at_once.saturating_sub(1) * interval).then(|| full_at + interval)
}

/// A token bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes a token if there is one.
    #[inline(always)]
    fn take(&mut self, now: u64, per_second: u64, at_once: u64) -> bool {
        match take(self.full_at, now, SECOND / per_second, at_once) {
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
    extern crate std;

    use std::boxed::Box;

    use super::*;
    use crate::hash::KEYS;
    use crate::net::{Address, Be32};

    const START: u64 = 5 * SECOND;

    fn destination(number: u32) -> FlowHash {
        let keys = core::array::from_fn::<u64, KEYS, _>(|place| 0x9e37_79b9_7f4a_7c15 << place);
        FlowHash::of_client(&keys, &Address::v4(Be32::new(number)), 128)
    }

    /// The number of answers sent out of this many tries, to destinations in turn.
    fn sent(buckets: &mut Buckets, tries: u32, destinations: u32, now: u64) -> u64 {
        let sent =
            (0..tries).filter(|place| buckets.take(Answer::TooBig, destination(place % destinations), now));
        sent.count() as u64
    }

    #[test]
    fn a_burst_goes_through_and_then_as_many_as_a_second_has() {
        let Limits { per_second, at_once, .. } = Answer::TooBig.limits();
        let mut buckets = Box::<Buckets>::default();
        let interval = SECOND / per_second;
        assert_eq!(sent(&mut buckets, 10_000, 5000, START), at_once);
        assert_eq!(sent(&mut buckets, 10_000, 5000, START + interval * 7), 7);
        assert_eq!(sent(&mut buckets, 10_000, 5000, START + 60 * SECOND), at_once, "it overflows");
        let steadily = (0..20_000u64).filter(|step| {
            let now = START + 100 * SECOND + step * interval / 2;
            buckets.take(Answer::TooBig, destination(*step as u32 % 5000), now)
        });
        let steadily = steadily.count() as u64;
        assert!((10_000..=10_000 + at_once).contains(&steadily), "{steadily} in ten seconds");
    }

    #[test]
    fn one_destination_gets_fewer_and_leaves_the_others_theirs() {
        let Limits { at_once, at_once_to_one, per_second_to_one, .. } = Answer::TooBig.limits();
        let mut buckets = Box::<Buckets>::default();
        assert_eq!(sent(&mut buckets, 10_000, 1, START), at_once_to_one);
        assert_eq!(sent(&mut buckets, 10_000, 1, START + SECOND / 10), per_second_to_one / 10);
        assert!(
            buckets.take(Answer::TooBig, destination(7), START + SECOND / 10),
            "another one's are its own"
        );
        assert!(at_once_to_one < at_once);
    }
}
