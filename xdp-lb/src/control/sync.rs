//! The present tables: carrying out plans, settling slots, and the counters of services and backends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;

use xdp_lb_common::net::Endpoint;
use xdp_lb_common::tables::{BackendIndex, BackendState, ServiceIndex, Traffic};

use super::journal::Journal;
use super::kernel::Kernel;
use crate::datapath::{Census, Counted, TablesView, monotonic_seconds};
use crate::fleet::TrackedRing;
use crate::model::Timeouts;
use crate::model::state::TroubleKind;
use crate::plan::places::{Full, Plan};
use crate::plan::planner::Planner;
use crate::plan::settling::Settling;
use crate::plan::tracking::{Tracking, tracked, tracking};
use crate::plan::wanted::WantedService;
use crate::report::explain::LiveTables;
use crate::report::history::History;
use crate::report::records::FlowRecords;
use crate::report::traffic::{Carried, Counters, TrafficRates};
use crate::tables::{Tables, Write};

/// The tables as written. Fields in an `Arc` are shared with published snapshots, and copied on write.
pub(super) struct TableSync {
    planner: Planner,
    settling: Arc<Settling>,
    rates: Arc<TrafficRates>,
    history: Arc<Mutex<History>>,
    /// The counters of each service's former backends.
    former: Arc<HashMap<ServiceIndex, Traffic>>,
    counters: Arc<dyn Counters>,
    flows: Arc<dyn FlowRecords>,
    live: Arc<dyn LiveTables>,
    /// Logged services whose rings are too short.
    shortened: Vec<Endpoint>,
    /// For whoever judges flow records meanwhile.
    view: Arc<TablesView>,
    given: Given,
}

/// The places that were given to somebody since a count of the flows began.
#[derive(Default)]
struct Given {
    services: HashSet<ServiceIndex>,
    backends: HashSet<BackendIndex>,
    /// Nobody knows which.
    is_unknown: bool,
}

impl TableSync {
    /// From tables that were read back.
    pub(super) fn new(
        tables: Tables,
        view: Arc<TablesView>,
        kernel: &dyn Kernel,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let former = |service: &xdp_lb_common::tables::Service| {
            Ok((service.index, kernel.former_traffic(service.index)?))
        };
        let former: anyhow::Result<_> = tables.services.values().map(former).collect();
        Ok(Self {
            settling: Arc::new(Settling::new(&tables, now)),
            rates: Arc::default(),
            history: Arc::default(),
            former: Arc::new(former.context("cannot read the counters of services")?),
            counters: kernel.counters()?,
            flows: kernel.flow_records(),
            live: kernel.live_tables()?,
            planner: Planner::new(tables, kernel.sizes()),
            shortened: Vec::new(),
            view,
            given: Given::default(),
        })
    }

    /// The present tables.
    pub(super) fn tables(&self) -> &Tables {
        self.planner.tables()
    }

    /// The same, for snapshots.
    pub(super) fn shared_tables(&self) -> Arc<Tables> {
        self.planner.shared_tables()
    }

    /// The slots that are not settled.
    pub(super) fn settling(&self) -> &Arc<Settling> {
        &self.settling
    }

    /// The rates of services and backends.
    pub(super) fn rates(&self) -> &Arc<TrafficRates> {
        &self.rates
    }

    /// The rates of the recent past.
    pub(super) fn history(&self) -> &Arc<Mutex<History>> {
        &self.history
    }

    /// The counters of each service's former backends.
    pub(super) fn former(&self) -> &Arc<HashMap<ServiceIndex, Traffic>> {
        &self.former
    }

    /// The counters of packets.
    pub(super) fn counters(&self) -> &Arc<dyn Counters> {
        &self.counters
    }

    /// The flow records.
    pub(super) fn flows(&self) -> &Arc<dyn FlowRecords> {
        &self.flows
    }

    /// The tables, for packets that are processed in this process.
    pub(super) fn live(&self) -> &Arc<dyn LiveTables> {
        &self.live
    }

    /// Whether a ring that is too long can be shortened now.
    pub(super) fn can_shrink(&self) -> bool {
        self.planner.can_shrink()
    }

    /// The writes that lead to the wanted tables.
    pub(super) fn plan(&self, wanted: &[WantedService]) -> Result<Plan, Full> {
        self.planner.plan(wanted, monotonic_seconds().map_or(0, |now| now.max(1)))
    }

    /// Carries out a plan.
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
        if plan.writes.is_empty() && plan.new_services.is_empty() && plan.new_backends.is_empty() {
            self.planner.commit(plan);
            return Ok(());
        }
        self.view.hide();
        let done = self.try_carry_out(plan, kernel);
        match &done {
            Ok(()) => {
                self.note(&plan.writes);
                self.planner.commit(plan);
                self.view.show(self.planner.shared_tables());
                let is_of_services = |write| matches!(write, &Write::Service(..) | &Write::RemoveService(_));
                if plan.writes.iter().any(is_of_services) {
                    let settling = Arc::make_mut(&mut self.settling);
                    settling.note_recording(self.planner.tables(), &plan.new_services, Instant::now());
                }
            }
            Err(_) => self.read_again(kernel),
        }
        done
    }

    fn try_carry_out(&mut self, plan: &Plan, kernel: &mut dyn Kernel) -> anyhow::Result<()> {
        self.given.services.extend(&plan.new_services);
        self.given.backends.extend(&plan.new_backends);
        for service in &plan.new_services {
            Arc::make_mut(&mut self.rates).services.remove(service);
            kernel.set_former_traffic(*service, Traffic::default())?;
            Arc::make_mut(&mut self.former).remove(service);
        }
        for backend in &plan.new_backends {
            Arc::make_mut(&mut self.rates).backends.remove(backend);
            kernel.zero_backend_traffic(*backend)?;
        }
        apply(kernel, &plan.writes)?;
        self.keep_former(kernel, &plan.writes)
    }

    /// Adds the counters of removed backends to their service. Earlier snapshots still have the backend, and the sum without
    /// it.
    fn keep_former(&mut self, kernel: &mut dyn Kernel, writes: &[Write]) -> anyhow::Result<()> {
        for write in writes {
            if let Write::Backend(index, after) = write
                && after.state == BackendState::Vacant
                && let Some(gone) = self.planner.tables().backends.get(index)
            {
                let counted = self.counters.backend_traffic(*index)?;
                let sum = Arc::make_mut(&mut self.former).entry(gone.service).or_default();
                *sum += counted;
                kernel.set_former_traffic(gone.service, *sum)?;
            }
        }
        Ok(())
    }

    /// Notes the slots that these completed writes move or settle.
    fn note(&mut self, writes: &[Write]) {
        if writes.iter().any(|write| matches!(write, Write::Slots(..))) {
            Arc::make_mut(&mut self.settling).note(writes, self.planner.tables(), Instant::now());
        }
    }

    /// After a failed write, read back how far it got.
    pub(super) fn read_again(&mut self, kernel: &dyn Kernel) {
        self.view.hide();
        self.given.is_unknown = true;
        match kernel.read() {
            Ok(tables) => {
                self.settling = Arc::new(self.settling.again(&tables, Instant::now()));
                self.planner = Planner::new(tables, kernel.sizes());
                self.view.show(self.planner.shared_tables());
            }
            Err(error) => tracing::error!("cannot read the datapath's tables: {error:#}"),
        }
    }

    /// Changes what flow records are judged by, beside the tables.
    pub(super) fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        self.view.hide();
        let done = change();
        self.view.show(self.planner.shared_tables());
        done
    }

    /// A count of the flows begins.
    pub(super) fn forget_given(&mut self) {
        self.given = Given::default();
    }

    /// Takes out of a count of the flows what may be another's by now; says whether nothing may.
    pub(super) fn forget_what_was_given(&self, counted: &mut Counted) -> bool {
        let Given { services, backends, is_unknown } = &self.given;
        if *is_unknown {
            *counted = Counted::default();
        }
        counted.census.live.retain(|index, _| !backends.contains(index));
        counted.before.forget(services, backends);
        !is_unknown && services.is_empty() && backends.is_empty()
    }

    /// Forgets the prior owners of slots that have moved for long enough; says whether there were any.
    pub(super) fn settle_due(
        &mut self,
        timeouts: &Timeouts,
        kernel: &mut dyn Kernel,
        journal: &mut Journal,
        now: Instant,
    ) -> bool {
        let due = match self.settling.may_be_due(timeouts, now) {
            true => Arc::make_mut(&mut self.settling).due(self.planner.tables(), timeouts, now),
            false => Vec::new(),
        };
        self.settle(&due, kernel, journal);
        !due.is_empty()
    }

    /// Settles the slots in which this count of the flows, which began then, found nothing that says otherwise.
    pub(super) fn settle_counted(
        &mut self,
        census: &Census,
        began: Instant,
        kernel: &mut dyn Kernel,
        journal: &mut Journal,
    ) {
        let shrinking: &BTreeMap<Endpoint, u32> = self.planner.shrinking();
        let settled = match self.settling.is_settled() {
            true => Vec::new(),
            false => {
                let settling = Arc::make_mut(&mut self.settling);
                settling.settled(self.planner.tables(), &census.others, began, shrinking)
            }
        };
        self.settle(&settled, kernel, journal);
    }

    /// Has settled slots go by records that other load balancers go by records in. Returns whether there were any.
    /// `is_new`: this node has had no flows of its own.
    pub(super) fn track(
        &mut self,
        rings: &[TrackedRing],
        is_new: bool,
        kernel: &mut dyn Kernel,
        journal: &mut Journal,
    ) -> bool {
        let Tracking { writes, moving_for } = tracking(self.planner.tables(), rings, is_new);
        self.settle(&writes, kernel, journal);
        if !moving_for.is_empty() {
            Arc::make_mut(&mut self.settling).note_moving_for(&moving_for, Instant::now());
        }
        !writes.is_empty()
    }

    /// The slots that are not settled, ring by ring.
    pub(super) fn tracked(&self) -> Vec<TrackedRing> {
        tracked(self.planner.tables(), &self.settling, Instant::now())
    }

    /// Writes slots that move towards settled, or away from it.
    fn settle(&mut self, writes: &[Write], kernel: &mut dyn Kernel, journal: &mut Journal) {
        if !writes.is_empty() {
            self.view.hide();
        }
        let done = apply(kernel, writes);
        match &done {
            Ok(()) if writes.is_empty() => {}
            Ok(()) => {
                self.note(writes);
                self.planner.record(writes);
                self.view.show(self.planner.shared_tables());
            }
            Err(_) => self.read_again(kernel),
        }
        journal.note_error(TroubleKind::Settling, done.err());
    }

    /// Samples every counter, for the rates and their history.
    pub(super) fn sample(&mut self, now: Instant) -> anyhow::Result<Carried> {
        let tables = self.planner.tables();
        let carried = Carried::read(self.counters.as_ref(), &self.former, tables, |_| true)?;
        let reasons = self.counters.reasons()?;
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.sample(&carried, tables, reasons.clone(), now);
        drop(history);
        Arc::make_mut(&mut self.rates).sample(&carried, reasons, now);
        Ok(carried)
    }
}

fn apply(kernel: &mut dyn Kernel, writes: &[Write]) -> anyhow::Result<()> {
    if writes.is_empty() { Ok(()) } else { kernel.apply(writes) }
}
