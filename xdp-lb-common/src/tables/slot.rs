//! One entry of a ring: its owner and its prior owner.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::index::BackendIndex;

/// A ring's slot: one 64-bit word that is read and written atomically, so that a packet never sees half of a change.
///
/// Bits 0 to 23 are the owner, 24 to 47 the prior owner. Bit 62: all of its flows are known to be recorded. Bit 63: it is
/// tracked, that is, its flows are recorded at all.
///
/// A slot that is not tracked is *settled*: every packet is sent to its owner, and no flow is recorded. A slot that gets another
/// owner is *moving*: a flow without a record belongs to the prior owner. Once it has been moving for longer than a flow may be
/// idle, it is *recorded*: every live flow has a record. It settles when all records have its owner as their backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Slot(u64);

const INDEX_BITS: u32 = 24;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const RECORDED: u64 = 1 << 62;
const TRACKED: u64 = 1 << 63;

impl Slot {
    /// A settled slot of this owner.
    #[inline(always)]
    pub const fn settled(owner: BackendIndex) -> Self {
        let index = owner.0 as u64 & INDEX_MASK;
        Self(index | index << INDEX_BITS)
    }

    /// A moving slot: `owner` gets new flows. Flows without a record still belong to `prior`.
    #[inline(always)]
    pub const fn moving(owner: BackendIndex, prior: BackendIndex) -> Self {
        Self((owner.0 as u64 & INDEX_MASK) | (prior.0 as u64 & INDEX_MASK) << INDEX_BITS | TRACKED)
    }

    /// A recorded slot, whose live flows all have a record: `owner` gets packets without one, like new flows.
    #[inline(always)]
    pub const fn recorded(owner: BackendIndex) -> Self {
        Self(Self::moving(owner, owner).0 | RECORDED)
    }

    /// The backend of new flows; 0: none.
    #[inline(always)]
    pub const fn owner(self) -> BackendIndex {
        BackendIndex((self.0 & INDEX_MASK) as u32)
    }

    /// The backend of flows without a record.
    #[inline(always)]
    pub const fn prior(self) -> BackendIndex {
        BackendIndex((self.0 >> INDEX_BITS & INDEX_MASK) as u32)
    }

    /// Whether its flows are recorded.
    #[inline(always)]
    pub const fn is_tracked(self) -> bool {
        self.0 & TRACKED != 0
    }

    /// Whether all of its live flows are known to have a record.
    #[inline(always)]
    pub const fn is_recorded(self) -> bool {
        self.0 & RECORDED != 0
    }

    /// As a word of the table.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// From a word of the table.
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
        assert!(slot.is_tracked() && !slot.is_recorded());
        let slot = Slot::settled(BackendIndex(7));
        assert_eq!((slot.owner(), slot.prior()), (BackendIndex(7), BackendIndex(7)));
        assert!(!slot.is_tracked() && !slot.is_recorded());
        let slot = Slot::recorded(BackendIndex(7));
        assert_eq!((slot.owner(), slot.prior()), (BackendIndex(7), BackendIndex(7)));
        assert!(slot.is_tracked() && slot.is_recorded());
    }
}
