//! What a driver does to packets before the program sees them (`ETHTOOL_GFLAGS`, linux/ethtool.h).

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
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

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// The offloads that are on.
///
/// # Errors
/// Where the driver does not tell, or there is no such interface.
pub(super) fn offloads(interface: &str) -> io::Result<Offloads> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: an `ifreq` of zeros is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request and what it points to are what the command wants, and outlive the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(decode(value.data))
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
