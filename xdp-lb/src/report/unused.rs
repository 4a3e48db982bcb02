//! Defined or discovered backends that are not used.

use crate::model::EffectiveService;

/// Maximum number of them in the log and in a document.
pub const MOST: usize = 10;

/// A line for each backend that is not used.
pub fn unused(service: &EffectiveService) -> Vec<String> {
    service.refused.iter().map(|it| format!("backend {}: {}", it.address, it.why)).collect()
}

/// Some of these lines, and the number of others.
pub fn some(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(MOST);
    lines.truncate(MOST);
    lines.extend((more > 0).then(|| format!("and {more} more")));
    lines
}
