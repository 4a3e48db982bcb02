//! Handing out the ports that backends know clients by.

use super::find::read;
use super::forget::forget;
use super::memory::{Steps, WAYS, Word};
use super::outcome::Found;
use super::port_words::{entry, hash_of, place_of, word_of};
use super::record::Room;
use crate::hash::FlowHash;
use crate::net::Port;
use crate::tables::Settings;
use crate::tables::flow::{self, FINS, PAIRED};

/// How many lines of eight ports are looked at for one that nobody has. With half of all words in use, one flow in 2^128 finds
/// none; and then, as many for one that is as good as over.
const TRIES: u32 = 16;

/// How many are looked at for a port that is as good as free: each takes a look at eight flows.
const SCARCE_TRIES: u32 = 2;

/// Seconds without a packet after which a flow that little speaks for ([`Life::worth`](super::life::Life::worth)) gives its port to another where no port
/// is free.
const YIELDS: u32 = 3;

/// Seconds after which one that both sides have closed does.
const CLOSED_YIELDS: u32 = 10;

/// What [`yields`] is called with where ports are not scarce: a flow gives its port away once it is over.
pub const NEVER: u32 = u32::MAX;

/// Gives the flow in the lines that this CPU has taken a port, which its backend knows its client by, and which no other flow
/// towards that backend has. Nothing, where none is free.
#[inline(always)]
pub fn allocate<M: Steps>(memory: &M, settings: &Settings, room: &mut Room) -> Option<()> {
    let mut from = room.hash.next();
    for _ in 0..TRIES {
        if memory.take_port(settings, room, from) {
            return Some(());
        }
        from = from.next();
    }
    // A flood may have taken every word within a second. It loses them as it loses lines.
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

/// Gives it the port that its record has, if no other flow towards that backend has that.
#[inline(always)]
pub fn keep<M: Steps>(memory: &M, settings: &Settings, room: &mut Room) -> Option<()> {
    let port = room.new.source_port();
    let hash = hash_of(&settings.hash_keys, &room.new, port);
    let word = word_of(memory, hash, port)?;
    let there = word.load();
    let is_free = there == 0 || memory.yields(settings, room, there, NEVER);
    take(word, there, entry(hash, room.new.place), is_free)
}

/// Takes one of eight neighbouring ports that is free: [`Steps::take_port`].
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

/// What stands in the word of one of eight neighbouring ports: [`Steps::port_entry`].
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

/// Takes that port: [`Steps::take_port_of`].
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

/// Eight neighbouring ports, whose words are a cache line.
struct Line {
    start: u16,
    hash: FlowHash,
    first: u16,
    count: u16,
}

impl Line {
    /// The one that a hash names, of those for the flow that is to be put.
    #[inline(always)]
    fn of(settings: &Settings, room: &Room, from: FlowHash) -> Self {
        let Settings { snat_port_first: first, snat_port_count: count, .. } = *settings;
        let start = first.wrapping_add(from.reduce(u32::from(count)) as u16);
        Self { start, hash: hash_of(&settings.hash_keys, &room.new, Port::new(start)), first, count }
    }

    /// One of them and its word, counted from the one that the hash names.
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

/// Takes a port's word in which this stood.
#[inline(always)]
fn take<W: Word>(word: &W, there: u64, entry: u64, is_free: bool) -> Option<()> {
    // A record that was forgotten has given its port back.
    (is_free && (word.replace(0, entry) || word.replace(there, entry))).then_some(())
}

/// Whether the flow that a port's word names has no more use for it, or, after so many seconds without a packet, little; its
/// record is forgotten then: [`Steps::yields`].
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
    forget(memory, &settings.hash_keys, other, |life| {
        let (progress, idle) = (life.progress(), life.idle(*now));
        // After two FINs one side still waits for late packets. A reset leaves nothing to wait for.
        let patience = if progress & FINS == FINS { patience.max(CLOSED_YIELDS) } else { patience };
        flow::is_over(protocol, progress, idle, settings)
            || idle >= patience && life.worth(protocol, *now, settings).is_some()
    })
}
