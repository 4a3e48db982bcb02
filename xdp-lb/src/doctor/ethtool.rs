//! What a driver does to packets before the program sees them (`ETHTOOL_GFLAGS`, linux/ethtool.h).

use std::io;

use crate::net::ethtool;

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// The offloads of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offloads {
    /// It takes VLAN tags out of frames.
    pub(super) takes_tags: bool,
    /// It joins TCP segments into larger ones, in the hardware.
    pub(super) joins_segments: bool,
}

/// The offloads that are on.
///
/// # Errors
/// Where the driver does not tell, or there is no such interface.
pub(super) fn offloads(interface: &str) -> io::Result<Offloads> {
    ethtool::get(interface, ETHTOOL_GFLAGS).map(decode)
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
