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

/// Where a packet goes; as whose, `Room::source` says.
struct Decision<'t> {
    /// The backend's place.
    index: BackendIndex,
    /// The backend.
    backend: &'t Backend,
    /// Whether the packet begins a flow, as far as that can be told.
    is_new: bool,
}

/// Sends a client's packet to its flow's backend; a flow's first packet chooses one.
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

/// Whether the backend sees an address of this host as the client: in `full-nat`, and in `nat` where it would answer
/// the client directly, from an address that the client does not know. Not for a connection that is there already: it
/// came to be without, since the backend's replies come here by other means.
///
/// A call of its own in the kernel, as [`is_hairpin`] is.
#[inline(never)]
fn is_translated(service: &Service, backend: &Backend, parsed: &Parsed) -> bool {
    let is_hairpin = is_hairpin(service, backend, parsed) & !parsed.is_in_mid_flow();
    (service.mode == Mode::FullNat) | is_hairpin
}

/// Where a client's packet goes. In a settled slot that is its owner, and no flow is looked up or
/// recorded; elsewhere the flow's record tells, and one that has none gets one.
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

/// Refuses what may begin a flow in the name of this host; and a UDP packet in the name of a service or a backend: with
/// ends that both answer whatever comes, the two would never stop.
///
/// A call of its own in the kernel, not inlined: the verifier would follow all that comes after once for each outcome.
#[inline(never)]
fn refuse_own_sender<T: Tables>(tables: &T, parsed: &Parsed) -> Result<(), Reason> {
    if !martian::may_begin(parsed) || tables.roles(&parsed.key.source) == 0 {
        return Ok(());
    }
    martian::check_owner(tables, parsed)?;
    let is_ours = parsed.key.protocol == Protocol::UDP && ports::sender_is_ours(tables, &parsed.key);
    if is_ours { Err(Reason::SourceIsOurs) } else { Ok(()) }
}

/// The decision that the flow's record tells, if it still holds (else it `is_outdated`); the record notes this packet. A packet of a flow that has
/// ended with its backend goes nowhere, and never to another backend.
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
    // A connection that came from elsewhere before, or another one of the same client.
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
        // Once a second is enough to notice that the client comes another way.
        Noted::News | Noted::End => records::turn(tables, parsed, room),
    }
    room.source = room.record.source();
    Ok(Some(Decision { index, backend, is_new: false }))
}

/// Has a flow's replies found by its record, where its backend has come to be one that several VIPs share since it began. Where
/// another flow has its client's port towards the backend, they go on in the name of the first VIP.
#[inline(always)]
fn pair<T: Tables>(context: &Context<'_, T>, room: &mut Room) {
    room.new = room.record;
    let noted = u32::from(room.record.life().progress());
    let manner = Manner(Manner::ANEW | Manner::OWN_PORT | noted);
    if context.tables.flow_table().begin_flow(context.settings, room, manner) == Begun::New {
        room.record = room.new;
    }
}

/// Whether a packet whose flow's record does not hold is of a flow that has ended with its backend; notes that it has.
///
/// A TCP connection's packets have no use elsewhere; a SYN begins another one. Of UDP the client is told once, and the
/// next datagram begins a new flow.
///
/// A call of its own in the kernel, not inlined: it is rare.
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
    // The record stays for as long as the client goes on.
    let next = |life: Life| life.noted(room.now, settle(life.progress() | BACKEND_RESET), 0);
    if let Some((before, after)) = note(tables.flow_table(), record, next)
        && after.has_ended_since(before)
        && backend.service == service.index
    {
        flow_count::ended(tables, record.backend());
    }
    true
}

/// The backend that a packet would go to, and whom it would seem to come from, if its flow is known or
/// needs no record to be. Nothing is written.
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

/// Chooses a backend for a flow without a record, or with one that holds no more (`is_outdated`), and records it.
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
        // Never recorded: nothing will follow. Without a record, `full-nat` has no port for it.
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
    // A flow may have been there before it was recorded: a TCP flow's first packet tells, and for UDP that all are.
    let is_new = if key.protocol == Protocol::TCP { parsed.is_first() } else { service.records_flows() };
    Ok(Decision { index, backend, is_new })
}
