//! The tables' contents as the control plane sees them, and the writes that change them.

use std::collections::BTreeMap;

use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::slot::Slot;
use xdp_lb_common::tables::{Backend, BackendIndex, Reply, Service, SlotIndex};

/// What stands in the tables that the control plane writes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tables {
    /// `SERVICES`, by VIP.
    pub services: BTreeMap<Endpoint, Service>,
    /// `BACKENDS`, without the vacant places.
    pub backends: BTreeMap<BackendIndex, Backend>,
    /// `REPLIES`, by the backend's own endpoint.
    pub replies: BTreeMap<Endpoint, Reply>,
    /// `SNAT_ADDRESSES`, by place.
    pub snat_addresses: BTreeMap<u32, Address>,
    /// The rings that services name, by where they begin in `SLOTS`.
    pub rings: BTreeMap<SlotIndex, Vec<Slot>>,
}

/// One change of a table. Writes are applied in their order, each atomic for every packet.
#[derive(Clone, PartialEq, Debug)]
pub enum Write {
    /// Puts a backend's record; `Backend::default()` makes the place vacant.
    Backend(BackendIndex, Backend),
    /// Puts a SNAT address at a place.
    SnatAddress(u32, Address),
    /// Writes slots from this place on, one word each. A ring that no service names yet is invisible
    /// until its service's record is put; slots of a ring in use may be written one by one in place.
    Slots(SlotIndex, Vec<Slot>),
    /// Puts what to do with a backend's packets.
    Reply(Endpoint, Reply),
    /// Forgets a backend's endpoint.
    RemoveReply(Endpoint),
    /// Puts a service's record: from here on its packets see this record and its ring.
    Service(Endpoint, Service),
    /// Forgets a service.
    RemoveService(Endpoint),
}
