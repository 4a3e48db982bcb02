//! Enums as records hold them.

use core::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An enum that records hold by its number.
pub trait Coded: Copy {
    /// Its number.
    fn number(self) -> u8;
}

/// The number of an `E` in a record. Any byte may stand there, so it is compared, and not turned into an `E`: one that is
/// not known equals none, and has no property.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Code<E> {
    number: u8,
    of: PhantomData<E>,
}

impl<E> Code<E> {
    /// This number, whether or not it is known.
    pub const fn from_number(number: u8) -> Self {
        Self { number, of: PhantomData }
    }

    /// Whether one of these bits of the number is set.
    #[inline(always)]
    pub(super) const fn has(self, bits: u8) -> bool {
        self.number & bits != 0
    }

    /// 0 where the number is this one's: for comparisons without a branch.
    #[inline(always)]
    pub fn difference(self, other: E) -> u8
    where
        E: Coded,
    {
        self.number ^ other.number()
    }
}

impl<E: Coded> From<E> for Code<E> {
    #[inline(always)]
    fn from(value: E) -> Self {
        Self { number: value.number(), of: PhantomData }
    }
}

impl<E: Coded> PartialEq<E> for Code<E> {
    #[inline(always)]
    fn eq(&self, other: &E) -> bool {
        self.number == other.number()
    }
}
