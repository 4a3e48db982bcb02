//! Walks over the flow table beside the owner task, which does not wait for it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData};
use xdp_lb_common::flow_table::record::{Record, WayBack};
use xdp_lb_common::flow_table::{Memory as _, note, walk};
use xdp_lb_common::tables::Settings;
use xdp_lb_common::tables::flow::PAIRED;

use super::census::{Census, Count};
use super::clock::monotonic_seconds;
use super::flow_counts::{FlowCounters, FlowCounts};
use super::memory::FlowMemory;
use super::plain::Plain;
use super::view::TablesView;
use crate::tables::Tables;

/// The maximum delay until it notices that the tables are no longer being changed.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A count of the flows.
#[derive(Default)]
pub struct Counted {
    /// The result.
    pub census: Census,
    /// The counts for `max_flows`, as they were at its start.
    pub before: FlowCounts,
}

/// The flow table, for the task that cleans it up.
pub struct FlowKeeper {
    flows: Arc<FlowMemory>,
    counters: FlowCounters,
    settings: Array<MapData, Plain<Settings>>,
    view: Arc<TablesView>,
}

/// The tables by which records are judged, while they are valid.
struct Basis {
    version: u64,
    tables: Arc<Tables>,
    settings: Settings,
}

impl FlowKeeper {
    /// The keeper that judges records by this view.
    pub(super) fn new(
        flows: Arc<FlowMemory>,
        counters: FlowCounters,
        settings: Array<MapData, Plain<Settings>>,
        view: Arc<TablesView>,
    ) -> Self {
        Self { flows, counters, settings, view }
    }

    /// Counts the live flows, and removes the records that are no longer needed. If the tables change meanwhile, each record is
    /// judged by their contents at that moment, and only removed while these are still valid.
    ///
    /// # Errors
    /// If it must stop, or the kernel refuses.
    pub fn count(&mut self) -> Result<Counted> {
        let mut basis = self.wait_for_basis()?;
        let before = self.counters.read(&basis.tables)?;
        let mut census = Census::default();
        let mut bucket = 0;
        while bucket < self.flows.buckets() {
            let mut count = Count::go_on(census, &basis.tables, &basis.settings, monotonic_seconds()?);
            bucket = self.count_from(bucket, &mut count, &basis);
            census = count.finish();
            if bucket < self.flows.buckets() {
                basis = self.wait_for_basis()?;
            }
        }
        Ok(Counted { census, before })
    }

    /// Counts from this bucket on, as long as the basis is valid. Returns the next bucket.
    fn count_from(&self, first: u32, count: &mut Count<'_>, basis: &Basis) -> u32 {
        for bucket in first..self.flows.buckets() {
            if !self.view.stands(basis.version) {
                return bucket;
            }
            walk::sweep_bucket(&*self.flows, &basis.settings.hash_keys, bucket, |record| {
                count.take(record) && self.view.stands(basis.version)
            });
        }
        self.flows.buckets()
    }

    fn wait_for_basis(&self) -> Result<Basis> {
        loop {
            if self.view.is_over() {
                bail!("the daemon is stopping");
            }
            if let Some((version, tables)) = self.view.look() {
                let Plain(settings) = self.settings.get(&0, 0).context("cannot read the settings")?;
                return Ok(Basis { version, tables, settings });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Makes the replies of recorded flows that left by an interface, which is gone, leave by the one that replaces it. Returns
    /// the number of flows. A client's packet does the same for its own flow, but some clients wait for the backend.
    pub fn move_flows(&mut self, from: u32, to: u32) -> usize {
        let moves =
            |record: &Record| record.way_back().ifindex == from && record.life().progress() & PAIRED != 0;
        (0..self.flows.buckets())
            .take_while(|_| !self.view.is_over())
            .flat_map(|bucket| walk::records_of(&*self.flows, bucket))
            .filter(moves)
            .filter_map(|mut record| {
                let way = WayBack { ifindex: to, ..record.way_back() };
                note::redirect(&*self.flows, &mut record, &way)
            })
            .count()
    }
}
