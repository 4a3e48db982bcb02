//! Changes of a record that keeps its flow.

use super::life::{ANSWERED, Life};
use super::lines::{take, write};
use super::memory::{Memory, Word};
use super::outcome::Noted;
use super::record::{Record, Room, WayBack};
use crate::packet::headers::{TCP_RST, TCP_SYN};
use crate::tables::flow::{CONFIRMED, Direction, advance, settle};

/// Notes a packet in a record that was found. Returns its first word before and after. `next` computes the new one, again if another
/// CPU was faster. `None` if the line has become another flow's record.
#[inline(always)]
pub fn note<M: Memory>(memory: &M, record: &Record, next: impl Fn(Life) -> Life) -> Option<(Life, Life)> {
    let word = &memory.line(record.place)?[0];
    let mut life = record.life();
    for _ in 0..M::TRIES {
        let noted = next(life);
        if noted == life || word.replace(life.to_bits(), noted.to_bits()) {
            return Some((life, noted));
        }
        let now = Life::from_bits(word.load());
        if !now.is_same_record(life) {
            return None;
        }
        life = now;
    }
    // The other CPUs have noted as much.
    Some((life, life))
}

/// Notes a packet with these TCP control bits (none for UDP) in the record that was found.
#[inline(always)]
pub fn note_packet<M: Memory>(memory: &M, room: &Room, direction: Direction, tcp_flags: u8) -> Noted {
    let (adds, proof) = match direction {
        Direction::Forward if tcp_flags & (TCP_SYN | TCP_RST) == 0 => (CONFIRMED, 0),
        Direction::Forward => (0, 0),
        Direction::Reply => (0, ANSWERED),
    };
    let next = |life: Life| {
        life.noted(room.now, settle(advance(life.progress(), direction, tcp_flags) | adds), proof)
    };
    match note(memory, &room.record, next) {
        None => Noted::Gone,
        Some((before, after)) if after.has_ended_since(before) => Noted::End,
        Some((before, after)) if after == before => Noted::Nothing,
        Some(_) => Noted::News,
    }
}

/// Writes another way back to the client into a record that was found. If another CPU has changed the record meanwhile, its change
/// stays.
///
/// Not inlined, since it is rare.
#[inline(never)]
pub fn redirect<M: Memory>(memory: &M, record: &mut Record, way: &WayBack) -> Option<()> {
    take(memory, record)?;
    record.set_way_back(way);
    write(record, memory)?;
    let life = record.life();
    record.words[0] = life.taken().resumed(life).to_bits();
    memory.line(record.place)?[0].replace(life.taken().to_bits(), record.words[0]).then_some(())
}
