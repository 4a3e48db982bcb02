//! The writes that turn the current tables into the wanted ones. Pure.

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

/// The current tables, and their free indices.
#[derive(Clone, Debug)]
pub struct Planner {
    pub(crate) tables: Arc<Tables>,
    pub(crate) sizes: Sizes,
    pub(crate) places: Places,
}

impl Planner {
    /// A planner for tables of these sizes with these contents: empty, or from an earlier daemon. All indices and rings are kept.
    pub fn new(tables: Tables, sizes: Sizes) -> Self {
        let Limits { services, backends, .. } = sizes.limits;
        let used: Vec<_> = tables.services.values().map(|service| service.index).collect();
        let places = Places {
            services: Indices::new(0..services, |index| used.contains(&ServiceIndex(index))),
            // A slot of zeroes means no backend, so index 0 is never assigned.
            backends: Indices::new(1..backends.saturating_add(1), |index| {
                tables.backends.contains_key(&BackendIndex(index))
            }),
            rings: BTreeMap::new(),
            shrinking: BTreeMap::new(),
        };
        Self { tables: Arc::new(tables), sizes, places }
    }

    /// The current tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The current tables, shared with readers while they change.
    pub fn shared_tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables)
    }

    /// The writes that turn the tables into the wanted ones. Nothing changes until [`Planner::commit`]. `now`: seconds of the
    /// datapath's clock; 0: unknown.
    pub fn plan(&self, wanted: &[WantedService], now: u32) -> Result<Plan, Full> {
        self.draft(wanted, now).or_else(|_| {
            // Old and new do not fit side by side: removing unwanted entries first makes room.
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

    /// Rings that are longer than wanted, and their wanted lengths.
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

    /// Records that the plan's writes were applied.
    pub fn commit(&mut self, plan: &Plan) {
        self.record(&plan.writes);
        self.places = plan.places.clone();
    }

    /// Records that these writes, which do not change any index, were applied.
    pub fn record(&mut self, writes: &[Write]) {
        if !writes.is_empty() {
            let tables = Arc::make_mut(&mut self.tables);
            writes.iter().for_each(|write| tables.apply(write));
        }
    }

    /// The wanted services that are in the tables already.
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
