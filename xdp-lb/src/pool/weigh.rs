//! Adjusts weights to agents' replies and the latency of checks.

use std::time::Instant;

use super::definition::{follows, target_id};
use super::feedback::{Part, damped};
use super::known::Known;
use super::latency;
use super::pool::Pool;
use crate::health::TargetId;

/// A backend that takes new flows and whose adjusted weight has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WeightChange {
    /// The backend.
    pub id: TargetId,
    /// Its configured weight.
    pub weight: u16,
    /// The part of it that is in effect now, in percent.
    pub percent: u16,
    /// Why, in words.
    pub reason: String,
}

impl Pool {
    /// Adjusts weights to agents' replies or latency, if it is time. Call it after [`decide`](Self::decide). Returns the backends
    /// whose shares change.
    pub fn weigh(&mut self, now: Instant) -> Vec<WeightChange> {
        let mut all = Vec::new();
        for service in self.effective.services.iter().filter(|service| follows(&service.service)) {
            let ids: Vec<TargetId> =
                service.backends.iter().map(|backend| target_id(service, backend)).collect();
            let known: Vec<&Known> = ids.iter().filter_map(|id| self.known.get(id)).collect();
            // At a start, all replies take effect together.
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
                        format!("checks take {own:.1} ms, median {median:.1} ms")
                    });
                    let reason = agent.into_iter().chain(checks).collect::<Vec<_>>().join("; ");
                    all.push(WeightChange { id, weight: backend.backend.weight, percent, reason });
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
