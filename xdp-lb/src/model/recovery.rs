//! What a service makes of its backends' health: which take flows when few are up, how fast those that come back, and
//! which are left alone for a while.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::choices::{Mode, Protocol};
use super::place::{Place, Problems};
use super::section::Section;
use super::text::{self, print_duration};
use super::values::within;

/// When a backend gets no new flows for a while: when its health check fails, and, with `failure_percent`, when its
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
    pub(crate) const KEYS: &[&str] =
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

    pub(crate) fn read(section: &mut Section<'_>) -> Self {
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

    pub(crate) fn check(
        &self,
        protocol: Option<Protocol>,
        mode: Option<Mode>,
        place: &Place,
        problems: &mut Problems,
    ) {
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
                let what = "requires failure_percent; write failure_percent, or remove it";
                problems.add(&place.key(key), what);
            }
        }
        let Some(percent) = self.failure_percent else { return };
        let place = place.key("failure_percent");
        problems.take(&place, within(percent, &Self::SOME_PERCENT, number));
        if protocol == Some(Protocol::Udp) {
            problems.add(&place, "UDP has no SYNs or resets to count; remove it");
        } else if let Some(mode) = mode
            && mode.keeps_destination()
        {
            problems.add(
                &place,
                format!(
                    "in mode \"{mode}\" backends' replies do not pass this host, so it cannot see failures; remove \
                     it, or write mode = \"nat\" or \"full-nat\""
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
    /// In other modes: after this time.
    After(Duration),
}

pub(crate) const DOWN_GRACE: RangeInclusive<Duration> =
    Duration::from_millis(500)..=Duration::from_secs(3600);
pub(crate) const DOWN_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
pub(crate) const SLOW_START: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
