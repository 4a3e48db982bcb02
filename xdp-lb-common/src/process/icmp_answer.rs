//! ICMP errors that answer a packet (RFC 792, RFC 4443), made of the packet itself: its beginning is quoted, its tail cut
//! off.
//!
//! To "fragmentation needed" an IPv4 packet that may be fragmented gets it as well, since nothing here could fragment it.

use super::rewrite::{Departure, Limit, ethertype, write_ethernet};
use crate::net::{Address, Be16, Be32, Protocol};
use crate::packet::checksum::Sum;
use crate::packet::headers::{
    ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, ICMPV6_PACKET_TOO_BIG, ICMPV6_TIME_EXCEEDED, ICMPV6_UNREACHABLE,
    Icmp, Ipv4, Ipv6, Tcp, Udp, checksum_offset,
};
use crate::packet::parse::Parsed;
use crate::packet::{Before, Packet};
use crate::reason::Reason;
use crate::tables::FlowKey;

/// How much of a packet is quoted at the most, bytes: what keeps the answer within 576 bytes for IPv4 (RFC 1812 section
/// 4.3.2.3), and within the 1280 that every way takes for IPv6 (RFC 4443 section 2.4 (c)).
const QUOTED_V4: usize = 576 - size_of::<Ipv4>() - size_of::<Icmp>();
const QUOTED_V6: usize = IPV6_LEAST - size_of::<Ipv6>() - size_of::<Icmp>();

/// How much is quoted behind the IP header where the sender needs no more, bytes: the ports, and what tells a TCP segment
/// from others (RFC 792). A longer quote would only make more of a small packet.
const QUOTED_TRANSPORT: usize = 8;

/// The MTU that every way of IPv6 must have (RFC 8200 section 5).
const IPV6_LEAST: usize = 1280;

/// "Fragmentation needed and DF set", a code of [`ICMP_UNREACHABLE`].
const FRAGMENTATION_NEEDED: u8 = 4;
/// "Port unreachable", a code of [`ICMP_UNREACHABLE`], and of [`ICMPV6_UNREACHABLE`] (RFC 4443 section 3.1).
const PORT_UNREACHABLE: u8 = 3;
const PORT_UNREACHABLE_V6: u8 = 4;

/// "Internetwork control" (RFC 1812 section 4.3.2.5).
const PRECEDENCE: u8 = 0xc0;

/// What a sender is told. It lies in the scratch: each value that the verifier knew would be another way through what
/// follows.
#[derive(Default)]
pub struct Message {
    /// In whose name.
    from: Address,
    /// ICMP's type and code.
    kind: u8,
    code: u8,
    /// How many bytes of the packet are quoted, a multiple of four.
    quoted: u16,
    /// The second word of ICMP's header.
    rest: u32,
}

impl Message {
    /// That the packet is larger than its way takes: ICMPv4 "fragmentation needed and DF set" (RFC 1191) or ICMPv6
    /// "packet too big" (RFC 4443 section 3.2).
    #[inline(always)]
    pub fn too_big(&mut self, parsed: &Parsed, limit: &Limit) {
        let fits = u32::from(limit.fits);
        if parsed.is_v4 {
            self.is(&limit.from, ICMP_UNREACHABLE, FRAGMENTATION_NEEDED, fits);
        } else {
            self.is(&limit.from, ICMPV6_PACKET_TOO_BIG, 0, fits.max(IPV6_LEAST as u32));
        }
        self.quote(parsed, parsed.ip_length as usize);
    }

    /// That nobody is there any more.
    #[inline(always)]
    pub fn port_unreachable(&mut self, parsed: &Parsed) {
        if parsed.is_v4 {
            self.is(&parsed.key.destination, ICMP_UNREACHABLE, PORT_UNREACHABLE, 0);
        } else {
            self.is(&parsed.key.destination, ICMPV6_UNREACHABLE, PORT_UNREACHABLE_V6, 0);
        }
        self.quote(parsed, parsed.l4 - parsed.l3 + QUOTED_TRANSPORT);
    }

    /// That the packet has no hops left, in this router's name.
    #[inline(always)]
    pub fn time_exceeded(&mut self, parsed: &Parsed, from: &Address) {
        let kind = if parsed.is_v4 { ICMP_TIME_EXCEEDED } else { ICMPV6_TIME_EXCEEDED };
        self.is(from, kind, 0, 0);
        self.quote(parsed, parsed.l4 - parsed.l3 + QUOTED_TRANSPORT);
    }

    #[inline(always)]
    fn is(&mut self, from: &Address, kind: u8, code: u8, rest: u32) {
        (self.from, self.kind, self.code, self.rest) = (*from, kind, code, rest);
    }

    /// Quotes so many bytes, as far as they are there and an answer may be so long.
    #[inline(always)]
    fn quote(&mut self, parsed: &Parsed, bytes: usize) {
        let most = if parsed.is_v4 { QUOTED_V4 } else { QUOTED_V6 };
        self.quoted = (bytes.min(parsed.ip_length as usize).min(most) & !3) as u16;
    }
}

/// Whether every way must take a packet of this length: "packet too big" would not help its sender.
#[inline(always)]
pub fn fits_every_way(parsed: &Parsed) -> bool {
    !parsed.is_v4 && parsed.ip_length <= IPV6_LEAST as u32
}

/// The way back to a packet's sender.
#[inline(always)]
pub fn back(parsed: &Parsed) -> Departure {
    Departure {
        key: FlowKey::default(),
        ifindex: parsed.ingress,
        tags: parsed.tags,
        limit: Limit::default(),
        source_mac: parsed.destination_mac,
        destination_mac: parsed.source_mac,
    }
}

/// Makes the packet this message to its sender.
///
/// A call of its own in the kernel, not inlined: a program's stack is 512 bytes.
#[inline(never)]
pub fn send<P: Packet>(packet: &mut P, parsed: &Parsed, message: &Message) -> Result<(), Reason> {
    let Message { ref from, kind, code, quoted, rest } = *message;
    let mut quoted = usize::from(quoted);
    let mut summed = quoted;
    let is_tcp = parsed.key.protocol == Protocol::TCP;
    let checksum = parsed.l4 + checksum_offset(is_tcp);
    if packet.is_unfinished(checksum) {
        // It is finished in the quote, of which all from the transport header on sums up to nothing then.
        summed = parsed.l4 - parsed.l3;
        quoted = quoted.max(summed + if is_tcp { size_of::<Tcp>() } else { size_of::<Udp>() });
        packet.write(checksum, Be16::new(0)).ok_or(Reason::Internal)?;
    }
    let end = parsed.l3 + quoted;
    packet.cut_to(end).ok_or(Reason::Internal)?;
    // Before the ways part: the verifier walks the loop once for each.
    let mut sum = sum(packet, parsed.l3, summed).ok_or(Reason::Internal)?;
    let header = if parsed.is_v4 { size_of::<Ipv4>() } else { size_of::<Ipv6>() };
    let outer = header + size_of::<Icmp>();
    write_ethernet(packet, parsed.l3, Before::Answer(outer), ethertype(parsed.is_v4), &back(parsed))?;
    let to = &parsed.key.source;
    let length = (size_of::<Icmp>() + quoted) as u16;
    if parsed.is_v4 {
        let ip = Ipv4::new(from, to, Protocol::ICMP, length, PRECEDENCE);
        packet.write(parsed.l3, ip).ok_or(Reason::Internal)?;
    } else {
        let ip = Ipv6::new(from, to, Protocol::ICMPV6, length, 0, 0);
        packet.write(parsed.l3, ip).ok_or(Reason::Internal)?;
        // The pseudo-header (RFC 8200 section 8.1).
        sum.v6(&from.0);
        sum.v6(&to.0);
        sum.number(length);
        sum.number(Protocol::ICMPV6.0.into());
    }
    let rest = Be32::new(rest);
    sum.number(u16::from_be_bytes([kind, code]));
    sum.double_word(rest.word());
    let icmp = Icmp { kind, code, checksum: sum.finish(), rest };
    packet.write(parsed.l3 + header, icmp).ok_or(Reason::Internal)
}

/// The sum of so many bytes, a multiple of four.
#[inline(always)]
fn sum<P: Packet>(packet: &P, at: usize, bytes: usize) -> Option<Sum> {
    let mut sum = Sum::default();
    let pairs = bytes / 8;
    for pair in 0..QUOTED_V6 / 8 {
        if pair >= pairs {
            break;
        }
        let [one, other]: [u32; 2] = packet.read(at + pair * 8)?;
        sum.double_word(one);
        sum.double_word(other);
    }
    if bytes & 4 != 0 {
        sum.double_word(packet.read(at + pairs * 8)?);
    }
    Some(sum)
}
