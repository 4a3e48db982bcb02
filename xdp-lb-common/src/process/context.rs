//! The state of the packet being processed, and what the steps share.

use core::cell::Cell;

use super::icmp_answer::Message;
use super::owners::Owners;
use super::rewrite::Departure;
use crate::flow_table::record::Room;
use crate::net::Endpoint;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{BackendIndex, FlowKey, Fragment, FragmentKey, RouteQuery, Settings};

/// What to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Passes it to the host's network stack, unchanged except for [`Reason::HandedToHost`].
    Pass(Reason),
    /// Drops it.
    Drop(Reason),
    /// Sends it, or an answer in its place, out of the interface on which it arrived.
    Transmit,
    /// Sends it out of the interface with this index.
    Redirect(u32),
}

/// Room for the state of the packet being processed. Its previous contents do not matter. In the kernel it is in a map: a
/// program's stack is 512 bytes.
#[derive(Default)]
pub struct Scratch {
    pub(super) parsed: Parsed,
    /// The packet that an ICMP error quotes.
    pub(super) quoted: Parsed,
    /// The addresses and ports of that packet as the receiver of the error knows them.
    pub(super) requoted: FlowKey,
    /// The service and the backend of the flow that an error is about, or to which a fragment belongs.
    pub(super) vip: Endpoint,
    pub(super) backend: BackendIndex,
    /// The key that a packet's fragments share.
    pub(super) fragment_key: FragmentKey,
    /// How they are forwarded.
    pub(super) fragment: Fragment,
    pub(super) departure: Departure,
    /// Why the packet is not forwarded.
    pub(super) refused: Option<Reason>,
    /// The ICMP error for its sender.
    pub(super) message: Message,
    /// The query to the routing table.
    pub(super) query: RouteQuery,
    pub(super) meta: PacketMeta,
    /// The record of the packet's flow.
    pub(super) room: Room,
    /// The roles that the packet's addresses may have.
    pub(super) roles: u8,
}

impl Scratch {
    /// Why the packet in hand goes no further, if it met a reason since [`Scratch::forget_refusal`].
    #[inline(always)]
    pub const fn refusal(&self) -> Option<Reason> {
        self.refused
    }

    /// Forgets why the packet before went no further.
    #[inline(always)]
    pub const fn forget_refusal(&mut self) {
        self.refused = None;
    }
}

/// Lends the scratch. Most packets need none, so it is only looked up on demand.
pub trait Scratchpad {
    /// The scratch. `None` if there is none.
    fn lend(&mut self) -> Option<&mut Scratch>;
}

impl Scratchpad for Scratch {
    fn lend(&mut self) -> Option<&mut Scratch> {
        Some(self)
    }
}

/// What is known of a client's packet besides its headers. In the scratch: each value that the verifier tracks would add a path
/// through the code that follows.
#[derive(Default)]
pub(super) struct PacketMeta {
    /// The time of its arrival, in seconds of the monotonic clock, read when a flow's record is looked up.
    pub(super) now: Cell<u32>,
    /// The progress of a flow that begins with it.
    pub(super) progress: u8,
    /// The backend that its QUIC connection id names; 0: none.
    pub(super) named: BackendIndex,
    /// The number of slots between the one of its hash and the first whose owner has room for the flow.
    pub(super) skipped: u32,
    /// The backend whose next hop must be checked before the packet leaves; 0: none.
    pub(super) aimed: Cell<BackendIndex>,
    /// Whose it is.
    pub(super) owners: Owners,
}

/// What the steps for one packet share. It is on the program's stack below all calls, which have the rest of the 512 bytes, in
/// frames that kernels before 6.8 round up to 32.
pub(super) struct Context<'t, T> {
    pub(super) tables: &'t T,
    pub(super) settings: &'t Settings,
    pub(super) parsed: &'t Parsed,
    pub(super) meta: &'t PacketMeta,
}
