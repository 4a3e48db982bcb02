//! The table's memory, and the steps that are taken in it.

use super::outcome::{Begun, Found, Manner, Noted};
use super::record::{LINE_WORDS, Room};
use super::tags::Matches;
use crate::hash::FlowHash;
use crate::tables::Settings;
use crate::tables::flow::Direction;

/// A 64-bit word that CPUs and the daemon share.
pub trait Word {
    /// Reads it at once.
    fn load(&self) -> u64;
    /// Writes it at once; orders nothing.
    fn store(&self, value: u64);
    /// Makes it `new` if it is `old`, says whether it was; a full barrier.
    fn replace(&self, old: u64, new: u64) -> bool;
    /// Adds to it, around its end where it must; a full barrier.
    fn add(&self, by: u64);
}

/// How many lines a bucket has.
pub const WAYS: u32 = 8;

/// How many locks there are.
pub const LOCKS: u32 = 4096;

/// How many buckets it takes for so many flows: four of seven lines are used then, at 128 bytes a flow with tags and ports.
/// An IPv6 flow counts twice.
pub const fn buckets(flows: u32) -> u32 {
    let lines = flows as u64 * 7 / 4;
    lines.div_ceil(WAYS as u64) as u32 + 1
}

/// For how many flows this many buckets are at most.
pub const fn flows(buckets: u32) -> u32 {
    let lines = buckets.saturating_sub(1) as u64 * WAYS as u64;
    let flows = (lines * 4 + 3) / 7;
    if flows > u32::MAX as u64 { u32::MAX } else { flows as u32 }
}

/// A cache line.
pub type Line<W> = [W; LINE_WORDS];

/// The table's memory, wherever it is.
pub trait Memory: Sized {
    /// A word of it.
    type Word: Word;

    /// How often what another CPU holds is looked at again: a line, which it holds for some 20 ns.
    const TRIES: u32 = 2;
    /// How many buckets the first [level](Level) has at least, or all.
    const FIRST_LEVEL: u32 = 512;
    /// The same of a lock, which it holds for less than a microsecond.
    const LOCK_TRIES: u32 = 16;

    /// How many buckets there are; 0: there is no table.
    fn buckets(&self) -> u32;
    /// The tags of a bucket.
    fn tags(&self, bucket: u32) -> Option<&Self::Word>;
    /// A line: those of a bucket lie one behind the other.
    fn line(&self, place: u32) -> Option<&Line<Self::Word>>;
    /// The lock for flows of this hash: 0, or 1 where a CPU has it.
    fn lock(&self, hash: FlowHash) -> Option<&Self::Word>;
    /// A word of the ports; there are as many as lines.
    fn port(&self, place: u32) -> Option<&Self::Word>;

    /// Has a line come into the cache.
    #[inline(always)]
    fn touch(&self, place: u32) {
        if let Some(line) = self.line(place) {
            let _ = line[0].load();
        }
    }

    /// The number of the last level that a flow was recorded in, as far as that is known.
    #[inline(always)]
    fn reach(&self) -> u32 {
        0
    }

    /// Notes that a flow is recorded in the level of this number, beyond [`Memory::reach`].
    #[inline(always)]
    fn note_reach(&self, number: u32) {
        let _ = number;
    }

    /// The line, so that what is read of it from here on is read after `loaded`, which came out of another load.
    #[inline(always)]
    fn after(line: &Line<Self::Word>, loaded: u64) -> &Line<Self::Word> {
        let _ = loaded;
        line
    }
}

/// The most levels that there are. Each has fifteen times as many buckets as all before it together.
///
/// A flow is recorded in the first level that has room for it. So few flows lie close together, in the cache and in the
/// processor's table of pages, however large the table is.
pub const LEVELS: u32 = 4;

const LEVEL_SHIFT: u32 = 4;

/// Where a flow may be in one level.
#[derive(Clone, Copy)]
pub struct Level {
    /// The lines that are the flow's first choices, one in each of its two buckets, which may be one.
    pub homes: [u32; 2],
    /// Its number: 1, or more; [`LEVELS`] for the last one, of however few.
    pub number: u32,
    /// Whether the level is larger than what a processor's second cache has.
    pub is_far: bool,
}

/// How many buckets make a level larger than what a processor's second cache has: their lines are 4 MiB.
const FAR: u32 = 8192;

impl Level {
    /// Where a flow of this hash may be in the level behind which there are so many others. Nothing, where that has no buckets:
    /// the first level has [`Memory::FIRST_LEVEL`] at least, or all.
    #[inline(always)]
    pub fn of<M: Memory>(memory: &M, hash: FlowHash, behind: u32) -> Option<Self> {
        let end = memory.buckets() >> (LEVEL_SHIFT * behind);
        if behind != 0 && end < M::FIRST_LEVEL {
            return None;
        }
        let before = end >> LEVEL_SHIFT;
        let start = if before < M::FIRST_LEVEL { 0 } else { before };
        let next = hash.next();
        let home = |hash: FlowHash, other: FlowHash| {
            (start + hash.reduce(end - start)) * WAYS + (other.bits() >> 8 & (WAYS - 1))
        };
        let homes = [home(hash, next), home(next, hash)];
        Some(Self { homes, number: LEVELS - behind, is_far: end - start >= FAR })
    }
}

/// The steps of which looking flows up and recording them is made. The kernel's verifier looks at each of them by itself, once, not
/// anew from each place and each state in which it is taken; elsewhere they are [`Plain`](super::steps::Plain) calls.
pub trait Steps: Memory {
    /// Finds the record of the flow in the room: [`find`](super::find::find).
    fn find_flow(&self, settings: &Settings, room: &mut Room) -> Found;
    /// Finds the record of the flow whose backend has sent what the room names: [`find`](super::port_words::find).
    fn find_flow_of_reply(&self, settings: &Settings, room: &mut Room) -> Found;
    /// Records the flow in the room: [`begin`](super::claim::begin).
    fn begin_flow(&self, settings: &Settings, room: &mut Room, manner: Manner) -> Begun;
    /// Makes key and hash in the room those of its flow: [`Room::aim`].
    fn aim(&self, settings: &Settings, room: &mut Room);
    /// Finds the record of the flow in the room among some lines of the bucket of a place: [`find_in`](super::find::find_in).
    fn find_in(&self, room: &mut Room, place: u32, matches: Matches) -> Found;
    /// Takes free lines for the flow in the room in the level behind which there are so many others; says whether there were any.
    fn take_lines(&self, room: &mut Room, behind: u32) -> bool;
    /// What is lost with the record in a line, if it makes way for the flow in the room; [`u32::MAX`], where it has to stay.
    fn worth(&self, settings: &Settings, room: &mut Room, place: u32) -> u32;
    /// Forgets the record in a line, if it is still worth less than a flow that begins.
    fn make_way(&self, settings: &Settings, room: &mut Room, place: u32);
    /// Gives the flow in the room one of the eight ports around one that a hash names; says whether one was free.
    fn take_port(&self, settings: &Settings, room: &mut Room, from: FlowHash) -> bool;
    /// What stands in the word of one of them, by its number; 0, where it is free or none that is handed out.
    fn port_entry(&self, settings: &Settings, room: &mut Room, from: FlowHash, number: u32) -> u64;
    /// Gives the flow that port, in whose word `there` stood; says whether it could.
    fn take_port_of(
        &self,
        settings: &Settings,
        room: &mut Room,
        from: FlowHash,
        number: u32,
        there: u64,
    ) -> bool;
    /// Whether the flow that a port's word names has no more use for it, or, after so many seconds without a packet, little; its
    /// record is forgotten then.
    fn yields(&self, settings: &Settings, room: &mut Room, there: u64, patience: u32) -> bool;
    /// Notes a packet in the record in the room: [`note_packet`](super::note::note_packet).
    fn note_packet(&self, room: &mut Room, direction: Direction, tcp_flags: u8) -> Noted;
}
