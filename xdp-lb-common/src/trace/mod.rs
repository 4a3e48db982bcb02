//! Following packets: what the tracing program notes of each, and which ones.

mod ends;
mod filter;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use self::ends::{Ends, ends};
pub use self::filter::{TraceFilter, matches};
use crate::layout::record;

/// How many bytes of a frame are copied where its headers are wanted: more than they have.
pub const SHORT: usize = 256;
/// How many where its payload is, too.
pub const LONG: usize = 2048;

/// [`TraceEvent::reason`]: the packet was forwarded.
pub const FORWARDED: u32 = u32::MAX;

/// What is noted of a packet. Behind it, in the ring buffer, the frame as it came, and as it left, each in [`SHORT`] or [`LONG`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceEvent {
    /// When it came, nanoseconds of the monotonic clock.
    pub time: u64,
    /// How many packets that match were not noted before it on this CPU, since there were too many.
    pub skipped: u64,
    /// The interface that it came in by.
    pub ingress: u32,
    /// The interface that it was redirected to; 0: none.
    pub egress: u32,
    /// The kernel's number of the verdict (`enum xdp_action`).
    pub action: u32,
    /// Why it was not forwarded: a [`Reason`](crate::reason::Reason), as its number; [`FORWARDED`].
    pub reason: u32,
    /// The length of the frame as it came, bytes.
    pub before: u32,
    /// As it left.
    pub after: u32,
}

record! {
    /// The limits of a trace.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct TraceLimits {
        /// Until when packets are noted, nanoseconds of the monotonic clock; 0: none is.
        pub until: u64,
        /// How many each CPU notes in a second at most.
        pub per_second: u32,
        /// 1: frames are copied with their payload.
        pub payload: u32,
    }
}
