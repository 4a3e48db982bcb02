//! Discovery in `service show` and `status`.

use super::units::{counted, span};
use crate::report::documents::DiscoveryView;

/// The state of a service's discovery, in a sentence or two.
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
