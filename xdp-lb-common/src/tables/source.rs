//! `SOURCES` and `SOURCE_RATES`: the clients of a service.

use crate::layout::key;
use crate::net::Address;

key! {
    /// A client of a service: the key of `SOURCE_RATES`, and, behind the length of a prefix, of `SOURCES`.
    pub struct SourceKey {
        /// `SOURCE_RATES`: the [`ServiceIndex`]. `SOURCES`: the list, [`Service::source_list`].
        pub scope: u32,
        /// The client's address, or its network's.
        pub address: Address,
    }
}

impl SourceKey {
    /// How many bits of a key are its scope: a prefix in `SOURCES` is longer by so many than that of its addresses.
    pub const SCOPE_BITS: u32 = 32;
}

/// The value of `SOURCES`, as its number: what becomes of packets from a range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum SourceVerdict {
    /// They are let in.
    Allow = 1,
    /// They are dropped.
    Deny = 2,
}
