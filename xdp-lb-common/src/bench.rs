//! What `cargo xtask bench` and its wrapper program agree on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many 32-bit words of a frame are put back in each round: 80 bytes, more than the headers of
/// IPv6 and TCP.
pub const WORDS: usize = 20;

/// The packet to send, and as which flows. A flow is told apart by the lower half of one address
/// (its upper bits) and by one port (the lower 14 bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Plan {
    /// The frame's first bytes.
    pub words: [u32; WORDS],
    /// How many flows, a power of two up to 2^30, less one.
    pub flow_mask: u32,
    /// Where in the frame the two bytes of the address are.
    pub address_at: u32,
    /// Where in the frame the port is.
    pub port_at: u32,
}
