//! Whether a packet may concern the load balancer, by its addresses: most of a host's packets do not, and are passed before
//! anything else is parsed.

use crate::net::{Address, Be16, Protocol};
use crate::packet::Packet;
use crate::packet::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6, VlanTag, is_tag};
use crate::tables::Tables;
use crate::tables::filter::{BACKEND, VIP};

/// A packet's possible roles: [`VIP`] if its destination may be one, else [`BACKEND`] if its source may be one. Both if the
/// addresses do not decide, and the whole packet must be parsed.
#[inline(always)]
pub fn roles<P: Packet, T: Tables>(packet: &P, tables: &T) -> u8 {
    by_addresses(packet, tables).unwrap_or(VIP | BACKEND)
}

#[inline(always)]
fn by_addresses<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<u8> {
    let ethertype = packet.read::<Be16>(12)?.get();
    if !is_tag(ethertype) {
        return behind(packet, tables, ethertype, 14);
    }
    let outer: VlanTag = packet.read(14)?;
    if !is_tag(outer.ethertype.get()) {
        return behind(packet, tables, outer.ethertype.get(), 18);
    }
    let inner: VlanTag = packet.read(18)?;
    behind(packet, tables, inner.ethertype.get(), 22)
}

/// By the IP header at this offset.
#[inline(always)]
fn behind<P: Packet, T: Tables>(packet: &P, tables: &T, ethertype: u16, l3: usize) -> Option<u8> {
    let (source, destination, protocol) = match ethertype {
        ETHERTYPE_IPV4 => {
            let ip: Ipv4 = packet.read(l3)?;
            (Address::v4(ip.source), Address::v4(ip.destination), ip.protocol)
        }
        ETHERTYPE_IPV6 => {
            let ip: Ipv6 = packet.read(l3)?;
            (Address::v6(ip.source), Address::v6(ip.destination), ip.next_header)
        }
        _ => return None,
    };
    // An error about a flow may have any source and any destination that took part in the flow.
    if matches!(protocol, Protocol::ICMP | Protocol::ICMPV6) {
        return None;
    }
    match tables.roles(&destination) & VIP {
        0 => Some(tables.roles(&source) & BACKEND),
        vip => Some(vip),
    }
}
