//! A backend's circuit breaker: closed, open, half-open. Pure: clock and randomness are passed in.

use std::time::{Duration, Instant};

use super::evidence::{Evidence, Failures};
use crate::model::CircuitBreaker;

/// The number of flows on trial that suffices to tell that a backend still fails.
const FLOWS_ON_TRIAL: u64 = 5;

/// A backend's circuit breaker.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    state: Circuit,
    /// How often it has opened in a row, without staying closed for `max_open` in between.
    times: u32,
    /// How often it has opened in total.
    opened: u64,
    /// When it closed last.
    closed: Option<Instant>,
    evidence: Evidence,
}

/// The state of a circuit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Circuit {
    /// The backend gets new flows.
    #[default]
    Closed,
    /// The backend gets no new flows.
    Open {
        /// When the trial begins, if the backend is healthy then.
        until: Instant,
        /// How long it stays open.
        span: Duration,
        /// Why, in words.
        why: String,
    },
    /// The backend is on trial with a few flows.
    HalfOpen {
        /// When it closes.
        until: Instant,
    },
}

/// Inputs of a breaker besides the datapath's counters.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Whether the backend is down by its health check.
    pub is_down: bool,
    /// The time.
    pub now: Instant,
    /// A random number, 0 to 1.
    pub chance: f64,
}

impl Breaker {
    /// Its state.
    pub fn circuit(&self) -> &Circuit {
        &self.state
    }

    /// The number of times it has opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Records the backend's current counters.
    pub fn record(&mut self, policy: &CircuitBreaker, began: u64, accepted: u64, resets: u64, now: Instant) {
        self.evidence.record(policy.window, began, accepted, resets, now);
    }

    /// Changes its state by the time and the health check.
    pub fn advance(&mut self, policy: &CircuitBreaker, inputs: Inputs) {
        match self.state {
            Circuit::Closed | Circuit::HalfOpen { .. } if inputs.is_down => {
                self.open(policy, "the health check failed".into(), inputs);
            }
            Circuit::Open { until, .. } if until <= inputs.now && !inputs.is_down => {
                self.evidence = Evidence::default();
                self.state = Circuit::HalfOpen { until: inputs.now + policy.window };
            }
            Circuit::HalfOpen { until } if until <= inputs.now => {
                self.evidence = Evidence::default();
                self.closed = Some(inputs.now);
                self.state = Circuit::Closed;
            }
            _ => {}
        }
    }

    /// The failed flows, if there are enough to open it.
    pub fn failures(&self, policy: &CircuitBreaker, now: Instant) -> Option<Failures> {
        let percent = policy.failure_percent?;
        let least = match self.state {
            Circuit::Closed => u64::from(policy.min_flows()),
            // At the end of the trial, any flow counts.
            Circuit::HalfOpen { until } if until <= now => 1,
            Circuit::HalfOpen { .. } => u64::from(policy.min_flows()).min(FLOWS_ON_TRIAL),
            Circuit::Open { .. } => return None,
        };
        self.evidence.failures().filter(|failures| failures.flows >= least && failures.percent() >= percent)
    }

    /// Opens it: each time in a row twice as long as before, up to `max_open`, and at random up to a fifth less, so that backends
    /// that failed together do not return together.
    pub fn open(&mut self, policy: &CircuitBreaker, why: String, Inputs { now, chance, .. }: Inputs) {
        if self.closed.is_some_and(|closed| now.duration_since(closed) >= policy.max_open) {
            self.times = 0;
        }
        let doubled = policy.open.saturating_mul(2_u32.saturating_pow(self.times));
        let span = doubled.min(policy.max_open).mul_f64(1.0 - 0.2 * chance.clamp(0.0, 1.0));
        self.times = self.times.saturating_add(1);
        self.opened += 1;
        self.evidence = Evidence::default();
        self.state = Circuit::Open { until: now + span, span, why };
    }

    /// When its state changes by time alone, if it does.
    pub fn due(&self, is_down: bool) -> Option<Instant> {
        match self.state {
            Circuit::Open { until, .. } if !is_down => Some(until),
            Circuit::HalfOpen { until } => Some(until),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> CircuitBreaker {
        CircuitBreaker {
            open: Duration::from_secs(10),
            max_open: Duration::from_secs(60),
            window: Duration::from_secs(5),
            half_open_portion: 10,
            failure_percent: Some(50),
            min_flows: Some(20),
            max_ejected: Some(50),
        }
    }

    struct Bench {
        breaker: Breaker,
        begin: Instant,
        counted: [u64; 3],
    }

    impl Bench {
        fn new() -> Self {
            Self { breaker: Breaker::default(), begin: Instant::now(), counted: [0; 3] }
        }

        fn inputs(&self, seconds: u64, is_down: bool) -> Inputs {
            Inputs { is_down, now: self.begin + Duration::from_secs(seconds), chance: 0.0 }
        }

        fn advance(&mut self, seconds: u64, is_down: bool) -> &'static str {
            self.breaker.advance(&policy(), self.inputs(seconds, is_down));
            match self.breaker.circuit() {
                Circuit::Closed => "closed",
                Circuit::Open { .. } => "open",
                Circuit::HalfOpen { .. } => "half-open",
            }
        }

        /// Records more flows at this second. Returns whether they open it.
        fn record(&mut self, second: u64, more: [u64; 3]) -> Option<Failures> {
            self.counted = std::array::from_fn(|at| self.counted[at] + more[at]);
            let [began, accepted, resets] = self.counted;
            let now = self.begin + Duration::from_secs(second);
            self.breaker.record(&policy(), began, accepted, resets, now);
            self.breaker.failures(&policy(), now)
        }
    }

    #[test]
    fn a_failed_check_opens_it_and_it_closes_again_after_its_time_and_a_good_check() {
        let mut bench = Bench::new();
        assert_eq!(bench.advance(0, false), "closed");
        assert_eq!(bench.advance(1, true), "open");
        assert_eq!(bench.breaker.due(true), None, "the check has to succeed first");
        assert_eq!(bench.advance(5, false), "open", "the check alone is not enough");
        assert_eq!(bench.breaker.due(false), Some(bench.begin + Duration::from_secs(11)));
        assert_eq!(bench.advance(11, true), "open", "nor is time");
        assert_eq!(bench.advance(30, false), "half-open");
        assert_eq!(bench.advance(34, false), "half-open");
        assert_eq!(bench.advance(35, false), "closed");
        assert_eq!(bench.breaker.due(false), None);
    }

    #[test]
    fn a_check_that_fails_while_it_is_half_open_opens_it_again() {
        let mut bench = Bench::new();
        bench.advance(0, true);
        assert_eq!(bench.advance(10, false), "half-open");
        assert_eq!(bench.advance(11, true), "open");
    }

    #[test]
    fn it_stays_open_for_twice_as_long_each_time_until_it_was_closed_for_long() {
        let mut bench = Bench::new();
        let mut now = 0;
        let mut open_for = |bench: &mut Bench, pause: u64| {
            now += pause;
            bench.advance(now, true);
            let Circuit::Open { span, .. } = *bench.breaker.circuit() else { panic!("it is open") };
            now += span.as_secs();
            assert_eq!(bench.advance(now, false), "half-open");
            now += 5;
            assert_eq!(bench.advance(now, false), "closed");
            span.as_secs()
        };
        assert_eq!([0, 1, 1, 1, 1].map(|pause| open_for(&mut bench, pause)), [10, 20, 40, 60, 60]);
        assert_eq!(open_for(&mut bench, 59), 60);
        assert_eq!(open_for(&mut bench, 60), 10);
        assert_eq!(bench.breaker.opened(), 7, "each time counts");
    }

    #[test]
    fn jitter_shortens_the_time_by_a_fifth_at_most() {
        let span = |chance| {
            let mut breaker = Breaker::default();
            breaker.open(&policy(), String::new(), Inputs { is_down: false, now: Instant::now(), chance });
            let Circuit::Open { span, .. } = *breaker.circuit() else { panic!("it is open") };
            span
        };
        assert_eq!([0.0, 0.5, 1.0].map(|chance| span(chance).as_secs()), [10, 9, 8]);
    }

    #[test]
    fn enough_failed_flows_open_it() {
        let mut bench = Bench::new();
        for second in 0..3 {
            assert_eq!(bench.record(second, [30, 30, 0]), None);
        }
        // A hundred out of a hundred and sixty.
        assert_eq!(bench.record(3, [100, 0, 100]).map(|failures| failures.percent() >= 50), Some(true));
        let mut bench = Bench::new();
        assert_eq!(bench.record(0, [0, 0, 0]), None);
        assert_eq!(bench.record(1, [19, 19, 19]), None, "too few to tell");
        assert_eq!(bench.record(2, [1, 1, 1]), Some(Failures { flows: 20, failed: 20 }));
    }

    #[test]
    fn on_trial_a_few_failures_open_it_again_and_at_the_end_any() {
        let mut bench = Bench::new();
        bench.advance(0, true);
        assert_eq!(bench.advance(10, false), "half-open");
        assert_eq!(bench.record(10, [0, 0, 0]), None);
        assert_eq!(bench.record(11, [4, 4, 4]), None);
        assert_eq!(bench.record(12, [1, 1, 1]), Some(Failures { flows: 5, failed: 5 }));

        let mut bench = Bench::new();
        bench.advance(0, true);
        bench.advance(10, false);
        assert_eq!(bench.record(10, [0, 0, 0]), None);
        assert_eq!(bench.record(14, [1, 1, 1]), None);
        assert_eq!(bench.record(15, [0, 0, 0]), Some(Failures { flows: 1, failed: 1 }));
    }
}
