//! What is known of the packet in hand, and what the steps of its way share.

use core::cell::Cell;

use super::icmp_answer::Message;
use super::owners::Owners;
use super::rewrite::Departure;
use crate::flow_table::record::Room;
use crate::net::Endpoint;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{BackendIndex, FlowKey, Fragment, FragmentKey, RouteQuery, Settings};

/// What is to be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The host's own network stack gets it; it is unchanged, but for [`Reason::HandedToHost`].
    Pass(Reason),
    /// It ends here.
    Drop(Reason),
    /// It, or an answer in its place, leaves through the interface that it came in by.
    Transmit,
    /// It leaves through the interface of this index.
    Redirect(u32),
}

/// Room for what is known of the packet in hand; what it held before does not matter. In the kernel
/// it lies in a map: a program's stack is 512 bytes.
#[derive(Default)]
pub struct Scratch {
    pub(super) parsed: Parsed,
    /// The packet that an ICMP error quotes.
    pub(super) quoted: Parsed,
    /// The addresses and ports that the receiver of the error knows that packet by.
    pub(super) requoted: FlowKey,
    /// The service and the backend of the flow that an error is about, or a fragment of.
    pub(super) vip: Endpoint,
    pub(super) backend: BackendIndex,
    /// What a packet's fragments have in common.
    pub(super) fragment_key: FragmentKey,
    /// What becomes of them.
    pub(super) fragment: Fragment,
    pub(super) departure: Departure,
    /// Why the packet goes no further.
    pub(super) refused: Option<Reason>,
    /// What its sender is told.
    pub(super) message: Message,
    /// What the routing table is asked.
    pub(super) query: RouteQuery,
    pub(super) meta: PacketMeta,
    /// The record of the packet's flow.
    pub(super) room: Room,
    /// Whose the packet's addresses may be.
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

/// Lends the scratch: most packets need none, and it is looked up for those that do.
pub trait Scratchpad {
    /// The scratch; nothing, where there is none.
    fn lend(&mut self) -> Option<&mut Scratch>;
}

impl Scratchpad for Scratch {
    fn lend(&mut self) -> Option<&mut Scratch> {
        Some(self)
    }
}

/// What a client's packet brings besides its headers. In the scratch: each value that the verifier knew would be another
/// way through all that follows.
#[derive(Default)]
pub(super) struct PacketMeta {
    /// When it came, seconds of the monotonic clock; read where a flow's record is looked for.
    pub(super) now: Cell<u32>,
    /// How far a flow has come that begins with it.
    pub(super) progress: u8,
    /// The backend that its QUIC connection id names; 0: none.
    pub(super) named: BackendIndex,
    /// How many slots lie between the one of its hash and the first whose owner has room for the flow.
    pub(super) skipped: u32,
    /// The backend whose way is to be looked at before the packet leaves; 0: none.
    pub(super) aimed: Cell<BackendIndex>,
    /// Whose it is.
    pub(super) owners: Owners,
}

/// What the steps of one packet's way have in common. It lies on the program's stack under all calls, which have what is
/// left of 512 bytes, and on kernels before 6.8 in frames rounded up to 32.
pub(super) struct Context<'t, T> {
    pub(super) tables: &'t T,
    pub(super) settings: &'t Settings,
    pub(super) parsed: &'t Parsed,
    pub(super) meta: &'t PacketMeta,
}
