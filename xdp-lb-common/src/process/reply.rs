//! From a backend to a client.

use super::arrival;
use super::check;
use super::handover;
use super::mss;
use super::records;
use super::rewrite::{Departure, Limit, check_hops, length_on_wire, rewrite};
use crate::flow_table::Steps as _;
use crate::flow_table::outcome::Found;
use crate::flow_table::record::{Record, Room, WayBack};
use crate::net::{Endpoint, Protocol};
use crate::packet::Packet;
use crate::packet::headers::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::flow::{Direction, longest_patience};
use crate::tables::{BackendIndex, FlowKey, RESETS_UNKNOWN, Reply, Route, RouteQuery, Settings, Tables};

/// Sends a backend's packet to the client whose flow it answers, in the VIP's name.
#[inline(always)]
pub fn reply<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed,
    rule: &Reply,
    query: &mut RouteQuery,
    departure: &mut Departure,
    room: &mut Room,
) -> Result<(), Reason> {
    if may_have_record(tables, rule, &parsed.key) {
        match records::of_backend(tables, &parsed.key, room) {
            Found::Record => {
                arrival::check(tables, parsed, room.record.backend())?;
                room.now = tables.now();
                // Where the record has gone to another flow meanwhile, it was this one's when the packet came.
                records::note_packet(tables, room, Direction::Reply, parsed.tcp_flags);
                recorded(&room.record, departure);
                return send(packet, tables, parsed, room.record.backend(), departure);
            }
            Found::Busy => return Err(Reason::FlowBusy),
            Found::Nothing => {}
        }
    }
    if rule.answers_checks != 0 {
        return check::receive(packet, tables, parsed, departure);
    }
    if rule.stateless == 0 || !rule.is_from(parsed.key.source_port) {
        return Err(without_flow(tables, parsed, rule.stateless == 0, query));
    }
    if is_of_no_flow(tables, &parsed.key, rule, room) {
        return Err(Reason::NotAReply);
    }
    if parsed.tcp_flags & (TCP_RST | TCP_FIN) != 0 {
        note_end(tables, parsed, rule, room);
    }
    match routed(tables, parsed, rule, &parsed.key, length_on_wire(packet, parsed), query, departure) {
        // It is for this host: in `full-nat` for a client.
        Err(Reason::NotAReply) if rule.by_record != 0 => Err(without_flow(tables, parsed, true, query)),
        Err(reason) => Err(reason),
        Ok(()) => {
            arrival::check(tables, parsed, rule.backend)?;
            send(packet, tables, parsed, rule.backend, departure)
        }
    }
}

/// What becomes of a backend's packet of no flow that is known. Passed on, the host would answer with a reset in the client's
/// name. A health check's answer goes to a port of the host's own.
///
/// A call of its own in the kernel, not inlined: it is rare.
#[inline(never)]
fn without_flow<T: Tables>(
    tables: &T,
    parsed: &Parsed,
    is_of_full_nat: bool,
    query: &mut RouteQuery,
) -> Reason {
    let Some(settings) = tables.settings() else { return Reason::Internal };
    if !settings.is_snat_port(parsed.key.destination_port) {
        return Reason::NotAReply;
    }
    // The client of a SYN-ACK sends its SYN again, and puts the record back.
    let is_over = is_of_full_nat
        & (settings.options & RESETS_UNKNOWN != 0)
        & (parsed.key.protocol == Protocol::TCP)
        & (parsed.tcp_flags & TCP_SYN == 0);
    if !is_over {
        return Reason::ReplyWithoutFlow;
    }
    // Whose it is, the answer asks.
    *query = RouteQuery {
        source: parsed.key.source_endpoint(),
        destination: parsed.key.destination_endpoint(),
        length: parsed.ip_length as u16,
        ingress: parsed.ingress,
    };
    Reason::ReplyWithoutFlowAnswered
}

/// Whether a packet of a backend, all of whose flows are recorded under their clients' packets, belongs to none of them: a
/// client talks to the backend itself. `key`: from the backend.
#[inline(always)]
pub fn is_of_no_flow<T: Tables>(tables: &T, key: &FlowKey, rule: &Reply, room: &mut Room) -> bool {
    rule.recorded_since != 0 && !may_be_of_flow(tables, key, rule, room)
}

/// Whether it belongs to one that has a record, or that may be from before they had.
///
/// A call of its own in the kernel, not inlined: few services ask for it.
#[inline(never)]
fn may_be_of_flow<T: Tables>(tables: &T, key: &FlowKey, rule: &Reply, room: &mut Room) -> bool {
    let Some(settings) = tables.settings() else { return true };
    room.flow = FlowKey::new(key.destination_endpoint(), vip(rule, key));
    // A flow from before has a record as soon as its client sends something.
    match tables.flow_table().find_flow(settings, room) {
        Found::Record if room.record.backend() == rule.backend => true,
        Found::Busy => true,
        _ => tables.now().wrapping_sub(rule.recorded_since) <= longest_patience(key.protocol, settings),
    }
}

/// What clients know a backend without a record by.
#[inline(always)]
fn vip(rule: &Reply, key: &FlowKey) -> Endpoint {
    Endpoint::new(rule.vip, rule.port_for(key.source_port), key.protocol)
}

/// Notes a backend's FIN or reset that needs no record in the one that the flow may have, whether or not the client can be
/// reached: one that somebody made up cannot.
///
/// A call of its own in the kernel, not inlined: it is rare.
#[inline(never)]
fn note_end<T: Tables>(tables: &T, parsed: &Parsed, rule: &Reply, room: &mut Room) {
    if arrival::check(tables, parsed, rule.backend).is_err() {
        return;
    }
    let Some(settings) = tables.settings() else { return };
    room.flow = FlowKey::new(parsed.key.destination_endpoint(), vip(rule, &parsed.key));
    let found = tables.flow_table().find_flow(settings, room);
    if found == Found::Record && room.record.backend() == rule.backend {
        room.now = tables.now();
        records::note_packet(tables, room, Direction::Reply, parsed.tcp_flags);
    }
}

/// Whether a backend's packet may belong to a flow that has a record of its replies. `key`: from the backend.
#[inline(always)]
pub fn may_have_record<T: Tables>(tables: &T, rule: &Reply, key: &FlowKey) -> bool {
    rule.by_record != 0 || is_to_hairpin(tables, rule, key)
}

/// Whether it goes to the address that the backend knows its neighbours by, who are clients of its VIP. A call of its own,
/// as above.
#[inline(never)]
fn is_to_hairpin<T: Tables>(tables: &T, rule: &Reply, key: &FlowKey) -> bool {
    let is_ours = |settings: &Settings| settings.is_snat_port(key.destination_port);
    tables.settings().is_some_and(is_ours)
        && tables.backend(rule.backend).is_some_and(|backend| backend.source == key.destination)
}

/// How the replies of this record leave: back the way the client's packets come.
///
/// A call of its own in the kernel, not inlined: a program's stack is 512 bytes.
#[inline(never)]
pub fn recorded(record: &Record, departure: &mut Departure) {
    let WayBack { ifindex, tags, destination_mac, source_mac } = record.way_back();
    let limit = departure.limit;
    let key = FlowKey::new(record.vip(), record.client());
    *departure = Departure { key, ifindex, tags, source_mac, destination_mac, limit };
}

/// How a packet of this backend's leaves for a client without a record: in the name of the one VIP that
/// the backend serves, as the host's routes say. `key`: from the backend to the client.
/// `length`: how long it is on the wire.
#[inline(always)]
pub fn routed<T: Tables>(
    tables: &T,
    parsed: &Parsed,
    rule: &Reply,
    key: &FlowKey,
    length: u32,
    query: &mut RouteQuery,
    departure: &mut Departure,
) -> Result<(), Reason> {
    let client = key.destination_endpoint();
    let vip = vip(rule, key);
    *query = RouteQuery {
        source: vip,
        destination: client,
        length: length as u16,
        ingress: parsed.ingress,
    };
    departure.key = FlowKey::new(vip, client);
    match tables.route(query) {
        Route::Via { ifindex, tags, source_mac, destination_mac } => {
            departure.ifindex = ifindex;
            departure.tags = tags;
            departure.source_mac = source_mac;
            departure.destination_mac = destination_mac;
            Ok(())
        }
        Route::NeighbourMissing { ifindex } => handover::by_interface(tables, departure, ifindex),
        Route::Local => Err(Reason::NotAReply),
        Route::TooBig { mtu } => {
            // In this host's own name: it is the router on the backend's way out.
            let backend = tables.backend(rule.backend).ok_or(Reason::Internal)?;
            departure.limit = Limit { fits: mtu, from: backend.source };
            Err(Reason::TooBig)
        }
        Route::Unroutable => Err(Reason::ReplyUnroutable),
    }
}

#[inline(always)]
fn send<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed,
    index: BackendIndex,
    departure: &Departure,
) -> Result<(), Reason> {
    check_hops(parsed)?;
    let mut traffic = tables.traffic(index).ok_or(Reason::Internal)?;
    let bytes = packet.length() as u64;
    if parsed.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK {
        let backend = tables.backend(index).ok_or(Reason::Internal)?;
        mss::clamp(packet, parsed, backend.mtu)?;
    }
    rewrite(packet, parsed, departure)?;
    traffic.replied(bytes);
    // Most packets are neither, and cost no more than this look.
    if parsed.tcp_flags & (TCP_SYN | TCP_RST) != 0 && parsed.tcp_flags & TCP_ACK != 0 {
        traffic.answered(parsed.tcp_flags & TCP_RST != 0);
    }
    Ok(())
}
