//! The parts of a plan: the index of each service and backend, and the writes.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use xdp_lb_common::net::{Address, Endpoint, Port};
use xdp_lb_common::tables::{BackendIndex, BackendState, ServiceIndex};

use super::room::Indices;
use crate::ring::Member;
use crate::tables::{Tables, Write};

/// There is not enough room for the wanted tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Full {
    /// A table whose size is a key of the config file's `[limits]`.
    #[error(
        "the tables were created with limits.{table} = {size}, which is too small: raise it in the config file, run \
         `xdp-lb unload`, and start again"
    )]
    Limit {
        /// The key.
        table: &'static str,
        /// The table's size.
        size: u32,
    },
    /// The table of SNAT addresses, of this size.
    #[error("all services together can have {0} SNAT addresses: configure fewer")]
    SnatAddresses(u32),
}

/// The writes from the current tables to the wanted ones, and what to remember.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Apply them in this order. After each of them, every packet finds valid tables.
    pub writes: Vec<Write>,
    /// New services, whose counters may still be those of a former one.
    pub new_services: Vec<ServiceIndex>,
    /// New backends, whose counters may still be those of a former one.
    pub new_backends: Vec<BackendIndex>,
    /// Services whose ring is too short, because there is no room for a longer one.
    pub shortened: Vec<Endpoint>,
    pub(crate) places: Places,
}

/// State that the tables themselves do not contain.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) services: Indices,
    pub(crate) backends: Indices,
    pub(crate) rings: BTreeMap<Endpoint, RingInput>,
    /// Rings that are longer than wanted, and their wanted lengths.
    pub(crate) shrinking: BTreeMap<Endpoint, u32>,
}

/// The inputs of a ring: if they are unchanged, so is the ring.
pub(crate) type RingInput = Vec<(Member, BackendState)>;

/// A backend's identity. It keeps its index as long as its service has a backend with this address and port.
pub type Identity = (ServiceIndex, Address, Port);

/// A backend's identity in a service.
pub fn identity(service: ServiceIndex, address: SocketAddr) -> Identity {
    (service, address.ip().into(), Port::new(address.port()))
}

/// The indices of all backends in the tables.
pub fn identities(tables: &Tables) -> HashMap<Identity, BackendIndex> {
    tables
        .backends
        .iter()
        .map(|(index, backend)| ((backend.service, backend.address, backend.port), *index))
        .collect()
}
