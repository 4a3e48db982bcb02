//! What a service makes of its backends' health: which take flows when few are up, how fast those that come back, and
//! which are left alone for a while.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::place::{Place, Problems};
use super::reader::Reader;
use super::rules::within;
use super::schema::{Mode, OnDown, Protocol, Service};
use super::text::{self, print_duration};

/// When a backend gets no new flows for a while: where its health check fails, and, with `failure_percent`, where its
/// flows fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitBreaker {
    /// For how long the first time; each time in a row for twice as long as before. 1 s to 1 h, default 30 s.
    #[schemars(with = "String")]
    #[serde(with = "text::duration_text")]
    pub open: Duration,
    /// For how long at most. `open` to 1 day, default 5 min.
    #[schemars(with = "String")]
    #[serde(with = "text::duration_text")]
    pub max_open: Duration,
    /// Over which time flows are counted, and how long the trial lasts before it closes. 2 s to 10 min, default 10 s.
    #[schemars(with = "String")]
    #[serde(with = "text::duration_text")]
    pub window: Duration,
    /// What a backend on trial gets of its share, in percent. 1 to 50, default 10.
    pub half_open_portion: u8,
    /// At so many failures in a hundred new flows it opens. 1 to 100; `None`: flows are not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_percent: Option<u8>,
    /// Where at least so many flows began in the window. 1 to 1,000,000, default 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_flows: Option<u32>,
    /// How many of a service's backends may be ejected for their flows at a time, in percent, but one in any case. 1 to 100,
    /// default 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejected: Option<u8>,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            open: Duration::from_secs(30),
            max_open: Duration::from_secs(5 * 60),
            window: Duration::from_secs(10),
            half_open_portion: 10,
            failure_percent: None,
            min_flows: None,
            max_ejected: None,
        }
    }
}

impl CircuitBreaker {
    const KEYS: &[&str] =
        &["open", "max_open", "window", "half_open_portion", "failure_percent", "min_flows", "max_ejected"];
    const OPEN: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    const WINDOW: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(600);
    const PORTION: RangeInclusive<u8> = 1..=50;
    const SOME_PERCENT: RangeInclusive<u8> = 1..=100;
    const FLOWS: RangeInclusive<u32> = 1..=1_000_000;

    /// How many flows have to begin in a window so that it is looked at.
    pub fn min_flows(&self) -> u32 {
        self.min_flows.unwrap_or(20)
    }

    /// How many of a service's backends may be ejected at a time, in percent.
    pub fn max_ejected(&self) -> u8 {
        self.max_ejected.unwrap_or(50)
    }

    fn read(section: &mut impl Reader) -> Self {
        let default = Self::default();
        let open = section.parsed("open", text::duration).unwrap_or(default.open);
        Self {
            open,
            max_open: section.parsed("max_open", text::duration).unwrap_or(default.max_open.max(open)),
            window: section.parsed("window", text::duration).unwrap_or(default.window),
            half_open_portion: section
                .integer("half_open_portion", &Self::PORTION)
                .unwrap_or(default.half_open_portion),
            failure_percent: section.integer("failure_percent", &Self::SOME_PERCENT),
            min_flows: section.integer("min_flows", &Self::FLOWS),
            max_ejected: section.integer("max_ejected", &Self::SOME_PERCENT),
        }
    }

    fn check(&self, protocol: Option<Protocol>, mode: Option<Mode>, place: &Place, problems: &mut Problems) {
        let number = |value: u8| value.to_string();
        problems.take(&place.key("open"), within(self.open, &Self::OPEN, print_duration));
        if Self::OPEN.contains(&self.open) {
            let range = self.open..=Self::LONGEST;
            problems.take(&place.key("max_open"), within(self.max_open, &range, print_duration));
        }
        problems.take(&place.key("window"), within(self.window, &Self::WINDOW, print_duration));
        problems
            .take(&place.key("half_open_portion"), within(self.half_open_portion, &Self::PORTION, number));
        let flows = within(self.min_flows(), &Self::FLOWS, |flows| flows.to_string());
        problems.take(&place.key("min_flows"), flows);
        problems.take(&place.key("max_ejected"), within(self.max_ejected(), &Self::SOME_PERCENT, number));
        for (key, is_given) in
            [("min_flows", self.min_flows.is_some()), ("max_ejected", self.max_ejected.is_some())]
        {
            if is_given && self.failure_percent.is_none() {
                let what = "means nothing without failure_percent; write failure_percent, or remove it";
                problems.add(&place.key(key), what);
            }
        }
        let Some(percent) = self.failure_percent else { return };
        let place = place.key("failure_percent");
        problems.take(&place, within(percent, &Self::SOME_PERCENT, number));
        if protocol == Some(Protocol::Udp) {
            problems.add(&place, "UDP has no SYNs and resets to tell by; remove it");
        } else if let Some(mode) = mode
            && mode.keeps_destination()
        {
            problems.add(
                &place,
                format!(
                    "in mode \"{mode}\" the backends' replies do not pass this host, so it cannot see them fail; remove it, \
                     or write mode = \"nat\" or \"full-nat\""
                ),
            );
        }
    }
}

impl fmt::Display for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (portion, min_flows, max_ejected) =
            (self.half_open_portion, self.min_flows(), self.max_ejected());
        let [open, max_open, window] = [self.open, self.max_open, self.window].map(print_duration);
        write!(f, "open for {open} to {max_open}, then {portion} % for {window}; on failed checks")?;
        match self.failure_percent {
            Some(percent) => write!(
                f,
                ", and on {percent} % of new flows failing in {window} (of {min_flows} at least), at most \
                 {max_ejected} % of the backends"
            ),
            None => Ok(()),
        }
    }
}

/// When the established flows of a backend that is down end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DownPolicy {
    /// Never.
    Keep,
    /// At once.
    Reset,
    /// Where its replies pass here: once it has left clients without any answer for so long.
    OnceSilent(Duration),
    /// Elsewhere: after so long.
    After(Duration),
}

impl Service {
    /// When the flows of its backends that are down end.
    pub fn down_policy(&self) -> DownPolicy {
        match self.on_down {
            OnDown::Keep => DownPolicy::Keep,
            OnDown::Reset => DownPolicy::Reset,
            OnDown::Auto if self.mode.keeps_destination() => {
                DownPolicy::After(self.down_timeout.unwrap_or(Duration::from_secs(30)))
            }
            OnDown::Auto => DownPolicy::OnceSilent(self.down_grace.unwrap_or(Duration::from_secs(2))),
        }
    }
}

const PERCENT: RangeInclusive<u8> = 0..=100;
const DOWN_GRACE: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(3600);
const DOWN_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const SLOW_START: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// These keys of a service, where some of them may have been unreadable.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecoveryDraft {
    pub panic_threshold: u8,
    pub slow_start: Option<Duration>,
    pub circuit_breaker: Option<CircuitBreaker>,
    pub on_down: OnDown,
    pub down_grace: Option<Duration>,
    pub down_timeout: Option<Duration>,
}

impl RecoveryDraft {
    pub(crate) fn of(service: &Service) -> Self {
        let Service {
            panic_threshold, slow_start, circuit_breaker, on_down, down_grace, down_timeout, ..
        } = *service;
        Self { panic_threshold, slow_start, circuit_breaker, on_down, down_grace, down_timeout }
    }

    pub(crate) fn read(service: &mut impl Reader) -> Self {
        Self {
            panic_threshold: service.integer("panic_threshold", &PERCENT).unwrap_or_default(),
            slow_start: service.parsed("slow_start", text::duration),
            circuit_breaker: service
                .section("circuit_breaker", CircuitBreaker::KEYS, |it| CircuitBreaker::read(it)),
            on_down: service.parsed("on_down", str::parse).unwrap_or_default(),
            down_grace: service.parsed("down_grace", text::duration),
            down_timeout: service.parsed("down_timeout", text::duration),
        }
    }

    pub(crate) fn check(
        &self,
        protocol: Option<Protocol>,
        mode: Option<Mode>,
        place: &Place,
        problems: &mut Problems,
    ) {
        let percent = within(self.panic_threshold, &PERCENT, |percent| percent.to_string());
        problems.take(&place.key("panic_threshold"), percent);
        if let Some(breaker) = self.circuit_breaker {
            breaker.check(protocol, mode, &place.key("circuit_breaker"), problems);
        }
        if let Some(time) = self.slow_start {
            problems.take(&place.key("slow_start"), within(time, &SLOW_START, print_duration));
        }
        let passes = mode.map(|mode| !mode.keeps_destination());
        for (key, time, range, is_of) in [
            ("down_grace", self.down_grace, DOWN_GRACE, "\"nat\" or \"full-nat\""),
            ("down_timeout", self.down_timeout, DOWN_TIMEOUT, "\"dsr\", \"ipip\" or \"gue\""),
        ] {
            let Some(time) = time else { continue };
            let place = place.key(key);
            problems.take(&place, within(time, &range, print_duration));
            if self.on_down != OnDown::Auto {
                problems.add(&place, "is of on_down = \"auto\"; remove it, or write that");
            } else if passes == Some(key == "down_timeout") {
                problems.add(&place, format!("is of mode {is_of}; remove it"));
            }
        }
    }
}
