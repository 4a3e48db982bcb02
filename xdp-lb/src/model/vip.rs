//! What clients connect to: an address, and one port, a range of them, or all.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::section::{Section, Value};
use super::text::{self, ENDPOINT};

/// A range of ports, both ends included. Written `"1024-32767"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// The first port, at least 1.
    pub first: u16,
    /// The last port, not below the first.
    pub last: u16,
}

/// An address with its port or ports: `192.0.2.10:80`, `[2001:db8::10]:5000-5999`, `192.0.2.10:*`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vip {
    /// The address and the first port; 0: every port.
    first: SocketAddr,
    /// The last port, where there is more than one.
    last: Option<u16>,
}

impl Vip {
    /// One port at an address; 0 is not a port that clients can use.
    pub(crate) const fn at(first: SocketAddr) -> Self {
        Self { first, last: None }
    }

    /// The address.
    pub const fn ip(&self) -> IpAddr {
        self.first.ip()
    }

    /// The first port; 0: every port.
    pub const fn port(&self) -> u16 {
        self.first.port()
    }

    /// The last port.
    pub fn last_port(&self) -> u16 {
        self.last.unwrap_or(self.first.port())
    }

    /// The address and the first port.
    pub const fn first(&self) -> SocketAddr {
        self.first
    }

    /// Whether the address is an IPv4 one.
    pub const fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether it has a range of ports, or all.
    pub const fn is_range(&self) -> bool {
        self.last.is_some()
    }

    /// Whether it has every port.
    pub const fn has_all_ports(&self) -> bool {
        self.is_range() && self.first.port() == 0
    }

    /// Whether one of its ports is one of these.
    pub fn meets(&self, first: u16, last: u16) -> bool {
        self.port() <= last && first <= self.last_port()
    }
}

impl JsonSchema for Vip {
    fn schema_name() -> Cow<'static, str> {
        "Vip".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        const PORT: &str = "[0-9]{1,5}";
        json_schema!({
            "type": "string",
            "description": "an address with its port, a range of ports, or all: 192.0.2.10:80",
            "pattern": ENDPOINT.replace(PORT, &format!(r"({PORT}(-{PORT})?|\*)")),
        })
    }
}

impl From<SocketAddr> for Vip {
    fn from(first: SocketAddr) -> Self {
        Self::at(first)
    }
}

impl FromStr for Vip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((host, ports)) = text.rsplit_once(':') else {
            return text::parse_endpoint(text).map(Self::from);
        };
        let with = |port| text::parse_endpoint(&format!("{host}:{port}"));
        if ports == "*" {
            return Ok(Self { first: with(0)?, last: Some(u16::MAX) });
        }
        if !ports.contains('-') {
            return text::parse_endpoint(text).map(Self::from);
        }
        let PortRange { first, last } = ports.parse().map_err(|_| {
            format!(
                "{} is not a range of ports; write the lowest and the highest, \"{host}:5000-5999\"",
                text::quoted(ports)
            )
        })?;
        Ok(Self { first: with(first)?, last: (first != last).then_some(last) })
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        match last {
            None => first.fmt(f),
            Some(_) if self.has_all_ports() => {
                let whole = first.to_string();
                write!(f, "{}*", whole.strip_suffix('0').unwrap_or(&whole))
            }
            Some(last) => write!(f, "{first}-{last}"),
        }
    }
}

impl Serialize for Vip {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Vip {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 1024, last: 32767 }
    }
}

impl PortRange {
    /// Whether this port is one of the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text::range(text)
            .filter(|&(first, last)| first >= 1 && first <= last)
            .map(|(first, last)| Self { first, last })
            .ok_or_else(|| {
                format!(
                    "{} is not a range of ports from 1 to 65535; write \"1024-32767\"",
                    text::quoted(text)
                )
            })
    }
}

impl Value for Vip {
    fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        section.parsed(key, str::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_is_written_as_it_is_read() {
        for (text, first, last) in [
            ("192.0.2.10:80", 80, 80),
            ("192.0.2.10:5000-5999", 5000, 5999),
            ("[2001:db8::10]:5000-5999", 5000, 5999),
            ("192.0.2.10:*", 0, 65535),
            ("[2001:db8::10]:*", 0, 65535),
        ] {
            let vip: Vip = text.parse().expect(text);
            assert_eq!((vip.port(), vip.last_port(), vip.to_string().as_str()), (first, last, text));
        }
        assert_eq!("192.0.2.10:80-80".parse::<Vip>().expect("one port").to_string(), "192.0.2.10:80");
    }

    #[test]
    fn the_schema_takes_what_is_read_and_little_else() {
        let schema = serde_json::to_value(Vip::json_schema(&mut SchemaGenerator::default())).expect("JSON");
        let pattern = regex::Regex::new(schema["pattern"].as_str().expect("a pattern")).expect("a pattern");
        let read = [
            "192.0.2.10:80",
            "0.0.0.0:0",
            "255.249.199.99:1-65535",
            "[2001:db8::10]:*",
            "[::ffff:192.0.2.1]:80",
        ];
        for text in read {
            assert!(text.parse::<Vip>().is_ok() && pattern.is_match(text), "{text}");
        }
        for text in [
            "192.0.2.10",
            "192.0.2.256:80",
            "192.0.2:80",
            "192.0.02.1:80",
            "web:80",
            "192.0.2.10:80-*",
            "x:*",
            ":80",
        ] {
            assert!(text.parse::<Vip>().is_err() && !pattern.is_match(text), "{text}");
        }
        let endpoint = regex::Regex::new(ENDPOINT).expect("a pattern");
        assert!(endpoint.is_match("192.0.2.10:80") && endpoint.is_match("[2001:db8::10]:80"));
        assert!(!endpoint.is_match("192.0.2.10:*") && !endpoint.is_match("192.0.2.10:80-90"));
    }

    #[test]
    fn what_is_no_range_is_refused_with_words() {
        for (text, words) in [
            (
                "192.0.2.10:5999-5000",
                "\"5999-5000\" is not a range of ports; write the lowest and the highest",
            ),
            ("192.0.2.10:0-10", "is not a range of ports"),
            ("192.0.2.10:5000-70000", "is not a range of ports"),
            ("192.0.2.10", "\"192.0.2.10\" has no port; write \"192.0.2.10:80\""),
            ("web:*", "\"web\" is not an IP address"),
            ("192.0.2.10:**", "\"**\" is not a port"),
        ] {
            let message = text.parse::<Vip>().expect_err(text);
            assert!(message.contains(words), "{message}");
        }
    }
}
