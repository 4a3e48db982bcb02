//! Indices into tables.

use crate::layout::plain;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        plain! {
            $(#[$doc])*
            #[repr(transparent)]
            pub struct $name(pub u32);
        }
    };
}

index!(
    /// A service's number; stable for as long as the service exists.
    ServiceIndex
);
index!(
    /// A backend's place in `BACKENDS`; stable for as long as the backend exists. At most 2^24 - 1.
    BackendIndex
);
index!(
    /// A place in `SLOTS`, the flat array of all rings.
    SlotIndex
);
