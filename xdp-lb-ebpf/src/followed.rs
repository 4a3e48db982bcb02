//! What is kept of a packet that is followed, from its arrival to its verdict.

use xdp_lb_common::trace::{Ends, LONG, SHORT, TraceEvent};

/// What is noted of the packet in hand, as it is sent to user space.
#[repr(C)]
pub struct Noted<const BYTES: usize> {
    pub event: TraceEvent,
    pub before: [u8; BYTES],
    pub after: [u8; BYTES],
}

/// The packet in hand.
#[repr(C)]
pub struct Followed {
    /// With or without its payload: the events stand at the same place.
    pub long: Noted<LONG>,
    pub short: Noted<SHORT>,
    pub ends: Ends,
    /// Which of both.
    pub is_long: bool,
    pub is_on: bool,
    /// The second that packets are counted in, and how many were noted in it.
    pub second: u64,
    pub noted: u32,
    /// How many were not, since the last one that was.
    pub skipped: u64,
}
