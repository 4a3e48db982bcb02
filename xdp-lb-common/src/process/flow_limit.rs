//! Limits on the concurrent flows of a service and its backends. [`super::flow_count`] counts them.

use super::affinity::slot_hash;
use super::choose::holds;
use super::context::{Context, PacketMeta};
use super::records;
use crate::flow_table::outcome::Found;
use crate::flow_table::record::Room;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{BackendState, Service, SlotIndex, Tables};

/// The number of slots to try for a backend with room.
const TRIES: u32 = 32;

/// Finds the number of slots that a new flow must skip, from the one of its hash, to one whose owner has room. A packet in
/// mid-flow, or one that names its backend, is never refused.
///
/// Not inlined: few services have limits. It runs before everything that deals with records, where the verifier would follow it
/// many times, so it looks up the flow's record itself.
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
        // Masks and a remainder: the verifier would follow both outcomes of each comparison, again in each iteration.
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
    // If no backend is up, the choice without limits reports that.
    if has_full == 0 { Ok(()) } else { Err(Reason::BackendsFull) }
}

/// All bits if the number of flows has reached the limit, else 0. A limit of 0 means no limit.
#[inline(always)]
fn full(limit: u32, flows: i64) -> i64 {
    (i64::from(limit.wrapping_sub(1)) - flows) >> 63
}
