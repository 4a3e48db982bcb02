//! QUIC: the server that a packet's connection id names, so that a connection stays with its backend when the client's address
//! changes.
//!
//! Connection ids have the format of draft-ietf-quic-load-balancers-21 without encryption: a first byte with the configuration's
//! number in its upper three bits (7: not routable), then the server id, then a nonce. Apart from that, only what all versions of
//! QUIC share is parsed (RFC 8999).

use super::choose::{ends_flows, keeps_flows};
use crate::packet::Packet;
use crate::packet::headers::Udp;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{BackendIndex, ServerId, ServerKey, Service, Tables};

/// The first bit of a packet with a long header (RFC 8999 section 5.1).
const LONG_HEADER: u8 = 0x80;
/// The offset of the connection id's length in a long header: after the first byte and the version.
const LENGTH_AT: usize = 5;
/// The number of bytes read after a connection id's first byte. Every packet whose connection id has a whole server id is long
/// enough: at least 20 bytes follow the connection id (RFC 9001 section 5.4.2).
const ROOM: usize = size_of::<ServerId>();

/// The backend that the packet's connection id names. 0 if it names none that is up or draining, for example if the client chose
/// the id.
///
/// # Errors
/// If the connection has ended with its backend.
#[inline(always)]
pub fn named<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    service: &Service,
    parsed: &Parsed,
) -> Result<BackendIndex, Reason> {
    if service.server_id_length == 0 {
        return Ok(BackendIndex(0));
    }
    look_up(packet, tables, service, parsed)
}

/// Not inlined: few services use QUIC.
#[inline(never)]
fn look_up<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    service: &Service,
    parsed: &Parsed,
) -> Result<BackendIndex, Reason> {
    // Otherwise LLVM passes the packet's two ends as 32-bit arguments, which the verifier does not accept as pointers.
    let packet = core::hint::black_box(packet);
    let Some(id) = server_id(packet, service, parsed) else { return Ok(BackendIndex(0)) };
    let index = tables.quic_server(&ServerKey { service: service.index, id });
    match tables.backend(index) {
        Some(backend) if keeps_flows(service, backend) => Ok(index),
        Some(backend) if ends_flows(service, backend) => Err(Reason::FlowEnded),
        _ => Ok(BackendIndex(0)),
    }
}

/// The server id in a packet's connection id, if it has the service's configuration.
#[inline(always)]
fn server_id<P: Packet>(packet: &P, service: &Service, parsed: &Parsed) -> Option<ServerId> {
    let udp: Udp = packet.read(parsed.l4)?;
    let payload = parsed.l4 + size_of::<Udp>();
    let end = parsed.l4 + usize::from(udp.length.get());
    let first = byte(packet, payload)?;
    let at = if first & LONG_HEADER != 0 {
        let length = byte(packet, payload + LENGTH_AT)?;
        if length <= service.server_id_length {
            return None;
        }
        payload + LENGTH_AT + 1
    } else {
        payload + 1
    };
    // An Ethernet frame may be longer than its packet.
    if at + 1 + ROOM > end {
        return None;
    }
    if byte(packet, at)? >> 5 != service.quic_config {
        return None;
    }
    let bytes: ServerId = packet.read(at + 1)?;
    Some(bytes.first_bytes(service.server_id_length))
}

/// The byte at this offset, which is not the frame's last. Reads two bytes: for a single one, LLVM compares offset and end in a
/// way that the verifier does not understand.
#[inline(always)]
fn byte<P: Packet>(packet: &P, at: usize) -> Option<u8> {
    let [byte, _]: [u8; 2] = packet.read(at)?;
    Some(byte)
}

#[cfg(all(test, feature = "host"))]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::host::Buffer;

    /// Reads a datagram's server id, of three bytes, in configuration 2. More of the frame follows the datagram.
    fn read(datagram: &[u8]) -> Option<ServerId> {
        let service = Service { server_id_length: 3, quic_config: 2, ..Service::default() };
        let length = (8 + datagram.len()) as u16;
        let ports = [0xc3, 0x50, 0x01, 0xbb].as_slice();
        let frame = [ports, &length.to_be_bytes(), &[0, 0], datagram, &[0xee; 64]].concat();
        server_id(&Buffer::new(&frame, 1), &service, &Parsed::default())
    }

    fn short(first: u8, id: &[u8], rest: usize) -> Vec<u8> {
        [&[first], id, &vec![7; rest]].concat()
    }

    fn long(length: u8, id: &[u8], rest: usize) -> Vec<u8> {
        [&[0xc3, 0, 0, 0, 1, length], id, &vec![7; rest]].concat()
    }

    const ID: [u8; 8] = [0x47, 0xaa, 0xbb, 0xcc, 1, 2, 3, 4];

    #[test]
    fn the_server_id_is_found_in_both_kinds_of_header() {
        let mut bytes = [0; 16];
        bytes[..3].copy_from_slice(&[0xaa, 0xbb, 0xcc]);
        let expected = Some(ServerId::new(bytes));
        assert_eq!(read(&short(0x40, &ID, 20)), expected);
        assert_eq!(read(&short(0x00, &ID, 20)), expected, "the fixed bit may be anything (RFC 9287)");
        assert_eq!(read(&long(8, &ID, 30)), expected);
        assert_eq!(read(&long(4, &ID[..4], 30)), expected);
    }

    #[test]
    fn an_id_of_another_configuration_or_length_names_nobody() {
        for first in [0x00, 0x3f, 0x60, 0xe7, 0xff] {
            let id = [&[first], &ID[1..]].concat();
            assert_eq!(read(&short(0x40, &id, 20)), None, "{first:#x}");
            assert_eq!(read(&long(8, &id, 30)), None, "{first:#x}");
        }
        // Lengths without room for a whole server id, whatever follows them.
        for length in 0..=3 {
            assert_eq!(read(&long(length, &ID, 30)), None, "{length}");
        }
    }

    #[test]
    fn what_ends_too_soon_names_nobody_though_the_frame_goes_on() {
        let whole = short(0x40, &ID, 20);
        for length in 0..18 {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
        assert!(read(&whole[..18]).is_some());
        let whole = long(8, &ID, 30);
        for length in 0..23 {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
        assert!(read(&whole[..23]).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(datagram in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(id) = read(&datagram) {
                prop_assert_eq!(id, id.first_bytes(3));
            }
        }
    }
}
