//! The table in a process's memory.

extern crate std;

use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;

use super::memory::{Eviction, Line, Memory, WAYS, Word};
use super::record::LINE_WORDS;
use super::steps::Plain;
use crate::hash::FlowHash;

/// The number of locks here.
const LOCKS: u32 = 64;

/// The table in a process's memory, of any kind of words. Its first level has at least this many buckets, or all of them.
#[derive(Debug)]
pub struct HostMemory<W = AtomicU64, const FIRST_LEVEL: u32 = 512> {
    buckets: u32,
    tags: Box<[W]>,
    lines: Box<[Line<W>]>,
    locks: Box<[W]>,
    ports: Box<[W]>,
    evicted: [AtomicU64; Eviction::ALL.len()],
}

impl<W, const FIRST_LEVEL: u32> HostMemory<W, FIRST_LEVEL> {
    /// An empty table with this many buckets.
    pub fn new(buckets: u32, word: impl Fn() -> W) -> Self {
        let words = |count: u32| (0..count).map(|_| word()).collect();
        let lines = buckets * WAYS;
        Self {
            buckets,
            tags: words(buckets),
            lines: (0..lines).map(|_| core::array::from_fn::<_, LINE_WORDS, _>(|_| word())).collect(),
            locks: words(LOCKS),
            ports: words(lines),
            evicted: Default::default(),
        }
    }

    /// How many records were given up for this.
    pub fn evicted(&self, cause: Eviction) -> u64 {
        self.evicted[cause as usize].load(Ordering::Relaxed)
    }
}

impl<W: Word, const FIRST_LEVEL: u32> Memory for HostMemory<W, FIRST_LEVEL> {
    type Word = W;

    const FIRST_LEVEL: u32 = FIRST_LEVEL;

    fn buckets(&self) -> u32 {
        self.buckets
    }

    fn tags(&self, bucket: u32) -> Option<&W> {
        self.tags.get(bucket as usize)
    }

    fn line(&self, place: u32) -> Option<&Line<W>> {
        self.lines.get(place as usize)
    }

    fn lock(&self, hash: FlowHash) -> Option<&W> {
        self.locks.get((hash.bits() % LOCKS) as usize)
    }

    fn port(&self, place: u32) -> Option<&W> {
        self.ports.get(place as usize)
    }

    fn count_eviction(&self, cause: Eviction) {
        self.evicted[cause as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl<W: Word, const FIRST_LEVEL: u32> Plain for HostMemory<W, FIRST_LEVEL> {}
