//! The two text formats that a scraper may ask for.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::families::{Family, PREFIX, Snapshot};
use super::process::{OfProcess, Process};

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

    /// The text, a family at a time, each made when it is asked for: with thousands of backends all of it is many megabytes.
    pub(super) fn encode(
        self,
        snapshot: Snapshot,
    ) -> impl Iterator<Item = Result<String, fmt::Error>> + Send {
        let snapshot = Arc::new(snapshot);
        let (process, start_time) = (Arc::new(Process::read()), snapshot.start_time);
        let families = (0..).map(move |number| {
            self.family(Registry::with_prefix(PREFIX), Family { snapshot: Arc::clone(&snapshot), number })
        });
        let of_process = (0..).map(move |number| {
            let process = Arc::clone(&process);
            self.family(Registry::with_prefix("process"), OfProcess { process, start_time, number })
        });
        // Behind the last one there is nothing.
        let is_there =
            |text: &Result<String, fmt::Error>| text.as_ref().map_or(true, |text| !text.is_empty());
        let families = families.take_while(is_there).chain(of_process.take_while(is_there));
        let end = (self == Self::OpenMetrics).then(|| {
            let mut end = String::new();
            text::encode_eof(&mut end).map(|()| end)
        });
        families.chain(end)
    }

    fn family(self, mut registry: Registry, family: impl Collector) -> Result<String, fmt::Error> {
        registry.register_collector(Box::new(family));
        let mut text = String::new();
        text::encode_registry(&mut text, &registry)?;
        Ok(match self {
            Self::OpenMetrics => text,
            Self::Prometheus => with_whole_counter_name(text),
        })
    }
}

/// OpenMetrics names a counter's family without the `_total` of its samples; 0.0.4 with it.
fn with_whole_counter_name(mut family: String) -> String {
    let mut lines = family.splitn(3, '\n');
    let (help, kind) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let help_of = help.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
    if let (Some((name, words)), Some(kind_of)) = (help_of, kind.strip_prefix("# TYPE "))
        && kind_of.split_once(' ') == Some((name, "counter"))
    {
        let head = format!("# HELP {name}_total {words}\n# TYPE {name}_total counter");
        let end = help.len() + 1 + kind.len();
        family.replace_range(..end, &head);
    }
    family
}
