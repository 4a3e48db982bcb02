//! The layout of the tables' keys and values.

/// The layout of a table's key or value.
pub trait Layout: Sized {
    /// A number that changes with the size, and with each field's name, offset and size.
    const LAYOUT: u32 = fold(0, size_of::<Self>() as u32);
}

impl Layout for u32 {}
impl Layout for u64 {}
impl Layout for i64 {}
impl Layout for [u64; 8] {}

/// Mixes in a number.
pub(crate) const fn fold(hash: u32, number: u32) -> u32 {
    // The multiplier of FNV-1a.
    (hash ^ number).wrapping_mul(0x0100_0193)
}

/// Mixes in a name.
pub(crate) const fn fold_name(mut hash: u32, name: &str) -> u32 {
    let mut rest = name.as_bytes();
    while let [byte, others @ ..] = rest {
        hash = fold(hash, *byte as u32);
        rest = others;
    }
    hash
}

/// Declares a table's key or value, with its [`Layout`].
macro_rules! record {
    (@layout $(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$about:meta])* $field_vis:vis $field:ident: $type:ty,)*
    }) => {
        impl $crate::layout::Layout for $name {
            const LAYOUT: u32 = {
                use $crate::layout::{fold, fold_name};
                let mut hash = size_of::<Self>() as u32;
                $(
                    hash = fold_name(hash, stringify!($field));
                    hash = fold(hash, core::mem::offset_of!(Self, $field) as u32);
                    hash = fold(hash, size_of::<$type>() as u32);
                )*
                hash
            };
        }
    };
    ($($item:tt)*) => {
        $($item)*
        $crate::layout::record! { @layout $($item)* }
    };
}
pub(crate) use record;

/// Derives for a plain type: copying, comparison, order, hashing, printing, and access as bytes.
macro_rules! plain {
    ($($item:tt)*) => {
        #[derive(
            Clone,
            Copy,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            Debug,
            Default,
            ::zerocopy::FromBytes,
            ::zerocopy::IntoBytes,
            ::zerocopy::Immutable,
            ::zerocopy::KnownLayout,
        )]
        $($item)*
    };
}
pub(crate) use plain;

/// Declares a table's key: a [`record!`] that is [`plain!`].
macro_rules! key {
    ($($item:tt)*) => {
        $crate::layout::plain! { #[repr(C)] $($item)* }
        $crate::layout::record! { @layout $($item)* }
    };
}
pub(crate) use key;

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        #[repr(C)]
        struct Plain {
            first: u32,
            second: u32,
            third: u64,
        }
    }

    mod swapped {
        record! {
            #[repr(C)]
            pub struct Plain {
                second: u32,
                first: u32,
                third: u64,
            }
        }
    }

    mod renamed {
        record! {
            #[repr(C)]
            pub struct Plain {
                first: u32,
                last: u32,
                third: u64,
            }
        }
    }

    #[test]
    fn two_fields_that_change_places_are_another_layout_though_no_size_changes() {
        assert_eq!(size_of::<Plain>(), size_of::<swapped::Plain>());
        assert_ne!(Plain::LAYOUT, swapped::Plain::LAYOUT);
        assert_ne!(Plain::LAYOUT, renamed::Plain::LAYOUT);
    }
}
