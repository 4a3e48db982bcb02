//! The keys and values of the tables that both sides share, and the trait through which the
//! datapath reads them.
//!
//! Every type here is laid out by `repr(C)` without implicit padding: its bytes are a BPF map's.
//! A change to any of them is a new [`LAYOUT_VERSION`](version::LAYOUT_VERSION).

mod backend;
mod check;
mod code;
pub mod directory;
pub mod filter;
pub mod flow;
mod fragment;
mod index;
mod maps;
mod ports;
mod quic;
mod record;
mod reply;
mod route;
mod router;
mod service;
mod settings;
pub mod slot;
mod source;
mod traffic;
pub mod version;

use core::ops::DerefMut;

pub use self::backend::{Backend, BackendState, SHARED};
pub use self::check::{CHECKS_HOST_MAC, CHECKS_MAC, Check};
pub use self::code::{Code, Coded};
pub use self::fragment::{Fragment, FragmentKey, FragmentTarget};
pub use self::index::{BackendIndex, ServiceIndex, SlotIndex};
pub use self::ports::{PortRanges, SolePorts};
pub use self::quic::{ServerId, ServerKey};
pub use self::record::{FlowKey, Tags};
pub use self::reply::Reply;
pub use self::route::{NeighbourWanted, Route, RouteQuery, VlanDevice};
pub use self::router::{RouterAddresses, RouterInterface};
pub use self::service::{COUNTS_FLOWS, Mode, RECORDS_FLOWS, REJECTS, Service};
pub use self::settings::{ASYMMETRIC_REPLIES, RESETS_UNKNOWN, SILENCE, Settings};
use self::slot::Slot;
pub use self::source::{SourceKey, SourceVerdict};
pub use self::traffic::Traffic;
use crate::flow_table::Steps;
use crate::hash::FlowHash;
use crate::net::{Address, Endpoint, Port, Protocol};
use crate::own_mac::OwnMacs;
use crate::rate::Answer;
use crate::reason::Reason;

/// The tables, wherever they are.
pub trait Tables: OwnMacs {
    /// Where the records of flows are.
    type FlowTable: Steps;

    /// A backend's counters in their place.
    type Traffic<'a>: DerefMut<Target = Traffic>
    where
        Self: 'a;

    /// Seconds of the monotonic clock.
    fn now(&self) -> u32;
    /// What holds for every service.
    fn settings(&self) -> Option<&Settings>;
    /// Whose an address is, as [`crate::tables::filter`] says: [`crate::tables::filter::VIP`], [`crate::tables::filter::BACKEND`]
    /// or both; where it is nobody's, mostly neither. An address of this host has at least one of them.
    fn roles(&self, address: &Address) -> u8;
    /// The service with this key.
    fn service(&self, vip: &Endpoint) -> Option<&Service>;
    /// Whether an address has ranges of ports; where it has none, mostly not.
    fn may_have_ranges(&self, vip: &Address) -> bool;
    /// The ranges of ports of a VIP's address and protocol, its port 0.
    fn port_ranges(&self, vip: &Endpoint) -> Option<&PortRanges>;
    /// A ring's slot.
    fn slot(&self, index: SlotIndex) -> Option<Slot>;
    /// A backend's record, vacant or not.
    fn backend(&self, index: BackendIndex) -> Option<&Backend>;
    /// A SNAT address.
    fn snat_address(&self, place: u32) -> Option<&Address>;
    /// Whether this is the address of some service.
    fn is_vip(&self, address: &Address) -> bool;
    /// A port of the one service that an address has for a protocol; nothing, where it has several or none.
    fn sole_port(&self, address: &Address, protocol: Protocol) -> Option<Port>;
    /// Whether this is an address of this host, or one that `full-nat` sends from.
    fn is_own(&self, address: &Address) -> bool;
    /// What to do with a packet that comes from the endpoint with this key.
    fn reply(&self, backend: &Endpoint) -> Option<&Reply>;

    /// What the device of this index stands on or is a port of.
    fn device_below(&self, ifindex: u32) -> Option<VlanDevice>;

    /// The health check that sends packets with these addresses and ports.
    fn check(&self, key: &FlowKey) -> Option<&Check>;

    /// The records of flows.
    fn flow_table(&self) -> &Self::FlowTable;

    /// Whether one more answer of this kind may be sent now to a destination with this hash: takes tokens of its
    /// [`Buckets`](crate::rate::Bucketss).
    fn may_answer(&self, answer: Answer, destination: FlowHash) -> bool;
    /// The backend that a service's connection ids call so; 0: none.
    fn quic_server(&self, key: &ServerKey) -> BackendIndex;
    /// What the longest prefix says in which the key lies: a [`SourceVerdict`], as its number; 0 where it lies in none.
    fn source_verdict(&self, key: &SourceKey) -> u32;
    /// Nanoseconds of the monotonic clock.
    fn nanoseconds(&self) -> u64;
    /// When a source's bucket of new flows is full again, by that clock.
    fn bucket_full_at(&self, source: &SourceKey) -> Option<u64>;
    /// Notes when it is; where there is no room, another source's is forgotten.
    fn set_bucket_full_at(&self, source: &SourceKey, at: u64);
    /// Reads what became of a packet's first fragment; nothing, where that is not known.
    fn fragment(&self, key: &FragmentKey, into: &mut Fragment) -> Option<()>;
    /// Notes what became of a packet's first fragment; nothing, where there is no room.
    fn put_fragment(&self, key: &FragmentKey, fragment: &Fragment) -> Option<()>;

    /// How many flows a service has, where they are counted.
    fn service_flows(&self, service: ServiceIndex) -> Option<i64>;
    /// How many flows a backend has, where they are counted.
    fn backend_flows(&self, backend: BackendIndex) -> Option<i64>;
    /// Adds to both.
    fn add_flow(&self, service: ServiceIndex, backend: BackendIndex, by: i64);

    /// This host's addresses behind an interface; nothing, where none is known or wanted.
    fn router_addresses(&self, interface: &RouterInterface) -> Option<&RouterAddresses>;

    /// Where a packet has to be sent.
    fn route(&self, query: &RouteQuery) -> Route;
    /// Where packets to this backend have to be sent, if they come in by this interface.
    fn way(&self, backend: &Backend, ingress: u32) -> Route;
    /// Notes that the daemon lets no heartbeat come.
    fn set_alone(&self);

    /// A backend's counters. Asked for early, they come while the packet is worked on, where they are in no cache.
    fn traffic(&self, backend: BackendIndex) -> Option<Self::Traffic<'_>>;
    /// Counts a packet that is passed on or dropped.
    fn count(&self, reason: Reason);
}
