//! Checksums. Those of forwarded packets are updated incrementally (RFC 1624), without reading the payload. Those of new
//! headers are computed (RFC 1071).

use crate::net::{Address, Be16, Be32, Port};

/// The change of a checksum, accumulated over all changed words.
///
/// Held in one's complement sums of native-order words: the order of bytes does not matter to a sum
/// as long as it is the same throughout (RFC 1071 section 2 (B)). Room for far more words than any
/// rewrite has.
#[derive(Clone, Copy, Default, Debug)]
pub struct Change(u64);

impl Change {
    /// The 16-bit word `old`, as the machine reads it from the packet, becomes `new`.
    #[inline(always)]
    pub fn word(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// Adds the changes accumulated in `other`.
    #[inline(always)]
    pub fn also(&mut self, other: Self) {
        self.0 += other.0;
    }

    /// The checksum `old` that lies under this one becomes `new`.
    #[inline(always)]
    pub fn checksum(&mut self, old: Be16, new: Be16) {
        self.word(old.word(), new.word());
    }

    /// The port `old` becomes `new`.
    #[inline(always)]
    pub fn port(&mut self, old: Port, new: Port) {
        self.word(old.word(), new.word());
    }

    /// The IPv4 address `old` becomes `new`.
    #[inline(always)]
    pub fn v4(&mut self, old: &Address, new: &Address) {
        self.double_word(old.last(), new.last());
    }

    /// The IPv6 address `old` becomes `new`.
    #[inline(always)]
    pub fn v6(&mut self, old: &Address, new: &Address) {
        for at in 0..4 {
            self.double_word(old.0[at], new.0[at]);
        }
    }

    #[inline(always)]
    fn double_word(&mut self, old: Be32, new: Be32) {
        self.0 += u64::from(!old.word()) + u64::from(new.word());
    }

    /// The change as a sum of native-order words, which is 0 where nothing has changed.
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((sum & 0xffff_ffff) + (sum >> 32)) as u32
    }

    /// The checksum `old` after the change (RFC 1624 section 3, equation 3).
    #[inline(always)]
    pub fn apply(self, old: Be16) -> Be16 {
        let sum = self.0 + u64::from(!old.word());
        Be16::from_word(!fold(sum))
    }

    /// A UDP checksum after the change: none (0) stays none, and one that computes to 0 is sent as
    /// 0xffff (RFC 768).
    #[inline(always)]
    pub fn apply_udp(self, old: Be16) -> Be16 {
        if old.word() == 0 {
            return old;
        }
        match self.apply(old) {
            zero if zero.word() == 0 => Be16::new(0xffff),
            checksum => checksum,
        }
    }
}

/// A checksum being computed over words in native order, with space for 2^32 words.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Adds two 16-bit words.
    #[inline(always)]
    pub fn double_word(&mut self, word: u32) {
        self.0 += u64::from(word);
    }

    /// Adds a 16-bit number.
    #[inline(always)]
    pub fn number(&mut self, number: u16) {
        self.0 += u64::from(number.to_be());
    }

    /// Adds an IPv4 address.
    #[inline(always)]
    pub fn v4(&mut self, address: Be32) {
        self.double_word(address.word());
    }

    /// Adds an IPv6 address.
    #[inline(always)]
    pub fn v6(&mut self, address: &[Be32; 4]) {
        for word in address {
            self.double_word(word.word());
        }
    }

    /// The sum itself, as it stands where a checksum is to be finished.
    #[inline(always)]
    pub fn unfinished(self) -> Be16 {
        Be16::from_word(fold(self.0))
    }

    /// The checksum.
    #[inline(always)]
    pub fn finish(self) -> Be16 {
        Be16::from_word(!fold(self.0))
    }
}

/// The one's complement sum of the four words in `sum`.
#[inline(always)]
fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

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
            let address = |part: &[u8]| Address::from(IpAddr::from(<[u8; 16]>::try_from(&part[..16]).unwrap()));
            change.v6(&address(&old), &address(&new));
            let last = |part: &[u8]| u16::from_ne_bytes([part[16], part[17]]);
            change.word(last(&old), last(&new));
            let changed = change.apply(Be16::new(checksum(&whole(&old)))).get();
            // 0 and 0xffff are the same number in one's complement: a receiver sums either to the same.
            prop_assert_eq!(changed % 0xffff, checksum(&whole(&new)) % 0xffff);
        }
    }

    #[test]
    fn a_udp_packet_without_a_checksum_stays_without() {
        let mut change = Change::default();
        change.word(1, 2);
        assert_eq!(change.apply_udp(Be16::new(0)), Be16::new(0));
    }

    #[test]
    fn a_udp_checksum_that_computes_to_zero_is_sent_as_all_ones() {
        let mut change = Change::default();
        change.word(0, 0xfffeu16.to_be());
        assert_eq!(change.apply(Be16::new(0xfffe)), Be16::new(0));
        assert_eq!(change.apply_udp(Be16::new(0xfffe)), Be16::new(0xffff));
    }
}
