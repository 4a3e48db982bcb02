//! Rates of traffic, smoothed over a few seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use xdp_lb_common::tables::Traffic;

/// After this time without traffic, a rate has fallen to 1/e.
const MEMORY: Duration = Duration::from_secs(3);

/// A rate below this counts as 0: a smoothed rate would never reach it.
const NOTHING: f64 = 0.01;

/// The rates of one service or backend, from samples of its counters.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    last: Traffic,
    at: Instant,
    /// Packets per second, in both directions.
    pub packets: f64,
    /// Bytes per second, in both directions.
    pub bytes: f64,
    /// New flows per second.
    pub new_flows: f64,
    /// Connections per second that were refused or reset.
    pub resets: f64,
}

/// The rates of the reasons to drop or pass packets, from samples of their counters.
#[derive(Clone, Debug, Default)]
pub struct ReasonRates {
    last: Vec<u64>,
    at: Option<Instant>,
    /// Packets per second of each, in the order of [`Reason::ALL`](xdp_lb_common::reason::Reason::ALL).
    pub packets: Vec<f64>,
}

impl Rates {
    /// The first sample: no rate yet.
    pub fn new(traffic: Traffic, now: Instant) -> Self {
        Self { last: traffic, at: now, packets: 0.0, bytes: 0.0, new_flows: 0.0, resets: 0.0 }
    }

    /// Records the next sample.
    pub fn sample(&mut self, traffic: Traffic, now: Instant) {
        let seconds = now.duration_since(self.at).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let smooth = |rate: &mut f64, count: fn(&Traffic) -> u64| {
            *rate = smoothed(*rate, count(&self.last), count(&traffic), seconds);
        };
        smooth(&mut self.packets, |traffic| traffic.packets_in + traffic.packets_out);
        smooth(&mut self.bytes, |traffic| traffic.bytes_in + traffic.bytes_out);
        smooth(&mut self.new_flows, |traffic| traffic.new_flows);
        smooth(&mut self.resets, |traffic| traffic.resets);
        (self.last, self.at) = (traffic, now);
    }
}

impl ReasonRates {
    /// Records the next sample.
    pub fn sample(&mut self, counted: Vec<u64>, now: Instant) {
        let seconds = self.at.map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        self.packets.resize(counted.len(), 0.0);
        if seconds > 0.0 {
            for ((rate, before), after) in self.packets.iter_mut().zip(&self.last).zip(&counted) {
                *rate = smoothed(*rate, *before, *after, seconds);
            }
        }
        (self.last, self.at) = (counted, Some(now));
    }
}

/// The rate after these seconds, in which a counter changed from one value to the other.
fn smoothed(rate: f64, before: u64, after: u64, seconds: f64) -> f64 {
    let weight = 1.0 - (-seconds / MEMORY.as_secs_f64()).exp();
    // Counters that were reset in between count from zero.
    let counted = after.checked_sub(before).unwrap_or(after);
    let rate = rate + weight * (counted as f64 / seconds - rate);
    if rate < NOTHING { 0.0 } else { rate }
}

/// For how long answers are remembered, and how often they are noted.
const ANSWERS: Duration = Duration::from_secs(60);
const ANSWERS_EVERY: Duration = Duration::from_secs(5);

/// With fewer new flows than these, unanswered ones may be those of the moment.
const FEW: u64 = 5;

/// How many of a backend's flows were answered recently.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    samples: VecDeque<(Instant, Traffic)>,
}

/// The new flows of the last minute, and what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    /// Over how long, at most a minute.
    pub span: Duration,
    /// New flows.
    pub new_flows: u64,
    /// SYNs that the backend accepted.
    pub accepted: u64,
    /// Connections that it refused or reset.
    pub resets: u64,
}

impl Answers {
    /// Records the next sample.
    pub fn sample(&mut self, traffic: Traffic, now: Instant) {
        if self.samples.back().is_some_and(|(at, _)| now.duration_since(*at) < ANSWERS_EVERY) {
            return;
        }
        // Counters that were reset in between begin anew.
        if self.samples.back().is_some_and(|(_, last)| last.new_flows > traffic.new_flows) {
            self.samples.clear();
        }
        self.samples.push_back((now, traffic));
        while self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > ANSWERS) {
            self.samples.pop_front();
        }
    }

    /// What became of the new flows since the oldest sample.
    pub fn recent(&self) -> Option<Answered> {
        let ((first, before), (last, after)) = (self.samples.front()?, self.samples.back()?);
        let since = |count: fn(&Traffic) -> u64| count(after).saturating_sub(count(before));
        Some(Answered {
            span: last.duration_since(*first),
            new_flows: since(|traffic| traffic.new_flows),
            accepted: since(|traffic| traffic.accepted),
            resets: since(|traffic| traffic.resets),
        })
    }
}

impl Answered {
    /// How many heard nothing.
    pub fn unanswered(&self) -> u64 {
        self.new_flows.saturating_sub(self.accepted + self.resets)
    }

    /// Whether most of them did, and they are not few.
    pub fn is_silent(&self) -> bool {
        self.new_flows >= FEW && 2 * self.unanswered() > self.new_flows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(packets: u64) -> Traffic {
        Traffic { packets_in: packets, packets_out: packets, new_flows: packets / 10, ..Traffic::default() }
    }

    #[test]
    fn a_steady_rate_is_found_and_falls_to_nothing_afterwards() {
        let begin = Instant::now();
        let mut rates = Rates::new(traffic(0), begin);
        for second in 1..=30 {
            rates.sample(traffic(second * 500), begin + Duration::from_secs(second));
        }
        assert!((rates.packets - 1000.0).abs() < 1.0, "{}", rates.packets);
        assert!((rates.new_flows - 50.0).abs() < 0.1, "{}", rates.new_flows);
        for second in 31..=80 {
            rates.sample(traffic(30 * 500), begin + Duration::from_secs(second));
        }
        assert_eq!((rates.packets, rates.bytes, rates.new_flows), (0.0, 0.0, 0.0));
    }

    #[test]
    fn counters_that_begin_anew_are_no_burst() {
        let begin = Instant::now();
        let mut rates = Rates::new(traffic(1_000_000), begin);
        rates.sample(traffic(10), begin + Duration::from_secs(1));
        assert!(rates.packets < 20.0, "{}", rates.packets);
    }

    #[test]
    fn flows_that_nobody_answers_are_told_from_those_that_are_refused() {
        let begin = Instant::now();
        let mut answers = Answers::default();
        let mut sample = |second: u64, new_flows, accepted, resets| {
            let traffic = Traffic { new_flows, accepted, resets, ..Traffic::default() };
            answers.sample(traffic, begin + Duration::from_secs(second));
            answers.recent().unwrap()
        };
        assert!(!sample(0, 1000, 1000, 0).is_silent());
        assert_eq!(sample(5, 1010, 1000, 0).unanswered(), 10);
        assert!(sample(10, 1020, 1001, 0).is_silent());
        assert!(!sample(15, 1040, 1001, 30).is_silent(), "it refuses them");
        // What is older than a minute counts no more, and few flows say nothing.
        for second in [20, 40, 60, 80] {
            sample(second, 1044, 1001, 30);
        }
        let later = sample(100, 1044, 1001, 30);
        assert!(
            !later.is_silent() && later.new_flows == 0 && later.span <= Duration::from_secs(60),
            "{later:?}"
        );
        assert!(!sample(105, 3, 0, 0).is_silent(), "counters that begin anew");
    }
}
