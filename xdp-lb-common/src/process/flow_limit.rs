//! How many flows a service and its backends may have at a time; [`super::flow_count`] counts them.

use super::affinity::slot_hash;
use super::choose::holds;
use super::context::{Context, PacketMeta};
use super::records;
use crate::flow_table::outcome::Found;
use crate::flow_table::record::Room;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{BackendState, Service, SlotIndex, Tables};

/// How many slots are looked at for a backend that has room.
const TRIES: u32 = 32;

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
    meta: &mut PacketMeta,
    room: &mut Room,
) -> Result<(), Reason> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    if (meta.named.0 != 0) | parsed.is_in_mid_flow() {
        return Ok(());
    }
    if records::of_client(tables, settings, &parsed.key, room) == Found::Record {
        meta.now.set(tables.now());
        let context = Context { tables, settings, parsed, meta };
        let backend = tables.backend(room.record.backend()).ok_or(Reason::Internal)?;
        if holds(&context, &room.record, service, backend) {
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
        let is_other =
            u32::from(owner.state.difference(BackendState::Up)) | (owner.service.0 ^ service.index.0);
        let is_other = -i64::from(is_other) >> 63;
        let flows = tables.backend_flows(slot.owner()).ok_or(Reason::Internal)?;
        let is_full = full(owner.max_flows, flows);
        if is_other | is_full == 0 {
            meta.skipped = skipped;
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
