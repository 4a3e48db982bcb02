//! The services and backends, and the known properties of each. Decisions are in the other files of this folder.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::tables::{self as datapath, Traffic};

use super::agent::AgentState;
use super::checks::Durations;
use super::covered::Covered;
use super::definition::{checked_at, follows, pairs, target_id, vip};
use super::known::{Hop, Known};
use crate::health::{AgentReport, Health, Report, Target, TargetId, VipTarget};
use crate::model::state::BackendState;
use crate::model::{DownPolicy, Effective, EffectiveBackend, EffectiveService};
use crate::net::{NextHop, NoNextHop};
use crate::plan::places::{identities, identity};
use crate::plan::wanted::Path;
use crate::tables::Tables;

/// Everything that is known about the services and backends.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    pub(super) effective: Effective,
    pub(super) known: BTreeMap<TargetId, Known>,
    pub(super) next_hops: HashMap<IpAddr, Hop>,
    pub(super) covered: Covered,
    /// The interfaces that lose redirected packets, by index, and why.
    losing: BTreeMap<u32, String>,
    /// The services in panic, by name, and why.
    pub(super) panics: BTreeMap<String, String>,
    /// The backends whose flows end once they no longer answer anyone, with the keys of their services.
    pub(super) watched: Vec<(TargetId, Endpoint, DownPolicy)>,
    /// The time of the next change by time alone.
    pub(super) due: Option<Instant>,
    /// When adjusted weights last moved slots of a service's ring, by the service's name.
    pub(super) reweighed: BTreeMap<String, Instant>,
    /// The durations of services' checks, by name.
    durations: BTreeMap<String, Durations>,
}

impl Pool {
    /// A pool without services, with the next hops in these tables.
    pub fn new(adopted: &Tables) -> Self {
        let next_hops = adopted
            .backends
            .values()
            .filter_map(|backend| Path::of(backend).map(|path| (backend.address.into(), Hop::Adopted(path))));
        Self { next_hops: next_hops.collect(), ..Self::default() }
    }

    /// The services and backends.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }

    /// A backend's known properties.
    pub fn known(&self, id: &TargetId) -> Option<&Known> {
        self.known.get(id)
    }

    /// The durations of a service's checks since the daemon started.
    pub fn check_durations(&self, service: &str) -> Option<&Durations> {
        self.durations.get(service)
    }

    /// Whether a backend's first check or its next hop is pending.
    pub fn is_pending(&self) -> bool {
        let pending = [BackendState::Checking, BackendState::Unresolved];
        self.known.values().any(|known| pending.contains(&known.condition.state))
    }

    /// The next hop towards an address, if it is known.
    pub fn next_hop(&self, address: IpAddr) -> Option<&NextHop> {
        match self.next_hops.get(&address) {
            Some(Hop::Known(next_hop)) => Some(next_hop),
            _ => None,
        }
    }

    /// Replaces the services and backends. A backend keeps its known properties if only the name of its service changes. A new
    /// backend that takes flows in these tables (of an earlier daemon) counts as healthy until a check decides otherwise. Any
    /// other is unknown until its first check ends.
    pub fn set_effective(&mut self, effective: Effective, tables: &Tables, now: Instant) {
        let serving = serving(tables);
        let mut known = BTreeMap::new();
        // The backends of a new service start together, without slow start.
        let old: BTreeSet<Endpoint> = self.known.keys().map(|id| id.vip).collect();
        let mut before: HashMap<(Endpoint, SocketAddr), Known> = std::mem::take(&mut self.known)
            .into_iter()
            .map(|(id, known)| ((id.vip, id.backend), known))
            .collect();
        for (service, backend) in pairs(&effective) {
            let id = target_id(service, backend);
            let address = backend.backend.address;
            let mut seen = before.remove(&(id.vip, address)).unwrap_or_else(|| {
                let serves = serving.get(&(id.vip, address.ip().into(), address.port()));
                let is_serving =
                    matches!(serves, Some(datapath::BackendState::Up | datapath::BackendState::Draining));
                let health = match is_serving || !service.service.is_checked() {
                    true => Health::Up,
                    false => Health::Unknown,
                };
                let meanwhile = match serves {
                    Some(datapath::BackendState::Up) => None,
                    Some(datapath::BackendState::Draining) => Some(BackendState::Draining),
                    _ => Some(BackendState::Checking),
                };
                let is_fresh = !old.contains(&id.vip);
                let inherited = serves.copied().filter(|_| !is_serving);
                Known {
                    agent: AgentState::new(meanwhile),
                    had_flows: serves.is_some(),
                    inherited,
                    ..Known::new(health, is_fresh, now)
                }
            });
            if service.service.agent.is_none() {
                seen.agent = AgentState::new(None);
            }
            if !follows(&service.service) {
                seen.percent = 100;
            }
            known.insert(id, seen);
        }
        self.durations.retain(|name, _| effective.services.iter().any(|it| it.service.name == *name));
        self.reweighed.retain(|name, _| effective.services.iter().any(|it| it.service.name == *name));
        self.known = known;
        self.effective = effective;
        let watched = self.addresses();
        self.next_hops.retain(|address, _| watched.contains(address));
    }

    /// Records the result of a check. Returns whether anything may change.
    pub fn report(&mut self, report: Report, now: Instant) -> bool {
        // The check of a removed backend may still be running.
        let Some(known) = self.known.get_mut(&report.id) else { return false };
        if report.trouble.is_none() {
            known.latency = report.latency;
            if report.latency.is_none() {
                known.failed_at = Some(now);
            }
        }
        match (report.latency, &report.trouble) {
            (Some(took), _) => {
                known.checks.passed += 1;
                known.average.record(took);
                match self.durations.get_mut(&report.id.service) {
                    Some(durations) => durations.take(took),
                    None => self.durations.entry(report.id.service.clone()).or_default().take(took),
                }
            }
            (None, Some(_)) => known.checks.not_made += 1,
            (None, None) => known.checks.failed += 1,
        }
        let is_news =
            known.health != report.health || report.transition.is_some() || known.trouble != report.trouble;
        known.trouble = report.trouble;
        known.health = report.health;
        if report.transition.is_some() {
            known.why = report.transition;
        }
        is_news
    }

    /// Records an agent's report. Returns whether anything may change at once. [`weigh`](Self::weigh) adjusts weights.
    pub fn on_agent_report(&mut self, report: AgentReport, now: Instant) -> bool {
        let has_agent =
            |it: &&EffectiveService| it.service.name == report.id.service && it.service.agent.is_some();
        // The query of a removed backend's agent may still be running.
        let Some(known) = self.known.get_mut(&report.id) else { return false };
        if !self.effective.services.iter().any(|service| has_agent(&service)) {
            return false;
        }
        known.agent.record(report.result, now)
    }

    /// Sets the next hop towards an address.
    pub fn set_next_hop(&mut self, address: IpAddr, next_hop: Result<NextHop, NoNextHop>) {
        let hop = match next_hop {
            Ok(next_hop) => Hop::Known(next_hop),
            Err(why) => Hop::Missing(why, self.next_hops.get(&address).and_then(Hop::path)),
        };
        self.next_hops.insert(address, hop);
    }

    /// Assumes that every new backend is reachable and healthy, for a plan.
    pub fn expect_of_new_backends(&mut self) {
        for (id, known) in self.known.iter_mut().filter(|(_, known)| known.is_new()) {
            known.health = Health::Up;
            known.agent = AgentState::new(None);
            self.next_hops.entry(id.backend.ip()).or_insert(Hop::Adopted(Path::default()));
        }
    }

    /// Sets the interfaces to which the program is attached.
    pub fn set_covered(&mut self, covered: Covered) {
        self.covered = covered;
    }

    /// Sets the interfaces that lose redirected packets, and why. Returns whether they have changed.
    pub fn set_losing(&mut self, losing: BTreeMap<u32, String>) -> bool {
        let is_news = self.losing != losing;
        self.losing = losing;
        is_news
    }

    /// Why packets by this next hop are lost, if they are.
    pub(super) fn loses(&self, hop: Option<&Hop>) -> Option<&str> {
        self.losing.get(&hop?.path()?.ifindex).map(String::as_str)
    }

    /// The interfaces through which backends are reached, by index: those that transmit, and their names.
    pub fn hop_interfaces(&self) -> BTreeMap<u32, String> {
        let hops = self.next_hops.values().filter_map(|hop| match hop {
            Hop::Known(hop) => Some((hop.ifindex, hop.interface.clone())),
            _ => None,
        });
        hops.collect()
    }

    /// The interfaces towards backends to which the program is not attached, each with one such backend and the warning.
    pub fn uncovered(&self) -> BTreeMap<String, (TargetId, String)> {
        let stray = |(service, backend): (&EffectiveService, &EffectiveBackend)| {
            let hop = self.next_hop(backend.backend.address.ip())?;
            let warning = self.covered.warning(service.service.mode, hop)?;
            Some((hop.interface.clone(), (target_id(service, backend), warning)))
        };
        pairs(&self.effective).filter_map(stray).collect()
    }

    /// The addresses whose next hops are needed.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        pairs(&self.effective).map(|(_, backend)| backend.backend.address.ip()).collect()
    }

    /// The backends to check, each with its current health.
    pub fn targets(&self) -> Vec<(Target, Health)> {
        pairs(&self.effective)
            .map(|(service, backend)| {
                let id = target_id(service, backend);
                let health = self.known.get(&id).map_or(Health::Unknown, |known| known.health);
                let (check, agent) = (service.service.check(), service.service.agent.clone());
                (Target { id, check, agent }, health)
            })
            .collect()
    }

    /// The backends that are checked through their VIP, if these tables have them and a path to them.
    pub fn vip_targets(&self, tables: &Tables) -> HashMap<TargetId, VipTarget> {
        let goes_to_vip = |service: &&EffectiveService| checked_at(&service.service).is_some();
        let mut services = self.effective.services.iter().filter(goes_to_vip).peekable();
        if services.peek().is_none() {
            return HashMap::new();
        }
        let indices = identities(tables);
        let of = |(service, backend): (&EffectiveService, &EffectiveBackend)| {
            let key = vip(service);
            let present = tables.services.get(&key)?;
            let index = *indices.get(&identity(present.index, backend.backend.address))?;
            let source = Path::of(tables.backends.get(&index)?)?.source.into();
            Some((target_id(service, backend), VipTarget { service: key, backend: index, source }))
        };
        let pairs =
            services.flat_map(|service| service.backends.iter().map(move |backend| (service, backend)));
        pairs.filter_map(of).collect()
    }

    /// Records the datapath's counters of backends whose flows are watched. Returns whether anything may change.
    pub fn record_flows(
        &mut self,
        counted: impl Fn(&EffectiveService, &EffectiveBackend) -> Option<Traffic>,
        now: Instant,
    ) -> bool {
        let mut is_news = false;
        for (service, backend) in pairs(&self.effective) {
            let policy = service.service.circuit_breaker.filter(|policy| policy.failure_percent.is_some());
            let known = self.known.get_mut(&target_id(service, backend));
            let (Some(policy), Some(known)) = (policy, known) else { continue };
            if let Some(traffic) = counted(service, backend) {
                known.breaker.record(&policy, traffic.new_flows, traffic.accepted, traffic.resets, now);
                is_news |= known.breaker.failures(&policy, now).is_some() || known.not_ejected.is_some();
            }
        }
        is_news
    }

    /// Whether any service's flows are watched, for its circuit breakers.
    pub fn watches_flows(&self) -> bool {
        let looks = |service: &EffectiveService| {
            service.service.circuit_breaker.is_some_and(|policy| policy.failure_percent.is_some())
        };
        self.effective.services.iter().any(looks)
    }

    /// Whether any failing backend is watched for answers.
    pub fn watches_answers(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Records the datapath's counters of failing backends that are watched. Returns whether flows end now.
    pub fn record_answers(
        &mut self,
        counted: impl Fn(&Endpoint, SocketAddr) -> Option<Traffic>,
        now: Instant,
    ) -> bool {
        let mut is_news = false;
        for (id, vip, policy) in &self.watched {
            let failing = self.known.get_mut(id).and_then(|known| known.failing.as_mut());
            let (Some(failing), Some(traffic)) = (failing, counted(vip, id.backend)) else { continue };
            failing.record(&traffic, now);
            is_news |= failing.is_due(*policy, now);
        }
        is_news
    }

    /// Whether time alone changes something now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Why a service is in panic, if it is.
    pub fn panic(&self, service: &str) -> Option<&str> {
        self.panics.get(service).map(String::as_str)
    }
}

/// The backends that have flows in these tables, and their states, by VIP, address and port.
fn serving(tables: &Tables) -> BTreeMap<(Endpoint, Address, u16), datapath::BackendState> {
    let vips: HashMap<_, _> = tables.services.iter().map(|(vip, service)| (service.index, *vip)).collect();
    let serves = |backend: &datapath::Backend| {
        use datapath::BackendState::{Draining, Ending, Failing, Up};
        let state = [Up, Draining, Failing, Ending].into_iter().find(|state| backend.state == *state)?;
        Some(((*vips.get(&backend.service)?, backend.address, backend.port.get()), state))
    };
    tables.backends.values().filter_map(serves).collect()
}
