//! A firewall in the way. What the program forwards passes none; the health checks and the control socket do.

use std::process::Command;

use serde_json::Value;

use super::{Finding, Subject, rules};

/// The base chains that drop what no rule accepts.
///
/// # Errors
/// Where they cannot be listed, in words.
pub(super) fn examine(subject: &Subject<'_>) -> Result<Vec<Finding>, String> {
    // Also the handles, by which rules are deleted.
    let output = Command::new("nft").args(["-j", "-a", "list", "ruleset"]).output();
    let output = output.map_err(|error| format!("cannot run nft: {error}"))?;
    if !output.status.success() {
        return Err(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let ruleset = serde_json::from_slice(&output.stdout).map_err(|error| format!("nft: {error}"))?;
    let backends = subject.effective.services.iter().flat_map(|service| &service.backends);
    let backends: Vec<_> = backends.map(|backend| backend.backend.address).collect();
    let mut findings = dropping(&ruleset);
    findings.extend(rules::dropping(&ruleset, &backends));
    Ok(findings)
}

fn dropping(ruleset: &Value) -> Vec<Finding> {
    let entries = || ruleset["nftables"].as_array().into_iter().flatten();
    let chains = entries().map(|entry| &entry["chain"]);
    let drops = chains.filter(|chain| chain["policy"] == "drop");
    let drops = drops.filter(|chain| match chain["hook"].as_str() {
        Some("output") => !accepts(entries(), chain, "skuid"),
        Some("input") => !accepts(entries(), chain, "established"),
        _ => false,
    });
    drops
        .map(|chain| {
            let word = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
            let (family, table, name) = (word("family"), word("table"), word("name"));
            if chain["hook"] == "input" {
                return Finding::new(
                    "firewall",
                    format!(
                        "the firewall drops incoming packets that no rule accepts (chain {name} of {family} {table}), \
                         including backends' answers to health checks"
                    ),
                    format!("nft insert rule {family} {table} {name} ct state established,related accept"),
                );
            }
            Finding::new(
                "firewall",
                format!(
                    "the firewall drops outgoing packets that no rule accepts (chain {name} of {family} {table}), \
                     including health checks"
                ),
                format!("nft insert rule {family} {table} {name} meta skuid root accept"),
            )
        })
        .collect()
}

/// Whether a rule of this chain accepts packets by a condition with this word.
fn accepts<'a>(mut entries: impl Iterator<Item = &'a Value>, chain: &Value, word: &str) -> bool {
    entries.any(|entry| {
        let rule = &entry["rule"];
        let is_its =
            ["family", "table"].iter().all(|key| rule[key] == chain[key]) && rule["chain"] == chain["name"];
        let text = rule["expr"].to_string();
        is_its && text.contains("\"accept\"") && text.contains(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_drops_what_leaves_or_the_answers_to_it_is_found() {
        let ruleset = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "filter", "name": "other"}},
            {"chain": {"family": "inet", "table": "filter", "name": "output", "hook": "output", "policy": "drop"}},
        ]});
        let fixes: Vec<String> = dropping(&ruleset).into_iter().map(|finding| finding.fix).collect();
        assert_eq!(
            fixes,
            [
                "nft insert rule inet filter input ct state established,related accept",
                "nft insert rule inet filter output meta skuid root accept"
            ]
        );
    }
}
