//! What services and backends have carried, in all and a second.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Result;
use xdp_lb_common::tables::{BackendIndex, BackendState, ServiceIndex, Traffic};

use super::kernel::Kernel;
use crate::report::rates::Rates;
use crate::tables::{Tables, Write};

/// The counters of services and backends.
#[derive(Debug, Default)]
pub struct Carried {
    /// Each service's: those of its backends, and of the backends that it had before.
    pub services: HashMap<ServiceIndex, Traffic>,
    /// Each backend's, since it was added.
    pub backends: HashMap<BackendIndex, Traffic>,
}

impl Carried {
    /// Reads the counters of the services for which `which` is true, and of their backends. The datapath counts for
    /// backends alone, which costs a packet one cache line less.
    pub fn read(kernel: &dyn Kernel, tables: &Tables, which: impl Fn(ServiceIndex) -> bool) -> Result<Self> {
        let mut carried = Self::default();
        for service in tables.services.values().map(|service| service.index).filter(|index| which(*index)) {
            carried.services.insert(service, kernel.former_traffic(service)?);
        }
        for (index, backend) in &tables.backends {
            if let Some(sum) = carried.services.get_mut(&backend.service) {
                let traffic = kernel.backend_traffic(*index)?;
                *sum += traffic;
                carried.backends.insert(*index, traffic);
            }
        }
        Ok(carried)
    }
}

/// Keeps for its service what each backend counted that is taken out by these writes, which have been done to `before`.
pub fn keep_former(kernel: &mut dyn Kernel, before: &Tables, writes: &[Write]) -> Result<()> {
    for write in writes {
        if let Write::Backend(index, after) = write
            && after.state == BackendState::Vacant as u8
            && let Some(gone) = before.backends.get(index)
        {
            let mut sum = kernel.former_traffic(gone.service)?;
            sum += kernel.backend_traffic(*index)?;
            kernel.set_former_traffic(gone.service, sum)?;
        }
    }
    Ok(())
}

/// The rates of all services and backends.
#[derive(Debug, Default)]
pub struct TrafficRates {
    /// Each service's.
    pub services: HashMap<ServiceIndex, Rates>,
    /// Each backend's.
    pub backends: HashMap<BackendIndex, Rates>,
}

impl TrafficRates {
    /// Takes in the next sample. What it does not know is forgotten.
    pub fn sample(&mut self, carried: &Carried, now: Instant) {
        sample(&mut self.services, &carried.services, now);
        sample(&mut self.backends, &carried.backends, now);
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
