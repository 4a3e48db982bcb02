//! Answers to the senders of packets that are not forwarded, if the protocols define one.

use super::context::Scratch;
use super::{icmp_answer, refused, tcp_reset};
use crate::hash::FlowHash;
use crate::net::{Address, Protocol};
use crate::packet::Packet;
use crate::packet::headers::{ETHERTYPE_VLAN, TCP_RST};
use crate::packet::parse::{Kind, Parsed};
use crate::rate::Answer;
use crate::reason::Reason;
use crate::tables::{Route, RouterInterface, Tables};

/// The number of leading bits of an IPv6 address that count as one destination: a host can spoof every address of its 64-bit
/// network.
const V6_DESTINATION: u8 = 64;

/// Finishes a packet that is not forwarded, for the scratch's reason: answers its sender if possible, and counts the packet.
/// Returns the final reason.
///
/// Not inlined, and takes the reason from the scratch: the verifier would check all of this again for each place that refuses a
/// packet.
#[inline(never)]
pub fn end<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Reason {
    let reason = scratch.refused.map_or(Reason::Internal, |reason| answer(packet, tables, scratch, reason));
    tables.count(reason);
    refused::count(tables, scratch, reason);
    reason
}

/// Turns a refused packet into an answer to its sender, if there is one for this reason. Returns the outcome: the reason without
/// an answer if the sender is not a single host, or too many answers were sent already.
#[inline(always)]
fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch, reason: Reason) -> Reason {
    let Scratch { parsed, departure, message, query, .. } = scratch;
    let (answered, silent) = match reason {
        Reason::TooBig => (Reason::TooBigAnswered, reason),
        Reason::FlowEnded => (Reason::FlowEndedAnswered, reason),
        Reason::NoBackendAnswered => (reason, Reason::NoBackend),
        Reason::TtlExpired => (Reason::TtlExpiredAnswered, reason),
        Reason::ReplyWithoutFlowAnswered => (reason, Reason::ReplyWithoutFlow),
        _ => return reason,
    };
    let kind = if reason == Reason::TooBig {
        Answer::TooBig
    } else if reason == Reason::TtlExpired {
        Answer::TimeExceeded
    } else if parsed.key.protocol == Protocol::TCP {
        Answer::Reset
    } else {
        Answer::Unreachable
    };
    let is_pointless = match kind {
        // A reset is never answered (RFC 9293 section 3.10.7.1).
        Answer::Reset => parsed.tcp_flags & TCP_RST != 0,
        Answer::TooBig => icmp_answer::fits_every_way(parsed),
        Answer::Unreachable | Answer::TimeExceeded => false,
    };
    // ICMP errors are never answered, and of a packet's fragments only the first (RFC 1122 section 3.2.2, RFC 4443 section 2.4
    // (e)).
    if is_pointless
        || matches!(parsed.kind, Kind::Icmp | Kind::LaterFragment)
        || !parsed.key.source.is_one_host()
    {
        return silent;
    }
    match kind {
        Answer::TooBig => message.too_big(parsed, &departure.limit),
        Answer::TimeExceeded => match router_address(tables, parsed) {
            Some(from) => message.time_exceeded(parsed, from),
            None => return silent,
        },
        Answer::Unreachable => message.port_unreachable(parsed),
        Answer::Reset => {}
    }
    // A backend's packet to another host is not for this one, which may be just its router.
    let is_foreign = reason == Reason::ReplyWithoutFlowAnswered
        && !matches!(tables.route(query), Route::Local | Route::Unroutable);
    if is_foreign || !may_answer(tables, parsed, kind) {
        return silent;
    }
    let sent = if kind == Answer::Reset {
        tcp_reset::send(packet, parsed)
    } else {
        icmp_answer::send(packet, parsed, message)
    };
    match sent {
        Ok(()) => answered,
        Err(reason) => reason,
    }
}

/// This host's address on the interface on which the packet arrived (RFC 1812 section 4.3.2.4).
#[inline(always)]
fn router_address<'t, T: Tables>(tables: &'t T, parsed: &Parsed) -> Option<&'t Address> {
    let tags = parsed.tags;
    // A device is only known for a single customer tag, or none.
    let is_plain = tags.outer >> 16 == 0 || tags.outer >> 16 == u32::from(ETHERTYPE_VLAN) && tags.inner == 0;
    let interface = RouterInterface { ifindex: parsed.ingress, vlan: tags.outer & 0xfff };
    let addresses = tables.router_addresses(&interface).filter(|_| is_plain)?;
    let address = if parsed.is_v4 { &addresses.v4 } else { &addresses.v6 };
    (*address != Address::default()).then_some(address)
}

/// Whether the rate limit allows another answer of this kind to the packet's sender.
#[inline(always)]
fn may_answer<T: Tables>(tables: &T, parsed: &Parsed, answer: Answer) -> bool {
    let to: &Address = &parsed.key.source;
    let bits = if parsed.is_v4 { 128 } else { V6_DESTINATION };
    tables
        .settings()
        .is_some_and(|settings| tables.may_answer(answer, FlowHash::of_client(&settings.hash_keys, to, bits)))
}
