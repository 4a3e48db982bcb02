//! From a client to a backend.

use super::affinity::slot_hash;
use super::choose::{choose, ends_flows, holds, is_hairpin, settled};
use super::context::Context;
use super::depart::depart;
use super::handover;
use super::martian;
use super::own_address::own_address;
use super::ports;
use super::records;
use super::rewrite::{Departure, check_hops};
use super::{acl, flow_count, rate_limit};
use crate::flow_table::Steps as _;
use crate::flow_table::forget::forget;
use crate::flow_table::life::Life;
use crate::flow_table::note::note;
use crate::flow_table::outcome::Found;
use crate::flow_table::outcome::Noted;
use crate::flow_table::outcome::{Begun, Manner};
use crate::flow_table::record::Room;
use crate::net::{Endpoint, Protocol};
use crate::packet::Packet;
use crate::packet::headers::TCP_RST;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::flow::{BACKEND_RESET, Direction, PAIRED, settle};
use crate::tables::{Backend, BackendIndex, BackendState, Mode, Service, Tables};

/// A packet's backend. `Room::source` is its source.
struct Decision<'t> {
    /// The backend's index.
    index: BackendIndex,
    /// The backend.
    backend: &'t Backend,
    /// Whether the packet begins a flow, as far as can be known.
    is_new: bool,
}

/// Sends a client's packet to its flow's backend. A flow's first packet selects one.
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    context: &Context<'_, T>,
    service: &Service,
    departure: &mut Departure,
    room: &mut Room,
) -> Result<(), Reason> {
    martian::check_address(context.parsed)?;
    acl::check_source(context.tables, service, &context.parsed.key.source)?;
    check_hops(context.parsed)?;
    let Decision { index, backend, is_new } = decide(context, service, room)?;
    context.meta.owners.set_backend(index);
    let mut traffic = context.tables.traffic(index).ok_or(Reason::Internal)?;
    let bytes = packet.length() as u64;
    if handover::is_due(context.settings, traffic.packets_in) {
        context.meta.aimed.set(index);
    }
    depart(packet, context, service, backend, &room.source, departure)?;
    traffic.forwarded(bytes, is_new);
    // Without a branch, which the verifier would follow from here on.
    traffic.asked += u64::from(context.parsed.asks & (backend.state == BackendState::Failing));
    Ok(())
}

/// Whether the backend sees an address of this host as the client: in `full-nat`, and in `nat` if it would otherwise answer the
/// client directly, from an address that the client does not know. Not for an existing connection: it was established without, so
/// the backend's replies get here in another way.
///
/// Not inlined, like [`is_hairpin`].
#[inline(never)]
fn is_translated(service: &Service, backend: &Backend, parsed: &Parsed) -> bool {
    let is_hairpin = is_hairpin(service, backend, parsed) & !parsed.is_in_mid_flow();
    (service.mode == Mode::FullNat) | is_hairpin
}

/// Selects the backend of a client's packet. In a settled slot it is the owner, without a lookup or a record. Otherwise it is the
/// one in the flow's record, and a flow without a record gets one.
#[inline(always)]
fn decide<'t, T: Tables>(
    context: &Context<'t, T>,
    service: &Service,
    room: &mut Room,
) -> Result<Decision<'t>, Reason> {
    if let Some((index, backend)) = settled(context, service) {
        refuse_own_sender(context.tables, context.parsed)?;
        rate_limit::admit(context, service)?;
        let is_new = context.parsed.is_first();
        room.source = context.parsed.key.source_endpoint();
        return Ok(Decision { index, backend, is_new });
    }
    room.now = context.tables.now();
    context.meta.now.set(room.now);
    let mut is_outdated = false;
    if let Some(decision) = follow(context, service, room, &mut is_outdated)? {
        return Ok(decision);
    }
    begin(context, service, room, is_outdated)
}

/// Refuses a packet that may begin a flow if its source is an address of this host, and a UDP packet if its source is a service
/// or a backend: two endpoints that answer every packet would never stop.
///
/// Not inlined: the verifier would follow everything after the call once for each outcome.
#[inline(never)]
fn refuse_own_sender<T: Tables>(tables: &T, parsed: &Parsed) -> Result<(), Reason> {
    if !martian::may_begin(parsed) || tables.roles(&parsed.key.source) == 0 {
        return Ok(());
    }
    martian::check_owner(tables, parsed)?;
    let is_ours = parsed.key.protocol == Protocol::UDP && ports::sender_is_ours(tables, &parsed.key);
    if is_ours { Err(Reason::SourceIsOurs) } else { Ok(()) }
}

/// The decision by the flow's record, if the record is still valid (else it `is_outdated`); notes the packet in the record. A
/// packet of a flow that has ended with its backend is dropped, and never sent to another backend.
#[inline(always)]
fn follow<'t, T: Tables>(
    context: &Context<'t, T>,
    service: &Service,
    room: &mut Room,
    is_outdated: &mut bool,
) -> Result<Option<Decision<'t>>, Reason> {
    let Context { tables, parsed, settings, meta } = *context;
    match records::of_client(tables, settings, &parsed.key, room) {
        Found::Record => {}
        Found::Nothing => return Ok(None),
        Found::Busy => return Err(Reason::FlowBusy),
    }
    let index = room.record.backend();
    let backend = tables.backend(index).ok_or(Reason::Internal)?;
    // A connection that has moved to another address, or a new connection of the same client.
    if (meta.named.0 != 0) & (index != meta.named) {
        *is_outdated = true;
        return Ok(None);
    }
    if !holds(context, &room.record, service, backend) {
        *is_outdated = true;
        if has_ended(context, service, room) {
            meta.owners.set_backend(index);
            return Err(Reason::FlowEnded);
        }
        return Ok(None);
    }
    let is_paired = room.record.life().progress() & PAIRED != 0;
    if backend.is_shared() & !is_paired {
        pair(context, room);
    }
    match records::note_packet(tables, room, Direction::Forward, parsed.tcp_flags) {
        Noted::Gone => return Ok(None),
        Noted::Nothing => {}
        // Once a second is often enough to detect that the client's packets take another path.
        Noted::News | Noted::End => records::turn(tables, parsed, room),
    }
    room.source = room.record.source();
    Ok(Some(Decision { index, backend, is_new: false }))
}

/// Makes a flow's replies found by its record, if its backend has come to be shared by several VIPs since the flow began. If
/// another flow has its client's port towards the backend, the replies leave in the name of the first VIP.
#[inline(always)]
fn pair<T: Tables>(context: &Context<'_, T>, room: &mut Room) {
    room.new = room.record;
    let noted = u32::from(room.record.life().progress());
    let manner = Manner(Manner::ANEW | Manner::OWN_PORT | noted);
    if context.tables.flow_table().begin_flow(context.settings, room, manner) == Begun::New {
        room.record = room.new;
    }
}

/// Whether a packet whose flow's record is not valid belongs to a flow that has ended with its backend. If so, notes that.
///
/// A TCP connection's packets are useless elsewhere, and a SYN begins a new connection. For UDP the client is told once, and the
/// next datagram begins a new flow.
///
/// Not inlined, since it is rare.
#[inline(never)]
fn has_ended<T: Tables>(context: &Context<'_, T>, service: &Service, room: &mut Room) -> bool {
    let Context { tables, parsed, settings, .. } = *context;
    let record = &room.record;
    let Some(backend) = tables.backend(record.backend()) else { return false };
    if parsed.is_first() {
        return false;
    }
    if parsed.key.protocol != Protocol::TCP {
        let is_live = record.life().is_live(parsed.key.protocol, room.now, settings);
        return ends_flows(service, backend)
            && is_live
            && forget(tables.flow_table(), &settings.hash_keys, record, |_| true);
    }
    // The record stays as long as the client continues.
    let next = |life: Life| life.noted(room.now, settle(life.progress() | BACKEND_RESET), 0);
    if let Some((before, after)) = note(tables.flow_table(), record, next)
        && after.has_ended_since(before)
        && backend.service == service.index
    {
        flow_count::ended(tables, record.backend());
    }
    true
}

/// The backend of a packet, and the source that the backend would see, if the packet's flow is known or needs no record.
/// Read-only.
#[inline(always)]
pub fn find<T: Tables>(
    context: &Context<'_, T>,
    service: &Service,
    room: &mut Room,
) -> Option<(BackendIndex, Endpoint)> {
    let key = &context.parsed.key;
    if let Some((index, _)) = settled(context, service) {
        return Some((index, key.source_endpoint()));
    }
    context.meta.now.set(context.tables.now());
    if records::of_client(context.tables, context.settings, key, room) == Found::Record {
        let record = &room.record;
        let backend = context.tables.backend(record.backend())?;
        if holds(context, record, service, backend) {
            return Some((record.backend(), record.source()));
        }
        if context.parsed.is_in_mid_flow() {
            return None;
        }
    }
    if service.mode == Mode::FullNat {
        return None;
    }
    let (index, backend) = choose(context, service, slot_hash(context.settings, service, key)).ok()?;
    (!is_hairpin(service, backend, context.parsed)).then_some((index, key.source_endpoint()))
}

/// Selects a backend for a flow without a valid record (`is_outdated`: it has one), and records the flow.
#[inline(always)]
fn begin<'t, T: Tables>(
    context: &Context<'t, T>,
    service: &Service,
    room: &mut Room,
    is_outdated: bool,
) -> Result<Decision<'t>, Reason> {
    let Context { tables, parsed, settings, meta } = *context;
    let key = &parsed.key;
    refuse_own_sender(tables, parsed)?;
    rate_limit::admit(context, service)?;
    let (index, backend) = choose(context, service, slot_hash(settings, service, key))?;
    room.source = key.source_endpoint();
    let is_translated = is_translated(service, backend, parsed);
    // Whether the replies are found by the record.
    let pairs = is_translated | backend.is_shared();
    if parsed.tcp_flags & TCP_RST != 0 {
        // Never recorded: nothing follows a reset. Without a record, `full-nat` has no port for it.
        return if pairs {
            Err(Reason::ResetWithoutFlow)
        } else {
            Ok(Decision { index, backend, is_new: false })
        };
    }
    if is_translated {
        room.source.address = *own_address(tables, service, backend, room.hash.next())?;
    }
    records::prepare(parsed, index, backend, room);
    let port = if is_translated { Manner::PORT } else { Manner::PORT | Manner::OWN_PORT };
    let manner = u32::from(meta.progress | flow_count::first_progress(service))
        | if pairs { port } else { 0 }
        | if is_outdated { Manner::ANEW } else { 0 };
    match tables.flow_table().begin_flow(settings, room, Manner(manner)) {
        Begun::New => room.source.port = room.new.source_port(),
        Begun::Already => {
            let index = room.record.backend();
            let backend = tables.backend(index).ok_or(Reason::Internal)?;
            room.source = room.record.source();
            return Ok(Decision { index, backend, is_new: false });
        }
        Begun::Full => return Err(Reason::FlowTableFull),
        Begun::NoPort => return Err(Reason::SnatPortsExhausted),
        Begun::Busy => return Err(Reason::FlowBusy),
    }
    flow_count::began(tables, service, index);
    // A flow may be older than its record: in TCP the first packet is recognized; UDP flows are new if all flows are recorded.
    let is_new = if key.protocol == Protocol::TCP { parsed.is_first() } else { service.records_flows() };
    Ok(Decision { index, backend, is_new })
}
