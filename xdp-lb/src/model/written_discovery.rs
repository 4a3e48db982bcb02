//! The keys of discovery, as written in TOML and JSON.

use super::discovery::{Discovery, Dns, MAX_BACKENDS, Source, resolver};
use super::table::{TableErrors, table};
use super::text;

table! {
    /// The keys of a discovery, as text and numbers; the form that TOML and JSON share.
    WrittenDiscovery of Discovery at "discovery",
    type: "dns" => "dns or file";
    name: String, of "dns" => "Find backends under this DNS name";
    path: String, of "file" => "Find backends in this JSON file, and reread it whenever it is replaced";
    record: String, of "dns" => "the record type: A, AAAA or SRV [default: the addresses of the VIP's family]";
    port: u16, of "dns" => "the port of backends found by address [default: the VIP's]";
    weight: u16, of "dns" => "the weight of backends found by address [default: 100]";
    resolvers: Vec<String>, of "dns" => "a resolver to query, ADDR[:PORT] [default: those in /etc/resolv.conf]";
    timeout: String, of "dns" => "how long one resolver may take [default: 2s]";
    min_ttl: String, of "dns" => "the least time between two lookups [default: 5s]";
    max_ttl: String, of "dns" => "the longest time between two lookups [default: 5m]";
    hold: String, of "dns" => "how long to keep an address that is missing from answers [default: 30s]";
    on_empty: String, of "dns" => "what to do with known backends when an answer has none: keep or drain [default: keep]";
    priorities: String, of "dns" => "how to treat SRV records that do not have the lowest priority: lowest (ignore them) or backup (use their hosts as backups) [default: lowest]";
    max_backends: u32 as MAX_BACKENDS => "Maximum number of discovered backends [default: 256]";
    drain_timeout: String => "How long a backend that is no longer found keeps its flows [default: 1h]";
}

const TYPES: [&str; 2] = ["dns", "file"];

impl TryFrom<WrittenDiscovery> for Discovery {
    type Error = TableErrors;

    fn try_from(written: WrittenDiscovery) -> Result<Self, TableErrors> {
        let mut errors = Self::no_errors();
        let kind = written.r#type.as_str();
        if TYPES.contains(&kind) {
            for (key, owner) in written.foreign(kind) {
                let words = format!(
                    "belongs to {owner}, but this discovery has type \"{kind}\"{}; remove it",
                    written.record.as_ref().map(|it| format!(", record \"{it}\"")).unwrap_or_default()
                );
                errors.all.push((key, words));
            }
        }
        let source = match kind {
            "dns" => Source::Dns(written.clone().dns(&mut errors)),
            "file" => {
                let path = errors.required("path", written.path, "path = \"/etc/xdp-lb/web.json\"");
                Source::File(path.into())
            }
            _ => {
                errors.all.push(("type", text::unknown_word(kind, &TYPES)));
                Source::File("/".into())
            }
        };
        let default = Self::new(source);
        let drain_timeout = errors
            .read("drain_timeout", written.drain_timeout, text::duration)
            .unwrap_or(default.drain_timeout);
        let max_backends = written.max_backends.unwrap_or(default.max_backends);
        if errors.all.is_empty() { Ok(Self { max_backends, drain_timeout, ..default }) } else { Err(errors) }
    }
}

impl WrittenDiscovery {
    /// The keys that are there and belong to another type, or another record, and to which.
    fn foreign(&self, kind: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
        let is_srv = self.record.as_deref().is_some_and(|record| record.eq_ignore_ascii_case("srv"));
        self.owned().filter_map(move |key| {
            let owner = match (key.name, kind) {
                ("port" | "weight", kind) if kind == "file" || is_srv => {
                    "records \"A\" and \"AAAA\" of type \"dns\""
                }
                ("priorities", "dns") if !is_srv => "record \"SRV\"",
                (_, "file") if key.owners == ["dns"] => "type \"dns\"",
                (_, "dns") if key.owners == ["file"] => "type \"file\"",
                _ => return None,
            };
            Some((key.name, owner))
        })
    }

    fn dns(self, errors: &mut TableErrors) -> Dns {
        let name = errors.required("name", self.name, "name = \"web.example.com\"");
        let default = Dns::new(name);
        Dns {
            record: errors.read("record", self.record, str::parse),
            port: self.port,
            weight: self.weight.unwrap_or(default.weight),
            resolvers: self
                .resolvers
                .unwrap_or_default()
                .iter()
                .filter_map(|text| resolver(text).map_err(|what| errors.all.push(("resolvers", what))).ok())
                .collect(),
            timeout: errors.read("timeout", self.timeout, text::duration).unwrap_or(default.timeout),
            min_ttl: errors.read("min_ttl", self.min_ttl, text::duration).unwrap_or(default.min_ttl),
            max_ttl: errors.read("max_ttl", self.max_ttl, text::duration).unwrap_or(default.max_ttl),
            hold: errors.read("hold", self.hold, text::duration).unwrap_or(default.hold),
            on_empty: errors.read("on_empty", self.on_empty, str::parse).unwrap_or(default.on_empty),
            priorities: errors.read("priorities", self.priorities, str::parse).unwrap_or(default.priorities),
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
