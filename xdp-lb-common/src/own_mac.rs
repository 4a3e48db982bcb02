//! Which frames are addressed to this host, by destination MAC and receiving interface.
//!
//! A switch floods frames for an unknown MAC, and a bridge port sees frames of other hosts. If load balancers processed those,
//! all of them on the segment would forward the same packet, and replies would have another host's MAC as their source: the
//! switch would learn that MAC on the wrong port.

use crate::layout::plain;
use crate::net::MacAddress;
use crate::packet::Packet;

/// The size of the table in 64-bit words. With a quarter of them in use, practically every entry finds a place.
pub const WORDS: u32 = 4096;

/// The number of adjacent places that an entry may have.
pub const PROBES: u32 = 8;

plain! {
    /// A MAC that this host owns on an interface or above it (VLAN, macvlan, bridge, bond), as one word of the table.
    ///
    /// Bits 0 to 15 are the lower half of the interface's index, the others the MAC, with its first byte lowest. Two interfaces
    /// whose indices differ by a multiple of 65,536 share their MACs.
    #[repr(transparent)]
    pub struct OwnMac(u64);
}

impl OwnMac {
    /// This MAC on this interface.
    pub const fn new(ifindex: u32, mac: MacAddress) -> Self {
        let [a, b, c, d, e, f] = mac.octets();
        Self::of(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), ifindex)
    }

    /// For a frame that begins with these eight bytes, little-endian.
    #[inline(always)]
    const fn of(first_bytes: u64, ifindex: u32) -> Self {
        Self(first_bytes << 16 | (ifindex & 0xffff) as u64)
    }

    /// From a word of the table; 0: none.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As a word of the table.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Its possible places: the first one, and those after it for numbers below [`PROBES`].
    #[inline(always)]
    pub const fn place(self, probe: u32) -> u32 {
        let hash = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - WORDS.ilog2());
        (hash as u32 + probe) % WORDS
    }
}

/// The table's words, in the kernel or on the host.
pub trait OwnMacs {
    /// The word at this place below [`WORDS`]; 0 if there is none.
    fn own_mac(&self, place: u32) -> u64;
}

/// The number of entries that are also in the settings: enough for two interfaces, each with a VRRP router's MAC.
pub const IN_SETTINGS: usize = 4;

/// A quick check whether a frame is addressed to this host. If it fails, [`is_for_this_host`] decides.
///
/// On most hosts, all MACs are in `likely`, a part of the settings, which the packet needs anyway.
#[inline(always)]
pub fn is_surely_for_this_host<P: Packet, T: OwnMacs>(
    packet: &P,
    likely: &[OwnMac; IN_SETTINGS],
    tables: &T,
) -> bool {
    destination(packet)
        .is_some_and(|mac| likely.contains(&mac) || tables.own_mac(mac.place(0)) == mac.to_bits())
}

/// Whether a unicast frame is addressed to this host.
///
/// Not inlined: the verifier would follow the code after it once for each place.
#[inline(never)]
pub fn is_for_this_host<P: Packet, T: OwnMacs>(packet: &P, tables: &T) -> bool {
    let Some(mac) = destination(packet) else { return false };
    (0..PROBES).any(|probe| tables.own_mac(mac.place(probe)) == mac.to_bits())
}

#[inline(always)]
fn destination<P: Packet>(packet: &P) -> Option<OwnMac> {
    let (first, rest): (u16, u32) = (packet.read(0)?, packet.read(2)?);
    let first_bytes = u64::from(u16::from_le(first)) | u64::from(u32::from_le(rest)) << 16;
    Some(OwnMac::of(first_bytes, packet.ingress()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_names_its_interface_and_its_mac() {
        let mac = MacAddress::new([0x02, 1, 2, 3, 4, 5]);
        assert_ne!(OwnMac::new(3, mac), OwnMac::new(4, mac));
        assert_ne!(OwnMac::new(3, mac), OwnMac::new(3, MacAddress::new([0x02, 1, 2, 3, 4, 6])));
        let frame = u64::from_le_bytes([0x02, 1, 2, 3, 4, 5, 0xaa, 0xbb]);
        assert_eq!(OwnMac::of(frame, 3), OwnMac::new(3, mac), "the source's bytes do not count");
    }

    #[test]
    fn macs_that_count_upwards_spread_over_the_table() {
        let mut taken = vec![false; WORDS as usize];
        for number in 0..WORDS / 4 {
            let mac = MacAddress::new([0x00, 0x00, 0x5e, 0x00, (number >> 8) as u8, number as u8]);
            let mac = OwnMac::new(2, mac);
            let place = (0..PROBES).map(|probe| mac.place(probe) as usize).find(|place| !taken[*place]);
            taken[place.expect("a place")] = true;
        }
    }
}
