//! The flow hash. It is keyed, so that an attacker cannot target one backend.
//!
//! Multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is fast", The Computer Journal 57(11), 2014): the
//! upper half of `k0 + sum of k[i] * w[i]` modulo 2^64, over 32-bit words and random 64-bit keys. It is strongly universal:
//! without the keys, any two flows have any two values with equal probability, whatever the flows are. A keyed mix after it hides
//! the sum's linearity from an attacker who observes which backend answers. It costs one multiplication per word.

use crate::net::{Address, Port};

/// The number of 64-bit keys of the flow hash: an initial one, one for each word of the source and destination addresses and the
/// ports, and one for the final mix.
pub const KEYS: usize = 11;

/// The hash of a flow: 32 bits, uniform.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowHash(u32);

impl FlowHash {
    /// The hash of a packet from one address and port to another.
    #[inline(always)]
    pub fn new(
        keys: &[u64; KEYS],
        (source, source_port): (&Address, Port),
        (destination, destination_port): (&Address, Port),
    ) -> Self {
        let ports = u32::from(source_port.get()) << 16 | u32::from(destination_port.get());
        let mut sum = keys[0].wrapping_add(keys[9].wrapping_mul(u64::from(ports)));
        if source.is_v4() & destination.is_v4() {
            // The same sum: the upper words are all 0, except for one that is 0xffff.
            let upper = keys[3].wrapping_add(keys[7]).wrapping_mul(0xffff);
            let clients = keys[4].wrapping_mul(u64::from(source.last().get()));
            let servers = keys[8].wrapping_mul(u64::from(destination.last().get()));
            sum = sum.wrapping_add(upper).wrapping_add(clients).wrapping_add(servers);
        } else {
            for word in 0..4 {
                sum = sum.wrapping_add(keys[1 + word].wrapping_mul(u64::from(source.0[word].get())));
                sum = sum.wrapping_add(keys[5 + word].wrapping_mul(u64::from(destination.0[word].get())));
            }
        }
        Self(mix((sum >> 32) as u32 ^ keys[10] as u32))
    }

    /// The hash of a client: of the first `bits` bits of its address. The destination is not included, so that services with
    /// the same backends send a client to the same one (HTTP/2 over TCP and HTTP/3 over UDP).
    #[inline(always)]
    pub fn of_client(keys: &[u64; KEYS], client: &Address, bits: u8) -> Self {
        let client = client.first_bits(bits);
        let mut sum = keys[0];
        for word in 0..4 {
            sum = sum.wrapping_add(keys[1 + word].wrapping_mul(u64::from(client.0[word].get())));
        }
        Self(mix((sum >> 32) as u32 ^ keys[10] as u32))
    }

    /// An index from 0 to `length` - 1, uniform (multiply and shift: Lemire, "Fast random integer generation in an interval",
    /// 2019).
    #[inline(always)]
    pub fn reduce(self, length: u32) -> u32 {
        ((u64::from(self.0) * u64::from(length)) >> 32) as u32
    }

    /// Its lowest eight bits, on which [`FlowHash::reduce`] depends least.
    #[inline(always)]
    pub const fn low_byte(self) -> u8 {
        self.0 as u8
    }

    /// All of its bits.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From its bits.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Another hash of the same flow, practically independent of this one.
    #[inline(always)]
    pub fn next(self) -> Self {
        Self(mix(self.0.wrapping_add(0x9e37_79b9)))
    }
}

/// A bijection of 32 bits in which each bit affects all others: the finaliser of MurmurHash3.
#[inline(always)]
fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Be32;

    const KEY: [u64; KEYS] = {
        let mut keys = [0; KEYS];
        let mut state: u64 = 1;
        let mut at = 0;
        while at < KEYS {
            // SplitMix64 (Steele et al., 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            keys[at] = z ^ z >> 31;
            at += 1;
        }
        keys
    };

    fn hash(keys: &[u64; KEYS], client: u32, port: u16) -> FlowHash {
        FlowHash::new(
            keys,
            (&Address::v4(Be32::new(client)), Port::new(port)),
            (&Address::v4(Be32::new(0xc000_020a)), Port::new(80)),
        )
    }

    #[test]
    fn clients_that_count_upwards_spread_evenly() {
        const PLACES: u32 = 64;
        let mut hits = [0u32; PLACES as usize];
        for client in 0..100 {
            for port in 0..640 {
                hits[hash(&KEY, 0xcb00_7100 + client, 20_000 + port).reduce(PLACES) as usize] += 1;
            }
        }
        // 1,000 are expected in each place, with a standard deviation of 32: five of them in either direction.
        assert!(hits.iter().all(|hits| (840..1160).contains(hits)), "{hits:?}");
    }

    #[test]
    fn a_client_s_hash_is_that_of_its_network_and_clients_spread_evenly() {
        let hash = |client: u32, bits| FlowHash::of_client(&KEY, &Address::v4(Be32::new(client)), bits);
        assert_eq!(hash(0xcb00_7105, 96 + 24), hash(0xcb00_71fe, 96 + 24));
        assert_ne!(hash(0xcb00_7105, 96 + 24), hash(0xcb00_7205, 96 + 24));
        assert_ne!(hash(0xcb00_7105, 128), hash(0xcb00_7106, 128));
        const PLACES: u32 = 64;
        let mut hits = [0u32; PLACES as usize];
        for client in 0..64_000 {
            hits[hash(0x0a00_0000 + client, 128).reduce(PLACES) as usize] += 1;
        }
        assert!(hits.iter().all(|hits| (840..1160).contains(hits)), "{hits:?}");
    }

    #[test]
    fn another_key_is_another_hash() {
        let mut other = KEY;
        other[4] ^= 1 << 40;
        let same = (0..1000u16)
            .filter(|port| {
                hash(&KEY, 0xc000_0264, *port).reduce(64) == hash(&other, 0xc000_0264, *port).reduce(64)
            })
            .count();
        assert!(same < 60, "{same} of 1,000 flows kept their place of 64");
    }

    #[test]
    fn the_next_hash_tells_nothing_of_the_first() {
        let mut hits = [0u32; 16];
        for port in 0..65_535 {
            let flow = hash(&KEY, 0xc000_0264, port);
            if flow.reduce(16) == 3 {
                hits[flow.next().reduce(16) as usize] += 1;
            }
        }
        assert!(hits.iter().all(|hits| (170..350).contains(hits)), "{hits:?}");
    }
}
