//! The two text formats that a scraper may ask for.

use std::fmt;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::families::{PREFIX, Snapshot};

/// A text format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exposition {
    /// Prometheus' own, 0.0.4: what `curl` and older scrapers get.
    Prometheus,
    /// OpenMetrics 1.0: what Prometheus asks for.
    OpenMetrics,
}

impl Exposition {
    /// The format for a client that sent this `Accept` header.
    pub(super) fn accepted_by(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    pub(super) fn encode(self, snapshot: Snapshot) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(snapshot));
        let mut text = String::new();
        match self {
            Self::OpenMetrics => text::encode(&mut text, &registry)?,
            Self::Prometheus => {
                text::encode_registry(&mut text, &registry)?;
                text = with_whole_counter_names(&text);
            }
        }
        Ok(text)
    }
}

/// OpenMetrics names a counter's family without the `_total` of its samples; 0.0.4 with it.
fn with_whole_counter_names(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + 1024);
    let mut lines = openmetrics.lines().peekable();
    while let Some(line) = lines.next() {
        let family = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
        match (family, lines.peek().and_then(|next| next.strip_prefix("# TYPE "))) {
            (Some((name, help)), Some(kind)) if kind.split_once(' ') == Some((name, "counter")) => {
                text.push_str(&format!("# HELP {name}_total {help}\n# TYPE {name}_total counter\n"));
                lines.next();
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}
