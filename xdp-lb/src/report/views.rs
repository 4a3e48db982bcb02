//! API documents made from a snapshot.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Instant;

use xdp_lb_common::net::Endpoint;
use xdp_lb_common::reason::{Kind, Reason};
use xdp_lb_common::tables::{BackendIndex, Service, ServiceIndex, Traffic};

use super::documents::{
    AgentView, BackendView, BucketView, ChecksView, ConfigQuery, ConfigView, CounterView, CountersView,
    HistogramView, HistoryQuery, HistoryView, MovingView, NextHopView, RecentView, ServiceDetailView,
    ServiceView, StatusQuery, StatusView, TableView, TrafficView, VipView,
};
use super::fleet;
use super::losses;
use super::rates::Rates;
use super::snapshot::{Clock, Snapshot};
use super::traffic::Carried;
use super::unused::{some, unused};
use crate::health::Health;
use crate::model::refusal::{Answer, Refusal};
use crate::model::state::{HealthState, TroubleKind, VipState};
use crate::model::{self, DownPolicy, EffectiveBackend, EffectiveService, patch, unknown};
use crate::net::NextHop;
use crate::net::vips::VipIntent;
use crate::overlay;
use crate::plan::places::{identities, identity};
use crate::pool::agent::AgentState;
use crate::pool::breaker::Circuit;
use crate::pool::checks::{BOUNDS, Durations, Ends};
use crate::pool::definition::{target_id, vip};
use crate::pool::vips::intents;

/// From this fill level on, a table's limit may be why packets are dropped. Evictions start before it is full.
const NEARLY_FULL: f64 = 0.8;

/// How long a requested count of the flows takes at most, roughly, in seconds.
const UNTIL_COUNTED: u64 = 1;

/// The advice to raise a table's limit.
fn raise(table: &str) -> String {
    format!("raise limits.{table}")
}

/// A service's ring, by backend.
struct RingView {
    slots: u32,
    owned: HashMap<BackendIndex, u32>,
    known_at: HashMap<BackendIndex, Instant>,
    /// Whether each flow of the service has a record.
    is_recorded: bool,
}

impl RingView {
    /// A backend's part of the ring, 0 to 1.
    fn share(&self, backend: BackendIndex) -> f64 {
        let owned = self.owned.get(&backend).copied().unwrap_or(0);
        if self.slots == 0 { 0.0 } else { f64::from(owned) / f64::from(self.slots) }
    }

    /// Whether each flow of a backend has a record: it has no settled slot, and none moved away recently.
    fn counts_all(&self, backend: BackendIndex) -> bool {
        let has_slots = self.owned.contains_key(&backend);
        self.is_recorded || !has_slots && !self.known_at.contains_key(&backend)
    }
}

impl Snapshot {
    /// The daemon on one screen.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn status(&self, clock: &Clock) -> Answer<StatusView> {
        self.status_of(StatusQuery::default(), clock)
    }

    /// The same, or a part of it.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn status_of(&self, query: StatusQuery, clock: &Clock) -> Answer<StatusView> {
        let carried = self.carried(|_| !query.brief)?;
        let reasons = self.counters.reasons().map_err(unreadable)?;
        let is_of = |kind| move |reason: &&Reason| reason.kind() == kind;
        let packets = |kind| {
            let counted = Reason::ALL.iter().zip(&reasons).filter(|(reason, _)| is_of(kind)(reason));
            counted.map(|(_, packets)| packets).sum()
        };
        let rate =
            |kind| Reason::ALL.iter().filter(is_of(kind)).map(|reason| self.reason_rate(*reason)).sum();
        let (services, backends) = match query.brief {
            true => (Vec::new(), Vec::new()),
            false => (
                self.service_views(&carried, clock),
                self.backend_views(&self.pool.effective().services, &carried, clock)?,
            ),
        };
        let troubles: Vec<&str> = self.troubles.iter().map(|it| it.message.as_str()).collect();
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").into(),
            host: nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
                .unwrap_or_default(),
            pid: std::process::id(),
            uptime_seconds: clock.now.saturating_duration_since(self.started).as_secs(),
            adopted: self.is_adopted,
            config_file: self.config_file.display().to_string(),
            pin_path: self.config.pin_path.display().to_string(),
            trouble: (!troubles.is_empty()).then(|| troubles.join("; ")),
            troubles: self.troubles.clone(),
            restored: self.restored,
            admin: self.overlay.node_admin(),
            upgrade: self.upgrade.borrow().clone(),
            reload: self.reload.clone(),
            interfaces: self.interfaces.clone(),
            vips: self.vip_views(clock),
            fleet: self.fleet.as_ref().map(|status| fleet::view(&status.borrow(), clock)),
            services,
            backends,
            tables: self.table_views(),
            tables_bytes: self.memory,
            dropped_packets: packets(Kind::Drop),
            passed_packets: packets(Kind::Pass),
            dropped_per_second: rate(Kind::Drop),
            passed_per_second: rate(Kind::Pass),
        })
    }

    /// Packets per second of this reason.
    fn reason_rate(&self, reason: Reason) -> f64 {
        self.rates.reasons.packets.get(reason as usize).copied().unwrap_or(0.0)
    }

    /// The rates of the recent past.
    ///
    /// # Errors
    /// If the service does not exist.
    pub fn history(&self, query: &HistoryQuery, clock: &Clock) -> Answer<HistoryView> {
        let vip = query.service.as_ref().map(|name| self.named(name).map(vip)).transpose()?;
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(history.view(query, vip, clock.now))
    }

    /// Every service, by name.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn services(&self, clock: &Clock) -> Answer<Vec<ServiceView>> {
        Ok(self.service_views(&self.carried(|_| true)?, clock))
    }

    /// A service with its backends.
    ///
    /// # Errors
    /// If the service does not exist, or the flows or counters cannot be read.
    pub fn service(&self, name: &str, clock: &Clock) -> Answer<ServiceDetailView> {
        let (service, carried) = self.of_service(name)?;
        let backends = self.backend_views([service], &carried, clock)?;
        let options = patch::values(&service.service.shown());
        Ok(ServiceDetailView { service: self.service_view(service, &carried, clock), options, backends })
    }

    /// The backends of a service, or of all.
    ///
    /// # Errors
    /// If the service does not exist, or the flows or counters cannot be read.
    pub fn backends(&self, service: Option<&str>, clock: &Clock) -> Answer<Vec<BackendView>> {
        match service {
            Some(name) => {
                let (service, carried) = self.of_service(name)?;
                self.backend_views([service], &carried, clock)
            }
            None => {
                self.flows_are_known()?;
                let services = &self.pool.effective().services;
                self.backend_views(services, &self.carried(|_| true)?, clock)
            }
        }
    }

    /// A service and its traffic.
    fn of_service(&self, name: &str) -> Answer<(&EffectiveService, Carried)> {
        self.flows_are_known()?;
        let service = self.named(name)?;
        let present = self.tables.services.get(&vip(service)).map(|present| present.index);
        Ok((service, self.carried(|index| Some(index) == present)?))
    }

    fn named(&self, name: &str) -> Answer<&EffectiveService> {
        let services = &self.pool.effective().services;
        services.iter().find(|service| service.service.name == name).ok_or_else(|| {
            let known = services.iter().map(|service| service.service.name.clone());
            unknown::unknown_service(name, known.collect())
        })
    }

    /// No count is better than a wrong one: a caller that waits for the last flow would stop waiting.
    fn flows_are_known(&self) -> Answer<()> {
        let trouble = self.trouble_of(TroubleKind::Flows);
        trouble.map_or(Ok(()), |why| Err(Refusal::Failed(why.to_owned())))
    }

    fn carried(&self, which: impl Fn(ServiceIndex) -> bool) -> Answer<Carried> {
        Carried::read(self.counters.as_ref(), &self.former, &self.tables, which).map_err(unreadable)
    }

    fn service_views(&self, carried: &Carried, clock: &Clock) -> Vec<ServiceView> {
        let services = &self.pool.effective().services;
        services.iter().map(|service| self.service_view(service, carried, clock)).collect()
    }

    fn backend_views<'s>(
        &self,
        services: impl IntoIterator<Item = &'s EffectiveService>,
        carried: &Carried,
        clock: &Clock,
    ) -> Answer<Vec<BackendView>> {
        let indices = identities(&self.tables);
        let mut views = Vec::new();
        for service in services {
            let present = self.tables.services.get(&vip(service)).copied();
            let ring = present.map(|present| self.ring_view(&vip(service), &present, clock));
            for backend in &service.backends {
                let index = present.and_then(|present| {
                    indices.get(&identity(present.index, backend.backend.address)).copied()
                });
                views.push(self.backend_view(service, backend, index, ring.as_ref(), carried, clock)?);
            }
        }
        Ok(views)
    }

    /// Every counter of passes and drops.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn counters(&self) -> Answer<CountersView> {
        let packets = self.counters.reasons().map_err(unreadable)?;
        let counters = Reason::ALL.iter().zip(packets).map(|(reason, packets)| CounterView {
            name: reason.name().into(),
            verdict: reason.kind().name().into(),
            packets,
            packets_per_second: self.reason_rate(*reason),
            meaning: self.meaning(*reason),
        });
        let losses = losses::views(&self.counters.losses().map_err(unreadable)?);
        Ok(CountersView { counters: counters.collect(), losses })
    }

    /// The meaning of a reason here: it advises to raise a limit only if its table is nearly full.
    fn meaning(&self, reason: Reason) -> String {
        let words = reason.words();
        let table = self.table_views().into_iter().find(|table| words.contains(&raise(&table.name)));
        match table {
            Some(table) if (table.used as f64) < NEARLY_FULL * table.size as f64 => {
                let percent = (100.0 * table.used as f64 / table.size as f64).round();
                match reason {
                    // It has no other cause, even if the table is no longer full.
                    Reason::FlowTableFull => format!("{words} ({percent} % is in use now)"),
                    _ => {
                        let instead =
                            format!("limits.{} is not the cause: {percent} % is in use", table.name);
                        words.replace(&raise(&table.name), &instead)
                    }
                }
            }
            _ => words.into(),
        }
    }

    fn vip_views(&self, clock: &Clock) -> Vec<VipView> {
        let statuses = self.vips.borrow();
        let intents = intents(&self.pool, &self.config, self.overlay.node_admin(), clock.now);
        let view = |(address, intent)| {
            let standing = statuses.get(&address).cloned().unwrap_or_default();
            // It may be being added at this moment, as was wanted before.
            let is_leaving = intent == VipIntent::Absent && standing.intent != Some(VipIntent::Absent);
            let state = match (standing.interface.is_some() || is_leaving, intent) {
                (true, VipIntent::Present | VipIntent::Undecided) => VipState::Present,
                (true, VipIntent::Absent) => VipState::Stays,
                (false, VipIntent::Present) => VipState::Missing,
                (false, VipIntent::Absent | VipIntent::Undecided) => VipState::Withdrawn,
            };
            VipView {
                address,
                state,
                interface: standing.interface,
                added_by_daemon: standing.is_own,
                note: standing.trouble.or_else(|| is_leaving.then(|| "it is being withdrawn".into())),
            }
        };
        intents.into_iter().map(view).collect()
    }

    fn table_views(&self) -> Vec<TableView> {
        let (tables, limits) = (&self.tables, self.limits);
        let slots: u64 = tables.services.values().map(|service| u64::from(service.ring_len)).sum();
        let rows = [
            ("services", tables.services.len() as u64, limits.services),
            ("backends", tables.backends.len() as u64, limits.backends),
            ("slots", slots, limits.slots),
            ("flows", self.census.records, limits.flows),
            ("source_ranges", tables.sources.len() as u64, limits.source_ranges),
        ];
        let view =
            |(name, used, size): (&str, _, u32)| TableView { name: name.into(), used, size: size.into() };
        rows.into_iter().map(view).collect()
    }

    fn service_view(&self, service: &EffectiveService, carried: &Carried, clock: &Clock) -> ServiceView {
        let present = self.tables.services.get(&vip(service)).copied();
        let traffic = present.and_then(|present| {
            let rates = self.rates.services.get(&present.index);
            carried.services.get(&present.index).map(|traffic| traffic_view(*traffic, rates))
        });
        let serving = service.backends.iter().filter(|backend| {
            self.pool
                .known(&target_id(service, backend))
                .is_some_and(|known| known.condition.state.takes_new_flows())
        });
        ServiceView {
            options: shown(&service.service),
            panic: self.pool.panic(&service.service.name).map(str::to_owned),
            admin: service.admin,
            discovery: self.discoveries.get(&service.service.name).cloned(),
            origin: service.origin,
            leaving: service.is_leaving,
            unused: some(unused(service)),
            backends: service.backends.len() as u32,
            backends_serving: serving.count() as u32,
            ring_slots: present.map_or(0, |present| present.ring_len),
            check_seconds: self.pool.check_durations(&service.service.name).map(histogram_view),
            moving: present.map_or_else(MovingView::default, |present| {
                let progress = self.settling.progress(&present, vip(service).protocol, &self.config.timeouts);
                MovingView {
                    moving_slots: progress.moving,
                    recorded_slots: progress.recorded,
                    all_recorded_in_seconds: progress.until.map(|until| clock.seconds_until(until)),
                }
            }),
            traffic: traffic.unwrap_or_default(),
        }
    }

    /// The running configuration, and its runtime changes.
    pub fn running(&self, query: ConfigQuery) -> Answer<ConfigView> {
        let failed = |lines: Vec<String>| Refusal::Failed(lines.join("\n"));
        Ok(ConfigView {
            file: self.config_file.display().to_string(),
            toml: overlay::running(&self.config, &self.overlay, self.pool.effective(), query.all),
            changes: overlay::runtime_lines(&self.config, &self.overlay).map_err(failed)?,
            services: overlay::runtime_changes(&self.config, &self.overlay).map_err(failed)?,
        })
    }

    fn ring_view(&self, vip: &Endpoint, service: &Service, clock: &Clock) -> RingView {
        let mut owned: HashMap<BackendIndex, u32> = HashMap::new();
        for slot in self.tables.ring(service) {
            *owned.entry(slot.owner()).or_default() += 1;
        }
        let (tables, timeouts) = (&self.tables, &self.config.timeouts);
        let known_at = self.settling.known_at(vip, service, tables, timeouts, clock.now);
        let is_recorded = self.settling.all_recorded_in(vip, timeouts, clock.now).is_zero();
        RingView { slots: service.ring_len, owned, known_at, is_recorded }
    }

    fn backend_view(
        &self,
        service: &EffectiveService,
        backend: &EffectiveBackend,
        index: Option<BackendIndex>,
        ring: Option<&RingView>,
        carried: &Carried,
        clock: &Clock,
    ) -> Answer<BackendView> {
        let id = target_id(service, backend);
        let address = backend.backend.address;
        let known = self.pool.known(&id).ok_or_else(|| {
            Refusal::Failed(format!(
                "internal error: backend {address} is unknown; please file a \
                bug"
            ))
        })?;
        let share = index.zip(ring).map_or(0.0, |(index, ring)| ring.share(index));
        let traffic = index.and_then(|index| {
            let rates = self.rates.backends.get(&index);
            carried.backends.get(&index).map(|traffic| traffic_view(*traffic, rates))
        });
        let recent = index.and_then(|index| self.recent(service, index));
        Ok(BackendView {
            service: id.service,
            options: backend.backend,
            weight_ratio: f64::from(known.percent) / 100.0,
            share,
            portion: f64::from(known.portion) / 100.0,
            tried_in_seconds: match known.breaker.circuit() {
                Circuit::Open { until, .. } => Some(until.saturating_duration_since(clock.now).as_secs()),
                _ => None,
            },
            ejections: known.breaker.opened(),
            agent: service.service.agent.is_some().then(|| agent_view(&known.agent, clock)),
            state: known.condition.state,
            reason: known.condition.reason.clone() + &recent.and_then(unanswered).unwrap_or_default(),
            since_seconds: clock.now.saturating_duration_since(known.since).as_secs(),
            admin: backend.admin,
            health: health(known.health),
            checks: {
                let Ends { passed, failed, not_made } = known.checks;
                ChecksView { passed, failed, not_made }
            },
            check_latency_seconds: known.latency.map(|latency| latency.as_secs_f64()),
            check_latency_average_seconds: known.average.time().map(|time| time.as_secs_f64()),
            last_failure_seconds: known
                .failed_at
                .filter(|_| known.health == Health::Down)
                .map(|at| clock.now.saturating_duration_since(at).as_secs()),
            recent,
            next_hop: self.pool.next_hop(address.ip()).map(hop_view),
            origin: backend.origin,
            leaving: backend.is_leaving,
            leaves_in_seconds: self
                .overlay
                .leaves_at(&self.config, service, address)
                .map(|end| end.saturating_sub(clock.seconds_of_boot)),
            flows: index.and_then(|index| self.census.live.get(&index).copied()).unwrap_or(0),
            flows_complete: match (index, ring) {
                (Some(index), Some(ring)) => ring.counts_all(index),
                _ => true,
            },
            flows_known_in_seconds: index
                .and_then(|index| ring?.known_at.get(&index).copied())
                .map(|until| clock.seconds_until(until))
                .or((!self.is_census_of_now && self.drains()).then_some(UNTIL_COUNTED)),
            traffic: traffic.unwrap_or_default(),
        })
    }
}

impl Snapshot {
    /// A backend's recent new flows, if their answers are seen.
    fn recent(&self, service: &EffectiveService, index: BackendIndex) -> Option<RecentView> {
        let is_seen =
            service.service.protocol == model::Protocol::Tcp && !service.service.mode.keeps_destination();
        let answered = self.rates.answers.get(&index).filter(|_| is_seen)?.recent()?;
        Some(RecentView {
            seconds: answered.span.as_secs(),
            new_flows: answered.new_flows,
            accepted: answered.accepted,
            resets: answered.resets,
            unanswered: answered.unanswered(),
            silent: answered.is_silent(),
        })
    }
}

/// What is said of a backend that leaves most of its new flows unanswered.
fn unanswered(recent: RecentView) -> Option<String> {
    recent.silent.then(|| {
        format!(
            "; {} of {} new flows in {} s heard nothing from it",
            recent.unanswered, recent.new_flows, recent.seconds
        )
    })
}

fn health(health: Health) -> HealthState {
    match health {
        Health::Unknown => HealthState::Unknown,
        Health::Up => HealthState::Up,
        Health::Down => HealthState::Down,
    }
}

fn hop_view(hop: &NextHop) -> NextHopView {
    NextHopView {
        interface: hop.interface.clone(),
        mac: hop.destination_mac.to_string(),
        vlan: hop.vlan,
        mtu: hop.mtu,
    }
}

impl Clock {
    /// Whole seconds until then, at least 1, because the owner task must notice it.
    fn seconds_until(&self, then: Instant) -> u64 {
        then.saturating_duration_since(self.now).as_secs() + 1
    }
}

/// A service's options as they are in effect.
fn shown(service: &model::Service) -> model::Service {
    let (down_grace, down_timeout) = match service.down_policy() {
        DownPolicy::OnceSilent(grace) => (Some(grace), None),
        DownPolicy::After(timeout) => (None, Some(timeout)),
        DownPolicy::Keep | DownPolicy::Reset => (None, None),
    };
    model::Service { down_grace, down_timeout, discovery: None, ..service.without_backends().shown() }
}

fn histogram_view(durations: &Durations) -> HistogramView {
    let bounds = BOUNDS.iter().copied().map(Some).chain([None]);
    let buckets = bounds.zip(durations.counts).map(|(up_to, count)| BucketView { up_to, count });
    HistogramView { buckets: buckets.collect(), sum: durations.seconds, count: durations.counts.iter().sum() }
}

fn agent_view(agent: &AgentState, clock: &Clock) -> AgentView {
    AgentView {
        admin: agent.admin,
        operation: agent.operation,
        percent: agent.percent,
        note: agent.note.clone(),
        trouble: agent.trouble.clone(),
        since_seconds: agent.since.map(|since| clock.now.saturating_duration_since(since).as_secs()),
    }
}

fn traffic_view(traffic: Traffic, rates: Option<&Rates>) -> TrafficView {
    TrafficView {
        packets_in: traffic.packets_in,
        bytes_in: traffic.bytes_in,
        packets_out: traffic.packets_out,
        bytes_out: traffic.bytes_out,
        new_flows: traffic.new_flows,
        accepted: traffic.accepted,
        resets: traffic.resets,
        packets_per_second: rates.map_or(0.0, |rates| rates.packets),
        bytes_per_second: rates.map_or(0.0, |rates| rates.bytes),
        new_flows_per_second: rates.map_or(0.0, |rates| rates.new_flows),
        resets_per_second: rates.map_or(0.0, |rates| rates.resets),
    }
}

fn unreadable(error: anyhow::Error) -> Refusal {
    Refusal::Failed(format!("cannot read the datapath's counters: {error:#}"))
}
