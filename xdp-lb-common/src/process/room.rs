//! How many flows a service and its backends may have at a time.
//!
//! A flow counts from its record's first packet on until a packet closes it, or the backend resets it. What else ends a
//! record (its age, a full table) is not seen here: each census sets the counts right.

use super::affinity::slot_hash;
use super::forward::{holds, is_first};
use super::pair::recall;
use super::{Context, Moment};
use crate::flow::COUNTED;
use crate::net::Protocol;
use crate::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{BackendIndex, BackendState, COUNTS_FLOWS, Service, SlotIndex, Tables};

/// How many slots are looked at for a backend that has room.
const TRIES: u32 = 32;

/// Whether the flows of this service are counted.
#[inline(always)]
pub fn counts_flows(service: &Service) -> bool {
    service.options & COUNTS_FLOWS != 0
}

/// What the progress of a flow begins with: whether it counts. Without a branch, which the verifier would follow through
/// all that comes.
#[inline(always)]
pub fn first_progress(service: &Service) -> u8 {
    const { assert!(COUNTED == COUNTS_FLOWS << 5) };
    (service.options & COUNTS_FLOWS) << 5
}

/// Says how many slots a flow that begins has to go past, from the one of its hash on, to one whose owner has room. One
/// that is certainly under way already, and one that names its backend, is not held up.
///
/// A call of its own in the kernel, not inlined: few services have limits. It comes before all that has to do with
/// records, where the verifier would follow it many times over; so it looks for the flow's record itself.
#[inline(never)]
pub fn find<T: Tables>(
    tables: &T,
    service: &Service,
    parsed: &Parsed,
    moment: &mut Moment,
) -> Result<(), Reason> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    let protocol = parsed.key.protocol;
    if (moment.named.0 != 0) | ((protocol == Protocol::TCP) & !is_first(parsed)) {
        return Ok(());
    }
    if let Some((record, _)) = recall(tables, &parsed.key) {
        moment.now.set(tables.now());
        let context = Context { tables, settings, parsed, moment };
        let backend = tables.backend(record.backend).ok_or(Reason::Internal)?;
        if holds(&context, &record, service, backend) {
            return Ok(());
        }
    }
    if full(service.max_flows, tables.service_flows(service.index).ok_or(Reason::Internal)?) != 0 {
        return Err(Reason::ServiceFull);
    }
    let length = service.ring_len.max(1);
    let mut place = slot_hash(settings, service, &parsed.key).reduce(length);
    let mut has_full = 0;
    for skipped in 0..TRIES {
        let slot =
            tables.slot(SlotIndex(service.ring_offset.0.wrapping_add(place))).ok_or(Reason::Internal)?;
        let owner = tables.backend(slot.owner()).ok_or(Reason::Internal)?;
        // Masks and a remainder, since the verifier would follow both ways of each comparison, each time anew.
        let is_other = u32::from(owner.state ^ BackendState::Up as u8) | (owner.service.0 ^ service.index.0);
        let is_other = -i64::from(is_other) >> 63;
        let flows = tables.backend_flows(slot.owner()).ok_or(Reason::Internal)?;
        let is_full = full(owner.max_flows, flows);
        if is_other | is_full == 0 {
            moment.skipped = skipped;
            return Ok(());
        }
        has_full |= is_full & !is_other;
        place = (place + 1) % length;
    }
    // Where nobody is up, the choice without limits says so.
    if has_full == 0 { Ok(()) } else { Err(Reason::BackendsFull) }
}

/// All bits, where there are as many flows as the limit says; else none. A limit of 0 is more than any number.
#[inline(always)]
fn full(limit: u32, flows: i64) -> i64 {
    (i64::from(limit.wrapping_sub(1)) - flows) >> 63
}

/// Notes that a flow begins, if it counts.
#[inline(always)]
pub fn began<T: Tables>(tables: &T, service: &Service, index: BackendIndex) {
    if counts_flows(service) {
        add(tables, service, index);
    }
}

#[inline(never)]
fn add<T: Tables>(tables: &T, service: &Service, index: BackendIndex) {
    tables.add_flow(service.index, index, 1);
}

/// Notes that a flow of this backend is closed that counted.
#[inline(never)]
pub fn ended<T: Tables>(tables: &T, index: BackendIndex) {
    if let Some(backend) = tables.backend(index) {
        tables.add_flow(backend.service, index, -1);
    }
}
