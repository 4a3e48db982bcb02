//! The fast path, for most packets: unfragmented TCP or UDP packets without tags or options, to a backend without a tag. They
//! belong to a settled slot, or to an established flow with a record ([`recorded`]).
//!
//! It consists of the steps of the slow path ([`super::forward`], [`super::depart`]), for packets with headers at fixed offsets:
//! the state of such a packet stays in registers. Anything unusual is left to the slow path, untouched. Both must treat a packet
//! the same way, and the fixtures and properties of `xdp-lb/tests/datapath` compare them.

mod recorded;
mod send;

use self::recorded::is_under_way;
pub use self::recorded::recorded;
use self::send::send;
use super::affinity::{flow_hash, slot_hash};
use super::choose::owner;
use super::martian;
use super::rewrite::check_hops;
use crate::hash::FlowHash;
use crate::net::Be16;
use crate::own_mac::is_surely_for_this_host;
use crate::packet::Packet;
use crate::packet::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::packet::parse::{Parsed, parse_plain};
use crate::tables::filter::BACKEND;
use crate::tables::{
    Backend, BackendIndex, COUNTS_FLOWS, Mode, RECORDS_FLOWS, REJECTS, Service, Settings, Tables,
};

/// The result of [`fast_path`] for a packet to a port of a VIP without a service.
pub const NOBODYS: u32 = u32::MAX;

/// Sends a client's packet to its backend, if its slot is settled. Returns the interface by which it leaves. 0: it takes the slow
/// path. If its flow may have a record, `recorded_of` is set to its service, and [`recorded`] looks the record up.
///
/// Not inlined, for each family: a program's stack is 512 bytes.
#[inline(always)]
pub fn fast_path<'t, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    recorded_of: &mut Option<&'t Service>,
) -> u32 {
    match packet.read::<Be16>(12).map(Be16::get) {
        Some(ETHERTYPE_IPV4) => of_family::<true, P, T>(packet, tables, recorded_of),
        Some(ETHERTYPE_IPV6) => of_family::<false, P, T>(packet, tables, recorded_of),
        _ => 0,
    }
}

#[inline(never)]
fn of_family<'t, const V4: bool, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    recorded_of: &mut Option<&'t Service>,
) -> u32 {
    take::<V4, P, T>(packet, tables, recorded_of).unwrap_or(0)
}

#[inline(always)]
fn take<'t, const V4: bool, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    recorded_of: &mut Option<&'t Service>,
) -> Option<u32> {
    let parsed = parse_plain::<V4, P>(packet)?;
    let settings = tables.settings()?;
    if !is_surely_for_this_host(packet, &settings.own_macs, tables) {
        return None;
    }
    let Some(service) = tables.service(&parsed.key.destination_endpoint()) else {
        return is_nobodys(tables, &parsed).then_some(NOBODYS);
    };
    if is_unusual(service) || martian::is_suspect(&parsed) {
        return None;
    }
    check_hops(&parsed).ok()?;
    if service.mode != Mode::FullNat && service.options & (RECORDS_FLOWS | COUNTS_FLOWS) == 0 {
        let hash = flow_hash(settings, &parsed.key);
        let of_slot =
            if service.affinity_bits == 0 { hash } else { slot_hash(settings, service, &parsed.key) };
        if let Some(target) = owner(tables, service, of_slot) {
            return settled::<V4, P, T>(packet, tables, settings, &parsed, service, hash, target);
        }
    }
    if is_under_way(&parsed) {
        *recorded_of = Some(service);
    }
    None
}

/// Whether a packet to a VIP is for a port without a service, and not from a backend.
#[inline(always)]
fn is_nobodys<T: Tables>(tables: &T, parsed: &Parsed) -> bool {
    !tables.may_have_ranges(&parsed.key.destination) && tables.roles(&parsed.key.source) & BACKEND == 0
}

/// Sends a packet to the owner of its slot.
#[inline(always)]
fn settled<const V4: bool, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    settings: &Settings,
    parsed: &Parsed,
    service: &Service,
    hash: FlowHash,
    (index, backend): (BackendIndex, &Backend),
) -> Option<u32> {
    let is_hairpin = service.mode == Mode::Nat && backend.may_be_neighbour(&parsed.key.source, V4);
    let is_limited = service.new_flow_rate != 0 && !parsed.is_in_mid_flow();
    if is_hairpin || is_limited {
        return None;
    }
    if martian::may_begin(parsed) && tables.roles(&parsed.key.source) != 0 {
        return None;
    }
    let source = parsed.key.source_endpoint();
    send::<V4, P, T>(packet, tables, settings, parsed, service, hash, (index, backend), &source)
}

/// Whether packets of this service need more checks than the slot or the record.
#[inline(always)]
fn is_unusual(service: &Service) -> bool {
    let Service { options, source_list, server_id_length, .. } = *service;
    let asks = options & !(REJECTS | RECORDS_FLOWS | COUNTS_FLOWS) | server_id_length;
    source_list | u32::from(asks) != 0
}
