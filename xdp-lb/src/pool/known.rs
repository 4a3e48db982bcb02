//! A backend's known properties, and its own state.

use std::time::{Duration, Instant};

use xdp_lb_common::tables as datapath;

use super::agent::AgentState;
use super::breaker::{Breaker, Circuit};
use super::checks::Ends;
use super::failing::{Cause, Failing};
use super::latency::{self, Average};
use super::slow_start;
use crate::health::Health;
use crate::model::state::BackendState;
use crate::model::{DownPolicy, EffectiveService};
use crate::net::{NextHop, NoNextHop};
use crate::plan::wanted::Path;

/// A backend's known properties.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its health by its check.
    pub health: Health,
    /// Why, in words.
    pub why: Option<String>,
    /// When its last check failed.
    pub failed_at: Option<Instant>,
    /// The latency of the last check, if it succeeded.
    pub latency: Option<Duration>,
    /// The recent latency of checks.
    pub average: Average,
    /// The results of checks.
    pub checks: Ends,
    /// Its state, and why.
    pub condition: Condition,
    /// The start of this state.
    pub since: Instant,
    /// The part of its share of new flows, in percent: less than 100 during slow start.
    pub portion: u8,
    /// Whether it was added with a new service and its first check is pending.
    pub(super) is_fresh: bool,
    /// When its slow start began.
    pub(super) warming: Option<Instant>,
    /// Its circuit breaker, if its service has breakers.
    pub breaker: Breaker,
    /// Why it is not ejected although its flows fail.
    pub(super) not_ejected: Option<String>,
    /// The state of its agent, if its service has agents.
    pub agent: AgentState,
    /// The part of its configured weight that is in effect, in percent.
    pub percent: u16,
    /// Whether it took new flows when weights were last adjusted.
    pub(super) was_in_ring: bool,
    /// Whether it may have flows: it has taken some, possibly under an earlier daemon.
    pub(super) had_flows: bool,
    /// What happens to its flows, if it is failing.
    pub(super) failing: Option<Failing>,
    /// Its state in an earlier daemon's tables, if it took no new flows and its first check is pending.
    pub(super) inherited: Option<datapath::BackendState>,
    /// Why this host could not run the last check, in words.
    pub(super) trouble: Option<String>,
}

/// A backend's state, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// Its state.
    pub state: BackendState,
    /// Why, in words.
    pub reason: String,
}

/// The next hop towards a backend.
#[derive(Clone, Debug)]
pub(super) enum Hop {
    /// From an earlier daemon's tables. Valid until it is resolved.
    Adopted(Path),
    Known(NextHop),
    /// Why there is none, and the last one: flows continue there as soon as it is reachable again.
    Missing(NoNextHop, Option<Path>),
}

impl Hop {
    /// The path of packets to it, if it is known.
    pub(super) fn path(&self) -> Option<Path> {
        match self {
            Self::Adopted(path) => Some(*path),
            Self::Known(next_hop) => Some(next_hop.into()),
            Self::Missing(_, last) => *last,
        }
    }
}

impl Known {
    /// The properties of a new backend.
    pub(super) fn new(health: Health, is_fresh: bool, now: Instant) -> Self {
        Self {
            health,
            why: None,
            failed_at: None,
            latency: None,
            average: Average::default(),
            checks: Ends::default(),
            condition: Condition { state: BackendState::Checking, reason: String::new() },
            since: now,
            portion: 100,
            is_fresh,
            warming: None,
            breaker: Breaker::default(),
            not_ejected: None,
            agent: AgentState::new(None),
            percent: 100,
            was_in_ring: false,
            had_flows: false,
            failing: None,
            inherited: None,
            trouble: None,
        }
    }

    /// Whether nothing has been decided about it yet.
    pub(super) fn is_new(&self) -> bool {
        self.condition.reason.is_empty()
    }

    /// Whether its flows have ended.
    pub(super) fn is_ended(&self) -> bool {
        self.failing.as_ref().is_some_and(Failing::is_ended)
    }

    /// Whether its flows stay, or it takes new ones.
    pub fn keeps_flows(&self) -> bool {
        match self.condition.state {
            BackendState::Down
            | BackendState::Ejected
            | BackendState::Unresolved
            | BackendState::Checking => match &self.failing {
                Some(failing) => !failing.is_ended(),
                None => self.inherited == Some(datapath::BackendState::Failing),
            },
            _ => true,
        }
    }

    /// Its state in the tables.
    pub(super) fn datapath_state(&self, has_path: bool) -> datapath::BackendState {
        match self.condition.state {
            state if state.takes_new_flows() => datapath::BackendState::Up,
            BackendState::Draining | BackendState::Standby => datapath::BackendState::Draining,
            BackendState::Checking if self.failing.is_none() => {
                self.inherited.unwrap_or(datapath::BackendState::Down)
            }
            _ if self.keeps_flows() && has_path => datapath::BackendState::Failing,
            _ if self.is_ended() => datapath::BackendState::Ending,
            _ => datapath::BackendState::Down,
        }
    }

    /// Updates what happens to its flows in this state. Returns when time alone ends them.
    pub(super) fn update_failing(
        &mut self,
        state: BackendState,
        hop: Option<&Hop>,
        policy: DownPolicy,
        now: Instant,
    ) -> Option<Instant> {
        let cause = match (state, hop) {
            (BackendState::Down, _) => Cause::Down,
            (BackendState::Ejected, _) => Cause::Ejected,
            (BackendState::Unresolved, Some(Hop::Missing(NoNextHop::Silent(_), _))) => Cause::Down,
            (BackendState::Unresolved, _) => Cause::Local,
            (BackendState::Checking, _) => return None,
            _ => {
                (self.failing, self.inherited, self.had_flows) = (None, None, true);
                return None;
            }
        };
        if !self.had_flows {
            return None;
        }
        let inherited = self.inherited.take();
        let failing = match self.failing.take() {
            Some(failing) => failing.with_cause(cause, now),
            None if inherited == Some(datapath::BackendState::Ending) => Failing::ended(cause, now),
            None => Failing::new(cause, now),
        };
        self.failing.insert(failing).advance(policy, now)
    }

    /// Whether it is down by its health check.
    pub(super) fn is_down(&self, service: &EffectiveService) -> bool {
        self.health == Health::Down && service.service.is_checked()
    }

    /// The intended part of its weight, in percent. `median`: of the latencies of serving backends.
    pub(super) fn wanted_percent(&self, median: Option<Duration>, floor: u8) -> u16 {
        let by_latency =
            median.zip(self.average.time()).map_or(100, |(median, own)| latency::percent(own, median, floor));
        // At most 200 % of at most 100 %. Rounded up, so that it is not 0.
        (u32::from(self.agent.percent) * u32::from(by_latency)).div_ceil(100) as u16
    }

    /// Its state and the reason, if its circuit is not closed.
    pub(super) fn ejected(&self) -> Option<(BackendState, String)> {
        let (state, reason) = match self.breaker.circuit() {
            Circuit::Closed => return None,
            Circuit::Open { span, why, .. } => {
                let span = humantime::format_duration(Duration::from_secs(span.as_secs()));
                (BackendState::Ejected, format!("circuit breaker: {why}; open for {span}"))
            }
            Circuit::HalfOpen { .. } => {
                (BackendState::HalfOpen, "circuit breaker: half-open, on trial with part of its share".into())
            }
        };
        Some((state, reason))
    }

    /// Starts and ends its slow start, by its new state. Returns when its portion changes next.
    pub(super) fn warm_up(
        &mut self,
        state: BackendState,
        over: Option<Duration>,
        now: Instant,
    ) -> Option<Instant> {
        let before = self.condition.state;
        // Not after standby, when it is needed now, nor after panic, when it has its share.
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
            // It continues from its trial.
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
