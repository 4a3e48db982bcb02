//! Rewriting a packet: addresses, ports, checksums, hop count, and the Ethernet header.

use crate::net::{Address, Be16, MacAddress, Protocol};
use crate::packet::checksum::Change;
use crate::packet::headers::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, Tcp, Udp, VlanTag, checksum_offset,
};
use crate::packet::parse::Parsed;
use crate::packet::{Before, Packet};
use crate::reason::Reason;
use crate::tables::{Backend, FlowKey, Tags};

/// How a packet leaves.
#[derive(Clone, Copy, Default)]
pub struct Departure {
    /// The addresses and ports that it leaves with (`nat` and `full-nat`; the others leave them as they are).
    pub key: FlowKey,
    pub ifindex: u32,
    pub tags: Tags,
    pub source_mac: MacAddress,
    pub destination_mac: MacAddress,
    /// Where it is larger than its way takes: what its sender should be told.
    pub limit: Limit,
}

/// How large a packet may be.
#[derive(Clone, Copy, Default)]
pub struct Limit {
    /// The largest IP packet that fits, as the sender makes it, bytes.
    pub fits: u16,
    /// Who says so.
    pub from: Address,
}

impl Departure {
    /// Is by the way to this backend. With which addresses and ports, is left as it is.
    #[inline(always)]
    pub fn aim(&mut self, backend: &Backend) {
        self.ifindex = backend.ifindex;
        self.tags = Tags::vlan(backend.vlan);
        self.source_mac = backend.source_mac;
        self.destination_mac = backend.destination_mac;
    }
}

/// Gives the packet its new addresses, ports and Ethernet header, and sends it off.
///
/// A call of its own in the kernel, not inlined: a program's stack is 512 bytes.
#[inline(never)]
pub fn rewrite<P: Packet>(packet: &mut P, parsed: &Parsed, departure: &Departure) -> Result<(), Reason> {
    rewrite_packet(packet, parsed, &departure.key)?;
    write_ethernet(packet, parsed.l3, Before::Nothing, ethertype(parsed.is_v4), departure)
}

/// Gives the packet its new addresses and ports.
#[inline(always)]
pub fn rewrite_packet<P: Packet>(packet: &mut P, parsed: &Parsed, new: &FlowKey) -> Result<(), Reason> {
    let mut addresses = Change::default();
    rewrite_ip(packet, parsed, new, &mut addresses)?;
    rewrite_ports(packet, parsed, new, addresses)
}

/// Sends the packet off as it is, one hop on, with a new Ethernet header.
///
/// A call of its own in the kernel, as above.
#[inline(never)]
pub fn relay<P: Packet>(packet: &mut P, parsed: &Parsed, departure: &Departure) -> Result<(), Reason> {
    take_hop(packet, parsed.is_v4, parsed.l3)?;
    write_ethernet(packet, parsed.l3, Before::Nothing, ethertype(parsed.is_v4), departure)
}

/// The hop count alone, that [`check_hops`] has looked at, of the IP header that begins at `l3`; returns the traffic class
/// (DSCP and ECN).
#[inline(always)]
pub fn take_hop<P: Packet>(packet: &mut P, is_v4: bool, l3: usize) -> Result<u8, Reason> {
    if is_v4 {
        let mut ip: Ipv4 = packet.read(l3).ok_or(Reason::Internal)?;
        let mut header = Change::default();
        let word = |ttl| u16::from_ne_bytes([ttl, ip.protocol.0]);
        header.word(word(ip.ttl), word(ip.ttl.wrapping_sub(1)));
        ip.ttl = ip.ttl.wrapping_sub(1);
        ip.checksum = header.apply(ip.checksum);
        packet.write(l3, ip).ok_or(Reason::Internal)?;
        Ok(ip.traffic_class)
    } else {
        let mut ip: Ipv6 = packet.read(l3).ok_or(Reason::Internal)?;
        ip.hop_limit = ip.hop_limit.wrapping_sub(1);
        packet.write(l3, ip).ok_or(Reason::Internal)?;
        Ok(ip.traffic_class())
    }
}

/// The EtherType of IPv4 or IPv6.
#[inline(always)]
pub const fn ethertype(is_v4: bool) -> u16 {
    if is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }
}

/// The same for what has no ports: addresses and Ethernet header.
///
/// A call of its own in the kernel, as above.
#[inline(never)]
pub fn rewrite_addresses<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    departure: &Departure,
) -> Result<(), Reason> {
    rewrite_ip(packet, parsed, &departure.key, &mut Change::default())?;
    write_ethernet(packet, parsed.l3, Before::Nothing, ethertype(parsed.is_v4), departure)
}

/// Whether a packet may go one hop further. A router decrements the hop count (RFC 1812 section 5.3.1),
/// and without that a packet between two balancers that point at each other would never end.
#[inline(always)]
pub fn check_hops(parsed: &Parsed) -> Result<(), Reason> {
    if parsed.ttl <= 1 { Err(Reason::TtlExpired) } else { Ok(()) }
}

/// Whether the path to this backend takes an IP packet of this length with so many bytes more.
#[inline(always)]
pub fn fits(length: u32, more: usize, backend: &Backend) -> bool {
    backend.mtu == 0 || length + more as u32 <= u32::from(backend.mtu)
}

/// How long an IP packet is on the wire, bytes: where segments are joined, the first of them.
#[inline(always)]
pub fn length_on_wire<P: Packet>(packet: &P, parsed: &Parsed) -> u32 {
    let segment = packet.segment();
    if segment == 0 {
        return parsed.ip_length;
    }
    let header = if parsed.key.protocol == Protocol::TCP {
        // With the byte behind it, as in `mss::is_bounded`.
        let offset = packet.read::<Be16>(parsed.l4 + core::mem::offset_of!(Tcp, data_offset));
        offset.map_or(0, |offset| u32::from(offset.get() >> 12) * 4)
    } else {
        size_of::<Udp>() as u32
    };
    parsed.ip_length.min((parsed.l4 as u32).wrapping_sub(parsed.l3 as u32) + header + segment)
}

/// The IP header: addresses, and a hop count that [`check_hops`] has looked at.
#[inline(always)]
pub fn rewrite_ip<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    new: &FlowKey,
    addresses: &mut Change,
) -> Result<(), Reason> {
    let key = &parsed.key;
    if parsed.is_v4 {
        let mut ip: Ipv4 = packet.read(parsed.l3).ok_or(Reason::Internal)?;
        addresses.v4(&key.source, &new.source);
        addresses.v4(&key.destination, &new.destination);
        let mut header = *addresses;
        let word = |ttl| u16::from_ne_bytes([ttl, ip.protocol.0]);
        header.word(word(ip.ttl), word(ip.ttl.wrapping_sub(1)));
        ip.ttl = ip.ttl.wrapping_sub(1);
        ip.source = new.source.last();
        ip.destination = new.destination.last();
        ip.checksum = header.apply(ip.checksum);
        packet.write(parsed.l3, ip).ok_or(Reason::Internal)
    } else {
        let mut ip: Ipv6 = packet.read(parsed.l3).ok_or(Reason::Internal)?;
        addresses.v6(&key.source, &new.source);
        addresses.v6(&key.destination, &new.destination);
        ip.hop_limit = ip.hop_limit.wrapping_sub(1);
        ip.source = new.source.0;
        ip.destination = new.destination.0;
        packet.write(parsed.l3, ip).ok_or(Reason::Internal)
    }
}

/// The TCP or UDP header: ports, and the checksum, which covers the addresses too.
#[inline(always)]
fn rewrite_ports<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    new: &FlowKey,
    addresses: Change,
) -> Result<(), Reason> {
    let mut ports = Change::default();
    ports.port(parsed.key.source_port, new.source_port);
    ports.port(parsed.key.destination_port, new.destination_port);
    packet.write(parsed.l4, [new.source_port, new.destination_port]).ok_or(Reason::Internal)?;
    let is_tcp = parsed.key.protocol == Protocol::TCP;
    let at = parsed.l4 + checksum_offset(is_tcp);
    packet.change_checksum(at, addresses, ports, !is_tcp).ok_or(Reason::Internal)
}

/// Writes the Ethernet header of a frame whose IP packet begins at `l3`, with as many tags as the way out wants and
/// room for what goes between itself and that packet.
#[inline(always)]
pub fn write_ethernet<P: Packet>(
    packet: &mut P,
    l3: usize,
    outer: Before,
    ethertype: u16,
    departure: &Departure,
) -> Result<(), Reason> {
    packet.make_room(l3, departure.tags, outer).ok_or(Reason::HeaderRoom)?;
    let tags = P::in_bytes(departure.tags);
    let behind = |tag: u32| Be16::new(if tag == 0 { ethertype } else { (tag >> 16) as u16 });
    let ethernet = Ethernet {
        destination: departure.destination_mac,
        source: departure.source_mac,
        ethertype: behind(tags.outer),
    };
    packet.write(0, ethernet).ok_or(Reason::Internal)?;
    if tags.outer != 0 {
        let tag = VlanTag { control: Be16::new(tags.outer as u16), ethertype: behind(tags.inner) };
        packet.write(14, tag).ok_or(Reason::Internal)?;
        if tags.inner != 0 {
            let tag = VlanTag { control: Be16::new(tags.inner as u16), ethertype: Be16::new(ethertype) };
            packet.write(18, tag).ok_or(Reason::Internal)?;
        }
    }
    Ok(())
}
