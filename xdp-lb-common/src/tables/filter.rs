//! Which addresses are anybody's here at all: two bits for each place of a table, found by a hash of the
//! address. Most packets of a host that are not the load balancer's end at one look into it.
//!
//! An address may have the bits of another, and then costs a lookup that finds nothing. Whoever can
//! choose addresses that do could as well send to a VIP, so the hash has no secret.

use crate::net::Address;

/// A VIP's address.
pub const VIP: u8 = 1;
/// A backend's address, or one of this host: from either, a packet is looked at.
pub const BACKEND: u8 = 2;

/// How many 64-bit words the table has: 32 KiB, so that it stays in a core's first cache. With 10,000
/// addresses, one in thirteen of the others has bits that it should not have.
pub const WORDS: u32 = 4096;
const PLACES_A_WORD: u32 = 32;

/// An address's place in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place(u32);

impl Place {
    /// The place of this address.
    #[inline(always)]
    pub fn of(address: &Address) -> Self {
        let [high, low] = address.words();
        let bits = (high.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The upper bits depend on all of the address.
        Self((bits >> (64 - (WORDS * PLACES_A_WORD).ilog2())) as u32)
    }

    /// The word that holds its bits.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0 / PLACES_A_WORD
    }

    /// Its bits of that word.
    #[inline(always)]
    pub const fn roles(self, word: u64) -> u8 {
        (word >> (self.0 % PLACES_A_WORD * 2)) as u8 & (VIP | BACKEND)
    }

    /// These bits, where they stand in that word.
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
        // 8 expected in each.
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
