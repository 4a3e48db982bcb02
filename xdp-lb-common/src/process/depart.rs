//! From the choice of a backend to the wire: what each forwarding mode does to a packet.

use super::context::{Context, Scratch};
use super::encapsulate::encapsulate;
use super::rewrite::{Departure, Limit, fits, length_on_wire, relay, rewrite};
use super::{mss, ports};
use crate::net::Endpoint;
use crate::packet::Packet;
use crate::reason::Reason;
use crate::tables::{Backend, FlowKey, Service, Tables};

/// Sends a client's packet to its backend, where it comes from `source` in the modes that rewrite addresses.
///
/// `dsr` takes a hop, as IPVS's direct routing does: the destination stays the VIP, so that of two balancers
/// that had each other as a backend, only the hop count would ever end a packet.
#[inline(always)]
pub fn depart<P: Packet, T: Tables>(
    packet: &mut P,
    context: &Context<'_, T>,
    service: &Service,
    backend: &Backend,
    source: &Endpoint,
    departure: &mut Departure,
) -> Result<(), Reason> {
    let parsed = context.parsed;
    departure.aim(backend);
    if service.mode.is_tunnel() {
        return encapsulate(packet, context, service, backend, departure);
    }
    if !fits(length_on_wire(packet, parsed), 0, backend) {
        departure.limit = Limit { fits: backend.mtu, from: parsed.key.destination };
        return Err(Reason::TooBig);
    }
    if service.mode.keeps_addresses() {
        return relay(packet, parsed, departure);
    }
    if parsed.is_first() {
        mss::clamp(packet, parsed, backend.mtu)?;
    }
    departure.key = FlowKey::new(*source, backend.endpoint_for(&parsed.key.destination_endpoint()));
    rewrite(packet, parsed, departure)
}

/// Sends what has no ports to its backend (`Scratch::backend` of the service at `Scratch::vip`) as it is, in a mode
/// that [keeps addresses](crate::tables::Code::keeps_addresses).
///
/// Calls of their own in the kernel, not inlined: a program's stack is 512 bytes, and a tunnel takes much of it.
#[inline(never)]
pub fn deliver<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    let Scratch { parsed, departure, meta, backend: index, vip, .. } = scratch;
    let bytes = packet.length() as u64;
    let service = ports::at(tables, vip).ok_or(Reason::Internal)?;
    let backend = tables.backend(*index).ok_or(Reason::Internal)?;
    if service.mode.is_tunnel() {
        let settings = tables.settings().ok_or(Reason::Internal)?;
        let context = Context { tables, settings, parsed, meta };
        encapsulate(packet, &context, service, backend, departure)?;
    } else {
        relay(packet, parsed, departure)?;
    }
    tables.traffic(*index).ok_or(Reason::Internal)?.forwarded(bytes, false);
    Ok(())
}
