//! Handing out the ports that backends know clients by.

use super::find::read;
use super::forget::forget;
use super::memory::{Steps, WAYS, Word};
use super::outcome::Found;
use super::port_words::{entry, hash_of, place_of, word_of};
use super::record::Room;
use crate::hash::FlowHash;
use crate::net::{Port, Protocol};
use crate::tables::Settings;
use crate::tables::flow::{self, ESTABLISHED, PAIRED};

/// How many lines of eight ports are looked at for one that nobody has. With half of all words in use, one flow in 2^128 finds
/// none; and then, as many for one that is as good as over.
const TRIES: u32 = 16;

/// How many are looked at for a port that is as good as free: each takes a look at eight flows.
const SCARCE_TRIES: u32 = 2;

/// Seconds after which a flow of which one packet came gives its port to another where no port is free.
const HALF_OPEN_YIELDS: u32 = 3;

/// Seconds after which one that is closed does.
const CLOSED_YIELDS: u32 = 10;

/// Gives the flow in the lines that this CPU has taken a port, which its backend knows its client by, and which no other flow
/// towards that backend has. Nothing, where none is free.
#[inline(always)]
pub fn allocate<M: Steps>(memory: &M, settings: &Settings, room: &mut Room) -> Option<()> {
    for scarce in [false, true] {
        let mut from = room.hash.next();
        for _ in 0..if scarce { SCARCE_TRIES } else { TRIES } {
            if memory.take_port(settings, room, from, scarce) {
                return Some(());
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
    let is_free = there == 0 || memory.yields(settings, room, there, false);
    take(word, there, entry(hash, room.new.place), is_free)
}

/// Takes one of eight neighbouring ports: [`Steps::take_port`].
#[inline(always)]
pub fn take_of_line<M: Steps>(
    memory: &M,
    settings: &Settings,
    room: &mut Room,
    from: FlowHash,
    scarce: bool,
) -> Option<()> {
    let Settings { snat_port_first: first, snat_port_count: count, .. } = *settings;
    let start = first.wrapping_add(from.reduce(u32::from(count)) as u16);
    let hash = hash_of(&settings.hash_keys, &room.new, Port::new(start));
    for number in 0..WAYS as u16 {
        let port = start & !7 | start.wrapping_add(number) & 7;
        if port.wrapping_sub(first) >= count {
            continue;
        }
        let word = word_of(memory, hash, Port::new(port))?;
        let there = word.load();
        let is_free = there == 0 || scarce && memory.yields(settings, room, there, true);
        if take(word, there, entry(hash, room.new.place), is_free).is_some() {
            room.new.set_source_port(Port::new(port));
            return Some(());
        }
    }
    None
}

/// Takes a port's word in which this stood.
#[inline(always)]
fn take<W: Word>(word: &W, there: u64, entry: u64, is_free: bool) -> Option<()> {
    // A record that was forgotten has given its port back.
    (is_free && (word.replace(0, entry) || word.replace(there, entry))).then_some(())
}

/// Whether the flow that a port's word names has no more use for it, or little where they are `scarce`; its record is forgotten
/// then: [`Steps::yields`].
#[inline(always)]
pub fn yields<M: Steps>(memory: &M, settings: &Settings, room: &mut Room, there: u64, scarce: bool) -> bool {
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
        let is_half_open = protocol == Protocol::TCP && progress & ESTABLISHED == 0;
        flow::is_over(protocol, progress, idle, settings)
            || scarce
                && (flow::is_closed(progress) && idle > CLOSED_YIELDS
                    || is_half_open && idle > HALF_OPEN_YIELDS)
    })
}
