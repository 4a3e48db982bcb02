//! The fast path, for what most packets are: whole TCP or UDP packets without tags or options, of a settled slot, in every
//! mode but `full-nat`, to a backend without a tag, where nothing else has to be asked.
//!
//! It is made of the steps of the slow path ([`super::forward`], [`super::depart`]), for packets whose headers lie at known
//! places: what is known of such a packet stays in registers. Whatever is unusual leaves the packet to the slow path,
//! untouched; both must do the same to a packet, and the fixtures and properties of `xdp-lb/tests/datapath` compare them.

use super::affinity::flow_hash;
use super::choose::owner;
use super::encapsulate::{outer_length, wrap};
use super::handover;
use super::rewrite::{Departure, check_hops, ethertype, fits, rewrite_packet, take_hop, write_ethernet};
use super::{martian, mss};
use crate::net::Be16;
use crate::own_mac::is_surely_for_this_host;
use crate::packet::Packet;
use crate::packet::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::packet::parse::parse_plain;
use crate::tables::{FlowKey, Mode, REJECTS, Service, Tables, Tags};

/// Sends a client's packet to its backend. The interface that it leaves by; 0: it takes the slow path.
///
/// Each family's is a call of its own in the kernel, not inlined: a program's stack is 512 bytes.
#[inline(always)]
pub fn fast_path<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> u32 {
    match packet.read::<Be16>(12).map(Be16::get) {
        Some(ETHERTYPE_IPV4) => of_family::<true, P, T>(packet, tables),
        Some(ETHERTYPE_IPV6) => of_family::<false, P, T>(packet, tables),
        _ => 0,
    }
}

#[inline(never)]
fn of_family<const V4: bool, P: Packet, T: Tables>(packet: &mut P, tables: &T) -> u32 {
    take::<V4, P, T>(packet, tables).unwrap_or(0)
}

#[inline(always)]
fn take<const V4: bool, P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Option<u32> {
    let parsed = parse_plain::<V4, P>(packet)?;
    let settings = tables.settings()?;
    if !is_surely_for_this_host(packet, &settings.own_macs, tables) {
        return None;
    }
    let service = tables.service(&parsed.key.destination_endpoint())?;
    if !is_plain(service) || martian::check_address(&parsed).is_err() {
        return None;
    }
    check_hops(&parsed).ok()?;
    let hash = flow_hash(settings, &parsed.key);
    let (index, backend) = owner(tables, service, hash)?;
    let is_plain = backend.vlan == 0 && backend.ifindex != 0;
    let is_tunnel = service.mode.is_tunnel();
    let outer = if is_tunnel { outer_length(service, backend) } else { 0 };
    let is_hairpin = service.mode == Mode::Nat && backend.may_be_neighbour(&parsed.key.source, V4);
    if !is_plain || is_hairpin || !fits(&parsed, outer, backend) {
        return None;
    }
    if martian::may_begin(&parsed) && tables.roles(&parsed.key.source) != 0 {
        return None;
    }
    let is_new = parsed.is_first();
    if is_new & !service.mode.keeps_addresses() && !mss::is_bounded(packet, &parsed, backend.mtu) {
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
        wrap(packet, tables, hash, &parsed, service, backend, &departure).ok()?;
    } else {
        if service.mode.keeps_addresses() {
            take_hop(packet, V4, parsed.l3).ok()?;
        } else {
            let backend = backend.endpoint_for(&parsed.key.destination_endpoint());
            rewrite_packet(packet, &parsed, &FlowKey::new(parsed.key.source_endpoint(), backend)).ok()?;
        }
        write_ethernet(packet, parsed.l3, 0, ethertype(V4), &departure).ok()?;
    }
    traffic.forwarded(bytes, is_new);
    Some(backend.ifindex)
}

/// Whether nothing has to be asked about the packets of this service but where its ring leads.
#[inline(always)]
fn is_plain(service: &Service) -> bool {
    let Service { options, affinity_bits, server_id_length, .. } = *service;
    let asks = service.source_list | service.new_flow_rate;
    asks | u32::from(options & !REJECTS | affinity_bits | server_id_length) == 0
        && service.mode != Mode::FullNat
}
