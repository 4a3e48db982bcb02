//! How a packet leaves on the fast path.

use crate::hash::FlowHash;
use crate::net::Endpoint;
use crate::packet::parse::Parsed;
use crate::packet::{Before, Packet};
use crate::process::encapsulate::{outer_length, wrap};
use crate::process::rewrite::{
    Departure, ethertype, fits, length_on_wire, rewrite_packet, take_hop, write_ethernet,
};
use crate::process::{handover, mss};
use crate::tables::{Backend, BackendIndex, FlowKey, Service, Settings, Tables, Tags};

/// Sends a packet to a backend, where it comes from `source` in the modes that rewrite addresses.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "what is known of the packet stays in registers")]
pub fn send<const V4: bool, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    parsed: &Parsed,
    service: &Service,
    hash: FlowHash,
    (index, backend): (BackendIndex, &Backend),
    source: &Endpoint,
) -> Option<u32> {
    let is_plain = backend.vlan == 0 && backend.ifindex != 0;
    let is_tunnel = service.mode.is_tunnel();
    let outer = if is_tunnel { outer_length(service, backend) } else { 0 };
    if !is_plain || !fits(length_on_wire(packet, parsed), outer, backend) {
        return None;
    }
    let is_new = parsed.is_first();
    if is_new & !service.mode.keeps_addresses() && !mss::is_bounded(packet, parsed, backend.mtu) {
        return None;
    }
    let mut departure = Departure::default();
    departure.aim(backend);
    departure.tags = Tags::default();
    let mut traffic = tables.traffic(index)?;
    if handover::is_alone(tables, settings, traffic.packets_in) {
        return None;
    }
    // From here on the packet is written to, and nothing fails: its headers have been read, and a tunnel that finds no room
    // before the packet writes nothing.
    let bytes = packet.length() as u64;
    if is_tunnel {
        wrap(packet, tables, hash, parsed, service, backend, &departure).ok()?;
    } else {
        if service.mode.keeps_addresses() {
            take_hop(packet, V4, parsed.l3).ok()?;
        } else {
            let backend = backend.endpoint_for(&parsed.key.destination_endpoint());
            rewrite_packet(packet, parsed, &FlowKey::new(*source, backend)).ok()?;
        }
        write_ethernet(packet, parsed.l3, Before::Nothing, ethertype(V4), &departure).ok()?;
    }
    traffic.forwarded(bytes, is_new);
    Some(backend.ifindex)
}
