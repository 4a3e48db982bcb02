//! From a client to a backend.

use super::Context;
use super::affinity::{flow_hash, slot_hash};
use super::pair::{self, Note};
use super::rewrite::{Departure, check_hops, rewrite};
use crate::flow::{Direction, ESTABLISHED, PAIRED, advance};
use crate::hash::FlowHash;
use crate::headers::{TCP_ACK, TCP_RST, TCP_SYN};
use crate::net::{Endpoint, Protocol};
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{
    Backend, BackendIndex, BackendState, FlowKey, FlowRecord, Mode, Service, SlotIndex, Tables, Tags,
};

/// How many slots are looked at for a backend that is up: between a backend's failure and its
/// service's new ring, its slots still name it.
const SLOT_TRIES: u32 = 4;

/// Where a packet goes, and as whose.
struct Course<'t> {
    index: BackendIndex,
    backend: &'t Backend,
    source: Endpoint,
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
    check_hops(context.parsed)?;
    let course = match follow(context, service) {
        Some(course) => course,
        None => begin(context, service)?,
    };
    let Course { index, backend, source, is_new } = course;
    *departure = Departure {
        key: FlowKey::new(source, backend.endpoint(source.protocol)),
        ifindex: backend.ifindex,
        tags: Tags::vlan(backend.vlan),
        source_mac: backend.source_mac,
        destination_mac: backend.destination_mac,
    };
    let bytes = packet.length() as u64;
    rewrite(packet, context.parsed, departure)?;
    context.tables.count_forward(service.index, index, bytes, is_new);
    Ok(())
}

/// Whether this is a TCP connection's first packet.
#[inline(always)]
fn is_first(parsed: &Parsed) -> bool {
    parsed.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// Whether the replies of this backend's flows need a record of their own.
#[inline(always)]
fn has_pairs(service: &Service, backend: &Backend) -> bool {
    service.mode == Mode::FullNat as u8 || backend.shared != 0
}

/// The course that the flow's record tells, if it still holds; the record notes this packet.
#[inline(always)]
fn follow<'t, T: Tables>(context: &Context<'t, T>, service: &Service) -> Option<Course<'t>> {
    let record = context.tables.flow(&context.parsed.key)?;
    let backend = context.tables.backend(record.backend)?;
    if !holds(context, &record, service, backend) {
        return None;
    }
    let seen = record.life.progress();
    let mut progress = match context.parsed.key.protocol {
        Protocol::TCP => advance(seen, Direction::Forward, context.parsed.tcp_flags),
        _ => seen,
    };
    // Once a second is enough to keep both halves alive and to notice that one is missing.
    if progress != seen || record.life.last_seen() != context.now {
        if has_pairs(service, backend) {
            progress = pair::refresh_reply(context, &record, progress)?;
        }
        record.life.note(context.now, progress);
    }
    let source = Endpoint::new(record.source, record.source_port, context.parsed.key.protocol);
    Some(Course { index: record.backend, backend, source, is_new: false })
}

/// Whether a flow's record still says where its packets go.
#[inline(always)]
fn holds<T: Tables>(
    context: &Context<'_, T>,
    record: &FlowRecord,
    service: &Service,
    backend: &Backend,
) -> bool {
    let is_draining = backend.state == BackendState::Draining as u8;
    // A backend's place may have gone to another since the record was made.
    if !(is_draining || backend.state == BackendState::Up as u8)
        || backend.service != service.index
        || backend.address != record.destination
        || backend.port != record.destination_port
    {
        return false;
    }
    let protocol = context.parsed.key.protocol;
    if protocol == Protocol::TCP && !is_first(context.parsed) {
        return true;
    }
    // A UDP flow after a long pause is a new one. A SYN again: a retransmission stays with its flow;
    // a client that uses its port for a new connection chooses anew.
    record.life.is_live(protocol, context.now, context.settings)
        && !(protocol == Protocol::TCP
            && (record.life.is_closing() || is_draining && record.life.progress() & ESTABLISHED != 0))
}

/// Chooses a backend for a flow without a record, and records it.
#[inline(always)]
fn begin<'t, T: Tables>(context: &Context<'t, T>, service: &Service) -> Result<Course<'t>, Reason> {
    let Context { tables, parsed, settings, now, progress } = *context;
    let key = &parsed.key;
    // With ends that both answer whatever comes, the two would never stop.
    let sender = key.source_endpoint();
    if key.protocol == Protocol::UDP && (tables.service(&sender).is_some() || tables.reply(&sender).is_some())
    {
        return Err(Reason::SourceIsOurs);
    }
    let (index, backend) = choose(context, service, slot_hash(settings, service, key))?;
    let mut source = key.source_endpoint();
    let pairs = has_pairs(service, backend);
    if parsed.tcp_flags & TCP_RST != 0 {
        // Never recorded: nothing will follow. Without a record, `full-nat` has no port for it.
        return if pairs {
            Err(Reason::ResetWithoutFlow)
        } else {
            Ok(Course { index, backend, source, is_new: false })
        };
    }
    if service.mode == Mode::FullNat as u8 {
        // The flow's own, else all flows of a client with affinity would look for a port in the same few places.
        let hash = flow_hash(settings, key).next();
        source.address = if service.snat_len == 0 {
            backend.source
        } else {
            let place = service.snat_offset + hash.next().reduce(u32::from(service.snat_len));
            *tables.snat_address(place).ok_or(Reason::Internal)?
        };
        source.port = pair::allocate(context, index, &source.address, hash)?;
    } else if pairs {
        pair::claim(context, index)?;
    }
    pair::put_forward(
        tables,
        key,
        &source,
        index,
        &Note { now, progress: if pairs { *progress | PAIRED } else { *progress } },
    )
    .ok_or(Reason::FlowTableFull)?;
    Ok(Course { index, backend, source, is_new: true })
}

/// The backend that the ring gives to a flow without a record.
#[inline(always)]
fn choose<'t, T: Tables>(
    context: &Context<'t, T>,
    service: &Service,
    hash: FlowHash,
) -> Result<(BackendIndex, &'t Backend), Reason> {
    if service.ring_len == 0 {
        return Err(Reason::NoBackend);
    }
    let in_the_middle = context.parsed.key.protocol == Protocol::TCP && !is_first(context.parsed);
    let mut place = hash.reduce(service.ring_len);
    for _ in 0..SLOT_TRIES {
        let slot = context.tables.slot(SlotIndex(service.ring_offset.0 + place)).ok_or(Reason::Internal)?;
        // A TCP flow in its middle belongs to the one who had the slot before, while that one lives.
        if in_the_middle && slot.is_tracked() {
            let prior = context.tables.backend(slot.prior()).ok_or(Reason::Internal)?;
            if prior.service == service.index
                && (prior.state == BackendState::Up as u8 || prior.state == BackendState::Draining as u8)
            {
                return Ok((slot.prior(), prior));
            }
        }
        let owner = context.tables.backend(slot.owner()).ok_or(Reason::Internal)?;
        if owner.state == BackendState::Up as u8 && owner.service == service.index {
            return Ok((slot.owner(), owner));
        }
        place = if place + 1 == service.ring_len { 0 } else { place + 1 };
    }
    Err(Reason::BackendUnusable)
}
