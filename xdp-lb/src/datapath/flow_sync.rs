//! The flow table of a load balancer that exchanges flows with others.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData};
use xdp_lb_common::flow_table::Memory as _;
use xdp_lb_common::tables::Settings;

use super::clock::monotonic_seconds;
use super::memory::FlowMemory;
use super::plain::Plain;
use super::view::TablesView;
use crate::fleet::{Basis, FlowTable, Refusal, SharedFlow, Sharing, TrackedRing};

/// How long it takes at most until it is seen that the tables are no longer being changed.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The flow table, for the exchange.
pub struct FlowSync {
    flows: Arc<FlowMemory>,
    settings: Array<MapData, Plain<Settings>>,
    view: Arc<TablesView>,
    sharing: Sharing,
    /// What stands in the tables, and the number by which to ask whether it still does.
    basis: Option<(u64, Arc<Basis>)>,
    /// How often there were other backends.
    changes: u64,
}

impl FlowSync {
    /// The flows in this memory, of the tables that this view shows.
    pub(super) fn new(
        flows: Arc<FlowMemory>,
        settings: Array<MapData, Plain<Settings>>,
        view: Arc<TablesView>,
    ) -> Self {
        let sharing = Sharing::new(flows.buckets());
        Self { flows, settings, view, sharing, basis: None, changes: 0 }
    }

    /// What stands in the tables now.
    fn basis(&mut self) -> Result<Arc<Basis>> {
        if let Some((version, basis)) = &self.basis
            && self.view.stands(*version)
        {
            return Ok(Arc::clone(basis));
        }
        loop {
            if self.view.is_over() {
                bail!("the daemon is stopping");
            }
            if let Some((version, tables)) = self.view.look() {
                let Plain(settings) = self.settings.get(&0, 0).context("cannot read the settings")?;
                let basis = Arc::new(Basis::new(tables, settings));
                let is_same = |(_, before): &(u64, Arc<Basis>)| before.has_backends_of(&basis);
                if !self.basis.as_ref().is_some_and(is_same) {
                    self.changes += 1;
                }
                self.basis = Some((version, Arc::clone(&basis)));
                return Ok(basis);
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl FlowTable for FlowSync {
    fn news(&mut self, room: usize, flows: &mut Vec<SharedFlow>) -> Result<bool> {
        let basis = self.basis()?;
        Ok(self.sharing.news(&*self.flows, &basis, monotonic_seconds()?, room, flows))
    }

    fn page(&mut self, from: u32, flows: &mut Vec<SharedFlow>) -> Result<Option<u32>> {
        let basis = self.basis()?;
        Ok(Sharing::page(&*self.flows, &basis, monotonic_seconds()?, from, flows))
    }

    fn backends(&mut self) -> Result<u64> {
        self.basis()?;
        Ok(self.changes)
    }

    fn take(&mut self, flow: &SharedFlow) -> Result<Result<(), Refusal>> {
        let basis = self.basis()?;
        Ok(self.sharing.take(&*self.flows, &basis, monotonic_seconds()?, flow))
    }

    fn differing(&mut self) -> Vec<TrackedRing> {
        self.sharing.differing()
    }
}
