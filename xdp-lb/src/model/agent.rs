//! Agents on backends, which report the state of a backend.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::place::{Place, Problems};
use super::section::Section;
use super::text::{self, print_duration, quoted};
use super::values::{unicast, within};

/// How agents on a service's backends are queried: over TCP, by the protocol of HAProxy's agent checks. An agent does not
/// replace a health check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// The agent's port at the backend's address. 1 to 65,535.
    pub port: u16,
    /// The time between the starts of two queries. 100 ms to 1 h, default 2 s.
    #[schemars(with = "String")]
    #[serde(default = "default_interval", with = "text::duration_text")]
    pub interval: Duration,
    /// How long a query may take. 10 ms to `interval`; `None`: 1 s, or `interval` if that is shorter.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::duration_option")]
    pub timeout: Option<Duration>,
    /// Text to send first, at most 255 bytes. Default: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub send: String,
    /// The source address of queries. Default: chosen by the routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

const fn default_interval() -> Duration {
    Duration::from_secs(2)
}

impl Agent {
    pub(crate) const KEYS: &[&str] = &["port", "interval", "timeout", "send", "source"];
    const PORT: RangeInclusive<u16> = 1..=u16::MAX;
    const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
    const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
    const LONGEST_SEND: usize = 255;

    /// An agent at this port, with defaults for everything else.
    pub fn at(port: u16) -> Self {
        Self { port, interval: default_interval(), timeout: None, send: String::new(), source: None }
    }

    /// How long a query may take.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(1).min(self.interval))
    }

    pub(crate) fn read(section: &mut Section<'_>) -> Option<Self> {
        if !section.has("port") {
            section
                .problem("port", "is missing; write the port that the agent listens on, such as port = 8081");
        }
        let interval = section.parsed("interval", text::duration).unwrap_or(default_interval());
        let timeout = section.parsed("timeout", text::duration);
        let send = section.parsed("send", |text| Ok(text.to_owned())).unwrap_or_default();
        let source = section.parsed("source", text::address);
        let port = section.integer("port", &Self::PORT)?;
        Some(Self { port, interval, timeout, send, source })
    }

    pub(crate) fn check(&self, place: &Place, problems: &mut Problems) {
        problems.take(&place.key("port"), within(self.port, &Self::PORT, |port| port.to_string()));
        problems.take(&place.key("interval"), within(self.interval, &Self::INTERVAL, print_duration));
        if Self::INTERVAL.contains(&self.interval) {
            let range = Self::SHORTEST_TIMEOUT..=self.interval;
            problems.take(&place.key("timeout"), within(self.timeout(), &range, print_duration));
        }
        if self.send.len() > Self::LONGEST_SEND {
            let (length, longest) = (self.send.len(), Self::LONGEST_SEND);
            problems.add(
                &place.key("send"),
                format!("{} has {length} bytes; write at most {longest}", quoted(&self.send)),
            );
        }
        if let Some(source) = self.source {
            problems.take(&place.key("source"), unicast(source, None));
        }
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}", self.port)?;
        if !self.send.is_empty() {
            write!(f, ", sends {}", quoted(&self.send))?;
        }
        if let Some(source) = self.source {
            write!(f, ", from {source}")?;
        }
        let [interval, timeout] = [self.interval, self.timeout()].map(print_duration);
        write!(f, ", every {interval}, timeout {timeout}")
    }
}
