//! The services and backends that there are, what is known of each, and what follows from that. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};
use xdp_lb_common::tables::{self as datapath, SourceVerdict, Traffic};

use super::agent::AgentState;
use super::breaker::{Breaker, Circuit, Moment};
use super::ejection::{Suspect, eject};
use super::failing::{Failing, Verdict};
use super::feedback::{Part, damped, scaled};
use super::latency::{self, Average};
use super::selection::{Ability, Candidate, Chosen, Selection, select};
use super::slow_start;
use crate::health::{AgentReport, Course, Health, Report, Target, TargetId};
use crate::model::state::{AdminState, BackendState, Origin};
use crate::model::{
    self, DownPolicy, Effective, EffectiveBackend, EffectiveService, FlowTracking, Hairpin, Mode,
    OnNoBackends, Probe, Via, Withdraw,
};
use crate::net::vips::Wish;
use crate::net::{NextHop, NoNextHop};
use crate::plan::places::{identities, identity};
use crate::plan::wanted::{Path, Sources, WantedBackend, WantedService};
use crate::ring;
use crate::tables::Tables;

/// A first check that takes longer is not waited for.
const LONGEST_FIRST_CHECK: Duration = Duration::from_secs(15);

/// Everything that is known of the services and backends.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    effective: Effective,
    known: BTreeMap<TargetId, Known>,
    next_hops: HashMap<IpAddr, Hop>,
    covered: Covered,
    /// The services that use backends which are down, by name, and why.
    panics: BTreeMap<String, String>,
    /// The backends whose flows end once they answer nobody any more, with the keys of their services' records.
    watched: Vec<(TargetId, Endpoint, DownPolicy)>,
    /// When something changes by itself.
    due: Option<Instant>,
    /// When what a service's weights follow has moved slots of its ring last, by the service's name.
    reweighed: BTreeMap<String, Instant>,
}

/// The interfaces whose packets the program sees.
#[derive(Clone, Debug, Default)]
pub struct Covered {
    /// Those of the config file, by name.
    pub names: BTreeSet<String>,
    /// Those that it is attached to, by index.
    pub indices: BTreeSet<u32>,
}

impl Covered {
    /// What to say where replies that come this way do not meet the program.
    fn warning(&self, mode: Mode, hop: &NextHop) -> Option<String> {
        if mode.keeps_destination() {
            // No reply comes this way.
            return None;
        }
        if self.names.contains(&hop.interface) || self.indices.contains(&hop.ifindex) {
            return None;
        }
        let (which, what) = if hop.vlan.is_some() { ("whose parent", "the parent") } else { ("which", "it") };
        Some(format!(
            "reached through {}, {which} is not in `interfaces`: the program may never see its replies; add {what}",
            hop.interface
        ))
    }
}

/// What is known of a backend.
#[derive(Clone, Debug)]
pub struct Known {
    /// What its health check says.
    pub health: Health,
    /// Why, in words.
    pub why: Option<String>,
    /// How long the last check took, where it succeeded.
    pub latency: Option<Duration>,
    /// How long checks took recently.
    pub average: Average,
    /// What follows from all that is known.
    pub condition: Condition,
    /// Since when it is in this state.
    pub since: Instant,
    /// What it gets of its share of new flows, in percent: less than 100 while it warms up.
    pub portion: u8,
    /// Whether nothing has been heard of it since it came with a whole new service.
    is_fresh: bool,
    /// Since when it warms up.
    warming: Option<Instant>,
    /// Whether its circuit is closed, where its service has breakers.
    pub breaker: Breaker,
    /// Why it is not ejected, though its flows fail.
    spared: Option<String>,
    /// What its agent says, where its service has agents.
    pub agent: AgentState,
    /// What it has of the weight that the operator gave it, in percent.
    pub percent: u16,
    /// Whether it took new flows when weights were looked at last.
    was_in_ring: bool,
    /// What becomes of its flows, where something speaks against it.
    failing: Option<Failing>,
    /// What an earlier daemon's tables had it do, where it took no new flows and nothing has been heard of it since.
    inherited: Option<datapath::BackendState>,
    /// Why its last check could not be made, where this host could not; in words.
    trouble: Option<String>,
}

impl Known {
    /// What is known of a backend that is new.
    fn new(health: Health, is_fresh: bool, now: Instant) -> Self {
        Self {
            health,
            why: None,
            latency: None,
            average: Average::default(),
            condition: Condition { state: BackendState::Checking, reason: String::new() },
            since: now,
            portion: 100,
            is_fresh,
            warming: None,
            breaker: Breaker::default(),
            spared: None,
            agent: AgentState::new(None),
            percent: 100,
            was_in_ring: false,
            failing: None,
            inherited: None,
            trouble: None,
        }
    }

    /// Whether the flows that it had have ended.
    fn is_ended(&self) -> bool {
        self.failing.as_ref().is_some_and(Failing::is_ended)
    }

    /// Whether it has flows that stay, or takes new ones.
    pub fn keeps_flows(&self) -> bool {
        match self.condition.state {
            BackendState::Down | BackendState::Ejected | BackendState::Unresolved => {
                self.failing.as_ref().is_some_and(|failing| !failing.is_ended())
            }
            BackendState::Checking => self.inherited == Some(datapath::BackendState::Failing),
            _ => true,
        }
    }

    /// What the datapath is to do with it.
    fn datapath_state(&self, has_path: bool) -> datapath::BackendState {
        match self.condition.state {
            state if state.takes_new_flows() => datapath::BackendState::Up,
            BackendState::Draining | BackendState::Standby => datapath::BackendState::Draining,
            BackendState::Checking => self.inherited.unwrap_or(datapath::BackendState::Down),
            _ if self.keeps_flows() && has_path => datapath::BackendState::Failing,
            _ if self.is_ended() => datapath::BackendState::Ending,
            _ => datapath::BackendState::Down,
        }
    }

    /// Judges what becomes of its flows where it is to be in this state; returns when time alone ends them.
    fn judge(
        &mut self,
        state: BackendState,
        hop: Option<&Hop>,
        policy: DownPolicy,
        now: Instant,
    ) -> Option<Instant> {
        let verdict = match (state, hop) {
            (BackendState::Down, _) => Verdict::Down,
            (BackendState::Ejected, _) => Verdict::Ejected,
            (BackendState::Unresolved, Some(Hop::Missing(NoNextHop::Silent(_), _))) => Verdict::Down,
            (BackendState::Unresolved, _) => Verdict::Here,
            (BackendState::Checking, _) => return None,
            _ => {
                (self.failing, self.inherited) = (None, None);
                return None;
            }
        };
        let inherited = self.inherited.take();
        let failing = match self.failing.take() {
            Some(failing) => failing.judged(verdict, now),
            None if inherited == Some(datapath::BackendState::Ending) => Failing::ended(verdict, now),
            None => Failing::new(verdict, now),
        };
        self.failing.insert(failing).advance(policy, now)
    }

    /// Whether its health check says that it is down.
    fn is_down(&self, service: &EffectiveService) -> bool {
        self.health == Health::Down && service.service.is_checked()
    }

    /// How much of its weight it should have, in percent, where the checks of those that serve have this median.
    fn wanted_percent(&self, median: Option<Duration>, floor: u8) -> u16 {
        let by_latency =
            median.zip(self.average.time()).map_or(100, |(median, own)| latency::percent(own, median, floor));
        // At most 200 % of at most 100 %; and little is not nothing.
        (u32::from(self.agent.percent) * u32::from(by_latency)).div_ceil(100) as u16
    }

    /// What it does where its circuit is not closed.
    fn ejected(&self) -> Option<(BackendState, String)> {
        let (state, reason) = match self.breaker.circuit() {
            Circuit::Closed => return None,
            Circuit::Open { span, why, .. } => {
                let span = humantime::format_duration(Duration::from_secs(span.as_secs()));
                (BackendState::Ejected, format!("circuit breaker: {why}; open for {span}"))
            }
            Circuit::HalfOpen { .. } => (
                BackendState::HalfOpen,
                "circuit breaker: half-open, on trial with a part of its flows".into(),
            ),
        };
        Some((state, reason))
    }

    /// Begins and ends its slow start, by the state that it comes into; returns when its portion changes next.
    fn warm_up(&mut self, state: BackendState, over: Option<Duration>, now: Instant) -> Option<Instant> {
        let before = self.condition.state;
        // One that stood by is needed now; one that was used while it was down has its share.
        let comes_back = state == BackendState::Up
            && matches!(
                before,
                BackendState::Down
                    | BackendState::Checking
                    | BackendState::Unresolved
                    | BackendState::Draining
            );
        match over {
            None => self.warming = None,
            Some(_) if state != BackendState::Up => self.warming = None,
            Some(_) if comes_back && !self.is_fresh => self.warming = Some(now),
            // Its trial was a beginning.
            Some(over) if before == BackendState::HalfOpen => {
                self.warming = now.checked_sub(slow_start::reached(self.portion, over));
            }
            Some(_) => {}
        }
        self.is_fresh &= matches!(state, BackendState::Checking | BackendState::Unresolved);
        let (Some(began), Some(over)) = (self.warming, over) else {
            self.portion = 100;
            return None;
        };
        let since = now.duration_since(began);
        self.portion = slow_start::portion(since, over);
        let next = slow_start::next(since, over);
        if next.is_none() {
            self.warming = None;
        }
        next.map(|next| began + next)
    }
}

/// What a backend does, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// What it does.
    pub state: BackendState,
    /// Why, in words.
    pub reason: String,
}

/// A backend that came into another state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    /// Which backend.
    pub id: TargetId,
    /// Its state before; `None` where it is new.
    pub before: Option<BackendState>,
    /// Its state now, and why.
    pub now: Condition,
}

/// A backend that takes new flows and whose weight counts for more or less than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reweighed {
    /// Which backend.
    pub id: TargetId,
    /// The weight that the operator gave it.
    pub weight: u16,
    /// How much of that counts now, in percent.
    pub percent: u16,
    /// Why, in words.
    pub reason: String,
}

#[derive(Clone, Debug)]
enum Hop {
    /// As the tables have it that an earlier daemon left: good until something else is heard.
    Adopted(Path),
    Known(NextHop),
    /// Why there is none, and the last one that there was: flows go on there as soon as it is reached again.
    Missing(NoNextHop, Option<Path>),
}

impl Hop {
    /// How packets to whoever is behind it leave, as far as that is known.
    fn path(&self) -> Option<Path> {
        match self {
            Self::Adopted(path) => Some(*path),
            Self::Known(next_hop) => Some(next_hop.into()),
            Self::Missing(_, last) => *last,
        }
    }
}

impl Fleet {
    /// A fleet without services that knows the next hops in these tables.
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

    /// Whether a backend's first check or its next hop is still out.
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
                Known { agent: AgentState::new(meanwhile), inherited, ..Known::new(health, is_fresh, now) }
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
    pub fn hear_agent(&mut self, report: AgentReport, now: Instant) -> bool {
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
    pub fn courses(&self, tables: &Tables) -> HashMap<TargetId, Course> {
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
            Some((target_id(service, backend), Course { service: key, backend: index, source }))
        };
        let pairs =
            services.flat_map(|service| service.backends.iter().map(move |backend| (service, backend)));
        pairs.filter_map(of).collect()
    }

    /// Whether a first check of a service's backends is still out that should end soon. Until then nobody knows which of them
    /// will serve: with a VIP that came with the first that is up, all clients would be its own.
    pub fn awaits_first_checks(&self, service: &EffectiveService, now: Instant) -> bool {
        let patience = first_check(&service.service);
        let is_awaited = |backend: &EffectiveBackend| {
            let is_out = !self.next_hops.contains_key(&backend.backend.address.ip());
            self.known.get(&target_id(service, backend)).is_some_and(|known| {
                (is_out || known.condition.state == BackendState::Checking)
                    && now.duration_since(known.since) < patience
            })
        };
        service.backends.iter().any(is_awaited)
    }

    /// Whether a service wants its VIP to be an address of this host, by the states decided last.
    pub fn wish(&self, service: &EffectiveService, withdraw: Withdraw) -> Wish {
        if service.admin == AdminState::Draining {
            return Wish::Absent;
        }
        // In panic, those that are down take flows, too.
        if withdraw == Withdraw::Never || self.panic(&service.service.name).is_some() {
            return Wish::Present;
        }
        let state = |backend: &EffectiveBackend| {
            let state = self.known.get(&target_id(service, backend))?.condition.state;
            // One of which nothing was heard yet may be well.
            let is_out = !self.next_hops.contains_key(&backend.backend.address.ip());
            Some(if is_out { BackendState::Checking } else { state })
        };
        let states: Vec<_> = service.backends.iter().filter_map(state).collect();
        let keeps_flows = |state: &BackendState| {
            state.takes_new_flows()
                || matches!(state, BackendState::Draining | BackendState::Standby | BackendState::Ejected)
        };
        if states.iter().any(keeps_flows) {
            Wish::Present
        } else if states.contains(&BackendState::Checking) {
            Wish::Undecided
        } else {
            Wish::Absent
        }
    }

    /// Decides every backend's state anew; returns those that are in another one than before.
    pub fn decide(&mut self, now: Instant) -> Vec<Transition> {
        let mut transitions = Vec::new();
        self.panics.clear();
        self.watched.clear();
        self.due = None;
        let effective = std::mem::take(&mut self.effective);
        for service in &effective.services {
            self.move_agents(service, now);
            self.move_breakers(service, now);
            let (mut selection, mut conditions) = self.conditions(service);
            if self.eject(service, &selection, &conditions, now) {
                (selection, conditions) = self.conditions(service);
            }
            if selection.chosen == Chosen::All {
                self.panics.insert(service.service.name.clone(), too_few(service, &selection));
            }
            for (backend, mut decided) in service.backends.iter().zip(conditions) {
                let id = target_id(service, backend);
                let Some(known) = self.known.get_mut(&id) else { continue };
                let is_new = known.condition.reason.is_empty();
                let step = known.warm_up(decided.state, service.service.slow_start, now);
                let is_down = known.is_down(service);
                let moves = service.service.circuit_breaker.and_then(|_| known.breaker.due(is_down));
                let hop = self.next_hops.get(&backend.backend.address.ip());
                let had_ended = known.is_ended();
                let policy = service.service.down_policy();
                let end = known.judge(decided.state, hop, policy, now);
                self.due = self.due.into_iter().chain(step).chain(moves).chain(end).min();
                if let Some(failing) = &known.failing {
                    decided.reason = format!("{}; {}", decided.reason, failing.words(policy));
                    if failing.is_watched(policy) {
                        self.watched.push((id.clone(), vip(service), policy));
                    }
                }
                if decided.state == BackendState::HalfOpen {
                    known.portion =
                        service.service.circuit_breaker.map_or(100, |breaker| breaker.half_open_portion);
                } else if known.portion < 100 {
                    decided.reason = format!("{}; warming up, {} %", decided.reason, known.portion);
                }
                let is_other = is_new || known.condition.state != decided.state;
                if is_other {
                    known.since = now;
                }
                if is_other || known.is_ended() && !had_ended {
                    let before = (!is_new).then_some(known.condition.state);
                    transitions.push(Transition { id, before, now: decided.clone() });
                }
                if let Some(spared) = &known.spared {
                    decided.reason = format!("{}; {spared}", decided.reason);
                }
                if let Some(trouble) = &known.agent.trouble {
                    decided.reason = format!("{}; its agent cannot be asked: {trouble}", decided.reason);
                }
                if let Some(trouble) = &known.trouble {
                    decided.reason = format!("{}; the check could not be run: {trouble}", decided.reason);
                }
                known.condition = decided;
            }
        }
        self.effective = effective;
        transitions
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

    /// Lets weights follow what they are to follow, as far as that is not too often; to be called after
    /// [`decide`](Self::decide). Returns which backends' shares change by that.
    pub fn weigh(&mut self, now: Instant) -> Vec<Reweighed> {
        let mut all = Vec::new();
        for service in self.effective.services.iter().filter(|service| follows(&service.service)) {
            let ids: Vec<TargetId> =
                service.backends.iter().map(|backend| target_id(service, backend)).collect();
            let known: Vec<&Known> = ids.iter().filter_map(|id| self.known.get(id)).collect();
            // All that is said at a start is taken together.
            let is_awaited = |known: &&Known| service.service.agent.is_some() && known.agent.since.is_none();
            if known.len() < ids.len() || known.iter().any(is_awaited) {
                continue;
            }
            let policy = service.service.feedback.unwrap_or_default();
            let serves = |known: &&&Known| policy.latency && known.condition.state.takes_new_flows();
            let times = known.iter().filter(serves).filter_map(|known| known.average.time());
            let median = latency::median(times.collect());
            let part = |known: &&Known| Part {
                present: known.percent,
                wanted: known.wanted_percent(median, policy.floor()),
                is_in_ring: known.was_in_ring && known.condition.state.takes_new_flows(),
            };
            let parts: Vec<Part> = known.iter().map(part).collect();
            let name = &service.service.name;
            let (percents, moves) = damped(&parts, policy, self.reweighed.get(name).copied(), now);
            if moves {
                self.reweighed.insert(name.clone(), now);
            }
            for ((id, percent), backend) in ids.into_iter().zip(percents).zip(&service.backends) {
                let Some(known) = self.known.get_mut(&id) else { continue };
                known.was_in_ring = known.condition.state.takes_new_flows();
                let is_news = known.percent != percent && known.was_in_ring;
                known.percent = percent;
                if is_news {
                    let agent =
                        service.service.agent.as_ref().map(|_| format!("agent: {}", known.agent.words()));
                    let checks = median.zip(known.average.time()).map(|(median, own)| {
                        let [median, own] = [median, own].map(|time| time.as_secs_f64() * 1e3);
                        format!("checks take {own:.1} ms, the median is {median:.1} ms")
                    });
                    let reason = agent.into_iter().chain(checks).collect::<Vec<_>>().join("; ");
                    all.push(Reweighed { id, weight: backend.backend.weight, percent, reason });
                }
            }
        }
        all
    }

    /// Whether the flows of any service's backends are looked at.
    pub fn looks_at_flows(&self) -> bool {
        let looks = |service: &EffectiveService| {
            service.service.circuit_breaker.is_some_and(|policy| policy.failure_percent.is_some())
        };
        self.effective.services.iter().any(looks)
    }

    /// Moves on what agents say by the time.
    fn move_agents(&mut self, service: &EffectiveService, now: Instant) {
        if service.service.agent.is_none() {
            return;
        }
        let hold = service.service.feedback.unwrap_or_default().hold;
        for backend in &service.backends {
            let Some(known) = self.known.get_mut(&target_id(service, backend)) else { continue };
            let back = known.agent.advance(hold, now);
            self.due = self.due.into_iter().chain(back).min();
        }
    }

    /// Moves a service's breakers on by the time, the checks, and the flows of those on trial.
    fn move_breakers(&mut self, service: &EffectiveService, now: Instant) {
        for backend in &service.backends {
            let Some(known) = self.known.get_mut(&target_id(service, backend)) else { continue };
            known.spared = None;
            let Some(policy) = &service.service.circuit_breaker else {
                known.breaker = Breaker::default();
                continue;
            };
            let moment = Moment { is_down: known.is_down(service), now, chance: rand::random() };
            if matches!(known.breaker.circuit(), Circuit::HalfOpen { .. })
                && let Some(failures) = known.breaker.failures(policy, now)
            {
                known.breaker.open(policy, failures.to_string(), moment);
            }
            known.breaker.advance(policy, moment);
        }
    }

    /// Opens the breakers of backends whose flows fail, as far as enough others are left; returns whether there is any.
    fn eject(
        &mut self,
        service: &EffectiveService,
        selection: &Selection,
        conditions: &[Condition],
        now: Instant,
    ) -> bool {
        let Some(policy) = &service.service.circuit_breaker else { return false };
        let with_conditions = || service.backends.iter().zip(conditions);
        let failures = |(place, (backend, condition)): (usize, (&EffectiveBackend, &Condition))| {
            let known = self.known.get(&target_id(service, backend))?;
            let failures = known.breaker.failures(policy, now)?;
            (condition.state == BackendState::Up).then_some(Suspect { place, failures })
        };
        let suspects: Vec<Suspect> = with_conditions().enumerate().filter_map(failures).collect();
        if suspects.is_empty() {
            return false;
        }
        let candidates = self.candidates(service, conditions);
        let is_ejected: Vec<bool> = conditions
            .iter()
            .map(|condition| matches!(condition.state, BackendState::Ejected | BackendState::HalfOpen))
            .collect();
        let chosen =
            eject(&candidates, &is_ejected, selection.needed, policy.max_ejected(), suspects.clone());
        for suspect in suspects {
            let Some(known) = self.known.get_mut(&target_id(service, &service.backends[suspect.place]))
            else {
                continue;
            };
            if chosen.contains(&suspect) {
                let moment = Moment { is_down: false, now, chance: rand::random() };
                known.breaker.open(policy, suspect.failures.to_string(), moment);
            } else {
                known.spared = Some(format!(
                    "{}, and it is not ejected, since too few would be left (max_ejected, panic_threshold)",
                    suspect.failures
                ));
            }
        }
        !chosen.is_empty()
    }

    /// What each of a service's backends is to do.
    fn conditions(&self, service: &EffectiveService) -> (Selection, Vec<Condition>) {
        let alone = service.backends.iter().map(|backend| {
            let hop = self.next_hops.get(&backend.backend.address.ip());
            self.known.get(&target_id(service, backend)).map_or_else(
                || Condition { state: BackendState::Checking, reason: String::new() },
                |known| condition(service, backend, known, hop),
            )
        });
        let mut conditions: Vec<Condition> = alone.collect();
        let candidates = self.candidates(service, &conditions);
        let selection = select(&candidates, service.service.panic_threshold);
        for ((backend, candidate), condition) in service.backends.iter().zip(&candidates).zip(&mut conditions)
        {
            choose(service, candidate, &selection, condition);
            if let Some(hop) = self.next_hop(backend.backend.address.ip())
                && let Some(warning) = self.covered.warning(service.service.mode, hop)
            {
                condition.reason = format!("{}; {warning}", condition.reason);
            }
        }
        (selection, conditions)
    }

    /// What is known of each of a service's backends by itself, where these are their conditions.
    fn candidates(&self, service: &EffectiveService, conditions: &[Condition]) -> Vec<Candidate> {
        let candidate = |(backend, alone): (&EffectiveBackend, &Condition)| {
            let known = self.known.get(&target_id(service, backend));
            let is_wanted = backend.admin != AdminState::Draining
                && backend.backend.weight > 0
                && !known.is_some_and(|known| known.agent.drains());
            let ability = if is_wanted { ability(alone.state) } else { Ability::Unwanted };
            Candidate { is_backup: backend.backend.backup, ability }
        };
        service.backends.iter().zip(conditions).map(candidate).collect()
    }

    /// Whether time alone has changed what follows from the states decided last.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Why a service uses backends that are down, where it does.
    pub fn panic(&self, service: &str) -> Option<&str> {
        self.panics.get(service).map(String::as_str)
    }

    /// Whether a service may yet have a backend that is up, by what is still awaited: a first check, a next hop or the
    /// first answer of its discovery.
    fn is_undecided(&self, service: &EffectiveService) -> bool {
        let is_out = |backend: &EffectiveBackend| {
            let known = self.known.get(&target_id(service, backend));
            !self.next_hops.contains_key(&backend.backend.address.ip())
                || known.is_none_or(|known| known.condition.state == BackendState::Checking)
        };
        let finds_none_yet = service.service.discovery.is_some() && service.backends.is_empty();
        finds_none_yet || service.backends.iter().any(is_out)
    }

    /// What the tables are to say, by the states decided last.
    pub fn wanted(&self) -> Vec<WantedService> {
        self.effective.services.iter().map(|service| self.wanted_service(service)).collect()
    }

    fn wanted_service(&self, service: &EffectiveService) -> WantedService {
        let known = |backend| self.known.get(&target_id(service, backend));
        let parts: Vec<(u16, u16)> = service
            .backends
            .iter()
            .map(|backend| (backend.backend.weight, known(backend).map_or(100, |known| known.percent)))
            .collect();
        let weights = scaled(&parts);
        let configured: Vec<u16> = parts.iter().map(|(weight, _)| *weight).collect();
        let path = |backend: &EffectiveBackend| {
            self.next_hops.get(&backend.backend.address.ip()).and_then(Hop::path)
        };
        let backends = service.backends.iter().zip(weights).map(|(backend, weight)| WantedBackend {
            address: backend.backend.address,
            weight,
            portion: known(backend).map_or(100, |known| known.portion),
            max_flows: backend.backend.max_flows,
            server_id: backend.backend.server_id.map(|id| datapath::ServerId::new(id.padded())),
            state: known(backend)
                .map_or(datapath::BackendState::Down, |known| known.datapath_state(path(backend).is_some())),
            path: path(backend),
        });
        let mode = match service.service.mode {
            Mode::Nat => datapath::Mode::Nat,
            Mode::FullNat => datapath::Mode::FullNat,
            Mode::Dsr => datapath::Mode::Dsr,
            Mode::Ipip => datapath::Mode::Ipip,
            Mode::Gue => datapath::Mode::Gue,
        };
        let snat_addresses = &service.service.snat_addresses;
        WantedService {
            vip: vip(service),
            last_port: Port::new(service.service.vip.last_port()),
            mode,
            records_flows: records_flows(&service.service),
            only_recorded: service.service.flow_tracking == FlowTracking::Always,
            rejects: service.service.on_no_backends == OnNoBackends::Reject && !self.is_undecided(service),
            snat_addresses: snat_addresses.iter().map(|address| (*address).into()).collect(),
            affinity_bits: affinity_bits(&service.service),
            quic: service.service.quic.map(|quic| (quic.config_id, quic.server_id_length)),
            sources: sources(&service.service),
            new_flow_rate: service.service.new_flow_rate,
            max_flows: service.service.max_flows,
            new_flow_burst: match service.service.new_flow_burst {
                0 => service.service.new_flow_rate,
                burst => burst,
            },
            checked_at: checked_at(&service.service),
            ring_len: ring::length(&configured),
            hairpin: service.service.hairpin == Hairpin::Auto,
            backends: backends.collect(),
        }
    }
}

/// What a service's packets are addressed to.
pub fn vip(service: &EffectiveService) -> Endpoint {
    let protocol = match service.service.protocol {
        model::Protocol::Tcp => Protocol::TCP,
        model::Protocol::Udp => Protocol::UDP,
    };
    let vip = service.service.vip;
    let first = Endpoint::from_socket(vip.first(), protocol);
    if vip.is_range() { first.range() } else { first }
}

/// The endpoint whose packets answer its checks, where those go to the VIP.
fn checked_at(service: &model::Service) -> Option<Endpoint> {
    let check = service.check();
    let protocol = match check.probe {
        Probe::None | Probe::Icmp | Probe::Exec { .. } => return None,
        Probe::Dns { .. } | Probe::Udp { .. } => Protocol::UDP,
        Probe::Tcp | Probe::Http(_) | Probe::Grpc { .. } => Protocol::TCP,
    };
    let first = service.vip.first();
    let at = SocketAddr::new(first.ip(), check.port.unwrap_or(first.port()));
    (check.via == Via::Vip).then(|| Endpoint::from_socket(at, protocol))
}

/// The bits of its affinity, of an address as the tables hold it: IPv4 is the last 32 bits of 128.
fn affinity_bits(service: &model::Service) -> u8 {
    let is_v4 = service.vip.is_ipv4();
    match service.affinity.bits(is_v4) {
        0 => 0,
        bits if is_v4 => 96 + bits,
        bits => bits,
    }
}

/// By when a backend's first check has ended, counted from when it came: its next hop is found out, it waits for its turn, and
/// times out.
fn first_check(service: &model::Service) -> Duration {
    let check = service.check();
    (Duration::from_secs(2) + check.interval + check.timeout).min(LONGEST_FIRST_CHECK)
}

/// Whether every flow is recorded: where the operator wants it, and where a packet has to be told from a flow's first
/// and UDP has nothing to tell it by.
fn records_flows(service: &model::Service) -> bool {
    let is_rated = service.protocol == model::Protocol::Udp && service.new_flow_rate != 0;
    service.flow_tracking == FlowTracking::Always || is_rated
}

/// Whether its backends' weights follow anything.
fn follows(service: &model::Service) -> bool {
    service.agent.is_some() || service.feedback.is_some_and(|feedback| feedback.latency)
}

/// Whom it lets in. With a list of those that are allowed, nobody else is.
fn sources(service: &model::Service) -> Sources {
    let verdicts = [(&service.allow, SourceVerdict::Allow), (&service.deny, SourceVerdict::Deny)];
    let mut sources: Sources = verdicts
        .into_iter()
        .flat_map(|(ranges, verdict)| ranges.iter().map(move |range| (range, verdict)))
        .map(|(range, verdict)| {
            let bits = if range.address.is_ipv4() { 96 + range.bits } else { range.bits };
            ((range.address.into(), bits), verdict)
        })
        .collect();
    if !service.allow.is_empty() {
        sources.entry((Address::default(), 0)).or_insert(SourceVerdict::Deny);
    }
    sources
}

/// By what name a backend is known.
pub fn target_id(service: &EffectiveService, backend: &EffectiveBackend) -> TargetId {
    TargetId { service: service.service.name.clone(), backend: backend.backend.address }
}

fn pairs(effective: &Effective) -> impl Iterator<Item = (&EffectiveService, &EffectiveBackend)> {
    effective
        .services
        .iter()
        .flat_map(|service| service.backends.iter().map(move |backend| (service, backend)))
}

/// The backends of which these tables have flows, and what they do with them, by VIP, address and port.
fn serving(tables: &Tables) -> BTreeMap<(Endpoint, Address, u16), datapath::BackendState> {
    let vips: HashMap<_, _> = tables.services.iter().map(|(vip, service)| (service.index, *vip)).collect();
    let serves = |backend: &datapath::Backend| {
        use datapath::BackendState::{Draining, Ending, Failing, Up};
        let state =
            [Up, Draining, Failing, Ending].into_iter().find(|state| backend.state == *state as u8)?;
        Some(((*vips.get(&backend.service)?, backend.address, backend.port.get()), state))
    };
    tables.backends.values().filter_map(serves).collect()
}

/// What a backend does, by what is known of it. What keeps packets from it comes first.
fn condition(
    service: &EffectiveService,
    backend: &EffectiveBackend,
    known: &Known,
    hop: Option<&Hop>,
) -> Condition {
    let is_checked = service.service.is_checked();
    let why = known.why.as_deref();
    let refusal = known.agent.refusal().map(|refusal| (refusal.state, refusal.reason.clone()));
    let drains = drains(service, backend);
    let (state, reason) = match (hop, known.health, drains) {
        (None, ..) => (BackendState::Unresolved, "the next hop is being looked up".into()),
        (Some(Hop::Missing(why, _)), ..) => (BackendState::Unresolved, format!("no next hop: {why}")),
        (Some(Hop::Known(NextHop { router: Some(router), .. })), ..) if service.service.mode == Mode::Dsr => {
            (
                BackendState::Unresolved,
                format!(
                    "reached through the router {router}, which would send packets to the VIP back: mode dsr wants it on \
                 a link of this host, mode ipip or gue do not"
                ),
            )
        }
        (_, Health::Down, _) if is_checked => {
            (BackendState::Down, format!("health check: {}", why.unwrap_or("failed")))
        }
        (_, _, Some(why)) => (BackendState::Draining, why.into()),
        (_, Health::Unknown, _) if is_checked => {
            (BackendState::Checking, "the first health check is still out".into())
        }
        _ => refusal.or_else(|| known.ejected()).unwrap_or_else(|| {
            let up = match why {
                _ if !is_checked => "not checked".into(),
                Some(why) => format!("health check: {why}"),
                None => "was up before the daemon started".into(),
            };
            (BackendState::Up, up)
        }),
    };
    // What keeps packets from it hides neither that it takes no flows afterwards, nor that it goes.
    let reason = match drains {
        Some(why) if state != BackendState::Draining => format!("{reason}; {why}"),
        _ => reason,
    };
    Condition { state, reason }
}

/// Why a backend that works takes no new flows, where it is not to.
fn drains(service: &EffectiveService, backend: &EffectiveBackend) -> Option<&'static str> {
    match (service.admin, backend.admin) {
        _ if backend.is_leaving => Some(leaves(service, backend)),
        (AdminState::Draining, _) => Some("its service was drained by the operator"),
        (_, AdminState::Draining) => Some("drained by the operator"),
        _ if backend.backend.weight == 0 => Some("weight 0"),
        _ => None,
    }
}

/// Why a backend leaves.
fn leaves(service: &EffectiveService, backend: &EffectiveBackend) -> &'static str {
    match backend.origin {
        _ if service.is_leaving => "its service was removed: it goes when its flows have ended",
        Origin::Dns | Origin::WatchedFile => {
            "not found by discovery any more: it is removed when its flows have ended"
        }
        Origin::File | Origin::Runtime => "was removed: it goes when its flows have ended",
    }
}

/// What a backend that is wanted could do, by the state that it has by itself.
fn ability(alone: BackendState) -> Ability {
    match alone {
        BackendState::Up | BackendState::Standby => Ability::Up,
        BackendState::Checking | BackendState::HalfOpen => Ability::Unproven,
        BackendState::Down | BackendState::Panic | BackendState::Ejected => Ability::Unwell,
        BackendState::Unresolved => Ability::Unreachable,
        BackendState::Draining => Ability::Unwanted,
    }
}

/// What a backend does beside the others.
fn choose(service: &EffectiveService, candidate: &Candidate, selection: &Selection, alone: &mut Condition) {
    let Condition { state, reason } = alone;
    match (candidate.ability, candidate.is_backup, selection.chosen) {
        (Ability::Up, true, Chosen::Primaries) => {
            *state = BackendState::Standby;
            *reason = format!("{reason}; a backup, and others are up");
        }
        (Ability::Unproven, true, Chosen::Primaries) if *state == BackendState::HalfOpen => {
            *state = BackendState::Standby;
        }
        (Ability::Up, true, _) => *reason = format!("{reason}; a backup, and {}", selection.words()),
        (Ability::Unwell, _, Chosen::All) => {
            *state = BackendState::Panic;
            *reason = format!("{reason}; takes flows all the same: {}", too_few(service, selection));
        }
        _ => {}
    }
}

/// Why a service uses backends that are down.
fn too_few(service: &EffectiveService, selection: &Selection) -> String {
    let Selection { up, primaries, needed, .. } = selection;
    let threshold = service.service.panic_threshold;
    format!("{up} of {primaries} backends are up, and panic_threshold = {threshold} wants {needed}")
}

#[cfg(test)]
mod tests {
    use xdp_lb_common::net::MacAddress;

    use super::*;
    use crate::datapath::Sizes;
    use crate::health::{AgentAdmin, AgentOperation, Said};
    use crate::model::Service;
    use crate::model::state::Origin;
    use crate::model::{Backend, HealthCheck, Limits, OnDown, Probe};
    use crate::plan::planner::Planner;

    fn service(probe: Probe) -> EffectiveService {
        let service = Service {
            health_check: Some(HealthCheck::new(probe)),
            ..Service::new("web", "192.0.2.10:80".parse().unwrap())
        };
        EffectiveService {
            service,
            admin: AdminState::Enabled,
            origin: Origin::File,
            backends: vec![],
            refused: vec![],
            is_leaving: false,
        }
    }

    fn backend(weight: u16, admin: AdminState) -> EffectiveBackend {
        let backend = Backend::new("198.51.100.11:8080".parse().unwrap(), weight);
        EffectiveBackend { backend, admin, origin: Origin::File, is_leaving: false }
    }

    fn known() -> Hop {
        Hop::Known(NextHop {
            interface: "eth0".into(),
            ifindex: 2,
            vlan: None,
            source_mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
            router: None,
            source: "198.51.100.1".parse().unwrap(),
            on_link_bits: Some(24),
            mtu: 1500,
        })
    }

    #[test]
    fn what_keeps_packets_from_a_backend_comes_first() {
        use AdminState::{Draining, Enabled};
        use BackendState as State;
        let missing = || Some(Hop::Missing(NoNextHop::Here("no route".into()), None));
        for (hop, health, weight, admin, probe, state, reason) in [
            (None, Health::Up, 1, Enabled, Probe::Tcp, State::Unresolved, "the next hop is being looked up"),
            (
                missing(),
                Health::Down,
                1,
                Draining,
                Probe::Tcp,
                State::Unresolved,
                "no next hop: no route; drained by the operator",
            ),
            (
                Some(known()),
                Health::Down,
                1,
                Draining,
                Probe::Tcp,
                State::Down,
                "health check: why; drained by the operator",
            ),
            (Some(known()), Health::Up, 1, Draining, Probe::Tcp, State::Draining, "drained by the operator"),
            (
                Some(known()),
                Health::Unknown,
                0,
                Draining,
                Probe::Tcp,
                State::Draining,
                "drained by the operator",
            ),
            (Some(known()), Health::Up, 0, Enabled, Probe::Tcp, State::Draining, "weight 0"),
            (
                Some(known()),
                Health::Unknown,
                1,
                Enabled,
                Probe::Tcp,
                State::Checking,
                "the first health check is still out",
            ),
            (Some(known()), Health::Down, 1, Enabled, Probe::None, State::Up, "not checked"),
            (Some(known()), Health::Up, 1, Enabled, Probe::Tcp, State::Up, "health check: why"),
        ] {
            let known = Known { why: Some("why".into()), ..Known::new(health, true, Instant::now()) };
            let decided = condition(&service(probe), &backend(weight, admin), &known, hop.as_ref());
            assert_eq!(decided, Condition { state, reason: reason.into() });
        }
    }

    #[test]
    fn a_backend_of_dsr_is_not_behind_a_router() {
        let Hop::Known(hop) = known() else { unreachable!() };
        let behind = Hop::Known(NextHop { router: Some("198.51.100.254".parse().unwrap()), ..hop });
        for (mode, hop, state) in [
            (Mode::Dsr, known(), BackendState::Up),
            (Mode::Dsr, behind.clone(), BackendState::Unresolved),
            (Mode::Ipip, behind, BackendState::Up),
        ] {
            let mut service = service(Probe::None);
            service.service.mode = mode;
            let known = Known::new(Health::Up, true, Instant::now());
            let decided = condition(&service, &backend(100, AdminState::Enabled), &known, Some(&hop));
            assert_eq!(decided.state, state, "{mode}: {}", decided.reason);
            assert_eq!(decided.reason.contains("198.51.100.254"), state == BackendState::Unresolved);
        }
    }

    #[test]
    fn a_backend_behind_an_interface_without_the_program_says_so() {
        let now = Instant::now();
        let mut fleet = Fleet::new(&Tables::default());
        let mut web = service(Probe::None);
        web.backends.push(backend(100, AdminState::Enabled));
        fleet.set_effective(Effective { services: vec![web] }, &Tables::default(), now);
        let Hop::Known(hop) = known() else { unreachable!() };
        let address = "198.51.100.11".parse().unwrap();
        let names = |name: &str| Covered { names: [name.into()].into(), indices: [9].into() };
        for (covered, hop, words) in [
            (names("eth0"), hop.clone(), None),
            (names("eth1"), NextHop { ifindex: 9, ..hop.clone() }, None),
            (
                names("eth1"),
                hop.clone(),
                Some(
                    "reached through eth0, which is not in `interfaces`: the program may never see its replies; add \
                     it",
                ),
            ),
            (
                names("eth1"),
                NextHop { interface: "eth0.7".into(), vlan: Some(7), ..hop.clone() },
                Some(
                    "reached through eth0.7, whose parent is not in `interfaces`: the program may never see its \
                     replies; add the parent",
                ),
            ),
        ] {
            fleet.set_covered(covered);
            fleet.heard(address, Ok(hop));
            fleet.decide(now);
            let id = fleet.targets()[0].0.id.clone();
            let condition = fleet.known(&id).unwrap().condition.clone();
            assert_eq!(condition.state, BackendState::Up);
            let said = condition.reason.strip_prefix("not checked").unwrap().strip_prefix("; ");
            assert_eq!(said, words);
            fleet.effective.services[0].service.mode = Mode::Ipip;
            assert!(fleet.uncovered().is_empty(), "replies do not come this way");
            fleet.effective.services[0].service.mode = Mode::FullNat;
            let uncovered = fleet.uncovered();
            assert_eq!(uncovered.values().next().map(|(_, words)| words.as_str()), words);
        }
    }

    /// A service of this threshold whose backends, of which some are backups, have this health.
    fn fleet_of(threshold: u8, backends: &[(bool, Health)]) -> Fleet {
        fleet_with(|service| service.panic_threshold = threshold, backends)
    }

    fn fleet_with(policy: impl Fn(&mut Service), backends: &[(bool, Health)]) -> Fleet {
        let mut fleet = Fleet::new(&Tables::default());
        let mut web = service(Probe::Tcp);
        policy(&mut web.service);
        for (place, (backup, _)) in backends.iter().enumerate() {
            let address = format!("198.51.100.{}:80", 11 + place).parse().unwrap();
            let backend = Backend { backup: *backup, ..Backend::new(address, 100) };
            web.backends.push(EffectiveBackend {
                backend,
                admin: AdminState::Enabled,
                origin: Origin::File,
                is_leaving: false,
            });
        }
        fleet.set_effective(Effective { services: vec![web] }, &Tables::default(), Instant::now());
        let Hop::Known(hop) = known() else { unreachable!() };
        for address in fleet.addresses() {
            fleet.heard(address, Ok(hop.clone()));
        }
        fleet.set_covered(Covered { names: [hop.interface].into(), ..Covered::default() });
        set_health(&mut fleet, backends);
        fleet
    }

    fn set_health(fleet: &mut Fleet, backends: &[(bool, Health)]) {
        let targets = fleet.targets();
        for ((target, _), (_, health)) in targets.into_iter().zip(backends) {
            let transition = Some("it said so".to_owned());
            fleet.report(Report { id: target.id, health: *health, transition, latency: None, trouble: None });
        }
        fleet.decide(Instant::now());
    }

    fn states(fleet: &Fleet) -> Vec<(BackendState, datapath::BackendState)> {
        let wanted = &fleet.wanted()[0];
        let state = |backend: &WantedBackend| {
            let id = TargetId { service: "web".into(), backend: backend.address };
            (fleet.known(&id).unwrap().condition.state, backend.state)
        };
        wanted.backends.iter().map(state).collect()
    }

    #[test]
    fn a_backup_keeps_its_flows_and_takes_new_ones_only_while_no_other_is_up() {
        use datapath::BackendState as Tables;
        use {BackendState as State, Health::Down, Health::Up};
        let mut fleet = fleet_of(0, &[(false, Up), (true, Up)]);
        assert_eq!(states(&fleet), [(State::Up, Tables::Up), (State::Standby, Tables::Draining)]);
        set_health(&mut fleet, &[(false, Down), (true, Up)]);
        assert_eq!(states(&fleet), [(State::Down, Tables::Failing), (State::Up, Tables::Up)]);
        let backup = fleet.known(&fleet.targets()[1].0.id).unwrap();
        assert_eq!(backup.condition.reason, "health check: it said so; a backup, and no other is up");
        set_health(&mut fleet, &[(false, Up), (true, Up)]);
        assert_eq!(states(&fleet), [(State::Up, Tables::Up), (State::Standby, Tables::Draining)]);
    }

    /// What becomes of a backend whose flows have ended.
    const ENDED: datapath::BackendState = datapath::BackendState::Ending;

    /// What the datapath has counted for the first backend.
    fn answers(fleet: &mut Fleet, packets_out: u64, asked: u64, now: Instant) -> bool {
        fleet.see_answers(|_, _| Some(Traffic { packets_out, asked, ..Traffic::default() }), now)
    }

    #[test]
    fn the_flows_of_one_that_is_down_stay_while_it_answers_and_end_once_it_does_not() {
        use datapath::BackendState as Tables;
        use {BackendState as State, Health::Down, Health::Up};
        let now = Instant::now();
        let at = |millis: u64| now + Duration::from_millis(millis);
        let mut fleet = fleet_of(0, &[(false, Up), (false, Up)]);
        assert!(!fleet.watches_answers());
        set_health(&mut fleet, &[(false, Down), (false, Up)]);
        assert!(fleet.watches_answers());
        for round in 0..400 {
            assert!(!answers(&mut fleet, round, round, at(250 * round)), "{round}");
        }
        fleet.decide(at(100_000));
        assert_eq!(states(&fleet)[0], (State::Down, Tables::Failing));
        let silent: Vec<u64> = (0..12)
            .filter(|round| answers(&mut fleet, 399, 400 + round, at(100_000 + 250 * round)))
            .collect();
        assert_eq!(silent, [8, 9, 10, 11], "two seconds after the first question");
        let told = fleet.decide(at(103_000));
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].before, told[0].now.state), (Some(State::Down), State::Down));
        assert_eq!(
            told[0].now.reason,
            "health check: it said so; established flows have ended: it answered nobody for 2s"
        );
        assert_eq!(states(&fleet)[0], (State::Down, ENDED));
        assert!(!fleet.watches_answers() && fleet.decide(at(104_000)).is_empty());
        set_health(&mut fleet, &[(false, Up), (false, Up)]);
        assert_eq!(states(&fleet)[0], (State::Up, Tables::Up));
    }

    #[test]
    fn a_drain_whose_check_fails_is_treated_the_same() {
        use datapath::BackendState as Tables;
        use {BackendState as State, Health::Down, Health::Up};
        let now = Instant::now();
        let mut fleet = fleet_with(|service| service.on_down = OnDown::Reset, &[(false, Up), (false, Up)]);
        fleet.effective.services[0].backends[0].admin = AdminState::Draining;
        fleet.decide(now);
        assert_eq!(states(&fleet)[0], (State::Draining, Tables::Draining));
        set_health(&mut fleet, &[(false, Down), (false, Up)]);
        assert_eq!(states(&fleet)[0], (State::Down, ENDED));
        fleet.effective.services[0].service.on_down = OnDown::Keep;
        set_health(&mut fleet, &[(false, Up), (false, Up)]);
        assert_eq!(states(&fleet)[0], (State::Draining, Tables::Draining));
        set_health(&mut fleet, &[(false, Down), (false, Up)]);
        assert_eq!(states(&fleet)[0], (State::Down, Tables::Failing));
    }

    #[test]
    fn the_way_to_a_backend_stays_known_while_this_host_has_none_and_its_flows_with_it() {
        use BackendState as State;
        use datapath::BackendState as Tables;
        let mut fleet = fleet_with(|service| service.on_down = OnDown::Reset, &[(false, Health::Up); 2]);
        let path = fleet.wanted()[0].backends[0].path;
        let address: IpAddr = "198.51.100.11".parse().unwrap();
        fleet.heard(address, Err(NoNextHop::Here("eth1 is down".into())));
        fleet.decide(Instant::now());
        assert_eq!(states(&fleet)[0], (State::Unresolved, Tables::Failing));
        assert_eq!(fleet.wanted()[0].backends[0].path, path);
        // A neighbour that does not answer is another thing.
        fleet.heard(address, Err(NoNextHop::Silent("198.51.100.11 on eth1 does not answer ARP".into())));
        fleet.decide(Instant::now());
        assert_eq!(states(&fleet)[0], (State::Unresolved, ENDED));
    }

    #[test]
    fn another_daemon_keeps_the_flows_of_a_backend_that_fails_until_it_has_looked_itself() {
        use datapath::BackendState as Datapath;
        let mut before = fleet_of(0, &[(false, Health::Up), (false, Health::Up)]);
        set_health(&mut before, &[(false, Health::Down), (false, Health::Up)]);
        let limits = Limits {
            services: 1,
            backends: 2,
            slots: 100_000,
            flows: 1,
            half_open_flows: 1,
            source_ranges: 1,
            source_rates: 1,
            fragments: 1,
        };
        let mut planner = Planner::new(Tables::default(), Sizes { limits, snat_addresses: 1 });
        let plan = planner.plan(&before.wanted()).unwrap();
        planner.commit(&plan);
        let mut fleet = Fleet::new(planner.tables());
        fleet.set_effective(before.effective().clone(), planner.tables(), Instant::now());
        fleet.decide(Instant::now());
        assert_eq!(states(&fleet)[0], (BackendState::Checking, Datapath::Failing));
        assert_eq!(states(&fleet)[1], (BackendState::Up, Datapath::Up));
        set_health(&mut fleet, &[(false, Health::Down), (false, Health::Up)]);
        assert_eq!(states(&fleet)[0], (BackendState::Down, Datapath::Failing));
    }

    #[test]
    fn a_check_that_could_not_be_run_is_told_and_changes_nothing_else() {
        let mut fleet = fleet_of(0, &[(false, Health::Up)]);
        let id = fleet.targets()[0].0.id.clone();
        let trouble = |why: Option<&str>| Report {
            id: id.clone(),
            health: Health::Up,
            transition: None,
            latency: None,
            trouble: why.map(str::to_owned),
        };
        let reason = |fleet: &mut Fleet| {
            fleet.decide(Instant::now());
            let known = fleet.known(&fleet.targets()[0].0.id).unwrap().condition.clone();
            assert_eq!(known.state, BackendState::Up);
            known.reason
        };
        let before = reason(&mut fleet);
        assert!(fleet.report(trouble(Some("eth1 is down"))));
        assert!(!fleet.report(trouble(Some("eth1 is down"))), "it is no news");
        assert_eq!(reason(&mut fleet), format!("{before}; the check could not be run: eth1 is down"));
        assert!(fleet.report(trouble(None)));
        assert_eq!(reason(&mut fleet), before);
    }

    #[test]
    fn too_few_that_are_up_are_joined_by_those_that_are_down_and_say_why() {
        use datapath::BackendState as Tables;
        use {BackendState as State, Health::Down, Health::Up};
        let mut fleet = fleet_of(50, &[(false, Up), (false, Up), (false, Down), (false, Down)]);
        assert_eq!(states(&fleet)[2], (State::Down, Tables::Failing));
        assert_eq!(fleet.panic("web"), None);
        set_health(&mut fleet, &[(false, Up), (false, Down), (false, Down), (false, Down)]);
        assert_eq!(states(&fleet)[0], (State::Up, Tables::Up));
        assert_eq!(states(&fleet)[1..], [(State::Panic, Tables::Up); 3]);
        let why = "1 of 4 backends are up, and panic_threshold = 50 wants 2";
        assert_eq!(fleet.panic("web"), Some(why));
        let kept = fleet.known(&fleet.targets()[1].0.id).unwrap();
        let reason = format!("health check: it said so; takes flows all the same: {why}");
        assert_eq!(kept.condition.reason, reason);
        // One without a way to it cannot be kept.
        fleet.heard("198.51.100.12".parse().unwrap(), Err(NoNextHop::Here("no route".into())));
        fleet.decide(Instant::now());
        assert_eq!(states(&fleet)[1], (State::Unresolved, Tables::Failing));
        set_health(&mut fleet, &[(false, Up), (false, Down), (false, Up), (false, Down)]);
        assert_eq!(states(&fleet)[3], (State::Down, Tables::Failing));
        assert_eq!(fleet.panic("web"), None);
    }

    #[test]
    fn what_comes_back_warms_up_and_what_begins_with_its_service_does_not() {
        use {BackendState as State, Health::Down, Health::Up};
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let slow = |service: &mut Service| service.slow_start = Some(Duration::from_secs(90));
        let mut fleet = fleet_with(slow, &[(false, Up), (false, Up), (false, Down)]);
        let portions = |fleet: &Fleet| -> Vec<u8> {
            fleet.wanted()[0].backends.iter().map(|backend| backend.portion).collect()
        };
        fleet.decide(now);
        assert_eq!(portions(&fleet), [100, 100, 100], "the service is new");
        assert!(!fleet.is_due(at(1000)), "nothing is on its way");

        let ids: Vec<TargetId> = fleet.targets().into_iter().map(|(target, _)| target.id).collect();
        let report = |id: &TargetId, health| {
            let transition = Some("it said so".to_owned());
            Report { id: id.clone(), health, transition, latency: None, trouble: None }
        };
        fleet.report(report(&ids[2], Up));
        fleet.decide(now);
        assert_eq!(portions(&fleet), [100, 100, 10], "it had been down");
        let reason = &fleet.known(&ids[2]).unwrap().condition.reason;
        assert_eq!(reason, "health check: it said so; warming up, 10 %");
        assert!(!fleet.is_due(at(9)));
        assert!(fleet.is_due(at(10)));
        assert_eq!(fleet.decide(at(45)), [], "a step is no other state");
        assert_eq!(portions(&fleet), [100, 100, 50]);
        assert!(!fleet.is_due(at(49)) && fleet.is_due(at(50)));

        // One that fails on the way begins anew; one that the operator drained is cold, too.
        fleet.report(report(&ids[2], Down));
        fleet.effective.services[0].backends[1].admin = AdminState::Draining;
        fleet.decide(at(50));
        assert_eq!(states(&fleet)[1].0, State::Draining);
        fleet.report(report(&ids[2], Up));
        fleet.effective.services[0].backends[1].admin = AdminState::Enabled;
        fleet.decide(at(60));
        assert_eq!(portions(&fleet), [100, 10, 10]);
        fleet.decide(at(150));
        assert_eq!(portions(&fleet), [100, 100, 100]);
        assert!(!fleet.is_due(at(1000)));

        // A backend that comes to a service which is there; without a slow start, it has its share at once.
        for (slow_start, portion) in [(Some(Duration::from_secs(90)), 10), (None, 100)] {
            let mut fleet = fleet.clone();
            let mut effective = fleet.effective().clone();
            effective.services[0].service.slow_start = slow_start;
            let address = "198.51.100.19:80".parse().unwrap();
            let backend = Backend::new(address, 100);
            let added = EffectiveBackend {
                backend,
                admin: AdminState::Enabled,
                origin: Origin::Runtime,
                is_leaving: false,
            };
            effective.services[0].backends.push(added);
            fleet.set_effective(effective, &Tables::default(), at(200));
            let Hop::Known(hop) = known() else { unreachable!() };
            fleet.heard(address.ip(), Ok(hop));
            fleet.decide(at(200));
            fleet.report(report(&TargetId { service: "web".into(), backend: address }, Up));
            fleet.decide(at(201));
            assert_eq!(portions(&fleet), [100, 100, 100, portion]);
        }
    }

    /// Shows the breakers these counters: flows begun, accepted, reset, of each backend.
    fn see(fleet: &mut Fleet, counted: &[[u64; 3]], now: Instant) -> bool {
        let counted = |_: &EffectiveService, backend: &EffectiveBackend| {
            let IpAddr::V4(address) = backend.backend.address.ip() else { unreachable!() };
            let [new_flows, accepted, resets] = counted[usize::from(address.octets()[3]) - 11];
            Some(Traffic { new_flows, accepted, resets, ..Traffic::default() })
        };
        fleet.see(counted, now)
    }

    #[test]
    fn a_backend_whose_flows_fail_is_ejected_tried_and_used_again() {
        use datapath::BackendState as Tables;
        use {BackendState as State, Health::Up};
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let breaker = model::CircuitBreaker {
            open: Duration::from_secs(10),
            window: Duration::from_secs(5),
            failure_percent: Some(50),
            ..model::CircuitBreaker::default()
        };
        let mut fleet = fleet_with(|service| service.circuit_breaker = Some(breaker), &[(false, Up); 3]);
        assert!(fleet.looks_at_flows());
        assert!(!see(&mut fleet, &[[0; 3]; 3], at(0)));
        assert!(see(&mut fleet, &[[100, 100, 0], [100, 100, 90], [100, 0, 100]], at(1)));
        let told: Vec<_> =
            fleet.decide(at(1)).into_iter().map(|it| (it.id.backend.ip(), it.now.state)).collect();
        assert_eq!(
            told,
            [("198.51.100.13".parse::<IpAddr>().unwrap(), State::Ejected)],
            "half of three is one"
        );
        assert_eq!(states(&fleet)[2], (State::Ejected, Tables::Failing));
        let ids: Vec<TargetId> = fleet.targets().into_iter().map(|(target, _)| target.id).collect();
        let reason = |fleet: &Fleet, place: usize| fleet.known(&ids[place]).unwrap().condition.reason.clone();
        assert!(
            reason(&fleet, 2)
                .starts_with("circuit breaker: 100 % of 100 new flows were reset or not answered; open for ")
        );
        assert!(
            reason(&fleet, 1)
                .contains("90 % of 100 new flows were reset or not answered, and it is not ejected")
        );

        // The second is well again by now; the third gets its trial, by itself.
        assert!(!fleet.is_due(at(8)));
        assert!(fleet.is_due(at(11)));
        see(&mut fleet, &[[200, 200, 90], [200, 200, 90], [100, 0, 100]], at(11));
        fleet.decide(at(11));
        assert!(!reason(&fleet, 1).contains("ejected"));
        assert_eq!(states(&fleet)[2], (State::HalfOpen, Tables::Up));
        assert_eq!(fleet.wanted()[0].backends[2].portion, 10);
        see(&mut fleet, &[[200, 200, 90], [200, 200, 90], [100, 0, 100]], at(11));
        see(&mut fleet, &[[300, 300, 90], [300, 300, 90], [106, 0, 106]], at(12));
        fleet.decide(at(12));
        assert_eq!(states(&fleet)[2].0, State::Ejected, "it failed its trial");

        fleet.decide(at(40));
        assert_eq!(states(&fleet)[2].0, State::HalfOpen);
        assert!(fleet.is_due(at(45)));
        fleet.decide(at(45));
        assert_eq!(states(&fleet)[2], (State::Up, Tables::Up));
        assert_eq!(fleet.wanted()[0].backends[2].portion, 100);
    }

    #[test]
    fn a_backend_whose_circuit_closes_warms_up_from_its_part_on_trial() {
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let policy = |service: &mut Service| {
            service.slow_start = Some(Duration::from_secs(90));
            service.circuit_breaker = Some(model::CircuitBreaker {
                open: Duration::from_secs(10),
                window: Duration::from_secs(5),
                half_open_portion: 25,
                ..model::CircuitBreaker::default()
            });
        };
        let mut fleet = fleet_with(policy, &[(false, Health::Up); 2]);
        fleet.decide(at(0));
        set_health_at(&mut fleet, Health::Down, at(1));
        set_health_at(&mut fleet, Health::Up, at(2));
        let portion = |fleet: &Fleet| fleet.wanted()[0].backends[1].portion;
        fleet.decide(at(12));
        assert_eq!((states(&fleet)[1].0, portion(&fleet)), (BackendState::HalfOpen, 25));
        fleet.decide(at(17));
        assert_eq!((states(&fleet)[1].0, portion(&fleet)), (BackendState::Up, 30));
        assert!(fleet.is_due(at(27)), "the next step comes by itself");
        fleet.decide(at(27));
        assert_eq!(portion(&fleet), 40);
        fleet.decide(at(17 + 70));
        assert_eq!(portion(&fleet), 100);
    }

    /// The second backend's check says so.
    fn set_health_at(fleet: &mut Fleet, health: Health, now: Instant) {
        let id = fleet.targets()[1].0.id.clone();
        fleet.report(Report { id, health, transition: Some("so".into()), latency: None, trouble: None });
        fleet.decide(now);
    }

    #[test]
    fn a_backend_that_is_ejected_does_not_count_as_up_and_joins_in_a_panic() {
        use datapath::BackendState as Tables;
        use {BackendState as State, Health::Down, Health::Up};
        let now = Instant::now();
        let policy = |service: &mut Service| {
            service.panic_threshold = 50;
            let failure_percent = Some(50);
            let default = model::CircuitBreaker::default();
            service.circuit_breaker = Some(model::CircuitBreaker { failure_percent, ..default });
        };
        let mut fleet = fleet_with(policy, &[(false, Up); 4]);
        see(&mut fleet, &[[0; 3]; 4], now);
        see(&mut fleet, &[[100, 0, 0]; 4], now + Duration::from_secs(1));
        see(&mut fleet, &[[100, 0, 0]; 4], now + Duration::from_secs(2));
        fleet.decide(now + Duration::from_secs(2));
        let ejected = states(&fleet).iter().filter(|state| state.0 == State::Ejected).count();
        assert_eq!(ejected, 2, "as many as the threshold lets go");
        set_health(&mut fleet, &[(false, Up), (false, Up), (false, Down), (false, Up)]);
        assert!(states(&fleet).iter().all(|state| state.1 == Tables::Up), "{:?}", states(&fleet));
        assert!(fleet.panic("web").is_some());
    }

    #[test]
    fn a_backup_that_is_needed_takes_its_whole_share_at_once() {
        use {Health::Down, Health::Up};
        let slow = |service: &mut Service| service.slow_start = Some(Duration::from_secs(90));
        let mut fleet = fleet_with(slow, &[(false, Up), (true, Up)]);
        set_health(&mut fleet, &[(false, Down), (true, Up)]);
        let portions: Vec<u8> = fleet.wanted()[0].backends.iter().map(|backend| backend.portion).collect();
        assert_eq!(portions, [100, 100]);
    }

    fn ids(fleet: &Fleet) -> Vec<TargetId> {
        fleet.targets().into_iter().map(|(target, _)| target.id).collect()
    }

    /// Each agent says this; `None`: it cannot be asked.
    fn agents_say(fleet: &mut Fleet, lines: &[Option<Said>], now: Instant) {
        for (id, line) in ids(fleet).into_iter().zip(lines) {
            let result = line.clone().ok_or_else(|| "connection refused".to_owned());
            fleet.hear_agent(AgentReport { id, result }, now);
        }
        fleet.decide(now);
    }

    fn part(percent: u16) -> Option<Said> {
        Some(Said { percent: Some(percent), ..Said::default() })
    }

    fn says(admin: AgentAdmin) -> Option<Said> {
        Some(Said { admin: Some(admin), ..Said::default() })
    }

    fn weights(fleet: &Fleet) -> Vec<u16> {
        fleet.wanted()[0].backends.iter().map(|backend| backend.weight).collect()
    }

    fn with_agent(service: &mut Service) {
        service.agent = Some(model::Agent::at(8081));
    }

    #[test]
    fn a_new_backend_waits_for_its_agent_and_one_that_cannot_be_asked_changes_nothing() {
        use {BackendState as State, Health::Up};
        let now = Instant::now();
        let mut fleet = fleet_with(with_agent, &[(false, Up); 2]);
        assert_eq!(states(&fleet)[0].0, State::Checking);
        assert!(fleet.is_pending());
        agents_say(&mut fleet, &[None, part(50)], now);
        assert_eq!(states(&fleet), [(State::Up, datapath::BackendState::Up); 2]);
        let reason =
            |fleet: &Fleet, place: usize| fleet.known(&ids(fleet)[place]).unwrap().condition.reason.clone();
        let words = "health check: it said so; its agent cannot be asked: connection refused";
        assert_eq!(reason(&fleet, 0), words);
        fleet.weigh(now);
        assert_eq!(weights(&fleet), [10_000, 5_000]);

        // Nor does one that is not there any more.
        agents_say(&mut fleet, &[None, None], now + Duration::from_secs(60));
        assert_eq!(fleet.weigh(now + Duration::from_secs(60)), []);
        assert_eq!(weights(&fleet), [10_000, 5_000]);
        assert_eq!(states(&fleet)[1].0, State::Up);
    }

    #[test]
    fn an_agent_takes_its_backend_out_and_back_beside_the_operator_and_the_check() {
        use {BackendState as State, Health::Down, Health::Up};
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let mut fleet = fleet_with(with_agent, &[(false, Up); 2]);
        let second = |fleet: &Fleet| states(fleet)[1];
        agents_say(&mut fleet, &[part(100), says(AgentAdmin::Drain)], now);
        assert_eq!(second(&fleet), (State::Draining, datapath::BackendState::Draining));
        // A check that fails comes first, and the panic threshold leaves alone what is drained.
        set_health(&mut fleet, &[(false, Up), (false, Down)]);
        assert_eq!(second(&fleet).0, State::Down);
        set_health(&mut fleet, &[(false, Up), (false, Up)]);
        assert_eq!(second(&fleet).0, State::Draining);

        let down = Said { operation: Some(AgentOperation::Down), ..Said::default() };
        agents_say(&mut fleet, &[part(100), Some(down)], at(20));
        assert_eq!(second(&fleet), (State::Down, datapath::BackendState::Failing));
        // What the operator drains keeps its flows, whatever the agent says.
        fleet.effective.services[0].backends[1].admin = AdminState::Draining;
        fleet.decide(at(20));
        assert_eq!(second(&fleet), (State::Draining, datapath::BackendState::Draining));
        let well =
            Said { admin: Some(AgentAdmin::Ready), operation: Some(AgentOperation::Up), ..Said::default() };
        agents_say(&mut fleet, &[part(100), Some(well)], at(40));
        assert_eq!(second(&fleet).0, State::Draining, "the operator wins");
        fleet.effective.services[0].backends[1].admin = AdminState::Enabled;
        fleet.decide(at(40));
        assert_eq!(second(&fleet).0, State::Up);
    }

    #[test]
    fn one_that_its_agent_drained_is_not_used_in_a_panic_and_warms_up_after_it() {
        use {BackendState as State, Health::Down, Health::Up};
        let now = Instant::now();
        let policy = |service: &mut Service| {
            with_agent(service);
            service.panic_threshold = 50;
            service.slow_start = Some(Duration::from_secs(90));
        };
        let mut fleet = fleet_with(policy, &[(false, Up); 3]);
        agents_say(&mut fleet, &[part(100), part(100), says(AgentAdmin::Maint)], now);
        set_health(&mut fleet, &[(false, Down), (false, Down), (false, Down)]);
        let panic = [State::Panic, State::Panic, State::Down];
        assert_eq!(states(&fleet).iter().map(|state| state.0).collect::<Vec<_>>(), panic);
        set_health(&mut fleet, &[(false, Up); 3]);

        let back = Instant::now() + Duration::from_secs(20);
        fleet.decide(back);
        agents_say(&mut fleet, &[part(100), part(100), says(AgentAdmin::Ready)], back);
        let known = fleet.known(&ids(&fleet)[2]).unwrap();
        assert_eq!((known.condition.state, known.portion), (State::Up, 10));
    }

    #[test]
    fn weights_follow_agents_together_and_not_too_often() {
        use Health::Up;
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let mut fleet = fleet_with(with_agent, &[(false, Up); 3]);
        // Until all were heard of, nothing moves.
        let first = ids(&fleet).swap_remove(0);
        fleet.hear_agent(AgentReport { id: first.clone(), result: Ok(part(50).unwrap()) }, now);
        fleet.decide(now);
        assert_eq!(fleet.weigh(now), []);
        agents_say(&mut fleet, &[part(50), part(100), part(95)], now);
        let told: Vec<_> = fleet.weigh(now).into_iter().map(|it| (it.percent, it.reason)).collect();
        // Those that come into the ring come with what they are to have.
        assert_eq!(told, [(50, "agent: ready up 50%".into()), (95, "agent: ready up 95%".into())]);
        assert_eq!(weights(&fleet), [5_000, 10_000, 9_500]);

        let mut changes = Vec::new();
        for second in 1..100 {
            let percent = if second % 2 == 0 { 50 } else { 100 };
            agents_say(&mut fleet, &[part(percent), part(100), part(90)], at(second));
            if !fleet.weigh(at(second)).is_empty() {
                changes.push(second);
            }
        }
        assert!(changes.len() <= 10 && changes.windows(2).all(|pair| pair[1] - pair[0] >= 10), "{changes:?}");

        // Where the service has no agents any more, weights are as given.
        let mut effective = fleet.effective().clone();
        effective.services[0].service.agent = None;
        fleet.set_effective(effective, &Tables::default(), at(100));
        fleet.decide(at(100));
        assert_eq!(weights(&fleet), [100, 100, 100]);
        assert!(!fleet.hear_agent(AgentReport { id: first, result: Ok(Said::default()) }, at(101)));
    }

    /// Each backend has had so many checks that took this many milliseconds.
    fn checks_take(fleet: &mut Fleet, milliseconds: &[u64], checks: u32) {
        for (id, took) in ids(fleet).into_iter().zip(milliseconds) {
            for _ in 0..checks {
                let latency = Some(Duration::from_millis(*took));
                fleet.report(Report {
                    id: id.clone(),
                    health: Health::Up,
                    transition: None,
                    latency,
                    trouble: None,
                });
            }
        }
    }

    #[test]
    fn weights_follow_checks_only_where_they_are_to_and_not_those_of_backends_that_do_not_serve() {
        use Health::Up;
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        for latency in [true, false] {
            let follow = |service: &mut Service| {
                service.feedback = Some(model::Feedback { latency, ..model::Feedback::default() });
            };
            let mut fleet = fleet_with(follow, &[(false, Up), (false, Up), (false, Up), (true, Up)]);
            fleet.weigh(now);
            // A backup stands by, and its checks are no measure.
            checks_take(&mut fleet, &[9, 9, 20, 1], 50);
            let told = fleet.weigh(now);
            if !latency {
                assert_eq!((told, weights(&fleet)), (vec![], vec![100; 4]));
                continue;
            }
            let [told] = told.try_into().unwrap();
            let words = "checks take 20.0 ms, the median is 9.0 ms";
            assert_eq!((told.percent, told.reason.as_str()), (50, words));
            assert_eq!(weights(&fleet), [10_000, 10_000, 5_000, 10_000]);
            assert_eq!(fleet.weigh(at(1)), [], "once");

            // A backend that is drained is no measure either: of the two that are left, the quick one is.
            fleet.effective.services[0].backends[0].admin = AdminState::Draining;
            checks_take(&mut fleet, &[1, 40, 9, 1], 200);
            fleet.decide(at(20));
            fleet.weigh(at(20));
            assert_eq!(weights(&fleet), [10_000, 2_500, 10_000, 10_000]);

            let mut effective = fleet.effective().clone();
            effective.services[0].service.feedback = None;
            fleet.set_effective(effective, &Tables::default(), at(30));
            assert_eq!(weights(&fleet), [100; 4]);
        }
    }

    #[test]
    fn what_the_agent_asks_for_and_what_checks_say_come_together() {
        let now = Instant::now();
        let follow = |service: &mut Service| {
            with_agent(service);
            service.feedback = Some(model::Feedback { latency: true, ..model::Feedback::default() });
        };
        let mut fleet = fleet_with(follow, &[(false, Health::Up); 2]);
        checks_take(&mut fleet, &[9, 20], 50);
        agents_say(&mut fleet, &[part(100), part(50)], now);
        fleet.weigh(now);
        fleet.weigh(now + Duration::from_secs(10));
        assert_eq!(weights(&fleet), [10_000, 2_500]);
    }

    #[test]
    fn a_transition_is_told_once() {
        let now = Instant::now();
        let mut fleet = Fleet::new(&Tables::default());
        let mut web = service(Probe::Tcp);
        web.backends.push(backend(100, AdminState::Enabled));
        fleet.set_effective(Effective { services: vec![web] }, &Tables::default(), now);
        let states = |transitions: Vec<Transition>| {
            transitions.into_iter().map(|it| (it.before, it.now.state)).collect::<Vec<_>>()
        };
        assert_eq!(states(fleet.decide(now)), [(None, BackendState::Unresolved)]);
        assert_eq!(states(fleet.decide(now)), []);
        let Hop::Known(next_hop) = known() else { unreachable!() };
        fleet.heard("198.51.100.11".parse().unwrap(), Ok(next_hop));
        assert_eq!(states(fleet.decide(now)), [(Some(BackendState::Unresolved), BackendState::Checking)]);
        assert_eq!(states(fleet.decide(now)), []);
    }
}
