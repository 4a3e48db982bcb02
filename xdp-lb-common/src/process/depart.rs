//! From the choice of a backend to the wire: what each forwarding mode does to a packet.

use super::Context;
use super::encapsulate::encapsulate;
use super::rewrite::{Departure, Limit, relay, rewrite};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::tables::{Backend, Mode, Service, Tables};

/// Sends a client's packet to its backend.
///
/// `dsr` takes a hop, as IPVS's direct routing does: the destination stays the VIP, so that of two balancers
/// that had each other as a backend, only the hop count would ever end a packet.
#[inline(always)]
pub fn depart<P: Packet, T: Tables>(
    packet: &mut P,
    context: &Context<'_, T>,
    service: &Service,
    backend: &Backend,
    departure: &mut Departure,
) -> Result<(), Reason> {
    let parsed = context.parsed;
    if service.mode >= Mode::Ipip as u8 {
        return encapsulate(packet, context, service, backend, departure);
    }
    if parsed.ip_length > u32::from(backend.mtu) && backend.mtu != 0 {
        departure.limit = Limit { fits: backend.mtu, from: parsed.key.destination };
        return Err(Reason::TooBig);
    }
    if service.mode == Mode::Dsr as u8 {
        return relay(packet, parsed, departure);
    }
    rewrite(packet, parsed, departure)
}
