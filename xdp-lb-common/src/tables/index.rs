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
    /// A service's number. It does not change while the service exists.
    ServiceIndex
);
index!(
    /// A backend's index in `BACKENDS`. It does not change while the backend exists. At most 2^24 - 1.
    BackendIndex
);
index!(
    /// An index in `SLOTS`, the flat array of all rings.
    SlotIndex
);
