//! The one task that holds the daemon's state. Everything else sends it messages.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot, watch};
use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::tables::Traffic;

use super::discovery::Discoveries;
use super::events::EventLog;
use super::handle::Request;
use super::host::{self, ThisHost};
use super::kernel::Kernel;
use super::leaving;
use super::traffic::{self, Carried, TrafficRates};
use super::troubles::{self, News, Troubles};
use super::unknown_flows::UnknownFlows;
use super::verify::Verification;
use super::vips::Vips;
use crate::control::upgrades::Upgrades;
use crate::datapath::{Attached, Census};
use crate::discovery::Update;
use crate::health::{AgentReport, Course, Health, Report, Target, TargetId};
use crate::model::event::WatchEvent;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::Outcome;
use crate::model::state::{AdminState, TroubleKind};
use crate::model::{self, Config, Effective, EffectiveBackend, EffectiveService, Via};
use crate::net::{Event, NoNextHop, OwnMacs, RouterAddressesOf};
use crate::overlay::{self, Leave, Moment, Overlay};
use crate::plan::places::{Plan, identities, identity};
use crate::plan::planner::Planner;
use crate::plan::settling::Settling;
use crate::pool::fleet::{Covered, Fleet, Reweighed, Transition, vip};
use crate::store::{self, Saved, StateError};
use crate::tables::Write;

/// How often counters are sampled and what is overdue is looked for.
const TICK: Duration = Duration::from_secs(1);

/// How often it is looked at whether a backend that is down answers clients.
const LOOK_FOR_ANSWERS: Duration = Duration::from_millis(250);

/// News of backends is taken together for so long: those that fail at one moment are decided on together, and the ring does not
/// move for one of them before it is known of the others.
const NEWS_GATHER: Duration = Duration::from_millis(10);

/// How often the flows are counted, and those that are over removed.
const CENSUS_EVERY: Duration = Duration::from_secs(5);

/// How old a count of flows may be that somebody waits for.
const CENSUS_FRESH: Duration = Duration::from_millis(500);

/// After the tables were brought up to date, which looks at every service, the owner task rests for so many times as
/// long as that took: where thousands of backends change their health, those that come meanwhile are taken together.
const REST: u32 = 3;

/// The longest rest.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// With empty tables, what the first checks find is taken together for so long: backends that came up one after another would
/// take their slots from those before them, and a slot that moves has no new UDP flows for its new owner until it is known
/// which flows are old.
const GATHERING: Duration = Duration::from_millis(250);

/// How many messages are taken in before the tables are written.
const BURST: usize = 4096;

/// Replaces what is checked: [`Checker::set_targets`](crate::health::Checker::set_targets).
pub type SetTargets = Box<dyn FnMut(Vec<(Target, Health)>) + Send>;

/// Says of an address whether this host has a way to it; or in words why not:
/// [`Checker::set_reach`](crate::health::Checker::set_reach).
pub type SetReach = Box<dyn FnMut(IpAddr, Option<String>) + Send>;

/// Replaces where the datapath has the backends that are checked at VIPs; or why the daemon has no way to check so:
/// [`VipChecks::set_courses`](crate::health::VipChecks::set_courses).
pub type SetCourses = Result<SetCourse, String>;

/// See [`SetCourses`].
pub type SetCourse = Box<dyn FnMut(HashMap<TargetId, Course>) + Send>;

/// Replaces the services whose backends are looked for:
/// [`Discoverer::set_services`](crate::discovery::Discoverer::set_services).
pub type SetDiscoveries = Box<dyn FnMut(Vec<model::Service>) + Send>;

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
    /// Who is told which backends this host has no way to.
    pub set_reach: SetReach,
    /// The resolver's ear.
    pub watch: Watch,
    /// Who keeps the VIPs.
    pub vips: Box<dyn Vips>,
    /// Whom to ask for an upgrade.
    pub upgrades: Upgrades,
    /// Discovery's ear.
    pub set_discoveries: SetDiscoveries,
    /// The ear of checks at VIPs.
    pub set_courses: SetCourses,
    /// The MACs of the host's interfaces, until an event tells of others.
    pub own_macs: OwnMacs,
    /// What was learnt while another daemon had the tables.
    pub learnt: Option<Learnt>,
    /// Why the metrics are not served, where they should be.
    pub metrics: watch::Receiver<Option<String>>,
}

/// What a daemon has learnt while another one had the tables.
#[derive(Debug)]
pub struct Learnt {
    /// What is known of the backends.
    pub fleet: Fleet,
    /// What is still to be taken in: the last news of MACs, addresses and VLANs, and of each interface.
    pub news: Vec<Event>,
}

/// What the owner task hears.
pub struct Ears {
    /// Requests of the API and of signals.
    pub requests: mpsc::Receiver<Request>,
    /// Ends of health checks.
    pub reports: mpsc::Receiver<Report>,
    /// News of agents.
    pub agents: mpsc::Receiver<AgentReport>,
    /// The network.
    pub events: mpsc::Receiver<Event>,
    /// What discovery finds.
    pub found: mpsc::Receiver<Update>,
}

/// Whether a change may be in effect that a restart would undo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Persist {
    /// No: without being saved it is refused.
    First,
    /// Yes: it would be found out anew.
    IfItCan,
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
    set_reach: SetReach,
    watch: Watch,
    pub(super) vips: Box<dyn Vips>,
    /// Whether it was not known, when it was looked last, what is wanted of some VIP.
    pub(super) is_undecided: bool,
    pub(super) upgrades: Upgrades,
    set_discoveries: SetDiscoveries,
    set_courses: SetCourses,
    pub(super) own_macs: OwnMacs,
    metrics: watch::Receiver<Option<String>>,
    pub(super) discoveries: Discoveries,
    /// The interfaces that the program is to be attached to, and how it is, or why not.
    pub(super) interfaces: BTreeMap<String, Result<Attached, String>>,
    /// Under which index each interface of the config had the program last.
    pub(super) last_index: BTreeMap<String, u32>,
    /// The interfaces that are up and have a carrier.
    pub(super) links_up: BTreeSet<String>,
    /// When it was last tried to attach where that had failed.
    pub(super) attach_tried: Instant,
    pub(super) settling: Settling,
    pub(super) rates: TrafficRates,
    pub(super) census: Census,
    /// Whether flows without a record are over.
    unknown_flows: UnknownFlows,
    /// This host's addresses, behind each interface.
    router_addresses: RouterAddressesOf,
    /// When the flows were counted; `None` where they could not be.
    census_at: Option<Instant>,
    /// Whether the flows were counted before the last change.
    is_census_outdated: bool,
    pub(super) started: Instant,
    pub(super) events: EventLog,
    pub(super) is_stale: bool,
    /// Until when the tables are left as they are.
    rests_until: Instant,
    pub(super) troubles: Troubles,
    pub(super) verification: Verification,
    shortened: Vec<Endpoint>,
    /// The backends that are not used, by their service's name, as they were logged.
    pub(super) unused: BTreeMap<String, Vec<String>>,
    /// The interfaces outside the config that lead to backends, as they were logged.
    uncovered: BTreeSet<String>,
    /// The addresses of this host, once they are known.
    host_addresses: Option<BTreeSet<IpAddr>>,
    /// What the datapath was told of them.
    own_addresses: Option<BTreeSet<Address>>,
}

impl<K: Kernel> Owner<K> {
    /// Takes over the tables, brings them to what the config file and the runtime changes say, and
    /// attaches the program.
    ///
    /// # Errors
    /// Where the state file or the tables cannot be read, the two contradict each other, what is
    /// wanted does not fit in the tables, or an interface refuses the program.
    pub fn start(parts: Parts<K>) -> anyhow::Result<Self> {
        let Parts {
            config_file,
            mut config,
            kernel,
            set_targets,
            set_reach,
            watch,
            vips,
            upgrades,
            set_discoveries,
            set_courses,
            own_macs,
            learnt,
            metrics,
        } = parts;
        let mut overlay = match store::read(&config.state_file) {
            Ok(overlay) => overlay,
            Err(error @ StateError::SetAside { .. }) => {
                tracing::error!("{error}");
                Overlay::default()
            }
            Err(error) => return Err(error.into()),
        };
        let before = overlay.clone();
        let moment = Moment::now();
        overlay.forget_other_boots(&moment);
        for line in overlay.prune(&config) {
            tracing::warn!("{line}");
        }
        let state_file = config.state_file.display();
        let contradiction = |lines: Vec<String>| {
            anyhow::anyhow!(
                "the config file conflicts with the changes made at runtime:\n{}\nfix the config file, or \
                 take what is named above, and the line \"checksum\", out of {state_file}, where those changes are \
                 kept (or remove that file to drop them all), and start again",
                lines.join("\n")
            )
        };
        let wanted = overlay::effective(&config, &overlay).map_err(contradiction)?;
        // What the daemon before had in effect, as far as its flows may live.
        let tables = kernel.read().context("cannot read the datapath's tables")?;
        let left = leaving::left_in(&tables, wanted);
        overlay.depart(&config, &left, Leave::Drain, &moment);
        let room = kernel.sizes().limits;
        let effective =
            overlay::effective_beside(&config, &overlay, room, |service, address| left.has(service, address))
                .map_err(contradiction)?;
        if let Some(why) = unable(&set_courses, &effective) {
            anyhow::bail!(why);
        }
        if overlay != before {
            match store::write(&config.state_file, &overlay) {
                Ok(Saved::OnDisk) => {}
                Ok(Saved::Unsynced(why)) => tracing::warn!("{why}"),
                Err(error) => tracing::warn!(
                    "could not save the pruned state file; stale entries are pruned again at the next start: {error:#}"
                ),
            }
        }

        // From here on what counts is what the tables have room for.
        config.limits = kernel.sizes().limits;

        let now = Instant::now();
        let is_first = tables.services.is_empty();
        let (learnt, news) = learnt.map(|Learnt { fleet, news }| (fleet, news)).unzip();
        let mut fleet = learnt.unwrap_or_else(|| Fleet::new(&tables));
        fleet.set_effective(effective, &tables, now);
        // Whoever takes over knows next hops already, and says which replies may pass it by.
        let names = config.interfaces.iter().cloned().collect();
        fleet.set_covered(Covered { names, indices: kernel.attached_interfaces().into_iter().collect() });
        let mut owner = Self {
            config_file,
            overlay,
            fleet,
            settling: Settling::new(&tables, now),
            planner: Planner::new(tables, kernel.sizes()),
            config,
            kernel,
            set_targets,
            set_reach,
            watch,
            vips,
            is_undecided: true,
            upgrades,
            set_discoveries,
            set_courses,
            own_macs,
            metrics,
            discoveries: Discoveries::default(),
            interfaces: BTreeMap::new(),
            last_index: BTreeMap::new(),
            links_up: BTreeSet::new(),
            attach_tried: now,
            rates: TrafficRates::default(),
            census: Census::default(),
            unknown_flows: UnknownFlows::new(Instant::now()),
            router_addresses: RouterAddressesOf::new(),
            census_at: None,
            is_census_outdated: false,
            started: now,
            events: EventLog::default(),
            is_stale: false,
            rests_until: now,
            unused: BTreeMap::new(),
            troubles: Troubles::default(),
            verification: Verification::default(),
            uncovered: BTreeSet::new(),
            host_addresses: None,
            own_addresses: None,
            shortened: Vec::new(),
        };
        let transitions = owner.fleet.decide(now);
        owner.tell(transitions);
        let plan = owner.planner.plan(&owner.fleet.wanted())?;
        owner.carry_out(plan)?;
        owner.write_own_macs(&[]);
        owner.attach_configured()?;
        news.into_iter().flatten().for_each(|event| owner.take_in(event));
        owner.say_what_the_host_lacks();
        owner.tell_the_others();
        owner.tell_vips();
        owner.sample();
        owner.beat();
        if is_first {
            owner.rests_until = Instant::now() + GATHERING;
        }
        Ok(owner)
    }

    /// Serves until the last handle is dropped, or the datapath is unloaded.
    pub async fn run(mut self, ears: Ears) -> Ended {
        let Ears { mut requests, mut reports, mut agents, mut events, mut found } = ears;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK_FOR_ANSWERS);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    None => return Ended::Closed,
                    Some(request) => if let Some(ended) = self.serve(request).await {
                        return ended;
                    }
                },
                Some(report) = reports.recv() => self.hear_report(report),
                Some(report) = agents.recv() => self.hear_agent(report),
                event = events.recv() => match event {
                    None => return Ended::NetworkLost,
                    Some(event) => self.take_in(event),
                },
                Some(update) = found.recv() => {
                    let mut updates = vec![update];
                    updates.extend((0..BURST).map_while(|_| found.try_recv().ok()));
                    self.take_in_found(updates);
                }
                _ = tick.tick() => self.tick(),
                _ = look.tick(), if self.fleet.watches_answers() => self.look_for_answers(),
                () = tokio::time::sleep_until(self.rests_until.into()), if self.is_stale => {}
            }
            for _ in 0..BURST {
                let Ok(report) = reports.try_recv() else { break };
                self.hear_report(report);
            }
            for _ in 0..BURST {
                let Ok(report) = agents.try_recv() else { break };
                self.hear_agent(report);
            }
            for _ in 0..BURST {
                let Ok(event) = events.try_recv() else { break };
                self.take_in(event);
            }
            if self.is_stale && Instant::now() >= self.rests_until {
                let began = Instant::now();
                self.reconcile();
                let took = began.elapsed();
                self.rests_until = Instant::now() + (REST * took).min(LONGEST_REST);
            }
        }
    }

    /// Answers a request; tells where it ends the daemon.
    async fn serve(&mut self, request: Request) -> Option<Ended> {
        match request {
            Request::Status(answer) => reply(answer, self.status()),
            Request::Services(answer) => reply(answer, self.services()),
            Request::Backends(service, answer) => {
                let counted = self.refresh_census();
                reply(answer, counted.and_then(|()| self.backends(service.as_deref())));
            }
            Request::Counters(answer) => reply(answer, self.counters()),
            Request::Flows(answer) => reply(answer, self.flows()),
            Request::AddService(service, answer) => {
                reply(answer, self.change(|overlay, config| overlay.add_service(config, *service)));
            }
            Request::PatchService(name, admin, answer) => {
                reply(answer, self.change(|overlay, config| overlay.patch_service(config, &name, admin)));
            }
            Request::PatchNode(admin, answer) => {
                reply(answer, self.change(|overlay, config| overlay.patch_node(config, admin)));
            }
            Request::RemoveService(name, leave, answer) => reply(answer, self.remove_service(&name, leave)),
            Request::AddBackend(service, backend, answer) => {
                reply(answer, self.change(|overlay, config| overlay.add_backend(config, &service, backend)));
            }
            Request::PatchBackend(service, address, patch, answer) => reply(
                answer,
                self.change(|overlay, config| overlay.patch_backend(config, &service, address, patch)),
            ),
            Request::RemoveBackend(service, address, leave, answer) => {
                reply(answer, self.remove_backend(&service, address, leave));
            }
            Request::ConfigFile(answer) => reply(answer, Ok(self.config_file.clone())),
            Request::PlanReload(config, leave, answer) => reply(answer, self.plan_reload(*config, leave)),
            Request::Upgrade(answer) => reply(answer, self.begin_upgrade()),
            Request::Reload(config, leave, answer) => reply(answer, self.reload(*config, leave)),
            Request::IsPending(answer) => {
                reply(answer, Ok(self.fleet.is_pending() || self.is_discovery_pending()));
            }
            Request::Watch(after, answer) => reply(answer, Ok(self.events.reader(after.as_deref()))),
            Request::Unload(answer) => {
                let unloaded = self.unload().await;
                let ended = unloaded.is_ok().then_some(Ended::Unloaded);
                reply(answer, unloaded);
                return ended;
            }
        }
        None
    }

    /// Begins an upgrade: the successor takes over what is pinned.
    fn begin_upgrade(&mut self) -> Answer<Outcome> {
        self.verify_holds();
        match self.troubles.of(TroubleKind::Pins) {
            Some(why) => Err(Refusal::Failed(format!("nothing was changed: {why}"))),
            None => self.upgrades.begin(),
        }
    }

    /// Makes a change that survives a restart: checked, planned, saved, and only then in effect.
    fn change(&mut self, change: impl FnOnce(&mut Overlay, &Config) -> Answer<Outcome>) -> Answer<Outcome> {
        self.change_with(Leave::Drain, change)
    }

    /// Makes a change by which something may leave.
    pub(super) fn change_with(
        &mut self,
        leave: Leave,
        change: impl FnOnce(&mut Overlay, &Config) -> Answer<Outcome>,
    ) -> Answer<Outcome> {
        let mut overlay = self.overlay.clone();
        let outcome = change(&mut overlay, &self.config)?;
        if overlay == self.overlay {
            self.verify_holds();
            return Ok(Outcome { trouble: self.trouble(), ..outcome });
        }
        let effective = self
            .effective_by(&self.config, &mut overlay, leave)
            .map_err(|lines| Refusal::Conflict(lines.join("\n")))?;
        let warnings =
            self.adopt(self.config.clone(), overlay, effective, Refusal::Conflict, Persist::First)?;
        tracing::info!("{}", outcome.message);
        let message = std::iter::once(outcome.message).chain(warnings).collect::<Vec<_>>().join("; ");
        Ok(Outcome { message, trouble: self.trouble(), ..outcome })
    }

    /// Puts a config and runtime changes into effect: all of it, or nothing. Where only the datapath
    /// refuses, they are in effect and the datapath follows as soon as it can. Returns what to warn of.
    pub(super) fn adopt(
        &mut self,
        config: Config,
        overlay: Overlay,
        effective: Effective,
        refuse: fn(String) -> Refusal,
        persist: Persist,
    ) -> Answer<Vec<String>> {
        if let Some(why) = unable(&self.set_courses, &effective) {
            return Err(refuse(why));
        }
        let now = Instant::now();
        let mut fleet = self.fleet.clone();
        fleet.set_effective(effective, self.planner.tables(), now);
        let transitions = fleet.decide(now);
        let plan = self.planner.plan(&fleet.wanted()).map_err(|full| refuse(full.to_string()))?;
        let mut warnings = Vec::new();
        if overlay != self.overlay {
            match (store::write(&config.state_file, &overlay), persist) {
                (Ok(Saved::OnDisk), _) => {}
                (Ok(Saved::Unsynced(why)), _) => {
                    tracing::error!("{why}");
                    warnings.push(why);
                }
                (Err(error), Persist::First) => {
                    let why = format!("{error:#}; nothing was changed, since a restart would undo it");
                    return Err(Refusal::Failed(why));
                }
                (Err(error), Persist::IfItCan) => {
                    tracing::error!(
                        "what discovery found and what has left is not known after a restart: {error:#}"
                    );
                }
            }
        }
        let changes = self.changes_to(fleet.effective());
        (self.config, self.overlay, self.fleet) = (config, overlay, fleet);
        self.is_census_outdated = true;
        self.tell_of_unused();
        self.tell(transitions);
        changes.iter().for_each(|change| self.events.add(WatchEvent::of_service(change)));
        self.warn_of_uncovered();
        self.tell_the_others();
        let writes = plan.writes.clone();
        let done = self.carry_out(plan);
        let is_done = done.is_ok();
        self.note_error(TroubleKind::Tables, done.err());
        if is_done {
            self.verify_written(&writes);
        }
        self.verify_holds();
        self.tell_vips();
        warnings.extend(self.troubles.of(TroubleKind::Tables).map(|why| {
            format!("it is saved, but the datapath could not be changed yet, which is tried again every second: {why}")
        }));
        Ok(warnings)
    }

    /// Brings the tables to what follows from all that is known.
    fn reconcile(&mut self) {
        self.is_stale = false;
        let now = Instant::now();
        let transitions = self.fleet.decide(now);
        self.tell(transitions);
        let reweighed = self.fleet.weigh(now);
        self.tell_of_weights(reweighed);
        self.warn_of_uncovered();
        let done = match self.planner.plan(&self.fleet.wanted()) {
            Ok(plan) => self.carry_out(plan),
            Err(full) => Err(full.into()),
        };
        self.note_error(TroubleKind::Tables, done.err());
        // Behind the tables: a VIP that comes has somewhere to lead to.
        self.tell_vips();
        // What is counted from now on is compared with this.
        self.look_for_answers();
    }

    /// Looks whether backends that are down answer clients, where their flows depend on it.
    fn look_for_answers(&mut self) {
        if !self.fleet.watches_answers() {
            return;
        }
        let (kernel, tables) = (&self.kernel, self.planner.tables());
        let indices = identities(tables);
        let counted = |vip: &Endpoint, backend: SocketAddr| {
            let present = tables.services.get(vip)?;
            kernel.backend_traffic(*indices.get(&identity(present.index, backend))?).ok()
        };
        self.is_stale |= self.fleet.see_answers(counted, Instant::now());
    }

    /// Tells the log and those who watch which backends are in another state.
    fn tell(&self, transitions: Vec<Transition>) {
        for Transition { id, before, now } in transitions {
            let event = WatchEvent::Backend {
                service: id.service,
                address: id.backend,
                before,
                state: now.state,
                reason: now.reason,
            };
            tracing::info!("{event}");
            self.events.add(event);
        }
    }

    /// Notes that something may follow from news of a backend, with the news that comes with it.
    fn note_news(&mut self, is_news: bool) {
        if is_news && !self.is_stale {
            self.is_stale = true;
            self.rests_until = self.rests_until.max(Instant::now() + NEWS_GATHER);
        }
    }

    /// Takes in the end of a check.
    fn hear_report(&mut self, report: Report) {
        let is_news = self.fleet.report(report);
        self.note_news(is_news);
    }

    /// Takes in news of an agent; tells the log where it cannot be asked any more, or can again. What follows from its words
    /// is told as that.
    fn hear_agent(&mut self, report: AgentReport) {
        let id = report.id.clone();
        let trouble = |fleet: &Fleet| fleet.known(&id).and_then(|known| known.agent.trouble.clone());
        let before = trouble(&self.fleet);
        tracing::debug!("service {}: backend {}: its agent: {:?}", id.service, id.backend, report.result);
        let is_news = self.fleet.hear_agent(report, Instant::now());
        self.note_news(is_news);
        let TargetId { service, backend } = &id;
        match (before, trouble(&self.fleet)) {
            (None, Some(why)) => tracing::warn!(
                "service {service}: backend {backend}: its agent cannot be asked, which changes nothing: {why}"
            ),
            (Some(_), None) => {
                tracing::info!("service {service}: backend {backend}: its agent can be asked again")
            }
            _ => {}
        }
    }

    /// Tells the log and those who watch which backends' weights count for more or less.
    fn tell_of_weights(&self, reweighed: Vec<Reweighed>) {
        for Reweighed { id, weight, percent, reason } in reweighed {
            let ratio = f64::from(percent) / 100.0;
            let event =
                WatchEvent::Weight { service: id.service, address: id.backend, weight, ratio, reason };
            tracing::info!("{event}");
            self.events.add(event);
        }
    }

    /// Says once of an interface outside the config that backends are reached through it.
    fn warn_of_uncovered(&mut self) {
        let uncovered = self.fleet.uncovered();
        for (interface, (backend, warning)) in &uncovered {
            if !self.uncovered.contains(interface) {
                tracing::warn!("service {}: backend {}: {warning}", backend.service, backend.backend);
            }
        }
        self.uncovered = uncovered.into_keys().collect();
    }

    pub(super) fn say_what_the_host_lacks(&self) {
        for line in host::lacks(&ThisHost, &self.config, self.fleet.effective()) {
            tracing::warn!("{line}");
        }
    }

    /// What is wrong, in words.
    pub(super) fn trouble(&self) -> Option<String> {
        self.troubles.all()
    }

    /// Says once what is wrong, and once that it is over.
    pub(super) fn note_trouble(&mut self, kind: TroubleKind, why: Option<&str>) {
        match self.troubles.note(kind, why, Instant::now()) {
            News::None => {}
            News::Began(trouble) => {
                tracing::error!("{trouble}");
                self.events.add(WatchEvent::Trouble { trouble: Some(trouble) });
            }
            News::Ended => {
                tracing::info!("recovered: {}", troubles::over(kind));
                self.events.add(WatchEvent::Trouble { trouble: self.trouble() });
            }
        }
    }

    /// The same, where an error is what is wrong.
    pub(super) fn note_error(&mut self, kind: TroubleKind, error: Option<anyhow::Error>) {
        let why = error.map(|error| format!("{error:#}; it is tried again"));
        self.note_trouble(kind, why.as_deref());
    }

    fn carry_out(&mut self, plan: Plan) -> anyhow::Result<()> {
        if plan.shortened != self.shortened {
            for vip in &plan.shortened {
                let vip = vip.socket();
                tracing::warn!(
                    "the ring of {vip} is shorter than it should be, so that new flows follow the weights less closely: \
                     raise limits.slots"
                );
            }
            self.shortened.clone_from(&plan.shortened);
        }
        let done = self.try_carry_out(&plan);
        match &done {
            Ok(()) => {
                self.settling.note(&plan.writes, self.planner.tables(), Instant::now());
                self.planner.commit(&plan);
            }
            Err(_) => self.read_again(),
        }
        self.tell_own_addresses();
        if let Ok(set_courses) = &mut self.set_courses {
            set_courses(self.fleet.courses(self.planner.tables()));
        }
        done
    }

    fn try_carry_out(&mut self, plan: &Plan) -> anyhow::Result<()> {
        for service in &plan.new_services {
            self.rates.services.remove(service);
            self.kernel.set_former_traffic(*service, Traffic::default())?;
        }
        for backend in &plan.new_backends {
            self.rates.backends.remove(backend);
            self.kernel.zero_backend_traffic(*backend)?;
        }
        self.apply(&plan.writes)?;
        traffic::keep_former(&mut self.kernel, self.planner.tables(), &plan.writes)
    }

    fn apply(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        if writes.is_empty() { Ok(()) } else { self.kernel.apply(writes) }
    }

    /// After a write that failed, only the tables know how far it came.
    pub(super) fn read_again(&mut self) {
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
        let services = &self.fleet.effective().services;
        self.discoveries.retain(services);
        (self.set_discoveries)(services.iter().map(|service| service.service.clone()).collect());
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::NextHop { address, next_hop } => {
                let no_way = match &next_hop {
                    Err(NoNextHop::Here(why)) => Some(why.clone()),
                    _ => None,
                };
                (self.set_reach)(address, no_way);
                self.fleet.heard(address, next_hop);
                self.note_news(true);
            }
            Event::Vlans(vlans) => {
                if let Err(error) = self.kernel.set_vlans(&vlans) {
                    tracing::error!("the datapath cannot be told of the VLAN devices: {error:#}");
                }
            }
            Event::OwnMacs(own_macs) => self.take_in_own_macs(own_macs),
            Event::RouterAddresses(addresses) => {
                self.router_addresses = addresses;
                self.tell_router_addresses();
            }
            Event::Addresses(addresses) => {
                self.host_addresses = Some(addresses);
                self.tell_own_addresses();
            }
            Event::Interface { name, index, up } => self.interface(name, index, up),
        }
    }

    /// Tells the datapath in whose names it answers as a router, if it is to.
    pub(super) fn tell_router_addresses(&mut self) {
        let none = RouterAddressesOf::new();
        let addresses = if self.config.icmp_time_exceeded { &self.router_addresses } else { &none };
        if let Err(error) = self.kernel.set_router_addresses(addresses) {
            tracing::error!("the datapath cannot be told of this host's addresses: {error:#}");
        }
    }

    /// Tells the datapath that the daemon lives.
    fn beat(&mut self) {
        if let Err(error) = self.kernel.beat() {
            tracing::error!("the datapath cannot be told that the daemon lives: {error:#}");
        }
    }

    /// Tells the datapath in whose name no packet from a network is taken: this host's addresses, and those that backends
    /// see. Until the former are known, what an earlier daemon said holds.
    fn tell_own_addresses(&mut self) {
        let Some(host) = &self.host_addresses else { return };
        let host = host.iter().map(|address| Address::from(*address));
        let own: BTreeSet<_> = host.chain(self.planner.tables().snat_addresses.values().copied()).collect();
        if self.own_addresses.as_ref() == Some(&own) {
            return;
        }
        match self.kernel.set_own_addresses(&own) {
            Ok(()) => self.own_addresses = Some(own),
            Err(error) => tracing::error!("cannot tell the datapath the addresses of this host: {error:#}"),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.beat();
        self.sample();
        self.attach_missing(now);
        self.verify(now);
        self.decide_vips();
        let metrics = self.metrics.borrow().clone();
        self.note_trouble(TroubleKind::Metrics, metrics.as_deref());
        if self.census_at.is_none_or(|at| now.duration_since(at) >= CENSUS_EVERY) {
            self.count_flows(now);
        }
        self.release_left();
        self.look_at_found(now);
        let due = self.settling.due(self.planner.tables(), &self.config.timeouts, now);
        self.settle(&due);
        self.is_stale |= self.troubles.of(TroubleKind::Tables).is_some() || self.fleet.is_due(now);
        self.is_stale |= self.planner.can_shrink();
        let reweighed = self.fleet.weigh(now);
        self.is_stale |= !reweighed.is_empty();
        self.tell_of_weights(reweighed);
    }

    /// Writes slots that come nearer to rest.
    fn settle(&mut self, writes: &[Write]) {
        let done = self.apply(writes);
        match &done {
            Ok(()) => {
                self.settling.note(writes, self.planner.tables(), Instant::now());
                self.planner.record(writes);
            }
            Err(_) => self.read_again(),
        }
        self.note_error(TroubleKind::Settling, done.err());
    }

    /// Samples every counter, for the rates.
    fn sample(&mut self) {
        let now = Instant::now();
        match Carried::read(&self.kernel, self.planner.tables(), |_| true) {
            Ok(carried) => {
                self.rates.sample(&carried, now);
                self.verification.take_forwarded(carried.backends.values());
                self.look_at_flows(&carried, now);
            }
            Err(error) => tracing::error!("the counters cannot be read: {error:#}"),
        }
    }

    /// Shows the breakers what became of their backends' flows.
    fn look_at_flows(&mut self, carried: &Carried, now: Instant) {
        if !self.fleet.looks_at_flows() {
            return;
        }
        let tables = self.planner.tables();
        let indices = identities(tables);
        let counted = |service: &EffectiveService, backend: &EffectiveBackend| {
            let present = tables.services.get(&vip(service))?;
            let index = indices.get(&identity(present.index, backend.backend.address))?;
            carried.backends.get(index).copied()
        };
        self.is_stale |= self.fleet.see(counted, now);
    }

    /// Counts the flows anew where somebody waits for a backend to lose its last.
    fn refresh_census(&mut self) -> Answer<()> {
        let now = Instant::now();
        let is_old =
            self.is_census_outdated || self.census_at.is_none_or(|at| now.duration_since(at) >= CENSUS_FRESH);
        let drains = |service: &EffectiveService| {
            let backends =
                || service.backends.iter().any(|it| it.admin == AdminState::Draining || it.is_leaving);
            service.admin == AdminState::Draining || backends()
        };
        let is_awaited = self.overlay.node_admin() == AdminState::Draining
            || self.fleet.effective().services.iter().any(drains);
        if is_old && is_awaited {
            self.count_flows(now);
        }
        // No count is better than a wrong one: whoever waits for the last flow would not wait.
        self.troubles.of(TroubleKind::Flows).map_or(Ok(()), |why| Err(Refusal::Failed(why.to_owned())))
    }

    /// Whether the flows were counted since the last change.
    pub(super) fn is_census_fresh(&self) -> bool {
        self.census_at.is_some() && !self.is_census_outdated
    }

    fn count_flows(&mut self, now: Instant) {
        let census = self.kernel.census(self.planner.tables());
        self.census_at = census.is_ok().then_some(now);
        self.is_census_outdated &= census.is_err();
        let (census, error) = match census {
            Ok(census) => (census, None),
            Err(error) => (Census::default(), Some(error)),
        };
        self.census = census;
        if error.is_none() {
            let limits = self.kernel.sizes().limits;
            let resets = self.unknown_flows.are_over(&self.census, &limits, &self.config.timeouts, now);
            if let Err(error) = self.kernel.set_resets_unknown(resets) {
                tracing::error!("the datapath cannot be told what becomes of unknown flows: {error:#}");
            }
            let settled =
                self.settling.settled(self.planner.tables(), &self.census.others, self.planner.shrinking());
            self.settle(&settled);
        }
        self.note_error(TroubleKind::Flows, error);
    }

    async fn unload(&mut self) -> Answer<Outcome> {
        let mut removed = self.vips.release().await.unwrap_or_else(|error| {
            tracing::error!("not every VIP could be taken away: {error:#}");
            vec![format!("not every VIP could be taken away ({error:#})")]
        });
        removed.extend(self.kernel.unload().map_err(|error| Refusal::Failed(format!("{error:#}")))?);
        let message = match removed.as_slice() {
            [] => format!("nothing was pinned in {}; the daemon ends", self.config.pin_path.display()),
            removed => format!("{}; the daemon ends", removed.join(", ")),
        };
        tracing::info!("{message}");
        Ok(Outcome { message, changed: true, trouble: None })
    }
}

/// Says that checks cannot go to VIPs, and why not, where one of these services wants it.
pub(crate) fn refuse_vip_checks<'a>(
    why: &str,
    mut services: impl Iterator<Item = &'a model::Service>,
) -> Option<String> {
    let service = services.find(|service| service.check().via == Via::Vip)?;
    Some(format!(
        "service \"{}\": health_check.via: this daemon has no way to check through VIPs: {why}",
        service.name
    ))
}

/// The same of what is to be in effect.
fn unable(set_courses: &SetCourses, effective: &Effective) -> Option<String> {
    let services = effective.services.iter().map(|service| &service.service);
    refuse_vip_checks(set_courses.as_ref().err()?, services)
}

fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    // Whoever asked may have gone, which is their affair.
    let _ = answer.send(value);
}

#[cfg(test)]
mod tests;
