//! The one task that holds the daemon's state. Everything else sends it messages.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use xdp_lb_common::net::Endpoint;
use xdp_lb_common::tables::{BackendIndex, ServiceIndex};

use super::fleet::{Fleet, Transition};
use super::handle::{Answer, Refusal, Request};
use super::kernel::Kernel;
use super::plan::{Plan, Planner};
use super::rates::Rates;
use super::settling::Settling;
use super::tables::Write;
use crate::api::types::{AdminState, Outcome};
use crate::config::{self, Config, Effective, Overlay, XdpMode};
use crate::datapath::{Attached, Census, Policy};
use crate::health::{Health, Report, Target};
use crate::net::Event;

/// How often counters are sampled and what is overdue is looked for.
const TICK: Duration = Duration::from_secs(1);

/// How often the flows are counted, and those that are over removed.
const CENSUS_EVERY: Duration = Duration::from_secs(5);

/// How old a count of flows may be that somebody waits for.
const CENSUS_FRESH: Duration = Duration::from_millis(500);

/// How many messages are taken in before the tables are written.
const BURST: usize = 4096;

/// Replaces what is checked: [`Checker::set_targets`](crate::health::Checker::set_targets).
pub type SetTargets = Box<dyn FnMut(Vec<(Target, Health)>) + Send>;

/// Replaces the addresses whose next hop is wanted: [`Resolver::watch`](crate::net::Resolver::watch).
pub type Watch = Box<dyn FnMut(BTreeSet<IpAddr>) + Send>;

/// What the owner task works with.
pub struct Parts<K> {
    /// The config file, for `reload`.
    pub config_file: PathBuf,
    /// What stood in it.
    pub config: Config,
    /// The datapath, loaded.
    pub kernel: K,
    /// The checks' ear.
    pub set_targets: SetTargets,
    /// The resolver's ear.
    pub watch: Watch,
}

/// Why the owner task ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Nobody can send a request any more. The datapath goes on.
    Closed,
    /// The datapath was unloaded, as somebody asked.
    Unloaded,
    /// Nothing is heard of the network any more. The datapath goes on.
    NetworkLost,
}

/// The owner of the daemon's state.
pub struct Owner<K> {
    pub(super) config_file: PathBuf,
    pub(super) config: Config,
    pub(super) overlay: Overlay,
    pub(super) fleet: Fleet,
    pub(super) planner: Planner,
    pub(super) kernel: K,
    set_targets: SetTargets,
    watch: Watch,
    /// The interfaces that the program is to be attached to, and how it is, or why not.
    pub(super) interfaces: BTreeMap<String, Result<Attached, String>>,
    settling: Settling,
    pub(super) rates: TrafficRates,
    pub(super) census: Census,
    census_at: Option<Instant>,
    pub(super) started: Instant,
    is_stale: bool,
    trouble: Option<String>,
    cramped: Vec<Endpoint>,
}

/// The rates of what has counters.
#[derive(Debug, Default)]
pub(super) struct TrafficRates {
    pub(super) services: HashMap<ServiceIndex, Rates>,
    pub(super) backends: HashMap<BackendIndex, Rates>,
}

impl<K: Kernel> Owner<K> {
    /// Takes over the tables, brings them to what the config file and the runtime changes say, and
    /// attaches the program.
    ///
    /// # Errors
    /// Where the state file or the tables cannot be read, the two contradict each other, what is
    /// wanted does not fit in the tables, or an interface refuses the program.
    pub fn start(parts: Parts<K>) -> anyhow::Result<Self> {
        let Parts { config_file, config, mut kernel, set_targets, watch } = parts;
        let mut overlay = match config::state::read(&config.state_file) {
            Ok(overlay) => overlay,
            Err(error @ config::state::StateError::SetAside { .. }) => {
                tracing::error!("{error}");
                Overlay::default()
            }
            Err(error) => return Err(error.into()),
        };
        for line in overlay.prune(&config) {
            tracing::warn!("{line}");
        }
        let effective = config::effective(&config, &overlay).map_err(|lines| {
            anyhow::anyhow!(
                "the config file and the changes made at runtime (in {}) do not go together:\n{}",
                config.state_file.display(),
                lines.join("\n")
            )
        })?;

        let now = Instant::now();
        kernel.set_policy(&Policy::of(&config))?;
        let tables = kernel.read().context("cannot read the datapath's tables")?;
        let mut fleet = Fleet::new(&tables);
        fleet.set_effective(effective, &tables, now);
        let mut owner = Self {
            config_file,
            overlay,
            fleet,
            settling: Settling::new(&tables, now),
            planner: Planner::new(tables, kernel.sizes()),
            config,
            kernel,
            set_targets,
            watch,
            interfaces: BTreeMap::new(),
            rates: TrafficRates::default(),
            census: Census::default(),
            census_at: None,
            started: now,
            is_stale: false,
            trouble: None,
            cramped: Vec::new(),
        };
        log(owner.fleet.decide(now));
        let plan = owner.planner.plan(&owner.fleet.wanted())?;
        owner.carry_out(plan)?;
        for name in owner.config.interfaces.clone() {
            let attached = owner.kernel.attach(&name, owner.config.xdp_mode)?;
            owner.note_attached(name, Ok(attached));
        }
        owner.attach_alike();
        for name in owner.kernel.attached_interfaces()? {
            if !owner.interfaces.contains_key(&name) {
                owner.detach(&name);
            }
        }
        owner.tell_the_others();
        owner.sample();
        Ok(owner)
    }

    /// Serves until the last handle is dropped, or the datapath is unloaded.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut reports: mpsc::Receiver<Report>,
        mut events: mpsc::Receiver<Event>,
    ) -> Ended {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.recv() => match request.map(|request| self.serve(request)) {
                    None => return Ended::Closed,
                    Some(Some(ended)) => return ended,
                    Some(None) => {}
                },
                Some(report) = reports.recv() => self.is_stale |= self.fleet.report(report),
                event = events.recv() => match event {
                    None => return Ended::NetworkLost,
                    Some(event) => self.take_in(event),
                },
                _ = tick.tick() => self.tick(),
            }
            for _ in 0..BURST {
                let Ok(report) = reports.try_recv() else { break };
                self.is_stale |= self.fleet.report(report);
            }
            for _ in 0..BURST {
                let Ok(event) = events.try_recv() else { break };
                self.take_in(event);
            }
            if self.is_stale {
                self.reconcile();
            }
        }
    }

    /// Answers a request; tells where it ends the daemon.
    fn serve(&mut self, request: Request) -> Option<Ended> {
        match request {
            Request::Status(answer) => reply(answer, self.status()),
            Request::Services(answer) => reply(answer, self.services()),
            Request::Backends(service, answer) => {
                self.refresh_census();
                reply(answer, self.backends(service.as_deref()));
            }
            Request::Counters(answer) => reply(answer, self.counters()),
            Request::AddService(service, answer) => {
                reply(answer, self.change(|overlay, config| overlay.add_service(config, service)));
            }
            Request::RemoveService(name, answer) => {
                reply(answer, self.change(|overlay, config| overlay.remove_service(config, &name)));
            }
            Request::AddBackend(service, backend, answer) => {
                reply(answer, self.change(|overlay, config| overlay.add_backend(config, &service, backend)));
            }
            Request::PatchBackend(service, address, patch, answer) => reply(
                answer,
                self.change(|overlay, config| overlay.patch_backend(config, &service, address, patch)),
            ),
            Request::RemoveBackend(service, address, answer) => reply(
                answer,
                self.change(|overlay, config| overlay.remove_backend(config, &service, address)),
            ),
            Request::Reload(answer) => reply(answer, self.reload()),
            Request::Unload(answer) => {
                let unloaded = self.unload();
                let ended = unloaded.is_ok().then_some(Ended::Unloaded);
                reply(answer, unloaded);
                return ended;
            }
        }
        None
    }

    /// Makes a change that survives a restart: checked, planned, saved, and only then in effect.
    fn change(&mut self, change: impl FnOnce(&mut Overlay, &Config) -> Answer<Outcome>) -> Answer<Outcome> {
        let mut overlay = self.overlay.clone();
        let outcome = change(&mut overlay, &self.config)?;
        if overlay == self.overlay {
            return Ok(outcome);
        }
        let effective =
            config::effective(&self.config, &overlay).map_err(|lines| Refusal::Conflict(lines.join("\n")))?;
        self.adopt(self.config.clone(), overlay, effective, Refusal::Conflict)?;
        tracing::info!("{}", outcome.message);
        self.acknowledge(outcome)
    }

    /// Puts a config and runtime changes into effect: all of it, or nothing. Where only the datapath
    /// refuses, they are in effect and the datapath follows as soon as it can.
    pub(super) fn adopt(
        &mut self,
        config: Config,
        overlay: Overlay,
        effective: Effective,
        refuse: fn(String) -> Refusal,
    ) -> Answer<()> {
        let now = Instant::now();
        let mut fleet = self.fleet.clone();
        fleet.set_effective(effective, self.planner.tables(), now);
        let transitions = fleet.decide(now);
        let plan = self.planner.plan(&fleet.wanted()).map_err(|full| refuse(full.to_string()))?;
        if overlay != self.overlay {
            config::state::write(&config.state_file, &overlay).map_err(|error| {
                Refusal::Failed(format!("{error:#}; nothing was changed, since a restart would undo it"))
            })?;
        }
        (self.config, self.overlay, self.fleet) = (config, overlay, fleet);
        log(transitions);
        self.tell_the_others();
        let done = self.carry_out(plan);
        self.note_trouble(done.err());
        Ok(())
    }

    /// What to answer to a change that was saved.
    pub(super) fn acknowledge<T>(&self, outcome: T) -> Answer<T> {
        match &self.trouble {
            None => Ok(outcome),
            Some(trouble) => Err(Refusal::Failed(format!(
                "saved, but the datapath could not be changed, which is tried again every second: {trouble}"
            ))),
        }
    }

    /// Brings the tables to what follows from all that is known.
    fn reconcile(&mut self) {
        self.is_stale = false;
        log(self.fleet.decide(Instant::now()));
        let done = match self.planner.plan(&self.fleet.wanted()) {
            Ok(plan) => self.carry_out(plan),
            Err(full) => Err(full.into()),
        };
        self.note_trouble(done.err());
    }

    fn note_trouble(&mut self, error: Option<anyhow::Error>) {
        let trouble = error.map(|error| format!("{error:#}"));
        if let Some(trouble) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::error!(
                "the datapath is not what it should be; it is tried again every second: {trouble}"
            );
        }
        self.trouble = trouble;
    }

    fn carry_out(&mut self, plan: Plan) -> anyhow::Result<()> {
        if plan.cramped != self.cramped {
            for vip in &plan.cramped {
                let vip = vip.socket();
                tracing::warn!("the ring of {vip} is shorter than it should be: raise limits.slots");
            }
            self.cramped.clone_from(&plan.cramped);
        }
        let done = self.try_carry_out(&plan);
        match &done {
            Ok(()) => {
                self.planner.commit(&plan);
                self.settling.note(&plan.writes, Instant::now());
            }
            Err(_) => self.read_again(),
        }
        done
    }

    fn try_carry_out(&mut self, plan: &Plan) -> anyhow::Result<()> {
        for service in &plan.new_services {
            self.rates.services.remove(service);
            self.kernel.zero_service_traffic(*service)?;
        }
        for backend in &plan.new_backends {
            self.rates.backends.remove(backend);
            self.kernel.zero_backend_traffic(*backend)?;
        }
        self.apply(&plan.writes)
    }

    fn apply(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        if writes.is_empty() { Ok(()) } else { self.kernel.apply(writes) }
    }

    /// After a write that failed, only the tables know how far it came.
    fn read_again(&mut self) {
        match self.kernel.read() {
            Ok(tables) => {
                self.settling = Settling::new(&tables, Instant::now());
                self.planner = Planner::new(tables, self.kernel.sizes());
            }
            Err(error) => tracing::error!("cannot read the datapath's tables: {error:#}"),
        }
    }

    fn tell_the_others(&mut self) {
        (self.watch)(self.fleet.addresses());
        (self.set_targets)(self.fleet.targets());
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::NextHop { address, next_hop } => {
                self.fleet.heard(address, next_hop);
                self.is_stale = true;
            }
            Event::Vlans(vlans) => {
                if let Err(error) = self.kernel.set_vlans(&vlans) {
                    tracing::error!("the datapath cannot be told of the VLAN devices: {error:#}");
                }
            }
            Event::Interface { name, index, .. } => self.interface(name, index),
        }
    }

    /// An interface that came back, with another index, has lost the program.
    fn interface(&mut self, name: String, index: Option<u32>) {
        let Some(present) = self.interfaces.get(&name) else { return };
        match (present, index) {
            (Ok(attached), Some(index)) if attached.index == index => {}
            (Err(_), None) => {}
            (Ok(_), None) => self.note_attached(name, Err("the interface is gone".into())),
            (_, Some(_)) => {
                let attached = self.kernel.attach(&name, self.config.xdp_mode);
                self.note_attached(name, attached.map_err(|error| format!("{error:#}")));
                self.attach_alike();
            }
        }
    }

    /// Where one interface of `auto` had to be generic, has the others be so, too: a native program cannot send
    /// through a driver without XDP, and the kernel would drop what it sends there without a word.
    pub(super) fn attach_alike(&mut self) {
        let attached = |mode| {
            let of_mode = move |(name, attached): (&String, &Result<Attached, String>)| {
                attached.as_ref().is_ok_and(|attached| attached.mode == mode).then(|| name.clone())
            };
            self.interfaces.iter().filter_map(of_mode)
        };
        if self.config.xdp_mode != XdpMode::Auto {
            return;
        }
        let Some(generic) = attached(XdpMode::Generic).next() else { return };
        let native: Vec<_> = attached(XdpMode::Native).collect();
        for name in native {
            let again = self.kernel.detach(&name).and_then(|()| self.kernel.attach(&name, XdpMode::Generic));
            let again = again.map(|attached| Attached {
                note: Some(format!("{generic} is generic, and native XDP cannot send to it")),
                ..attached
            });
            self.note_attached(name, again.map_err(|error| format!("{error:#}")));
        }
    }

    pub(super) fn note_attached(&mut self, name: String, attached: Result<Attached, String>) {
        match &attached {
            Ok(Attached { mode, note: None, .. }) => tracing::info!("{name}: attached, {mode}"),
            Ok(Attached { mode, note: Some(note), .. }) => tracing::warn!("{name}: attached, {mode}: {note}"),
            Err(why) if self.interfaces.get(&name) == Some(&attached) => tracing::debug!("{name}: {why}"),
            Err(why) => tracing::error!("{name}: not attached: {why}"),
        }
        self.interfaces.insert(name, attached);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.sample();
        if self.census_at.is_none_or(|at| now.duration_since(at) >= CENSUS_EVERY) {
            self.count_flows(now);
        }
        let settled = self.settling.due(self.planner.tables(), &self.config.timeouts, now);
        match self.apply(&settled) {
            Ok(()) => {
                self.planner.record(&settled);
                self.settling.note(&settled, now);
            }
            Err(error) => {
                self.read_again();
                self.note_trouble(Some(error.context("slots cannot be settled")));
            }
        }
        self.is_stale |= self.trouble.is_some();
    }

    /// Samples every counter, for the rates.
    fn sample(&mut self) {
        let now = Instant::now();
        let tables = self.planner.tables();
        let services: Vec<ServiceIndex> = tables.services.values().map(|service| service.index).collect();
        self.rates.services.retain(|index, _| services.contains(index));
        self.rates.backends.retain(|index, _| tables.backends.contains_key(index));
        for index in services {
            if let Ok(traffic) = self.kernel.service_traffic(index) {
                let rates = self.rates.services.entry(index).or_insert_with(|| Rates::new(traffic, now));
                rates.sample(traffic, now);
            }
        }
        for index in tables.backends.keys() {
            if let Ok(traffic) = self.kernel.backend_traffic(*index) {
                let rates = self.rates.backends.entry(*index).or_insert_with(|| Rates::new(traffic, now));
                rates.sample(traffic, now);
            }
        }
    }

    /// Counts the flows anew where somebody waits for a backend to lose its last.
    fn refresh_census(&mut self) {
        let now = Instant::now();
        let is_old = self.census_at.is_none_or(|at| now.duration_since(at) >= CENSUS_FRESH);
        let is_awaited = self
            .fleet
            .effective()
            .services
            .iter()
            .flat_map(|service| &service.backends)
            .any(|backend| backend.admin == AdminState::Draining || backend.backend.weight == 0);
        if is_old && is_awaited {
            self.count_flows(now);
        }
    }

    fn count_flows(&mut self, now: Instant) {
        self.census_at = Some(now);
        match self.kernel.census() {
            Ok(census) => self.census = census,
            Err(error) => tracing::error!("the flows cannot be counted: {error:#}"),
        }
    }

    fn unload(&mut self) -> Answer<Outcome> {
        let removed = self.kernel.unload().map_err(|error| Refusal::Failed(format!("{error:#}")))?;
        let message = format!(
            "unloaded from {}, {} pins under {} removed; the daemon ends",
            self.interfaces.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
            removed.len(),
            self.config.pin_path.display()
        );
        tracing::info!("{message}");
        Ok(Outcome { message, changed: true })
    }
}

fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    // Whoever asked may have gone, which is their affair.
    let _ = answer.send(value);
}

fn log(transitions: Vec<Transition>) {
    for Transition { id, before, now } in transitions {
        let (service, backend, state, reason) = (&id.service, id.backend, now.state.name(), &now.reason);
        match before {
            None => tracing::info!("service {service}: backend {backend}: {state}: {reason}"),
            Some(before) => {
                let before = before.name();
                tracing::info!("service {service}: backend {backend}: {before} -> {state}: {reason}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
