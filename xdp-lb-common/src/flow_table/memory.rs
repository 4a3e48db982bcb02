//! The table's memory, and the steps that operations on it consist of.

use super::outcome::{Begun, Found, Manner, Noted};
use super::record::{LINE_WORDS, Room};
use super::tags::Matches;
use crate::hash::FlowHash;
use crate::reason::{COUNTED_REASONS, REASONS};
use crate::tables::Settings;
use crate::tables::flow::Direction;

/// A 64-bit word shared by CPUs and the daemon.
pub trait Word {
    /// Reads it atomically.
    fn load(&self) -> u64;
    /// Writes it atomically, without ordering.
    fn store(&self, value: u64);
    /// Compare-and-exchange: sets it to `new` if it is `old`, and returns whether it was. A full barrier.
    fn replace(&self, old: u64, new: u64) -> bool;
    /// Adds to it, wrapping around. A full barrier.
    fn add(&self, by: u64);
}

/// Lines in a bucket.
pub const WAYS: u32 = 8;

/// The number of locks.
pub const LOCKS: u32 = 4096;

/// The number of buckets for this many flows: four of seven lines are in use then, at 128 bytes a flow with tags and ports. An IPv6
/// flow counts twice.
pub const fn buckets(flows: u32) -> u32 {
    let lines = flows as u64 * 7 / 4;
    lines.div_ceil(WAYS as u64) as u32 + 1
}

/// The maximum number of flows for this many buckets.
pub const fn flows(buckets: u32) -> u32 {
    let lines = buckets.saturating_sub(1) as u64 * WAYS as u64;
    let flows = (lines * 4 + 3) / 7;
    if flows > u32::MAX as u64 { u32::MAX } else { flows as u32 }
}

/// A cache line.
pub type Line<W> = [W; LINE_WORDS];

/// What a record was given up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Eviction {
    /// The lines that it took.
    Room,
    /// The source port that it had.
    Port,
}

impl Eviction {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Room, Self::Port];

    /// A name for metrics and JSON; stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Port => "port",
        }
    }

    /// Its counter: the last ones of those that reasons have to spare.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        COUNTED_REASONS - 1 - self as u32
    }
}

const _: () = assert!(REASONS <= Eviction::Port.counter());

/// The table's memory, in the kernel or in a process.
pub trait Memory: Sized {
    /// Its words.
    type Word: Word;

    /// How often to retry a line that another CPU has taken, for some 20 ns.
    const TRIES: u32 = 2;
    /// The minimum number of buckets of the first [level](Level), unless the table has fewer.
    const FIRST_LEVEL: u32 = 512;
    /// How often to retry a lock, which is held for less than a microsecond.
    const LOCK_TRIES: u32 = 16;

    /// The number of buckets. 0: there is no table.
    fn buckets(&self) -> u32;
    /// The tags of a bucket.
    fn tags(&self, bucket: u32) -> Option<&Self::Word>;
    /// A line. The lines of a bucket are contiguous.
    fn line(&self, place: u32) -> Option<&Line<Self::Word>>;
    /// The lock for flows of this hash: 1 while a CPU holds it, else 0.
    fn lock(&self, hash: FlowHash) -> Option<&Self::Word>;
    /// A port word. There are as many as lines.
    fn port(&self, place: u32) -> Option<&Self::Word>;

    /// Prefetches a line.
    #[inline(always)]
    fn touch(&self, place: u32) {
        if let Some(line) = self.line(place) {
            let _ = line[0].load();
        }
    }

    /// The number of the last level in which a flow was recorded, as far as known.
    #[inline(always)]
    fn reach(&self) -> u32 {
        0
    }

    /// Notes that a flow was recorded in this level, beyond [`Memory::reach`].
    #[inline(always)]
    fn note_reach(&self, number: u32) {
        let _ = number;
    }

    /// Counts a record that was given up for another flow, though its own may still go on.
    #[inline(always)]
    fn count_eviction(&self, cause: Eviction) {
        let _ = cause;
    }

    /// The line, so that reads of it come after the load of `loaded`.
    #[inline(always)]
    fn after(line: &Line<Self::Word>, loaded: u64) -> &Line<Self::Word> {
        let _ = loaded;
        line
    }
}

/// The maximum number of levels. Each has fifteen times as many buckets as all smaller ones together.
///
/// A flow is recorded in the first level that has room for it. So a small number of flows uses few cache lines and few TLB entries,
/// however large the table is.
pub const LEVELS: u32 = 4;

const LEVEL_SHIFT: u32 = 4;

/// The places of a flow in one level.
#[derive(Clone, Copy)]
pub struct Level {
    /// The flow's preferred lines, one in each of its two buckets, which may be the same bucket.
    pub homes: [u32; 2],
    /// Its number, from 1. The last one is [`LEVELS`], even if there are fewer.
    pub number: u32,
    /// Whether the level is larger than a processor's L2 cache.
    pub is_far: bool,
}

/// From this number of buckets on, a level is larger than an L2 cache: their lines take 4 MiB.
const FAR: u32 = 8192;

impl Level {
    /// The places of a flow with this hash in the level with this many larger ones. `None` if it has no buckets: the first level has
    /// at least [`Memory::FIRST_LEVEL`], or all.
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

/// The steps of lookups and insertions. In the kernel they are global functions: the verifier checks each of them once, not again
/// for each caller and each state. Elsewhere they are [`Plain`](super::steps::Plain) calls.
pub trait Steps: Memory {
    /// Finds the record of the flow in the room: [`find`](super::find::find).
    fn find_flow(&self, settings: &Settings, room: &mut Room) -> Found;
    /// Finds the record of the flow to which the backend's packet in the room belongs: [`find`](super::port_words::find).
    fn find_flow_of_reply(&self, settings: &Settings, room: &mut Room) -> Found;
    /// Records the flow in the room: [`begin`](super::claim::begin).
    fn begin_flow(&self, settings: &Settings, room: &mut Room, manner: Manner) -> Begun;
    /// Sets key and hash in the room to those of its flow: [`Room::aim`].
    fn aim(&self, settings: &Settings, room: &mut Room);
    /// Finds the record of the flow in the room among some lines of the bucket of a place: [`find_in`](super::find::find_in).
    fn find_in(&self, room: &mut Room, place: u32, matches: Matches) -> Found;
    /// Takes free lines for the flow in the room, in the level with this many larger ones. Returns whether there were any.
    fn take_lines(&self, room: &mut Room, behind: u32) -> bool;
    /// The worth of the record in a line, compared with the flow in the room. [`u32::MAX`]: it must stay.
    fn worth(&self, settings: &Settings, room: &mut Room, place: u32) -> u32;
    /// Evicts the record in a line, if it is still worth less than a new flow.
    fn make_way(&self, settings: &Settings, room: &mut Room, place: u32);
    /// Gives the flow in the room one of the eight ports around the one that a hash selects. Returns whether one was free.
    fn take_port(&self, settings: &Settings, room: &mut Room, from: FlowHash) -> bool;
    /// The contents of one of their words, by its number. 0 if it is free, or not a port that is handed out.
    fn port_entry(&self, settings: &Settings, room: &mut Room, from: FlowHash, number: u32) -> u64;
    /// Gives the flow that port, whose word contained `there`. Returns whether that succeeded.
    fn take_port_of(
        &self,
        settings: &Settings,
        room: &mut Room,
        from: FlowHash,
        number: u32,
        there: u64,
    ) -> bool;
    /// Whether the flow of a port's word no longer needs it, or gives it up after this many seconds without a packet. If so, its
    /// record is removed.
    fn yields(&self, settings: &Settings, room: &mut Room, there: u64, patience: u32) -> bool;
    /// Notes a packet in the record in the room: [`note_packet`](super::note::note_packet).
    fn note_packet(&self, room: &mut Room, direction: Direction, tcp_flags: u8) -> Noted;
}
