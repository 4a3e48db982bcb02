//! Decides the state of each backend, from the operator's settings, its health, its next hop and the other backends.

use std::time::{Duration, Instant};

use super::breaker::{Breaker, Circuit, Inputs};
use super::definition::{target_id, vip};
use super::ejection::{Outlier, eject};
use super::known::{Condition, Hop, Known};
use super::pool::Pool;
use super::selection::{Candidate, Chosen, Eligibility, Selection, select};
use crate::health::{Health, TargetId};
use crate::model::state::{AdminState, BackendState, Origin};
use crate::model::{EffectiveBackend, EffectiveService, Mode};
use crate::net::NextHop;

/// Random numbers from 0 to 1.
pub type Chance<'a> = &'a mut dyn FnMut() -> f64;

/// A backend's change of state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    /// The backend.
    pub id: TargetId,
    /// Its state before; `None` if it is new.
    pub before: Option<BackendState>,
    /// How long it was in that state.
    pub lasted: Option<Duration>,
    /// Its state now, and why.
    pub now: Condition,
}

impl Pool {
    /// Decides every backend's state. Returns the changes.
    pub fn decide(&mut self, now: Instant, chance: Chance<'_>) -> Vec<Transition> {
        let mut transitions = Vec::new();
        self.panics.clear();
        self.watched.clear();
        self.due = None;
        let effective = std::mem::take(&mut self.effective);
        for service in &effective.services {
            self.advance_agents(service, now);
            self.advance_breakers(service, now, chance);
            let (mut selection, mut conditions) = self.conditions(service);
            if self.eject(service, &selection, &conditions, now, chance) {
                (selection, conditions) = self.conditions(service);
            }
            if selection.chosen == Chosen::All {
                self.panics.insert(service.service.name.clone(), too_few(service, &selection));
            }
            for (backend, mut decided) in service.backends.iter().zip(conditions) {
                let id = target_id(service, backend);
                let Some(known) = self.known.get_mut(&id) else { continue };
                let is_new = known.is_new();
                let step = known.warm_up(decided.state, service.service.slow_start, now);
                let is_down = known.is_down(service);
                let moves = service.service.circuit_breaker.and_then(|_| known.breaker.due(is_down));
                let hop = self.next_hops.get(&backend.backend.address.ip());
                let had_ended = known.is_ended();
                let policy = service.service.down_policy();
                let end = known.update_failing(decided.state, hop, policy, now);
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
                    decided.reason = format!("{}; slow start, {} %", decided.reason, known.portion);
                }
                let is_other = is_new || known.condition.state != decided.state;
                let lasted = (!is_new).then(|| now.saturating_duration_since(known.since));
                if is_other {
                    known.since = now;
                }
                if is_other || known.is_ended() && !had_ended {
                    let before = (!is_new).then_some(known.condition.state);
                    transitions.push(Transition { id, before, lasted, now: decided.clone() });
                }
                if let Some(not_ejected) = &known.not_ejected {
                    decided.reason = format!("{}; {not_ejected}", decided.reason);
                }
                if let Some(trouble) = &known.agent.trouble {
                    decided.reason = format!("{}; its agent is unreachable: {trouble}", decided.reason);
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

    /// Updates agents' refusals by the time.
    fn advance_agents(&mut self, service: &EffectiveService, now: Instant) {
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

    /// Updates a service's breakers by the time, the checks, and the flows of backends on trial.
    fn advance_breakers(&mut self, service: &EffectiveService, now: Instant, chance: Chance<'_>) {
        for backend in &service.backends {
            let Some(known) = self.known.get_mut(&target_id(service, backend)) else { continue };
            known.not_ejected = None;
            let Some(policy) = &service.service.circuit_breaker else {
                known.breaker = Breaker::default();
                continue;
            };
            let inputs = Inputs { is_down: known.is_down(service), now, chance: chance() };
            if matches!(known.breaker.circuit(), Circuit::HalfOpen { .. })
                && let Some(failures) = known.breaker.failures(policy, now)
            {
                known.breaker.open(policy, failures.to_string(), inputs);
            }
            known.breaker.advance(policy, inputs);
        }
    }

    /// Opens the breakers of backends whose flows fail, if enough others are left. Returns whether any was opened.
    fn eject(
        &mut self,
        service: &EffectiveService,
        selection: &Selection,
        conditions: &[Condition],
        now: Instant,
        chance: Chance<'_>,
    ) -> bool {
        let Some(policy) = &service.service.circuit_breaker else { return false };
        let with_conditions = || service.backends.iter().zip(conditions);
        let failures = |(place, (backend, condition)): (usize, (&EffectiveBackend, &Condition))| {
            let known = self.known.get(&target_id(service, backend))?;
            let failures = known.breaker.failures(policy, now)?;
            (condition.state == BackendState::Up).then_some(Outlier { place, failures })
        };
        let outliers: Vec<Outlier> = with_conditions().enumerate().filter_map(failures).collect();
        if outliers.is_empty() {
            return false;
        }
        let candidates = self.candidates(service, conditions);
        let is_ejected: Vec<bool> = conditions
            .iter()
            .map(|condition| matches!(condition.state, BackendState::Ejected | BackendState::HalfOpen))
            .collect();
        let chosen =
            eject(&candidates, &is_ejected, selection.needed, policy.max_ejected(), outliers.clone());
        for outlier in outliers {
            let Some(known) = self.known.get_mut(&target_id(service, &service.backends[outlier.place]))
            else {
                continue;
            };
            if chosen.contains(&outlier) {
                let inputs = Inputs { is_down: false, now, chance: chance() };
                known.breaker.open(policy, outlier.failures.to_string(), inputs);
            } else {
                known.not_ejected = Some(format!(
                    "{}; not ejected, because too few backends would be left (max_ejected, panic_threshold)",
                    outlier.failures
                ));
            }
        }
        !chosen.is_empty()
    }

    /// The states of a service's backends.
    fn conditions(&self, service: &EffectiveService) -> (Selection, Vec<Condition>) {
        let alone = service.backends.iter().map(|backend| {
            let hop = self.next_hops.get(&backend.backend.address.ip());
            self.known.get(&target_id(service, backend)).map_or_else(
                || Condition { state: BackendState::Checking, reason: String::new() },
                |known| condition(service, backend, known, hop, self.loses(hop)),
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

    /// A service's backends as candidates, by their own states.
    fn candidates(&self, service: &EffectiveService, conditions: &[Condition]) -> Vec<Candidate> {
        let candidate = |(backend, alone): (&EffectiveBackend, &Condition)| {
            let known = self.known.get(&target_id(service, backend));
            let is_wanted = backend.admin != AdminState::Draining
                && backend.backend.weight > 0
                && !known.is_some_and(|known| known.agent.drains());
            let eligibility = if is_wanted { eligibility(alone.state) } else { Eligibility::Excluded };
            Candidate { is_backup: backend.backend.backup, eligibility }
        };
        service.backends.iter().zip(conditions).map(candidate).collect()
    }
}

/// A backend's own state. Causes that keep all packets from it have precedence.
fn condition(
    service: &EffectiveService,
    backend: &EffectiveBackend,
    known: &Known,
    hop: Option<&Hop>,
    loses: Option<&str>,
) -> Condition {
    let is_checked = service.service.is_checked();
    let why = known.why.as_deref();
    let refusal = known.agent.refusal().map(|refusal| (refusal.state, refusal.reason.clone()));
    let drains = drains(service, backend);
    let (state, reason) = match (hop, known.health, drains) {
        (Some(Hop::Known(_) | Hop::Adopted(_)), ..) if loses.is_some() => {
            let why = loses.unwrap_or_default();
            (BackendState::Unresolved, format!("packets to it are lost: {why}"))
        }
        (None, ..) => (BackendState::Unresolved, "resolving the next hop".into()),
        (Some(Hop::Missing(why, _)), ..) => (BackendState::Unresolved, format!("no next hop: {why}")),
        (Some(Hop::Known(NextHop { router: Some(router), .. })), ..) if service.service.mode == Mode::Dsr => {
            (
                BackendState::Unresolved,
                format!(
                    "reached through router {router}, which would route packets to the VIP back here: mode dsr \
                     needs it on a link of this host, modes ipip and gue do not"
                ),
            )
        }
        (_, Health::Down, _) if is_checked => {
            (BackendState::Down, format!("health check: {}", why.unwrap_or("failed")))
        }
        (_, _, Some(why)) => (BackendState::Draining, why.into()),
        (_, Health::Unknown, _) if is_checked => {
            (BackendState::Checking, "first health check pending".into())
        }
        _ => refusal.or_else(|| known.ejected()).unwrap_or_else(|| {
            let up = match why {
                _ if !is_checked => "not checked".into(),
                Some(why) => format!("health check: {why}"),
                None => "up before the daemon started".into(),
            };
            (BackendState::Up, up)
        }),
    };
    // The reason also says that it drains.
    let reason = match drains {
        Some(why) if state != BackendState::Draining => format!("{reason}; {why}"),
        _ => reason,
    };
    Condition { state, reason }
}

/// Why a working backend takes no new flows, if it drains.
fn drains(service: &EffectiveService, backend: &EffectiveBackend) -> Option<&'static str> {
    match (service.admin, backend.admin) {
        _ if backend.is_leaving => Some(leaves(service, backend)),
        (AdminState::Draining, _) => Some("its service was drained by the operator"),
        (_, AdminState::Draining) => Some("drained by the operator"),
        _ if backend.backend.weight == 0 => Some("weight 0"),
        _ => None,
    }
}

/// Why a backend is being removed.
fn leaves(service: &EffectiveService, backend: &EffectiveBackend) -> &'static str {
    match backend.origin {
        _ if service.is_leaving => "its service was removed: it is removed once its flows have ended",
        Origin::Dns | Origin::WatchedFile => {
            "no longer found by discovery: it is removed once its flows have ended"
        }
        Origin::File | Origin::Runtime => "removed: it leaves once its flows have ended",
    }
}

/// Whether a backend that is not excluded can take flows, by its own state.
fn eligibility(alone: BackendState) -> Eligibility {
    match alone {
        BackendState::Up | BackendState::Standby => Eligibility::Up,
        BackendState::Checking | BackendState::HalfOpen => Eligibility::Pending,
        BackendState::Down | BackendState::Panic | BackendState::Ejected => Eligibility::Failing,
        BackendState::Unresolved => Eligibility::Unreachable,
        BackendState::Draining => Eligibility::Excluded,
    }
}

/// Adjusts a backend's state to the others' states.
fn choose(service: &EffectiveService, candidate: &Candidate, selection: &Selection, alone: &mut Condition) {
    let Condition { state, reason } = alone;
    match (candidate.eligibility, candidate.is_backup, selection.chosen) {
        (Eligibility::Up, true, Chosen::Primaries) => {
            *state = BackendState::Standby;
            *reason = format!("{reason}; backup, on standby while others are up");
        }
        (Eligibility::Pending, true, Chosen::Primaries) if *state == BackendState::HalfOpen => {
            *state = BackendState::Standby;
        }
        (Eligibility::Up, true, _) => {
            *reason = format!("{reason}; backup, in use because {}", selection.words())
        }
        (Eligibility::Failing, _, Chosen::All) => {
            *state = BackendState::Panic;
            *reason = format!("{reason}; takes flows anyway: {}", too_few(service, selection));
        }
        _ => {}
    }
}

/// Why a service is in panic.
fn too_few(service: &EffectiveService, selection: &Selection) -> String {
    let Selection { up, primaries, needed, .. } = selection;
    let threshold = service.service.panic_threshold;
    format!("{up} of {primaries} backends are up, but panic_threshold = {threshold} needs {needed}")
}

#[cfg(test)]
mod tests;
