//! What stands in the tables, and what is on its way there: plans carried out, slots settled, and the counters at the places
//! that services and backends have.

use std::collections::BTreeMap;
use std::time::Instant;

use xdp_lb_common::net::Endpoint;
use xdp_lb_common::tables::Traffic;

use super::journal::Journal;
use super::kernel::Kernel;
use super::traffic::{self, Carried, TrafficRates};
use crate::datapath::{Census, Sizes, monotonic_seconds};
use crate::model::Timeouts;
use crate::model::state::TroubleKind;
use crate::plan::places::{Full, Plan};
use crate::plan::planner::Planner;
use crate::plan::settling::Settling;
use crate::plan::wanted::WantedService;
use crate::tables::{Tables, Write};

/// The tables as they were written.
pub(super) struct TableSync {
    planner: Planner,
    settling: Settling,
    rates: TrafficRates,
    /// The services whose rings are shorter than they should be, as they were logged.
    shortened: Vec<Endpoint>,
}

impl TableSync {
    /// These tables, as they were found.
    pub(super) fn new(tables: Tables, sizes: Sizes, now: Instant) -> Self {
        Self {
            settling: Settling::new(&tables, now),
            planner: Planner::new(tables, sizes),
            rates: TrafficRates::default(),
            shortened: Vec::new(),
        }
    }

    /// What stands in the tables.
    pub(super) fn tables(&self) -> &Tables {
        self.planner.tables()
    }

    /// Which slots are not at rest.
    pub(super) fn settling(&self) -> &Settling {
        &self.settling
    }

    /// What services and backends carry a second.
    pub(super) fn rates(&self) -> &TrafficRates {
        &self.rates
    }

    /// Whether a ring that is longer than is wanted can be made shorter now.
    pub(super) fn can_shrink(&self) -> bool {
        self.planner.can_shrink()
    }

    /// The writes that make the tables what is wanted.
    pub(super) fn plan(&self, wanted: &[WantedService]) -> Result<Plan, Full> {
        self.planner.plan(wanted, monotonic_seconds().map_or(0, |now| now.max(1)))
    }

    /// Makes the writes of a plan.
    pub(super) fn carry_out(&mut self, plan: &Plan, kernel: &mut dyn Kernel) -> anyhow::Result<()> {
        if plan.shortened != self.shortened {
            for vip in &plan.shortened {
                let vip = vip.socket();
                tracing::warn!(
                    "the ring of {vip} is shorter than it should be, so new flows follow the weights less closely: \
                     raise limits.slots"
                );
            }
            self.shortened.clone_from(&plan.shortened);
        }
        let done = self.try_carry_out(plan, kernel);
        match &done {
            Ok(()) => {
                self.settling.note(&plan.writes, self.planner.tables(), Instant::now());
                self.planner.commit(plan);
            }
            Err(_) => self.read_again(kernel),
        }
        done
    }

    fn try_carry_out(&mut self, plan: &Plan, kernel: &mut dyn Kernel) -> anyhow::Result<()> {
        for service in &plan.new_services {
            self.rates.services.remove(service);
            kernel.set_former_traffic(*service, Traffic::default())?;
        }
        for backend in &plan.new_backends {
            self.rates.backends.remove(backend);
            kernel.zero_backend_traffic(*backend)?;
        }
        apply(kernel, &plan.writes)?;
        traffic::keep_former(kernel, self.planner.tables(), &plan.writes)
    }

    /// After a write that failed, only the tables know how far it came.
    pub(super) fn read_again(&mut self, kernel: &dyn Kernel) {
        match kernel.read() {
            Ok(tables) => {
                self.settling = Settling::new(&tables, Instant::now());
                self.planner = Planner::new(tables, kernel.sizes());
            }
            Err(error) => tracing::error!("cannot read the datapath's tables: {error:#}"),
        }
    }

    /// Forgets the prior owners of slots that have moved for long enough.
    pub(super) fn settle_due(
        &mut self,
        timeouts: &Timeouts,
        kernel: &mut dyn Kernel,
        journal: &mut Journal,
        now: Instant,
    ) {
        let due = self.settling.due(self.planner.tables(), timeouts, now);
        self.settle(&due, kernel, journal);
    }

    /// Settles the slots in which this count of the flows found nothing that says otherwise.
    pub(super) fn settle_counted(&mut self, census: &Census, kernel: &mut dyn Kernel, journal: &mut Journal) {
        let shrinking: &BTreeMap<Endpoint, u32> = self.planner.shrinking();
        let settled = self.settling.settled(self.planner.tables(), &census.others, shrinking);
        self.settle(&settled, kernel, journal);
    }

    /// Writes slots that come nearer to rest.
    fn settle(&mut self, writes: &[Write], kernel: &mut dyn Kernel, journal: &mut Journal) {
        let done = apply(kernel, writes);
        match &done {
            Ok(()) => {
                self.settling.note(writes, self.planner.tables(), Instant::now());
                self.planner.record(writes);
            }
            Err(_) => self.read_again(kernel),
        }
        journal.note_error(TroubleKind::Settling, done.err());
    }

    /// Samples every counter, for the rates.
    pub(super) fn sample(&mut self, kernel: &dyn Kernel, now: Instant) -> anyhow::Result<Carried> {
        let carried = Carried::read(kernel, self.planner.tables(), |_| true)?;
        self.rates.sample(&carried, now);
        Ok(carried)
    }
}

fn apply(kernel: &mut dyn Kernel, writes: &[Write]) -> anyhow::Result<()> {
    if writes.is_empty() { Ok(()) } else { kernel.apply(writes) }
}
