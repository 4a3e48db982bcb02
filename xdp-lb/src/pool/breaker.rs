//! A backend's circuit breaker: closed, open, half-open. Pure: the time and all chance are passed in.

use std::time::{Duration, Instant};

use super::evidence::{Evidence, Failures};
use crate::model::CircuitBreaker;

/// As many flows of a backend that is tried again are enough to tell that it fails still.
const FLOWS_ON_TRIAL: u64 = 5;

/// A backend's circuit breaker.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    state: Circuit,
    /// How often in a row it has opened, without a long time of being closed in between.
    times: u32,
    /// How often it has opened.
    opened: u64,
    /// Since when it is closed, where it was ever open.
    closed: Option<Instant>,
    evidence: Evidence,
}

/// Whether a backend gets new flows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Circuit {
    /// It does.
    #[default]
    Closed,
    /// It does not.
    Open {
        /// When it is tried again, if it is healthy then.
        until: Instant,
        /// For how long it was opened.
        span: Duration,
        /// Why, in words.
        why: String,
    },
    /// It gets a few, and what becomes of them decides.
    HalfOpen {
        /// When it closes.
        until: Instant,
    },
}

/// What moves a breaker beside what the datapath saw.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Whether the health check says that the backend is down.
    pub is_down: bool,
    /// The time.
    pub now: Instant,
    /// Chance, 0 to 1.
    pub chance: f64,
}

impl Breaker {
    /// What it does now.
    pub fn circuit(&self) -> &Circuit {
        &self.state
    }

    /// How often it has opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Takes in a backend's counters of now, where its flows are looked at.
    pub fn see(&mut self, policy: &CircuitBreaker, began: u64, accepted: u64, resets: u64, now: Instant) {
        self.evidence.see(policy.window, began, accepted, resets, now);
    }

    /// Moves on by the time and the health check.
    pub fn advance(&mut self, policy: &CircuitBreaker, moment: Moment) {
        match self.state {
            Circuit::Closed | Circuit::HalfOpen { .. } if moment.is_down => {
                self.open(policy, "the health check failed".into(), moment);
            }
            Circuit::Open { until, .. } if until <= moment.now && !moment.is_down => {
                self.evidence = Evidence::default();
                self.state = Circuit::HalfOpen { until: moment.now + policy.window };
            }
            Circuit::HalfOpen { until } if until <= moment.now => {
                self.evidence = Evidence::default();
                self.closed = Some(moment.now);
                self.state = Circuit::Closed;
            }
            _ => {}
        }
    }

    /// What speaks for opening it, by what the datapath saw: so many of its flows fail.
    pub fn failures(&self, policy: &CircuitBreaker, now: Instant) -> Option<Failures> {
        let percent = policy.failure_percent?;
        let least = match self.state {
            Circuit::Closed => u64::from(policy.min_flows()),
            // At the end of the trial whatever there was decides.
            Circuit::HalfOpen { until } if until <= now => 1,
            Circuit::HalfOpen { .. } => u64::from(policy.min_flows()).min(FLOWS_ON_TRIAL),
            Circuit::Open { .. } => return None,
        };
        self.evidence.failures().filter(|failures| failures.flows >= least && failures.percent() >= percent)
    }

    /// Opens it. Each time in a row for twice as long as before, up to the longest time, and up to a fifth less by chance: so
    /// backends that failed together do not come back together.
    pub fn open(&mut self, policy: &CircuitBreaker, why: String, Moment { now, chance, .. }: Moment) {
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

    /// When time alone moves it; nothing where it waits for something else.
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

        fn moment(&self, seconds: u64, is_down: bool) -> Moment {
            Moment { is_down, now: self.begin + Duration::from_secs(seconds), chance: 0.0 }
        }

        fn advance(&mut self, seconds: u64, is_down: bool) -> &'static str {
            self.breaker.advance(&policy(), self.moment(seconds, is_down));
            match self.breaker.circuit() {
                Circuit::Closed => "closed",
                Circuit::Open { .. } => "open",
                Circuit::HalfOpen { .. } => "half-open",
            }
        }

        /// So many more flows by this second; whether that speaks for opening.
        fn see(&mut self, second: u64, more: [u64; 3]) -> Option<Failures> {
            self.counted = std::array::from_fn(|at| self.counted[at] + more[at]);
            let [began, accepted, resets] = self.counted;
            let now = self.begin + Duration::from_secs(second);
            self.breaker.see(&policy(), began, accepted, resets, now);
            self.breaker.failures(&policy(), now)
        }
    }

    #[test]
    fn a_failed_check_opens_it_and_time_and_health_together_bring_it_back() {
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
    fn it_stays_open_for_twice_as_long_each_time_and_forgets_after_a_good_while() {
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
    fn chance_takes_a_fifth_of_the_time_at_most() {
        let span = |chance| {
            let mut breaker = Breaker::default();
            breaker.open(&policy(), String::new(), Moment { is_down: false, now: Instant::now(), chance });
            let Circuit::Open { span, .. } = *breaker.circuit() else { panic!("it is open") };
            span
        };
        assert_eq!([0.0, 0.5, 1.0].map(|chance| span(chance).as_secs()), [10, 9, 8]);
    }

    #[test]
    fn flows_that_fail_speak_for_opening_where_they_are_enough() {
        let mut bench = Bench::new();
        for second in 0..3 {
            assert_eq!(bench.see(second, [30, 30, 0]), None);
        }
        // A hundred of a hundred and sixty.
        assert_eq!(bench.see(3, [100, 0, 100]).map(|failures| failures.percent() >= 50), Some(true));
        let mut bench = Bench::new();
        assert_eq!(bench.see(0, [0, 0, 0]), None);
        assert_eq!(bench.see(1, [19, 19, 19]), None, "too few to tell");
        assert_eq!(bench.see(2, [1, 1, 1]), Some(Failures { flows: 20, failed: 20 }));
    }

    #[test]
    fn on_trial_a_few_failures_open_it_again_and_the_end_takes_what_there_is() {
        let mut bench = Bench::new();
        bench.advance(0, true);
        assert_eq!(bench.advance(10, false), "half-open");
        assert_eq!(bench.see(10, [0, 0, 0]), None);
        assert_eq!(bench.see(11, [4, 4, 4]), None);
        assert_eq!(bench.see(12, [1, 1, 1]), Some(Failures { flows: 5, failed: 5 }));

        let mut bench = Bench::new();
        bench.advance(0, true);
        bench.advance(10, false);
        assert_eq!(bench.see(10, [0, 0, 0]), None);
        assert_eq!(bench.see(14, [1, 1, 1]), None);
        assert_eq!(bench.see(15, [0, 0, 0]), Some(Failures { flows: 1, failed: 1 }));
    }
}
