//! What is known of a backend, and what that alone has it do.

use std::time::{Duration, Instant};

use xdp_lb_common::tables as datapath;

use super::agent::AgentState;
use super::breaker::{Breaker, Circuit};
use super::failing::{Failing, Verdict};
use super::latency::{self, Average};
use super::slow_start;
use crate::health::Health;
use crate::model::state::BackendState;
use crate::model::{DownPolicy, EffectiveService};
use crate::net::{NextHop, NoNextHop};
use crate::plan::wanted::Path;

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
    pub(super) is_fresh: bool,
    /// Since when it warms up.
    pub(super) warming: Option<Instant>,
    /// Whether its circuit is closed, where its service has breakers.
    pub breaker: Breaker,
    /// Why it is not ejected, though its flows fail.
    pub(super) spared: Option<String>,
    /// What its agent says, where its service has agents.
    pub agent: AgentState,
    /// What it has of the weight that the operator gave it, in percent.
    pub percent: u16,
    /// Whether it took new flows when weights were looked at last.
    pub(super) was_in_ring: bool,
    /// Whether it may have flows: it has taken some since it is known, or an earlier daemon's tables say so.
    pub(super) had_flows: bool,
    /// What becomes of its flows, where something speaks against it.
    pub(super) failing: Option<Failing>,
    /// What an earlier daemon's tables had it do, where it took no new flows and nothing has been heard of it since.
    pub(super) inherited: Option<datapath::BackendState>,
    /// Why its last check could not be made, where this host could not; in words.
    pub(super) trouble: Option<String>,
}

/// What a backend does, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// What it does.
    pub state: BackendState,
    /// Why, in words.
    pub reason: String,
}

/// The way to a backend.
#[derive(Clone, Debug)]
pub(super) enum Hop {
    /// As the tables have it that an earlier daemon left: good until something else is heard.
    Adopted(Path),
    Known(NextHop),
    /// Why there is none, and the last one that there was: flows go on there as soon as it is reached again.
    Missing(NoNextHop, Option<Path>),
}

impl Hop {
    /// How packets to whoever is behind it leave, as far as that is known.
    pub(super) fn path(&self) -> Option<Path> {
        match self {
            Self::Adopted(path) => Some(*path),
            Self::Known(next_hop) => Some(next_hop.into()),
            Self::Missing(_, last) => *last,
        }
    }
}

impl Known {
    /// What is known of a backend that is new.
    pub(super) fn new(health: Health, is_fresh: bool, now: Instant) -> Self {
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
            had_flows: false,
            failing: None,
            inherited: None,
            trouble: None,
        }
    }

    /// Whether the flows that it had have ended.
    pub(super) fn is_ended(&self) -> bool {
        self.failing.as_ref().is_some_and(Failing::is_ended)
    }

    /// Whether it has flows that stay, or takes new ones.
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

    /// What the datapath is to do with it.
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

    /// Judges what becomes of its flows where it is to be in this state; returns when time alone ends them.
    pub(super) fn judge(
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
                (self.failing, self.inherited, self.had_flows) = (None, None, true);
                return None;
            }
        };
        if !self.had_flows {
            return None;
        }
        let inherited = self.inherited.take();
        let failing = match self.failing.take() {
            Some(failing) => failing.judged(verdict, now),
            None if inherited == Some(datapath::BackendState::Ending) => Failing::ended(verdict, now),
            None => Failing::new(verdict, now),
        };
        self.failing.insert(failing).advance(policy, now)
    }

    /// Whether its health check says that it is down.
    pub(super) fn is_down(&self, service: &EffectiveService) -> bool {
        self.health == Health::Down && service.service.is_checked()
    }

    /// How much of its weight it should have, in percent, where the checks of those that serve have this median.
    pub(super) fn wanted_percent(&self, median: Option<Duration>, floor: u8) -> u16 {
        let by_latency =
            median.zip(self.average.time()).map_or(100, |(median, own)| latency::percent(own, median, floor));
        // At most 200 % of at most 100 %; and little is not nothing.
        (u32::from(self.agent.percent) * u32::from(by_latency)).div_ceil(100) as u16
    }

    /// What it does where its circuit is not closed.
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

    /// Begins and ends its slow start, by the state that it comes into; returns when its portion changes next.
    pub(super) fn warm_up(
        &mut self,
        state: BackendState,
        over: Option<Duration>,
        now: Instant,
    ) -> Option<Instant> {
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
