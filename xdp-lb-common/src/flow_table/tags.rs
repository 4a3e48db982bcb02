//! A bucket's tags: a word with a byte for each of its eight lines.

use crate::hash::FlowHash;

/// The byte of a line that holds no record.
pub const NONE: u8 = 0;
/// The byte of the second line of an IPv6 record.
pub const BELONGS: u8 = 1;

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

/// The byte of a record with this hash: 2 to 255, from other bits than those that select its buckets (of up to 2^24).
#[inline(always)]
pub fn tag(hash: FlowHash) -> u8 {
    2 + ((hash.low_byte() as u32 * 254) >> 8) as u8
}

/// The lines whose byte may be this one, as the highest bit of each byte. There are no false negatives; the byte after a match may
/// be a false positive.
#[inline(always)]
pub fn matching(word: u64, tag: u8) -> Matches {
    let differences = word ^ ONES.wrapping_mul(tag as u64);
    Matches(differences.wrapping_sub(ONES) & !differences & HIGH)
}

/// The number to add to the word to change a line's byte from `from` to `to`.
#[inline(always)]
pub fn change(way: u32, from: u8, to: u8) -> u64 {
    (to as u64).wrapping_sub(from as u64) << (8 * way)
}

/// The byte of a line.
#[inline(always)]
pub fn of(word: u64, way: u32) -> u8 {
    (word >> (8 * (way & 7))) as u8
}

/// The lines whose byte is [`NONE`].
#[inline(always)]
pub fn free(word: u64) -> Matches {
    // The highest bit of each byte that is not zero.
    let used = (word & !HIGH).wrapping_add(!HIGH) | word;
    Matches(!used & HIGH)
}

/// Some of a bucket's lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Matches(u64);

impl Matches {
    /// From a word with the highest bit of each line's byte.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word: the highest bit of each line's byte.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether there are none.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    #[inline(always)]
    pub fn count(self) -> u32 {
        ((self.0 >> 7).wrapping_mul(ONES) >> 56) as u32
    }

    /// Those whose neighbour is also among them: lines 0 and 1 are neighbours, 2 and 3, and so on.
    #[inline(always)]
    pub fn pairs(self) -> Self {
        const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
        Self(self.0 & ((self.0 >> 8 & EVEN) | (self.0 & EVEN) << 8))
    }

    /// The others.
    #[inline(always)]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// This one, if it is among them.
    #[inline(always)]
    pub fn only(self, way: u32) -> Self {
        Self(self.0 & 0x80 << (8 * (way & 7)))
    }

    /// Removes the first one and returns its number, 0 to 7; 8 if there is none.
    #[inline(always)]
    pub fn take(&mut self) -> u32 {
        // Multiplying by a single bit, 2^(8 i), shifts by i bytes, which brings byte 7 - i of the factor to the top. Counting
        // zeros takes this target many instructions.
        const NUMBERS: u64 = 0x0001_0203_0405_0607;
        if self.0 == 0 {
            return 8;
        }
        let lowest = self.0 & self.0.wrapping_neg();
        self.0 ^= lowest;
        ((lowest >> 7).wrapping_mul(NUMBERS) >> 56) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut matches: Matches) -> Vec<u32> {
        std::iter::from_fn(|| Some(matches.take()).filter(|way| *way < 8)).collect()
    }

    #[test]
    fn every_byte_that_agrees_is_found() {
        let word = u64::from_le_bytes([5, 0, 7, 5, 255, 128, 5, 0]);
        assert_eq!(all(matching(word, 5)), [0, 3, 6]);
        assert_eq!(all(matching(word, 255)), [4]);
        assert_eq!(all(matching(word, 128)), [5]);
        assert_eq!(all(matching(word, NONE)), [1, 7]);
        assert_eq!(all(matching(word, 9)), []);
        for word in (0..100_000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            for way in 0..8 {
                assert!(all(matching(word, of(word, way))).contains(&way), "{word:x} {way}");
            }
            let sparse = word & word >> 7 & word << 9;
            let none: Vec<u32> = (0..8).filter(|way| of(sparse, *way) == NONE).collect();
            assert_eq!(free(sparse).count() as usize, none.len(), "{sparse:x}");
            assert_eq!(all(free(sparse)), none, "{sparse:x}");
        }
        assert_eq!([0, u64::MAX, ONES, HIGH].map(|word| free(word).count()), [8, 0, 0, 0]);
    }

    #[test]
    fn lines_whose_neighbour_is_free_too_are_told() {
        let word = u64::from_le_bytes([0, 0, 7, 0, 0, 128, 0, 0]);
        assert_eq!(all(free(word).pairs()), [0, 1, 6, 7]);
        assert_eq!(all(free(word).without(free(word).pairs())), [3, 4]);
    }

    #[test]
    fn a_byte_changes_alone() {
        let word = u64::from_le_bytes([5, 0, 7, 5, 255, 128, 5, 0]);
        let changed = word.wrapping_add(change(4, 255, 3)).wrapping_add(change(7, 0, 9));
        assert_eq!(changed, u64::from_le_bytes([5, 0, 7, 5, 3, 128, 5, 9]));
    }
}
