//! Rewriting a packet: addresses, ports, checksums, hop count, and the Ethernet header.

use crate::checksum::Change;
use crate::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, VlanTag};
use crate::net::{Be16, MacAddress, Protocol};
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{FlowKey, Tags};

/// How a packet leaves.
#[derive(Clone, Copy, Default)]
pub struct Departure {
    /// The addresses and ports that it leaves with.
    pub key: FlowKey,
    pub ifindex: u32,
    pub tags: Tags,
    pub source_mac: MacAddress,
    pub destination_mac: MacAddress,
}

/// Gives the packet its new addresses, ports and Ethernet header, and sends it off.
///
/// A call of its own in the kernel, not inlined: a program's stack is 512 bytes.
#[inline(never)]
pub fn rewrite<P: Packet>(packet: &mut P, parsed: &Parsed, departure: &Departure) -> Result<(), Reason> {
    let mut addresses = Change::default();
    rewrite_ip(packet, parsed, &departure.key, &mut addresses)?;
    rewrite_ports(packet, parsed, &departure.key, addresses)?;
    rewrite_ethernet(packet, parsed, departure)
}

/// Whether a packet may go one hop further. A router decrements the hop count (RFC 1812 section 5.3.1),
/// and without that a packet between two balancers that point at each other would never end.
#[inline(always)]
pub fn check_hops(parsed: &Parsed) -> Result<(), Reason> {
    if parsed.ttl <= 1 { Err(Reason::TtlExpired) } else { Ok(()) }
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
    let mut change = addresses;
    change.port(parsed.key.source_port, new.source_port);
    change.port(parsed.key.destination_port, new.destination_port);
    packet.write(parsed.l4, [new.source_port, new.destination_port]).ok_or(Reason::Internal)?;
    let is_tcp = parsed.key.protocol == Protocol::TCP;
    let at = parsed.l4 + if is_tcp { 16 } else { 6 };
    let old: Be16 = packet.read(at).ok_or(Reason::Internal)?;
    let checksum = if is_tcp { change.apply(old) } else { change.apply_udp(old) };
    packet.write(at, checksum).ok_or(Reason::Internal)
}

/// The Ethernet header, with as many tags as the way out wants.
#[inline(always)]
pub fn rewrite_ethernet<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    departure: &Departure,
) -> Result<(), Reason> {
    let tags = departure.tags;
    if tags.header_length() != parsed.l3 {
        packet.move_head(parsed.l3 as i32 - tags.header_length() as i32).ok_or(Reason::HeaderRoom)?;
    }
    let ip = if parsed.is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let behind = |tag: u32| Be16::new(if tag == 0 { ip } else { (tag >> 16) as u16 });
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
            let tag = VlanTag { control: Be16::new(tags.inner as u16), ethertype: Be16::new(ip) };
            packet.write(18, tag).ok_or(Reason::Internal)?;
        }
    }
    Ok(())
}
