//! The fast path of an established flow with a record.

use super::send::send;
use crate::flow_table::outcome::{Found, Noted};
use crate::net::{Be16, Protocol};
use crate::packet::Packet;
use crate::packet::headers::{ETHERTYPE_IPV4, TCP_FIN, TCP_RST, TCP_SYN};
use crate::packet::parse::{Parsed, parse_plain};
use crate::process::choose::keeps_flows;
use crate::process::context::Scratch;
use crate::process::records;
use crate::tables::flow::{Direction, PAIRED};
use crate::tables::{BackendState, Service, Tables};

/// Whether a packet neither begins nor ends a flow, as far as its headers show.
#[inline(always)]
pub fn is_under_way(parsed: &Parsed) -> bool {
    parsed.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) == 0
}

/// Sends a packet that [`fast_path`](super::fast_path) has checked to the backend in its flow's record. Returns the interface by
/// which it leaves. 0: it takes the slow path.
#[inline(always)]
pub fn recorded<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    service: &Service,
    scratch: &mut Scratch,
) -> u32 {
    match packet.read::<Be16>(12).map(Be16::get) {
        Some(ETHERTYPE_IPV4) => of_family::<true, P, T>(packet, tables, service, scratch),
        _ => of_family::<false, P, T>(packet, tables, service, scratch),
    }
}

#[inline(never)]
fn of_family<const V4: bool, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    service: &Service,
    scratch: &mut Scratch,
) -> u32 {
    follow::<V4, P, T>(packet, tables, service, scratch).unwrap_or(0)
}

#[inline(always)]
fn follow<const V4: bool, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    service: &Service,
    scratch: &mut Scratch,
) -> Option<u32> {
    let Scratch { parsed: for_turn, room, .. } = scratch;
    let parsed = parse_plain::<V4, P>(packet)?;
    let settings = tables.settings()?;
    if records::of_client(tables, settings, &parsed.key, room) != Found::Record {
        return None;
    }
    let record = &room.record;
    // A record that is found is always of the packet's family. This tells the compiler.
    if record.is_v6() == V4 {
        return None;
    }
    let (index, life, source) = (record.backend(), record.life(), record.source());
    let backend = tables.backend(index)?;
    let is_there = record.destination().is(&backend.endpoint_for(&parsed.key.destination_endpoint()));
    let is_unpaired = backend.is_shared() & (life.progress() & PAIRED == 0);
    let is_failing = backend.state == BackendState::Failing;
    if !keeps_flows(service, backend) | !is_there | is_unpaired | is_failing {
        return None;
    }
    room.now = tables.now();
    // After a long pause, a UDP flow is a new one.
    if parsed.key.protocol != Protocol::TCP && !life.is_live(parsed.key.protocol, room.now, settings) {
        return None;
    }
    if !life.is_noted(room.now) {
        match records::note_packet(tables, room, Direction::Forward, parsed.tcp_flags) {
            Noted::Gone => return None,
            Noted::Nothing => {}
            Noted::News | Noted::End => {
                *for_turn = parsed;
                records::turn(tables, for_turn, room);
            }
        }
    }
    send::<V4, P, T>(packet, tables, settings, &parsed, service, room.hash, (index, backend), &source)
}
