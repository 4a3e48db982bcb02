//! What a backend's agent has reported, and its effect. Pure: the clock is passed in.

use std::time::{Duration, Instant};

use crate::health::{AgentAdmin, AgentOperation, AgentReply};
use crate::model::state::BackendState;

/// What a backend's agent has reported so far. Whatever it has never mentioned counts as fine.
#[derive(Clone, Debug)]
pub struct AgentState {
    /// Whether the backend should take flows.
    pub admin: AgentAdmin,
    /// Whether the backend works.
    pub operation: AgentOperation,
    /// How much of the configured weight it wants, in percent.
    pub percent: u16,
    /// The description in its last line.
    pub note: Option<String>,
    /// Why the last query failed, in words. The last reply stays in effect.
    pub trouble: Option<String>,
    /// When its reply last changed. `None`: the first query is pending.
    pub since: Option<Instant>,
    /// The backend's state until the first query ends. `None`: as without an agent.
    meanwhile: Option<BackendState>,
    /// Why the backend gets no new flows, if it gets none.
    refusal: Option<Refusal>,
}

/// Why an agent's backend gets no new flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The backend's state.
    pub state: BackendState,
    /// Why, in words.
    pub reason: String,
    /// When its agent took it out. `None`: the first query is pending.
    began: Option<Instant>,
}

impl AgentState {
    /// The state before the first query ends. Until then, the backend is in the state `meanwhile`, if there is one.
    pub fn new(meanwhile: Option<BackendState>) -> Self {
        Self {
            admin: AgentAdmin::default(),
            operation: AgentOperation::default(),
            percent: 100,
            note: None,
            trouble: None,
            since: None,
            meanwhile,
            refusal: None,
        }
    }

    /// Records a reply, or why there is none, which changes nothing else. Returns whether more than the weight may change.
    pub fn record(&mut self, result: Result<AgentReply, String>, now: Instant) -> bool {
        let shown = |state: &Self| (state.refuses().map(|it| state.described(it.1)), state.trouble.clone());
        let before = shown(self);
        self.since = Some(now);
        match result {
            Err(why) => self.trouble = Some(why),
            Ok(said) => {
                self.trouble = None;
                self.admin = said.admin.unwrap_or(self.admin);
                self.operation = said.operation.unwrap_or(self.operation);
                self.percent = said.percent.unwrap_or(self.percent);
                self.note = said.note;
            }
        }
        shown(self) != before
    }

    /// Updates the refusal. A backend that its agent took out returns after `hold` at the earliest, however often the reply
    /// changes. Returns when that is, if time alone brings it back.
    pub fn advance(&mut self, hold: Duration, now: Instant) -> Option<Instant> {
        let began = self.refusal.as_ref().and_then(|refusal| refusal.began);
        if let Some((state, words)) = self.refuses() {
            let began = self.since.map(|_| began.unwrap_or(now));
            self.refusal = Some(Refusal { state, reason: self.described(words), began });
            return None;
        }
        match began.map(|began| began + hold) {
            Some(back) if back > now => {
                if let Some(refusal) = &mut self.refusal {
                    let hold = humantime::format_duration(hold);
                    refusal.reason =
                        format!("agent: ready again, waiting for feedback.hold ({hold}) to pass");
                }
                Some(back)
            }
            _ => {
                self.refusal = None;
                None
            }
        }
    }

    /// Why the backend gets no new flows, as of the last [`Self::advance`].
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// Whether its reply has the effect of a drain by the operator.
    pub fn drains(&self) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| refusal.state == BackendState::Draining)
    }

    /// The backend's state by the reply, and the words that cause it.
    fn refuses(&self) -> Option<(BackendState, &'static str)> {
        match (self.since, self.operation, self.admin) {
            (None, ..) => self.meanwhile.map(|state| (state, "has not answered yet")),
            (_, operation, _) if operation != AgentOperation::Up => {
                Some((BackendState::Down, operation.name()))
            }
            (_, _, admin) if admin != AgentAdmin::Ready => Some((BackendState::Draining, admin.name())),
            _ if self.percent == 0 => Some((BackendState::Draining, "0%")),
            _ => None,
        }
    }

    /// Everything that it has reported, in its own words.
    pub fn words(&self) -> String {
        let said = AgentReply {
            admin: Some(self.admin),
            operation: Some(self.operation),
            percent: Some(self.percent),
            note: self.note.clone(),
        };
        said.to_string()
    }

    fn described(&self, words: &str) -> String {
        let note = self.note.as_ref().map_or_else(String::new, |note| format!(" # {note}"));
        format!("agent: {words}{note}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(10);

    fn said(percent: Option<u16>) -> AgentReply {
        AgentReply { percent, ..AgentReply::default() }
    }

    struct Bench {
        agent: AgentState,
        begin: Instant,
    }

    impl Bench {
        fn new(meanwhile: Option<BackendState>) -> Self {
            Self { agent: AgentState::new(meanwhile), begin: Instant::now() }
        }

        /// The backend's state at this second, if its agent sends this.
        fn at(&mut self, second: u64, said: AgentReply) -> Option<(BackendState, String)> {
            let now = self.begin + Duration::from_secs(second);
            self.agent.record(Ok(said), now);
            self.later(second)
        }

        fn later(&mut self, second: u64) -> Option<(BackendState, String)> {
            self.agent.advance(HOLD, self.begin + Duration::from_secs(second));
            self.agent.refusal().map(|refusal| (refusal.state, refusal.reason.clone()))
        }

        fn admin(&mut self, second: u64, admin: AgentAdmin) -> Option<(BackendState, String)> {
            self.at(second, AgentReply { admin: Some(admin), ..AgentReply::default() })
        }

        fn operation(&mut self, second: u64, operation: AgentOperation) -> Option<(BackendState, String)> {
            self.at(second, AgentReply { operation: Some(operation), ..AgentReply::default() })
        }
    }

    #[test]
    fn drain_and_maint_last_until_ready_and_down_until_up() {
        let mut bench = Bench::new(None);
        let draining = |word: &str| Some((BackendState::Draining, format!("agent: {word}")));
        let down = |word: &str| Some((BackendState::Down, format!("agent: {word}")));
        assert_eq!(bench.at(0, said(None)), None);
        assert_eq!(bench.admin(0, AgentAdmin::Drain), draining("drain"));
        assert_eq!(bench.operation(20, AgentOperation::Up), draining("drain"), "only ready ends that");
        assert_eq!(bench.at(20, said(Some(50))), draining("drain"));
        assert_eq!(bench.admin(20, AgentAdmin::Maint), draining("maint"));
        assert_eq!(bench.operation(21, AgentOperation::Fail), down("fail"));
        assert_eq!(bench.admin(40, AgentAdmin::Ready), down("fail"), "only up ends that");
        assert_eq!(bench.operation(40, AgentOperation::Stopped), down("stopped"));
        assert_eq!(bench.operation(40, AgentOperation::Up), None);
        assert_eq!(bench.at(60, said(Some(0))), draining("0%"));
        assert_eq!(bench.at(80, said(Some(50))), None);
        assert_eq!(bench.agent.percent, 50);
    }

    #[test]
    fn an_unreachable_agent_changes_nothing_and_is_reported() {
        let mut bench = Bench::new(None);
        bench
            .at(0, AgentReply { admin: Some(AgentAdmin::Drain), percent: Some(50), ..AgentReply::default() });
        bench.agent.record(Err("connection refused".into()), bench.begin);
        assert!(bench.later(100).is_some());
        assert_eq!((bench.agent.percent, bench.agent.trouble.as_deref()), (50, Some("connection refused")));
        assert_eq!(bench.admin(100, AgentAdmin::Ready), None);
        assert_eq!(bench.agent.trouble, None);
    }

    #[test]
    fn a_flapping_agent_takes_its_backend_out_at_most_once_per_hold() {
        let mut bench = Bench::new(None);
        let mut changes = 0;
        let mut before = None;
        for second in 0..100 {
            let admin = if second % 2 == 0 { AgentAdmin::Drain } else { AgentAdmin::Ready };
            let now = bench.admin(second, admin).map(|refusal| refusal.0);
            changes += usize::from(now != before);
            before = now;
        }
        // Out at 0, back at 11, out at 12, and so on.
        assert_eq!(changes, 17);
        let mut bench = Bench::new(None);
        bench.admin(0, AgentAdmin::Drain);
        let words = "agent: ready again, waiting for feedback.hold (10s) to pass".to_owned();
        assert_eq!(bench.admin(1, AgentAdmin::Ready), Some((BackendState::Draining, words)));
        let back = bench.agent.advance(HOLD, bench.begin + Duration::from_secs(2));
        assert_eq!(back, Some(bench.begin + HOLD));
        assert_eq!(bench.later(10), None);
    }

    #[test]
    fn until_the_first_reply_a_backend_stays_in_its_given_state() {
        for meanwhile in [BackendState::Checking, BackendState::Draining] {
            let mut bench = Bench::new(Some(meanwhile));
            let waits = Some((meanwhile, "agent: has not answered yet".to_owned()));
            assert_eq!(bench.later(0), waits);
            bench.agent.record(Err("connection refused".into()), bench.begin);
            assert_eq!(bench.later(1), None, "at once");
        }
        assert_eq!(Bench::new(None).later(0), None);
    }
}
