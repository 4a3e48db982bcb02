//! The task that owns the daemon's state. Everything else sends it messages.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use tokio::sync::{mpsc, watch};
use xdp_lb_common::net::Endpoint;

use super::attachments::{Attachments, Tools};
use super::census::FlowCount;
use super::discoveries::Discoveries;
use super::egress::Egress;
use super::flow_worker::{Finished, FlowWorker};
use super::host::{self, ThisHost};
use super::host_addresses::HostAddresses;
use super::journal::Journal;
use super::kernel::Kernel;
use super::leaving::{self, BackendFlows};
use super::parts::{Ended, Inputs, Learned, Listeners, Parts};
use super::published::Published;
use super::sync::TableSync;
use super::upgrades::Upgrades;
use super::verify::{self, Verification};
use super::vips::VipKeeper;
use crate::datapath::TablesView;
use crate::discovery::Update;
use crate::health::{AgentReport, Report, TargetId};
use crate::model::event::WatchEvent;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::Outcome;
use crate::model::state::TroubleKind;
use crate::model::{Config, Effective, EffectiveBackend, EffectiveService, Limits};
use crate::net::{Event, NoNextHop};
use crate::overlay::{self, BootTime, Leave, Overlay};
use crate::plan::places::{Plan, identities, identity};
use crate::pool::covered::Covered;
use crate::pool::definition::vip;
use crate::pool::pool::Pool;
use crate::pool::vips::{VipIntents, intents};
use crate::report::documents::LastReloadView;
use crate::report::snapshot::Snapshot;
use crate::report::traffic::Carried;
use crate::store::{self, Saved, StateError};
use crate::tables::Tables;
use crate::uptime;

/// How often counters are sampled and timeouts are checked.
const TICK: Duration = Duration::from_secs(1);

/// How often to check whether a backend that is down answers clients.
const LOOK_FOR_ANSWERS: Duration = Duration::from_millis(250);

/// Reports on backends are collected for this time: backends that fail at the same moment are decided on together, so the ring
/// moves once.
const NEWS_GATHER: Duration = Duration::from_millis(10);

/// After an update of the tables, which takes time for each service, the next one waits for this multiple of that time. So if
/// thousands of backends change their health, many changes share one update.
const REST: u32 = 3;

/// The longest rest.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// With empty tables, results of the first checks are collected for this time. Backends that come up one after another would
/// take slots from earlier ones, and the new owner of a moving slot gets no new UDP flows until old ones are known.
const GATHERING: Duration = Duration::from_millis(250);

/// How many messages are handled before the tables are written.
const BURST: usize = 4096;

/// Whether a change may take effect if it cannot be saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Persist {
    /// No: it is refused.
    First,
    /// Yes: it would be found again after a restart.
    IfItCan,
}

/// A request: a function called with the owner. It returns a value if the daemon ends.
pub type Request = Box<dyn for<'a> FnOnce(&'a mut Owner) -> BoxFuture<'a, Option<Ended>> + Send>;

/// The owner of the daemon's state. Fields in an `Arc` are shared with published snapshots, and copied on write.
pub struct Owner {
    /// Ends before the tables are let go of.
    pub(super) flows: FlowWorker,
    pub(super) config_file: PathBuf,
    pub(super) config: Arc<Config>,
    /// Runtime changes, discovered backends, and what is leaving.
    pub(super) overlay: Arc<Overlay>,
    pub(super) pool: Arc<Pool>,
    pub(super) kernel: Box<dyn Kernel>,
    pub(super) sync: TableSync,
    pub(super) census: FlowCount,
    finished: mpsc::UnboundedReceiver<Finished>,
    /// How much memory the tables take, in bytes.
    memory: Option<u64>,
    pub(super) attachments: Attachments,
    pub(super) addresses: HostAddresses,
    pub(super) vips: VipKeeper,
    pub(super) discoveries: Discoveries,
    pub(super) verification: Verification,
    egress: Egress,
    pub(super) journal: Journal,
    pub(super) upgrades: Upgrades,
    listeners: Listeners,
    metrics: watch::Receiver<Option<String>>,
    started: Instant,
    /// The last reload.
    pub(super) last_reload: LastReloadView,
    /// Whether the tables may be out of date.
    is_stale: bool,
    /// When the tables may be written again.
    rests_until: Instant,
    /// The readers of published snapshots; `None` before there are any.
    published: Option<watch::Sender<Arc<Snapshot>>>,
    /// Whether anything has changed since the last snapshot.
    is_news: bool,
}

impl Owner {
    /// Takes over the tables, updates them to the config file and the runtime changes, and attaches the program.
    ///
    /// # Errors
    /// If the state file or the tables cannot be read, config and runtime changes conflict, something does not fit into the
    /// tables, or an interface refuses the program.
    pub fn start(parts: Parts) -> anyhow::Result<Self> {
        let Parts { config_file, mut config, kernel, listeners, vips, upgrades, own_macs, learned, metrics } =
            parts;
        let tables = kernel.read().context("cannot read the datapath's tables")?;
        let room = kernel.sizes().limits;
        let kept = kept_changes(&config)?;
        let mut overlay = kept.clone();
        let effective = restored(&config, &mut overlay, &tables, room)?;
        if let Some(why) = listeners.refuse(&effective) {
            anyhow::bail!(why);
        }
        if overlay != kept {
            keep_pruned(&config, &overlay);
        }
        // From here on, the sizes of the loaded tables are the limits.
        config.limits = room;

        let now = Instant::now();
        let is_first = tables.services.is_empty();
        let view = Arc::new(TablesView::new(Arc::new(tables.clone())));
        let (finished, counts) = mpsc::unbounded_channel();
        let (learned, news) = learned.map(|Learned { pool, news }| (pool, news)).unzip();
        let mut pool = learned.unwrap_or_else(|| Pool::new(&tables));
        pool.set_effective(effective, &tables, now);
        // After an upgrade, next hops are known already, and the covered interfaces are needed to tell which replies pass here.
        let names = config.interfaces.iter().cloned().collect();
        pool.set_covered(Covered { names, indices: kernel.attached_interfaces().into_iter().collect() });
        let mut owner = Self {
            config_file,
            overlay: Arc::new(overlay),
            pool: Arc::new(pool),
            sync: TableSync::new(tables, Arc::clone(&view), kernel.as_ref(), now)?,
            census: FlowCount::new(now),
            flows: FlowWorker::start(kernel.flow_table(Arc::clone(&view))?, view, finished)?,
            finished: counts,
            memory: kernel.memory().ok(),
            attachments: Attachments::new(config.attach.clone(), now),
            addresses: HostAddresses::new(own_macs),
            vips: VipKeeper::new(vips),
            discoveries: Discoveries::default(),
            verification: Verification::default(),
            egress: Egress::default(),
            journal: Journal::default(),
            config: Arc::new(config),
            kernel,
            upgrades,
            listeners,
            metrics,
            started: now,
            last_reload: LastReloadView { success_time: unix_seconds(), error: None },
            is_stale: false,
            rests_until: now,
            published: None,
            is_news: false,
        };
        owner.take_up(news.into_iter().flatten())?;
        if is_first {
            owner.rests_until = Instant::now() + GATHERING;
        }
        Ok(owner)
    }

    /// Writes the tables, attaches the program, and notifies all listeners. `news`: events since the pool was learned.
    fn take_up(&mut self, news: impl Iterator<Item = Event>) -> anyhow::Result<()> {
        let now = self.started;
        let transitions = self.pool_mut().decide(now, &mut rand::random);
        self.journal.report_states(transitions);
        let plan = self.sync.plan(&self.pool.wanted())?;
        self.carry_out(&plan)?;
        self.write_own_macs(&[]);
        let is_of_interface = |event: &Event| matches!(event, Event::Interface { .. });
        let (of_interfaces, news): (Vec<_>, Vec<_>) = news.partition(is_of_interface);
        // Before a packet meets these tables.
        news.into_iter().for_each(|event| self.take_in(event));
        let names = self.config.interfaces.clone();
        // Little is left to be copied afterwards.
        self.catch_up();
        self.attach(|attachments, tools| attachments.attach_configured(&names, tools))?;
        self.catch_up();
        of_interfaces.into_iter().for_each(|event| self.take_in(event));
        self.warn_of_host_problems();
        self.notify_listeners();
        self.update_vips();
        self.sample();
        self.look_at_egress(now);
        self.write_heartbeat();
        Ok(())
    }

    /// Runs until the last handle is dropped, or the datapath is unloaded.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>, inputs: Inputs) -> Ended {
        let Inputs { mut reports, mut agents, mut events, mut found } = inputs;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK_FOR_ANSWERS);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    None => return Ended::Closed,
                    Some(request) => if let Some(ended) = request(&mut self).await {
                        return ended;
                    }
                },
                Some(report) = reports.recv() => self.on_report(report),
                Some(report) = agents.recv() => self.on_agent_report(report),
                event = events.recv() => match event {
                    None => return Ended::NetworkLost,
                    Some(event) => self.take_in(event),
                },
                Some(update) = found.recv() => {
                    let mut updates = vec![update];
                    updates.extend((0..BURST).map_while(|_| found.try_recv().ok()));
                    self.take_in_found(updates);
                }
                Some(finished) = self.finished.recv() => self.take_count(finished),
                _ = tick.tick() => self.tick(),
                _ = look.tick(), if self.pool.watches_answers() => self.look_for_answers(),
                () = tokio::time::sleep_until(self.rests_until.into()), if self.is_stale => {}
            }
            for _ in 0..BURST {
                let Ok(report) = reports.try_recv() else { break };
                self.on_report(report);
            }
            for _ in 0..BURST {
                let Ok(report) = agents.try_recv() else { break };
                self.on_agent_report(report);
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
            self.publish();
        }
    }

    /// Copies what has changed in the tables of an earlier layout, where these were made beside such.
    fn catch_up(&mut self) {
        if let Err(error) = self.kernel.catch_up() {
            tracing::error!("flows that have just begun have no record: {error:#}");
        }
    }

    /// Makes the tables the only ones, where they were made beside those of an earlier layout: this daemon stays.
    pub fn keep_tables(&mut self) {
        if let Err(error) = self.kernel.keep() {
            tracing::error!("the tables of the earlier layout stay, and take memory: {error:#}");
        }
    }

    /// Access to the snapshots that are published from now on, for reads without the owner task.
    pub fn published(&mut self) -> Published {
        let first = Arc::new(self.snapshot());
        let snapshots = self.published.get_or_insert_with(|| watch::Sender::new(first)).subscribe();
        Published::new(snapshots, self.journal.readers())
    }

    /// Publishes a snapshot if anything has changed.
    pub(super) fn publish(&mut self) {
        if std::mem::take(&mut self.is_news)
            && let Some(published) = &self.published
        {
            published.send_replace(Arc::new(self.snapshot()));
        }
    }

    /// Has the next snapshot published.
    pub(super) fn note_change(&mut self) {
        self.is_news = true;
    }

    fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        Snapshot {
            config_file: self.config_file.clone(),
            config: Arc::clone(&self.config),
            overlay: Arc::clone(&self.overlay),
            pool: Arc::clone(&self.pool),
            tables: self.sync.shared_tables(),
            limits: self.kernel.sizes().limits,
            memory: self.memory,
            settling: Arc::clone(self.sync.settling()),
            rates: Arc::clone(self.sync.rates()),
            history: Arc::clone(self.sync.history()),
            former: Arc::clone(self.sync.former()),
            census: self.census.shared(),
            is_census_of_now: self.census.of_now().is_some(),
            troubles: self.journal.trouble_views(now),
            restored: self.journal.restored(),
            interfaces: self.attachments.views(),
            discoveries: self.discoveries.views(&self.pool.effective().services, now),
            reload: self.last_reload.clone(),
            started: self.started,
            is_adopted: self.kernel.is_adopted(),
            vips: self.vips.statuses(),
            upgrade: self.upgrades.subscribe(),
            counters: Arc::clone(self.sync.counters()),
            flows: Arc::clone(self.sync.flows()),
            live: Arc::clone(self.sync.live()),
        }
    }

    /// The pool, for changes: published snapshots keep their copy.
    fn pool_mut(&mut self) -> &mut Pool {
        Arc::make_mut(&mut self.pool)
    }

    /// Makes a change that may remove services or backends.
    pub(super) fn change_with(
        &mut self,
        leave: Leave,
        change: impl FnOnce(&mut Overlay, &Config) -> Answer<Outcome>,
    ) -> Answer<Outcome> {
        let mut overlay = Overlay::clone(&self.overlay);
        let outcome = change(&mut overlay, &self.config)?;
        if overlay == *self.overlay {
            self.verify_holds();
            return Ok(Outcome { trouble: self.journal.trouble(), ..outcome });
        }
        let effective = self
            .effective_by(&self.config, &mut overlay, leave)
            .map_err(|lines| Refusal::Conflict(lines.join("\n")))?;
        let lacks = host::new_problems(&ThisHost, &self.config, self.pool.effective(), &effective);
        let warnings =
            self.adopt(Arc::clone(&self.config), overlay, effective, Refusal::Conflict, Persist::First)?;
        tracing::info!("{}", outcome.message);
        let lacks = lacks.iter().map(|lack| {
            tracing::warn!("{lack}");
            format!("warning: {lack}")
        });
        let message =
            std::iter::once(outcome.message).chain(warnings).chain(lacks).collect::<Vec<_>>().join("; ");
        Ok(Outcome { message, trouble: self.journal.trouble(), ..outcome })
    }

    /// Applies changes that result from time or discovery, not from a request.
    fn put_in_effect(&mut self, mut overlay: Overlay) {
        if overlay == *self.overlay {
            return;
        }
        let adopted = self
            .effective_by(&self.config, &mut overlay, Leave::Drain)
            .map_err(|lines| Refusal::Conflict(lines.join("\n")))
            .and_then(|effective| {
                self.adopt(Arc::clone(&self.config), overlay, effective, Refusal::Conflict, Persist::IfItCan)
            });
        if let Err(refusal) = adopted {
            tracing::error!("cannot apply discovered backends or remove drained ones: {refusal}");
        }
    }

    /// The services in effect with this config and these changes. What is in effect now and would not be any more starts to
    /// leave.
    ///
    /// # Errors
    /// As for [`overlay::effective`].
    pub(super) fn effective_by(
        &self,
        config: &Config,
        overlay: &mut Overlay,
        leave: Leave,
    ) -> Result<Effective, Vec<String>> {
        leaving::effective_after(
            self.pool.effective(),
            config,
            self.config.limits,
            overlay,
            leave,
            &boot_time_now(),
        )
    }

    /// Applies a config and runtime changes, all or nothing. If only the datapath fails, they are in effect, and the write is
    /// retried. Returns warnings.
    pub(super) fn adopt(
        &mut self,
        config: Arc<Config>,
        overlay: Overlay,
        effective: Effective,
        refuse: fn(String) -> Refusal,
        persist: Persist,
    ) -> Answer<Vec<String>> {
        if let Some(why) = self.listeners.refuse(&effective) {
            return Err(refuse(why));
        }
        let now = Instant::now();
        let mut pool = Pool::clone(&self.pool);
        pool.set_effective(effective, self.sync.tables(), now);
        let transitions = pool.decide(now, &mut rand::random);
        let plan = self.sync.plan(&pool.wanted()).map_err(|full| refuse(full.to_string()))?;
        let mut warnings = Vec::new();
        if overlay != *self.overlay {
            match (store::write(&config.state_file, &overlay), persist) {
                (Ok(Saved::OnDisk), _) => {}
                (Ok(Saved::Unsynced(why)), _) => {
                    tracing::error!("{why}");
                    warnings.push(why);
                }
                (Err(error), Persist::First) => {
                    let why = format!("{error:#}; nothing was changed, because a restart would undo it");
                    return Err(Refusal::Failed(why));
                }
                (Err(error), Persist::IfItCan) => {
                    tracing::error!(
                        "cannot save discovered and drained backends, which a restart will forget: {error:#}"
                    );
                }
            }
        }
        let changes = self.backend_flows().changes(self.pool.effective(), pool.effective());
        let admin = overlay.node_admin();
        if admin != self.overlay.node_admin() {
            self.journal.add(WatchEvent::Node { admin });
        }
        (self.config, self.overlay, self.pool) = (config, Arc::new(overlay), Arc::new(pool));
        self.is_news = true;
        self.census.outdate();
        self.journal.report_unused(self.pool.effective());
        self.journal.report_states(transitions);
        changes.iter().for_each(|change| self.journal.add(WatchEvent::of_service(change)));
        self.journal.warn_of_uncovered(&self.pool);
        self.notify_listeners();
        let done = self.carry_out(&plan);
        let is_done = done.is_ok();
        self.journal.note_error(TroubleKind::Tables, done.err());
        if is_done {
            let (sync, kernel) = (&mut self.sync, self.kernel.as_mut());
            verify::verify_written(&plan.writes, sync, kernel, &mut self.journal);
        }
        self.verify_holds();
        self.update_vips();
        warnings.extend(self.journal.trouble_of(TroubleKind::Tables).map(|why| {
            format!(
                "it is saved, but not yet in effect: cannot update the datapath, retrying every second: {why}"
            )
        }));
        Ok(warnings)
    }

    /// Updates the tables to the current state.
    fn reconcile(&mut self) {
        (self.is_stale, self.is_news) = (false, true);
        let now = Instant::now();
        let transitions = self.pool_mut().decide(now, &mut rand::random);
        self.journal.report_states(transitions);
        let reweighed = self.pool_mut().weigh(now);
        self.journal.report_weights(reweighed);
        self.journal.warn_of_uncovered(&self.pool);
        let done = match self.sync.plan(&self.pool.wanted()) {
            Ok(plan) => self.carry_out(&plan),
            Err(full) => Err(full.into()),
        };
        self.journal.note_error(TroubleKind::Tables, done.err());
        // After the tables: a new VIP must have backends.
        self.update_vips();
        // The baseline for what is counted from now on.
        self.look_for_answers();
    }

    /// Carries out a plan, and notifies listeners of the new tables.
    fn carry_out(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let done = self.sync.carry_out(plan, self.kernel.as_mut());
        self.addresses.write_own(self.sync.tables(), self.kernel.as_mut());
        if let Ok(set_vip_targets) = &mut self.listeners.set_vip_targets {
            set_vip_targets(self.pool.vip_targets(self.sync.tables()));
        }
        done
    }

    /// Checks whether backends that are down still answer clients, if their flows depend on that.
    fn look_for_answers(&mut self) {
        if !self.pool.watches_answers() {
            return;
        }
        let (counters, tables) = (self.sync.counters(), self.sync.tables());
        let indices = identities(tables);
        let counted = |vip: &Endpoint, backend: SocketAddr| {
            let present = tables.services.get(vip)?;
            counters.backend_traffic(*indices.get(&identity(present.index, backend))?).ok()
        };
        self.is_stale |= Arc::make_mut(&mut self.pool).record_answers(counted, Instant::now());
    }

    /// Marks the tables as out of date after a report on a backend, together with other reports of that moment.
    fn note_news(&mut self, is_news: bool) {
        if is_news && !self.is_stale {
            self.is_stale = true;
            self.rests_until = self.rests_until.max(Instant::now() + NEWS_GATHER);
        }
    }

    /// Handles the result of a check.
    fn on_report(&mut self, report: Report) {
        let is_news = self.pool_mut().report(report);
        self.note_news(is_news);
    }

    /// Handles an agent's reply, and logs when it starts or stops failing.
    fn on_agent_report(&mut self, report: AgentReport) {
        let id = report.id.clone();
        let trouble = |pool: &Pool| pool.known(&id).and_then(|known| known.agent.trouble.clone());
        let before = trouble(&self.pool);
        tracing::debug!("service {}: backend {}: its agent: {:?}", id.service, id.backend, report.result);
        let is_news = self.pool_mut().on_agent_report(report, Instant::now());
        self.note_news(is_news);
        let TargetId { service, backend, .. } = &id;
        match (before, trouble(&self.pool)) {
            (None, Some(why)) => tracing::warn!(
                "service {service}: backend {backend}: its agent is unreachable, so its last answer stays in \
                 effect: {why}"
            ),
            (Some(_), None) => {
                tracing::info!("service {service}: backend {backend}: its agent answers again");
            }
            _ => {}
        }
    }

    /// Handles updates of discovery, all at once.
    fn take_in_found(&mut self, updates: Vec<Update>) {
        let mut overlay = Overlay::clone(&self.overlay);
        let (services, journal) = (&self.pool.effective().services, &self.journal);
        self.discoveries.take_in(updates, services, &self.config, &mut overlay, journal, Instant::now());
        self.put_in_effect(overlay);
    }

    /// Checks whether held addresses have expired, or waiting backends now fit.
    fn look_at_found(&mut self, now: Instant) {
        let due = self.discoveries.due(now);
        if due.is_empty() {
            return;
        }
        let mut overlay = Overlay::clone(&self.overlay);
        for name in due {
            self.discoveries.take(&name, &self.config, &mut overlay, &self.journal, now);
        }
        self.put_in_effect(overlay);
    }

    /// Removes leaving services and backends whose flows have ended, or whose time is over.
    fn release_left(&mut self) {
        if !self.overlay.is_any_leaving() {
            return;
        }
        let mut overlay = Overlay::clone(&self.overlay);
        let moment = uptime::now().as_secs();
        leaving::release(&mut overlay, &self.pool, &self.config, &self.backend_flows(), moment);
        self.put_in_effect(overlay);
    }

    /// Handles a network event.
    fn take_in(&mut self, event: Event) {
        match event {
            Event::NextHop { address, next_hop } => {
                let no_way = match &next_hop {
                    Err(NoNextHop::Here(why)) => Some(why.clone()),
                    _ => None,
                };
                (self.listeners.set_reach)(address, no_way);
                self.pool_mut().set_next_hop(address, next_hop);
                self.note_news(true);
            }
            Event::Vlans(vlans) => {
                if let Err(error) = self.kernel.set_vlans(&vlans) {
                    tracing::error!("cannot write the VLAN devices to the datapath: {error:#}");
                }
            }
            Event::OwnMacs(own_macs) => {
                self.addresses.set_macs(own_macs);
                self.write_own_macs(&[]);
            }
            Event::RouterAddresses(addresses) => {
                self.addresses.set_of_router(addresses);
                self.write_router_addresses();
            }
            Event::Addresses(addresses) => {
                self.addresses.set_all(addresses);
                self.addresses.write_own(self.sync.tables(), self.kernel.as_mut());
            }
            Event::Interface { name, index, up } => {
                self.attach(|attachments, tools| attachments.hear(&name, index, up, tools));
            }
        }
    }

    /// Changes attachments, and updates which interfaces the program covers.
    pub(super) fn attach<T>(&mut self, what: impl FnOnce(&mut Attachments, &mut Tools<'_>) -> T) -> T {
        let mut tools =
            Tools { kernel: self.kernel.as_mut(), journal: &mut self.journal, flows: &self.flows };
        let done = what(&mut self.attachments, &mut tools);
        self.is_news = true;
        if let Some(covered) = self.attachments.changed() {
            self.pool_mut().set_covered(covered);
            self.is_stale = true;
        }
        done
    }

    /// Writes the MACs of the interfaces that have the program, should have it, or are named here.
    pub(super) fn write_own_macs(&mut self, more: &[String]) {
        let attached = self.attachments.interfaces().keys();
        let names = self.config.interfaces.iter().chain(attached).chain(more);
        self.addresses.write_macs(names, self.kernel.as_mut(), &mut self.journal);
    }

    /// Writes the addresses that ICMP errors come from, if they are enabled.
    pub(super) fn write_router_addresses(&mut self) {
        self.addresses.write_router(self.config.icmp_time_exceeded, self.kernel.as_mut());
    }

    /// Warns of missing settings of this host.
    pub(super) fn warn_of_host_problems(&self) {
        for line in host::lacks(&ThisHost, &self.config, self.pool.effective()) {
            tracing::warn!("{line}");
        }
    }

    fn notify_listeners(&mut self) {
        self.discoveries.retain(&self.pool.effective().services);
        self.listeners.tell(&self.pool);
    }

    /// Updates which VIPs should be present, from the states decided last.
    fn update_vips(&mut self) {
        let intents = self.intents();
        self.vips.tell(&self.config, intents);
    }

    /// Whether each VIP should be present.
    fn intents(&self) -> VipIntents {
        intents(&self.pool, &self.config, self.overlay.node_admin(), Instant::now())
    }

    /// Writes the heartbeat.
    fn write_heartbeat(&mut self) {
        if let Err(error) = self.kernel.write_heartbeat() {
            tracing::error!("cannot write the heartbeat to the datapath: {error:#}");
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.is_news = true;
        self.write_heartbeat();
        self.sample();
        self.attach(|attachments, tools| attachments.attach_missing(tools, now));
        if self.verification.is_due(now) {
            self.verify();
        }
        self.look_at_egress(now);
        let intents = self.intents();
        self.vips.tell_once_decided(&self.config, intents);
        let metrics = self.metrics.borrow().clone();
        self.journal.note(TroubleKind::Metrics, metrics.as_deref());
        self.census.go_on(&self.flows, &mut self.sync, now);
        self.release_left();
        self.look_at_found(now);
        if self.sync.settle_due(&self.config.timeouts, self.kernel.as_mut(), &mut self.journal, now) {
            // That all of a slot's flows have a record says nothing of those that were counted before.
            self.census.outdate();
        }
        self.is_stale |= self.journal.trouble_of(TroubleKind::Tables).is_some() || self.pool.is_due(now);
        self.is_stale |= self.sync.can_shrink();
        let reweighed = self.pool_mut().weigh(now);
        self.is_stale |= !reweighed.is_empty();
        self.journal.report_weights(reweighed);
    }

    /// Verifies what was written, pinned and attached.
    fn verify(&mut self) {
        self.verify_holds();
        let (kernel, journal) = (self.kernel.as_mut(), &mut self.journal);
        self.verification.look_at_tables(&mut self.sync, kernel, journal);
        let counters = self.sync.counters().as_ref();
        self.verification.look_at_packets(self.attachments.attached(), counters, journal);
    }

    /// Looks for interfaces that lose what is redirected to them: their backends take no new flows.
    fn look_at_egress(&mut self, now: Instant) {
        let losses = match self.sync.counters().losses() {
            Ok(losses) => losses,
            Err(error) => {
                tracing::error!("{error:#}");
                return;
            }
        };
        let hops = self.pool.hop_interfaces();
        let redirected_to = hops.iter().filter(|(index, _)| self.attachments.redirect_to(**index));
        let redirected_to = redirected_to.map(|(index, name)| (*index, name.as_str()));
        let failing = self.egress.look(self.kernel.as_ref(), redirected_to, &losses, &mut self.journal, now);
        self.is_stale |= self.pool_mut().set_losing(failing);
    }

    /// Verifies what every acknowledgement depends on: attachments and pins.
    pub(super) fn verify_holds(&mut self) {
        self.attach(|attachments, tools| attachments.verify(tools));
        verify::restore_pins(&self.config.pin_path, self.kernel.as_mut(), &mut self.journal);
    }

    /// Samples every counter, for the rates.
    fn sample(&mut self) {
        let now = Instant::now();
        match self.sync.sample(now) {
            Ok(carried) => {
                self.verification.take_forwarded(carried.backends.values());
                self.look_at_flows(&carried, now);
            }
            Err(error) => tracing::error!("cannot read the counters: {error:#}"),
        }
    }

    /// Passes counts of failed flows to the circuit breakers.
    fn look_at_flows(&mut self, carried: &Carried, now: Instant) {
        if !self.pool.watches_flows() {
            return;
        }
        let tables = self.sync.tables();
        let indices = identities(tables);
        let counted = |service: &EffectiveService, backend: &EffectiveBackend| {
            let present = tables.services.get(&vip(service))?;
            let index = indices.get(&identity(present.index, backend.backend.address))?;
            carried.backends.get(index).copied()
        };
        self.is_stale |= Arc::make_mut(&mut self.pool).record_flows(counted, now);
    }

    /// Takes in a count of the flows.
    fn take_count(&mut self, finished: Finished) {
        self.is_news = true;
        let (kernel, journal) = (self.kernel.as_mut(), &mut self.journal);
        self.census.take(finished, kernel, &mut self.sync, &self.config.timeouts, journal);
        self.census.go_on(&self.flows, &mut self.sync, Instant::now());
    }

    /// The flows of backends, as counted.
    pub(super) fn backend_flows(&self) -> BackendFlows<'_> {
        BackendFlows::new(&self.sync, &self.census)
    }

    /// Whether a backend's first check, its next hop or a service's first lookup is pending.
    pub(super) fn is_pending(&self) -> bool {
        self.pool.is_pending() || self.discoveries.is_pending(&self.pool.effective().services)
    }
}

/// The time of day, in seconds of Unix time.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The current time since boot.
fn boot_time_now() -> BootTime {
    BootTime { boot: uptime::boot_id(), seconds: uptime::now().as_secs() }
}

/// The runtime changes in the state file.
fn kept_changes(config: &Config) -> anyhow::Result<Overlay> {
    match store::read(&config.state_file) {
        Ok(overlay) => Ok(overlay),
        Err(error @ StateError::SetAside { .. }) => {
            tracing::error!("{error}");
            Ok(Overlay::default())
        }
        Err(error) => Err(error.into()),
    }
}

/// The services in effect after a start, with the runtime changes that still apply. What the previous daemon had in effect and
/// is no longer wanted drains.
fn restored(
    config: &Config,
    overlay: &mut Overlay,
    tables: &Tables,
    room: Limits,
) -> anyhow::Result<Effective> {
    let moment = boot_time_now();
    overlay.forget_other_boots(&moment);
    for line in overlay.prune(config) {
        tracing::warn!("{line}");
    }
    let state_file = config.state_file.display();
    let contradiction = |lines: Vec<String>| {
        anyhow::anyhow!(
            "the config file conflicts with the changes made at runtime:\n{}\nfix the config file; or remove the entries \
             named above and the line \"checksum\" from the state file {state_file}, or that file to drop all changes; \
             then start again",
            lines.join("\n")
        )
    };
    let wanted = overlay::effective(config, overlay).map_err(contradiction)?;
    // If its flows may still be alive.
    let left = leaving::left_in(tables, wanted);
    overlay.depart(config, &left, Leave::Drain, &moment);
    overlay::effective_beside(config, overlay, room, |service, address| left.has(service, address))
        .map_err(contradiction)
}

fn keep_pruned(config: &Config, overlay: &Overlay) {
    match store::write(&config.state_file, overlay) {
        Ok(Saved::OnDisk) => {}
        Ok(Saved::Unsynced(why)) => tracing::warn!("{why}"),
        Err(error) => tracing::warn!(
            "could not save the pruned state file; stale entries are pruned again at the next start: {error:#}"
        ),
    }
}

#[cfg(test)]
mod tests;
