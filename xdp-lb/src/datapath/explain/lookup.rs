//! What a packet's way through the tables asks.

use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{Backend, BackendIndex, Service, SlotIndex};

/// What a packet's way through the tables asked, and was told.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Lookup {
    /// Whose an address may be: bits of [`filter`](xdp_lb_common::tables::filter).
    Roles(Address, u8),
    /// The service at an endpoint.
    Service(Endpoint, Option<Service>),
    /// Whether a backend's packets come from an endpoint.
    Reply(Endpoint, bool),
    /// A slot of a ring.
    Slot(SlotIndex, Slot),
    /// A backend's record.
    Backend(BackendIndex, Backend),
    /// What a service's source ranges say of a client: a [`SourceVerdict`](xdp_lb_common::tables::SourceVerdict), as its number.
    SourceRange(u32),
    /// When a client's bucket of new flows is full again, and the time now: nanoseconds of the monotonic clock.
    Bucket(Option<u64>, u64),
    /// The backend that a QUIC connection id names.
    QuicServer(BackendIndex),
    /// How many flows a backend or a service has that limits them.
    Flows(i64),
    /// Whose record a fragment would find.
    Fragment,
    /// The kernel's routes, which are not asked here.
    Route(Address),
    /// The packet is counted as sent to a backend, or coming from it.
    Traffic(BackendIndex),
    /// The packet is counted by its reason.
    Reason(Reason),
}
