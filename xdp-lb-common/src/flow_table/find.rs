//! Finding a flow's record.

use super::life::Life;
use super::lines::{read_more, read_rest};
use super::memory::{Memory, WAYS, Word, buckets_of};
use super::outcome::Found;
use super::record::{Key, Record, Room};
use super::tags::{Matches, matching, tag};
use crate::hash::KEYS;

/// Finds the record of the flow in the room, whole as it was at one moment, and copies it there.
#[inline(always)]
pub fn find<M: Memory>(memory: &M, keys: &[u64; KEYS], room: &mut Room) -> Found {
    room.aim(keys);
    let Room { key, hash, record: into, .. } = room;
    let hash = *hash;
    let [first, second] = buckets_of(hash, memory.buckets());
    // Both before either is looked at, so that they come at the same time.
    let (Some(tags), Some(other_tags)) = (memory.tags(first), memory.tags(second)) else {
        return Found::Nothing;
    };
    let (tags, other_tags) = (tags.load(), other_tags.load());
    match find_in(memory, first, matching(tags, tag(hash)), key, into) {
        Found::Nothing => find_in(memory, second, matching(other_tags, tag(hash)), key, into),
        found => found,
    }
}

#[inline(always)]
fn find_in<M: Memory>(memory: &M, bucket: u32, mut matches: Matches, key: &Key, into: &mut Record) -> Found {
    for _ in 0..WAYS {
        let way = matches.take();
        if way >= WAYS {
            break;
        }
        let found = read(memory, bucket * WAYS + way, into, |record| key.may_be(&record.words));
        if found != Found::Nothing && (found == Found::Busy || key.is(into)) {
            return found;
        }
    }
    Found::Nothing
}

/// Copies the record at this place, whole as it was at one moment, if there is one and it may be what is looked for, as far as
/// its first line tells.
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
        // What is being written to become this record is not found before it is one.
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
