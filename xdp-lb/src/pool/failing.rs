//! Whether the established flows of a backend that fails stay or end. Pure: the time, and what the datapath counted, are
//! passed in.

use std::time::{Duration, Instant};

use humantime::format_duration;
use xdp_lb_common::tables::Traffic;

use crate::model::DownPolicy;

/// Who says that a backend fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Its health check, its agent, or its silence where this host asks for its Ethernet address.
    Down,
    /// Its circuit breaker: a part of its flows fails.
    Ejected,
    /// Nobody: this host has no way to it, which says nothing of the backend.
    Here,
}

/// A backend that takes no new flows since something speaks against it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failing {
    verdict: Verdict,
    since: Instant,
    /// How many packets it had sent, and how many had asked for one, when that was looked at last.
    counted: Option<(u64, u64)>,
    /// When it was last seen to answer anybody; at first, when it began to fail.
    answered: Instant,
    /// When clients were first and last seen to ask for an answer since then.
    asked: Option<(Instant, Instant)>,
    /// Why its flows have ended, in words, once they have.
    ended: Option<String>,
}

impl Failing {
    /// One that fails from now on.
    pub fn new(verdict: Verdict, now: Instant) -> Self {
        Self { verdict, since: now, counted: None, answered: now, asked: None, ended: None }
    }

    /// One whose flows an earlier daemon has ended.
    pub fn ended(verdict: Verdict, now: Instant) -> Self {
        Self { ended: Some("before the daemon started".into()), ..Self::new(verdict, now) }
    }

    /// The same backend by another verdict. What has ended stays so while nobody calls the backend well; that its breaker is
    /// what is left says that its checks do.
    #[must_use]
    pub fn judged(self, verdict: Verdict, now: Instant) -> Self {
        if self.verdict == verdict {
            return self;
        }
        let ended = self.ended.filter(|_| verdict != Verdict::Ejected);
        Self { ended, ..Self::new(verdict, now) }
    }

    /// Whether its flows have ended.
    pub fn is_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether [`see`](Self::see) is to be called, and often.
    pub fn is_watched(&self, policy: DownPolicy) -> bool {
        let may_end = self.verdict != Verdict::Here && !self.is_ended();
        may_end && matches!(policy, DownPolicy::OnceSilent(_))
    }

    /// Takes in what the datapath has counted for it.
    pub fn see(&mut self, traffic: &Traffic, now: Instant) {
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

    /// Whether [`advance`](Self::advance) would end its flows for its silence.
    pub fn is_due(&self, policy: DownPolicy, now: Instant) -> bool {
        match policy {
            DownPolicy::OnceSilent(grace) => self.is_watched(policy) && self.is_silent(grace, now),
            _ => false,
        }
    }

    /// Moves on by the time; returns when time alone ends its flows.
    pub fn advance(&mut self, policy: DownPolicy, now: Instant) -> Option<Instant> {
        if self.is_ended() {
            return None;
        }
        match (self.verdict, policy) {
            (Verdict::Here, _) | (_, DownPolicy::Keep) => {}
            (Verdict::Down, DownPolicy::Reset) => self.ended = Some("on_down is \"reset\"".into()),
            (Verdict::Down, DownPolicy::After(timeout)) => {
                let end = self.since + timeout;
                if end > now {
                    return Some(end);
                }
                self.ended = Some(format!("it was down for {}", format_duration(timeout)));
            }
            (_, DownPolicy::OnceSilent(grace)) if self.is_silent(grace, now) => {
                self.ended = Some(format!("it was silent for {}", format_duration(grace)));
            }
            (_, DownPolicy::OnceSilent(_)) | (Verdict::Ejected, _) => {}
        }
        None
    }

    /// Whether it has answered nobody for so long, though clients asked all along. A client whose question is lost asks
    /// again, later each time (RFC 6298): after a silence of twice that time, one question is enough.
    fn is_silent(&self, grace: Duration, now: Instant) -> bool {
        let Some((first, last)) = self.asked else { return false };
        let asked_all_along = last - first >= grace / 2;
        now - first >= grace && (asked_all_along || now - self.answered >= 2 * grace)
    }

    /// What becomes of its flows, in words.
    pub fn words(&self, policy: DownPolicy) -> String {
        match (&self.ended, self.verdict, policy) {
            (Some(why), ..) => format!("established flows have ended: {why}"),
            (None, Verdict::Down, DownPolicy::After(timeout)) => {
                format!("established flows are kept for {}", format_duration(timeout))
            }
            (None, Verdict::Down | Verdict::Ejected, DownPolicy::OnceSilent(_)) => {
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

    /// A backend that fails from 0 on, looked at every 250 ms, whose clients ask and which answers at these times (ms):
    /// when its flows end.
    fn ends(
        policy: DownPolicy,
        verdict: Verdict,
        asked: &[u64],
        answered: &[u64],
        until: u64,
    ) -> Option<u64> {
        let begin = Instant::now();
        let mut failing = Failing::new(verdict, begin);
        (0..=until).step_by(250).find(|at| {
            let count = |times: &[u64]| times.iter().filter(|time| *time <= at).count() as u64;
            let traffic = Traffic { packets_out: count(answered), asked: count(asked), ..Traffic::default() };
            failing.see(&traffic, begin + millis(*at));
            failing.advance(policy, begin + millis(*at));
            failing.is_ended()
        })
    }

    /// Every so many milliseconds.
    fn every(step: usize, until: u64) -> Vec<u64> {
        (1..until).step_by(step).collect()
    }

    #[test]
    fn flows_end_once_a_backend_has_answered_nobody_for_the_grace() {
        for verdict in [Verdict::Down, Verdict::Ejected] {
            assert_eq!(ends(AUTO, verdict, &every(100, 9000), &[], 9000), Some(2250));
            // It answered once more, at 3 s.
            let answered = [300, 900, 1700, 3000];
            assert_eq!(ends(AUTO, verdict, &every(100, 9000), &answered, 9000), Some(5250));
        }
    }

    #[test]
    fn flows_stay_while_it_answers_anybody() {
        for between in [200, 1000, 1700] {
            let answered = every(between, 60_000);
            assert_eq!(ends(AUTO, Verdict::Down, &every(50, 60_000), &answered, 60_000), None, "{between}");
        }
    }

    #[test]
    fn where_nobody_asks_nothing_ends() {
        assert_eq!(ends(AUTO, Verdict::Down, &[], &[], 600_000), None);
    }

    #[test]
    fn one_question_that_is_lost_among_answers_ends_nothing() {
        // Asked at 1 s, asked again at 1.4 s, answered; and then silence, since nobody asks.
        assert_eq!(ends(AUTO, Verdict::Down, &[1000, 1400], &[1500], 60_000), None);
    }

    #[test]
    fn one_client_that_asks_ever_more_rarely_is_enough() {
        // The retransmissions of one flow, as Linux times them.
        assert_eq!(ends(AUTO, Verdict::Down, &[1, 200, 600, 1400, 3000], &[], 60_000), Some(2250));
        // It had been silent for some time when the check failed: the next one comes late.
        assert_eq!(ends(AUTO, Verdict::Down, &[1000, 4200], &[], 60_000), Some(4000));
    }

    #[test]
    fn without_replies_flows_stay_for_the_timeout() {
        let policy = DownPolicy::After(Duration::from_secs(30));
        assert_eq!(ends(policy, Verdict::Down, &every(100, 60_000), &[], 60_000), Some(30_000));
        assert_eq!(ends(policy, Verdict::Ejected, &every(100, 60_000), &[], 60_000), None);
        let now = Instant::now();
        let mut failing = Failing::new(Verdict::Down, now);
        assert_eq!(failing.advance(policy, now), Some(now + Duration::from_secs(30)));
    }

    #[test]
    fn whoever_wants_flows_kept_or_reset_has_it_so() {
        let asked = every(100, 60_000);
        assert_eq!(ends(DownPolicy::Keep, Verdict::Down, &asked, &[], 60_000), None);
        assert_eq!(ends(DownPolicy::Reset, Verdict::Down, &asked, &asked, 60_000), Some(0));
        assert_eq!(ends(DownPolicy::Reset, Verdict::Ejected, &asked, &asked, 60_000), None);
    }

    #[test]
    fn the_trouble_of_this_host_ends_nothing_and_is_not_counted_for_later() {
        let after = DownPolicy::After(GRACE);
        for policy in [AUTO, DownPolicy::Keep, DownPolicy::Reset, after] {
            assert_eq!(ends(policy, Verdict::Here, &every(100, 60_000), &[], 60_000), None, "{policy:?}");
        }
        let begin = Instant::now();
        let later = begin + Duration::from_secs(60);
        let mut failing = Failing::new(Verdict::Here, begin).judged(Verdict::Down, later);
        assert_eq!(failing.advance(after, later), Some(later + GRACE));
    }

    #[test]
    fn what_has_ended_stays_so_until_its_checks_succeed() {
        let now = Instant::now();
        let mut failing = Failing::new(Verdict::Down, now);
        failing.advance(DownPolicy::Reset, now);
        let here = failing.judged(Verdict::Here, now);
        assert!(here.is_ended());
        let down = here.judged(Verdict::Down, now);
        assert!(down.is_ended());
        assert!(!down.judged(Verdict::Ejected, now).is_ended());
    }

    proptest! {
        /// Whatever is asked and answered when: flows end only after a whole grace without an answer, in which somebody
        /// asked; and where somebody always asks, not much later.
        #[test]
        fn no_flow_ends_that_was_answered_within_the_grace(
            asked in prop::collection::btree_set(0u64..20_000, 0..60),
            answered in prop::collection::btree_set(0u64..20_000, 0..20),
        ) {
            let (asked, answered): (Vec<_>, Vec<_>) = (asked.into_iter().collect(), answered.into_iter().collect());
            let ended = ends(AUTO, Verdict::Down, &asked, &answered, 20_000);
            if let Some(ended) = ended {
                // A look is a quarter of a second behind at most.
                let quiet_from = ended.saturating_sub(2000);
                prop_assert!(!answered.iter().any(|at| (quiet_from..=ended).contains(at)));
                prop_assert!(asked.iter().any(|at| *at <= quiet_from + 250));
            }
            let always = every(100, 30_000);
            let last = answered.last().copied().unwrap_or(0);
            let ended = ends(AUTO, Verdict::Down, &always, &answered, 30_000);
            prop_assert!(ended.is_some_and(|ended| ended <= last + 2750), "{ended:?} after {last}");
        }
    }
}
