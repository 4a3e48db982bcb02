//! Handing out SNAT ports.

use super::find::read;
use super::forget::forget;
use super::memory::{Eviction, Steps, WAYS, Word};
use super::outcome::Found;
use super::port_words::{entry, hash_of, place_of, word_of};
use super::record::Room;
use crate::hash::FlowHash;
use crate::net::Port;
use crate::tables::Settings;
use crate::tables::flow::{self, FINS, PAIRED};

/// How many lines of eight ports to search for a free one. With half of all words in use, one flow in 2^128 finds none. Then as many
/// are searched for one whose flow is almost over.
const TRIES: u32 = 16;

/// How many to search for a port whose flow is almost over: each takes a look at eight flows.
const SCARCE_TRIES: u32 = 2;

/// If no port is free, a flow with little evidence ([`Life::worth`](super::life::Life::worth)) gives up its port after this many
/// seconds without a packet.
const YIELDS: u32 = 3;

/// The same for a flow that both sides have closed.
const CLOSED_YIELDS: u32 = 10;

/// The value for [`yields`] while ports are not scarce: a flow gives up its port once it is over.
pub const NEVER: u32 = u32::MAX;

/// Gives the flow in the lines that this CPU has taken an SNAT port that no other flow to that backend has. `None` if none is free.
#[inline(always)]
pub fn allocate<M: Steps>(memory: &M, settings: &Settings, room: &mut Room) -> Option<()> {
    let mut from = room.hash.next();
    for _ in 0..TRIES {
        if memory.take_port(settings, room, from) {
            return Some(());
        }
        from = from.next();
    }
    // A flood may take every word within a second. Its flows lose them as they lose lines.
    for patience in [YIELDS, 0] {
        from = room.hash.next();
        for _ in 0..SCARCE_TRIES {
            for number in 0..WAYS {
                let there = memory.port_entry(settings, room, from, number);
                if there != 0
                    && memory.yields(settings, room, there, patience)
                    && memory.take_port_of(settings, room, from, number, there)
                {
                    return Some(());
                }
            }
            from = from.next();
        }
    }
    None
}

/// Gives it its record's port, if no other flow to that backend has it.
#[inline(always)]
pub fn keep<M: Steps>(memory: &M, settings: &Settings, room: &mut Room) -> Option<()> {
    let port = room.new.source_port();
    let hash = hash_of(&settings.hash_keys, &room.new, port);
    let word = word_of(memory, hash, port)?;
    let there = word.load();
    let is_free = there == 0 || memory.yields(settings, room, there, NEVER);
    take(word, there, entry(hash, room.new.place), is_free)
}

/// Takes a free one of eight consecutive ports ([`Steps::take_port`]).
#[inline(always)]
pub fn take_of_line<M: Steps>(
    memory: &M,
    settings: &Settings,
    room: &mut Room,
    from: FlowHash,
) -> Option<()> {
    let line = Line::of(settings, room, from);
    for number in 0..WAYS {
        let (port, word) = line.port(memory, number)?;
        if line.has(port) && word.load() == 0 && word.replace(0, entry(line.hash, room.new.place)) {
            room.new.set_source_port(port);
            return Some(());
        }
    }
    None
}

/// The word of one of eight consecutive ports ([`Steps::port_entry`]).
#[inline(always)]
pub fn entry_of_line<M: Steps>(
    memory: &M,
    settings: &Settings,
    room: &Room,
    from: FlowHash,
    number: u32,
) -> Option<u64> {
    let line = Line::of(settings, room, from);
    let (port, word) = line.port(memory, number)?;
    line.has(port).then(|| word.load())
}

/// Takes that port ([`Steps::take_port_of`]).
#[inline(always)]
pub fn take_one_of_line<M: Steps>(
    memory: &M,
    settings: &Settings,
    room: &mut Room,
    from: FlowHash,
    number: u32,
    there: u64,
) -> Option<()> {
    let line = Line::of(settings, room, from);
    let (port, word) = line.port(memory, number)?;
    take(word, there, entry(line.hash, room.new.place), true)?;
    room.new.set_source_port(port);
    Some(())
}

/// Eight consecutive ports, whose words share a cache line.
struct Line {
    start: u16,
    hash: FlowHash,
    first: u16,
    count: u16,
}

impl Line {
    /// Those of the new flow that a hash selects.
    #[inline(always)]
    fn of(settings: &Settings, room: &Room, from: FlowHash) -> Self {
        let Settings { snat_port_first: first, snat_port_count: count, .. } = *settings;
        let start = first.wrapping_add(from.reduce(u32::from(count)) as u16);
        Self { start, hash: hash_of(&settings.hash_keys, &room.new, Port::new(start)), first, count }
    }

    /// One of them and its word, counted from the one that the hash selects.
    #[inline(always)]
    fn port<'m, M: Steps>(&self, memory: &'m M, number: u32) -> Option<(Port, &'m M::Word)> {
        let port = Port::new(self.start & !7 | self.start.wrapping_add(number as u16) & 7);
        Some((port, word_of(memory, self.hash, port)?))
    }

    /// Whether it may be handed out.
    #[inline(always)]
    fn has(&self, port: Port) -> bool {
        port.get().wrapping_sub(self.first) < self.count
    }
}

/// Takes a port's word, which contained this.
#[inline(always)]
fn take<W: Word>(word: &W, there: u64, entry: u64, is_free: bool) -> Option<()> {
    // A record that was removed has freed its port.
    (is_free && (word.replace(0, entry) || word.replace(there, entry))).then_some(())
}

/// Whether the flow of a port's word no longer needs it, or gives it up after this many seconds without a packet. If so, its record
/// is removed ([`Steps::yields`]).
#[inline(always)]
pub fn yields<M: Steps>(memory: &M, settings: &Settings, room: &mut Room, there: u64, patience: u32) -> bool {
    let Room { other, now, .. } = room;
    match read(memory, place_of(there), other, |_| true) {
        Found::Nothing => return true,
        Found::Busy => return false,
        Found::Record => {}
    }
    let its = entry(hash_of(&settings.hash_keys, other, other.source_port()), other.place);
    let protocol = other.protocol();
    if its != there || other.life().progress() & PAIRED == 0 {
        return true;
    }
    let is_gone = forget(memory, &settings.hash_keys, other, |life| {
        let (progress, idle) = (life.progress(), life.idle(*now));
        // After two FINs, one side still waits for late packets. After a reset, neither does.
        let patience = if progress & FINS == FINS { patience.max(CLOSED_YIELDS) } else { patience };
        flow::is_over(protocol, progress, idle, settings)
            || idle >= patience && life.worth(protocol, *now, settings).is_some()
    });
    if is_gone && !other.life().is_over(protocol, *now, settings) {
        memory.count_eviction(Eviction::Port);
    }
    is_gone
}
