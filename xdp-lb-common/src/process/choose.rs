//! Selects a flow's backend: its slot's owner, the slot's previous owner, or the backend in its record.

use super::affinity::slot_hash;
use super::context::Context;
use crate::flow_table::record::Record;
use crate::hash::FlowHash;
use crate::net::Protocol;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::flow::{ESTABLISHED, is_closing, is_surely_closed};
use crate::tables::{Backend, BackendIndex, BackendState, Mode, Service, SlotIndex, Tables};

/// The number of slots to try for a backend that is up: between a backend's failure and its service's new ring, its slots still
/// name it.
const SLOT_TRIES: u32 = 4;

/// The backend of a flow that needs no record.
#[inline(always)]
pub fn settled<'t, T: Tables>(
    context: &Context<'t, T>,
    service: &Service,
) -> Option<(BackendIndex, &'t Backend)> {
    if service.records_flows() {
        return None;
    }
    let (index, backend) = if context.meta.named.0 != 0 {
        let backend = context.tables.backend(context.meta.named)?;
        (!backend.is_shared()).then_some((context.meta.named, backend))?
    } else {
        owner(context.tables, service, slot_hash(context.settings, service, &context.parsed.key))?
    };
    (!is_hairpin(service, backend, context.parsed)).then_some((index, backend))
}

/// The owner of a flow's slot, if it owns all flows of that slot, so that their replies need no record.
#[inline(always)]
pub fn owner<'t, T: Tables>(
    tables: &'t T,
    service: &Service,
    hash: FlowHash,
) -> Option<(BackendIndex, &'t Backend)> {
    // With an empty ring, this would be the first slot of another ring.
    if service.ring_len == 0 {
        return None;
    }
    let slot = tables.slot(SlotIndex(service.ring_offset.0 + hash.reduce(service.ring_len)))?;
    let backend = tables.backend(slot.owner())?;
    (!slot.is_tracked() && is_up(service, backend) && !backend.is_shared()).then(|| (slot.owner(), backend))
}

/// Selects the backend of a flow without a record from the ring.
#[inline(always)]
pub fn choose<'t, T: Tables>(
    context: &Context<'t, T>,
    service: &Service,
    hash: FlowHash,
) -> Result<(BackendIndex, &'t Backend), Reason> {
    if context.meta.named.0 != 0 {
        let backend = context.tables.backend(context.meta.named).ok_or(Reason::Internal)?;
        return Ok((context.meta.named, backend));
    }
    if service.ring_len == 0 {
        return Err(no_backend(context, service));
    }
    // A UDP packet does not show whether it is a flow's first. If all flows are recorded, a flow without a record is new.
    let is_in_mid_flow = context.parsed.is_in_mid_flow();
    let may_be_older =
        is_in_mid_flow | ((context.parsed.key.protocol != Protocol::TCP) & !service.records_flows());
    let mut place = (hash.reduce(service.ring_len) + context.meta.skipped) % service.ring_len;
    if may_be_older {
        // A flow from before the slot moved belongs to the slot's previous owner, as long as that one keeps its flows.
        let slot = context.tables.slot(SlotIndex(service.ring_offset.0 + place)).ok_or(Reason::Internal)?;
        let prior = context.tables.backend(slot.prior()).ok_or(Reason::Internal)?;
        if keeps_flows(service, prior) {
            return Ok((slot.prior(), prior));
        }
        if is_in_mid_flow & ends_flows(service, prior) {
            context.meta.owners.set_backend(slot.prior());
            return Err(Reason::FlowEnded);
        }
    }
    for _ in 0..SLOT_TRIES {
        let slot = context.tables.slot(SlotIndex(service.ring_offset.0 + place)).ok_or(Reason::Internal)?;
        if slot.owner() == BackendIndex(0) {
            return Err(no_backend(context, service));
        }
        let owner = context.tables.backend(slot.owner()).ok_or(Reason::Internal)?;
        if is_up(service, owner) {
            return Ok((slot.owner(), owner));
        }
        // The next slots belong to other backends.
        if is_in_mid_flow {
            context.meta.owners.set_backend(slot.owner());
            return Err(Reason::FlowEnded);
        }
        place = if place + 1 == service.ring_len { 0 } else { place + 1 };
    }
    Err(Reason::BackendUnusable)
}

/// The reason if the ring has no backend: the sender may be answered if it begins a flow.
#[inline(always)]
fn no_backend<T: Tables>(context: &Context<'_, T>, service: &Service) -> Reason {
    if service.rejects() & !context.parsed.is_in_mid_flow() {
        Reason::NoBackendAnswered
    } else {
        Reason::NoBackend
    }
}

/// Whether a flow's record is still valid.
#[inline(always)]
pub fn holds<T: Tables>(
    context: &Context<'_, T>,
    record: &Record,
    service: &Service,
    backend: &Backend,
) -> bool {
    if !keeps_flows(service, backend)
        || !record.destination().is(&backend.endpoint_for(&context.parsed.key.destination_endpoint()))
    {
        return false;
    }
    let protocol = context.parsed.key.protocol;
    if protocol == Protocol::TCP && !context.parsed.is_first() {
        return true;
    }
    let (life, now) = (record.life(), context.meta.now.get());
    // Without branches, which the verifier would follow.
    let is_tcp = protocol == Protocol::TCP;
    let is_established = is_tcp & (life.progress() & ESTABLISHED != 0);
    // Anyone can spoof a client's SYN or reset. A backend that has the connection answers the SYN with an ACK, and nothing
    // changes (RFC 5961 section 4); one that does not have it begins a new connection. If a client seems to have closed its
    // connection, a backend that takes no new flows does not get the next one either.
    let seems_closed = is_closing(life.progress()) & (backend.state != BackendState::Up);
    let is_open =
        !is_surely_closed(life.progress()) & !seems_closed & !life.is_over(protocol, now, context.settings);
    // After a long pause, a UDP flow is a new one. A retransmitted SYN stays with its backend, unless that fails.
    let is_refused = is_tcp & ((backend.state == BackendState::Failing) | is_closing(life.progress()));
    let is_live = life.is_live(protocol, now, context.settings) & !is_refused;
    (is_established & is_open) | (!is_established & is_live)
}

/// Whether a client of a `nat` service is a neighbour of the backend, or the backend itself.
///
/// Not inlined: the verifier would follow everything after the call once for each path through it.
#[inline(never)]
pub fn is_hairpin(service: &Service, backend: &Backend, parsed: &Parsed) -> bool {
    (service.mode == Mode::Nat) & backend.is_neighbour(&parsed.key.source, parsed.is_v4)
}

/// Whether this backend takes new flows of the service. Another backend may have reused its index since a slot or a record was
/// written.
#[inline(always)]
pub fn is_up(service: &Service, backend: &Backend) -> bool {
    (backend.state == BackendState::Up) & (backend.service == service.index)
}

/// Whether this backend keeps its flows of the service.
#[inline(always)]
pub fn keeps_flows(service: &Service, backend: &Backend) -> bool {
    backend.state.keeps_flows() & (backend.service == service.index)
}

/// Whether this backend's flows of the service end, and clients that continue one are told so.
#[inline(always)]
pub fn ends_flows(service: &Service, backend: &Backend) -> bool {
    (backend.state == BackendState::Ending) & (backend.service == service.index)
}
