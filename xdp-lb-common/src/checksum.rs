//! Incremental checksums (RFC 1624): what changed is folded in, the payload is never read.

use zerocopy::byteorder::network_endian::U16;

use crate::net::{Address, Port};

/// The change of a checksum, gathered over all the words that change under it.
///
/// Held in one's complement sums of native-order words: the order of bytes does not matter to a sum
/// as long as it is the same throughout (RFC 1071 section 2 (B)). Room for far more words than any
/// rewrite has.
#[derive(Clone, Copy, Default, Debug)]
pub struct Change(u64);

impl Change {
    /// The 16-bit word `old` becomes `new`.
    #[inline(always)]
    pub fn word(&mut self, old: [u8; 2], new: [u8; 2]) {
        self.0 += u64::from(!u16::from_ne_bytes(old)) + u64::from(u16::from_ne_bytes(new));
    }

    /// The port `old` becomes `new`.
    #[inline(always)]
    pub fn port(&mut self, old: Port, new: Port) {
        self.word(old.to_bytes(), new.to_bytes());
    }

    /// The IPv4 address `old` becomes `new`.
    #[inline(always)]
    pub fn v4(&mut self, old: Address, new: Address) {
        self.double_word(&old, &new, 12);
    }

    /// The IPv6 address `old` becomes `new`.
    #[inline(always)]
    pub fn v6(&mut self, old: Address, new: Address) {
        for at in [0, 4, 8, 12] {
            self.double_word(&old, &new, at);
        }
    }

    #[inline(always)]
    fn double_word(&mut self, old: &Address, new: &Address, at: usize) {
        self.0 += u64::from(!word(old, at)) + u64::from(word(new, at));
    }

    /// The checksum `old` after the change (RFC 1624 section 3, equation 3).
    #[inline(always)]
    pub fn apply(self, old: U16) -> U16 {
        let mut sum = self.0 + u64::from(!u16::from_ne_bytes(old.to_bytes()));
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        U16::from_bytes((!(sum as u16)).to_ne_bytes())
    }

    /// A UDP checksum after the change: none (0) stays none, and one that computes to 0 is sent as
    /// 0xffff (RFC 768).
    #[inline(always)]
    pub fn apply_udp(self, old: U16) -> U16 {
        if old == U16::ZERO {
            return old;
        }
        match self.apply(old) {
            U16::ZERO => U16::MAX_VALUE,
            new => new,
        }
    }
}

#[inline(always)]
fn word(address: &Address, at: usize) -> u32 {
    let a = &address.0;
    u32::from_ne_bytes([a[at], a[at + 1], a[at + 2], a[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The plain checksum of RFC 1071 over big-endian words.
    fn checksum(bytes: &[u8]) -> u16 {
        let mut sum = bytes
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
            .sum::<u32>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn a_changed_checksum_is_that_of_the_changed_bytes(
            old in any::<[u8; 18]>(), new in any::<[u8; 18]>(), rest in any::<[u8; 22]>(),
        ) {
            let whole = |part: &[u8]| [part, &rest[..]].concat();
            let mut change = Change::default();
            change.v6(Address(old[..16].try_into().unwrap()), Address(new[..16].try_into().unwrap()));
            change.word(old[16..].try_into().unwrap(), new[16..].try_into().unwrap());
            let changed = change.apply(U16::new(checksum(&whole(&old)))).get();
            // 0 and 0xffff are the same number in one's complement: a receiver sums either to the same.
            prop_assert_eq!(changed % 0xffff, checksum(&whole(&new)) % 0xffff);
        }
    }

    #[test]
    fn a_udp_packet_without_a_checksum_stays_without() {
        let mut change = Change::default();
        change.word([1, 2], [3, 4]);
        assert_eq!(change.apply_udp(U16::ZERO), U16::ZERO);
    }

    #[test]
    fn a_udp_checksum_that_computes_to_zero_is_sent_as_all_ones() {
        // From 0xfffe to 0: the sum grows by one word of 0xfffe's complement.
        let mut change = Change::default();
        change.word([0, 0], 0xfffeu16.to_be_bytes());
        assert_eq!(change.apply(U16::new(0xfffe)), U16::ZERO);
        assert_eq!(change.apply_udp(U16::new(0xfffe)), U16::new(0xffff));
    }
}
