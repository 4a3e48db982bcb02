//! Finds an endpoint's record without a helper call: in a table of words, each with a record's index and a part of its key's
//! hash.
//!
//! Every key has two places in the table (cuckoo hashing: Pagh and Rodler, 2004). So a lookup reads at most two words, and a
//! record only if a word's 40 bits of hash match. A header word has the place of the current table. A new table is built beside
//! it, and becomes current when that word is replaced. This file is the reading side, for kernel and host; `xdp-lb/src/datapath`
//! writes.

use crate::layout::{Layout, fold};
use crate::net::Endpoint;

/// A record and its endpoint, in one cache line if the record has at most 44 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub struct Keyed<R> {
    /// Its endpoint.
    pub key: Endpoint,
    /// The record.
    pub record: R,
}

impl<R: Layout> Layout for Keyed<R> {
    const LAYOUT: u32 = fold(fold(Endpoint::LAYOUT, R::LAYOUT), size_of::<Self>() as u32);
}

/// The place of the current table, and the seed of its hash: one 64-bit word, replaced atomically.
///
/// Bit 0 is 1, so that the word is an odd multiplier. Bits 1 to 5 are the binary logarithm of the table's size, bits 6 to 29 its
/// first index, and the others the seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header(u64);

const BASE_SHIFT: u32 = 6;
const BASE_BITS: u32 = 24;
const SEED_SHIFT: u32 = BASE_SHIFT + BASE_BITS;

/// The number of bits of a word for the record's index.
const PLACE_BITS: u32 = 24;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;

/// The number of words before the tables: the header's cache line.
pub const HEADER_WORDS: u32 = 8;

impl Header {
    /// The header of a table of `1 << log2` words from `base` (below 2^24) on. 34 bits of the seed are used.
    pub const fn new(base: u32, log2: u32, seed: u64) -> Self {
        let base = base as u64 & ((1 << BASE_BITS) - 1);
        Self(1 | (log2 as u64 & 31) << 1 | base << BASE_SHIFT | seed << SEED_SHIFT)
    }

    /// The header in the array's first word; `None` for 0: no table has been built yet.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As the array's first word.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The table's first index in the array.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        (self.0 >> BASE_SHIFT) as u32 & ((1 << BASE_BITS) - 1)
    }

    /// The number of places.
    #[inline(always)]
    pub const fn size(self) -> u32 {
        1 << (self.0 >> 1 & 31)
    }

    /// A key's hash in this table.
    #[inline(always)]
    pub fn hash(self, key: &Endpoint) -> Hash {
        let [high, low, tail] = key.words();
        // Both multipliers are odd and contain the whole seed.
        let mut bits = high
            .wrapping_mul(self.0)
            .wrapping_add(tail.wrapping_mul(self.0.rotate_left(32) | 1))
            .wrapping_add(low);
        // The finaliser of SplitMix64 (Steele et al., 2014): the two places and the rest are independent.
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Hash(bits ^ bits >> 31)
    }
}

/// A key's hash under a table's seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hash(u64);

impl Hash {
    /// The two places, counted from the start of the array; they may be equal.
    #[inline(always)]
    pub const fn places(self, header: Header) -> [u32; 2] {
        let (base, mask) = (header.base(), header.size() - 1);
        [base + (self.0 as u32 & mask), base + ((self.0 >> 32) as u32 & mask)]
    }

    /// The word for this key whose record is at this index (1 to 2^24 - 1).
    pub const fn word(self, place: u32) -> u64 {
        self.0 & !PLACE_MASK | place as u64 & PLACE_MASK
    }

    /// Whether a word may be for that key.
    #[inline(always)]
    pub const fn fits(self, word: u64) -> bool {
        (self.0 ^ word) & !PLACE_MASK == 0
    }
}

/// The index of a word's record; 0: none.
#[inline(always)]
pub const fn place_of(word: u64) -> u32 {
    (word & PLACE_MASK) as u32
}

/// The words and records, in the kernel or on the host.
pub trait Source<'a>: Copy {
    /// A record.
    type Record: 'a;

    /// The word at this index of the array, read atomically; index 0 is the header.
    fn word(self, place: u32) -> Option<u64>;
    /// The record at this index.
    fn record(self, place: u32) -> Option<&'a Keyed<Self::Record>>;

    /// The record of this key.
    #[inline(always)]
    fn find(self, key: &Endpoint) -> Option<&'a Self::Record> {
        let header = Header::from_bits(self.word(0)?);
        let hash = header.hash(key);
        for place in hash.places(header) {
            let word = self.word(place)?;
            if hash.fits(word) {
                let keyed = self.record(place_of(word))?;
                if keyed.key.is(key) {
                    return Some(&keyed.record);
                }
            }
        }
        None
    }
}
