//! A firewall in the way. What the program forwards passes none; the health checks and the control socket do.

use std::process::Command;

use serde_json::Value;

use super::Finding;

/// The base chains that drop what no rule accepts.
///
/// # Errors
/// Where they cannot be listed, in words.
pub(super) fn examine() -> Result<Vec<Finding>, String> {
    let output = Command::new("nft").args(["-j", "list", "chains"]).output();
    let output = output.map_err(|error| format!("cannot run nft: {error}"))?;
    if !output.status.success() {
        return Err(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let chains = serde_json::from_slice(&output.stdout).map_err(|error| format!("nft: {error}"))?;
    Ok(dropping(&chains))
}

fn dropping(ruleset: &Value) -> Vec<Finding> {
    let chains = ruleset["nftables"].as_array().into_iter().flatten().map(|entry| &entry["chain"]);
    let drops = chains.filter(|chain| chain["policy"] == "drop" && chain["hook"] == "output");
    drops
        .map(|chain| {
            let word = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
            let (family, table, name) = (word("family"), word("table"), word("name"));
            Finding::new(
                "firewall",
                format!(
                    "the firewall drops outgoing packets that no rule accepts (chain {name} of {family} {table}), \
                     including health checks"
                ),
                format!("accept the health checks: nft add rule {family} {table} {name} meta skuid root accept"),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_chain_that_drops_what_leaves_is_found() {
        let ruleset = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "filter", "name": "other"}},
            {"chain": {"family": "inet", "table": "filter", "name": "output", "hook": "output", "policy": "drop"}},
        ]});
        let found = dropping(&ruleset);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].fix.ends_with("nft add rule inet filter output meta skuid root accept"));
    }
}
