//! From what is wanted and what stands in the tables to the writes in between. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use xdp_lb_common::net::Endpoint;
use xdp_lb_common::tables::{BackendIndex, ServiceIndex};

use super::draft::Draft;
use super::places::{Full, Places, Plan, identities, identity};
use super::room::Indices;
use super::wanted::{WantedBackend, WantedService};
use crate::datapath::Sizes;
use crate::model::Limits;
use crate::ring::{self};
use crate::tables::{Tables, Write};

/// What stands in the tables, and which of their places are free.
#[derive(Clone, Debug)]
pub struct Planner {
    pub(crate) tables: Arc<Tables>,
    pub(crate) sizes: Sizes,
    pub(crate) places: Places,
}

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
        Self { tables: Arc::new(tables), sizes, places }
    }

    /// What stands in the tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What stands in the tables now, for whoever reads it while they change.
    pub fn shared_tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables)
    }

    /// The writes that make the tables what is wanted. Nothing changes until [`Planner::commit`]. `now`: seconds of the clock that
    /// packets are noted by; 0 where it does not tell.
    pub fn plan(&self, wanted: &[WantedService], now: u32) -> Result<Plan, Full> {
        self.draft(wanted, now).or_else(|_| {
            // Old and new do not fit side by side: what is not wanted any more makes room first.
            let removal = self.draft(&self.kept(wanted), now)?;
            let mut smaller = self.clone();
            smaller.commit(&removal);
            let mut plan = smaller.draft(wanted, now)?;
            plan.writes.splice(0..0, removal.writes);
            Ok(plan)
        })
    }

    fn draft(&self, wanted: &[WantedService], now: u32) -> Result<Plan, Full> {
        Draft::plan(&self.tables, &self.sizes, &self.places, wanted, now)
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
        if !writes.is_empty() {
            let tables = Arc::make_mut(&mut self.tables);
            writes.iter().for_each(|write| tables.apply(write));
        }
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

#[cfg(test)]
mod tests;
