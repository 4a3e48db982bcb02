//! Answers instead of packets: whoever sends a packet that goes no further is told so, where the protocols have a word
//! for it.

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

/// How many first bits of an IPv6 address are one destination: one that has others' addresses to spoof has them in its
/// network of 64 bits.
const V6_DESTINATION: u8 = 64;

/// Ends the way of a packet that is not forwarded, for the scratch's reason: answers it where there is something to say, and
/// counts it. Says what became of it.
///
/// A call of its own in the kernel, not inlined, that finds the reason in the scratch: the verifier would look at all of
/// this once for each place at which a packet is refused.
#[inline(never)]
pub fn end<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Reason {
    let reason = scratch.refused.map_or(Reason::Internal, |reason| answer(packet, tables, scratch, reason));
    tables.count(reason);
    refused::count(tables, scratch, reason);
    reason
}

/// Makes the packet that ends for this reason an answer to its sender, where there is one to give. Says what came of it: the
/// reason without an answer where its sender is not a host, or too many were answered already.
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
        // No reset is answered (RFC 9293 section 3.10.7.1).
        Answer::Reset => parsed.tcp_flags & TCP_RST != 0,
        Answer::TooBig => icmp_answer::fits_every_way(parsed),
        Answer::Unreachable | Answer::TimeExceeded => false,
    };
    // No error is answered, and no fragment but the first (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
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
    // What a backend sends to another host is none of ours, though this one may be its router.
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

/// This host's address behind the interface that the packet came in by (RFC 1812 section 4.3.2.4).
#[inline(always)]
fn router_address<'t, T: Tables>(tables: &'t T, parsed: &Parsed) -> Option<&'t Address> {
    let tags = parsed.tags;
    // Of other tags than a customer's single one no device is known.
    let is_plain = tags.outer >> 16 == 0 || tags.outer >> 16 == u32::from(ETHERTYPE_VLAN) && tags.inner == 0;
    let interface = RouterInterface { ifindex: parsed.ingress, vlan: tags.outer & 0xfff };
    let addresses = tables.router_addresses(&interface).filter(|_| is_plain)?;
    let address = if parsed.is_v4 { &addresses.v4 } else { &addresses.v6 };
    (*address != Address::default()).then_some(address)
}

/// Whether one more answer of this kind may go to the packet's sender now.
#[inline(always)]
fn may_answer<T: Tables>(tables: &T, parsed: &Parsed, answer: Answer) -> bool {
    let to: &Address = &parsed.key.source;
    let bits = if parsed.is_v4 { 128 } else { V6_DESTINATION };
    tables
        .settings()
        .is_some_and(|settings| tables.may_answer(answer, FlowHash::of_client(&settings.hash_keys, to, bits)))
}
