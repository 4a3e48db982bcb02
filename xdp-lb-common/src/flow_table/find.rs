//! Finding a flow's record.

use super::life::Life;
use super::lines::{read_more, read_rest};
use super::memory::{LEVELS, Level, Memory, Steps, WAYS, Word};
use super::outcome::Found;
use super::record::{Record, Room};
use super::tags::{Matches, matching, tag};
use crate::tables::Settings;

/// Finds the record of the flow in the room, and copies a consistent snapshot of it there.
#[inline(always)]
pub fn find<M: Steps>(memory: &M, settings: &Settings, room: &mut Room) -> Found {
    memory.aim(settings, room);
    for behind in (0..LEVELS).rev() {
        let Some(level) = Level::of(memory, room.hash, behind) else { continue };
        let [first, second] = level.homes;
        let (Some(tags), Some(others)) = (memory.tags(first / WAYS), memory.tags(second / WAYS)) else {
            break;
        };
        let (tags, others) = (tags.load(), others.load());
        // Prefetch the likely lines in the level that has most flows, while the tags are loaded.
        if level.is_far && memory.reach() == level.number {
            memory.touch(first);
            memory.touch(second);
        }
        for (place, tags) in [(first, tags), (second, others)] {
            let matches = matching(tags, tag(room.hash));
            if matches.is_empty() {
                continue;
            }
            let found = memory.find_in(room, place, matches);
            if found != Found::Nothing {
                return found;
            }
        }
    }
    Found::Nothing
}

/// The same among some lines of this place's bucket ([`Steps::find_in`]).
#[inline(always)]
pub fn find_in<M: Memory>(memory: &M, room: &mut Room, place: u32, mut matches: Matches) -> Found {
    let Room { key, record: into, .. } = room;
    for _ in 0..WAYS {
        let way = matches.take();
        if way >= WAYS {
            break;
        }
        let found = read(memory, place / WAYS * WAYS + way, into, |record| key.may_be(&record.words));
        if found != Found::Nothing && (found == Found::Busy || key.is(into)) {
            return found;
        }
    }
    Found::Nothing
}

/// Copies a consistent snapshot of the record at this place, if there is one and its first line matches.
#[inline(always)]
pub fn read<M: Memory>(memory: &M, place: u32, into: &mut Record, may_be: impl Fn(&Record) -> bool) -> Found {
    let Some(line) = memory.line(place) else { return Found::Nothing };
    for _ in 0..M::TRIES {
        into.words[0] = line[0].load();
        let life = into.life();
        if life.is_free() | life.belongs() {
            return Found::Nothing;
        }
        let line = M::after(line, into.words[0]);
        let mut all = read_rest(into, line);
        // A record that is still being written is not found.
        if !may_be(into) {
            return Found::Nothing;
        }
        if !life.is_record() {
            continue;
        }
        if into.is_v6() {
            let Some(more) = memory.line(place ^ 1) else { return Found::Nothing };
            all ^= read_more(into, M::after(more, into.words[0]));
        }
        let again = Life::from_bits(M::after(line, all)[0].load());
        if again.is_same_record(life) {
            into.place = place;
            into.words[0] = again.to_bits();
            return Found::Record;
        }
    }
    Found::Busy
}
