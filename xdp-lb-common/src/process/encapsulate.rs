//! Packets in packets: IP in IP (RFC 2003, RFC 2473, RFC 4213) and Generic UDP Encapsulation
//! (draft-ietf-intarea-gue), variant 1: the IP packet follows the UDP header at once, and its version says which IP
//! it is. That is what `ip fou add port 6080 gue` of Linux receives, too (`gue_udp_recv` in net/ipv4/fou_core.c).
//!
//! The outer header:
//! - The source address (where a service names several), the GUE source port and the IPv6 flow label (RFC 6438)
//!   follow from the flow's hash, so that routers and the backends' receive queues spread flows.
//! - DSCP and ECN are those of the packet inside (RFC 2983 section 3.1; RFC 6040 section 4.1, normal mode).
//! - IPv4 has "don't fragment" and no identification (RFC 6864 section 4.1): a backend need not put fragments together.
//! - GUE has no UDP checksum, over IPv6 neither (RFC 6935; RFC 6936 section 4): what is inside has its own, over its
//!   addresses too, and a backend takes tunnelled packets to its own addresses alone. Linux's fou takes such packets.

use super::affinity::flow_hash;
use super::context::Context;
use super::own_address::own_address;
use super::rewrite::{Departure, Limit, ethertype, fits, length_on_wire, take_hop, write_ethernet};
use crate::hash::FlowHash;
use crate::net::{Be16, Port, Protocol};
use crate::packet::headers::{Ipv4, Ipv6, Udp};
use crate::packet::parse::Parsed;
use crate::packet::{Before, Packet};
use crate::reason::Reason;
use crate::tables::{Backend, Mode, Service, Tables};

/// The UDP port of GUE (IANA "Service Name and Transport Protocol Port Number Registry").
pub const GUE_PORT: u16 = 6080;

/// The first of the dynamic ports (RFC 6335 section 6), from which GUE's source ports are (draft-ietf-intarea-gue section 5.3).
const FIRST_PORT: u16 = 49_152;

/// How many bytes go before each packet to this backend.
#[inline(always)]
pub fn outer_length(service: &Service, backend: &Backend) -> usize {
    let ip = if backend.address.is_v4() { size_of::<Ipv4>() } else { size_of::<Ipv6>() };
    if service.mode == Mode::Gue { ip + size_of::<Udp>() } else { ip }
}

/// Puts a client's packet into another one for its backend, if that fits, and sends it off.
///
/// A call of its own in the kernel, not inlined: a program's stack is 512 bytes.
#[inline(never)]
pub fn encapsulate<P: Packet, T: Tables>(
    packet: &mut P,
    context: &Context<'_, T>,
    service: &Service,
    backend: &Backend,
    departure: &mut Departure,
) -> Result<(), Reason> {
    let Context { tables, settings, parsed, .. } = *context;
    let outer = outer_length(service, backend);
    if !fits(length_on_wire(packet, parsed), outer, backend) {
        let fits = backend.mtu.saturating_sub(outer as u16);
        departure.limit = Limit { fits, from: parsed.key.destination };
        return Err(Reason::TooBig);
    }
    wrap(packet, tables, flow_hash(settings, &parsed.key), parsed, service, backend, departure)
}

/// Puts a packet of a flow with this hash into another one. Where that cannot be, it is left as it was.
#[inline(always)]
pub fn wrap<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    hash: FlowHash,
    parsed: &Parsed,
    service: &Service,
    backend: &Backend,
    departure: &Departure,
) -> Result<(), Reason> {
    let is_v4 = backend.address.is_v4();
    let is_gue = service.mode == Mode::Gue;
    let outer = outer_length(service, backend);
    // Not the hash that chose the slot: the flows of one backend are those that have that one in common.
    let hash = hash.next();
    let source = own_address(tables, service, backend, hash)?;
    let room = Before::Tunnel { bytes: outer, is_v4, is_udp: is_gue };
    write_ethernet(packet, parsed.l3, room, ethertype(is_v4), departure)?;
    let mut at = P::in_bytes(departure.tags).header_length();
    let traffic_class = take_hop(packet, parsed.is_v4, at + outer)?;
    // Whoever takes joined segments apart writes each one's length anew.
    let payload = (parsed.ip_length as u16).wrapping_add(if is_gue { size_of::<Udp>() as u16 } else { 0 });
    let protocol = if is_gue {
        Protocol::UDP
    } else if parsed.is_v4 {
        Protocol::IPV4
    } else {
        Protocol::IPV6
    };
    if is_v4 {
        let ip = Ipv4::new(source, &backend.address, protocol, payload, traffic_class);
        packet.write(at, ip).ok_or(Reason::Internal)?;
        at += size_of::<Ipv4>();
    } else {
        let label = hash.reduce(1 << 20);
        let ip = Ipv6::new(source, &backend.address, protocol, payload, traffic_class, label);
        packet.write(at, ip).ok_or(Reason::Internal)?;
        at += size_of::<Ipv6>();
    }
    if is_gue {
        let udp = Udp {
            source: Port::new(FIRST_PORT + hash.reduce(u32::from(u16::MAX - FIRST_PORT) + 1) as u16),
            destination: Port::new(GUE_PORT),
            length: Be16::new(payload),
            checksum: Be16::new(0),
        };
        packet.write(at, udp).ok_or(Reason::Internal)?;
    }
    Ok(())
}
