//! The part of a backend's new flows that fail, by the datapath's counters. Pure.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// A backend's recent counters.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The oldest first; all but the first are within the window.
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    began: u64,
    accepted: u64,
    resets: u64,
}

/// Failed flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failures {
    /// The number of flows.
    pub flows: u64,
    /// The minimum number of them that the backend has reset or not answered.
    pub failed: u64,
}

impl Failures {
    /// The percentage that failed.
    pub fn percent(self) -> u8 {
        (self.failed.min(self.flows) * 100).checked_div(self.flows).unwrap_or(0) as u8
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} % of {} new flows were reset or not answered", self.percent(), self.flows)
    }
}

impl Evidence {
    /// Records the current counters: new flows, accepted SYNs and resets.
    pub fn record(&mut self, window: Duration, began: u64, accepted: u64, resets: u64, now: Instant) {
        let sample = Sample { at: now, began, accepted, resets };
        // Counters that restart belong to another backend.
        if self
            .samples
            .back()
            .is_some_and(|last| began < last.began || accepted < last.accepted || resets < last.resets)
        {
            self.samples.clear();
        }
        self.samples.push_back(sample);
        while self.samples.get(1).is_some_and(|second| now.duration_since(second.at) >= window) {
            self.samples.pop_front();
        }
    }

    /// The failed flows of the window. A refused flow is both reset and not accepted, so the failures are the larger of the two
    /// counts, not their sum.
    pub fn failures(&self) -> Option<Failures> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        // A SYN of the last second may still be answered.
        let before_last = self.samples.iter().rev().nth(1)?;
        let flows = last.began - first.began;
        let asked = before_last.began - first.began;
        let unanswered = asked.saturating_sub(last.accepted - first.accepted);
        let reset = (last.resets - first.resets).min(flows);
        Some(Failures { flows, failed: unanswered.max(reset) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    /// The result of these numbers of flows, accepted SYNs and resets in each second.
    fn failures(seconds: &[[u64; 3]]) -> Option<Failures> {
        let begin = Instant::now();
        let mut evidence = Evidence::default();
        let mut sum = [1000, 900, 50];
        evidence.record(WINDOW, sum[0], sum[1], sum[2], begin);
        for (second, more) in (1..).zip(seconds) {
            sum = std::array::from_fn(|at| sum[at] + more[at]);
            evidence.record(WINDOW, sum[0], sum[1], sum[2], begin + Duration::from_secs(second));
        }
        evidence.failures()
    }

    #[test]
    fn accepted_flows_without_a_reset_do_not_fail() {
        assert_eq!(failures(&[[10, 10, 0]; 5]), Some(Failures { flows: 50, failed: 0 }));
        assert_eq!(failures(&[]), None);
    }

    #[test]
    fn a_syn_of_the_last_second_may_still_be_answered() {
        assert_eq!(failures(&[[10, 10, 0], [10, 0, 0]]), Some(Failures { flows: 20, failed: 0 }));
        assert_eq!(failures(&[[10, 10, 0], [10, 0, 0], [0, 0, 0]]), Some(Failures { flows: 20, failed: 10 }));
        // Nor is one whose answer arrived in the second after a failure.
        assert_eq!(failures(&[[10, 0, 0], [10, 20, 0], [0, 0, 0]]), Some(Failures { flows: 20, failed: 0 }));
    }

    #[test]
    fn a_refused_flow_counts_once() {
        assert_eq!(failures(&[[10, 0, 10], [0, 0, 0]]), Some(Failures { flows: 10, failed: 10 }));
        // Half are refused, and half of the others are reset later: at least ten have failed.
        let mixed = failures(&[[20, 10, 15], [0, 0, 0]]);
        assert_eq!(mixed, Some(Failures { flows: 20, failed: 15 }));
    }

    #[test]
    fn more_resets_than_flows_count_as_100_percent() {
        assert_eq!(failures(&[[2, 2, 40], [0, 0, 0]]).map(Failures::percent), Some(100));
        assert_eq!(failures(&[[0, 0, 40], [0, 0, 0]]).map(Failures::percent), Some(0), "of older flows");
    }

    #[test]
    fn samples_older_than_the_window_are_dropped() {
        let mut seconds = vec![[10, 0, 10]; 5];
        seconds.extend([[10, 10, 0]; 10]);
        assert_eq!(failures(&seconds), Some(Failures { flows: 100, failed: 0 }));
    }

    #[test]
    fn restarted_counters_are_not_evidence() {
        let begin = Instant::now();
        let mut evidence = Evidence::default();
        evidence.record(WINDOW, 1000, 1000, 0, begin);
        evidence.record(WINDOW, 0, 0, 0, begin + Duration::from_secs(1));
        assert_eq!(evidence.failures(), None);
    }
}
