//! Enums as numbers in records.

use core::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An enum that is stored in records by its number.
pub trait Coded: Copy {
    /// Its number.
    fn number(self) -> u8;
}

/// The number of an `E` in a record. A record may hold any byte, so it is compared and never converted to an `E`. An unknown
/// number equals none and has no property.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Code<E> {
    number: u8,
    of: PhantomData<E>,
}

impl<E> Code<E> {
    /// This number, known or not.
    pub const fn from_number(number: u8) -> Self {
        Self { number, of: PhantomData }
    }

    /// Whether any of these bits of the number is set.
    #[inline(always)]
    pub(super) const fn has(self, bits: u8) -> bool {
        self.number & bits != 0
    }

    /// 0 if it is this number: for comparisons without a branch.
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
