//! Several load balancers as one: each tells the others of its flows, as far as they could not tell by themselves where a flow's packets
//! go. So a flow continues on whichever node its packets meet.
//!
//! One thread does it, with sockets of its own; nothing else waits for it. Datagrams bring what is new ([`link`]); a
//! node that joins, or has missed too much, pulls all of it by TCP ([`pull`]).

#![forbid(unsafe_code)]

mod basis;
mod datagram;
mod exchange;
mod flow;
mod link;
mod outbox;
mod pull;
mod seal;
mod service;
mod sharing;
mod status;
mod table;
mod window;

pub use basis::Basis;
pub use flow::SharedFlow;
pub use service::{Fleet, Prepared};
pub use sharing::Sharing;
pub use status::{PeerStatus, Status};
pub use table::{FlowTable, Refusal, RingWord, SlotStep, TrackedRing, TrackedSlot};
