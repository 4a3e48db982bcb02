//! Discovery on the command line: what `service add` takes, and what `service show` and `status` say.

use clap::Args;
use serde_json::{Map, Value};

use super::flags::wrong;
use super::units::{counted, span};
use crate::model::Discovery;
use crate::report::documents::DiscoveryView;

/// The keys of a discovery: the config file has the same.
#[derive(Debug, Args)]
#[command(next_help_heading = "Discovery")]
pub(super) struct Flags {
    /// Find backends under this DNS name
    #[arg(long, value_name = "NAME", conflicts_with = "discover_file")]
    discover_dns: Option<String>,
    /// Find backends in this JSON file, and reread it whenever it is replaced
    #[arg(long, value_name = "PATH")]
    discover_file: Option<String>,
    /// dns: the record type: A, AAAA or SRV [default: the addresses of the VIP's family]
    #[arg(long, value_name = "TYPE", requires = "discover_dns")]
    discover_record: Option<String>,
    /// dns: the port of backends found by address [default: the VIP's]
    #[arg(long, value_name = "PORT", requires = "discover_dns")]
    discover_port: Option<u16>,
    /// dns: the weight of backends found by address [default: 100]
    #[arg(long, value_name = "N", requires = "discover_dns")]
    discover_weight: Option<u16>,
    /// dns: a resolver to query; may be given several times [default: those in /etc/resolv.conf]
    #[arg(long = "discover-resolver", value_name = "ADDR[:PORT]", requires = "discover_dns")]
    discover_resolvers: Vec<String>,
    /// dns: how long one resolver may take [default: 2s]
    #[arg(long, value_name = "TIME", requires = "discover_dns")]
    discover_timeout: Option<String>,
    /// dns: the least time between two lookups [default: 5s]
    #[arg(long, value_name = "TIME", requires = "discover_dns")]
    discover_min_ttl: Option<String>,
    /// dns: the longest time between two lookups [default: 5m]
    #[arg(long, value_name = "TIME", requires = "discover_dns")]
    discover_max_ttl: Option<String>,
    /// dns: how long to keep an address that is missing from answers [default: 30s]
    #[arg(long, value_name = "TIME", requires = "discover_dns")]
    discover_hold: Option<String>,
    /// dns: what to do with known backends when an answer has none: keep or drain [default: keep]
    #[arg(long, value_name = "WHAT", requires = "discover_dns")]
    discover_on_empty: Option<String>,
    /// dns: how to treat SRV records that do not have the lowest priority: lowest (ignore them) or backup (use their
    /// hosts as backups) [default: lowest]
    #[arg(long, value_name = "WHICH", requires = "discover_dns")]
    discover_priorities: Option<String>,
    /// Maximum number of discovered backends [default: 256]
    #[arg(long, value_name = "N")]
    discover_max_backends: Option<u32>,
    /// How long a backend that is no longer found keeps its flows [default: 1h]
    #[arg(long, value_name = "TIME")]
    discover_drain_timeout: Option<String>,
}

impl Flags {
    /// Read as the config file's are, with the same defaults and the same errors.
    pub(super) fn discovery(self) -> Result<Option<Discovery>, clap::Error> {
        let kind = match (&self.discover_dns, &self.discover_file) {
            (Some(_), _) => "dns",
            (None, Some(_)) => "file",
            (None, None) if self.discover_max_backends.is_some() || self.discover_drain_timeout.is_some() => {
                return Err(wrong(
                    &["service", "add"],
                    "--discover-max-backends and --discover-drain-timeout need --discover-dns or --discover-file",
                ));
            }
            (None, None) => return Ok(None),
        };
        let mut written = Map::from_iter([("type".to_owned(), Value::from(kind))]);
        let texts = [
            ("name", self.discover_dns),
            ("path", self.discover_file),
            ("record", self.discover_record),
            ("timeout", self.discover_timeout),
            ("min_ttl", self.discover_min_ttl),
            ("max_ttl", self.discover_max_ttl),
            ("hold", self.discover_hold),
            ("on_empty", self.discover_on_empty),
            ("priorities", self.discover_priorities),
            ("drain_timeout", self.discover_drain_timeout),
        ];
        let numbers = [
            ("port", self.discover_port.map(u32::from)),
            ("weight", self.discover_weight.map(u32::from)),
            ("max_backends", self.discover_max_backends),
        ];
        written.extend(texts.into_iter().filter_map(|(key, value)| Some((key.into(), value?.into()))));
        written.extend(numbers.into_iter().filter_map(|(key, value)| Some((key.into(), value?.into()))));
        if !self.discover_resolvers.is_empty() {
            written.insert("resolvers".into(), self.discover_resolvers.into());
        }
        serde_json::from_value(written.into()).map(Some).map_err(|why| wrong(&["service", "add"], why))
    }
}

/// How a service's discovery stands, in one sentence or two.
pub(super) fn words(discovery: &DiscoveryView) -> String {
    let mut found = counted(discovery.found.into(), "backend");
    for (count, what) in [
        (discovery.held, "held although missing from the last answer"),
        (discovery.leaving, "draining"),
        (discovery.waiting, "waiting for room"),
    ] {
        if count > 0 {
            found += &format!(", {count} {what}");
        }
    }
    let mut words = format!("{}: {found}", discovery.source);
    match (discovery.last_answer_seconds, discovery.next_lookup_seconds) {
        (Some(last), Some(next)) => {
            words += &format!("; last lookup {} ago, next in {}", span(last), span(next));
        }
        (Some(last), None) => words += &format!("; last lookup {} ago", span(last)),
        (None, _) => words += "; no answer yet since the daemon started",
    }
    words
}

/// A line for each thing that is wrong with a service's discovery.
pub(super) fn troubles(service: &str, discovery: &DiscoveryView) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(trouble), Some(since)) = (&discovery.trouble, discovery.failing_since_seconds) {
        lines.push(format!("{service}: discovery has been failing for {}: {trouble}", span(since)));
    }
    lines.extend(discovery.warning.iter().map(|warning| format!("{service}: discovery: {warning}")));
    lines.extend(discovery.refused.iter().map(|refused| format!("{service}: discovery: {refused}")));
    lines
}
