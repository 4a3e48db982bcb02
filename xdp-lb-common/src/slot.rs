//! One entry of a ring: who owns it, and who owned it before.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::tables::BackendIndex;

/// A ring's slot in 8 bytes, written and read as one 64-bit word, so that no packet sees half of one.
///
/// Bits 0 to 23 the owner, 24 to 47 the prior owner, 63 whether it is tracked.
/// A slot is settled when owner and prior are the same and it is not tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Slot(u64);

const INDEX_BITS: u32 = 24;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const TRACKED: u64 = 1 << 63;

impl Slot {
    /// A settled slot of this owner.
    #[inline(always)]
    pub const fn settled(owner: BackendIndex) -> Self {
        let index = owner.0 as u64 & INDEX_MASK;
        Self(index | index << INDEX_BITS)
    }

    /// A slot that moves: new flows go to `owner`, flows without a record still belong to `prior`.
    #[inline(always)]
    pub const fn moving(owner: BackendIndex, prior: BackendIndex) -> Self {
        Self((owner.0 as u64 & INDEX_MASK) | (prior.0 as u64 & INDEX_MASK) << INDEX_BITS | TRACKED)
    }

    /// The backend that new flows go to.
    #[inline(always)]
    pub const fn owner(self) -> BackendIndex {
        BackendIndex((self.0 & INDEX_MASK) as u32)
    }

    /// The backend that flows without a record belong to.
    #[inline(always)]
    pub const fn prior(self) -> BackendIndex {
        BackendIndex((self.0 >> INDEX_BITS & INDEX_MASK) as u32)
    }

    /// Whether its flows are recorded.
    #[inline(always)]
    pub const fn is_tracked(self) -> bool {
        self.0 & TRACKED != 0
    }

    /// The word as the table holds it.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The slot of a table's word.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_owner_prior_and_tracking() {
        let slot = Slot::moving(BackendIndex(0xabcdef), BackendIndex(0x123456));
        assert_eq!(slot.owner(), BackendIndex(0xabcdef));
        assert_eq!(slot.prior(), BackendIndex(0x123456));
        assert!(slot.is_tracked());
        let slot = Slot::settled(BackendIndex(7));
        assert_eq!((slot.owner(), slot.prior()), (BackendIndex(7), BackendIndex(7)));
        assert!(!slot.is_tracked());
    }
}
