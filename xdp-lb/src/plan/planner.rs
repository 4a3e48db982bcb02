//! From what is wanted and what stands in the tables to the writes in between. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use xdp_lb_common::net::{Address, Endpoint, Port};
use xdp_lb_common::tables::{BackendIndex, BackendState, ServiceIndex};

use super::draft::Draft;
use super::room::Indices;
use super::wanted::{WantedBackend, WantedService};
use crate::datapath::Sizes;
use crate::model::Limits;
use crate::ring::{self, Member};
use crate::tables::{Tables, Write};

/// There is no room for what is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Full {
    /// A table whose size is a key of the config file's `[limits]`.
    #[error(
        "the tables were made with limits.{table} = {size}, which is too small for this: raise it in the config file, \
         `xdp-lb unload`, and start again"
    )]
    Limit {
        /// The key.
        table: &'static str,
        /// The table's size.
        size: u32,
    },
    /// The table of SNAT addresses, of this size.
    #[error(
        "all services together have room for {0} SNAT addresses, which is too little for this: name fewer"
    )]
    SnatAddresses(u32),
}

/// The writes that lead from the present tables to the wanted ones, and what to remember of them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// To be applied in this order. After each of them, every packet finds a whole service.
    pub writes: Vec<Write>,
    /// Services that are new, whose counters may still hold those of another.
    pub new_services: Vec<ServiceIndex>,
    /// Backends that are new, whose counters may still hold those of another.
    pub new_backends: Vec<BackendIndex>,
    /// Services whose ring is shorter than it should be, since there is no room for a longer one.
    pub shortened: Vec<Endpoint>,
    pub(crate) places: Places,
}

/// What stands in the tables, and which of their places are free.
#[derive(Clone, Debug)]
pub struct Planner {
    pub(crate) tables: Tables,
    pub(crate) sizes: Sizes,
    pub(crate) places: Places,
}

/// What the tables themselves do not tell.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) services: Indices,
    pub(crate) backends: Indices,
    pub(crate) rings: BTreeMap<Endpoint, RingInput>,
    /// Rings that are longer than is wanted, and how long they are to be.
    pub(crate) shrinking: BTreeMap<Endpoint, u32>,
}

/// What a ring was made of: where it is unchanged, so is the ring.
pub(crate) type RingInput = Vec<(Member, BackendState)>;

impl Planner {
    /// A planner for tables of these sizes that hold this: nothing, or what another daemon left.
    /// The tables are the memory of all indices and rings.
    pub fn new(tables: Tables, sizes: Sizes) -> Self {
        let Limits { services, backends, .. } = sizes.limits;
        let used: Vec<_> = tables.services.values().map(|service| service.index).collect();
        let places = Places {
            services: Indices::new(0..services, |index| used.contains(&ServiceIndex(index))),
            // A slot of zeroes means nobody: place 0 is never given out.
            backends: Indices::new(1..backends.saturating_add(1), |index| {
                tables.backends.contains_key(&BackendIndex(index))
            }),
            rings: BTreeMap::new(),
            shrinking: BTreeMap::new(),
        };
        Self { tables, sizes, places }
    }

    /// What stands in the tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The writes that make the tables what is wanted. Nothing changes until [`Planner::commit`].
    pub fn plan(&self, wanted: &[WantedService]) -> Result<Plan, Full> {
        Draft::plan(self, wanted).or_else(|_| {
            // Old and new do not fit side by side: what is not wanted any more makes room first.
            let removal = Draft::plan(self, &self.kept(wanted))?;
            let mut smaller = self.clone();
            smaller.commit(&removal);
            let mut plan = Draft::plan(&smaller, wanted)?;
            plan.writes.splice(0..0, removal.writes);
            Ok(plan)
        })
    }

    /// Rings that are longer than is wanted, and how long they are to be.
    pub fn shrinking(&self) -> &BTreeMap<Endpoint, u32> {
        &self.places.shrinking
    }

    /// Whether one of those can be made shorter now.
    pub fn can_shrink(&self) -> bool {
        self.places.shrinking.iter().any(|(vip, length)| {
            let service = self.tables.services.get(vip);
            service.is_some_and(|service| ring::merged(self.tables.ring(service), *length).is_some())
        })
    }

    /// Remembers that the plan's writes were applied.
    pub fn commit(&mut self, plan: &Plan) {
        self.record(&plan.writes);
        self.places = plan.places.clone();
    }

    /// Remembers that these writes, which give and take no place, were applied.
    pub fn record(&mut self, writes: &[Write]) {
        writes.iter().for_each(|write| self.tables.apply(write));
    }

    /// The part of what is wanted that stands in the tables already.
    fn kept(&self, wanted: &[WantedService]) -> Vec<WantedService> {
        let identities = identities(&self.tables);
        wanted
            .iter()
            .filter_map(|service| {
                let present = self.tables.services.get(&service.vip)?;
                let is_known = |backend: &&WantedBackend| {
                    identities.contains_key(&identity(present.index, backend.address))
                };
                let backends = service.backends.iter().filter(is_known).copied().collect();
                Some(WantedService { backends, ..service.clone() })
            })
            .collect()
    }
}

/// A backend keeps its index for as long as its service has a backend of this address and port.
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

#[cfg(test)]
mod tests;
