//! The state as the API tells it.

use std::collections::HashMap;
use std::time::Instant;

use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::records_flows;
use xdp_lb_common::reason::{Kind, Reason};
use xdp_lb_common::tables::{BackendIndex, Book, Service, ServiceIndex, Traffic};

use super::leaving::leaves_in;
use super::owner::Owner;
use super::traffic::Carried;
use crate::datapath::Attached;
use crate::health::Health;
use crate::model::refusal::{Answer, Refusal};
use crate::model::state::HealthState;
use crate::model::{DownPolicy, EffectiveBackend, EffectiveService, unknown};
use crate::plan::places::{identities, identity};
use crate::pool::agent::AgentState;
use crate::pool::breaker::Circuit;
use crate::pool::definition::{target_id, vip};
use crate::report::documents::{
    AgentView, BackendView, CounterView, CountersView, InterfaceView, MovingView, NextHopView, ServiceView,
    StatusView, TableView, TrafficView,
};
use crate::report::rates::Rates;
use crate::report::unused::{some, unused};
use crate::uptime;

/// How full a table is whose limit may be why packets are dropped. Its kernel evicts somewhat before it is full.
const NEARLY_FULL: f64 = 0.8;

/// The advice to raise a table's limit.
fn raise(table: &str) -> String {
    format!("raise limits.{table}")
}

/// What a service's ring says of its backends.
struct RingView {
    slots: u32,
    owned: HashMap<BackendIndex, u32>,
    known_at: HashMap<BackendIndex, Instant>,
}

impl Owner {
    pub(super) fn status(&self) -> Answer<StatusView> {
        let carried = self.carried(|_| true)?;
        let reasons = self.kernel.reasons().map_err(unreadable)?;
        let packets = |kind| {
            let counted = Reason::ALL.iter().zip(&reasons).filter(|(reason, _)| reason.kind() == kind);
            counted.map(|(_, packets)| packets).sum()
        };
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            adopted: self.kernel.is_adopted(),
            config_file: self.config_file.display().to_string(),
            pin_path: self.config.pin_path.display().to_string(),
            trouble: self.journal.trouble(),
            troubles: self.journal.trouble_views(Instant::now()),
            restored: self.journal.restored(),
            admin: self.overlay.node_admin(),
            upgrade: self.upgrades.view(),
            interfaces: self.interface_views(),
            vips: self.vips.views(self.wishes()),
            services: self.service_views(&carried),
            backends: self.backend_views(&self.pool.effective().services, &carried)?,
            tables: self.table_views(),
            dropped_packets: packets(Kind::Drop),
            passed_packets: packets(Kind::Pass),
        })
    }

    pub(super) fn services(&self) -> Answer<Vec<ServiceView>> {
        Ok(self.service_views(&self.carried(|_| true)?))
    }

    pub(super) fn backends(&self, service: Option<&str>) -> Answer<Vec<BackendView>> {
        let services = &self.pool.effective().services;
        let Some(name) = service else {
            return self.backend_views(services, &self.carried(|_| true)?);
        };
        let Some(service) = services.iter().find(|service| service.service.name == name) else {
            let known = services.iter().map(|service| service.service.name.clone());
            return Err(unknown::unknown_service(name, known.collect()));
        };
        let present = self.sync.tables().services.get(&vip(service)).map(|present| present.index);
        self.backend_views([service], &self.carried(|index| Some(index) == present)?)
    }

    fn carried(&self, which: impl Fn(ServiceIndex) -> bool) -> Answer<Carried> {
        Carried::read(self.kernel.as_ref(), self.sync.tables(), which).map_err(unreadable)
    }

    fn service_views(&self, carried: &Carried) -> Vec<ServiceView> {
        let services = &self.pool.effective().services;
        services.iter().map(|service| self.service_view(service, carried)).collect()
    }

    fn backend_views<'s>(
        &self,
        services: impl IntoIterator<Item = &'s EffectiveService>,
        carried: &Carried,
    ) -> Answer<Vec<BackendView>> {
        let indices = identities(self.sync.tables());
        let mut views = Vec::new();
        for service in services {
            let present = self.sync.tables().services.get(&vip(service)).copied();
            let ring = present.map(|present| self.ring_view(&present, vip(service).protocol));
            for backend in &service.backends {
                let index = present.and_then(|present| {
                    indices.get(&identity(present.index, backend.backend.address)).copied()
                });
                views.push(self.backend_view(service, backend, index, ring.as_ref(), carried)?);
            }
        }
        Ok(views)
    }

    pub(super) fn counters(&mut self) -> Answer<CountersView> {
        let packets = self.kernel.reasons().map_err(unreadable)?;
        let counters = Reason::ALL.iter().zip(packets).map(|(reason, packets)| CounterView {
            name: reason.name().into(),
            verdict: reason.kind().name().into(),
            packets,
            meaning: self.meaning(*reason),
        });
        Ok(CountersView { counters: counters.collect() })
    }

    /// What a reason means here: to raise a limit is advice only where its table is nearly full.
    fn meaning(&self, reason: Reason) -> String {
        let words = reason.words();
        let table = self.table_views().into_iter().find(|table| words.contains(&raise(&table.name)));
        match table {
            Some(table) if (table.used as f64) < NEARLY_FULL * table.size as f64 => {
                let percent = (100.0 * table.used as f64 / table.size as f64).round();
                let instead = format!("limits.{} is not the cause: {percent} % is in use", table.name);
                words.replace(&raise(&table.name), &instead)
            }
            _ => words.into(),
        }
    }

    fn interface_views(&self) -> Vec<InterfaceView> {
        let view = |(name, attached): (&String, &Result<Attached, String>)| match attached {
            Ok(attached) => InterfaceView {
                name: name.clone(),
                index: attached.index,
                mode: Some(attached.mode),
                up: self.attachments.is_up(name),
                note: attached.remarks(),
            },
            Err(why) => InterfaceView {
                name: name.clone(),
                index: 0,
                mode: None,
                up: self.attachments.is_up(name),
                note: Some(format!("not attached: {why}")),
            },
        };
        self.attachments.interfaces().iter().map(view).collect()
    }

    fn table_views(&self) -> Vec<TableView> {
        let (tables, limits) = (self.sync.tables(), self.kernel.sizes().limits);
        let slots: u64 = tables.services.values().map(|service| u64::from(service.ring_len)).sum();
        let rows = [
            ("services", tables.services.len() as u64, limits.services),
            ("backends", tables.backends.len() as u64, limits.backends),
            ("slots", slots, limits.slots),
            ("flows", self.census.records(Book::Flows), limits.flows),
            ("half_open_flows", self.census.records(Book::HalfOpen), limits.half_open_flows),
            ("source_ranges", tables.sources.len() as u64, limits.source_ranges),
        ];
        let view =
            |(name, used, size): (&str, _, u32)| TableView { name: name.into(), used, size: size.into() };
        rows.into_iter().map(view).collect()
    }

    fn service_view(&self, service: &EffectiveService, carried: &Carried) -> ServiceView {
        let present = self.sync.tables().services.get(&vip(service)).copied();
        let traffic = present.and_then(|present| {
            let rates = self.sync.rates().services.get(&present.index);
            carried.services.get(&present.index).map(|traffic| traffic_view(*traffic, rates))
        });
        let serving = service.backends.iter().filter(|backend| {
            self.pool
                .known(&target_id(service, backend))
                .is_some_and(|known| known.condition.state.takes_new_flows())
        });
        ServiceView {
            name: service.service.name.clone(),
            vip: service.service.vip,
            protocol: service.service.protocol,
            mode: service.service.mode,
            snat_addresses: service.service.snat_addresses.clone(),
            affinity: service.service.affinity,
            quic: service.service.quic,
            allow: service.service.allow.clone(),
            deny: service.service.deny.clone(),
            new_flow_rate: service.service.new_flow_rate,
            new_flow_burst: service.service.new_flow_burst,
            panic_threshold: service.service.panic_threshold,
            circuit_breaker: service.service.circuit_breaker,
            slow_start: service.service.slow_start,
            on_down: service.service.on_down,
            down_grace: match service.service.down_policy() {
                DownPolicy::OnceSilent(grace) => Some(grace),
                _ => None,
            },
            down_timeout: match service.service.down_policy() {
                DownPolicy::After(timeout) => Some(timeout),
                _ => None,
            },
            agent: service.service.agent.clone(),
            feedback: service.service.feedback,
            panic: self.pool.panic(&service.service.name).map(str::to_owned),
            max_flows: service.service.max_flows,
            health_check: service.service.check(),
            admin: service.admin,
            discovery: self.discoveries.view(service, Instant::now()),
            origin: service.origin,
            leaving: service.is_leaving,
            unused: some(unused(service)),
            backends: service.backends.len() as u32,
            backends_serving: serving.count() as u32,
            ring_slots: present.map_or(0, |present| present.ring_len),
            flow_tracking: service.service.flow_tracking,
            on_no_backends: service.service.on_no_backends,
            hairpin: service.service.hairpin,
            moving: present.map_or_else(MovingView::default, |present| {
                let progress =
                    self.sync.settling().progress(&present, vip(service).protocol, &self.config.timeouts);
                MovingView {
                    moving_slots: progress.moving,
                    recorded_slots: progress.recorded,
                    all_recorded_in_seconds: progress.until.map(seconds_until),
                }
            }),
            traffic: traffic.unwrap_or_default(),
        }
    }

    fn ring_view(&self, service: &Service, protocol: Protocol) -> RingView {
        let mut owned: HashMap<BackendIndex, u32> = HashMap::new();
        for slot in self.sync.tables().ring(service) {
            *owned.entry(slot.owner()).or_default() += 1;
        }
        let known_at = if records_flows(service) {
            HashMap::new()
        } else {
            let tables = self.sync.tables();
            self.sync.settling().known_at(service, protocol, tables, &self.config.timeouts)
        };
        RingView { slots: service.ring_len, owned, known_at }
    }

    fn backend_view(
        &self,
        service: &EffectiveService,
        backend: &EffectiveBackend,
        index: Option<BackendIndex>,
        ring: Option<&RingView>,
        carried: &Carried,
    ) -> Answer<BackendView> {
        let id = target_id(service, backend);
        let address = backend.backend.address;
        let known = self.pool.known(&id).ok_or_else(|| {
            Refusal::Failed(format!(
                "internal error: backend {address} is unknown; please file a \
                bug"
            ))
        })?;
        let share = match (index, ring) {
            (Some(index), Some(ring)) if ring.slots > 0 => {
                f64::from(ring.owned.get(&index).copied().unwrap_or(0)) / f64::from(ring.slots)
            }
            _ => 0.0,
        };
        let traffic = index.and_then(|index| {
            let rates = self.sync.rates().backends.get(&index);
            carried.backends.get(&index).map(|traffic| traffic_view(*traffic, rates))
        });
        Ok(BackendView {
            service: id.service,
            address,
            weight: backend.backend.weight,
            weight_ratio: f64::from(known.percent) / 100.0,
            server_id: backend.backend.server_id,
            backup: backend.backend.backup,
            max_flows: backend.backend.max_flows,
            share,
            portion: f64::from(known.portion) / 100.0,
            tried_in_seconds: match known.breaker.circuit() {
                Circuit::Open { until, .. } => {
                    Some(until.saturating_duration_since(Instant::now()).as_secs())
                }
                _ => None,
            },
            ejections: known.breaker.opened(),
            agent: service.service.agent.is_some().then(|| agent_view(&known.agent)),
            state: known.condition.state,
            reason: known.condition.reason.clone(),
            since_seconds: Instant::now().duration_since(known.since).as_secs(),
            admin: backend.admin,
            health: match known.health {
                Health::Unknown => HealthState::Unknown,
                Health::Up => HealthState::Up,
                Health::Down => HealthState::Down,
            },
            check_latency_seconds: known.latency.map(|latency| latency.as_secs_f64()),
            check_latency_average_seconds: known.average.time().map(|time| time.as_secs_f64()),
            next_hop: self.pool.next_hop(address.ip()).map(|hop| NextHopView {
                interface: hop.interface.clone(),
                mac: hop.destination_mac.to_string(),
                vlan: hop.vlan,
                mtu: hop.mtu,
            }),
            origin: backend.origin,
            leaving: backend.is_leaving,
            leaves_in_seconds: leaves_in(
                &self.overlay,
                &self.config,
                service,
                address,
                uptime::now().as_secs(),
            ),
            flows: index.map_or(0, |index| self.census.live(index)),
            flows_known_in_seconds: index
                .and_then(|index| ring?.known_at.get(&index).copied())
                .map(seconds_until),
            traffic: traffic.unwrap_or_default(),
        })
    }
}

/// Whole seconds until then, at least 1: until the owner task has seen that it is so.
fn seconds_until(then: Instant) -> u64 {
    then.saturating_duration_since(Instant::now()).as_secs() + 1
}

fn agent_view(agent: &AgentState) -> AgentView {
    AgentView {
        admin: agent.admin,
        operation: agent.operation,
        percent: agent.percent,
        note: agent.note.clone(),
        trouble: agent.trouble.clone(),
        since_seconds: agent.since.map(|since| Instant::now().duration_since(since).as_secs()),
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
    }
}

fn unreadable(error: anyhow::Error) -> Refusal {
    Refusal::Failed(format!("cannot read the datapath's counters: {error:#}"))
}
