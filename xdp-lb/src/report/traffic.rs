//! Traffic of services and backends: totals and rates.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Result;
use xdp_lb_common::flow_table::memory::Eviction;
use xdp_lb_common::tables::refusal::RefusalKey;
use xdp_lb_common::tables::{BackendIndex, ServiceIndex, Traffic};

use super::rates::{Answers, Rates, ReasonRates};
use crate::datapath::{self, Loss};
use crate::tables::Tables;

/// The packet counters as a trait, for tests without a kernel. They can be read while they are in use.
pub trait Counters: Send + Sync {
    /// The number of packets per reason, in the order of [`Reason::ALL`](xdp_lb_common::reason::Reason::ALL).
    ///
    /// # Errors
    /// If the kernel returns an error.
    fn reasons(&self) -> Result<Vec<u64>>;
    /// A backend's counters since it was added.
    ///
    /// # Errors
    /// If the kernel returns an error.
    fn backend_traffic(&self, index: BackendIndex) -> Result<Traffic>;
    /// How many packets of which service and backend met which reason, since the daemon started.
    ///
    /// # Errors
    /// If the kernel returns an error.
    fn refusals(&self) -> Result<Vec<(RefusalKey, u64)>>;
    /// How many records of flows were given up for this.
    ///
    /// # Errors
    /// If the kernel returns an error.
    fn evictions(&self, cause: Eviction) -> Result<u64>;
    /// The packets that the kernel dropped after the program's verdict, since the daemon started.
    ///
    /// # Errors
    /// If the kernel returns an error.
    fn losses(&self) -> Result<Vec<Loss>>;
}

impl Counters for datapath::Counters {
    fn reasons(&self) -> Result<Vec<u64>> {
        datapath::Counters::reasons(self)
    }

    fn backend_traffic(&self, index: BackendIndex) -> Result<Traffic> {
        datapath::Counters::backend_traffic(self, index)
    }

    fn refusals(&self) -> Result<Vec<(RefusalKey, u64)>> {
        datapath::Counters::refusals(self)
    }

    fn evictions(&self, cause: Eviction) -> Result<u64> {
        datapath::Counters::evictions(self, cause)
    }

    fn losses(&self) -> Result<Vec<Loss>> {
        datapath::Counters::losses(self)
    }
}

/// The counters of services and backends.
#[derive(Debug, Default)]
pub struct Carried {
    /// Each service's: the sum of its backends, including former ones.
    pub services: HashMap<ServiceIndex, Traffic>,
    /// Each backend's, since it was added.
    pub backends: HashMap<BackendIndex, Traffic>,
}

impl Carried {
    /// Reads the counters of the services for which `which` is true, and of their backends. The datapath only counts per backend,
    /// which saves a cache line per packet. `former`: the counters of each service's former backends.
    pub fn read(
        counters: &dyn Counters,
        former: &HashMap<ServiceIndex, Traffic>,
        tables: &Tables,
        which: impl Fn(ServiceIndex) -> bool,
    ) -> Result<Self> {
        let mut carried = Self::default();
        for service in tables.services.values().map(|service| service.index).filter(|index| which(*index)) {
            carried.services.insert(service, former.get(&service).copied().unwrap_or_default());
        }
        for (index, backend) in &tables.backends {
            if let Some(sum) = carried.services.get_mut(&backend.service) {
                let traffic = counters.backend_traffic(*index)?;
                *sum += traffic;
                carried.backends.insert(*index, traffic);
            }
        }
        Ok(carried)
    }
}

/// The rates of all services and backends.
#[derive(Clone, Debug, Default)]
pub struct TrafficRates {
    /// Each service's.
    pub services: HashMap<ServiceIndex, Rates>,
    /// Each backend's.
    pub backends: HashMap<BackendIndex, Rates>,
    /// Those of reasons.
    pub reasons: ReasonRates,
    /// How each backend has answered.
    pub answers: HashMap<BackendIndex, Answers>,
}

impl TrafficRates {
    /// Records the next sample, and removes services and backends that are not in it.
    pub fn sample(&mut self, carried: &Carried, reasons: Vec<u64>, now: Instant) {
        self.reasons.sample(reasons, now);
        sample(&mut self.services, &carried.services, now);
        sample(&mut self.backends, &carried.backends, now);
        self.answers.retain(|index, _| carried.backends.contains_key(index));
        for (index, traffic) in &carried.backends {
            self.answers.entry(*index).or_default().sample(*traffic, now);
        }
    }
}

fn sample<I: Copy + Eq + std::hash::Hash>(
    rates: &mut HashMap<I, Rates>,
    carried: &HashMap<I, Traffic>,
    now: Instant,
) {
    rates.retain(|index, _| carried.contains_key(index));
    for (index, traffic) in carried {
        rates.entry(*index).or_insert_with(|| Rates::new(*traffic, now)).sample(*traffic, now);
    }
}
