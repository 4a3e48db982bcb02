//! `DROPS`, `SAMPLED`, `DROPS_UNTIL`: a sample of dropped packets, as long as someone watches them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::FlowKey;
use super::refusal::RefusalKey;
use crate::layout::{plain, record};
use crate::net::Address;

/// The maximum number of sources that each CPU samples per reason and second.
const SOURCES: usize = 8;

plain! {
    /// A sampled packet.
    #[repr(C)]
    pub struct DropSample {
        /// Its addresses and ports.
        pub flow: FlowKey,
        /// Its service and backend, if known, and why it was dropped.
        pub refusal: RefusalKey,
        /// The interface on which it arrived.
        pub ingress: u32,
    }
}

record! {
    /// The value of `SAMPLED`: the sources that a CPU has sampled for one reason in the current second.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Sampled {
        /// The second, of the monotonic clock.
        second: u32,
        /// How many sources.
        count: u32,
        /// Their addresses, each folded into a word.
        sources: [u32; SOURCES],
    }
}

impl Sampled {
    /// Whether to sample a packet of this source: the first of each source in a second, for a limited number of sources.
    #[inline(always)]
    pub fn takes(&mut self, source: &Address, now: u32) -> bool {
        if self.second != now {
            *self = Self { second: now, ..Self::default() };
        }
        let count = self.count as usize;
        if count >= SOURCES {
            return false;
        }
        // A free place is 0, which no address is. Addresses that fold alike hide each other from the sample.
        let folded = source.0.iter().fold(0, |all: u32, word| all.rotate_left(9) ^ word.word()) | 1;
        // All places, not the first `count`: the verifier of Linux 6.1 loses the bounds of a number that is compared so often.
        for at in 0..SOURCES {
            if self.sources[at] == folded {
                return false;
            }
        }
        self.sources[count] = folded;
        self.count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn the_first_packet_of_each_source_in_a_second_is_taken_of_so_many_sources() {
        let mut sampled = Sampled::default();
        let mut takes = |last: u8, now| sampled.takes(&IpAddr::from([192, 0, 2, last]).into(), now);
        assert!(takes(1, 7) && !takes(1, 7) && takes(2, 7) && !takes(1, 7));
        assert!((3..=8).all(|last| takes(last, 7)));
        assert!(!takes(9, 7), "there were enough");
        assert!(takes(7, 8) && takes(1, 8) && !takes(7, 8), "another second");
    }
}
