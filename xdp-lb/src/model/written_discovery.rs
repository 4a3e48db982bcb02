//! Discovery as it is written: flat, one key a value, every key but `type` and what it looks at optional.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::discovery::{Discovery, Dns, MAX_BACKENDS, Source, resolver};
use super::section::{Section, Value};
use super::text;

/// The keys of a discovery, as text and numbers; the form that TOML and JSON share.
#[derive(Clone, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenDiscovery {
    pub r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolvers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ttl: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_empty: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priorities: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_backends: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<String>,
}

/// What is wrong with a written discovery: the key, and the words.
#[derive(Debug, Default)]
pub(crate) struct DiscoveryErrors(pub Vec<(&'static str, String)>);

impl fmt::Display for DiscoveryErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> =
            self.0.iter().map(|(key, what)| format!("discovery.{key}: {what}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl DiscoveryErrors {
    /// What `read` makes of the text, or the default where there is none or it is wrong.
    fn read<T>(
        &mut self,
        key: &'static str,
        written: Option<String>,
        default: T,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        match written.map(|written| read(&written)) {
            Some(Ok(value)) => value,
            Some(Err(what)) => {
                self.0.push((key, what));
                default
            }
            None => default,
        }
    }

    fn required(&mut self, key: &'static str, written: Option<String>, example: &str) -> String {
        written.unwrap_or_else(|| {
            self.0.push((key, format!("is missing; write {example}")));
            String::new()
        })
    }
}

/// Written flat, in TOML as in JSON.
impl Serialize for Discovery {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        WrittenDiscovery::from(self.clone()).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Discovery {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        WrittenDiscovery::deserialize(from)?.try_into().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Discovery {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Discovery".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        WrittenDiscovery::json_schema(generator)
    }
}

/// Every key.
pub(crate) const KEYS: &[&str] = &[
    "type",
    "name",
    "record",
    "port",
    "weight",
    "resolvers",
    "timeout",
    "min_ttl",
    "max_ttl",
    "hold",
    "on_empty",
    "priorities",
    "path",
    "max_backends",
    "drain_timeout",
];

impl Discovery {
    /// Reads the table of a document.
    pub(crate) fn read(table: &mut Section<'_>) -> Option<Self> {
        let errors = match Self::try_from(WrittenDiscovery::read(table)?) {
            Ok(discovery) => return Some(discovery),
            Err(errors) => errors,
        };
        errors.0.into_iter().for_each(|(key, what)| table.problem(key, what));
        None
    }
}

const TYPES: [&str; 2] = ["dns", "file"];

impl TryFrom<WrittenDiscovery> for Discovery {
    type Error = DiscoveryErrors;

    fn try_from(written: WrittenDiscovery) -> Result<Self, DiscoveryErrors> {
        let mut errors = DiscoveryErrors::default();
        let kind = written.r#type.as_str();
        if TYPES.contains(&kind) {
            for (key, owner) in written.foreign(kind) {
                let words = format!(
                    "belongs to {owner}, but this discovery has type \"{kind}\"{}; remove it",
                    written.record.as_ref().map(|it| format!(", record \"{it}\"")).unwrap_or_default()
                );
                errors.0.push((key, words));
            }
        }
        let source = match kind {
            "dns" => Source::Dns(written.clone().dns(&mut errors)),
            "file" => {
                let path = errors.required("path", written.path, "path = \"/etc/xdp-lb/web.json\"");
                Source::File(path.into())
            }
            _ => {
                errors.0.push(("type", text::unknown_word(kind, &TYPES)));
                Source::File("/".into())
            }
        };
        let default = Self::new(source);
        let drain_timeout =
            errors.read("drain_timeout", written.drain_timeout, default.drain_timeout, text::duration);
        let max_backends = written.max_backends.unwrap_or(default.max_backends);
        if errors.0.is_empty() { Ok(Self { max_backends, drain_timeout, ..default }) } else { Err(errors) }
    }
}

impl WrittenDiscovery {
    fn read(table: &mut Section<'_>) -> Option<Self> {
        let mut text = |key| String::read(table, key);
        let (name, record, path) = (text("name"), text("record"), text("path"));
        let (timeout, min_ttl, max_ttl, hold) =
            (text("timeout"), text("min_ttl"), text("max_ttl"), text("hold"));
        let (on_empty, priorities, drain_timeout) =
            (text("on_empty"), text("priorities"), text("drain_timeout"));
        let resolvers = Vec::read(table, "resolvers");
        let port = table.integer("port", &(1..=u16::MAX));
        let weight = u16::read(table, "weight");
        let max_backends = table.integer("max_backends", &MAX_BACKENDS);
        let r#type = table.required("type", "type = \"dns\"", |text| Ok(text.to_owned()))?;
        Some(Self {
            r#type,
            name,
            record,
            port,
            weight,
            resolvers,
            timeout,
            min_ttl,
            max_ttl,
            hold,
            on_empty,
            priorities,
            path,
            max_backends,
            drain_timeout,
        })
    }

    /// The keys that are there and belong to another type, or another record, and to which.
    fn foreign(&self, kind: &str) -> Vec<(&'static str, &'static str)> {
        let is_srv = self.record.as_deref().is_some_and(|record| record.eq_ignore_ascii_case("srv"));
        let dns = [
            ("name", self.name.is_some()),
            ("record", self.record.is_some()),
            ("resolvers", self.resolvers.is_some()),
            ("timeout", self.timeout.is_some()),
            ("min_ttl", self.min_ttl.is_some()),
            ("max_ttl", self.max_ttl.is_some()),
            ("hold", self.hold.is_some()),
            ("on_empty", self.on_empty.is_some()),
            ("priorities", self.priorities.is_some()),
        ];
        let address = [("port", self.port.is_some()), ("weight", self.weight.is_some())];
        let mut foreign = Vec::new();
        if kind == "file" {
            foreign.extend(dns.into_iter().filter(|(_, given)| *given).map(|(key, _)| (key, "type \"dns\"")));
        } else if self.path.is_some() {
            foreign.push(("path", "type \"file\""));
        }
        if kind == "file" || is_srv {
            let given = address.into_iter().filter(|(_, given)| *given);
            foreign.extend(given.map(|(key, _)| (key, "records \"A\" and \"AAAA\" of type \"dns\"")));
        } else if self.priorities.is_some() {
            foreign.push(("priorities", "record \"SRV\""));
        }
        foreign
    }

    fn dns(self, errors: &mut DiscoveryErrors) -> Dns {
        let name = errors.required("name", self.name, "name = \"web.example.com\"");
        let default = Dns::new(name);
        Dns {
            record: errors.read("record", self.record, None, |text| text.parse().map(Some)),
            port: self.port,
            weight: self.weight.unwrap_or(default.weight),
            resolvers: self
                .resolvers
                .unwrap_or_default()
                .iter()
                .filter_map(|text| resolver(text).map_err(|what| errors.0.push(("resolvers", what))).ok())
                .collect(),
            timeout: errors.read("timeout", self.timeout, default.timeout, text::duration),
            min_ttl: errors.read("min_ttl", self.min_ttl, default.min_ttl, text::duration),
            max_ttl: errors.read("max_ttl", self.max_ttl, default.max_ttl, text::duration),
            hold: errors.read("hold", self.hold, default.hold, text::duration),
            on_empty: errors.read("on_empty", self.on_empty, default.on_empty, str::parse),
            priorities: errors.read("priorities", self.priorities, default.priorities, str::parse),
            ..default
        }
    }
}

impl From<Discovery> for WrittenDiscovery {
    fn from(discovery: Discovery) -> Self {
        let written = Self {
            max_backends: Some(discovery.max_backends),
            drain_timeout: Some(text::print_duration(discovery.drain_timeout)),
            ..Self::default()
        };
        match discovery.source {
            Source::File(path) => {
                Self { r#type: "file".into(), path: Some(path.to_string_lossy().into()), ..written }
            }
            Source::Dns(dns) => {
                let is_srv = dns.record == Some(crate::model::discovery::Record::Srv);
                let resolvers: Vec<String> = dns.resolvers.iter().map(ToString::to_string).collect();
                Self {
                    r#type: "dns".into(),
                    name: Some(dns.name),
                    record: dns.record.map(|record| record.to_string()),
                    port: dns.port,
                    weight: (!is_srv).then_some(dns.weight),
                    resolvers: (!resolvers.is_empty()).then_some(resolvers),
                    timeout: Some(text::print_duration(dns.timeout)),
                    min_ttl: Some(text::print_duration(dns.min_ttl)),
                    max_ttl: Some(text::print_duration(dns.max_ttl)),
                    hold: Some(text::print_duration(dns.hold)),
                    on_empty: Some(dns.on_empty.to_string()),
                    priorities: is_srv.then(|| dns.priorities.to_string()),
                    ..written
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::discovery::{OnEmpty, Record};

    fn read(json: &str) -> Result<Discovery, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn all_but_what_is_looked_at_has_a_default() {
        let dns = Dns::new("web.example.com".into());
        assert_eq!(
            read(r#"{"type":"dns","name":"web.example.com"}"#),
            Ok(Discovery::new(Source::Dns(dns.clone())))
        );
        assert_eq!(
            read(r#"{"type":"file","path":"/x.json"}"#),
            Ok(Discovery::new(Source::File("/x.json".into())))
        );
        let full = Discovery {
            max_backends: 7,
            drain_timeout: Duration::from_secs(90),
            source: Source::Dns(Dns {
                record: Some(Record::Aaaa),
                port: Some(8080),
                weight: 3,
                resolvers: vec!["192.0.2.53:53".parse().unwrap(), "[2001:db8::53]:5353".parse().unwrap()],
                timeout: Duration::from_millis(300),
                min_ttl: Duration::from_secs(1),
                max_ttl: Duration::from_secs(60),
                hold: Duration::from_secs(9),
                on_empty: OnEmpty::Drain,
                ..dns
            }),
        };
        let json = r#"{"type":"dns","name":"web.example.com","record":"aaaa","port":8080,"weight":3,
            "resolvers":["192.0.2.53","[2001:db8::53]:5353"],"timeout":"300ms","min_ttl":"1s","max_ttl":"1m","hold":"9s",
            "on_empty":"drain","max_backends":7,"drain_timeout":"90s"}"#;
        assert_eq!(read(json), Ok(full.clone()));
        let printed = serde_json::to_string(&full).expect("printed");
        assert_eq!(read(&printed), Ok(full), "{printed}");
    }

    #[test]
    fn what_belongs_elsewhere_is_missing_or_unknown_is_told_all_at_once() {
        assert_eq!(
            read(r#"{"type":"dns","record":"srv","port":80,"path":"/x","max_ttl":"soon"}"#)
                .expect_err("refused"),
            "discovery.path: belongs to type \"file\", but this discovery has type \"dns\", record \"srv\"; remove \
             it\n\
             discovery.port: belongs to records \"A\" and \"AAAA\" of type \"dns\", but this discovery has type \"dns\", \
             record \"srv\"; remove it\n\
             discovery.name: is missing; write name = \"web.example.com\"\n\
             discovery.max_ttl: \"soon\" is not a duration (expected number at 0); write \"500ms\" or \"1m 30s\""
        );
        let message = read(r#"{"type":"file","name":"x","weight":1}"#).expect_err("refused");
        for words in
            ["discovery.name: belongs to type \"dns\"", "discovery.weight: belongs", "path: is missing"]
        {
            assert!(message.contains(words), "{words}: {message}");
        }
        let message = read(r#"{"type":"consul"}"#).expect_err("refused");
        assert!(message.contains("write \"dns\" or \"file\""), "{message}");
        let message =
            read(r#"{"type":"dns","name":"x","record":"MX","resolvers":["ns1"]}"#).expect_err("refused");
        assert!(
            message.contains("\"MX\" does not provide backends") && message.contains("resolvers: \"ns1\""),
            "{message}"
        );
    }
}
