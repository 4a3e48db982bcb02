//! Reading, writing, taking and freeing lines.

use super::life::Life;
use super::memory::{Line, Memory, WAYS, Word};
use super::record::{LINE_WORDS, MORE, Record};
use super::tags;

/// Takes the lines of a record, so that nobody else writes them. `None` if another CPU has changed the record since it was read.
/// Packets may note themselves meanwhile: the latest progress is then in the record.
#[inline(always)]
pub fn take<M: Memory>(memory: &M, record: &mut Record) -> Option<()> {
    let word = &memory.line(record.place)?[0];
    for _ in 0..M::TRIES {
        let life = record.life();
        if word.replace(life.to_bits(), life.taken().to_bits()) {
            return Some(());
        }
        let now = Life::from_bits(word.load());
        if !now.is_same_record(life) {
            return None;
        }
        record.words[0] = now.to_bits();
    }
    None
}

/// Frees taken lines.
#[inline(always)]
pub fn vacate<M: Memory>(memory: &M, place: u32, is_v6: bool, taken: Life) -> Option<()> {
    let (bucket, way) = (place / WAYS, place % WAYS);
    let word = memory.tags(bucket)?;
    let there = word.load();
    let mut change = tags::change(way, tags::of(there, way), tags::NONE);
    if is_v6 {
        change = change.wrapping_add(tags::change(way ^ 1, tags::of(there, way ^ 1), tags::NONE));
    }
    if change != 0 {
        word.add(change);
    }
    if is_v6 {
        let more = &memory.line(place ^ 1)?[0];
        let life = Life::from_bits(more.load());
        more.replace(life.to_bits(), life.freed().to_bits());
    }
    memory.line(place)?[0].replace(taken.to_bits(), taken.freed().to_bits());
    Some(())
}

/// Reads the rest of a line whose first word was read. Returns what a later load must depend on.
#[inline(always)]
pub fn read_rest<W: Word>(record: &mut Record, line: &Line<W>) -> u64 {
    let mut all = 0;
    let mut at = 1;
    while at < LINE_WORDS {
        record.words[at] = line[at].load();
        all ^= record.words[at];
        at += 1;
    }
    all
}

/// The same for an IPv6 record's second line.
#[inline(always)]
pub fn read_more<W: Word>(record: &mut Record, line: &Line<W>) -> u64 {
    let mut all = 0;
    let mut at = 0;
    while at < MORE {
        record.more[at] = line[at + 1].load();
        all ^= record.more[at];
        at += 1;
    }
    all
}

/// Writes all words but the first into lines that this CPU has taken.
#[inline(always)]
pub fn write<M: Memory>(record: &Record, memory: &M) -> Option<()> {
    let line = memory.line(record.place)?;
    let mut at = 1;
    while at < LINE_WORDS {
        line[at].store(record.words[at]);
        at += 1;
    }
    if record.is_v6() {
        let line = memory.line(record.place ^ 1)?;
        let mut at = 0;
        while at < MORE {
            line[at + 1].store(record.more[at]);
            at += 1;
        }
    }
    Some(())
}
