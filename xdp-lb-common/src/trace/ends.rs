//! The two ends of a frame's packet.

use crate::net::{Address, Be16, Be32, MacAddress, Port};
use crate::packet::Packet;
use crate::packet::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, is_tag};

/// Where a frame's packet comes from and goes to; of a tunnel, the outer one. All zero where it is not IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    /// Its source address.
    pub source: Address,
    /// Its destination address.
    pub destination: Address,
    /// Its source port; 0 where it has none that is found without options and extension headers.
    pub source_port: Port,
    /// Its destination port; the same.
    pub destination_port: Port,
    /// The frame's destination.
    pub mac: MacAddress,
}

/// Reads them.
#[inline(always)]
pub fn ends<P: Packet>(packet: &P) -> Ends {
    read(packet).unwrap_or_default()
}

#[inline(always)]
fn read<P: Packet>(packet: &P) -> Option<Ends> {
    let mac = packet.read::<MacAddress>(0)?;
    let mut at = 12;
    let mut kind = packet.read::<Be16>(at)?.get();
    for _ in 0..2 {
        if is_tag(kind) {
            at += 4;
            kind = packet.read::<Be16>(at)?.get();
        }
    }
    let ip = at + 2;
    let (source, destination, ports) = match kind {
        ETHERTYPE_IPV4 => {
            let length = usize::from(packet.read::<u8>(ip)? & 0xf) * 4;
            let address = |at| Some(Address::v4(packet.read::<Be32>(at)?));
            (address(ip + 12)?, address(ip + 16)?, ip + length)
        }
        ETHERTYPE_IPV6 => (packet.read::<Address>(ip + 8)?, packet.read::<Address>(ip + 24)?, ip + 40),
        _ => return None,
    };
    let port = |at| packet.read::<Port>(at).unwrap_or_default();
    Some(Ends { source, destination, source_port: port(ports), destination_port: port(ports + 2), mac })
}
