//! From a client to a backend.

use super::affinity::{flow_hash, slot_hash};
use super::choose::{choose, ends_flows, holds, is_hairpin, settled};
use super::context::Context;
use super::depart::depart;
use super::handover;
use super::martian;
use super::own_address::own_address;
use super::pair::{self, Note};
use super::ports;
use super::rewrite::{Departure, check_hops};
use super::{acl, flow_count, rate_limit};
use crate::net::{Endpoint, Protocol};
use crate::packet::Packet;
use crate::packet::headers::TCP_RST;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::flow::{BACKEND_RESET, COUNTED, Direction, PAIRED, advance, is_closed_and_counted};
use crate::tables::{Backend, BackendIndex, BackendState, FlowRecord, FlowTable, Mode, Service, Tables};

/// Where a packet goes, and as whose.
struct Decision<'t> {
    /// The backend's place.
    index: BackendIndex,
    /// The backend.
    backend: &'t Backend,
    /// Whom it seems to come from.
    source: Endpoint,
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
) -> Result<(), Reason> {
    martian::check_address(context.parsed)?;
    acl::check_source(context.tables, service, &context.parsed.key.source)?;
    check_hops(context.parsed)?;
    let Decision { index, backend, source, is_new } = decide(context, service)?;
    let mut traffic = context.tables.traffic(index).ok_or(Reason::Internal)?;
    let bytes = packet.length() as u64;
    if handover::is_due(context.settings, traffic.packets_in) {
        context.meta.aimed.set(index);
    }
    depart(packet, context, service, backend, source, departure)?;
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
fn decide<'t, T: Tables>(context: &Context<'t, T>, service: &Service) -> Result<Decision<'t>, Reason> {
    if let Some((index, backend)) = settled(context, service) {
        refuse_own_sender(context.tables, context.parsed)?;
        rate_limit::admit(context, service)?;
        let is_new = context.parsed.is_first();
        return Ok(Decision { index, backend, source: context.parsed.key.source_endpoint(), is_new });
    }
    context.meta.now.set(context.tables.now());
    match follow(context, service)? {
        Some(decision) => Ok(decision),
        None => begin(context, service),
    }
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

/// The decision that the flow's record tells, if it still holds; the record notes this packet. A packet of a flow that has
/// ended with its backend goes nowhere, and never to another backend.
#[inline(always)]
fn follow<'t, T: Tables>(
    context: &Context<'t, T>,
    service: &Service,
) -> Result<Option<Decision<'t>>, Reason> {
    let Context { tables, parsed, meta, .. } = *context;
    let now = meta.now.get();
    let Some((record, table)) = pair::recall(tables, &parsed.key) else { return Ok(None) };
    let index = record.backend;
    let backend = tables.backend(index).ok_or(Reason::Internal)?;
    // A connection that came from elsewhere before, or another one of the same client.
    if (meta.named.0 != 0) & (index != meta.named) {
        return Ok(None);
    }
    if !holds(context, &record, service, backend) {
        return if has_ended(context, service, &record, table) { Err(Reason::FlowEnded) } else { Ok(None) };
    }
    let source = Endpoint::new(record.source, record.source_port, parsed.key.protocol);
    let pairs = (record.source != parsed.key.source) | backend.is_shared();
    let seen = record.life.progress();
    let mut progress = advance(seen, Direction::Forward, parsed.tcp_flags);
    if pairs {
        progress |= PAIRED;
    }
    if table == FlowTable::HalfOpen && !parsed.is_first() && parsed.tcp_flags & TCP_RST == 0 {
        if pair::promote(context, &record, progress, pairs).is_none() {
            return Ok(None);
        }
    } else if progress != seen || record.life.last_seen() != now || is_closed_and_counted(progress) {
        // Once a second is enough to keep both halves alive and to notice that one is missing.
        if pairs {
            match pair::refresh_reply(context, &record, &Note { now, progress, table }) {
                Some(merged) => progress = merged,
                None => return Ok(None),
            }
        }
        let ends = is_closed_and_counted(progress);
        if ends {
            flow_count::ended(tables, index);
        }
        record.life.note(now, progress & !(u8::from(ends) * COUNTED));
    }
    Ok(Some(Decision { index, backend, source, is_new: false }))
}

/// Whether a packet whose flow's record does not hold is of a flow that has ended with its backend; notes that it has.
///
/// A TCP connection's packets have no use elsewhere; a SYN begins another one. Of UDP the client is told once, and the
/// next datagram begins a new flow.
///
/// A call of its own in the kernel, not inlined: it is rare.
#[inline(never)]
fn has_ended<T: Tables>(
    context: &Context<'_, T>,
    service: &Service,
    record: &FlowRecord,
    table: FlowTable,
) -> bool {
    let Context { tables, parsed, settings, meta } = *context;
    let now = meta.now.get();
    let Some(backend) = tables.backend(record.backend) else { return false };
    if parsed.is_first() {
        return false;
    }
    if parsed.key.protocol != Protocol::TCP {
        let is_told = ends_flows(service, backend) && record.life.is_live(parsed.key.protocol, now, settings);
        if is_told {
            tables.remove_flow(table, &parsed.key);
        }
        return is_told;
    }
    // The record stays for as long as the client goes on.
    let progress = record.life.progress() | BACKEND_RESET;
    if progress & COUNTED != 0 && backend.service == service.index {
        flow_count::ended(tables, record.backend);
    }
    record.life.note(now, progress & !COUNTED);
    true
}

/// The backend that a packet would go to, and whom it would seem to come from, if its flow is known or
/// needs no record to be. Nothing is written.
#[inline(always)]
pub fn find<T: Tables>(context: &Context<'_, T>, service: &Service) -> Option<(BackendIndex, Endpoint)> {
    let key = &context.parsed.key;
    if let Some((index, _)) = settled(context, service) {
        return Some((index, key.source_endpoint()));
    }
    context.meta.now.set(context.tables.now());
    if let Some((record, _)) = pair::recall(context.tables, key) {
        let backend = context.tables.backend(record.backend)?;
        if holds(context, &record, service, backend) {
            return Some((record.backend, Endpoint::new(record.source, record.source_port, key.protocol)));
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

/// Chooses a backend for a flow without a record, and records it.
#[inline(always)]
fn begin<'t, T: Tables>(context: &Context<'t, T>, service: &Service) -> Result<Decision<'t>, Reason> {
    let Context { tables, parsed, settings, meta } = *context;
    let (now, progress) = (meta.now.get(), meta.progress);
    let key = &parsed.key;
    refuse_own_sender(tables, parsed)?;
    rate_limit::admit(context, service)?;
    let (index, backend) = choose(context, service, slot_hash(settings, service, key))?;
    let mut source = key.source_endpoint();
    let is_translated = is_translated(service, backend, parsed);
    // Whether the replies need a record of their own.
    let pairs = is_translated | backend.is_shared();
    if parsed.tcp_flags & TCP_RST != 0 {
        // Never recorded: nothing will follow. Without a record, `full-nat` has no port for it.
        return if pairs {
            Err(Reason::ResetWithoutFlow)
        } else {
            Ok(Decision { index, backend, source, is_new: false })
        };
    }
    if pairs {
        // The flow's own, else all flows of a client with affinity would look for a port in the same few places.
        let hash = flow_hash(settings, key).next();
        if is_translated {
            source.address = *own_address(tables, service, backend, hash)?;
        }
        // `nat` keeps the client's port, unless the client has another flow from there to the backend, through another VIP.
        pair::allocate(context, index, &mut source, hash)?;
    }
    if tables.flow(FlowTable::Flows, key).is_some() {
        // One that holds no more would be found before the new one.
        tables.remove_flow(FlowTable::Flows, key);
    }
    let progress = if pairs { progress | PAIRED } else { progress } | flow_count::first_progress(service);
    pair::put_forward(tables, key, &source, index, &Note { now, progress, table: FlowTable::HalfOpen })
        .ok_or(Reason::FlowTableFull)?;
    flow_count::began(tables, service, index);
    // A flow may have been there before it was recorded: a TCP flow's first packet tells, and for UDP that all are.
    let is_new = if key.protocol == Protocol::TCP { parsed.is_first() } else { service.records_flows() };
    Ok(Decision { index, backend, source, is_new })
}
