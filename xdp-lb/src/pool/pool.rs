//! The services and backends that there are, and what is known of each. What follows from that is decided in the files beside
//! this one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::tables::{self as datapath, Traffic};

use super::agent::AgentState;
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

/// Everything that is known of the services and backends.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    pub(super) effective: Effective,
    pub(super) known: BTreeMap<TargetId, Known>,
    pub(super) next_hops: HashMap<IpAddr, Hop>,
    pub(super) covered: Covered,
    /// The services that use backends which are down, by name, and why.
    pub(super) panics: BTreeMap<String, String>,
    /// The backends whose flows end once they answer nobody any more, with the keys of their services' records.
    pub(super) watched: Vec<(TargetId, Endpoint, DownPolicy)>,
    /// When something changes by itself.
    pub(super) due: Option<Instant>,
    /// When what a service's weights follow has moved slots of its ring last, by the service's name.
    pub(super) reweighed: BTreeMap<String, Instant>,
}

impl Pool {
    /// A pool without services that knows the next hops in these tables.
    pub fn new(adopted: &Tables) -> Self {
        let next_hops = adopted
            .backends
            .values()
            .filter_map(|backend| Path::of(backend).map(|path| (backend.address.into(), Hop::Adopted(path))));
        Self { next_hops: next_hops.collect(), ..Self::default() }
    }

    /// The services and backends that there are.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }

    /// What is known of a backend.
    pub fn known(&self, id: &TargetId) -> Option<&Known> {
        self.known.get(id)
    }

    /// Whether a backend's first check or its next hop is pending.
    pub fn is_pending(&self) -> bool {
        let pending = [BackendState::Checking, BackendState::Unresolved];
        self.known.values().any(|known| pending.contains(&known.condition.state))
    }

    /// The next hop towards an address, where it is known.
    pub fn next_hop(&self, address: IpAddr) -> Option<&NextHop> {
        match self.next_hops.get(&address) {
            Some(Hop::Known(next_hop)) => Some(next_hop),
            _ => None,
        }
    }

    /// Replaces the services and backends. One that takes flows in these tables (of an earlier daemon,
    /// or under another name of its service) counts as healthy until a check says otherwise; any other
    /// new one is unknown until its first check ends.
    pub fn set_effective(&mut self, effective: Effective, tables: &Tables, now: Instant) {
        let serving = serving(tables);
        let mut known = BTreeMap::new();
        // A service of which no backend was there before begins with all of them at once.
        let old: BTreeSet<String> = self.known.keys().map(|id| id.service.clone()).collect();
        for (service, backend) in pairs(&effective) {
            let id = target_id(service, backend);
            let address = backend.backend.address;
            let mut seen = self.known.remove(&id).unwrap_or_else(|| {
                let serves = serving.get(&(vip(service), address.ip().into(), address.port()));
                let is_well =
                    matches!(serves, Some(datapath::BackendState::Up | datapath::BackendState::Draining));
                let health = match is_well || !service.service.is_checked() {
                    true => Health::Up,
                    false => Health::Unknown,
                };
                let meanwhile = match serves {
                    Some(datapath::BackendState::Up) => None,
                    Some(datapath::BackendState::Draining) => Some(BackendState::Draining),
                    _ => Some(BackendState::Checking),
                };
                let is_fresh = !old.contains(&service.service.name);
                let inherited = serves.copied().filter(|_| !is_well);
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
        self.reweighed.retain(|name, _| effective.services.iter().any(|it| it.service.name == *name));
        self.known = known;
        self.effective = effective;
        let watched = self.addresses();
        self.next_hops.retain(|address, _| watched.contains(address));
    }

    /// Takes in the end of a check. Returns whether anything follows from it.
    pub fn report(&mut self, report: Report) -> bool {
        // One that was removed may still have a check out.
        let Some(known) = self.known.get_mut(&report.id) else { return false };
        if report.trouble.is_none() {
            known.latency = report.latency;
        }
        report.latency.into_iter().for_each(|took| known.average.hear(took));
        let is_news =
            known.health != report.health || report.transition.is_some() || known.trouble != report.trouble;
        known.trouble = report.trouble;
        known.health = report.health;
        if report.transition.is_some() {
            known.why = report.transition;
        }
        is_news
    }

    /// Takes in news of an agent. Returns whether anything follows from it at once; weights follow with
    /// [`weigh`](Self::weigh).
    pub fn on_agent_report(&mut self, report: AgentReport, now: Instant) -> bool {
        let has_agent =
            |it: &&EffectiveService| it.service.name == report.id.service && it.service.agent.is_some();
        // One that was removed may still have an answer out.
        let Some(known) = self.known.get_mut(&report.id) else { return false };
        if !self.effective.services.iter().any(|service| has_agent(&service)) {
            return false;
        }
        known.agent.hear(report.result, now)
    }

    /// Takes in what was heard of the way to an address.
    pub fn heard(&mut self, address: IpAddr, next_hop: Result<NextHop, NoNextHop>) {
        let hop = match next_hop {
            Ok(next_hop) => Hop::Known(next_hop),
            Err(why) => Hop::Missing(why, self.next_hops.get(&address).and_then(Hop::path)),
        };
        self.next_hops.insert(address, hop);
    }

    /// Takes every backend that `before` did not have for one that is reached and healthy, as an operator who adds
    /// it expects.
    pub fn expect_of_new_backends(&mut self, before: &Self) {
        for (id, known) in self.known.iter_mut().filter(|(id, _)| !before.known.contains_key(id)) {
            known.health = Health::Up;
            known.agent = AgentState::new(None);
            self.next_hops.entry(id.backend.ip()).or_insert(Hop::Adopted(Path::default()));
        }
    }

    /// Takes in which interfaces the program covers.
    pub fn set_covered(&mut self, covered: Covered) {
        self.covered = covered;
    }

    /// The interfaces that backends are reached through and the program does not cover: one such backend each,
    /// and what to say.
    pub fn uncovered(&self) -> BTreeMap<String, (TargetId, String)> {
        let stray = |(service, backend): (&EffectiveService, &EffectiveBackend)| {
            let hop = self.next_hop(backend.backend.address.ip())?;
            let warning = self.covered.warning(service.service.mode, hop)?;
            Some((hop.interface.clone(), (target_id(service, backend), warning)))
        };
        pairs(&self.effective).filter_map(stray).collect()
    }

    /// The addresses whose next hop is wanted.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        pairs(&self.effective).map(|(_, backend)| backend.backend.address.ip()).collect()
    }

    /// What is to be checked, and where each check starts.
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

    /// The backends that are checked at their VIP, and where these tables have them and a way to them.
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

    /// Takes in what the datapath has counted for the backends of services whose flows are looked at. Returns whether
    /// anything may follow from it.
    pub fn see(
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
                known.breaker.see(&policy, traffic.new_flows, traffic.accepted, traffic.resets, now);
                is_news |= known.breaker.failures(&policy, now).is_some() || known.spared.is_some();
            }
        }
        is_news
    }

    /// Whether the flows of any service's backends are looked at.
    pub fn looks_at_flows(&self) -> bool {
        let looks = |service: &EffectiveService| {
            service.service.circuit_breaker.is_some_and(|policy| policy.failure_percent.is_some())
        };
        self.effective.services.iter().any(looks)
    }

    /// Whether it is looked at whether backends answer.
    pub fn watches_answers(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Takes in what the datapath has counted for the backends that may have to answer. Returns whether flows end now.
    pub fn see_answers(
        &mut self,
        counted: impl Fn(&Endpoint, SocketAddr) -> Option<Traffic>,
        now: Instant,
    ) -> bool {
        let mut is_news = false;
        for (id, vip, policy) in &self.watched {
            let failing = self.known.get_mut(id).and_then(|known| known.failing.as_mut());
            let (Some(failing), Some(traffic)) = (failing, counted(vip, id.backend)) else { continue };
            failing.see(&traffic, now);
            is_news |= failing.is_due(*policy, now);
        }
        is_news
    }

    /// Whether time alone has changed what follows from the states decided last.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Why a service uses backends that are down, where it does.
    pub fn panic(&self, service: &str) -> Option<&str> {
        self.panics.get(service).map(String::as_str)
    }
}

/// The backends of which these tables have flows, and what they do with them, by VIP, address and port.
fn serving(tables: &Tables) -> BTreeMap<(Endpoint, Address, u16), datapath::BackendState> {
    let vips: HashMap<_, _> = tables.services.iter().map(|(vip, service)| (service.index, *vip)).collect();
    let serves = |backend: &datapath::Backend| {
        use datapath::BackendState::{Draining, Ending, Failing, Up};
        let state = [Up, Draining, Failing, Ending].into_iter().find(|state| backend.state == *state)?;
        Some(((*vips.get(&backend.service)?, backend.address, backend.port.get()), state))
    };
    tables.backends.values().filter_map(serves).collect()
}
