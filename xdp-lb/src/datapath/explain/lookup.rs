//! The lookups on a packet's path through the tables.

use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{Backend, BackendIndex, Service, SlotIndex};

/// A lookup on a packet's path through the tables, and its result.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Lookup {
    /// The possible roles of an address: bits of [`filter`](xdp_lb_common::tables::filter).
    Roles(Address, u8),
    /// The service of an endpoint.
    Service(Endpoint, Option<Service>),
    /// Whether an endpoint is a backend's.
    Reply(Endpoint, bool),
    /// A slot of a ring.
    Slot(SlotIndex, Slot),
    /// A backend's record.
    Backend(BackendIndex, Backend),
    /// The result of a service's source ranges for a client: the number of a
    /// [`SourceVerdict`](xdp_lb_common::tables::SourceVerdict).
    SourceRange(u32),
    /// When a client's bucket of new flows is full again, and the current time, in nanoseconds of the monotonic clock.
    Bucket(Option<u64>, u64),
    /// The backend that a QUIC connection id names.
    QuicServer(BackendIndex),
    /// The number of flows of a backend or service with a limit.
    Flows(i64),
    /// The record of a fragment.
    Fragment,
    /// The kernel's routes, which are not looked up here.
    Route(Address),
    /// The packet is counted as sent to a backend, or coming from it.
    Traffic(BackendIndex),
    /// The packet is counted by its reason.
    Reason(Reason),
}
