//! A health check as it is written: flat, one key a value, every key but `type` optional.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::schema::{DEFAULT_JITTER, HealthCheck, Probe};
use super::text;

/// The keys of a health check, as text; the form that TOML and JSON share.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenCheck {
    pub r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast_interval: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What is wrong with a written check: the key, and the words.
#[derive(Debug)]
pub(super) struct CheckErrors(pub Vec<(&'static str, String)>);

impl fmt::Display for CheckErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (key, what)) in self.0.iter().enumerate() {
            let newline = if place > 0 { "\n" } else { "" };
            write!(f, "{newline}health_check.{key}: {what}")?;
        }
        Ok(())
    }
}

const TYPES: [&str; 4] = ["tcp", "http", "dns", "none"];

impl TryFrom<WrittenCheck> for HealthCheck {
    type Error = CheckErrors;

    fn try_from(written: WrittenCheck) -> Result<Self, CheckErrors> {
        let mut errors = Vec::new();
        let foreign = [
            ("path", "http", written.path.is_some()),
            ("host", "http", written.host.is_some()),
            ("status", "http", written.status.is_some()),
            ("name", "dns", written.name.is_some()),
            ("record", "dns", written.record.is_some()),
        ];
        let kind = written.r#type.as_str();
        if TYPES.contains(&kind) {
            for (key, owner, _) in foreign.into_iter().filter(|(_, owner, given)| *given && *owner != kind) {
                errors.push((
                    key,
                    format!(
                        "belongs to a check of type \"{owner}\", and this one is of type \"{kind}\"; \
                         remove it or change the type"
                    ),
                ));
            }
        }

        if kind == "none" && written.port.is_some() {
            errors.push((
                "port",
                "is of no use to a check of type \"none\"; remove it or change the type".into(),
            ));
        }
        let mut duration = |key, written: Option<String>, default: Duration| match written {
            Some(written) => text::duration(&written).unwrap_or_else(|what| {
                errors.push((key, what));
                default
            }),
            None => default,
        };
        let default = Self::new(Probe::None);
        let interval = duration("interval", written.interval, default.interval);
        let timeout = duration("timeout", written.timeout, default.timeout.min(interval));
        let fast_interval =
            written.fast_interval.map(|written| duration("fast_interval", Some(written), interval));
        let source = written
            .source
            .and_then(|written| text::address(&written).map_err(|what| errors.push(("source", what))).ok());

        let probe = match kind {
            "none" => Probe::None,
            "tcp" => Probe::Tcp,
            "http" => Probe::Http {
                path: written.path.unwrap_or_else(|| "/".into()),
                host: written.host,
                status: match written.status {
                    Some(written) => status(&written).unwrap_or_else(|what| {
                        errors.push(("status", what));
                        DEFAULT_STATUS
                    }),
                    None => DEFAULT_STATUS,
                },
            },
            "dns" => {
                let name = written.name.unwrap_or_else(|| ".".into());
                let default_record = if name == "." { "NS" } else { "A" };
                let record = written.record.unwrap_or_else(|| default_record.into()).to_ascii_uppercase();
                Probe::Dns { name, record }
            }
            _ => {
                errors.push(("type", text::unknown_word(kind, &TYPES)));
                Probe::None
            }
        };
        let rise = written.rise.unwrap_or(default.rise);
        let fall = written.fall.unwrap_or(default.fall);
        if errors.is_empty() {
            let (jitter, port) = (written.jitter.unwrap_or(default.jitter), written.port);
            Ok(Self { probe, interval, fast_interval, jitter, timeout, rise, fall, source, port })
        } else {
            Err(CheckErrors(errors))
        }
    }
}

const DEFAULT_STATUS: (u16, u16) = (200, 399);

/// Reads `200` or `200-399`.
fn status(text: &str) -> Result<(u16, u16), String> {
    text::range(text).or_else(|| text.parse().ok().map(|one| (one, one))).ok_or_else(|| {
        format!("{} is not a status or a range of them; write \"200\" or \"200-399\"", text::quoted(text))
    })
}

impl From<HealthCheck> for WrittenCheck {
    fn from(check: HealthCheck) -> Self {
        let written = Self {
            interval: Some(text::print_duration(check.interval)),
            fast_interval: check.fast_interval.map(text::print_duration),
            jitter: (check.jitter != DEFAULT_JITTER).then_some(check.jitter),
            timeout: Some(text::print_duration(check.timeout)),
            rise: Some(check.rise),
            fall: Some(check.fall),
            source: check.source.map(|source| source.to_string()),
            port: check.port,
            ..Self::default()
        };
        match check.probe {
            Probe::None => Self { r#type: "none".into(), ..written },
            Probe::Tcp => Self { r#type: "tcp".into(), ..written },
            Probe::Http { path, host, status: (low, high) } => Self {
                r#type: "http".into(),
                path: Some(path),
                host,
                status: Some(format!("{low}-{high}")),
                ..written
            },
            Probe::Dns { name, record } => {
                Self { r#type: "dns".into(), name: Some(name), record: Some(record), ..written }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<HealthCheck, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn json_is_flat_with_durations_as_text() {
        let json = r#"{"type":"http","path":"/healthz","host":"example.com","status":"200-299","interval":"1m 30s","timeout":"500ms","rise":2,"fall":3}"#;
        let check = read(json).expect("valid");
        assert_eq!(check.interval, Duration::from_secs(90));
        assert_eq!(serde_json::to_string(&check).expect("printed"), json);
    }

    #[test]
    fn json_with_a_key_that_is_unknown_or_of_another_type_is_refused() {
        let message = read(r#"{"type":"tcp","pth":"/"}"#).expect_err("refused");
        assert!(message.contains("unknown field `pth`"), "{message}");
        assert_eq!(
            read(r#"{"type":"tcp","path":"/","interval":"x"}"#).expect_err("refused"),
            "health_check.path: belongs to a check of type \"http\", and this one is of type \"tcp\"; remove it or \
             change the type\nhealth_check.interval: \"x\" is not a duration (expected number at 0); write \
             \"500ms\" or \"1m 30s\""
        );
        assert!(read("{}").expect_err("refused").contains("missing field `type`"));
    }
}
