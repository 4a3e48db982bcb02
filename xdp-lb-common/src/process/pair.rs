//! Pairs of flow records: one under the client's packets, one under the backend's.
//!
//! Each can be made from the other's key and record, so a half that was evicted is put back by the
//! half that is left.
//!
//! These functions are calls of their own in the kernel, not inlined: a program's stack is 512 bytes.

use super::context::Context;
use super::flow_count;
use crate::hash::FlowHash;
use crate::net::{Endpoint, Port};
use crate::packet::headers::TCP_RST;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::flow::{COUNTED, Direction, Life, PAIRED, advance, is_closed_and_counted};
use crate::tables::{BackendIndex, FlowKey, FlowRecord, FlowTable, Inserted, Tables, Tags};

/// How many ports are tried before a flow is refused: with half of all ports in use towards one
/// backend, one flow in 65,536 is.
const PORT_TRIES: u32 = 16;

/// Between two tries. A prime step spreads them, so that they do not run along a crowded stretch.
const PORT_STEP: u32 = 7919;

/// What a packet changes in its flow's records, and where one belongs that is missing.
#[derive(Clone, Copy)]
pub struct Note {
    pub now: u32,
    pub progress: u8,
    pub table: FlowTable,
}

/// A flow's record, and the table that it is in.
#[inline(always)]
pub fn recall<'t, T: Tables>(tables: &'t T, key: &FlowKey) -> Option<(T::Flow<'t>, FlowTable)> {
    if let Some(record) = tables.flow(FlowTable::Flows, key) {
        return Some((record, FlowTable::Flows));
    }
    tables.flow(FlowTable::HalfOpen, key).map(|record| (record, FlowTable::HalfOpen))
}

/// Records what becomes of a client's packets: they leave from `source` to their backend.
#[inline(never)]
pub fn put_forward<T: Tables>(
    tables: &T,
    key: &FlowKey,
    source: &Endpoint,
    index: BackendIndex,
    note: &Note,
) -> Option<()> {
    let backend = tables.backend(index)?;
    let record = FlowRecord {
        source: source.address,
        destination: backend.address,
        source_port: source.port,
        destination_port: backend.port_for(key.destination_port),
        backend: index,
        life: Life::new(Direction::Forward, note.now, note.progress),
        // Nobody reads these of a client's packets: the backend's own record has them, and may change. But zeros would be
        // a call of memset, for which kernels before 6.8 have no stack left.
        tags: Tags::default(),
        ifindex: backend.ifindex,
        destination_mac: backend.destination_mac,
        source_mac: backend.source_mac,
    };
    tables.put_flow(note.table, key, &record)
}

/// What becomes of the replies to a client's packets: they go back the way those came.
#[inline(always)]
fn reply_record(parsed: &Parsed, backend: BackendIndex, note: &Note) -> FlowRecord {
    let key = &parsed.key;
    FlowRecord {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        backend,
        life: Life::new(Direction::Reply, note.now, note.progress),
        tags: parsed.tags,
        ifindex: parsed.ingress,
        destination_mac: parsed.source_mac,
        source_mac: parsed.destination_mac,
    }
}

/// Gives a new flow the first free port of `source`'s address, which the backend sees, and records the replies under it.
/// Where that is the client's address, the client's port comes first.
#[inline(never)]
pub fn allocate<T: Tables>(
    context: &Context<'_, T>,
    index: BackendIndex,
    source: &mut Endpoint,
    hash: FlowHash,
) -> Result<(), Reason> {
    let key = &context.parsed.key;
    let backend = context.tables.backend(index).ok_or(Reason::Internal)?;
    let count = u32::from(context.settings.snat_port_count).max(1);
    let port_at = |place: u32| Port::new(context.settings.snat_port_first.wrapping_add(place as u16));
    // Not an argument: the verifier would follow all tries once for each value.
    let keeps_port = source.address == key.source;
    // The client's own port has a place, too, though that may lie outside of the range.
    let own = key.source_port.get().wrapping_sub(context.settings.snat_port_first);
    let mut place = if keeps_port { u32::from(own) } else { hash.reduce(count) };
    let sender = backend.endpoint_for(&key.destination_endpoint());
    let mut reply = FlowKey::new(sender, Endpoint::new(source.address, key.source_port, key.protocol));
    let record = reply_record(context.parsed, index, &first_note(context));
    // A range that is a multiple of the step would be tried at few places only.
    let step = if count.is_multiple_of(PORT_STEP) { 1 } else { PORT_STEP };
    // A place that is none, rather than an Option: the verifier would look at each try twice over.
    let mut closed = count;
    for _ in 0..PORT_TRIES {
        reply.destination_port = port_at(place);
        match take(context, &reply, &record)? {
            Taken::Ours => {
                source.port = reply.destination_port;
                return Ok(());
            }
            Taken::Closed => closed = place,
            Taken::Busy => {}
        }
        place = (place + step) % count;
    }
    if closed == count {
        return Err(Reason::SnatPortsExhausted);
    }
    reply.destination_port = port_at(closed);
    source.port = reply.destination_port;
    replace(context, &reply, &record)
}

/// What the first packet of a flow with a pair of records says.
#[inline(always)]
fn first_note<T: Tables>(context: &Context<'_, T>) -> Note {
    Note { now: context.meta.now.get(), progress: context.meta.progress | PAIRED, table: FlowTable::HalfOpen }
}

/// What became of a reply's place in the table.
enum Taken {
    /// It is this flow's.
    Ours,
    /// It is that of a flow that is closed, though not for long.
    Closed,
    /// It is another flow's.
    Busy,
}

/// Puts a reply's record where there is none, where the one there is this very flow's (its other half
/// was evicted), or where it is nobody's any more.
#[inline(always)]
fn take<T: Tables>(context: &Context<'_, T>, reply: &FlowKey, record: &FlowRecord) -> Result<Taken, Reason> {
    let tables = context.tables;
    if let Some(other) = tables.flow(FlowTable::Flows, reply) {
        if let Some(taken) = is_taken(context, &other) {
            return Ok(taken);
        }
        tables.remove_flow(FlowTable::Flows, reply);
    }
    match tables.put_new_flow(FlowTable::HalfOpen, reply, record) {
        Inserted::New => return Ok(Taken::Ours),
        Inserted::Full => return Err(Reason::FlowTableFull),
        Inserted::Occupied => {}
    }
    if let Some(other) = tables.flow(FlowTable::HalfOpen, reply)
        && let Some(taken) = is_taken(context, &other)
    {
        return Ok(taken);
    }
    tables.put_flow(FlowTable::HalfOpen, reply, record).ok_or(Reason::FlowTableFull)?;
    Ok(Taken::Ours)
}

/// Whose a reply's record is, where it is neither this flow's nor over.
#[inline(always)]
fn is_taken<T: Tables>(context: &Context<'_, T>, other: &FlowRecord) -> Option<Taken> {
    let key = &context.parsed.key;
    if is_partner(key, other) || other.life.is_over(key.protocol, context.meta.now.get(), context.settings) {
        return None;
    }
    Some(if other.life.may_yield(context.meta.now.get()) { Taken::Closed } else { Taken::Busy })
}

/// Puts a reply's record in the place of a closed flow's.
#[inline(always)]
fn replace<T: Tables>(context: &Context<'_, T>, reply: &FlowKey, record: &FlowRecord) -> Result<(), Reason> {
    context.tables.remove_flow(FlowTable::Flows, reply);
    context.tables.put_flow(FlowTable::HalfOpen, reply, record).ok_or(Reason::FlowTableFull)
}

/// Writes a flow that has sent its second packet over from `HALF_OPEN` to `FLOWS`; with `pairs`, the reply half too.
/// Nothing, where the reply half's place belongs to another flow by now: then this flow has no record any more.
#[inline(never)]
pub fn promote<T: Tables>(
    context: &Context<'_, T>,
    record: &FlowRecord,
    progress: u8,
    pairs: bool,
) -> Option<()> {
    let Context { tables, parsed, meta, .. } = *context;
    let now = meta.now.get();
    let mut note = Note { now, progress, table: FlowTable::Flows };
    if pairs {
        let reply = partner_key(&parsed.key, record);
        if let Some((found, _)) = recall(tables, &reply) {
            if !is_partner(&parsed.key, &found) {
                return None;
            }
            note.progress = Direction::Forward.merge(progress, found.life.progress());
        }
        tables.put_flow(FlowTable::Flows, &reply, &reply_record(parsed, record.backend, &note))?;
        tables.remove_flow(FlowTable::HalfOpen, &reply);
    }
    let source = Endpoint::new(record.source, record.source_port, parsed.key.protocol);
    put_forward(tables, &parsed.key, &source, record.backend, &note)?;
    tables.remove_flow(FlowTable::HalfOpen, &parsed.key);
    Some(())
}

/// Tells the reply half what the forward half has seen, and puts it back where it is missing; says how
/// far the flow has come by what both know. Nothing, where the reply half's place belongs to another
/// flow by now: then this flow has no record any more.
#[inline(never)]
pub fn refresh_reply<T: Tables>(context: &Context<'_, T>, record: &FlowRecord, note: &Note) -> Option<u8> {
    let parsed = context.parsed;
    let reply = partner_key(&parsed.key, record);
    let mut note = *note;
    if let Some((found, table)) = recall(context.tables, &reply) {
        if !is_partner(&parsed.key, &found) {
            return None;
        }
        note.progress = Direction::Forward.merge(note.progress, found.life.progress());
        note.table = table;
        if comes_the_same_way(&found, parsed) {
            found.life.note(note.now, note.progress);
            return Some(note.progress);
        }
    }
    context.tables.put_flow(note.table, &reply, &reply_record(parsed, record.backend, &note))?;
    Some(note.progress)
}

/// Tells the forward half what the reply half has seen, and puts it back where it is missing; says how
/// far the flow has come by what both know.
#[inline(never)]
pub fn refresh_forward<T: Tables>(tables: &T, key: &FlowKey, record: &FlowRecord, note: &Note) -> u8 {
    let forward = partner_key(key, record);
    if let Some((found, _)) = recall(tables, &forward) {
        if !is_partner(key, &found) {
            return note.progress;
        }
        let progress = Direction::Reply.merge(note.progress, found.life.progress());
        let progress = end(tables, record.backend, progress);
        found.life.note(note.now, progress);
        return progress;
    }
    // Where there is no room, the client's next packet tries again.
    let _ = put_forward(tables, &forward, &key.destination_endpoint(), record.backend, note);
    note.progress
}

/// What the progress of a flow is once it counts no more, where it is closed.
#[inline(always)]
fn end<T: Tables>(tables: &T, backend: BackendIndex, progress: u8) -> u8 {
    if !is_closed_and_counted(progress) {
        return progress;
    }
    flow_count::ended(tables, backend);
    progress & !COUNTED
}

/// Notes in the record of the flow of this client's packets, if it has one, that this backend has reset it. A packet that
/// somebody made up is answered so, and counts no longer.
#[inline(always)]
pub fn reset<T: Tables>(tables: &T, key: &FlowKey, backend: BackendIndex) {
    let Some((record, _)) = recall(tables, key) else { return };
    if record.life.is_reply() || record.backend != backend {
        return;
    }
    let progress = advance(record.life.progress(), Direction::Reply, TCP_RST);
    record.life.note(tables.now(), end(tables, backend, progress));
}

/// The key of the other half.
#[inline(always)]
fn partner_key(key: &FlowKey, record: &FlowRecord) -> FlowKey {
    FlowKey::new(
        Endpoint::new(record.destination, record.destination_port, key.protocol),
        Endpoint::new(record.source, record.source_port, key.protocol),
    )
}

/// Whether this record is the other half of the record under `key`. With `&`, not `&&`: the verifier
/// would follow each branch.
#[inline(always)]
fn is_partner(key: &FlowKey, record: &FlowRecord) -> bool {
    (record.source == key.destination)
        & (record.destination == key.source)
        & (record.source_port == key.destination_port)
        & (record.destination_port == key.source_port)
}

#[inline(always)]
fn comes_the_same_way(reply: &FlowRecord, parsed: &Parsed) -> bool {
    reply.ifindex == parsed.ingress
        && reply.tags == parsed.tags
        && reply.destination_mac == parsed.source_mac
        && reply.source_mac == parsed.destination_mac
}
