//! Adjusting backends' weights by latency and agents, and how adjustments are damped.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::place::{Place, Problems};
use super::section::Section;
use super::text::{self, print_duration};
use super::values::within;

/// What backends' weights follow beside their agents, and how that is damped: each change moves slots of the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Feedback {
    /// Whether they follow how long health checks take, next to the service's other backends. Default: no.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub latency: bool,
    /// The least that a backend keeps of its weight however long its checks take, in percent. 1 to 100; `None`: 25.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<u8>,
    /// Smaller changes of a weight than this, in percent of the configured one, do not change
    /// nothing. 1 to 50, default 10.
    pub min_change: u8,
    /// The least time between two changes of a service's weights, and before a backend is used again that its agent
    /// took out. 1 s to 10 min, default 10 s.
    #[schemars(with = "String")]
    #[serde(with = "text::duration_text")]
    pub hold: Duration,
}

impl Default for Feedback {
    fn default() -> Self {
        Self { latency: false, floor: None, min_change: 10, hold: Duration::from_secs(10) }
    }
}

impl Feedback {
    pub(crate) const KEYS: &[&str] = &["latency", "floor", "min_change", "hold"];
    const FLOOR: RangeInclusive<u8> = 1..=100;
    const CHANGE: RangeInclusive<u8> = 1..=50;
    const HOLD: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

    /// The least that a backend keeps of its weight however long its checks take, in percent.
    pub fn floor(&self) -> u8 {
        self.floor.unwrap_or(25)
    }

    pub(crate) fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        Self {
            latency: section.boolean("latency").unwrap_or(default.latency),
            floor: section.integer("floor", &Self::FLOOR),
            min_change: section.integer("min_change", &Self::CHANGE).unwrap_or(default.min_change),
            hold: section.parsed("hold", text::duration).unwrap_or(default.hold),
        }
    }

    /// `is_checked`: whether the service's backends have health checks; `has_agent`: whether they have agents.
    pub(crate) fn check(&self, is_checked: bool, has_agent: bool, place: &Place, problems: &mut Problems) {
        let number = |value: u8| value.to_string();
        problems.take(&place.key("floor"), within(self.floor(), &Self::FLOOR, number));
        if self.floor.is_some() && !self.latency {
            problems.add(&place.key("floor"), "requires latency = true; write that, or remove it");
        }
        if self.latency && !is_checked {
            let what = "is the latency of health checks, but this service has none; write a health_check, or remove it";
            problems.add(&place.key("latency"), what);
        }
        problems.take(&place.key("min_change"), within(self.min_change, &Self::CHANGE, number));
        problems.take(&place.key("hold"), within(self.hold, &Self::HOLD, print_duration));
        if !has_agent && !self.latency {
            let what = "damps weight adjustments, but nothing adjusts the weights; write latency = true, add agent \
                        = { port = 8081 }, or remove it";
            problems.add(place, what);
        }
    }
}

impl fmt::Display for Feedback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min_change, hold, .. } = *self;
        if self.latency {
            write!(f, "by the latency of checks, down to {} %; ", self.floor())?;
        }
        write!(f, "weights change by {min_change} % or more, once in {}", print_duration(hold))
    }
}
