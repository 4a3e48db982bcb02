//! What is known of a backend by its agent, and what follows from it. Pure: the time is passed in.

use std::time::{Duration, Instant};

use crate::health::{AgentAdmin, AgentOperation, AgentReply};
use crate::model::state::BackendState;

/// What a backend's agent has said so far. What it has never mentioned is as it is where all is well.
#[derive(Clone, Debug)]
pub struct AgentState {
    /// What it said of taking flows.
    pub admin: AgentAdmin,
    /// What it said of working.
    pub operation: AgentOperation,
    /// How much of the configured weight it wants, in percent.
    pub percent: u16,
    /// How its last line described that.
    pub note: Option<String>,
    /// Why nothing could be heard of it the last time, in words. What it said before holds.
    pub trouble: Option<String>,
    /// When there was news of it; `None`: nothing has been heard yet, not even that it cannot be reached.
    pub since: Option<Instant>,
    /// What the backend does until something is heard; `None`: what it would without an agent.
    meanwhile: Option<BackendState>,
    /// Why the backend gets no new flows, where it gets none.
    refusal: Option<Refusal>,
}

/// Why an agent's backend gets no new flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What the backend does instead.
    pub state: BackendState,
    /// Why, in words.
    pub reason: String,
    /// When its agent took it out; `None` where that has not been heard of yet.
    began: Option<Instant>,
}

impl AgentState {
    /// That of an agent which has not been heard of: until it is, or cannot be, its backend is in the state `meanwhile`,
    /// where there is one.
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

    /// Takes in what it said, or why that is not known, which changes nothing else. Returns whether more follows from it
    /// than another weight.
    pub fn hear(&mut self, result: Result<AgentReply, String>, now: Instant) -> bool {
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

    /// Moves on by the time. A backend that its agent took out comes back after `hold` at the earliest, however often the
    /// agent changes its mind; returns when that is, where time alone brings it back.
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

    /// Whether what it says counts as the operator's drain does.
    pub fn drains(&self) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| refusal.state == BackendState::Draining)
    }

    /// The state that the words mean, and they.
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

    /// Everything that it has said, in its own words.
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

        /// What the backend does at this second, where its agent says this.
        fn at(&mut self, second: u64, said: AgentReply) -> Option<(BackendState, String)> {
            let now = self.begin + Duration::from_secs(second);
            self.agent.hear(Ok(said), now);
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
    fn drain_and_maint_hold_until_ready_and_down_until_up_whatever_else_is_said() {
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
    fn an_agent_that_cannot_be_reached_changes_nothing_and_is_told_of() {
        let mut bench = Bench::new(None);
        bench
            .at(0, AgentReply { admin: Some(AgentAdmin::Drain), percent: Some(50), ..AgentReply::default() });
        bench.agent.hear(Err("connection refused".into()), bench.begin);
        assert!(bench.later(100).is_some());
        assert_eq!((bench.agent.percent, bench.agent.trouble.as_deref()), (50, Some("connection refused")));
        assert_eq!(bench.admin(100, AgentAdmin::Ready), None);
        assert_eq!(bench.agent.trouble, None);
    }

    #[test]
    fn one_that_changes_its_mind_takes_its_backend_out_once_in_a_while() {
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
    fn until_something_is_heard_a_backend_waits_where_it_is_to() {
        for meanwhile in [BackendState::Checking, BackendState::Draining] {
            let mut bench = Bench::new(Some(meanwhile));
            let waits = Some((meanwhile, "agent: has not answered yet".to_owned()));
            assert_eq!(bench.later(0), waits);
            bench.agent.hear(Err("connection refused".into()), bench.begin);
            assert_eq!(bench.later(1), None, "at once");
        }
        assert_eq!(Bench::new(None).later(0), None);
    }
}
