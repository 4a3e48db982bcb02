//! The answer to a packet that is larger than its way takes: ICMPv4 "fragmentation needed and DF set" (RFC 792,
//! RFC 1191) or ICMPv6 "packet too big" (RFC 4443 section 3.2), made of the packet itself.
//!
//! An IPv4 packet that may be fragmented gets it as well, since nothing here could fragment it.

use super::rewrite::{Departure, Limit, ethertype, write_ethernet};
use crate::checksum::Sum;
use crate::headers::{Icmp, Ipv4, Ipv6};
use crate::net::{Be16, Be32, Protocol};
use crate::packet::Packet;
use crate::parse::{Kind, Parsed};
use crate::reason::Reason;
use crate::tables::{FlowKey, Tables};

/// How much of a packet is quoted, in units of eight bytes: as much as keeps the answer within 576 bytes for IPv4
/// (RFC 1812 section 4.3.2.3), and within the 1280 that every way takes for IPv6 (RFC 4443 section 2.4 (c)).
const QUOTED_V4: usize = (576 - size_of::<Ipv4>() - size_of::<Icmp>()) / 8;
const QUOTED_V6: usize = (IPV6_LEAST - size_of::<Ipv6>() - size_of::<Icmp>()) / 8;

/// The MTU that every way of IPv6 must have (RFC 8200 section 5).
const IPV6_LEAST: usize = 1280;

/// ICMP "destination unreachable" and its code "fragmentation needed and DF set" (RFC 792).
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
/// ICMPv6 "packet too big" (RFC 4443 section 3.2).
const TOO_BIG: u8 = 2;

/// "Internetwork control" (RFC 1812 section 4.3.2.5).
const PRECEDENCE: u8 = 0xc0;

/// Makes the packet an answer to its sender, with the limit of its departure. Says what came of it: nothing, where its sender is no host, too many were answered already, or an IPv6 packet is no larger than every
/// way must take.
///
/// A call of its own in the kernel, not inlined: a program's stack is 512 bytes.
#[inline(never)]
pub fn too_big<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed,
    departure: &Departure,
) -> Reason {
    let is_small = !parsed.is_v4 && parsed.ip_length <= IPV6_LEAST as u32;
    // No error is answered, and no fragment but the first (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
    let is_never_answered = matches!(parsed.kind, Kind::Icmp | Kind::LaterFragment);
    if is_never_answered || is_small || !parsed.key.source.is_one_host() || !tables.may_answer() {
        return Reason::TooBig;
    }
    match answer(packet, parsed, &departure.limit) {
        Ok(()) => Reason::TooBigAnswered,
        Err(reason) => reason,
    }
}

#[inline(always)]
fn answer<P: Packet>(packet: &mut P, parsed: &Parsed, limit: &Limit) -> Result<(), Reason> {
    let Limit { fits, from } = limit;
    let (header, most) =
        if parsed.is_v4 { (size_of::<Ipv4>(), QUOTED_V4) } else { (size_of::<Ipv6>(), QUOTED_V6) };
    let outer = header + size_of::<Icmp>();
    let units = (parsed.ip_length as usize / 8).min(most);
    // Before the ways part again: the verifier walks the loop once for each.
    let mut sum = quoted(packet, parsed.l3, units).ok_or(Reason::Internal)?;
    let end = parsed.l3 + units * 8;
    packet.cut_tail(packet.length().saturating_sub(end)).ok_or(Reason::Internal)?;
    let back = Departure {
        key: FlowKey::default(),
        ifindex: parsed.ingress,
        tags: parsed.tags,
        limit: Limit::default(),
        source_mac: parsed.destination_mac,
        destination_mac: parsed.source_mac,
    };
    write_ethernet(packet, parsed.l3, outer, ethertype(parsed.is_v4), &back)?;
    let at = parsed.l3 + header;
    let to = &parsed.key.source;
    let length = (size_of::<Icmp>() + units * 8) as u16;
    let mut icmp = if parsed.is_v4 {
        let ip = Ipv4::new(from, to, Protocol::ICMP, length, PRECEDENCE);
        packet.write(parsed.l3, ip).ok_or(Reason::Internal)?;
        Icmp {
            kind: UNREACHABLE,
            code: FRAGMENTATION_NEEDED,
            checksum: Be16::new(0),
            rest: Be32::new((*fits).into()),
        }
    } else {
        let ip = Ipv6::new(from, to, Protocol::ICMPV6, length, 0, 0);
        packet.write(parsed.l3, ip).ok_or(Reason::Internal)?;
        // The pseudo-header (RFC 8200 section 8.1).
        sum.v6(&from.0);
        sum.v6(&to.0);
        sum.number(length);
        sum.number(Protocol::ICMPV6.0.into());
        Icmp {
            kind: TOO_BIG,
            code: 0,
            checksum: Be16::new(0),
            rest: Be32::new(u32::from(*fits).max(IPV6_LEAST as u32)),
        }
    };
    sum.number(u16::from_be_bytes([icmp.kind, icmp.code]));
    sum.double_word(icmp.rest.word());
    icmp.checksum = sum.finish();
    packet.write(at, icmp).ok_or(Reason::Internal)
}

/// The sum of so many units of eight bytes.
#[inline(always)]
fn quoted<P: Packet>(packet: &P, at: usize, units: usize) -> Option<Sum> {
    let mut sum = Sum::default();
    for unit in 0..QUOTED_V6 {
        if unit >= units {
            break;
        }
        let [one, other]: [u32; 2] = packet.read(at + unit * 8)?;
        sum.double_word(one);
        sum.double_word(other);
    }
    Some(sum)
}
