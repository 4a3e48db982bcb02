//! ICMP and ICMPv6 (RFC 792, RFC 4443). Echo requests to a VIP are answered here, so that a VIP answers a ping whether or not it
//! is an address of this host. Errors about flows have their own [module](super::icmp_error).
//!
//! An answer is sent to the request's source and has the same length, so nothing is amplified.

use super::context::Scratch;
use super::martian;
use crate::packet::Packet;
use crate::packet::checksum::Change;
use crate::packet::headers::{
    Ethernet, ICMP_ECHO, ICMP_ECHO_REPLY, ICMP_PARAMETER_PROBLEM, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE,
    ICMPV6_ECHO, ICMPV6_ECHO_REPLY, ICMPV6_PACKET_TOO_BIG, ICMPV6_PARAMETER_PROBLEM, ICMPV6_TIME_EXCEEDED,
    ICMPV6_UNREACHABLE, Icmp, Ipv4, Ipv6,
};
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::Tables;

/// The hop count of an answer: IANA's recommendation ("IP Parameters", default TTL).
const TTL: u8 = 64;

/// The result for an ICMP message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// An echo request, which has been turned into its reply.
    Answered,
    /// An error, not parsed yet.
    Error,
}

/// Answers an echo request to a VIP, and separates errors from messages for the host.
///
/// Not inlined, since it is rare.
#[inline(never)]
pub fn icmp<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
) -> Result<Message, Reason> {
    let parsed = &scratch.parsed;
    let message: Icmp = packet.read(parsed.l4).ok_or(Reason::Internal)?;
    match (parsed.is_v4, message.kind) {
        (true, ICMP_ECHO) | (false, ICMPV6_ECHO) if tables.is_vip(&parsed.key.destination) => {
            martian::check(tables, parsed)?;
            if !is_plain(parsed) {
                return Err(Reason::NotTcpOrUdp);
            }
            scratch.departure.ifindex = parsed.ingress;
            answer(packet, parsed, message)?;
            Ok(Message::Answered)
        }
        (true, ICMP_UNREACHABLE | ICMP_TIME_EXCEEDED | ICMP_PARAMETER_PROBLEM)
        | (
            false,
            ICMPV6_UNREACHABLE | ICMPV6_PACKET_TOO_BIG | ICMPV6_TIME_EXCEEDED | ICMPV6_PARAMETER_PROBLEM,
        ) => Ok(Message::Error),
        _ => Err(Reason::NotTcpOrUdp),
    }
}

/// Whether this packet may be answered: it is from a single host, and without IP options or extension headers, which an answer
/// would have to handle individually (RFC 1122 section 3.2.2.6).
#[inline(always)]
fn is_plain(parsed: &Parsed) -> bool {
    let header = if parsed.is_v4 { size_of::<Ipv4>() } else { size_of::<Ipv6>() };
    parsed.l4 - parsed.l3 == header && parsed.key.source.is_one_host()
}

/// Turns an echo request into its reply: the addresses are swapped, and the sum under the checksums only changes with the hop
/// count and the message's type.
#[inline(always)]
fn answer<P: Packet>(packet: &mut P, parsed: &Parsed, mut message: Icmp) -> Result<(), Reason> {
    let reply = if parsed.is_v4 {
        let mut ip: Ipv4 = packet.read(parsed.l3).ok_or(Reason::Internal)?;
        let word = |ttl| u16::from_ne_bytes([ttl, ip.protocol.0]);
        let mut change = Change::default();
        change.word(word(ip.ttl), word(TTL));
        (ip.source, ip.destination) = (ip.destination, ip.source);
        ip.ttl = TTL;
        ip.checksum = change.apply(ip.checksum);
        packet.write(parsed.l3, ip).ok_or(Reason::Internal)?;
        ICMP_ECHO_REPLY
    } else {
        let mut ip: Ipv6 = packet.read(parsed.l3).ok_or(Reason::Internal)?;
        (ip.source, ip.destination) = (ip.destination, ip.source);
        ip.hop_limit = TTL;
        packet.write(parsed.l3, ip).ok_or(Reason::Internal)?;
        ICMPV6_ECHO_REPLY
    };
    let word = |kind| u16::from_ne_bytes([kind, message.code]);
    let mut change = Change::default();
    change.word(word(message.kind), word(reply));
    message.kind = reply;
    message.checksum = change.apply(message.checksum);
    packet.write(parsed.l4, message).ok_or(Reason::Internal)?;

    let mut ethernet: Ethernet = packet.read(0).ok_or(Reason::Internal)?;
    (ethernet.source, ethernet.destination) = (ethernet.destination, ethernet.source);
    packet.write(0, ethernet).ok_or(Reason::Internal)
}
