//! The flow counts to which `max_flows` applies.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::Result;
use xdp_lb_common::tables::{BackendIndex, Service, ServiceIndex};

use super::census::Census;
use super::memory::Words;
use crate::tables::Tables;

/// The counts, which the datapath changes as well.
pub struct FlowCounters {
    services: Words,
    backends: Words,
}

/// Flow counts, as in the words of their tables.
#[derive(Clone, Default)]
pub struct FlowCounts {
    services: BTreeMap<ServiceIndex, u64>,
    backends: BTreeMap<BackendIndex, (ServiceIndex, u64)>,
}

impl FlowCounters {
    /// From the counts of services, and those of backends.
    pub fn new(services: Words, backends: Words) -> Self {
        Self { services, backends }
    }

    /// A second handle of the same counts.
    pub fn share(&self) -> Self {
        Self { services: self.services.share(), backends: self.backends.share() }
    }

    /// The counts of the services that have them, and of their backends.
    pub fn read(&self, tables: &Tables) -> Result<FlowCounts> {
        let counts_flows = |service: &&Service| service.counts_flows();
        let services: BTreeSet<ServiceIndex> =
            tables.services.values().filter(counts_flows).map(|service| service.index).collect();
        let mut counts = FlowCounts::default();
        for service in &services {
            counts.services.insert(*service, self.services.load(service.0)?);
        }
        for (index, backend) in &tables.backends {
            if services.contains(&backend.service) {
                counts.backends.insert(*index, (backend.service, self.backends.load(index.0)?));
            }
        }
        Ok(counts)
    }

    /// Sets the counts to the census's result, plus the changes since they were read.
    pub fn correct(&self, before: &FlowCounts, census: &Census) -> Result<()> {
        let mut services = before.services.clone();
        for (index, (service, before)) in &before.backends {
            let live = census.live.get(index).copied().unwrap_or(0);
            self.backends.add(index.0, live.wrapping_sub(*before))?;
            if let Some(rest) = services.get_mut(service) {
                *rest = rest.wrapping_sub(live);
            }
        }
        for (service, surplus) in services {
            self.services.add(service.0, surplus.wrapping_neg())?;
        }
        Ok(())
    }

    /// Sets a service's count to 0.
    pub fn zero_service(&self, index: u32) -> Result<()> {
        self.services.store(index, 0)
    }

    /// Sets a backend's count to 0.
    pub fn zero_backend(&self, index: u32) -> Result<()> {
        self.backends.store(index, 0)
    }
}

impl FlowCounts {
    /// By backend.
    pub fn of_backends(&self) -> BTreeMap<BackendIndex, i64> {
        self.backends.iter().map(|(index, (_, flows))| (*index, *flows as i64)).collect()
    }

    /// Removes the services whose own index, or a backend's, has been reused: the counts may include another's flows.
    pub fn forget(&mut self, services: &HashSet<ServiceIndex>, backends: &HashSet<BackendIndex>) {
        let hit = self.backends.iter().filter(|(index, _)| backends.contains(*index));
        let mut hit: BTreeSet<ServiceIndex> = hit.map(|(_, (service, _))| *service).collect();
        hit.extend(services);
        self.services.retain(|service, _| !hit.contains(service));
        self.backends.retain(|_, (service, _)| !hit.contains(service));
    }
}
