//! Health checks that go to the VIP: from the host's end of a veth pair through one backend, as a client's packets go to it,
//! and back to the sockets at the pair's other end.

use super::context::{Context, Scratch, Verdict};
use super::depart::depart;
use super::rewrite::{Departure, check_hops, ethertype, write_ethernet};
use super::{arrival, ports};
use crate::packet::parse::{Kind, Parsed, parse};
use crate::packet::{Before, Packet};
use crate::reason::Reason;
use crate::tables::{BackendState, CHECKS_HOST_MAC, CHECKS_MAC, Tables, Tags};

/// Sends a check's packet to its backend, whatever the backend's state is: a program of its own, on the host's end of the
/// checks' veth pair. Nothing else leaves there, and nothing of it is counted: no client has sent it.
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
    // The place may be another's by now.
    let is_other = (backend.service != service.index) | (backend.state == BackendState::Vacant);
    if is_other | !service.mode.keeps_addresses() {
        return Err(Reason::BackendUnusable);
    }
    check_hops(parsed)?;
    let settings = tables.settings().ok_or(Reason::Internal)?;
    let context = Context { tables, settings, parsed, meta };
    depart(packet, &context, service, backend, &parsed.key.source_endpoint(), departure)
}

/// Sends what a backend answers to a check to the socket that has asked. Other packets from a VIP are on the way from a
/// backend to a client, and none of this host's: it may be their router.
///
/// A call of its own in the kernel, not inlined: it is rare.
#[inline(never)]
pub fn receive<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed,
    departure: &mut Departure,
) -> Result<(), Reason> {
    // In the scratch: a key on the stack is 40 bytes of it.
    departure.key = parsed.key.reversed();
    let check = tables.check(&departure.key).ok_or(Reason::NotAReply)?;
    arrival::check(tables, parsed, check.backend)?;
    // It keeps its ends, and so do the fragments that follow it.
    departure.key = parsed.key;
    departure.ifindex = check.ifindex;
    departure.tags = Tags::default();
    departure.source_mac = CHECKS_HOST_MAC;
    departure.destination_mac = CHECKS_MAC;
    write_ethernet(packet, parsed.l3, Before::Nothing, ethertype(parsed.is_v4), departure)
}
