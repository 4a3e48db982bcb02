//! Inserts the record of a new flow.

use super::find::read;
use super::forget::forget;
use super::life::Life;
use super::lines::{take, vacate, write};
use super::memory::{Eviction, LEVELS, Level, Steps, WAYS, Word};
use super::outcome::{Begun, Found, Manner};
use super::port_words::give_back;
use super::ports;
use super::record::{Record, Room, protocol_of};
use super::tags::{self, Matches};
use crate::hash::FlowHash;
use crate::tables::Settings;
use crate::tables::flow::PAIRED;

/// Inserts the record in `Room::new`: in free lines, or in those of the record that was found.
///
/// A flow with an SNAT port is [`PAIRED`]. One that should keep its port and cannot is recorded without one.
#[inline(always)]
pub fn begin<M: Steps>(memory: &M, settings: &Settings, room: &mut Room, manner: Manner) -> Begun {
    if lock(memory, room.hash).is_none() {
        return Begun::Busy;
    }
    let begun = begin_locked(memory, settings, room, manner);
    unlock(memory, room.hash);
    begun
}

#[inline(always)]
fn begin_locked<M: Steps>(memory: &M, settings: &Settings, room: &mut Room, manner: Manner) -> Begun {
    if manner.has(Manner::ANEW) {
        if take(memory, &mut room.record).is_none() {
            return Begun::Busy;
        }
        give_back(memory, &settings.hash_keys, &room.record);
        room.new.place = room.record.place;
        room.new.words[0] = room.record.life().taken().to_bits();
    } else {
        let claimed = claim(memory, settings, room);
        if claimed != Begun::New {
            return claimed;
        }
    }
    let is_own = manner.has(Manner::OWN_PORT) && ports::keep(memory, settings, room).is_some();
    let is_paired = is_own || manner.has(Manner::PORT) && ports::allocate(memory, settings, room).is_some();
    if !is_paired && manner.has(Manner::PORT) {
        let Room { new, .. } = room;
        let _ = vacate(memory, new.place, new.is_v6(), new.life());
        return Begun::NoPort;
    }
    let progress = if is_paired { manner.progress() | PAIRED } else { manner.progress() };
    if publish(memory, room, progress).is_some() { Begun::New } else { Begun::Full }
}

/// How often to look for free lines, evicting records if there are none.
const ROUNDS: u32 = 2;

const LOCKED: u64 = 1;

#[inline(always)]
fn lock<M: Steps>(memory: &M, hash: FlowHash) -> Option<()> {
    let word = memory.lock(hash)?;
    for _ in 0..M::LOCK_TRIES {
        if word.load() == 0 && word.replace(0, LOCKED) {
            return Some(());
        }
    }
    None
}

#[inline(always)]
fn unlock<M: Steps>(memory: &M, hash: FlowHash) {
    if let Some(word) = memory.lock(hash) {
        word.replace(LOCKED, 0);
    }
}

/// Takes lines for a flow without a record. If its buckets are full, evicts records that are worth less than a new flow
/// ([`Life::worth`]).
#[inline(always)]
fn claim<M: Steps>(memory: &M, settings: &Settings, room: &mut Room) -> Begun {
    match memory.find_flow(settings, room) {
        Found::Record => return Begun::Already,
        Found::Busy => return Begun::Busy,
        Found::Nothing => {}
    }
    for _ in 0..ROUNDS {
        if let Some(number) = take_free(memory, room) {
            if number > memory.reach() {
                memory.note_reach(number);
            }
            return Begun::New;
        }
        if !make_room(memory, settings, room) {
            break;
        }
    }
    Begun::Full
}

/// Turns taken lines into the flow's record, with this progress.
#[inline(always)]
fn publish<M: Steps>(memory: &M, room: &mut Room, progress: u8) -> Option<()> {
    let Room { new: record, hash, now, .. } = room;
    write(record, memory)?;
    let (bucket, way) = (record.place / WAYS, record.place % WAYS);
    let word = memory.tags(bucket)?;
    let there = word.load();
    let mut change = tags::change(way, tags::of(there, way), tags::tag(*hash));
    if record.is_v6() {
        let more = &memory.line(record.place ^ 1)?[0];
        let life = Life::from_bits(more.load());
        more.replace(life.to_bits(), life.lent().to_bits());
        change = change.wrapping_add(tags::change(way ^ 1, tags::of(there, way ^ 1), tags::BELONGS));
    }
    if change != 0 {
        word.add(change);
    }
    let taken = record.life();
    record.words[0] = taken.begun(*now, progress).to_bits();
    memory.line(record.place)?[0].replace(taken.to_bits(), record.words[0]);
    Some(())
}

/// Takes free lines in the first level that has some, and returns its number.
#[inline(always)]
fn take_free<M: Steps>(memory: &M, room: &mut Room) -> Option<u32> {
    for behind in (0..LEVELS).rev() {
        if memory.take_lines(room, behind) {
            return Some(LEVELS - behind);
        }
    }
    None
}

/// Takes free lines in the level with this many larger ones: in the emptier of the flow's two buckets, else in the other
/// ([`Steps::take_lines`]).
#[inline(always)]
pub fn take_lines<M: Steps>(memory: &M, room: &mut Room, behind: u32) -> Option<()> {
    let mut homes = Level::of(memory, room.hash, behind)?.homes;
    let [free, others] = [free_of(memory, homes[0])?, free_of(memory, homes[1])?];
    if others.count() > free.count() {
        homes = [homes[1], homes[0]];
    }
    for home in homes {
        if take_of_bucket(memory, room, home).is_some() {
            return Some(());
        }
    }
    None
}

/// The free lines of a place's bucket.
#[inline(always)]
fn free_of<M: Steps>(memory: &M, place: u32) -> Option<Matches> {
    Some(tags::free(memory.tags(place / WAYS)?.load()))
}

/// Takes free lines in this place's bucket: the place itself, if enough free pairs remain for IPv6; else a line whose neighbour is
/// in use. For IPv6, a pair.
#[inline(always)]
fn take_of_bucket<M: Steps>(memory: &M, room: &mut Room, home: u32) -> Option<()> {
    let (bucket, way) = (home / WAYS, home % WAYS);
    let free = free_of(memory, home)?;
    let pairs = free.pairs();
    let is_v6 = room.key.is_v6();
    let choices = if is_v6 {
        let home = pairs.only(way & !1);
        [home, pairs, Matches::default()]
    } else {
        let spares_pairs = pairs.only(way).count() == 0 || pairs.count() >= 2 * SPARE_PAIRS;
        let home =
            if spares_pairs && free.count() >= SPARE_LINES { free.only(way) } else { Matches::default() };
        [home, free.without(pairs), pairs]
    };
    for mut choices in choices {
        for _ in 0..WAYS {
            let way = choices.take();
            if way >= WAYS {
                break;
            }
            if take_line(memory, bucket * WAYS + way, is_v6, &mut room.new).is_some() {
                return Some(());
            }
        }
    }
    None
}

/// How many lines and how many pairs of a bucket must be free for a flow to get its first choice. In a simulation of 4 million
/// insertions into a last level at its maximum load, half of the flows get their first choice, all IPv4 flows have room, and IPv6
/// flows find room as often as without this rule, but for one in 200.
const SPARE_LINES: u32 = 3;
const SPARE_PAIRS: u32 = 2;

#[inline(always)]
fn take_line<M: Steps>(memory: &M, place: u32, is_v6: bool, into: &mut Record) -> Option<()> {
    let word = &memory.line(place)?[0];
    let life = Life::from_bits(word.load());
    if !life.is_free() || !word.replace(life.to_bits(), life.taken().to_bits()) {
        return None;
    }
    if is_v6 {
        let more = &memory.line(place ^ 1)?[0];
        let other = Life::from_bits(more.load());
        if !other.is_free() || !more.replace(other.to_bits(), other.taken().to_bits()) {
            word.replace(life.taken().to_bits(), life.taken().freed().to_bits());
            return None;
        }
    }
    into.place = place;
    into.words[0] = life.taken().to_bits();
    Some(())
}

/// Evicts the record that is worth least in the flow's two buckets of the last level, if it is worth less than a new flow. Returns
/// whether there is room now.
#[inline(always)]
fn make_room<M: Steps>(memory: &M, settings: &Settings, room: &mut Room) -> bool {
    let is_v6 = room.key.is_v6();
    let (mut least, mut place) = (u32::MAX, 0);
    let Some(level) = Level::of(memory, room.hash, 0) else { return false };
    for home in level.homes {
        for way in 0..WAYS {
            let at = home / WAYS * WAYS + way;
            let worth = memory.worth(settings, room, at);
            if worth < least {
                (least, place) = (worth, at);
            }
        }
    }
    if least == u32::MAX {
        return false;
    }
    memory.make_way(settings, room, place);
    if is_v6 {
        memory.make_way(settings, room, place ^ 1);
    }
    true
}

/// The worth of the record in this line, and for an IPv6 flow also of the one in its neighbour. [`u32::MAX`]: it must stay. A free
/// line is one that another CPU is taking, or has just freed.
#[inline(always)]
pub fn worth<M: Steps>(memory: &M, settings: &Settings, room: &Room, place: u32) -> u32 {
    let one = worth_of_line(memory, settings, room, place);
    if room.key.is_v6() { one.max(worth_of_line(memory, settings, room, place ^ 1)) } else { one }
}

/// An IPv6 record is only evicted by its first line.
#[inline(always)]
fn worth_of_line<M: Steps>(memory: &M, settings: &Settings, room: &Room, place: u32) -> u32 {
    let Some(line) = memory.line(place) else { return u32::MAX };
    let life = Life::from_bits(line[0].load());
    if life.is_free() | life.belongs() & room.key.is_v6() {
        return 0;
    }
    if !life.is_record() {
        return u32::MAX;
    }
    life.worth(protocol_of(line[3].load()), room.now, settings).unwrap_or(u32::MAX)
}

/// Evicts the record in a line ([`Steps::make_way`]).
#[inline(always)]
pub fn make_way<M: Steps>(memory: &M, settings: &Settings, room: &mut Room, place: u32) {
    let Room { other, now, .. } = room;
    if read(memory, place, other, |_| true) == Found::Record {
        let protocol = other.protocol();
        let is_gone =
            forget(memory, &settings.hash_keys, other, |life| life.worth(protocol, *now, settings).is_some());
        if is_gone && !other.life().is_over(protocol, *now, settings) {
            memory.count_eviction(Eviction::Room);
        }
    }
}
