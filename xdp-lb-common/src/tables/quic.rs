//! `QUIC_SERVERS`: the backends that QUIC connection ids name.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::index::ServiceIndex;
use crate::layout::record;
use crate::net::{Address, Be32};

/// What a backend is called in the connection ids that it gives to its clients: up to 15 bytes, and zeroes behind.
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
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct ServerId([Be32; 4]);

impl ServerId {
    /// The id of these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([
            Be32::from_word(u32::from_ne_bytes([a, b, c, d])),
            Be32::from_word(u32::from_ne_bytes([e, f, g, h])),
            Be32::from_word(u32::from_ne_bytes([i, j, k, l])),
            Be32::from_word(u32::from_ne_bytes([m, n, o, p])),
        ])
    }

    /// Its first `length` bytes, and zeroes behind.
    #[inline(always)]
    pub fn first_bytes(self, length: u8) -> Self {
        Self(Address(self.0).first_bits(length.saturating_mul(8)).0)
    }
}

record! {
    /// The key of `QUIC_SERVERS`.
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
        FromBytes,
        IntoBytes,
        Immutable,
        KnownLayout,
    )]
    #[repr(C)]
    pub struct ServerKey {
        /// The service.
        pub service: ServiceIndex,
        /// What its connection ids call the backend.
        pub id: ServerId,
    }
}
