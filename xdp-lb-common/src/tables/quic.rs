//! `QUIC_SERVERS`: the backends by the server IDs in QUIC's connection IDs.

use super::index::ServiceIndex;
use crate::layout::{key, plain};
use crate::net::{Address, Be32};

plain! {
    /// A backend's server ID, which is part of the connection IDs that it issues: up to 15 bytes, padded with zeroes.
    #[repr(transparent)]
    pub struct ServerId([Be32; 4]);
}

impl ServerId {
    /// From its bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([
            Be32::from_word(u32::from_ne_bytes([a, b, c, d])),
            Be32::from_word(u32::from_ne_bytes([e, f, g, h])),
            Be32::from_word(u32::from_ne_bytes([i, j, k, l])),
            Be32::from_word(u32::from_ne_bytes([m, n, o, p])),
        ])
    }

    /// Its first `length` bytes, padded with zeroes.
    #[inline(always)]
    pub fn first_bytes(self, length: u8) -> Self {
        Self(Address(self.0).first_bits(length.saturating_mul(8)).0)
    }
}

key! {
    /// The key of `QUIC_SERVERS`.
    pub struct ServerKey {
        /// The service.
        pub service: ServiceIndex,
        /// The backend's server ID.
        pub id: ServerId,
    }
}
