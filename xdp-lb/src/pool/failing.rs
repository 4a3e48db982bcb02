//! Whether the established flows of a failing backend stay or end. Pure: clock and counters are passed in.

use std::time::{Duration, Instant};

use humantime::format_duration;
use xdp_lb_common::tables::Traffic;

use crate::model::DownPolicy;

/// Why a backend is failing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It is down by its health check or agent, or it does not answer ARP or NDP.
    Down,
    /// Its circuit breaker is open, because some of its flows fail.
    Ejected,
    /// This host has no route to it, which is not the backend's fault.
    Local,
}

/// A failing backend, which takes no new flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failing {
    cause: Cause,
    since: Instant,
    /// The last counts of packets from it, and of packets that asked it for an answer.
    counted: Option<(u64, u64)>,
    /// When it was last seen to answer anyone; initially, when it began to fail.
    answered: Instant,
    /// When clients were first and last seen to ask for an answer after that.
    asked: Option<(Instant, Instant)>,
    /// Why its flows have ended, in words, once they have.
    ended: Option<String>,
}

impl Failing {
    /// A backend that is failing from now on.
    pub fn new(cause: Cause, now: Instant) -> Self {
        Self { cause, since: now, counted: None, answered: now, asked: None, ended: None }
    }

    /// A backend whose flows an earlier daemon ended.
    pub fn ended(cause: Cause, now: Instant) -> Self {
        Self { ended: Some("before the daemon started".into()), ..Self::new(cause, now) }
    }

    /// The same backend with another cause. Ended flows stay so until a check succeeds, which it has if only the breaker is left.
    #[must_use]
    pub fn with_cause(self, cause: Cause, now: Instant) -> Self {
        if self.cause == cause {
            return self;
        }
        let ended = self.ended.filter(|_| cause != Cause::Ejected);
        Self { ended, ..Self::new(cause, now) }
    }

    /// Whether its flows have ended.
    pub fn is_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether [`record`](Self::record) must be called often.
    pub fn is_watched(&self, policy: DownPolicy) -> bool {
        let may_end = self.cause != Cause::Local && !self.is_ended();
        may_end && matches!(policy, DownPolicy::OnceSilent(_))
    }

    /// Records its counters in the datapath.
    pub fn record(&mut self, traffic: &Traffic, now: Instant) {
        let counted = (traffic.packets_out, traffic.asked);
        let Some((answers, asked)) = self.counted.replace(counted) else { return };
        if counted.0 != answers {
            self.answered = now;
            self.asked = None;
        } else if counted.1 != asked {
            let (first, _) = self.asked.unwrap_or((now, now));
            self.asked = Some((first, now));
        }
    }

    /// Whether [`advance`](Self::advance) would end its flows because it is silent.
    pub fn is_due(&self, policy: DownPolicy, now: Instant) -> bool {
        match policy {
            DownPolicy::OnceSilent(grace) => self.is_watched(policy) && self.is_silent(grace, now),
            _ => false,
        }
    }

    /// Ends its flows if it is time. Returns when time alone ends them.
    pub fn advance(&mut self, policy: DownPolicy, now: Instant) -> Option<Instant> {
        if self.is_ended() {
            return None;
        }
        match (self.cause, policy) {
            (Cause::Local, _) | (_, DownPolicy::Keep) => {}
            (Cause::Down, DownPolicy::Reset) => self.ended = Some("on_down is \"reset\"".into()),
            (Cause::Down, DownPolicy::After(timeout)) => {
                let end = self.since + timeout;
                if end > now {
                    return Some(end);
                }
                self.ended = Some(format!("it was down for {}", format_duration(timeout)));
            }
            (_, DownPolicy::OnceSilent(grace)) if self.is_silent(grace, now) => {
                self.ended = Some(format!("it was silent for {}", format_duration(grace)));
            }
            (_, DownPolicy::OnceSilent(_)) | (Cause::Ejected, _) => {}
        }
        None
    }

    /// Whether it has answered no one for this long although clients kept asking. A client retransmits at growing intervals (RFC
    /// 6298), so after a silence of twice that time, one packet is enough.
    fn is_silent(&self, grace: Duration, now: Instant) -> bool {
        let Some((first, last)) = self.asked else { return false };
        let asked_all_along = last - first >= grace / 2;
        now - first >= grace && (asked_all_along || now - self.answered >= 2 * grace)
    }

    /// What happens to its flows, in words.
    pub fn words(&self, policy: DownPolicy) -> String {
        match (&self.ended, self.cause, policy) {
            (Some(why), ..) => format!("established flows have ended: {why}"),
            (None, Cause::Down, DownPolicy::After(timeout)) => {
                format!("established flows are kept for {}", format_duration(timeout))
            }
            (None, Cause::Down | Cause::Ejected, DownPolicy::OnceSilent(_)) => {
                "established flows are kept while it answers".into()
            }
            _ => "established flows are kept".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(2);
    const AUTO: DownPolicy = DownPolicy::OnceSilent(GRACE);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// When the flows end of a backend that fails from 0 on, with a look every 250 ms, if its clients ask and it answers at these
    /// times (ms).
    fn ends(policy: DownPolicy, cause: Cause, asked: &[u64], answered: &[u64], until: u64) -> Option<u64> {
        let begin = Instant::now();
        let mut failing = Failing::new(cause, begin);
        (0..=until).step_by(250).find(|at| {
            let count = |times: &[u64]| times.iter().filter(|time| *time <= at).count() as u64;
            let traffic = Traffic { packets_out: count(answered), asked: count(asked), ..Traffic::default() };
            failing.record(&traffic, begin + millis(*at));
            failing.advance(policy, begin + millis(*at));
            failing.is_ended()
        })
    }

    /// The multiples of this step, in milliseconds.
    fn every(step: usize, until: u64) -> Vec<u64> {
        (1..until).step_by(step).collect()
    }

    #[test]
    fn flows_end_once_a_backend_has_been_silent_for_the_grace() {
        for cause in [Cause::Down, Cause::Ejected] {
            assert_eq!(ends(AUTO, cause, &every(100, 9000), &[], 9000), Some(2250));
            // It answered once more, at 3 s.
            let answered = [300, 900, 1700, 3000];
            assert_eq!(ends(AUTO, cause, &every(100, 9000), &answered, 9000), Some(5250));
        }
    }

    #[test]
    fn flows_stay_while_it_answers_anybody() {
        for between in [200, 1000, 1700] {
            let answered = every(between, 60_000);
            assert_eq!(ends(AUTO, Cause::Down, &every(50, 60_000), &answered, 60_000), None, "{between}");
        }
    }

    #[test]
    fn without_packets_from_clients_nothing_ends() {
        assert_eq!(ends(AUTO, Cause::Down, &[], &[], 600_000), None);
    }

    #[test]
    fn one_lost_packet_among_answers_ends_nothing() {
        // Asked at 1 s and 1.4 s, answered; then silence, since no one asks.
        assert_eq!(ends(AUTO, Cause::Down, &[1000, 1400], &[1500], 60_000), None);
    }

    #[test]
    fn one_retransmitting_client_is_enough() {
        // The retransmissions of one flow, with Linux's timing.
        assert_eq!(ends(AUTO, Cause::Down, &[1, 200, 600, 1400, 3000], &[], 60_000), Some(2250));
        // It had been silent for some time when the check failed, so the next one is late.
        assert_eq!(ends(AUTO, Cause::Down, &[1000, 4200], &[], 60_000), Some(4000));
    }

    #[test]
    fn without_replies_flows_stay_for_the_timeout() {
        let policy = DownPolicy::After(Duration::from_secs(30));
        assert_eq!(ends(policy, Cause::Down, &every(100, 60_000), &[], 60_000), Some(30_000));
        assert_eq!(ends(policy, Cause::Ejected, &every(100, 60_000), &[], 60_000), None);
        let now = Instant::now();
        let mut failing = Failing::new(Cause::Down, now);
        assert_eq!(failing.advance(policy, now), Some(now + Duration::from_secs(30)));
    }

    #[test]
    fn on_down_keep_keeps_flows_and_reset_ends_them() {
        let asked = every(100, 60_000);
        assert_eq!(ends(DownPolicy::Keep, Cause::Down, &asked, &[], 60_000), None);
        assert_eq!(ends(DownPolicy::Reset, Cause::Down, &asked, &asked, 60_000), Some(0));
        assert_eq!(ends(DownPolicy::Reset, Cause::Ejected, &asked, &asked, 60_000), None);
    }

    #[test]
    fn problems_of_this_host_end_nothing_and_do_not_count_later() {
        let after = DownPolicy::After(GRACE);
        for policy in [AUTO, DownPolicy::Keep, DownPolicy::Reset, after] {
            assert_eq!(ends(policy, Cause::Local, &every(100, 60_000), &[], 60_000), None, "{policy:?}");
        }
        let begin = Instant::now();
        let later = begin + Duration::from_secs(60);
        let mut failing = Failing::new(Cause::Local, begin).with_cause(Cause::Down, later);
        assert_eq!(failing.advance(after, later), Some(later + GRACE));
    }

    #[test]
    fn ended_flows_stay_ended_until_checks_succeed() {
        let now = Instant::now();
        let mut failing = Failing::new(Cause::Down, now);
        failing.advance(DownPolicy::Reset, now);
        let here = failing.with_cause(Cause::Local, now);
        assert!(here.is_ended());
        let down = here.with_cause(Cause::Down, now);
        assert!(down.is_ended());
        assert!(!down.with_cause(Cause::Ejected, now).is_ended());
    }

    proptest! {
        /// Whenever clients ask and the backend answers, flows only end after a whole grace period with questions and without an
        /// answer; and if clients ask all the time, not much later.
        #[test]
        fn no_flow_ends_that_was_answered_within_the_grace(
            asked in prop::collection::btree_set(0u64..20_000, 0..60),
            answered in prop::collection::btree_set(0u64..20_000, 0..20),
        ) {
            let (asked, answered): (Vec<_>, Vec<_>) = (asked.into_iter().collect(), answered.into_iter().collect());
            let ended = ends(AUTO, Cause::Down, &asked, &answered, 20_000);
            if let Some(ended) = ended {
                // A look is at most a quarter of a second late.
                let quiet_from = ended.saturating_sub(2000);
                prop_assert!(!answered.iter().any(|at| (quiet_from..=ended).contains(at)));
                prop_assert!(asked.iter().any(|at| *at <= quiet_from + 250));
            }
            let always = every(100, 30_000);
            let last = answered.last().copied().unwrap_or(0);
            let ended = ends(AUTO, Cause::Down, &always, &answered, 30_000);
            prop_assert!(ended.is_some_and(|ended| ended <= last + 2750), "{ended:?} after {last}");
        }
    }
}
