//! The keys and values of the tables that both sides share, and the trait by which the datapath reads them.
//!
//! Every type here is `repr(C)` without implicit padding: its bytes are a BPF map's. Any change needs a new
//! [`LAYOUT_VERSION`](version::LAYOUT_VERSION).

mod backend;
mod check;
mod code;
pub mod directory;
pub mod drops;
pub mod filter;
pub mod flow;
mod fragment;
mod index;
pub mod loss;
mod maps;
mod ports;
mod quic;
mod record;
pub mod refusal;
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
use self::refusal::RefusalKey;
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

/// The tables, in the kernel or on the host.
pub trait Tables: OwnMacs {
    /// The flow table.
    type FlowTable: Steps;

    /// A backend's counters, in place.
    type Traffic<'a>: DerefMut<Target = Traffic>
    where
        Self: 'a;

    /// Seconds of the monotonic clock.
    fn now(&self) -> u32;
    /// The settings for all services.
    fn settings(&self) -> Option<&Settings>;
    /// An address's roles, by [`filter`]: [`filter::VIP`], [`filter::BACKEND`], both, or mostly neither if it does not matter. An
    /// address of this host has at least one of them.
    fn roles(&self, address: &Address) -> u8;
    /// The service with this key.
    fn service(&self, vip: &Endpoint) -> Option<&Service>;
    /// Whether an address has ranges of ports; mostly false if it has none.
    fn may_have_ranges(&self, vip: &Address) -> bool;
    /// The port ranges of a VIP's address and protocol, with port 0.
    fn port_ranges(&self, vip: &Endpoint) -> Option<&PortRanges>;
    /// A ring's slot.
    fn slot(&self, index: SlotIndex) -> Option<Slot>;
    /// A backend's record, vacant or not.
    fn backend(&self, index: BackendIndex) -> Option<&Backend>;
    /// A SNAT address.
    fn snat_address(&self, place: u32) -> Option<&Address>;
    /// Whether this is the address of some service.
    fn is_vip(&self, address: &Address) -> bool;
    /// A port of an address's only service of a protocol. `None` if it has several or none.
    fn sole_port(&self, address: &Address, protocol: Protocol) -> Option<Port>;
    /// Whether this is an address of this host, or a source address of `full-nat`.
    fn is_own(&self, address: &Address) -> bool;
    /// What to do with a packet from this endpoint.
    fn reply(&self, backend: &Endpoint) -> Option<&Reply>;

    /// The parent of the device with this index, or the device of which it is a port.
    fn device_below(&self, ifindex: u32) -> Option<VlanDevice>;

    /// The health check that sends packets with these addresses and ports.
    fn check(&self, key: &FlowKey) -> Option<&Check>;

    /// The flow table.
    fn flow_table(&self) -> &Self::FlowTable;

    /// Whether another answer of this kind may be sent now to a destination with this hash. Takes tokens from its
    /// [`Buckets`](crate::rate::Buckets).
    fn may_answer(&self, answer: Answer, destination: FlowHash) -> bool;
    /// The backend with this server ID; 0: none.
    fn quic_server(&self, key: &ServerKey) -> BackendIndex;
    /// The verdict of the longest prefix that contains the key, as the number of a [`SourceVerdict`]; 0: no prefix does.
    fn source_verdict(&self, key: &SourceKey) -> u32;
    /// Nanoseconds of the monotonic clock.
    fn nanoseconds(&self) -> u64;
    /// When a source's bucket of new flows is full again, by [`Self::nanoseconds`].
    fn bucket_full_at(&self, source: &SourceKey) -> Option<u64>;
    /// Stores it. If there is no room, evicts another source's.
    fn set_bucket_full_at(&self, source: &SourceKey, at: u64);
    /// Reads the decision about a packet's first fragment. `None` if there is none.
    fn fragment(&self, key: &FragmentKey, into: &mut Fragment) -> Option<()>;
    /// Stores the decision about a packet's first fragment. `None` if there is no room.
    fn put_fragment(&self, key: &FragmentKey, fragment: &Fragment) -> Option<()>;

    /// The number of flows of a service, if they are counted.
    fn service_flows(&self, service: ServiceIndex) -> Option<i64>;
    /// The number of flows of a backend, if they are counted.
    fn backend_flows(&self, backend: BackendIndex) -> Option<i64>;
    /// Adds to both.
    fn add_flow(&self, service: ServiceIndex, backend: BackendIndex, by: i64);

    /// This host's addresses on an interface. `None` if none is known or needed.
    fn router_addresses(&self, interface: &RouterInterface) -> Option<&RouterAddresses>;

    /// Where to send a packet.
    fn route(&self, query: &RouteQuery) -> Route;
    /// Where to send packets to this backend that arrive on this interface.
    fn way(&self, backend: &Backend, ingress: u32) -> Route;
    /// Stores that the daemon's heartbeats have stopped.
    fn set_alone(&self);

    /// A backend's counters. Call this early to load them into the cache while the packet is processed.
    fn traffic(&self, backend: BackendIndex) -> Option<Self::Traffic<'_>>;
    /// Counts a packet that is passed or dropped.
    fn count(&self, reason: Reason);
    /// Counts a packet that a service, or a backend of its, has met a reason with.
    fn count_refusal(&self, key: &RefusalKey);
    /// Whether a packet from this source that is dropped for this reason belongs in the [sample](drops).
    fn samples_drop(&self, reason: Reason, source: &Address) -> bool;
    /// Puts it there, with its ingress.
    fn put_drop(&self, flow: &FlowKey, refusal: &RefusalKey, ingress: u32);
}
