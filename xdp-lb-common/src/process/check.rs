//! Health checks through the VIP: from the host's end of a veth pair through one backend, like a client's packets, and back to
//! the sockets at the pair's other end.

use super::context::{Context, Scratch, Verdict};
use super::depart::depart;
use super::rewrite::{Departure, check_hops, ethertype, write_ethernet};
use super::{arrival, ports};
use crate::packet::parse::{Kind, Parsed, parse};
use crate::packet::{Before, Packet};
use crate::reason::Reason;
use crate::tables::{BackendState, CHECKS_HOST_MAC, CHECKS_MAC, Tables, Tags};

/// Sends a check's packet to its backend, whatever the backend's state. This is a separate program, on the host's end of the
/// checks' veth pair. Only checks leave there, and they are not counted: they are not a client's packets.
#[inline(always)]
pub fn send_check<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Verdict {
    match send(packet, tables, scratch) {
        Ok(()) => Verdict::Redirect(scratch.departure.ifindex),
        Err(reason) => Verdict::Drop(reason),
    }
}

#[inline(always)]
fn send<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Result<(), Reason> {
    parse(packet, &mut scratch.parsed)?;
    let Scratch { parsed, departure, meta, .. } = scratch;
    if parsed.kind != Kind::Flow {
        return Err(Reason::NotTcpOrUdp);
    }
    let check = tables.check(&parsed.key).ok_or(Reason::NoService)?;
    let service = ports::at(tables, &check.service).ok_or(Reason::NoService)?;
    let backend = tables.backend(check.backend).ok_or(Reason::Internal)?;
    // Another backend may have this index by now.
    let is_other = (backend.service != service.index) | (backend.state == BackendState::Vacant);
    if is_other | !service.mode.keeps_addresses() {
        return Err(Reason::BackendUnusable);
    }
    check_hops(parsed)?;
    let settings = tables.settings().ok_or(Reason::Internal)?;
    let context = Context { tables, settings, parsed, meta };
    depart(packet, &context, service, backend, &parsed.key.source_endpoint(), departure)
}

/// Sends a backend's answer to a check to the socket that sent the check. Other packets from a VIP are on their way from a
/// backend to a client and not for this host, which may be their router.
///
/// Not inlined, since it is rare.
#[inline(never)]
pub fn receive<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed,
    departure: &mut Departure,
) -> Result<(), Reason> {
    // In the scratch: a key takes 40 bytes of stack.
    departure.key = parsed.key.reversed();
    let check = tables.check(&departure.key).ok_or(Reason::NotAReply)?;
    arrival::check(tables, parsed, check.backend)?;
    // The packet keeps its addresses and ports, and so do the fragments that follow it.
    departure.key = parsed.key;
    departure.ifindex = check.ifindex;
    departure.tags = Tags::default();
    departure.source_mac = CHECKS_HOST_MAC;
    departure.destination_mac = CHECKS_MAC;
    write_ethernet(packet, parsed.l3, Before::Nothing, ethertype(parsed.is_v4), departure)
}
