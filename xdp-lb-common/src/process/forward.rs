//! From a client to a backend.

use super::Context;
use super::affinity::{flow_hash, slot_hash};
use super::depart::depart;
use super::guard;
use super::handover;
use super::martian;
use super::own_address::own_address;
use super::pair::{self, Note};
use super::ports;
use super::rewrite::{Departure, check_hops};
use super::room;
use crate::flow::{BACKEND_RESET, COUNTED, Direction, ESTABLISHED, PAIRED, advance, is_closed_and_counted};
use crate::hash::FlowHash;
use crate::headers::{TCP_ACK, TCP_RST, TCP_SYN};
use crate::net::{Endpoint, Protocol};
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{
    Backend, BackendIndex, BackendState, Book, FlowRecord, Mode, RECORDS_FLOWS, REJECTS, Service, SlotIndex,
    Tables,
};

/// How many slots are looked at for a backend that is up: between a backend's failure and its
/// service's new ring, its slots still name it.
const SLOT_TRIES: u32 = 4;

/// Where a packet goes, and as whose.
pub struct Course<'t> {
    /// The backend's place.
    pub index: BackendIndex,
    /// The backend.
    pub backend: &'t Backend,
    /// Whom it seems to come from.
    pub source: Endpoint,
    /// Whether the packet begins a flow, as far as that can be told.
    pub is_new: bool,
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
    guard::check_source(context.tables, service, &context.parsed.key.source)?;
    check_hops(context.parsed)?;
    let Course { index, backend, source, is_new } = course(context, service)?;
    let mut traffic = context.tables.traffic(index).ok_or(Reason::Internal)?;
    let bytes = packet.length() as u64;
    if handover::is_due(context.settings, traffic.packets_in) {
        context.moment.aimed.set(index);
    }
    depart(packet, context, service, backend, source, departure)?;
    traffic.forwarded(bytes, is_new);
    // Without a branch, which the verifier would follow from here on.
    traffic.asked += u64::from(context.parsed.asks & (backend.state == BackendState::Failing as u8));
    Ok(())
}

/// Whether this is a TCP connection's first packet.
#[inline(always)]
pub fn is_first(parsed: &Parsed) -> bool {
    parsed.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// Whether the backend sees an address of this host as the client: in `full-nat`, and in `nat` where it would answer
/// the client directly, from an address that the client does not know. Not for a connection that is there already: it
/// came to be without, since the backend's replies come here by other means.
///
/// A call of its own in the kernel, as [`is_hairpin`] is.
#[inline(never)]
fn is_translated(service: &Service, backend: &Backend, parsed: &Parsed) -> bool {
    let is_hairpin = is_hairpin(service, backend, parsed) & !is_in_mid_flow(parsed);
    (service.mode == Mode::FullNat as u8) | is_hairpin
}

/// Whether a client of a `nat` service is a neighbour of the backend, or the backend itself.
///
/// A call of its own in the kernel, not inlined: the verifier would follow all that comes after from each way through it.
#[inline(never)]
pub fn is_hairpin(service: &Service, backend: &Backend, parsed: &Parsed) -> bool {
    (service.mode == Mode::Nat as u8) & backend.is_neighbour(&parsed.key.source, parsed.is_v4)
}

/// Whether every flow of this service is recorded, whatever its slot does.
#[inline(always)]
pub fn records_flows(service: &Service) -> bool {
    service.mode == Mode::FullNat as u8 || service.options & RECORDS_FLOWS != 0
}

/// Where a client's packet goes. In a settled slot that is its owner, and no flow is looked up or
/// recorded; elsewhere the flow's record tells, and one that has none gets one.
#[inline(always)]
fn course<'t, T: Tables>(context: &Context<'t, T>, service: &Service) -> Result<Course<'t>, Reason> {
    if let Some((index, backend)) = settled(context, service) {
        refuse_own_sender(context.tables, context.parsed)?;
        guard::admit(context, service)?;
        let is_new = is_first(context.parsed);
        return Ok(Course { index, backend, source: context.parsed.key.source_endpoint(), is_new });
    }
    context.moment.now.set(context.tables.now());
    match follow(context, service)? {
        Some(course) => Ok(course),
        None => begin(context, service),
    }
}

/// The backend of a flow that needs no record.
#[inline(always)]
fn settled<'t, T: Tables>(
    context: &Context<'t, T>,
    service: &Service,
) -> Option<(BackendIndex, &'t Backend)> {
    if records_flows(service) {
        return None;
    }
    let (index, backend) = if context.moment.named.0 != 0 {
        let backend = context.tables.backend(context.moment.named)?;
        (!backend.is_shared()).then_some((context.moment.named, backend))?
    } else {
        owner(context.tables, service, slot_hash(context.settings, service, &context.parsed.key))?
    };
    (!is_hairpin(service, backend, context.parsed)).then_some((index, backend))
}

/// The owner of a flow's slot, if it is the one of all flows of that slot, whose replies need no record.
#[inline(always)]
pub fn owner<'t, T: Tables>(
    tables: &'t T,
    service: &Service,
    hash: FlowHash,
) -> Option<(BackendIndex, &'t Backend)> {
    // A ring of no slots would lend the first slot of another.
    if service.ring_len == 0 {
        return None;
    }
    let slot = tables.slot(SlotIndex(service.ring_offset.0 + hash.reduce(service.ring_len)))?;
    let backend = tables.backend(slot.owner())?;
    (!slot.is_tracked() && is_up(service, backend) && !backend.is_shared()).then(|| (slot.owner(), backend))
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

/// Whether this backend takes new flows of the service. A backend's place may have gone to another since a slot or
/// a record was written.
#[inline(always)]
pub fn is_up(service: &Service, backend: &Backend) -> bool {
    (backend.state == BackendState::Up as u8) & (backend.service == service.index)
}

/// Whether this backend's flows of the service end, and whoever goes on with one is told so.
#[inline(always)]
pub fn ends_flows(service: &Service, backend: &Backend) -> bool {
    (backend.state == BackendState::Ending as u8) & (backend.service == service.index)
}

/// Whether this is a packet of a TCP connection that is there already.
#[inline(always)]
fn is_in_mid_flow(parsed: &Parsed) -> bool {
    parsed.key.protocol == Protocol::TCP && !is_first(parsed)
}

/// Whether this backend keeps its flows of the service.
#[inline(always)]
pub fn keeps_flows(service: &Service, backend: &Backend) -> bool {
    BackendState::keeps_flows(backend.state) & (backend.service == service.index)
}

/// The course that the flow's record tells, if it still holds; the record notes this packet. A packet of a flow that has
/// ended with its backend goes nowhere, and never to another backend.
#[inline(always)]
fn follow<'t, T: Tables>(context: &Context<'t, T>, service: &Service) -> Result<Option<Course<'t>>, Reason> {
    let Context { tables, parsed, moment, .. } = *context;
    let now = moment.now.get();
    let Some((record, book)) = pair::recall(tables, &parsed.key) else { return Ok(None) };
    let index = record.backend;
    let backend = tables.backend(index).ok_or(Reason::Internal)?;
    // A connection that came from elsewhere before, or another one of the same client.
    if (moment.named.0 != 0) & (index != moment.named) {
        return Ok(None);
    }
    if !holds(context, &record, service, backend) {
        return if has_ended(context, service, &record, book) { Err(Reason::FlowEnded) } else { Ok(None) };
    }
    let source = Endpoint::new(record.source, record.source_port, parsed.key.protocol);
    let pairs = (record.source != parsed.key.source) | backend.is_shared();
    let seen = record.life.progress();
    let mut progress = advance(seen, Direction::Forward, parsed.tcp_flags);
    if pairs {
        progress |= PAIRED;
    }
    if book == Book::HalfOpen && !is_first(parsed) && parsed.tcp_flags & TCP_RST == 0 {
        if pair::promote(context, &record, progress, pairs).is_none() {
            return Ok(None);
        }
    } else if progress != seen || record.life.last_seen() != now || is_closed_and_counted(progress) {
        // Once a second is enough to keep both halves alive and to notice that one is missing.
        if pairs {
            match pair::refresh_reply(context, &record, &Note { now, progress, book }) {
                Some(merged) => progress = merged,
                None => return Ok(None),
            }
        }
        let ends = is_closed_and_counted(progress);
        if ends {
            room::ended(tables, index);
        }
        record.life.note(now, progress & !(u8::from(ends) * COUNTED));
    }
    Ok(Some(Course { index, backend, source, is_new: false }))
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
    book: Book,
) -> bool {
    let Context { tables, parsed, settings, moment } = *context;
    let now = moment.now.get();
    let Some(backend) = tables.backend(record.backend) else { return false };
    if is_first(parsed) {
        return false;
    }
    if parsed.key.protocol != Protocol::TCP {
        let is_told = ends_flows(service, backend) && record.life.is_live(parsed.key.protocol, now, settings);
        if is_told {
            tables.remove_flow(book, &parsed.key);
        }
        return is_told;
    }
    // The record stays for as long as the client goes on.
    let progress = record.life.progress() | BACKEND_RESET;
    if progress & COUNTED != 0 && backend.service == service.index {
        room::ended(tables, record.backend);
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
    context.moment.now.set(context.tables.now());
    if let Some((record, _)) = pair::recall(context.tables, key) {
        let backend = context.tables.backend(record.backend)?;
        if holds(context, &record, service, backend) {
            return Some((record.backend, Endpoint::new(record.source, record.source_port, key.protocol)));
        }
        if is_in_mid_flow(context.parsed) {
            return None;
        }
    }
    if service.mode == Mode::FullNat as u8 {
        return None;
    }
    let (index, backend) = choose(context, service, slot_hash(context.settings, service, key)).ok()?;
    (!is_hairpin(service, backend, context.parsed)).then_some((index, key.source_endpoint()))
}

/// Whether a flow's record still says where its packets go.
#[inline(always)]
pub fn holds<T: Tables>(
    context: &Context<'_, T>,
    record: &FlowRecord,
    service: &Service,
    backend: &Backend,
) -> bool {
    if !keeps_flows(service, backend)
        || backend.address != record.destination
        || backend.port_for(context.parsed.key.destination_port) != record.destination_port
    {
        return false;
    }
    let protocol = context.parsed.key.protocol;
    if protocol == Protocol::TCP && !is_first(context.parsed) {
        return true;
    }
    // A UDP flow after a long pause is a new one. A SYN again: a retransmission stays with its flow, unless its backend
    // fails; a client that uses its port for a new connection chooses anew.
    let is_draining = backend.state == BackendState::Draining as u8;
    let is_failing = backend.state == BackendState::Failing as u8;
    record.life.is_live(protocol, context.moment.now.get(), context.settings)
        && !(protocol == Protocol::TCP
            && (is_failing | record.life.is_closing()
                || is_draining && record.life.progress() & ESTABLISHED != 0))
}

/// Chooses a backend for a flow without a record, and records it.
#[inline(always)]
fn begin<'t, T: Tables>(context: &Context<'t, T>, service: &Service) -> Result<Course<'t>, Reason> {
    let Context { tables, parsed, settings, moment } = *context;
    let (now, progress) = (moment.now.get(), moment.progress);
    let key = &parsed.key;
    refuse_own_sender(tables, parsed)?;
    guard::admit(context, service)?;
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
            Ok(Course { index, backend, source, is_new: false })
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
    if tables.flow(Book::Flows, key).is_some() {
        // One that holds no more would be found before the new one.
        tables.remove_flow(Book::Flows, key);
    }
    let progress = if pairs { progress | PAIRED } else { progress } | room::first_progress(service);
    pair::put_forward(tables, key, &source, index, &Note { now, progress, book: Book::HalfOpen })
        .ok_or(Reason::FlowTableFull)?;
    room::began(tables, service, index);
    // A flow may have been there before it was recorded: a TCP flow's first packet tells, and for UDP that all are.
    let is_new = if key.protocol == Protocol::TCP { is_first(parsed) } else { records_flows(service) };
    Ok(Course { index, backend, source, is_new })
}

/// What becomes of a packet where the ring has no backend: who begins a flow may be told.
#[inline(always)]
fn no_backend<T: Tables>(context: &Context<'_, T>, service: &Service) -> Reason {
    if (service.options & REJECTS != 0) & !is_in_mid_flow(context.parsed) {
        Reason::NoBackendAnswered
    } else {
        Reason::NoBackend
    }
}

/// The backend that the ring gives to a flow without a record.
#[inline(always)]
fn choose<'t, T: Tables>(
    context: &Context<'t, T>,
    service: &Service,
    hash: FlowHash,
) -> Result<(BackendIndex, &'t Backend), Reason> {
    if context.moment.named.0 != 0 {
        let backend = context.tables.backend(context.moment.named).ok_or(Reason::Internal)?;
        return Ok((context.moment.named, backend));
    }
    if service.ring_len == 0 {
        return Err(no_backend(context, service));
    }
    // UDP has no first packet to tell by: where all flows are recorded, one without a record is new.
    let is_in_mid_flow = is_in_mid_flow(context.parsed);
    let may_be_older =
        is_in_mid_flow | ((context.parsed.key.protocol != Protocol::TCP) & !records_flows(service));
    let mut place = (hash.reduce(service.ring_len) + context.moment.skipped) % service.ring_len;
    if may_be_older {
        // A flow from before the slot moved belongs to the one who had it then, while that one lives.
        let slot = context.tables.slot(SlotIndex(service.ring_offset.0 + place)).ok_or(Reason::Internal)?;
        let prior = context.tables.backend(slot.prior()).ok_or(Reason::Internal)?;
        if keeps_flows(service, prior) {
            return Ok((slot.prior(), prior));
        }
        if is_in_mid_flow & ends_flows(service, prior) {
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
        // The next slots are those of others.
        if is_in_mid_flow {
            return Err(Reason::FlowEnded);
        }
        place = if place + 1 == service.ring_len { 0 } else { place + 1 };
    }
    Err(Reason::BackendUnusable)
}
