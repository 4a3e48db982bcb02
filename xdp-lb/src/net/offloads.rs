//! What a driver does to packets before the program sees them (`ETHTOOL_GFLAGS`, linux/ethtool.h).

use std::io;

use super::ethtool;

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// The offloads of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offloads {
    /// It takes VLAN tags out of frames.
    pub takes_tags: bool,
    /// It joins TCP segments into larger ones, in the hardware.
    pub joins_segments: bool,
}

/// The offloads that are on.
///
/// # Errors
/// Where the driver does not tell, or there is no such interface.
pub fn offloads(interface: &str) -> io::Result<Offloads> {
    ethtool::get(interface, ETHTOOL_GFLAGS).map(decode)
}

/// Whether the kernel joins received segments (GRO).
pub fn has_gro(interface: &str) -> bool {
    ethtool::get(interface, ETHTOOL_GGRO).is_ok_and(|is_on| is_on != 0)
}

fn decode(flags: u32) -> Offloads {
    Offloads { takes_tags: flags & ETH_FLAG_RXVLAN != 0, joins_segments: flags & ETH_FLAG_LRO != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_by_their_bits() {
        assert_eq!(decode(0), Offloads { takes_tags: false, joins_segments: false });
        assert_eq!(decode(0x8100), Offloads { takes_tags: true, joins_segments: true });
        assert_eq!(decode(0x8000), Offloads { takes_tags: false, joins_segments: true });
    }
}
