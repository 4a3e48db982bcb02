//! `SOURCES` and `SOURCE_RATES`: the clients of a service.

use crate::layout::key;
use crate::net::Address;

key! {
    /// A client of a service: the key of `SOURCE_RATES`, and, after the length of a prefix, of `SOURCES`.
    pub struct SourceKey {
        /// `SOURCE_RATES`: the [`ServiceIndex`]. `SOURCES`: the list, [`Service::source_list`].
        pub scope: u32,
        /// The client's address, or its network's.
        pub address: Address,
    }
}

impl SourceKey {
    /// The length of a key's scope in bits: a prefix in `SOURCES` is longer by this than that of its addresses.
    pub const SCOPE_BITS: u32 = 32;
}

/// The value of `SOURCES`, as a number: what happens to packets from a range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum SourceVerdict {
    /// They are allowed.
    Allow = 1,
    /// They are dropped.
    Deny = 2,
}
