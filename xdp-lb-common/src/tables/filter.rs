//! Which addresses matter: a bitmap with two bits for each hash of an address. One lookup sorts out most packets that are not the
//! load balancer's.
//!
//! An address may share its bits with another, which costs a lookup without a result. An attacker who can choose such addresses
//! could just as well send to a VIP, so the hash needs no secret.

use crate::net::Address;

/// A VIP's address.
pub const VIP: u8 = 1;
/// An address of a backend or of this host: packets from it are examined.
pub const BACKEND: u8 = 2;

/// The size in 64-bit words: 32 KiB, so that it stays in a core's L1 cache. With 10,000 addresses, one in thirteen of the others
/// is a false positive.
pub const WORDS: u32 = 4096;
const PLACES_A_WORD: u32 = 32;

/// The position of an address in the bitmap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place(u32);

impl Place {
    /// The position of this address.
    #[inline(always)]
    pub fn of(address: &Address) -> Self {
        let [high, low] = address.words();
        let bits = (high.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The upper bits depend on the whole address.
        Self((bits >> (64 - (WORDS * PLACES_A_WORD).ilog2())) as u32)
    }

    /// The index of the word with its bits.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0 / PLACES_A_WORD
    }

    /// Its bits in that word.
    #[inline(always)]
    pub const fn roles(self, word: u64) -> u8 {
        (word >> (self.0 % PLACES_A_WORD * 2)) as u8 & (VIP | BACKEND)
    }

    /// These bits, shifted to its position in that word.
    #[inline(always)]
    pub const fn bits(self, roles: u8) -> u64 {
        (roles as u64) << (self.0 % PLACES_A_WORD * 2)
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn addresses() -> Vec<Address> {
        let v4 = (0..1u32 << 14).map(|host| IpAddr::from((0xc633_0000 + host).to_be_bytes()).into());
        let v6 =
            (0..1u16 << 14).map(|host| IpAddr::from([0x2001, 0xdb8, 0, host >> 6, 0, 0, 0, host]).into());
        v4.chain(v6).collect()
    }

    #[test]
    fn addresses_that_count_upwards_spread_over_the_table() {
        let mut words = vec![0u32; WORDS as usize];
        for address in addresses() {
            words[Place::of(&address).word() as usize] += 1;
        }
        // 8 are expected in each.
        assert!(words.iter().all(|count| *count < 40), "{:?}", words.iter().max());
        assert!(words.iter().filter(|count| **count == 0).count() < 200);
    }

    #[test]
    fn bits_are_read_where_they_are_put_and_nowhere_else() {
        for address in addresses() {
            let place = Place::of(&address);
            for roles in [0, VIP, BACKEND, VIP | BACKEND] {
                assert_eq!(place.roles(place.bits(roles)), roles);
                assert_eq!(place.roles(!place.bits(VIP | BACKEND)), 0);
            }
        }
    }
}
