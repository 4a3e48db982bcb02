//! Rules of the firewall that drop what the daemon sends to backends, as `nft -j list ruleset` has them.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::Finding;

/// The rules in chains at `output` that drop packets to one of these backends.
pub(super) fn dropping(ruleset: &Value, backends: &[SocketAddr]) -> Vec<Finding> {
    let entries = || ruleset["nftables"].as_array().into_iter().flatten();
    let is_output = |rule: &Value| {
        entries().map(|entry| &entry["chain"]).any(|chain| {
            let same = ["family", "table"].iter().all(|key| chain[key] == rule[key]);
            same && chain["name"] == rule["chain"] && chain["hook"] == "output"
        })
    };
    let rules = entries().map(|entry| &entry["rule"]).filter(|rule| rule.is_object() && is_output(rule));
    let finding = |rule: &Value| {
        let hit = backends.iter().find(|backend| drops(rule, **backend))?;
        let word = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        let (family, table, chain) = (word("family"), word("table"), word("chain"));
        Some(Finding::new(
            "firewall",
            format!(
                "a rule of the firewall drops what this host sends to backend {hit} (chain {chain} of {family} {table}), \
                 including its health checks"
            ),
            format!("nft delete rule {family} {table} {chain} handle {}", rule["handle"]),
        ))
    };
    rules.filter_map(finding).collect()
}

/// Whether a rule drops TCP to this backend, as far as all of its conditions are known here.
fn drops(rule: &Value, backend: SocketAddr) -> bool {
    let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_verdict = |statement: &Value| statement.get("drop").is_some() || statement.get("reject").is_some();
    let is_harmless = |statement: &Value| ["counter", "log"].iter().any(|key| statement.get(*key).is_some());
    statements.iter().any(is_verdict)
        && statements.iter().all(|statement| {
            is_verdict(statement) || is_harmless(statement) || matches(&statement["match"], backend)
        })
}

fn matches(condition: &Value, backend: SocketAddr) -> bool {
    if condition["op"] != "==" {
        return false;
    }
    let (field, right) = (&condition["left"], &condition["right"]);
    let payload = (field["payload"]["protocol"].as_str(), field["payload"]["field"].as_str());
    match payload {
        (Some("ip" | "ip6"), Some("daddr")) => any(right, |value| is_in(value, backend.ip())),
        (Some("tcp" | "th"), Some("dport")) => any(right, |value| {
            value.as_u64() == Some(backend.port().into()) || is_between(value, backend.port())
        }),
        (Some("ip"), Some("protocol")) | (Some("ip6"), Some("nexthdr")) => any(right, |value| value == "tcp"),
        _ if field["meta"]["key"] == "l4proto" => any(right, |value| value == "tcp"),
        _ => false,
    }
}

/// Whether one value is it, or one of a set.
fn any(right: &Value, is_it: impl Fn(&Value) -> bool) -> bool {
    match right["set"].as_array() {
        Some(values) => values.iter().any(is_it),
        None => is_it(right),
    }
}

fn is_between(value: &Value, port: u16) -> bool {
    let end = |number: usize| value["range"][number].as_u64();
    matches!((end(0), end(1)), (Some(first), Some(last)) if (first..=last).contains(&port.into()))
}

fn is_in(value: &Value, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let (network, length) = match (value.as_str(), value["prefix"]["addr"].as_str()) {
        (Some(one), _) => (one, None),
        (None, Some(network)) => (network, value["prefix"]["len"].as_u64()),
        _ => return false,
    };
    let Ok(network) = network.parse::<IpAddr>() else { return false };
    let ((one, whole), (other, other_whole)) = (bits(address), bits(network));
    let length = length.map_or(whole, |length| length as u32);
    let differs = (one ^ other).checked_shr(whole.saturating_sub(length)).unwrap_or(0);
    whole == other_whole && differs == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(expressions: Value) -> Vec<String> {
        let ruleset = json!({"nftables": [
            {"chain": {"family": "inet", "table": "filter", "name": "out", "hook": "output", "policy": "accept"}},
            {"chain": {"family": "inet", "table": "filter", "name": "in", "hook": "input", "policy": "accept"}},
            {"rule": {"family": "inet", "table": "filter", "chain": "out", "handle": 7, "expr": expressions}},
            {"rule": {"family": "inet", "table": "filter", "chain": "in", "handle": 8, "expr": [{"drop": null}]}},
        ]});
        let backends = ["198.51.100.11:8080".parse().unwrap(), "[2001:db8::11]:8080".parse().unwrap()];
        dropping(&ruleset, &backends).into_iter().map(|finding| finding.fix).collect()
    }

    fn to(protocol: &str, field: &str, right: Value) -> Value {
        json!({"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}})
    }

    #[test]
    fn a_rule_that_drops_packets_to_a_backend_is_found_with_the_command_that_deletes_it() {
        let fix = vec!["nft delete rule inet filter out handle 7".to_owned()];
        let drop = json!({"drop": null});
        for condition in [
            to("ip", "daddr", json!("198.51.100.11")),
            to("ip", "daddr", json!({"prefix": {"addr": "198.51.100.0", "len": 24}})),
            to("ip6", "daddr", json!({"set": ["2001:db8::9", "2001:db8::11"]})),
            to("tcp", "dport", json!(8080)),
            to("tcp", "dport", json!({"range": [8000, 8100]})),
        ] {
            assert_eq!(found(json!([condition, {"counter": {}}, drop])), fix, "{condition}");
        }
        assert_eq!(found(json!([{"reject": {"type": "tcp reset"}}])), fix, "everything");
        for condition in [
            to("ip", "daddr", json!("198.51.100.12")),
            to("tcp", "dport", json!(80)),
            to("udp", "dport", json!(8080)),
            json!({"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "198.51.100.11"}}),
            json!({"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": 1000}}),
        ] {
            assert_eq!(found(json!([condition, drop])), Vec::<String>::new(), "{condition}");
        }
        assert_eq!(found(json!([to("tcp", "dport", json!(8080)), {"accept": null}])), Vec::<String>::new());
    }
}
